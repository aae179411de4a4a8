"""Trains the network from the TFRecords and goes on where it stopped (lecture 6.1 and 6.2).

    python mnist_backward.py                  # after mnist_generateds.py

writes a checkpoint to model/ every 1,000 steps, at the last one, and on Ctrl-C or SIGTERM.  STEPS is the total: a
rerun goes on from the newest checkpoint.  Test accuracy on 2 cores, `--seed` 1, 2 and 3:

    --steps 60000 (the default)                              99.35 %, 99.41 %, 99.35 %     about 4 minutes
    --steps 80000 --batch_size 200 --learning_rate 0.2       99.41 %, 99.42 %, 99.41 %     6 to 8 minutes

With TF_CONFIG set, TensorFlow's convention, several machines train together: `Cluster` and `backward_in_cluster`.
"""

import argparse
import contextlib
import datetime
import json
import math
import os
import shutil
import signal
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

import mnist_app
import mnist_forward
import mnist_generateds
import mnist_test
from mnist_forward import DATA_PATH, MODEL_NAME, MODEL_SAVE_PATH, MOVING_AVERAGE_DECAY, UserError, tf

# Beside each setting: the lecture's value.  Ours were chosen on 5,000 training digits held out, 16,000 steps each.
BATCH_SIZE = 100  # lecture: 200, which in the same time is more pictures, but a third fewer steps: worse on photos
STEPS = 60000  # lecture: 50,000
LEARNING_RATE_BASE = 0.12  # lecture: 0.1, x 0.99 an epoch; here a cosine decay to zero at the last step
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
        if not os.access(model, os.W_OK):
            raise PermissionError("read-only")
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


class Training(NamedTuple):
    """The tensors of a training: train_op, which runs one step, and what is known of it then."""

    train_op: tf.Operation
    step: tf.Tensor  # int64, after this one
    loss: tf.Tensor  # float32, of the batch
    finite: tf.Tensor  # bool, whether all weights are
    queue_fill: tf.Tensor  # 0..1
    summaries: tf.Tensor  # string, for TensorBoard
    saver: tf.train.Saver
    variables: dict  # {name in the checkpoint: tf.Variable}


def training_graph(args, task=0, tasks=1):
    """Build the queue, the network and the training step, in the default graph, on machine `task` of `tasks`."""
    train_num_examples = mnist_generateds.count_examples(args.data, mnist_generateds.TRAIN_SET)
    print(f"{train_num_examples} training pictures, {train_num_examples / args.batch_size:g} steps an epoch")
    global_step = tf.train.create_global_step()
    distortions = DISTORTIONS if args.distortions else None
    faded = (tf.cast(global_step, tf.float32) / args.steps - FADE_FROM) / (1 - FADE_FROM)
    strength = args.distortions * (1 - (1 - FADE_TO) * tf.clip_by_value(faded, 0, 1))
    img_batch, label_batch = mnist_generateds.get_tfrecord(
        args.batch_size, True, args.data, distortions, strength, task, tasks
    )
    y = mnist_forward.forward(img_batch, REGULARIZER, len(mnist_forward.class_names(args.data)))

    ce = tf.nn.sparse_softmax_cross_entropy_with_logits(logits=y, labels=tf.argmax(label_batch, 1))
    loss = tf.reduce_mean(ce) + tf.add_n(tf.get_collection("losses"))
    learning_rate = tf.train.cosine_decay(args.learning_rate, global_step, args.steps)
    train_step = tf.train.MomentumOptimizer(learning_rate, MOMENTUM, use_nesterov=True).minimize(loss)
    ema = tf.train.ExponentialMovingAverage(MOVING_AVERAGE_DECAY, global_step)
    with tf.control_dependencies([train_step]):
        step = tf.assign_add(global_step, 1, use_locking=True)
    with tf.control_dependencies([step]):
        train_op = ema.apply(tf.trainable_variables())
    finite = tf.is_finite(tf.global_norm(tf.trainable_variables()))

    queue_fill = tf.get_collection("queue_fill")[0]
    tf.summary.scalar("loss", loss)
    tf.summary.scalar("learning_rate", learning_rate)
    tf.summary.scalar("queue_fill", queue_fill)
    tf.summary.image("pictures", tf.reshape(img_batch[:6], [-1, mnist_app.SIDE, mnist_app.SIDE, 1]), max_outputs=6)
    variables = {variable.op.name: variable for variable in tf.global_variables()}
    saver = tf.train.Saver(variables, save_relative_paths=True)
    return Training(train_op, step, loss, finite, queue_fill, tf.summary.merge_all(), saver, variables)


