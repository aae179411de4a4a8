"""Trains the network from the TFRecords, and goes on where it stopped (lecture 6.1 and 6.2).

`python mnist_backward.py`, after mnist_generateds.py, writes a checkpoint to model/ every 1,000 steps, at the last one,
and on Ctrl-C or SIGTERM; STEPS is the total of all reruns.  With TF_CONFIG set several machines train together.
Test accuracy, 2 cores, `--seed` 1, 2 and 3:

    --steps 60000 (the default)                              99.36 % (four runs, 99.34 to 99.40)     about 4 minutes
    --steps 80000 --batch_size 200 --learning_rate 0.2       99.41 % (three runs, 99.41 to 99.42)    6 to 8 minutes
"""

import argparse
import contextlib
import datetime
import math
import os
import shutil
import signal
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace

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


@contextlib.contextmanager
def only_trainer(args):
    """Hold the folder args.model for this trainer alone, and make it ready to be trained in."""
    try:
        args.model.mkdir(parents=True, exist_ok=True)
        (args.model / ".lock").write_bytes(b"")  # SQLite would not say that it may only read
        lock = sqlite3.connect(args.model / ".lock", timeout=0)  # it works everywhere and ends with its process
        lock.execute("BEGIN EXCLUSIVE")
    except (OSError, sqlite3.Error) as error:
        why = "another training holds it" if "locked" in str(error) else error
        raise UserError(f"{args.model} can't be written to ({why}): name another --model.") from None
    with contextlib.closing(lock):
        mnist_generateds.record_files(args.data, mnist_generateds.TEST_SET)  # what the run ends on
        remove_unfinished(args.model)
        begun = mnist_forward.checkpoints(args.model)
        if begun:
            mnist_forward.require_same_classes(args.model, args.data)
        if not (args.data / mnist_app.FAMILIAR).exists():
            print(f"{args.data} has no {mnist_app.FAMILIAR} of mnist_generateds.py: the app will refuse less.")
        for name in (mnist_forward.CLASSES, mnist_app.FAMILIAR):
            if (args.data / name).exists():
                with mnist_forward.whole(args.model / name) as part:
                    shutil.copyfile(args.data / name, part)
            elif not begun:
                (args.model / name).unlink(missing_ok=True)
        yield


def training_graph(args, task=0, tasks=1):
    """Build the queue, the network and the training step, in the default graph, on machine `task` of `tasks`."""
    _, train_num_examples = mnist_generateds.record_files(args.data, mnist_generateds.TRAIN_SET)
    print(f"{train_num_examples} training pictures, {train_num_examples / args.batch_size:g} steps an epoch")
    global_step = tf.train.create_global_step()
    faded = (tf.cast(global_step, tf.float32) / args.steps - FADE_FROM) / (1 - FADE_FROM)
    strength = args.distortions * (1 - (1 - FADE_TO) * tf.clip_by_value(faded, 0, 1))
    distortions = {name: strength * most for name, most in DISTORTIONS.items()} if args.distortions else None
    img_batch, label_batch = mnist_generateds.get_tfrecord(args.batch_size, True, args.data, distortions, task, tasks)
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
    fill = tf.get_collection("queue_fill")[0]
    for name, value in (("loss", loss), ("learning_rate", learning_rate), ("queue_fill", fill)):
        tf.summary.scalar(name, value)
    tf.summary.image("pictures", tf.reshape(img_batch[:6], [-1, mnist_app.SIDE, mnist_app.SIDE, 1]), max_outputs=6)
    summaries, saver = tf.summary.merge_all(), tf.train.Saver(save_relative_paths=True)
    return SimpleNamespace(train_op=train_op, step=step, loss=loss, fill=fill, summaries=summaries, saver=saver)


def remove_unfinished(model):
    """Remove what a save that was killed or found the disk full has left in the folder `model`."""
    for part in [*model.glob(f"{MODEL_NAME}-*[._]temp*"), *model.glob("checkpoint.tmp*")]:
        shutil.rmtree(part) if part.is_dir() else part.unlink()


def save(sess, graph, args, step, rate):
    """Save a checkpoint, and for TensorBoard what the training looks like at a `rate` of steps a second.  Raises
    UserError where the disk is full; the earlier checkpoints stay whole."""
    try:
        graph.saver.save(sess, str(args.model / MODEL_NAME), global_step=step, write_meta_graph=False)
    except (tf.errors.UnavailableError, tf.errors.AbortedError):  # the parameter server is gone, not the disk
        raise
    except (tf.errors.OpError, ValueError) as error:  # ValueError: the folder is gone
        remove_unfinished(args.model)
        why = f"{args.model} took no checkpoint at step {step} ({mnist_forward.cause(error)})"
        raise UserError(f"{why}: make room, the earlier ones are whole.") from None
    speed = tf.Summary.Value(tag="pictures_per_second", simple_value=rate * args.batch_size)
    events = tf.summary.FileWriterCache.get(str(args.model))
    events.add_summary(tf.Summary(value=[speed]), step)
    events.add_summary(sess.run(graph.summaries), step)
    events.flush()


def resume(sess, graph, args):
    """Restore the newest checkpoint of args.model, if there is one (lecture 6.1), and return its step, else 0."""
    variables = {variable.op.name: variable for variable in tf.global_variables()}
    ckpt = mnist_forward.restore_newest(sess, graph.saver, variables, args.model)
    if not ckpt:
        return 0
    step = mnist_forward.stored_step(ckpt)
    print(f"Going on from {ckpt}, step {step} of {args.steps}")
    graph.saver.recover_last_checkpoints(mnist_forward.checkpoints(args.model)[::-1])
    return step


