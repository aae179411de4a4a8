"""Trains the network from the TFRecords and goes on where it stopped (lecture 6.1 and 6.2).

    python mnist_backward.py                  # after mnist_generateds.py

writes a checkpoint to model/ every 1,000 steps, at the last one, and on Ctrl-C or SIGTERM.  STEPS is the total: a
rerun goes on from the newest checkpoint.  Test accuracy on 2 cores, `--seed` 1, 2 and 3:

    --steps 40000 (the default)     99.41 %, 99.29 %, 99.32 %     about 5 minutes
    --steps 80000                   99.41 %, 99.42 %, 99.41 %     11 minutes
"""

import argparse
import contextlib
import datetime
import math
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import mnist_app
import mnist_forward
import mnist_generateds
import mnist_test
from mnist_forward import DATA_PATH, MODEL_NAME, MODEL_SAVE_PATH, MOVING_AVERAGE_DECAY, UserError, tf

# Beside each setting: the lecture's value.  Ours were chosen on 5,000 training digits held out, 16,000 steps each.
BATCH_SIZE = 200  # lecture: 200
STEPS = 40000  # lecture: 50,000
LEARNING_RATE_BASE = 0.2  # lecture: 0.1, x 0.99 an epoch; here a cosine decay to zero at the last step
MOMENTUM = 0.9  # lecture: none; here Nesterov's
REGULARIZER = 0.00001  # lecture: 0.0001; the distortions do most of its work
SEED = 1  # of the first weights, the shuffling and the distortions; the threads' order still differs between runs
SAVE_EVERY = 1000  # steps between checkpoints and progress lines; lecture: 1,000
# Lecture: none.  Drawn evenly up to 15 degrees, 0.25, 18 %, 2 pixels, and 0.7 pixels of elastic noise.
DISTORTIONS = {"rotation": 15, "shear": 0.25, "scale": 0.18, "shift": 2, "elastic": 0.7}
# Over the last 30 % of the steps the distortions fade to 0.3 of that, so that the network ends on digits as they are.
FADE_FROM, FADE_TO = 0.7, 0.3
FAMILIAR_SAMPLES = 20000  # training pictures that the app compares with, to tell a digit from what is none

NOT_FINITE = (
    "The loss or a weight is no longer a finite number at step {step}: run again with a lower --learning_rate; "
    "{model} keeps the checkpoints from before."
)


@contextlib.contextmanager
def only_trainer(model):
    """Hold the folder `model` for one trainer.

    SQLite's lock is the one in the standard library that every system has and that ends with its process, so a
    killed trainer leaves nothing that blocks the next.
    """
    try:
        model.mkdir(parents=True, exist_ok=True)
        lock = sqlite3.connect(model / ".lock", timeout=0)
        lock.execute("BEGIN EXCLUSIVE")
    except (OSError, sqlite3.Error) as error:
        if "locked" in str(error):
            raise UserError(f"Another training holds {model}: wait for its end, or name another --model.") from None
        raise UserError(f"{model} can't be written to ({error}): name another --model.") from None
    with contextlib.closing(lock):
        yield


@contextlib.contextmanager
def stop_signals():
    """Collect Ctrl-C and SIGTERM in the list it yields, so that a step ends and is saved; the second one kills."""
    caught = []

    def catch(number, _frame):
        caught.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def training_graph(args):
    """Build the queue, the network and the training step, in the default graph.

    Returns:
      train_op, which runs one step; loss, of its batch; finite, whether the weights are; queue_fill, 0..1.
    """
    train_num_examples = mnist_generateds.count_records(args.data / mnist_generateds.TRAIN_RECORDS)
    print(f"{train_num_examples} training pictures, {train_num_examples / args.batch_size:g} steps an epoch")
    global_step = tf.train.create_global_step()
    distortions = None if args.no_distortions else DISTORTIONS
    faded = (tf.cast(global_step, tf.float32) / args.steps - FADE_FROM) / (1 - FADE_FROM)
    strength = 1 - (1 - FADE_TO) * tf.clip_by_value(faded, 0, 1)
    img_batch, label_batch = mnist_generateds.get_tfrecord(args.batch_size, True, args.data, distortions, strength)
    y = mnist_forward.forward(img_batch, REGULARIZER)

    ce = tf.nn.sparse_softmax_cross_entropy_with_logits(logits=y, labels=tf.argmax(label_batch, 1))
    loss = tf.reduce_mean(ce) + tf.add_n(tf.get_collection("losses"))
    learning_rate = tf.train.cosine_decay(args.learning_rate, global_step, args.steps)
    train_step = tf.train.MomentumOptimizer(learning_rate, MOMENTUM, use_nesterov=True).minimize(
        loss, global_step=global_step
    )
    ema = tf.train.ExponentialMovingAverage(MOVING_AVERAGE_DECAY, global_step)
    with tf.control_dependencies([train_step]):
        train_op = ema.apply(tf.trainable_variables())
    finite = tf.is_finite(tf.global_norm(tf.trainable_variables()))
    return train_op, loss, finite, tf.get_collection("queue_fill")[0]