def remove_unfinished(model):
    """Remove what a save that was killed or found the disk full has left in the folder `model`."""
    for part in [*model.glob(f"{MODEL_NAME}-*temp*"), *model.glob("checkpoint.tmp*")]:
        shutil.rmtree(part) if part.is_dir() else part.unlink()


def save(sess, graph, model, step):
    """Save a checkpoint of the step.

    Raises:
      UserError: the weights are not finite, or the disk takes no more; the earlier checkpoints are kept and whole.
    """
    if not sess.run(graph.finite):
        raise UserError(NOT_FINITE.format(step=step, model=model))
    try:
        graph.saver.save(sess, str(model / MODEL_NAME), global_step=step, write_meta_graph=False)
    except (tf.errors.UnavailableError, tf.errors.AbortedError):  # the parameter server is gone, not the disk
        raise
    except (tf.errors.OpError, ValueError) as error:  # ValueError: the folder is gone
        remove_unfinished(model)
        raise UserError(
            f"{model} took no checkpoint at step {step} ({mnist_forward.cause(error)}): make room, "
            "the earlier ones are whole."
        ) from None


def resume(sess, graph, args):
    """Restore the newest checkpoint of args.model, if there is one (lecture 6.1), and return its step, else 0."""
    ckpt = mnist_forward.restore_newest(sess, graph.saver, graph.variables, args.model)
    if not ckpt:
        return 0
    step = mnist_forward.stored_step(ckpt)
    print(f"Going on from {ckpt}, step {step} of {args.steps}")
    graph.saver.recover_last_checkpoints(mnist_forward.checkpoints(args.model)[::-1])
    return step


def note_progress(sess, graph, args, step, rate, events):
    """Append to TensorBoard's event file what the training looks like at a step, at `rate` steps a second."""
    speed = tf.Summary.Value(tag="pictures_per_second", simple_value=rate * args.batch_size)
    events.add_summary(tf.Summary(value=[speed]), step)
    events.add_summary(sess.run(graph.summaries), step)
    events.flush()


def train_steps(sess, graph, args, step, keep):
    """Run training steps from `step` to args.steps, with a line, and a call of keep(step, rate), every args.save_every.

    Returns:
      The signal that ended it early, or None.
    """
    with stop_signals() as caught:
        since, seconds, stopped = step, time.perf_counter(), False
        while step < args.steps and not stopped:
            before = step
            _, counted, loss_value = sess.run([graph.train_op, graph.step, graph.loss])
            step, stopped = min(counted, args.steps), bool(caught)  # several machines may take the last step at once
            if not math.isfinite(loss_value):
                raise UserError(NOT_FINITE.format(step=step, model=args.model))
            if step // args.save_every > before // args.save_every or step == args.steps or stopped:
                rate = (step - since) / (time.perf_counter() - seconds)
                left = datetime.timedelta(seconds=round((args.steps - step) / max(rate, 1e-3)))
                print(
                    f"After {step} training step(s), loss on training batch is {loss_value:g}."
                    f"  {rate:.0f} steps/s, {left} left, queue {sess.run(graph.queue_fill):.0%} full",
                    flush=True,
                )
                keep(step, rate)
                since, seconds = step, time.perf_counter()
    return caught[0] if caught else None


def backward(args):
    """Train up to the step args.steps, from the newest checkpoint of args.model.

    Returns:
      The signal that ended it early, or None.
    """
    graph = training_graph(args)

    def keep(step, rate):
        save(sess, graph, args.model, step)
        note_progress(sess, graph, args, step, rate, events)

    with tf.Session() as sess, contextlib.closing(tf.summary.FileWriter(str(args.model), sess.graph)) as events:
        sess.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
        step = resume(sess, graph, args)
        if step >= args.steps:
            print(f"Nothing left to do; to train on, run with a larger total such as --steps {2 * step}.")
        coord = tf.train.Coordinator()
        threads = tf.train.start_queue_runners(sess=sess, coord=coord)
        try:
            return train_steps(sess, graph, args, step, keep)
        finally:
            coord.request_stop()
            coord.join(threads)


class Cluster:
    """What the environment variable TF_CONFIG says, TensorFlow's convention for several machines.

    {"cluster": {"ps": [host:port], "chief": [host:port], "worker": [host:port, ...]},
     "task": {"type": "ps", "chief" or "worker", "index": of this machine}}
    """

    def __init__(self, text):
        try:
            config = json.loads(text)
            self.spec = tf.train.ClusterSpec(config["cluster"])
            self.job, self.index = config["task"]["type"], int(config["task"]["index"])
            for job, index in ((self.job, self.index), ("ps", 0), ("chief", 0)):
                self.spec.task_address(job, index)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"TF_CONFIG is not as the README shows it ({error}): correct it, or unset it.") from None
        self.is_chief = self.job == "chief"
        self.task = 0 if self.is_chief else 1 + self.index
        self.tasks = 1 + (self.spec.num_tasks("worker") if "worker" in self.spec.jobs else 0)


