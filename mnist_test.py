"""Watches the accuracy of a training: judges each new checkpoint on the test pictures (lecture 6.1).

Run it beside or after mnist_backward.py.  It looks for a new checkpoint every 5 seconds; the averaged weights of the
last one are right on about 0.9933 of MNIST's test pictures.

    python mnist_test.py                      # every new checkpoint, until Ctrl-C
    python mnist_test.py --once               # the newest checkpoint only
    python mnist_test.py --once --look seen/  # and which pictures were wrong, and what is taken for what
    python mnist_test.py --once --world       # on digits of writers outside the USA
"""

import argparse
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import mnist_forward
from mnist_app import arrange_in_grid, draw_digit, draw_text, save_picture
from mnist_forward import DATA_PATH, MODEL_SAVE_PATH, UserError, read_class_names, tf
from mnist_generateds import TEST_SET, WORLD_TEST_SET, get_tfrecord

TEST_INTERVAL_SECS = 5
TEST_BATCH = 1000  # pictures that the network sees at once; lecture: all 10,000


def test(model_dir, data_dir, once=False, look_dir=None, test_set=TEST_SET):
    """Judge the newest checkpoint of a model folder and then, unless `once`, every new one, for ever.

    Saves in the folder `look_dir`, if it is given, what was wrong.  Raises UserError as restore_newest does, and where
    `once` finds no checkpoint.
    """
    with tf.Graph().as_default():
        x, y_ = get_tfrecord(TEST_BATCH, isTrain=False, data_dir=data_dir, test_set=test_set)
        scores, restorable = mnist_forward.build_averaged_network(x, len(read_class_names(data_dir)))
        batch = [x, y_, tf.nn.softmax(scores)]
        event_dir = model_dir / ("test" if test_set == TEST_SET else test_set)
        seen = None  # the newest checkpoint when one was last judged
        judged = None  # the one that was judged
        if not once and not mnist_forward.list_checkpoints(model_dir):
            print(f"No checkpoint in {model_dir} yet: waiting for mnist_backward.py to save one.", flush=True)
        while True:
            newest = _identify_newest(model_dir)
            # What was judged is not always what was seen: a newer one was saved meanwhile, or the newest is damaged.
            if newest and newest not in (seen, judged):
                mnist_forward.require_same_classes(model_dir, data_dir)
                result = judge(model_dir, restorable, batch, event_dir)
                if result:
                    seen = newest
                    judged = result.checkpoint
                    if look_dir:
                        save_look(result, read_class_names(data_dir), look_dir)
            if once and not judged:
                raise UserError(f"{model_dir} holds no checkpoint: run mnist_backward.py first.")
            if once:
                return
            time.sleep(TEST_INTERVAL_SECS)


def _identify_newest(model_dir):
    """The newest checkpoint of a folder as _identify has it, or None."""
    paths = mnist_forward.list_checkpoints(model_dir)
    return _identify(paths[0]) if paths else None


def _identify(path):
    """A checkpoint's path and the time when it was saved, since a step may be trained anew under the same name."""
    try:
        return path, os.path.getmtime(f"{path}.index")
    except OSError:  # It is named, but its files are gone.
        return path, 0.0


class Judged(NamedTuple):
    """What the network of a checkpoint says of the n test pictures."""

    checkpoint: tuple  # its path and time, as _identify has them
    truth: np.ndarray  # their classes, int [n]
    answers: np.ndarray  # the likeliest classes, int [n]
    confidence: np.ndarray  # the probabilities of these, float32 [n]
    mistaken: np.ndarray  # the m pictures whose answer is wrong, float32 [m, 784]


