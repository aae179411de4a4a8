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
from PIL import Image, ImageDraw

import mnist_forward
from mnist_app import contact_sheet, draw_text, save_picture, seen_by_network
from mnist_forward import DATA_PATH, MODEL_SAVE_PATH, UserError, class_names, tf
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

    @property
    def accuracy(self):
        return float((self.truth == self.answers).mean())


def judging_graph(data):
    """Build the graph that judges a checkpoint, in the default graph and only once.

    Returns:
      saver and variables, for mnist_forward.restore_newest; batch: the next n test pictures [n, 784], their labels and
      the probabilities that the network gives, [n, classes].
    """
    x, y_ = get_tfrecord(TEST_BATCH, isTrain=False, data=data)
    y = tf.nn.softmax(mnist_forward.forward(x, None, len(class_names(data))))
    variables = mnist_forward.averaged_variables()
    return tf.train.Saver(variables), variables, [x, y_, y]


def judge(model, saver, variables, batch):
    """Judge the newest whole checkpoint of the folder `model`, on each test picture exactly once.

    Returns:
      Judged, or None where there is no checkpoint.

    Raises:
      UserError: the checkpoint is another network's, or none is whole.
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


def confusion_matrix(judged, classes):
    """int [classes, classes]: how many test pictures of class [row] were taken for class [column]."""
    return np.bincount(judged.truth * classes + judged.answers, minlength=classes**2).reshape(classes, classes)


def confusion_text(matrix, names):
    """The matrix as a table: rows the true classes, columns the answers."""
    width = max(6, *(len(name) + 1 for name in names))
    rows = [names, *matrix]
    return "".join(
        f"{name:>{width}}" + "".join(f"{value:>{width}}" for value in row) + "\n"
        for name, row in zip(["", *names], rows, strict=True)
    )


def confusion_picture(matrix, names, cell=56):
    """The matrix as an RGB picture: rows the true classes, columns the answers, the redder the more mistakes."""
    left, top = 150, 40
    side = cell * len(names)
    image = Image.new("RGB", (left + side + 12, top + side + 12), "white")
    draw_text(image, "true class \\ answer", 6, 6, left, 11)
    mistakes = matrix - np.diag(np.diag(matrix))
    for i, name in enumerate(names):
        draw_text(image, f"{name:.16}", 6, top + i * cell + 20, left, 13)
        draw_text(image, f"{name:.7}", left + i * cell + 4, 22, 10**3, 11)
        for j, count in enumerate(matrix[i]):
            pale = 255 - round(200 * mistakes[i, j] / max(mistakes.max(), 1))
            box = [left + j * cell, top + i * cell, left + (j + 1) * cell, top + (i + 1) * cell]
            ImageDraw.Draw(image).rectangle(box, fill=(255, pale, pale), outline="lightgrey")
            draw_text(image, str(count), box[0] + 8, box[1] + 20, 10**3, 13)
    return image


def save_look(judged, names, folder):
    """Save in the folder what was wrong, the most confident first, and the confusion matrix as picture and text."""
    wrong = judged.truth != judged.answers
    each = list(zip(judged.sureness[wrong], judged.truth[wrong], judged.answers[wrong], judged.wrong, strict=True))
    each = sorted(each, key=lambda one: -one[0])[:MOST_SHOWN]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wrong.png").unlink(missing_ok=True)
    if each:
        captions = [f"{names[truth]}, not {names[answer]} ({sure:.0%})" for sure, truth, answer, _ in each]
        images = [seen_by_network(pixels, 84) for *_, pixels in each]
        save_picture(contact_sheet(images, captions, across=10, width=120, height=126), folder / "wrong.png")
    matrix = confusion_matrix(judged, len(names))
    save_picture(confusion_picture(matrix, names), folder / "confusion.png")
    (folder / "confusion.txt.part").write_text(confusion_text(matrix, names), encoding="utf-8")
    (folder / "confusion.txt.part").replace(folder / "confusion.txt")


def note_accuracy(model, judged):
    """Append the accuracy to the event file that TensorBoard reads beside the trainer's, where that may be written."""
    if os.access(model, os.W_OK):
        events = tf.summary.FileWriterCache.get(str(model / "test"))
        value = tf.Summary.Value(tag="accuracy", simple_value=judged.accuracy)
        events.add_summary(tf.Summary(value=[value]), judged.step)
        events.flush()


def test(model, data, once=False, look=None):
    """Judge the newest checkpoint of the folder `model` and then, unless `once`, every new one, for ever.

    Prints the lecture's line for each, notes it for TensorBoard, and saves what was wrong in the folder `look`; returns
    what `judge` returns.  Raises UserError as `judge` does, and where `once` finds no checkpoint.
    """
    with tf.Graph().as_default():
        graph = judging_graph(data)
        judged = printed = waiting = None
        while True:
            newest = mnist_forward.checkpoints(model)[:1]
            if newest and newest != judged:
                mnist_forward.require_same_classes(model, data)
                if result := judge(model, *graph):
                    if result.step != printed:  # the trainer may have saved since `newest` was looked up
                        print(f"After {result.step} training step(s), test accuracy = {result.accuracy:g}", flush=True)
                        note_accuracy(model, result)
                        if look:
                            save_look(result, class_names(data), look)
                    judged, printed = newest, result.step
            elif not newest and not waiting and not once:
                waiting = f"No checkpoint in {model} yet: waiting for mnist_backward.py to save one."
                print(waiting, flush=True)
            if once:
                if not judged:
                    raise UserError(f"{model} holds no checkpoint: run mnist_backward.py first.")
                return result
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