def backward_in_cluster(args, cluster):
    """This machine's part of a training on several: `ps` holds the weights, the chief and the workers train them.

    The chief initialises or restores, and saves; a worker waits until it has.  Each may be killed and started again.
    """
    server = tf.train.Server(cluster.spec, cluster.job, cluster.index)
    if cluster.job == "ps":
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # join is deaf to it
        server.join()
    own = f"/job:{cluster.job}/task:{cluster.index}"
    with tf.device(tf.train.replica_device_setter(cluster=cluster.spec, worker_device=own)):
        graph = training_graph(args, cluster.task, cluster.tasks)
    scaffold = tf.train.Scaffold(saver=graph.saver, init_fn=lambda _, sess: resume(sess, graph, args))
    creator = tf.train.ChiefSessionCreator if cluster.is_chief else tf.train.WorkerSessionCreator
    alone = tf.ConfigProto(device_filters=["/job:ps", own])  # or every start would wait for every machine

    events = tf.summary.FileWriter(str(args.model), tf.get_default_graph()) if cluster.is_chief else None

    def keep(step, rate):
        if cluster.is_chief:
            sess.run_step_fn(lambda step_context: save(step_context.session, graph, args.model, step))
            note_progress(sess, graph, args, step, rate, events)

    with tf.train.MonitoredSession(creator(scaffold, server.target, alone)) as sess:
        return train_steps(sess, graph, args, sess.run(tf.train.get_global_step()), keep)


def prepare_folder(args):
    """Make the folder args.model ready to be trained in: its classes, its familiar digits, and nothing half written."""
    begun = mnist_forward.checkpoints(args.model)
    if begun:
        mnist_forward.require_same_classes(args.model, args.data)
    remove_unfinished(args.model)
    names = mnist_forward.class_names(args.data)
    if names != mnist_forward.class_names(args.model):
        mnist_forward.write_classes(args.model, names)
    if not begun or not (args.model / mnist_app.FAMILIAR).exists():
        some = mnist_generateds.some_samples(args.data, mnist_generateds.TRAIN_SET, FAMILIAR_SAMPLES)
        mnist_app.write_familiar(args.model, *some)


def main():
    parser = argparse.ArgumentParser(description="Train the network, from its newest checkpoint on.")
    parser.add_argument("--data", type=Path, default=DATA_PATH, help="folder of the TFRecords (%(default)s)")
    parser.add_argument("--model", type=Path, default=MODEL_SAVE_PATH, help="folder of the checkpoints (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="train up to this step in all (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=BATCH_SIZE, help="pictures a step (%(default)s)")
    parser.add_argument("--learning_rate", type=float, default=LEARNING_RATE_BASE, help="at step 0 (%(default)s)")
    parser.add_argument("--save_every", type=int, default=SAVE_EVERY, help="steps between checkpoints (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of weights, shuffling and distortions (%(default)s)")
    parser.add_argument("--distortions", type=float, default=1, help="their strength; 0: none (%(default)s)")
    args = parser.parse_args()
    for name, most in (("steps", 10**9), ("batch_size", 10**5), ("save_every", 10**9)):
        if not 1 <= getattr(args, name) <= most:
            parser.error(f"--{name} must be from 1 to {most}")
    if not 0 <= args.distortions <= 3:
        parser.error("--distortions must be from 0 to 3")
    cluster = Cluster(os.environ["TF_CONFIG"]) if os.environ.get("TF_CONFIG") else None
    # Another seed after each checkpoint: a training killed again and again would else see its first batches each time.
    begun = mnist_forward.checkpoints(args.model)
    step = mnist_forward.stored_step(begun[0]) if begun else 0
    tf.set_random_seed(args.seed + step + (cluster.task if cluster else 0))
    if cluster and not cluster.is_chief:
        signal_number = backward_in_cluster(args, cluster)
        return 128 + signal_number if signal_number else None

    mnist_generateds.count_examples(args.data, mnist_generateds.TEST_SET)  # what the run ends on
    with only_trainer(args.model):
        prepare_folder(args)
        signal_number = backward_in_cluster(args, cluster) if cluster else backward(args)
        if signal_number:
            print("Stopped; run again to go on from the last checkpoint.")
            return 128 + signal_number
    judged = mnist_test.test(args.model, args.data, once=True)
    print(f"{len(judged.wrong)} of {len(judged.truth)} test pictures were wrong")
    return None


if __name__ == "__main__":
    mnist_forward.run(main)
