"""mnist_test.py: its accuracy against numpy, its patience, its quiet end."""

import os
import shutil
import signal
import types

import long_polls
import numpy as np
import pytest
from conftest import TEST, TIMEOUT, restore_newest, run, start
from PIL import Image

import mnist_app
import mnist_forward
import mnist_test
from mnist_forward import UserError, tf


def scores_in_numpy(checkpoint, images):
    w1, b1, w2, b2 = (
        tf.train.load_variable(checkpoint, f"{name}/ExponentialMovingAverage")
        for name in ("Variable", "Variable_1", "Variable_2", "Variable_3")
    )
    x = images.reshape(-1, 784).astype("f") / 255
    return np.maximum(x @ w1 + b1, 0) @ w2 + b2


def accuracy_in_numpy(checkpoint, images, labels):
    return (scores_in_numpy(checkpoint, images).argmax(1) == labels).mean()


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


def test_the_confidence_is_the_probability_of_the_answer_right_or_wrong(data, model, digits, tmp_path, monkeypatch):
    (_, (images, _)) = digits
    kept = []
    monkeypatch.setattr(mnist_test, "save_look", lambda evaluation, *_: kept.append(evaluation))
    mnist_test.test(model, data, once=True, look_dir=tmp_path)
    exponentials = np.exp(scores_in_numpy(str(model / "mnist_model-600"), images[:TEST]))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(kept[0].confidence, probabilities.max(axis=1), rtol=1e-3)
    assert len(kept[0].mistaken) > 0, "some answers are wrong"


def test_no_checkpoint_is_said_with_the_cure(data, tmp_path):
    with pytest.raises(UserError, match=r"holds no checkpoint: run mnist_backward\.py first"):
        mnist_test.test(tmp_path, data, once=True)


def test_it_waits_evaluates_what_is_new_and_ends_quietly(data, model, tmp_path):
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
    said, _ = process.communicate(timeout=TIMEOUT)
    assert said == ""
    assert process.returncode == 130


def test_a_checkpoint_is_evaluated_only_once(data, model, monkeypatch, capsys):
    waited = []
    polls = iter(range(2))
    sleep = types.SimpleNamespace(sleep=lambda seconds: waited.append(seconds) or next(polls))
    monkeypatch.setattr(mnist_test, "time", sleep)
    with pytest.raises(StopIteration):  # in the third poll
        mnist_test.test(model, data)
    assert capsys.readouterr().out.count("test accuracy") == 1
    assert waited == [5, 5, 5]


def test_where_the_newest_is_damaged_the_one_before_is_evaluated_only_once(data, model, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "mnist_model-600.data-00000-of-00001").write_bytes(b"damaged")
    polls = iter(range(2))
    monkeypatch.setattr(mnist_test, "time", types.SimpleNamespace(sleep=lambda _: next(polls)))
    with pytest.raises(StopIteration):
        mnist_test.test(copy, data)
    assert capsys.readouterr().out.count("After 400 training step(s), test accuracy") == 1


