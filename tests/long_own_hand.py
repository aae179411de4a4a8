"""What is gained by showing the network one's hand: `python tests/long_own_hand.py ../shared/world MODEL ...`.

README's section "When it misreads your handwriting" gives the figures (three networks, 10 minutes).
Six writers of the world's test part, whom no network was trained on, show their hand: of each, ten digits of each class
are added to the training records, and each of the trained MODEL folders is trained on by README's command.  Printed is
how many of the writer's other digits the app misreads before and after, and MNIST's test accuracy.
"""

import argparse
import re
import shutil
import tempfile
from pathlib import Path

import make_world
import numpy as np
from conftest import run
from PIL import Image

import mnist_app
from mnist_forward import DATA_PATH, IMAGE_SIDE

WRITERS = 6  # those with the most digits
ADDED = 10  # of each class
SEED = 1  # of the choice of the digits that are added
ON = ["--steps", 66000, "--from_step", 60000, "--learning_rate", 0.03, "--distortions", 0.6]


def read_writers(world):
    """{(set, writer): (pictures uint8 [n, 784], labels int [n])} of the WRITERS test writers with the most digits."""
    samples = make_world.read_world(world)
    for_test = make_world.split_writers(samples)
    by_writer = {}
    for sample in samples:
        key = sample.group, sample.writer
        # The sets whose writers are not told apart have no hand to show.
        if key in for_test and sample.group not in make_world.WHOLE_SETS:
            by_writer.setdefault(key, []).append(sample)
    most = sorted(by_writer, key=lambda key: (-len(by_writer[key]), key))[:WRITERS]
    writers = {}
    for key in most:
        kept, pictures = make_world.prepare_all(by_writer[key])
        writers[key] = pictures, np.array([sample.label for sample in kept])
    return writers


def choose_added(labels):
    """Which digits of a writer are added, bool [n]: ADDED of each class."""
    rng = np.random.default_rng(SEED)
    added = np.zeros(len(labels), bool)
    for digit in range(10):
        added[rng.permutation(np.flatnonzero(labels == digit))[:ADDED]] = True
    return added


def save_added(pictures, labels, folder):
    """Write pictures, uint8 [n, 784], to a sub-folder for each class."""
    for number, (pixels, label) in enumerate(zip(pictures, labels, strict=True)):
        path = folder / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.reshape(IMAGE_SIDE, IMAGE_SIDE)).save(path)


def count_errors(model, pictures, labels):
    """How many of the pictures, uint8 [n, 784], the app misreads."""
    guesses = mnist_app.restore_model(pictures / np.float32(255), model).guesses
    likeliest = np.array([int(of_one_digit[0][0]) for of_one_digit in guesses])
    return int((likeliest != labels).sum())


def read_accuracy(said):
    return 100 * float(re.findall(r"test accuracy = ([\d.]+)", said)[-1])


def train_on(model, data, folder):
    """A copy of a trained model, trained on: (its folder, MNIST's test accuracy before and after in per cent)."""
    own_model = folder / "model"
    shutil.rmtree(own_model, ignore_errors=True)
    shutil.copytree(model, own_model)
    before = read_accuracy(run("mnist_test.py", "--data", data, "--model", own_model, "--once"))
    after = read_accuracy(run("mnist_backward.py", "--data", data, "--model", own_model, *ON))
    return own_model, before, after


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", type=Path, help="folder of world.py and what it reads")
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="folder of a network of 60,000 steps")
    args = parser.parse_args()
    errors = np.zeros([len(args.models), 2], int)
    falls = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data = folder / "data"
        shutil.copytree(DATA_PATH, data, ignore=shutil.ignore_patterns("*.tfrecords*"))
        for writer, (pictures, labels) in read_writers(args.world).items():
            added = choose_added(labels)
            own = folder / "-".join(writer)
            save_added(pictures[added], labels[added], own)
            run("mnist_generateds.py", "--data", data, "--add", own)
            others = pictures[~added], labels[~added]
            for number, model in enumerate(args.models):
                own_model, before, after = train_on(model, data, folder)
                counts = [count_errors(model, *others), count_errors(own_model, *others)]
                mnist_app._restored_network.cache_clear()
                errors[number] += counts
                falls.append(before - after)
                print(*writer, model, f"of {len(others[1])} misread: {counts[0]}, then {counts[1]};", end=" ")
                print(f"MNIST {before:.2f} %, then {after:.2f} %", flush=True)
    for model, (before, after) in zip(args.models, errors.tolist(), strict=True):
        print(f"{model}: {before} misread, then {after}: {1 - after / before:.0%} fewer")
    print(f"MNIST's test accuracy fell by {np.mean(falls):.3f} points on average")


if __name__ == "__main__":
    main()
