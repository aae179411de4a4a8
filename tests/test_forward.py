"""The network, against the same sums in numpy, and the way to its newest checkpoint."""

import numpy as np
import pytest
from conftest import restore_newest

import mnist_forward
from mnist_forward import UserError, tf


def train_like_the_lecture(folder, hidden=500):
    """A checkpoint as the lecture's program leaves it; returns the averaged weights in it, [w1, b1, w2, b2]."""
    rng = np.random.default_rng(1)
    with tf.Graph().as_default(), tf.Session() as sess:
        shapes = [784, hidden], [hidden], [hidden, 10], [10]
        variables = [tf.Variable(rng.normal(0, 0.1, shape).astype("f")) for shape in shapes]
        global_step = tf.Variable(0, trainable=False)
        averages = tf.train.ExponentialMovingAverage(0.99, global_step)
        average_op = averages.apply(variables)
        saver = tf.train.Saver()
        sess.run(tf.global_variables_initializer())
        sess.run([variable.assign(variable * 3) for variable in variables])
        sess.run(average_op)
        saver.save(sess, str(folder / "mnist_model"), global_step=49001)
        return sess.run([averages.average(variable) for variable in variables])


def in_numpy(weights, x):
    w1, b1, w2, b2 = weights
    return np.maximum(x @ w1 + b1, 0) @ w2 + b2


