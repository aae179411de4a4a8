"""kill -9 at random moments of one training: `python tests/long_kills.py` (50 kills, about ten minutes).

After each kill the newest whole checkpoint is no older than the last one announced, the next run goes on from it, and
the accuracy in the end is that of an unbroken training.
"""

import argparse
import random
import re
import tempfile
import time
from pathlib import Path

from conftest import run, start

import mnist_forward

SAVE_EVERY = 100


def newest_step(model):
    paths = mnist_forward.list_checkpoints(model)
    return mnist_forward.get_step(paths[0]) if paths else 0


def options(data, model, steps):
    return ["--data", data, "--model", model, "--steps", steps, "--save_every", SAVE_EVERY]


def kill_one(data, model, steps, seconds):
    """Start the trainer, kill it after so many seconds; returns what went wrong, a list of sentences."""
    before = newest_step(model)
    process = start("mnist_backward.py", *options(data, model, steps))
    time.sleep(seconds)
    process.kill()
    said, _ = process.communicate()
    wrong = []
    if "Traceback" in said:
        wrong.append(said)
    going_on = re.search(r"step (\d+) of", said)
    if going_on and int(going_on[1]) != before:
        wrong.append(f"went on from {going_on[1]}, the newest was {before}")
    announced = [int(step) for step in re.findall(r"After (\d+) training step\(s\), loss", said)]
    if announced and newest_step(model) < announced[-1] - SAVE_EVERY:
        wrong.append(f"announced step {announced[-1]}, stored {newest_step(model)}")
    return wrong


def accuracy(said):
    return float(re.search(r"test accuracy = ([\d.]+)", said)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=40000)
    parser.add_argument("--data", type=Path, default=mnist_forward.DATA_PATH)
    args = parser.parse_args()
    random.seed(1)
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        for kill in range(args.kills):
            wrong += kill_one(args.data, model, args.steps, random.uniform(0, 12))
            print(f"kill {kill + 1} of {args.kills}: step {newest_step(model)}, {len(wrong)} failures", flush=True)
        killed = accuracy(run("mnist_backward.py", *options(args.data, model, args.steps), timeout=None))
        whole = accuracy(
            run("mnist_backward.py", *options(args.data, Path(folder) / "whole", args.steps), timeout=None)
        )
        print(f"test accuracy {killed} after {args.kills} kills, {whole} unbroken")
        if round(abs(killed - whole), 4) > 0.001:  # of 10,000 pictures: a tenth of a point is ten of them
            wrong.append("the accuracies differ by more than 0.1 points")
    print(f"{args.kills} kills, {len(wrong)} failed", *wrong, sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
