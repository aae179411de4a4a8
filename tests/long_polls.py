"""Polls beside a trainer that saves at every step: `python tests/long_polls.py` (1,000 polls, some minutes).

mnist_test.py and mnist_app.py restore the newest checkpoint again and again while the trainer replaces it; none may
fail or complain.
"""

import argparse
import contextlib
import io
import itertools
import subprocess
import tempfile
import types
from pathlib import Path
from unittest import mock

from conftest import command, mnist, write_small_data

import mnist_app
import mnist_forward
import mnist_test


class EnoughError(Exception):
    """Ends the polling."""


def poll(data, model, count):
    """Let mnist_test.py poll `count` times without a pause, and the app restore every tenth time: the complaints."""
    complaints, polls = [], itertools.count(1)

    def instead_of_sleeping(_seconds):
        number = next(polls)
        if number % 10 == 0:
            mnist_app._restored_network.__wrapped__(model)
        if number >= count:
            raise EnoughError

    said = io.StringIO()
    while True:
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(said),
                mock.patch("mnist_test.time", types.SimpleNamespace(sleep=instead_of_sleeping)),
            ):
                mnist_test.test(model, data)
        except EnoughError:
            return complaints + said.getvalue().splitlines()
        except Exception as error:
            complaints.append(repr(error))


def poll_beside_trainer(data, model, count):
    options = ["--data", data, "--model", model, "--steps", 10**7, "--save_every", 1]
    process = subprocess.Popen(command("mnist_backward.py", *options), stdout=subprocess.DEVNULL)
    try:
        while not mnist_forward.list_checkpoints(model):
            assert process.poll() is None
        return poll(data, model, count)
    finally:
        process.kill()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--polls", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as data, tempfile.TemporaryDirectory() as model:
        complaints = poll_beside_trainer(write_small_data(Path(data), mnist()), Path(model), args.polls)
    print(f"{args.polls} polls, {len(complaints)} failed", *complaints[:20], sep="\n")
    return bool(complaints)


if __name__ == "__main__":
    raise SystemExit(main())
