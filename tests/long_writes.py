"""kill -9 at random moments of writing the records: `python tests/long_writes.py` (20 kills, about two minutes).

A file under its final name must always be whole.
"""

import argparse
import random
import subprocess
import tempfile
import time
from pathlib import Path

from conftest import TEST_RECORDS, TRAIN_RECORDS, command

from mnist_forward import DATA_PATH, UserError
from mnist_generateds import count_records

LONGEST = 4  # seconds that writing both files takes, and some more


def kills(count, seed):
    """Kill the writer `count` times; returns what went wrong, a list of sentences."""
    moments = random.Random(seed)
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        for source in DATA_PATH.glob("*.gz"):
            (data / source.name).symlink_to(source)
        for kill in range(count):
            process = subprocess.Popen(command("mnist_generateds.py", "--data", data), stdout=subprocess.DEVNULL)
            while not (data / f"{TRAIN_RECORDS}.part").exists() and not (data / TRAIN_RECORDS).exists():
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(moments.uniform(0, LONGEST))
            process.kill()
            process.wait()
            for name, whole in ((TRAIN_RECORDS, 81235), (TEST_RECORDS, 10000)):
                path = data / name
                try:
                    if path.exists() and count_records(path) != whole:
                        wrong.append(f"kill {kill}: {name} is not whole")
                except UserError as error:
                    wrong.append(f"kill {kill}: {error}")
                path.unlink(missing_ok=True)
                path.with_name(f"{name}.part").unlink(missing_ok=True)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()
    wrong = kills(args.kills, seed=1)
    print(f"{args.kills} kills, {len(wrong)} failed", *wrong, sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