def test_a_step_that_was_trained_anew_is_evaluated_again(data, model, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(model, tmp_path / "copy")
    changes = iter(
        [
            lambda: (copy / "checkpoint").write_text('model_checkpoint_path: "mnist_model-400"\n'),
            lambda: os.utime(copy / "mnist_model-400.index", (0, 0)),  # the same step, saved at another time
            lambda: None,
        ]
    )
    monkeypatch.setattr(mnist_test, "time", types.SimpleNamespace(sleep=lambda _seconds: next(changes)()))
    with pytest.raises(StopIteration):
        mnist_test.test(copy, data)
    said = capsys.readouterr().out
    assert said.count("After 600 training") == 1 and said.count("After 400 training") == 2


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


def test_the_averaged_weights_are_evaluated_not_the_last_ones(data, tmp_path, digits, monkeypatch, capsys):
    (_, (images, labels)) = digits
    rng = np.random.default_rng(1)
    shapes = [784, 500], [500], [500, 10], [10]
    with tf.Graph().as_default(), tf.Session() as sess:
        variables = [tf.Variable(rng.normal(0, 0.1, shape).astype("f")) for shape in shapes]
        averages = tf.train.ExponentialMovingAverage(0.0)
        average_op = averages.apply(variables)
        sess.run(tf.global_variables_initializer())
        sess.run(average_op)
        sess.run([variable.assign(-variable) for variable in variables])
        tf.train.Saver().save(sess, str(tmp_path / "mnist_model"), global_step=7)
    expected = accuracy_in_numpy(str(tmp_path / "mnist_model-7"), images[:TEST], labels[:TEST])
    evaluations = []
    monkeypatch.setattr(mnist_test, "save_look", lambda result, names, look_dir: evaluations.append(result))
    mnist_test.test(tmp_path, data, once=True, look_dir=tmp_path / "look")
    scores = scores_in_numpy(str(tmp_path / "mnist_model-7"), images[:TEST])
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    [result] = evaluations
    np.testing.assert_array_equal(result.truth, labels[:TEST])
    np.testing.assert_array_equal(result.answers, scores.argmax(1))
    np.testing.assert_allclose(result.confidence, probabilities.max(1), atol=1e-5)
    wrong = images[:TEST][scores.argmax(1) != labels[:TEST]]
    np.testing.assert_allclose(result.mistaken * 255, wrong.reshape(-1, 784), atol=1e-3)
    assert capsys.readouterr().out == f"After 7 training step(s), test accuracy = {expected:g}\n"
    [accuracy] = [
        (event.step, value.simple_value)
        for path in (tmp_path / "test").glob("events.*")
        for event in tf.train.summary_iterator(str(path))
        for value in event.summary.value
    ]
    assert accuracy == (7, pytest.approx(expected)), "TensorBoard shows it at its step"


@pytest.fixture
def captions(monkeypatch):
    """The texts that are drawn from now on, each with its ground, as [(text, ground), ...]."""
    captions = []

    def draw_text(text, width, size=13, ground="white"):
        captions.append((text, ground))
        return Image.new("RGB", (width, size), ground)

    for module in (mnist_app, mnist_test):
        monkeypatch.setattr(module, "draw_text", draw_text)
    return captions


def make_evaluation(pairs):
    """The Evaluation of these (truth, answer, confidence); each wrong picture is of one grey, its number by 255."""
    truth, answers, confidence = (np.array(column) for column in zip(*pairs, strict=True))
    wrong = np.flatnonzero(truth != answers)
    return mnist_test.Evaluation(("", 0.0), truth, answers, confidence, np.repeat(wrong[:, None] / 255, 784, axis=1))


def test_the_sheets_show_the_most_confident_mistakes_first_and_the_most_frequent_reddest(tmp_path, captions):
    pairs = [(0, 0, 0.99), (0, 1, 0.5), (2, 1, 0.9), (2, 1, 0.7), (1, 1, 0.8), (2, 1, 0.6)]
    mnist_test.save_look(make_evaluation(pairs), ["a", "b", "c"], tmp_path)
    texts = [text for text, _ in captions]
    assert texts[:4] == ["c, not b (90%)", "c, not b (70%)", "c, not b (60%)", "a, not b (50%)"]
    with Image.open(tmp_path / "wrong.png") as image:
        shown = [image.getpixel((12 + 40 + 108 * i, 12 + 40))[0] for i in range(4)]
    assert shown == [2, 3, 5, 1], "each above its own caption"
    assert texts[4:8] == ["true\\said", "a", "b", "c"]
    counts = {"a": ["1", "1", "0"], "b": ["0", "1", "0"], "c": ["0", "3", "0"]}
    paleness = []
    for row, name in enumerate("abc"):
        cells = captions[8 + 4 * row : 12 + 4 * row]
        assert [text for text, _ in cells] == [name, *counts[name]]
        paleness.append([ground[1] for _, ground in cells[1:]])
    assert paleness[2][1] < paleness[0][1] < 255, "the redder the more"
    assert np.sum(np.array(paleness) < 255) == 2, "what is right is white"


def test_at_most_200_mistakes_are_shown_and_none_is_said(tmp_path, captions):
    mnist_test.save_look(make_evaluation([(0, 1, 0.5)] * 250), ["a", "b"], tmp_path)
    assert [text for text, _ in captions].count("a, not b (50%)") == 200
    mnist_test.save_look(make_evaluation([(0, 0, 0.5)])._replace(mistaken=np.zeros((0, 784))), ["a", "b"], tmp_path)
    assert "Nothing was wrong." in [text for text, _ in captions]


def test_of_many_classes_the_worst_pairs_are_shown(tmp_path, captions):
    names = [f"class {number}" for number in range(150)]
    pairs = [(i, i, 0.9) for i in range(150)] + [(7, 9, 0.9)] * 3 + [(9, 7, 0.8), (5, 9, 0.8)]
    mnist_test.save_look(make_evaluation(pairs), names, tmp_path)
    assert [text for text, _ in captions[5:]] == [
        "3 of 4 class 7 were taken for class 9",
        "1 of 2 class 5 were taken for class 9",
        "1 of 2 class 9 were taken for class 7",
    ]
    assert len((tmp_path / "confusion.txt").read_text().splitlines()) == 151, "the text has all"


def test_a_file_in_place_of_the_folder_is_said_before_anything_is_evaluated(data, model, tmp_path, capsys):
    (tmp_path / "seen").touch()
    with pytest.raises(UserError, match=r"seen can't be a folder \(a file has that name\): name another --look"):
        mnist_test.test(model, data, once=True, look_dir=tmp_path / "seen")
    assert capsys.readouterr().out == ""
