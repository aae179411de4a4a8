"""Watches the accuracy of a training: evaluates its newest checkpoint on the test pictures (lecture 6.1).

Run it beside or after mnist_backward.py.  It looks for a new checkpoint every 5 seconds; the averaged weights of the
last one are right on about 0.9933 of MNIST's test pictures.

    python mnist_test.py                      # the newest checkpoint whenever there is a new one, until Ctrl-C
    python mnist_test.py --once               # the newest checkpoint only
    python mnist_test.py --once --look seen/  # and which pictures were wrong, and what is taken for what
    python mnist_test.py --once --world       # on digits of writers outside the USA
"""

import argparse
import os
import time
from pathlib import Path
from typing import NamedTuple

import mnist_forward  # Before numpy, since it says with how many threads numpy starts.
import numpy as np

from mnist_app import arrange_in_grid, draw_digit, draw_text, name_in_pictures, save_picture
from mnist_forward import DATA_PATH, MODEL_SAVE_PATH, UserError, read_class_names, tf
from mnist_generateds import TEST_SET, WORLD_TEST_SET, get_tfrecord

TEST_INTERVAL_SECS = 5
TEST_BATCH = 1000  # pictures that the network sees at once; lecture: all 10,000


def test(model_dir, data_dir, once=False, look_dir=None, test_set=TEST_SET):
    """Evaluate the newest checkpoint of a model folder and then, unless `once`, look every 5 seconds for a newer one.

    Args:
      model_dir, data_dir: the folders of the checkpoints and of the records, Paths.
      once: whether to end after the newest checkpoint.
      look_dir: the folder for pictures of what was wrong, or None.
      test_set: which test set, TEST_SET or WORLD_TEST_SET.

    Raises UserError as restore_newest does, and where `once` finds no checkpoint.
    """
    if look_dir:
        mnist_forward.make_dir(look_dir, "--look")
    with tf.Graph().as_default():
        # The graph, as in the lecture: the queue of the test pictures, and the network with the averaged weights.
        x, y_ = get_tfrecord(TEST_BATCH, isTrain=False, data_dir=data_dir, test_set=test_set)
        scores, restorable = mnist_forward.build_averaged_network(x, len(read_class_names(data_dir)))
        batch = [x, y_, tf.nn.softmax(scores)]
        event_dir = model_dir / ("test" if test_set == TEST_SET else test_set)
        if not once and not mnist_forward.list_checkpoints(model_dir):
            print(f"No checkpoint in {model_dir} yet: waiting for mnist_backward.py to save one.", flush=True)
        # Neither the newest checkpoint of the last look nor the one that was evaluated then is evaluated again.  They
        # differ where the newest is damaged, or where the trainer saved another one in between.
        last_newest = None
        last_evaluated = None
        while True:
            newest = _identify_newest(model_dir)
            if newest and newest not in (last_newest, last_evaluated):
                mnist_forward.require_same_classes(model_dir, data_dir)
                evaluation = evaluate(model_dir, restorable, batch, event_dir)
                if evaluation:
                    last_newest = newest
                    last_evaluated = evaluation.checkpoint
                    if look_dir:
                        save_look(evaluation, read_class_names(data_dir), look_dir)
            if once and not last_evaluated:
                raise UserError(f"{model_dir} holds no checkpoint: run mnist_backward.py first.")
            if once:
                return
            time.sleep(TEST_INTERVAL_SECS)


def _identify_newest(model_dir):
    """The newest checkpoint of a folder, as _identify returns it, or None."""
    paths = mnist_forward.list_checkpoints(model_dir)
    return _identify(paths[0]) if paths else None


def _identify(path):
    """Tell a checkpoint from one of the same step that was trained anew: returns (path, time when it was saved)."""
    try:
        return path, os.path.getmtime(f"{path}.index")
    except OSError:  # The file `checkpoint` names it, but its own files are gone.
        return path, 0.0


class Evaluation(NamedTuple):
    """What the network of a checkpoint answers for the n test pictures."""

    checkpoint: tuple  # path and time of the checkpoint, as _identify returns them
    truth: np.ndarray  # the true classes of the pictures, int [n]
    answers: np.ndarray  # the network's answers, the likeliest classes, int [n]
    confidence: np.ndarray  # the probabilities of the answers, float32 [n]
    mistaken: np.ndarray  # the m pictures whose answer is wrong, float32 [m, 784]


def evaluate(model_dir, restorable, batch, event_dir):
    """Evaluate the newest whole checkpoint of a folder on each test picture exactly once, and print its accuracy.

    Args:
      model_dir: the folder of the checkpoints, a Path.
      restorable: the Restorable of the network.
      batch: the tensors of the next pictures, float32 [k, 784], of their labels, one-hot, float32 [k, classes], and of
        the network's probabilities, float32 [k, classes].
      event_dir: the folder of the event file in which TensorBoard finds the accuracy.

    Returns an Evaluation, or None where there is no checkpoint.
    """
    with tf.Session() as sess:  # A new session, so that the queue begins again at the first picture.
        # The lecture's way: restore the averaged weights of the newest checkpoint, ...
        path = mnist_forward.restore_newest(sess, restorable, model_dir)
        if path is None:
            return None
        sess.run(tf.local_variables_initializer())  # string_input_producer counts its epochs in one.
        evaluation = Evaluation(_identify(path), *_answer_all(sess, batch))
    del sess  # While a session is deleted, Ctrl-C is lost: so not after the line at which one presses it.
    # ... compute the accuracy, and print it with the step that stands in the checkpoint's name.
    accuracy = float((evaluation.truth == evaluation.answers).mean())
    step = mnist_forward.get_step(path)
    print(f"After {step} training step(s), test accuracy = {accuracy:g}", flush=True)
    if os.access(model_dir, os.W_OK):
        events = tf.summary.FileWriterCache.get(str(event_dir))
        events.add_summary(tf.Summary(value=[tf.Summary.Value(tag="accuracy", simple_value=accuracy)]), step)
        events.flush()
    return evaluation