def judge(model_dir, restorable, batch, event_dir):
    """Judge the newest whole checkpoint of a folder on each test picture exactly once, and print its accuracy.

    Args:
      model_dir: the folder.
      restorable: of the network.
      batch: the tensors of the next pictures, their labels and the network's probabilities.
      event_dir: where TensorBoard's event file gets the accuracy, too.

    Returns a Judged, or None where there is no checkpoint.
    """
    with tf.Session() as sess:  # A new session, so that the queue begins again at the first picture.
        path = mnist_forward.restore_newest(sess, restorable, model_dir)
        if path is None:
            return None
        sess.run(tf.local_variables_initializer())
        judged = Judged(_identify(path), *_answer_all(sess, batch))
    accuracy = float((judged.truth == judged.answers).mean())
    step = mnist_forward.get_step(path)
    print(f"After {step} training step(s), test accuracy = {accuracy:g}", flush=True)
    if os.access(model_dir, os.W_OK):
        events = tf.summary.FileWriterCache.get(str(event_dir))
        events.add_summary(tf.Summary(value=[tf.Summary.Value(tag="accuracy", simple_value=accuracy)]), step)
        events.flush()
    return judged


def _answer_all(sess, batch):
    """Run the queue to its end; returns the arrays of a Judged: truth, answers, confidence, mistaken."""
    parts = []
    coord = tf.train.Coordinator()
    threads = tf.train.start_queue_runners(sess=sess, coord=coord)
    try:
        while True:
            x, y_, y = sess.run(batch)
            truth = y_.argmax(axis=1)
            answers = y.argmax(axis=1)
            parts.append((truth, answers, y.max(axis=1), x[truth != answers]))
    except tf.errors.OutOfRangeError:
        pass  # Every picture was seen.
    finally:
        coord.request_stop()
        coord.join(threads)
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


MOST_SHOWN = 200  # wrong pictures on one sheet


def save_look(judged, class_names, look_dir):
    """Save in a folder what was wrong, as wrong.png, confusion.png and confusion.txt."""
    save_picture(_draw_mistakes(judged, class_names), look_dir / "wrong.png")
    matrix = np.zeros((len(class_names), len(class_names)), int)
    np.add.at(matrix, (judged.truth, judged.answers), 1)
    save_picture(_draw_confusion(matrix, class_names), look_dir / "confusion.png")
    with mnist_forward.write_whole(look_dir / "confusion.txt") as part:
        part.write_text(_format_confusion(matrix, class_names), encoding="utf-8")


def _draw_mistakes(judged, class_names):
    """An RGB picture of the wrong pictures, the most confident first, with truth, answer and confidence."""
    is_wrong = judged.truth != judged.answers
    truth = judged.truth[is_wrong]
    answers = judged.answers[is_wrong]
    confidence = judged.confidence[is_wrong]
    cells = []
    for i in np.argsort(-confidence, kind="stable")[:MOST_SHOWN]:
        caption = f"{class_names[truth[i]]}, not {class_names[answers[i]]} ({confidence[i]:.0%})"
        cells.append(draw_digit(judged.mistaken[i], caption))
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
    """An RGB picture of the confusion matrix, the redder the more mistakes."""
    mistakes = matrix - np.diag(np.diag(matrix))
    paleness = 255 - 200 * mistakes // max(1, mistakes.max())
    paleness = np.pad(paleness, ((1, 0), (1, 0)), constant_values=255)  # for the headings
    cells = []
    for row, levels in zip(_tabulate_confusion(matrix, class_names), paleness.tolist(), strict=True):
        for value, level in zip(row, levels, strict=True):
            cells.append(draw_text(str(value), 60, ground=(255, level, level)))
    return arrange_in_grid(cells, columns=len(class_names) + 1)


def main():
    parser = argparse.ArgumentParser(description="Print the test accuracy of each new checkpoint.")
    parser.add_argument("--data", type=Path, default=DATA_PATH, help="folder of the TFRecords (%(default)s)")
    parser.add_argument("--model", type=Path, default=MODEL_SAVE_PATH, help="folder of the checkpoints (%(default)s)")
    parser.add_argument("--once", action="store_true", help="judge the newest checkpoint and end")
    parser.add_argument("--look", type=Path, metavar="DIR", help="save there what was wrong and the confusion matrix")
    parser.add_argument("--world", action="store_true", help="judge on writers outside the USA instead of MNIST's")
    args = parser.parse_args()
    test(args.model, args.data, args.once, args.look, WORLD_TEST_SET if args.world else TEST_SET)


if __name__ == "__main__":
    mnist_forward.run(main)