def train_steps(sess, graph, args, step, keep):
    """Run training steps from `step` to args.steps, with a line, and a call of keep(step, rate), every args.save_every.
    Returns the signal that ended it early, after a last call, or None; UserError where the loss overflows."""
    caught = []

    def catch(number, _frame):
        caught.append(number)
        signal.signal(number, signal.SIG_DFL)  # the second one kills

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, catch)
    since, seconds, stopped = step, time.perf_counter(), False
    while step < args.steps and not stopped:
        before = step
        _, counted, loss_value = sess.run([graph.train_op, graph.step, graph.loss])
        step, stopped = min(counted, args.steps), bool(caught)  # several machines may take the last step at once
        due = step // args.save_every > before // args.save_every or step == args.steps or stopped
        if not math.isfinite(loss_value) or (due and not math.isfinite(sess.run(graph.loss))):  # after this step, too
            cure = f"run again with a lower --learning_rate; {args.model} keeps the checkpoints from before"
            raise UserError(f"The loss is no longer a finite number at step {step}: {cure}.")
        if due:
            rate = (step - since) / (time.perf_counter() - seconds)
            left = datetime.timedelta(seconds=round((args.steps - step) / max(rate, 1e-3)))
            speed = f"{rate:.0f} steps/s, {left} left, queue {sess.run(graph.fill):.0%} full"
            print(f"After {step} training step(s), loss on training batch is {loss_value:g}.  {speed}", flush=True)
            keep(step, rate)
            since, seconds = step, time.perf_counter()
    return caught[0] if caught else None


def backward(args):
    """Train up to the step args.steps, from the newest checkpoint of args.model; returns what train_steps does."""
    graph = training_graph(args)
    with tf.Session() as sess:
        sess.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
        step = resume(sess, graph, args)
        if step >= args.steps:
            print(f"Nothing left to do; to train on, run with a larger total such as --steps {2 * step}.")
        coord = tf.train.Coordinator()
        threads = tf.train.start_queue_runners(sess=sess, coord=coord)
        try:
            return train_steps(sess, graph, args, step, lambda *progress: save(sess, graph, args, *progress))
        finally:
            coord.request_stop()
            coord.join(threads)


def this_machine():
    """(tf.train.ClusterSpec, job, index) by the environment variable TF_CONFIG; without it ("", "chief", 0)."""
    if not os.environ.get("TF_CONFIG"):
        return "", "chief", 0
    try:
        config = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        for job, index in ((config.task_type, config.task_id), ("ps", 0), ("chief", 0)):
            config.cluster_spec().task_address(job, index)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"TF_CONFIG is not as the README shows it ({error}): correct it, or unset it.") from None
    return config.cluster_spec(), config.task_type, config.task_id


def backward_in_cluster(args, spec, job, index):
    """This machine's part of a training on several: `ps` holds the weights, the chief and the workers train them.  The
    chief initialises or restores, and saves; a worker waits until it has.  Each may be killed and started again."""
    server = tf.train.Server(spec, job, index)
    if job == "ps":
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # join is deaf to it
        server.join()
    own, is_chief = f"/job:{job}/task:{index}", job == "chief"
    with tf.device(tf.train.replica_device_setter(cluster=spec, worker_device=own)):
        graph = training_graph(args, 0 if is_chief else 1 + index, 1 + len(spec.as_dict().get("worker", [])))
    scaffold = tf.train.Scaffold(saver=graph.saver, init_fn=lambda _, sess: resume(sess, graph, args))
    creator = tf.train.ChiefSessionCreator if is_chief else tf.train.WorkerSessionCreator
    alone = tf.ConfigProto(device_filters=["/job:ps", own])  # or every start would wait for every machine

    def keep(*progress):
        if is_chief:
            sess.run_step_fn(lambda step_context: save(step_context.session, graph, args, *progress))

    print(f"{job} {index} waits for the parameter server" + ("" if is_chief else " and the chief"), flush=True)
    with tf.train.MonitoredSession(creator(scaffold, server.target, alone)) as sess:
        return train_steps(sess, graph, args, sess.run(tf.train.get_global_step()), keep)


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
    for name, most in {"steps": 10**9, "batch_size": 10**5, "save_every": 10**9, "distortions": 3}.items():
        least = 0 if name == "distortions" else 1
        if not least <= getattr(args, name) <= most:
            parser.error(f"--{name} must be from {least} to {most}")
    spec, job, index = this_machine()
    # Another seed after each checkpoint: a training killed again and again would else see its first batches each time.
    step = max(map(mnist_forward.stored_step, mnist_forward.checkpoints(args.model)), default=0)
    tf.set_random_seed(args.seed + step + (0 if job == "chief" else 1 + index))
    with only_trainer(args) if job == "chief" else contextlib.nullcontext():
        caught = backward_in_cluster(args, spec, job, index) if spec else backward(args)
    if caught:
        print("Stopped; run again to go on from the last checkpoint.")
        return 128 + caught
    if job == "chief":
        signal.signal(signal.SIGINT, signal.default_int_handler)  # there is nothing to save any more
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        mnist_test.test(args.model, args.data, once=True)


if __name__ == "__main__":
    mnist_forward.run(main)