def remove_unfinished(model):
    """Remove what a save that was killed or found the disk full has left in the folder `model`."""
    for part in [*model.glob(f"{MODEL_NAME}-*temp*"), *model.glob("checkpoint.tmp*")]:
        shutil.rmtree(part) if part.is_dir() else part.unlink()


def save(sess, saver, finite, model, step):
    """Save a checkpoint of the step.

    Raises:
      UserError: the weights are not finite, or the disk takes no more; the earlier checkpoints are kept and whole.
    """
    if not sess.run(finite):
        raise UserError(NOT_FINITE.format(step=step, model=model))
    try:
        saver.save(sess, str(model / MODEL_NAME), global_step=step, write_meta_graph=False)
    except (tf.errors.OpError, ValueError) as error:  # ValueError: the folder is gone
        remove_unfinished(model)
        raise UserError(
            f"{model} took no checkpoint at step {step} ({str(error).splitlines()[0]}): make room, "
            "the earlier ones are whole."
        ) from None


def resume(sess, saver, variables, args):
    """Restore the newest checkpoint of args.model, if there is one (lecture 6.1), and return its step, else 0."""
    ckpt = mnist_forward.restore_newest(sess, saver, variables, args.model)
    if not ckpt:
        return 0
    step = mnist_forward.stored_step(ckpt)
    print(f"Going on from {ckpt}, step {step} of {args.steps}")
    saver.recover_last_checkpoints(mnist_forward.checkpoints(args.model)[::-1])
    return step


def backward(args):
    """Train up to the step args.steps, from the newest checkpoint of args.model.

    Returns:
      The signal that ended it early, or None.
    """
    train_op, loss, finite, queue_fill = training_graph(args)
    variables = {variable.op.name: variable for variable in tf.global_variables()}
    saver = tf.train.Saver(variables, save_relative_paths=True)
    with tf.Session() as sess, stop_signals() as caught:
        sess.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
        step = resume(sess, saver, variables, args)
        if step >= args.steps:
            print(f"Nothing left to do; to train on, run with a larger total such as --steps {2 * step}.")
        coord = tf.train.Coordinator()
        threads = tf.train.start_queue_runners(sess=sess, coord=coord)
        try:
            since, seconds, stopped = step, time.perf_counter(), False
            while step < args.steps and not stopped:
                _, loss_value = sess.run([train_op, loss])
                step, stopped = step + 1, bool(caught)
                if not math.isfinite(loss_value):
                    raise UserError(NOT_FINITE.format(step=step, model=args.model))
                if step % args.save_every == 0 or step == args.steps or stopped:
                    rate = (step - since) / (time.perf_counter() - seconds)
                    left = datetime.timedelta(seconds=round((args.steps - step) / rate))
                    print(
                        f"After {step} training step(s), loss on training batch is {loss_value:g}."
                        f"  {rate:.0f} steps/s, {left} left, queue {sess.run(queue_fill):.0%} full",
                        flush=True,
                    )
                    save(sess, saver, finite, args.model, step)
                    since, seconds = step, time.perf_counter()
        finally:
            coord.request_stop()
            coord.join(threads)
    return caught[0] if caught else None


def main():
    parser = argparse.ArgumentParser(description="Train the network, from its newest checkpoint on.")
    parser.add_argument("--data", type=Path, default=DATA_PATH, help="folder of the TFRecords (%(default)s)")
    parser.add_argument("--model", type=Path, default=MODEL_SAVE_PATH, help="folder of the checkpoints (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="train up to this step in all (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=BATCH_SIZE, help="pictures a step (%(default)s)")
    parser.add_argument("--learning_rate", type=float, default=LEARNING_RATE_BASE, help="at step 0 (%(default)s)")
    parser.add_argument("--save_every", type=int, default=SAVE_EVERY, help="steps between checkpoints (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of weights, shuffling and distortions (%(default)s)")
    parser.add_argument("--no_distortions", action="store_true", help="train on the pictures as they are")
    args = parser.parse_args()
    for name, most in (("steps", 10**9), ("batch_size", 10**5), ("save_every", 10**9)):
        if not 1 <= getattr(args, name) <= most:
            parser.error(f"--{name} must be from 1 to {most}")
    mnist_generateds.count_records(args.data / mnist_generateds.TEST_RECORDS)  # what the run ends on

    tf.set_random_seed(args.seed)
    with only_trainer(args.model):
        remove_unfinished(args.model)
        if not (args.model / mnist_app.FAMILIAR).exists():
            records = args.data / mnist_generateds.TRAIN_RECORDS
            mnist_app.write_familiar(args.model, *mnist_generateds.some_samples(records, FAMILIAR_SAMPLES))
        signal_number = backward(args)
        if signal_number:
            print("Stopped; run again to go on from the last checkpoint.")
            return 128 + signal_number
    _, right, total = mnist_test.test(args.model, args.data, once=True)
    print(f"{total - right} of {total} test pictures were wrong")
    return None


if __name__ == "__main__":
    mnist_forward.run(main)
