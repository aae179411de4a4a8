"""A training on several machines: a parameter server, a chief and a worker, as processes that talk over loopback."""

import json
import os
import socket
import subprocess
import sys

import pytest
from conftest import TIMEOUT, command

import mnist_backward
import mnist_forward
import mnist_generateds
from mnist_forward import tf

STEPS = 2000  # so many that the chief is not done before it is killed
SAVE_EVERY = 100


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def machine(data, tmp_path):
    """Start the machine of a type, "ps", "chief" or "worker", of a cluster; it ends with the test."""
    cluster = {job: [f"127.0.0.1:{port}"] for job, port in zip(("ps", "chief", "worker"), free_ports(3), strict=True)}
    started = []

    def start(job):
        config = {"cluster": cluster, "task": {"type": job, "index": 0}}
        options = ["--data", data, "--model", tmp_path / "model", "--steps", STEPS, "--save_every", SAVE_EVERY]
        process = subprocess.Popen(
            command("mnist_backward.py", *options),
            env={**os.environ, "TF_CONFIG": json.dumps(config)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def read_until(process, text):
    lines = []
    while not lines or text not in lines[-1]:
        line = process.stdout.readline()
        assert line, "".join(lines)
        lines.append(line)
    return "".join(lines)


def test_chief_and_worker_are_killed_started_again_and_reach_the_last_step(machine, data, tmp_path):
    model = tmp_path / "model"
    machine("ps")
    chief = machine("chief")
    read_until(chief, f"After {SAVE_EVERY}")
    worker = machine("worker")
    read_until(worker, "training step(s), loss")
    worker.kill()
    worker = machine("worker")
    read_until(worker, "training step(s), loss")
    chief.kill()
    chief.communicate()
    saved = mnist_forward.get_step(mnist_forward.list_checkpoints(model)[0])
    assert SAVE_EVERY <= saved < STEPS
    chief = machine("chief")
    said = read_until(chief, "Going on from")
    assert f"step {saved} of {STEPS}" in said, "no more than the interval since the last checkpoint is lost"
    rest, _ = chief.communicate(timeout=TIMEOUT)
    assert chief.returncode == 0, rest
    assert f"After {STEPS} training step(s), test accuracy = 0.9" in rest
    assert mnist_forward.get_step(mnist_forward.list_checkpoints(model)[0]) == STEPS
    said, _ = worker.communicate(timeout=TIMEOUT)
    assert worker.returncode == 0, said


@pytest.mark.parametrize(("job", "index", "task"), [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)])
def test_each_machine_reads_its_own_share_with_random_numbers_of_its_own(monkeypatch, job, index, task):
    class BuiltError(Exception):
        """Ends the machine where it has begun to build its graph."""

    def build(_args, *share):
        raise BuiltError(share)

    addresses = {"ps": ["h:1"], "chief": ["h:2"], "worker": ["h:3", "h:4"]}
    machine = mnist_backward.Machine(tf.train.ClusterSpec(addresses), job, index)
    monkeypatch.setattr(tf.train, "Server", lambda *_: None)
    monkeypatch.setattr(mnist_backward, "build_training_graph", build)
    with pytest.raises(BuiltError) as built:
        mnist_backward.backward_in_cluster(None, machine)
    assert built.value.args == ((task, 3),)


def test_a_machine_s_share_reaches_the_queue(monkeypatch, data):
    given = []
    read = mnist_generateds.get_tfrecord
    monkeypatch.setattr(mnist_generateds, "get_tfrecord", lambda *a, **k: given.append(k) or read(*a, **k))
    monkeypatch.setattr(sys, "argv", ["mnist_backward.py", "--data", str(data), "--model", str(data)])
    with tf.Graph().as_default():
        mnist_backward.build_training_graph(mnist_backward.parse_arguments(), 1, 3)
    assert (given[0]["task"], given[0]["tasks"]) == (1, 3)
