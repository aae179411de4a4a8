"""Polls beside a trainer that saves at every step: `python tests/long_polls.py` (1,000 polls, some minutes).

Judge and app restore the newest checkpoint again and again while the trainer replaces it; none may fail or complain.
"""

import argparse
import contextlib
import io
import subprocess
import tempfile
from pathlib import Path

from conftest import command, mnist, write_small_data

import mnist_app
import mnist_forward
import mnist_test
from mnist_forward import tf


def poll(data, model, count):
    """Judge the newest checkpoint `count` times, and read it as the app does every tenth time: a list of complaints."""
    complaints = []
    with tf.Graph().as_default():
        graph = mnist_test.judging_graph(data)
        for i in range(count):
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    mnist_test.judge(model, *graph)
                    if i % 10 == 0:
                        mnist_app.restored.__wrapped__(model)
            except Exception as error:
                complaints.append(f"poll {i}: {error!r}")
            if said.getvalue():
                complaints.append(f"poll {i}: {said.getvalue()}")
    return complaints


def poll_beside_trainer(data, model, count):
    options = ["--data", data, "--model", model, "--steps", 10**7, "--save_every", 1]
    process = subprocess.Popen(command("mnist_backward.py", *options), stdout=subprocess.DEVNULL)
    try:
        while not mnist_forward.checkpoints(model):
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
