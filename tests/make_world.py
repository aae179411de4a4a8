"""Prepares the digits of ../shared/world, by people outside the USA, to MNIST's form, as a second training set.

    python tests/make_world.py ../shared/world

writes to data/ two pairs of gzipped IDX files like MNIST's own, world-train-images-idx3-ubyte.gz, 28x28 bytes a digit,
0 = paper .. 255 = ink, world-train-labels-idx1-ubyte.gz, and the same with t10k, whose writers are in no training part,
and world-t10k-sets-idx1-ubyte.gz, the number in SETS of each test digit's set.  Every digit goes through the app's own
preparation, as a photo of it would; pen strokes are drawn first.  The same folder gives the same bytes again.
"""

import argparse
import gzip
import multiprocessing
import os
import runpy
import sys
from collections import namedtuple
from pathlib import Path

# The sums are tiny and there is a process for each core: more threads would wait for each other, four times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np  # noqa: E402  (it reads that when it is imported)
from PIL import Image, ImageDraw, ImageOps  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import mnist_app  # noqa: E402
from mnist_app import PictureError  # noqa: E402
from mnist_forward import IMAGE_SIDE  # noqa: E402

SETS = ("swiss", "unipen-1a", "uji-penchars2-digits", "pendigits", "semeion", "optdigits")
SEED = 1  # of the pens' widths, semeion's, the digits that a cap keeps and the order of the training digits
# Every sixth writer of a set, from the second on in the order of their names, is for the test: 17 to 21 % of each set.
FIRST_TEST_WRITER = 1
TEST_EVERY = 6
# These sets don't tell their writers apart.  Of optdigits the group `opt-windep` is by 13 people who wrote nothing of
# the other three groups, which 30 people share; semeion is in one piece.
WHOLE_SETS = {"optdigits": {"opt-windep"}, "semeion": set()}
MOST_OF_WRITER = 600  # training digits: the hand of one writer, gmd-kast, would else be a fifth of its set
# What is drawn or scaled, in pixels and in shares of the digit's height.
DRAWN_HEIGHT = 80
FINER = 4  # drawn at so many times that size, and reduced, so that edges are soft
PAPER = 0.35  # on every side
PEN = (0.07, 0.13)
SEMEION_WIDTH = {1: (0.4, 0.7)}  # it was stretched to a square: widths to choose from, of the height
SEMEION_WIDTH_ELSE = (0.6, 0.8)

Sample = namedtuple("Sample", "group writer label form number")  # form: a Pillow image, or strokes


def read_world(folder):
    """A list of Sample of all digits that are used, in the order of the folder's own `world.py`."""
    world = runpy.run_path(str(folder / "world.py"))
    samples = []
    for number, (group, writer, label, form) in enumerate(world["read"]()):
        # Its plain 1s are solid blocks, which no pen wrote.
        if group == "optdigits" and label == 1:
            continue
        samples.append(Sample(group, writer, label, form, number))
    return samples


def draw(strokes, width):
    """Strokes, lists of [x, y], y downwards, as dark ink on white, a Pillow image of mode L; `width` is the round
    pen's, in digit heights."""
    points = np.concatenate([np.reshape(stroke, (-1, 2)) for stroke in strokes])
    low = points.min(axis=0)
    size = np.ptp(points, axis=0)
    # A flat digit is no higher than its width allows.
    scale = FINER * DRAWN_HEIGHT / max(size[1], size[0] / 1.5, 1)
    margin = FINER * DRAWN_HEIGHT * PAPER
    image = Image.new("L", [round(side * scale + 2 * margin) for side in size], "white")
    pen = ImageDraw.Draw(image)
    radius = width * FINER * DRAWN_HEIGHT / 2
    for stroke in strokes:
        line = ((np.reshape(stroke, (-1, 2)) - low) * scale + margin).tolist()
        pen.line([tuple(point) for point in line], "black", round(2 * radius))
        # Round ends and joints: Pillow's lines are cut off square.
        for x, y in line:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), "black")
    return image.reduce(FINER)


def narrow(image, label, rng):
    """A 16x16 picture of semeion, which was stretched to a square, at a likely width, with paper round it."""
    share = rng.uniform(*SEMEION_WIDTH.get(label, SEMEION_WIDTH_ELSE))
    image = image.resize((round(DRAWN_HEIGHT * share), DRAWN_HEIGHT), Image.Resampling.BICUBIC)
    return ImageOps.expand(image, round(DRAWN_HEIGHT * PAPER), "white")


def find_largest(image):
    """The largest digit that the app finds in a Pillow image of mode L, float32 [784]; PictureError where none is."""
    grey = np.asarray(image, np.float32) / 255
    pixels, boxes = mnist_app.find_digits(np.stack([grey, grey, grey], axis=2))[:2]
    sizes = boxes[:, 2:] - boxes[:, :2]
    return pixels[sizes.prod(axis=1).argmax()]