def _answer_all(sess, batch):
    """Run the queue to its end; returns the arrays of an Evaluation: truth, answers, confidence, mistaken."""
    parts = []
    # The lecture's frame round a queue: a coordinator, and the threads that fill the queue.
    coord = tf.train.Coordinator()
    threads = tf.train.start_queue_runners(sess=sess, coord=coord)
    try:
        while True:
            x, y_, y = sess.run(batch)
            truth = y_.argmax(axis=1)
            answers = y.argmax(axis=1)
            parts.append((truth, answers, y.max(axis=1), x[truth != answers]))
    except tf.errors.OutOfRangeError:
        pass  # The network has seen every picture once.
    finally:
        coord.request_stop()
        coord.join(threads)
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


MOST_SHOWN = 200  # wrong pictures on one sheet
# With more classes than these the matrix is too large for a picture.  The picture then has a line for each of the pairs
# of classes that are most often confused, at most so many.
MOST_CLASSES = 30
MOST_PAIRS = 100


def save_look(evaluation, class_names, look_dir):
    """Save in a folder what was wrong: the pictures in wrong.png, the numbers in confusion.png and confusion.txt."""
    drawn_names = name_in_pictures(class_names)
    save_picture(_draw_mistakes(evaluation, drawn_names), look_dir / "wrong.png")
    matrix = np.zeros((len(class_names), len(class_names)), int)
    np.add.at(matrix, (evaluation.truth, evaluation.answers), 1)
    draw_confusion = _draw_confusion if len(class_names) <= MOST_CLASSES else _draw_worst_pairs
    save_picture(draw_confusion(matrix, drawn_names), look_dir / "confusion.png")
    with mnist_forward.write_whole(look_dir / "confusion.txt") as part:
        part.write_text(_format_confusion(matrix, class_names), encoding="utf-8")


def _draw_mistakes(evaluation, class_names):
    """An RGB picture of the wrong pictures, the most confident first, with truth, answer and confidence."""
    is_wrong = evaluation.truth != evaluation.answers
    truth = evaluation.truth[is_wrong]
    answers = evaluation.answers[is_wrong]
    confidence = evaluation.confidence[is_wrong]
    cells = []
    for i in np.argsort(-confidence, kind="stable")[:MOST_SHOWN]:
        caption = f"{class_names[truth[i]]}, not {class_names[answers[i]]} ({confidence[i]:.0%})"
        cells.append(draw_digit(evaluation.mistaken[i], caption))
    return arrange_in_grid(cells or [draw_text("Nothing was wrong.", 200)], columns=10)


def _tabulate_confusion(matrix, class_names):
    """The confusion matrix, int [c, c], as rows of a table: the true classes down, the answers across."""
    heading = ["true\\said", *class_names]
    return [heading, *([name, *counts] for name, counts in zip(class_names, matrix.tolist(), strict=True))]


def _format_confusion(matrix, class_names):
    """The confusion matrix as text in columns."""
    rows = _tabulate_confusion(matrix, class_names)
    width = max(len(str(value)) for row in rows for value in row) + 1
    lines = ["".join(f"{value:>{width}}" for value in row) for row in rows]
    return "\n".join(lines) + "\n"


def _draw_confusion(matrix, class_names):
    """An RGB picture of the confusion matrix; the more mistakes a cell counts, the redder it is."""
    mistakes = matrix - np.diag(np.diag(matrix))
    paleness = 255 - 200 * mistakes // max(1, mistakes.max())
    paleness = np.pad(paleness, ((1, 0), (1, 0)), constant_values=255)  # The headings are white.
    cells = []
    for row, levels in zip(_tabulate_confusion(matrix, class_names), paleness.tolist(), strict=True):
        for value, level in zip(row, levels, strict=True):
            cells.append(draw_text(str(value), 60, ground=(255, level, level)))
    return arrange_in_grid(cells, columns=len(class_names) + 1)


def _draw_worst_pairs(matrix, class_names):
    """An RGB picture of the largest numbers of mistakes in the confusion matrix, one a line."""
    mistakes = matrix - np.diag(np.diag(matrix))
    lines = []
    for place in np.argsort(-mistakes, axis=None, kind="stable")[:MOST_PAIRS]:
        truth, answer = np.unravel_index(place, matrix.shape)
        count = mistakes[truth, answer]
        if count:
            text = f"{count} of {matrix[truth].sum()} {class_names[truth]} were taken for {class_names[answer]}"
            lines.append(draw_text(text, 400))
    return arrange_in_grid(lines or [draw_text("Nothing was wrong.", 400)], columns=1)


def main():
    parser = argparse.ArgumentParser(description="Print the test accuracy of the newest checkpoint, again and again.")
    parser.add_argument("--data", type=Path, default=DATA_PATH, help="folder of the TFRecords (%(default)s)")
    parser.add_argument("--model", type=Path, default=MODEL_SAVE_PATH, help="folder of the checkpoints (%(default)s)")
    parser.add_argument("--once", action="store_true", help="evaluate the newest checkpoint and end")
    parser.add_argument("--look", type=Path, metavar="DIR", help="save there what was wrong and the confusion matrix")
    parser.add_argument("--world", action="store_true", help="evaluate on writers outside the USA instead of MNIST's")
    args = parser.parse_args()
    test(args.model, args.data, args.once, args.look, WORLD_TEST_SET if args.world else TEST_SET)


if __name__ == "__main__":
    mnist_forward.run(main)
