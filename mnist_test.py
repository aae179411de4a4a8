"""Watches the accuracy of a training: judges each new checkpoint on the test pictures (lecture 6.1).

    python mnist_test.py                      # beside or after mnist_backward.py; Ctrl-C ends it
    python mnist_test.py --once               # the newest checkpoint only

looks for a new checkpoint every 5 seconds and prints the accuracy of its averaged weights, 0.9925 or so in the end.
"""

import argparse
import time
from pathlib import Path

import mnist_forward
from mnist_forward import DATA_PATH, MODEL_SAVE_PATH, UserError, tf
from mnist_generateds import get_tfrecord

TEST_INTERVAL_SECS = 5
TEST_BATCH = 1000  # pictures that the network sees at once; lecture: all 10,000


def judging_graph(data):
    """Build the graph that judges a checkpoint, in the default graph and only once.

    Returns:
      saver and variables, for mnist_forward.restore_newest; correct_prediction, bool [n], of the next n test pictures.
    """
    x, y_ = get_tfrecord(TEST_BATCH, isTrain=False, data=data)
    y = mnist_forward.forward(x, None)
    variables = mnist_forward.averaged_variables()
    correct_prediction = tf.equal(tf.argmax(y, 1), tf.argmax(y_, 1))
    return tf.train.Saver(variables), variables, correct_prediction


def judge(model, saver, variables, correct_prediction):
    """Judge the newest whole checkpoint of the folder `model`, on each test picture exactly once.

    Returns:
      (its training step, pictures right, pictures in all), or None where there is no checkpoint.

    Raises:
      UserError: the checkpoint is another network's, or none is whole.
    """
    with tf.Session() as sess:  # a new session, so that the queue begins again at the first picture
        path = mnist_forward.restore_newest(sess, saver, variables, model)
        if path is None:
            return None
        sess.run(tf.local_variables_initializer())
        right = total = 0
        coord = tf.train.Coordinator()
        threads = tf.train.start_queue_runners(sess=sess, coord=coord)
        try:
            while True:
                correct = sess.run(correct_prediction)
                right, total = right + int(correct.sum()), total + len(correct)
        except tf.errors.OutOfRangeError:
            pass  # every picture was seen
        finally:
            coord.request_stop()
            coord.join(threads)
    return mnist_forward.stored_step(path), right, total


def test(model, data, once=False):
    """Judge the newest checkpoint of the folder `model` and then, unless `once`, every new one, for ever.

    Prints the lecture's line for each; returns what `judge` returns.  Raises UserError as `judge` does, and where
    `once` finds no checkpoint.
    """
    with tf.Graph().as_default():
        graph = judging_graph(data)
        judged = printed = waiting = None
        while True:
            newest = mnist_forward.checkpoints(model)[:1]
            if newest and newest != judged and (result := judge(model, *graph)):
                step, right, total = result
                if step != printed:  # the trainer may have saved since `newest` was looked up
                    print(f"After {step} training step(s), test accuracy = {right / total:g}", flush=True)
                judged, printed = newest, step
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
    args = parser.parse_args()
    test(args.model, args.data, args.once)


if __name__ == "__main__":
    mnist_forward.run(main)