def prepare(sample):
    """The digit of a Sample in MNIST's form, uint8 [784], 0 = paper .. 255 = ink; None where the app finds no digit."""
    # Numbers of its own for each digit, whichever process prepares it.
    rng = np.random.default_rng([SEED, sample.number])
    image = sample.form
    if isinstance(image, list):
        image = draw(image, rng.uniform(*PEN))
    elif sample.group == "semeion":
        image = narrow(image, sample.label, rng)
    try:
        pixels = find_largest(image)
    except PictureError:
        return None
    return np.rint(pixels * 255).astype(np.uint8)


def split_writers(samples):
    """The (set, writer) pairs of all samples that are for the test, as a set."""
    writers = {}
    for sample in samples:
        writers.setdefault(sample.group, set()).add(sample.writer)
    chosen = set()
    for group, names in writers.items():
        for_test = WHOLE_SETS.get(group, sorted(names)[FIRST_TEST_WRITER::TEST_EVERY])
        chosen |= {(group, name) for name in for_test}
    return chosen


def cap_writers(samples, rng):
    """The samples without those of a hand that are more than MOST_OF_WRITER; sets of unknown writers stay whole."""
    by_writer = {}
    for sample in samples:
        by_writer.setdefault((sample.group, sample.writer), []).append(sample)
    kept = []
    for (group, _), own in by_writer.items():
        if group not in WHOLE_SETS:
            own = [own[i] for i in rng.permutation(len(own))[:MOST_OF_WRITER]]
        kept += own
    return kept


def prepare_all(samples):
    """(samples, pictures): those in which the app finds a digit, and their pictures, uint8 [n, 784]."""
    with multiprocessing.Pool() as pool:
        pictures = pool.map(prepare, samples, chunksize=50)
    found = [i for i, picture in enumerate(pictures) if picture is not None]
    return [samples[i] for i in found], np.stack([pictures[i] for i in found])


def write_idx(path, values):
    """Write values, uint8, as a gzipped IDX file without name and time, so that the same values make the same bytes."""
    magic = np.array([0x800 + values.ndim, *values.shape], ">u4")
    path.write_bytes(gzip.compress(magic.tobytes() + values.tobytes(), compresslevel=9, mtime=0))
    print(f"{path}: {len(values)} values, {path.stat().st_size} bytes")


def write_part(data, prefix, samples, pictures):
    """Write the IDX pair of one part, and for the test the sets, to the folder `data`; pictures are uint8 [n, 784]."""
    write_idx(data / f"{prefix}-images-idx3-ubyte.gz", pictures.reshape(-1, IMAGE_SIDE, IMAGE_SIDE))
    write_idx(data / f"{prefix}-labels-idx1-ubyte.gz", np.array([sample.label for sample in samples], np.uint8))
    if prefix.endswith("t10k"):
        groups = [SETS.index(sample.group) for sample in samples]
        write_idx(data / f"{prefix}-sets-idx1-ubyte.gz", np.array(groups, np.uint8))


def print_table(train, test, kept_train, kept_test):
    """Print of each set its writers and digits in both parts, and in how many the app found no digit."""
    print(f"{'set':22}{'writers: train':>16}{'test':>6}{'digits: train':>16}{'test':>7}{'dropped':>9}")
    for group in SETS:
        writers = [len({sample.writer for sample in part if sample.group == group}) for part in (train, test)]
        digits = [sum(sample.group == group for sample in part) for part in (kept_train, kept_test)]
        dropped = sum(sample.group == group for sample in train + test) - sum(digits)
        print(f"{group:22}{writers[0]:16}{writers[1]:6}{digits[0]:16}{digits[1]:7}{dropped:9}")
    print(f"{'all':22}{'':22}{len(kept_train):16}{len(kept_test):7}{len(train + test) - len(kept_train + kept_test):9}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", type=Path, help="folder of world.py and what it reads")
    parser.add_argument("--data", type=Path, default=HERE.parent / "data", help="folder to write to (%(default)s)")
    args = parser.parse_args()
    samples = read_world(args.world)
    for_test = split_writers(samples)
    rng = np.random.default_rng(SEED)
    train = [sample for sample in samples if (sample.group, sample.writer) not in for_test]
    train = cap_writers(train, rng)
    train = [train[i] for i in rng.permutation(len(train))]
    test = [sample for sample in samples if (sample.group, sample.writer) in for_test]
    kept_train, train_pictures = prepare_all(train)
    kept_test, test_pictures = prepare_all(test)
    args.data.mkdir(parents=True, exist_ok=True)
    write_part(args.data, "world-train", kept_train, train_pictures)
    write_part(args.data, "world-t10k", kept_test, test_pictures)
    print_table(train, test, kept_train, kept_test)


if __name__ == "__main__":
    main()