def test_forward_is_the_lecture_s_network_with_its_l2_terms():
    x = np.random.default_rng(2).random([5, 784], np.float32)
    with tf.Graph().as_default(), tf.Session() as sess:
        y = mnist_forward.forward(tf.constant(x), 0.5)
        losses = tf.get_collection("losses")
        sess.run(tf.global_variables_initializer())
        sess.run([variable.assign(variable + 0.01) for variable in tf.trainable_variables()])
        weights, scores, terms = sess.run([tf.trainable_variables(), y, losses])
    assert [w.shape for w in weights] == [(784, 500), (500,), (500, 10), (10,)]
    np.testing.assert_allclose(scores, in_numpy(weights, x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(terms, [0.5 * (w**2).sum() / 2 for w in weights[::2]], rtol=1e-4)


def test_the_first_weights_are_the_lecture_s():
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.set_random_seed(1)
        mnist_forward.forward(tf.zeros([1, 784]), None)
        sess.run(tf.global_variables_initializer())
        w1, b1, w2, b2 = sess.run(tf.trainable_variables())
    for w in (w1, w2):  # normal, of a standard deviation of 0.1, cut off at twice that
        assert 0.19 < np.abs(w).max() <= 0.2 and w.std() == pytest.approx(0.088, abs=0.003) and abs(w.mean()) < 0.005
    assert not b1.any() and not b2.any()


def test_forward_adds_no_loss_where_nothing_is_trained():
    with tf.Graph().as_default():
        mnist_forward.forward(tf.zeros([1, 784]), None)
        assert not tf.get_collection("losses")


def test_forward_refuses_to_stand_behind_another_unnamed_variable():
    with tf.Graph().as_default():
        tf.Variable(0)
        with pytest.raises(ValueError, match=r"'Variable_1': build the network first"):
            mnist_forward.forward(tf.zeros([1, 784]), None)


def restored(folder):
    """(path, scores of one picture) of the newest checkpoint."""
    with tf.Graph().as_default(), tf.Session() as sess:
        y = mnist_forward.forward(tf.fill([1, 784], 0.5), None)
        path = restore_newest(sess, folder)
        return path, sess.run(y) if path else None


def test_a_network_of_the_lecture_s_program_is_restored_with_its_averages(tmp_path):
    weights = train_like_the_lecture(tmp_path)
    path, scores = restored(tmp_path)
    assert mnist_forward.get_step(path) == 49001
    np.testing.assert_allclose(scores, in_numpy(weights, np.full([1, 784], 0.5, "f")), rtol=1e-4, atol=1e-3)


def test_an_empty_folder_holds_no_checkpoint(tmp_path):
    assert mnist_forward.list_checkpoints(tmp_path) == []
    assert restored(tmp_path) == (None, None)
    assert mnist_forward.list_checkpoints(tmp_path / "missing") == []


def test_checkpoints_that_no_file_names_are_tried_from_the_highest_step_on(tmp_path):
    for step in (9000, 10000, 800):
        (tmp_path / f"mnist_model-{step}.index").touch()
    steps = [mnist_forward.get_step(path) for path in mnist_forward.list_checkpoints(tmp_path)]
    assert steps == [10000, 9000, 800]


def test_another_network_is_refused_with_what_differs(tmp_path):
    train_like_the_lecture(tmp_path, hidden=30)
    with pytest.raises(UserError, match=r"another network.*\[784, 30\] there and \[784, 500\] here"):
        restored(tmp_path)


def test_a_checkpoint_without_a_step_is_of_step_0(tmp_path):
    train_like_the_lecture(tmp_path)
    for path in tmp_path.glob("mnist_model-*"):
        path.rename(tmp_path / path.name.replace("mnist_model-49001", "model.ckpt"))
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n')
    path, _ = restored(tmp_path)
    assert path == str(tmp_path / "model.ckpt") and mnist_forward.get_step(path) == 0


def test_another_program_s_checkpoint_is_refused(tmp_path):
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.get_variable("kernel", [3])
        saver = tf.train.Saver()
        sess.run(tf.global_variables_initializer())
        saver.save(sess, str(tmp_path / "mnist_model"), global_step=1)
    with pytest.raises(UserError, match="another program's, .kernel. is missing|another program's, .Variable"):
        restored(tmp_path)


@pytest.mark.parametrize("name", ["model [1]", "model*", "model?"])
def test_a_model_folder_whose_name_tensorflow_takes_for_a_pattern_is_refused(tmp_path, name):
    train_like_the_lecture(tmp_path)
    tmp_path = tmp_path.rename(tmp_path.with_name(name))
    with pytest.raises(UserError, match=r"has one of \* \? \[ in its path, .*: rename it"):
        mnist_forward.list_checkpoints(tmp_path)


def test_an_error_of_tensorflow_is_told_in_the_line_that_says_what_happened():
    of_graph = """Graph execution error:
Detected at node 'save/SaveV2' defined at (most recent call last):
Node: 'save/SaveV2'
model/mnist_model-620.data-00000-of-00001; File too large
\t [[{{node save/SaveV2}}]]"""
    assert mnist_forward.explain(ValueError(of_graph)) == "model/mnist_model-620.data-00000-of-00001; File too large"
    assert mnist_forward.explain(ValueError("one line\nmore")) == "one line"
    assert mnist_forward.explain(ValueError()) == "ValueError"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_text_that_windows_saved_with_a_byte_order_mark_is_read(tmp_path, encoding):
    (tmp_path / "classes.txt").write_text("猫\r\nb\r\n", encoding=encoding, newline="")
    assert mnist_forward.read_class_names(tmp_path) == ["猫", "b"]


def test_names_of_classes_may_have_blanks_and_blank_lines_around(tmp_path):
    (tmp_path / "classes.txt").write_text("\n one \n  \n\ntwo words\n")
    assert mnist_forward.read_class_names(tmp_path) == ["one", "two words"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("It is so: do that."), "It is so: do that."),
        (OSError(28, "No space left on device"), "Output: No space left on device; make room."),
        (FileNotFoundError(2, "No such file", "a.txt"), "a.txt: No such file; name another file or folder."),
        (tf.errors.DataLossError(None, None, "corrupted\nmore"), "TensorFlow stopped: corrupted; put that right and"),
        (KeyboardInterrupt(), "130"),
    ],
)
def test_what_a_user_can_cause_ends_in_a_sentence_and_a_status(error, sentence):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        mnist_forward.run(main)
    assert str(end.value.code).startswith(sentence)
