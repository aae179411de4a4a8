"""Watches the accuracy of a training: judges each new checkpoint on the test pictures (lecture 6.1).
It looks for one every 5 seconds; the averaged weights of the last are right on 0.9935 or so.

    python mnist_test.py                      # beside or after mnist_backward.py; Ctrl-C ends it
    python mnist_test.py --once               # the newest checkpoint only
    python mnist_test.py --once --look seen/  # and which pictures were wrong, and what is taken for what
"""

import argparse
import os
import time
from collections import namedtuple
from pathlib import Path

import numpy as np

import mnist_forward
from mnist_app import grid, save_picture, seen_by_network, text_picture
from mnist_forward import DATA_PATH, MODEL_SAVE_PATH, MOVING_AVERAGE_DECAY, UserError, class_names, tf, whole
from mnist_generateds import get_tfrecord

TEST_INTERVAL_SECS = 5
TEST_BATCH = 1000  # pictures that the network sees at once; lecture: all 10,000
MOST_SHOWN = 200  # wrong pictures on one sheet


# A checkpoint's path; of n test pictures the classes, answers and their probabilities, [n]; the wrong ones, [m, 784].
Judged = namedtuple("Judged", "path truth answers sureness wrong")


def judge(model, saver, variables, batch):
    """Judge the newest whole checkpoint of the folder `model` on each test picture exactly once, print its accuracy and
    append it to TensorBoard's event file.  `batch` are the tensors of the next pictures, their labels and the network's
    probabilities.  Returns Judged, or None where there is no checkpoint."""
    with tf.Session() as sess:  # a new session, so that the queue begins again at the first picture
        path = mnist_forward.restore_newest(sess, saver, variables, model)
        if path is None:
            return None
        sess.run(tf.local_variables_initializer())
        parts, coord = [], tf.train.Coordinator()
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
    judged, step = Judged(path, *map(np.concatenate, zip(*parts, strict=True))), mnist_forward.stored_step(path)
    accuracy = float((judged.truth == judged.answers).mean())
    print(f"After {step} training step(s), test accuracy = {accuracy:g}", flush=True)
    if os.access(model, os.W_OK):
        events = tf.summary.FileWriterCache.get(str(model / "test"))
        events.add_summary(tf.Summary(value=[tf.Summary.Value(tag="accuracy", simple_value=accuracy)]), step)
        events.flush()
    return judged


def save_look(judged, names, folder):
    """Save in the folder what was wrong, the most confident first, and the confusion matrix as picture and as text:
    rows the true classes, columns the answers, the redder the more mistakes."""
    wrong = judged.truth != judged.answers
    mistakes = zip(judged.sureness[wrong], judged.truth[wrong], judged.answers[wrong], judged.wrong, strict=True)
    cells = [
        seen_by_network(pixels, f"{names[truth]}, not {names[answer]} ({sure:.0%})")
        for sure, truth, answer, pixels in sorted(mistakes, key=lambda one: -one[0])[:MOST_SHOWN]
    ]
    save_picture(grid(cells or [text_picture("Nothing was wrong.", 200)], across=10), folder / "wrong.png")
    matrix = np.zeros((len(names), len(names)), int)
    np.add.at(matrix, (judged.truth, judged.answers), 1)
    rows = [["true\\said", *names], *([name, *counts] for name, counts in zip(names, matrix.tolist(), strict=True))]
    mistaken = np.pad(matrix - np.diag(np.diag(matrix)), ((1, 0), (1, 0)))
    pale = 255 - 200 * mistaken // max(1, mistaken.max())
    grounds = [(255, level, level) for level in pale.ravel().tolist()]
    cells = [text_picture(str(value), 60, ground=ground) for value, ground in zip(sum(rows, []), grounds, strict=True)]
    save_picture(grid(cells, across=len(rows)), folder / "confusion.png")
    width = max(len(str(value)) for row in rows for value in row) + 1
    with whole(folder / "confusion.txt") as part:
        part.write_text("".join("".join(f"{value:>{width}}" for value in row) + "\n" for row in rows), encoding="utf-8")


def test(model, data, once=False, look=None):
    """Judge the newest checkpoint of the folder `model` and then, unless `once`, every new one, for ever; save in the
    folder `look` what was wrong.  Raises UserError as restore_newest, and where `once` finds no checkpoint."""
    with tf.Graph().as_default():
        x, y_ = get_tfrecord(TEST_BATCH, isTrain=False, data=data)
        y = tf.nn.softmax(mnist_forward.forward(x, None, len(class_names(data))))
        variables = tf.train.ExponentialMovingAverage(MOVING_AVERAGE_DECAY).variables_to_restore()
        saver = tf.train.Saver(variables)
        seen = set()
        if not once and not mnist_forward.checkpoints(model):
            print(f"No checkpoint in {model} yet: waiting for mnist_backward.py to save one.", flush=True)
        while True:
            newest = {*mnist_forward.checkpoints(model)[:1]}
            if newest - seen:
                mnist_forward.require_same_classes(model, data)
                judged = judge(model, saver, variables, [x, y_, y])
                if judged:
                    seen = newest | {judged.path}  # a newer one, if that was saved meanwhile
                    if look:
                        save_look(judged, class_names(data), look)
            if once and not seen:
                raise UserError(f"{model} holds no checkpoint: run mnist_backward.py first.")
            if once:
                return
            time.sleep(TEST_INTERVAL_SECS)


def main():
    parser = argparse.ArgumentParser(description="Print the test accuracy of each new checkpoint.")
    parser.add_argument("--data", type=Path, default=DATA_PATH, help="folder of the TFRecords (%(default)s)")
    parser.add_argument("--model", type=Path, default=MODEL_SAVE_PATH, help="folder of the checkpoints (%(default)s)")
    parser.add_argument("--once", action="store_true", help="judge the newest checkpoint and end")
    parser.add_argument("--look", type=Path, metavar="DIR", help="save there what was wrong and the confusion matrix")
    test(**vars(parser.parse_args()))


if __name__ == "__main__":
    mnist_forward.run(main)
