"""The judge: its accuracy against numpy, its patience, its quiet end."""

import shutil
import signal
import types

import long_polls
import numpy as np
import pytest
from conftest import TEST, restore_newest, run, start
from PIL import Image

import mnist_forward
import mnist_test
from mnist_forward import UserError, tf


def accuracy_in_numpy(checkpoint, images, labels):
    w1, b1, w2, b2 = (
        tf.train.load_variable(checkpoint, f"{name}/ExponentialMovingAverage")
        for name in ("Variable", "Variable_1", "Variable_2", "Variable_3")
    )
    x = images.reshape(-1, 784).astype("f") / 255
    return ((np.maximum(x @ w1 + b1, 0) @ w2 + b2).argmax(1) == labels).mean()


def event_tags(folder):
    """What the event files in the folder hold, by name."""
    events = [event for path in folder.glob("events.*") for event in tf.train.summary_iterator(str(path))]
    tags = {value.tag for event in events for value in event.summary.value}
    return tags | {"graph" for event in events if event.graph_def}


def test_tensorboard_finds_the_training_in_the_model_folder(model):
    scalars = {"loss", "learning_rate", "pictures_per_second", "queue_fill"}
    assert event_tags(model) >= scalars | {"graph", "pictures/image/0"}


def test_accuracy_and_confusion_equal_the_same_weights_in_numpy(data, model, digits, tmp_path):
    (_, (images, labels)) = digits
    accuracy = accuracy_in_numpy(str(model / "mnist_model-600"), images[:TEST], labels[:TEST])
    assert accuracy > 0.85
    look = tmp_path / "look"
    said = run("mnist_test.py", "--data", data, "--model", model, "--once", "--look", look)
    assert said == f"After 600 training step(s), test accuracy = {accuracy:g}\n"

    table = [line.split() for line in (look / "confusion.txt").read_text().splitlines()]
    assert table[0][1:] == [row[0] for row in table[1:]] == [str(digit) for digit in range(10)]
    matrix = np.array([row[1:] for row in table[1:]], int)
    np.testing.assert_array_equal(matrix.sum(1), np.bincount(labels[:TEST]))
    assert np.trace(matrix) == round(accuracy * TEST)
    with Image.open(look / "confusion.png") as picture, Image.open(look / "wrong.png") as wrong:
        assert picture.size[0] > 10 * 50
        assert wrong.size[1] // 130 == -(-(TEST - np.trace(matrix)) // 10), "every wrong one, ten in a row"

    assert "accuracy" in event_tags(model / "test")


def test_no_checkpoint_is_said_with_the_cure(data, tmp_path):
    with pytest.raises(UserError, match=r"holds no checkpoint: run mnist_backward\.py first"):
        mnist_test.test(tmp_path, data, once=True)


def test_it_waits_judges_what_is_new_and_ends_quietly(data, model, tmp_path):
    watched = tmp_path / "model"
    process = start("mnist_test.py", "--data", data, "--model", watched)
    assert "waiting for mnist_backward.py" in process.stdout.readline()
    shutil.copytree(model, tmp_path / "copy")
    (tmp_path / "copy").rename(watched)
    assert process.stdout.readline().startswith("After 600 training step(s), test accuracy = ")
    state = watched / "checkpoint"
    state.with_suffix(".part").write_text('model_checkpoint_path: "mnist_model-400"\n')
    state.with_suffix(".part").rename(state)
    assert process.stdout.readline().startswith("After 400 training step(s), test accuracy = ")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert said == ""
    assert process.returncode == 130


def test_a_checkpoint_is_judged_only_once(data, model, monkeypatch, capsys):
    polls = iter(range(2))
    monkeypatch.setattr(mnist_test, "time", types.SimpleNamespace(sleep=lambda _: next(polls)))
    with pytest.raises(StopIteration):  # in the third poll
        mnist_test.test(model, data)
    assert capsys.readouterr().out.count("test accuracy") == 1


def test_a_step_that_was_trained_anew_is_judged_again(data, model, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(model, tmp_path / "copy")
    steps = iter([400, 600])

    def instead_of_sleeping(_seconds):
        (copy / "checkpoint").write_text(f'model_checkpoint_path: "mnist_model-{next(steps)}"\n')

    monkeypatch.setattr(mnist_test, "time", types.SimpleNamespace(sleep=instead_of_sleeping))
    with pytest.raises(StopIteration):
        mnist_test.test(copy, data)
    said = capsys.readouterr().out
    assert said.count("After 600 training") == 2 and said.count("After 400 training") == 1


def test_a_checkpoint_deleted_before_it_is_read_is_no_error(data, model, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(model, tmp_path / "copy")
    listed = mnist_forward.list_checkpoints(copy)
    for path in copy.glob("mnist_model-600.*"):
        path.unlink()
    answers = iter([listed])
    real = mnist_forward.list_checkpoints
    monkeypatch.setattr(mnist_forward, "list_checkpoints", lambda folder: next(answers, None) or real(folder))
    with tf.Graph().as_default(), tf.Session() as sess:
        mnist_forward.forward(tf.zeros([1, 784]), None)
        path = restore_newest(sess, copy)
    assert mnist_forward.get_step(path) == 400
    assert capsys.readouterr().err == "", "no damage is reported"


def test_polls_beside_a_trainer_that_saves_at_every_step(data, tmp_path):
    assert long_polls.poll_beside_trainer(data, tmp_path, 40) == []
