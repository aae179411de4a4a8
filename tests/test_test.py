"""The judge: its accuracy against numpy, its patience, its quiet end."""

import shutil
import signal

import numpy as np
from conftest import TEST, run, start

import mnist_forward
from mnist_forward import tf


def accuracy_in_numpy(checkpoint, images, labels):
    w1, b1, w2, b2 = (
        tf.train.load_variable(checkpoint, f"{name}/ExponentialMovingAverage")
        for name in ("Variable", "Variable_1", "Variable_2", "Variable_3")
    )
    x = images.reshape(-1, 784).astype("f") / 255
    return ((np.maximum(x @ w1 + b1, 0) @ w2 + b2).argmax(1) == labels).mean()


def test_accuracy_equals_the_same_weights_in_numpy(data, model, digits):
    (_, (images, labels)) = digits
    accuracy = accuracy_in_numpy(str(model / "mnist_model-600"), images[:TEST], labels[:TEST])
    assert accuracy > 0.85
    said = run("mnist_test.py", "--data", data, "--model", model, "--once")
    assert said == f"After 600 training step(s), test accuracy = {accuracy:g}\n"


def test_no_checkpoint_is_said_with_the_cure(data, tmp_path):
    said = run("mnist_test.py", "--data", data, "--model", tmp_path, "--once", status=1)
    assert "holds no checkpoint: run mnist_backward.py first" in said


def test_it_waits_judges_each_checkpoint_once_and_ends_quietly(data, model, tmp_path):
    watched = tmp_path / "model"
    process = start("mnist_test.py", "--data", data, "--model", watched)
    assert "waiting for mnist_backward.py" in process.stdout.readline()
    shutil.copytree(model, tmp_path / "copy")
    (tmp_path / "copy").rename(watched)
    assert process.stdout.readline().startswith("After 600 training step(s), test accuracy = ")
    # Each is judged once: the next line comes only when another checkpoint is named as the newest.
    state = watched / "checkpoint"
    state.with_suffix(".part").write_text('model_checkpoint_path: "mnist_model-400"\n')
    state.with_suffix(".part").rename(state)
    assert process.stdout.readline().startswith("After 400 training step(s), test accuracy = ")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert said == ""
    assert process.returncode == 130


def test_a_checkpoint_deleted_before_it_is_read_is_no_error(data, model, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(model, tmp_path / "copy")
    listed = mnist_forward.checkpoints(copy)
    for path in copy.glob("mnist_model-600.*"):
        path.unlink()
    answers = iter([listed])
    real = mnist_forward.checkpoints
    monkeypatch.setattr(mnist_forward, "checkpoints", lambda folder: next(answers, None) or real(folder))
    with tf.Graph().as_default(), tf.Session() as sess:
        mnist_forward.forward(tf.zeros([1, 784]), None)
        variables = mnist_forward.averaged_variables()
        path = mnist_forward.restore_newest(sess, tf.train.Saver(variables), variables, copy)
    assert mnist_forward.stored_step(path) == 400
    assert capsys.readouterr().err == "", "no damage is reported"
