"""Watches the accuracy of a training: judges each new checkpoint on the test pictures (lecture 6.1).

    python mnist_test.py                      # beside or after mnist_backward.py; Ctrl-C ends it
    python mnist_test.py --once               # the newest checkpoint only
    python mnist_test.py --once --look seen/  # and which pictures were wrong, and what is taken for what

looks for a new checkpoint every 5 seconds and prints the accuracy of its averaged weights, 0.9935 or so in the end.
"""

import argparse
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import mnist_forward
from mnist_app import captioned, grid, save_picture, seen_by_network, text_picture
from mnist_forward import DATA_PATH, MODEL_SAVE_PATH, UserError, class_names, tf, whole
from mnist_generateds import get_tfrecord

TEST_INTERVAL_SECS = 5
TEST_BATCH = 1000  # pictures that the network sees at once; lecture: all 10,000
MOST_SHOWN = 200  # wrong pictures on one sheet


class Judged(NamedTuple):
    """What a checkpoint says to each of n test pictures."""

    step: int
    truth: np.ndarray  # int [n], the classes
    answers: np.ndarray  # int [n]
    sureness: np.ndarray  # float32 [n], probability of the answer
    wrong: np.ndarray  # float32 [m, 784], the pictures with a wrong answer


def judge(model, saver, variables, batch):
    """Judge the newest whole checkpoint of the folder `model`, on each test picture exactly once.

    `batch` are the tensors of the next pictures, their labels and the network's probabilities.  Returns Judged, or None
    where there is no checkpoint; raises UserError as mnist_forward.restore_newest, to which the rest goes.
    """
    with tf.Session() as sess:  # a new session, so that the queue begins again at the first picture
        path = mnist_forward.restore_newest(sess, saver, variables, model)
        if path is None:
            return None
        sess.run(tf.local_variables_initializer())
        parts = []
        coord = tf.train.Coordinator()
        threads = tf.train.start_queue_runners(sess=sess, coord=coord)
        try:
            while True:
                x, y_, y = sess.run(batch)
                truth, answers = y_.argmax(1), y.argmax(1)
                parts.append((truth, answers, y.max(1), x[truth != answers]))
        except tf.errors.OutOfRangeError:
            pass  # every picture was seen
        finally:
            coord.request_stop()
            coord.join(threads)
    return Judged(mnist_forward.stored_step(path), *map(np.concatenate, zip(*parts, strict=True)))


def report(judged, model):
    """Print the lecture's line, and append the accuracy to an event file for TensorBoard where that may be written."""
    accuracy = float((judged.truth == judged.answers).mean())
    print(f"After {judged.step} training step(s), test accuracy = {accuracy:g}", flush=True)
    if os.access(model, os.W_OK):
        events = tf.summary.FileWriterCache.get(str(model / "test"))
        events.add_summary(tf.Summary(value=[tf.Summary.Value(tag="accuracy", simple_value=accuracy)]), judged.step)
        events.flush()


def save_look(judged, names, folder):
    """Save in the folder what was wrong, the most confident first, and the confusion matrix as picture and as text:
    rows the true classes, columns the answers, the redder the more mistakes."""
    wrong = judged.truth != judged.answers
    mistakes = zip(judged.sureness[wrong], judged.truth[wrong], judged.answers[wrong], judged.wrong, strict=True)
    cells = [
        captioned(seen_by_network(pixels), f"{names[truth]}, not {names[answer]} ({sure:.0%})")
        for sure, truth, answer, pixels in sorted(mistakes, key=lambda one: -one[0])[:MOST_SHOWN]
    ]
    save_picture(grid(cells or [text_picture("Nothing was wrong.", 200)], across=10), folder / "wrong.png")

    matrix = np.zeros((len(names), len(names)), int)
    np.add.at(matrix, (judged.truth, judged.answers), 1)
    rows = [["true\\said", *names], *([name, *counts] for name, counts in zip(names, matrix.tolist(), strict=True))]
    most, cells = max(1, (matrix - np.diag(np.diag(matrix))).max()), []
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            pale = 255 - 200 * value // most if i and j and i != j else 255
            cells.append(text_picture(str(value), 60, ground=(255, pale, pale)))
    save_picture(grid(cells, across=len(rows)), folder / "confusion.png")
    width = max(len(str(value)) for row in rows for value in row) + 1
    with whole(folder / "confusion.txt") as part:
        part.write_text("".join("".join(f"{value:>{width}}" for value in row) + "\n" for row in rows), encoding="utf-8")


def test(model, data, once=False, look=None):
    """Judge the newest checkpoint of the folder `model` and then, unless `once`, every new one, for ever; save in the
    folder `look` what was wrong.

    Returns what `judge` does.  Raises UserError as `judge` does, and where `once` finds no checkpoint.
    """
    with tf.Graph().as_default():
        x, y_ = get_tfrecord(TEST_BATCH, isTrain=False, data=data)
        y = tf.nn.softmax(mnist_forward.forward(x, None, len(class_names(data))))
        variables = mnist_forward.averaged_variables()
        saver = tf.train.Saver(variables)
        newest = judged = None
        while True:
            before, newest = newest, mnist_forward.checkpoints(model)[:1]
            if newest and (newest != before or not judged):
                mnist_forward.require_same_classes(model, data)
                last, judged = judged, judge(model, saver, variables, [x, y_, y])
                # The trainer may have saved since `newest` was looked up: that one was judged, then.
                if judged and not (last and last.step == judged.step):
                    report(judged, model)
                    if look:
                        save_look(judged, class_names(data), look)
            elif not newest and before is None and not once:
                print(f"No checkpoint in {model} yet: waiting for mnist_backward.py to save one.", flush=True)
            if once and not judged:
                raise UserError(f"{model} holds no checkpoint: run mnist_backward.py first.")
            if once:
                return judged
            time.sleep(TEST_INTERVAL_SECS)


def main():
    parser = argparse.ArgumentParser(description="Print the test accuracy of each new checkpoint.")
    parser.add_argument("--data", type=Path, default=DATA_PATH, help="folder of the TFRecords (%(default)s)")
    parser.add_argument("--model", type=Path, default=MODEL_SAVE_PATH, help="folder of the checkpoints (%(default)s)")
    parser.add_argument("--once", action="store_true", help="judge the newest checkpoint and end")
    parser.add_argument("--look", type=Path, metavar="DIR", help="save there what was wrong and the confusion matrix")
    args = parser.parse_args()
    test(args.model, args.data, args.once, args.look)


if __name__ == "__main__":
    mnist_forward.run(main)
