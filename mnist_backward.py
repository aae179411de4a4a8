"""Trains the network from the TFRecords, and goes on where it stopped (lecture 6.1 and 6.2).

Run mnist_generateds.py first.  `python mnist_backward.py` writes a checkpoint to model/ every 1,000 steps, at the last
one, and on Ctrl-C or SIGTERM; STEPS is the total of all reruns.  With TF_CONFIG set several machines train together.
Test accuracy of the default, 60,000 steps, 1 to 3 minutes on 2 cores, with `--seed` 1, 2 and 3:

    MNIST's test digits                                           99.33 % (99.30 to 99.37)
    the world's test digits                                       98.30 % (98.25 to 98.36)
    trained on MNIST alone, MNIST's test digits                   99.36 % (99.31 to 99.42)
"""

import argparse
import contextlib
import datetime
import functools
import math
import os
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

import mnist_app
import mnist_forward
import mnist_generateds
import mnist_test
from mnist_forward import (
    DATA_PATH,
    IMAGE_SIDE,
    INPUT_NODE,
    MODEL_NAME,
    MODEL_SAVE_PATH,
    MOVING_AVERAGE_DECAY,
    OUTLINES_FILE,
    Restorable,
    UserError,
    tf,
)

# ======== Settings

# The comment at each setting gives the lecture's value.  Our values were chosen by the accuracy after 16,000 steps on
# 5,000 training digits that were held out.
BATCH_SIZE = 100  # Lecture: 200.  Batches of 200 allow a third fewer steps in the same time: photos were read worse.
STEPS = 60000  # Lecture: 50,000.
LEARNING_RATE_BASE = 0.12  # Lecture: 0.1, times 0.99 an epoch.  Here a cosine takes the rate to zero at the last step.
MOMENTUM = 0.9  # Lecture: none.  Here Nesterov's.
REGULARIZER = 0.00001  # Lecture: 0.0001.  Here the distortions do most of the regularizer's work.
AVERAGE_EVERY = 10  # Steps between two updates of the moving averages.  Lecture: 1, which here costs a tenth of a step.
SEED = 1  # Of the first weights, the shuffling and the distortions.  Two runs still differ, by the order of threads.
SAVE_EVERY = 1000  # Steps between two checkpoints, each with a line of progress.  Lecture: 1,000.

# ======== Distortions

# The lecture has no distortions.  Each of these is drawn evenly between minus and plus its number; only the elastic one
# is drawn from a normal distribution.
DISTORTIONS = {
    "rotation": 15,  # degrees
    "shear": 0.25,  # pixels to the right for each pixel down
    "scale": 0.18,  # share of the height; another share is drawn for the width
    "shift": 2,  # pixels
    "elastic": 0.7,  # pixels, the standard deviation
}
# The distortions fade over the last part of the training, so that the network ends on digits as they are.  They begin
# to fade when this share of all steps is done ...
FADE_FROM = 0.7
# ... and at the last step this share of their strength is left.
FADE_TO = 0.3
# The number of pictures that share one random field, and so are distorted alike.  The pictures of several batches are
# distorted together (PORTION in mnist_generateds.py): by default 200 pictures, with 25 fields.  Field 0 moves the
# pictures 0, 25, 50, ..., 175, so four of each batch of 100.  Moving the same pixel of 8 pictures takes hardly longer
# than moving the pixel of one.
PICTURES_A_FIELD = 8


def fade_strength(strength, step, steps):
    """The distortions' strength at a step, a scalar tensor; `strength` is theirs at step 0, `steps` the last one."""
    done = tf.cast(step, tf.float32) / steps
    faded = tf.clip_by_value((done - FADE_FROM) / (1 - FADE_FROM), 0, 1)
    return strength * (1 - (1 - FADE_TO) * faded)


def distort(img, strength):
    """Distort pictures at random, float32 [num, 784] to the same; `strength` multiplies DISTORTIONS."""
    num = img.shape[0]
    pictures_a_field = math.gcd(num, PICTURES_A_FIELD)  # All fields must be shared by equally many pictures.
    strengths = {name: strength * most for name, most in DISTORTIONS.items()}
    return warp(img, random_field(num // pictures_a_field, **strengths))


def random_field(n, *, rotation, shear, scale, shift, elastic):
    """Draw n random fields of displacements: float32 [n, 2, 28, 28], for each pixel (down, right) in pixels.

    A field is the sum of an affine map about the centre, a shift, and an elastic part (Simard, Steinkraus and Platt
    2003): normal noise at 7x7 points, and bicubic between them.  The arguments, as in DISTORTIONS, may be tensors.
    """
    angle = math.radians(1) * rotation * tf.random_uniform([n], -1, 1)
    slope = shear * tf.random_uniform([n], -1, 1)
    sizes = 1 + scale * tf.random_uniform([n, 2], -1, 1)  # height and width, as shares of those before
    sin = tf.sin(angle)
    cos = tf.cos(angle)
    one = tf.ones([n])
    zero = tf.zeros([n])
    # The affine map is the product of three matrices, applied from right to left to a place (down, right) of the
    # output.  The product tells from which place of the input that pixel is taken.  So the sizes divide: in a picture
    # that is made twice as high, the pixel 10 rows below the centre comes from 5 rows below it.
    # Written out, a matrix has the shape [2, 2, n]; the transpose makes [n, 2, 2] of it, one matrix for each field.
    shearing = tf.transpose([[one, zero], [slope, one]], [2, 0, 1])
    rotating = tf.transpose([[cos, sin], [-sin, cos]], [2, 0, 1])
    resizing = tf.linalg.diag(1 / sizes)
    affine_map = resizing @ rotating @ shearing
    from_centre = _pixel_places() - (IMAGE_SIDE - 1) / 2
    # The map gives the place that a pixel comes from, a field only how far away that is: the map's place minus the
    # pixel's own.  So the identity is subtracted from the map.
    affine = tf.tensordot(affine_map - tf.eye(2), from_centre, axes=1)  # [n, 2, 28, 28]
    shifts = shift * tf.random_uniform([n, 2, 1, 1], -1, 1)
    noise = tf.random_normal([2 * n, 7, 7, 1])
    smooth_noise = tf.image.resize_bicubic(noise, [IMAGE_SIDE, IMAGE_SIDE], align_corners=True)
    return affine + shifts + elastic * tf.reshape(smooth_noise, [n, 2, IMAGE_SIDE, IMAGE_SIDE])


def warp(img, field):
    """Move the pixels of pictures: output[p] = img[p + field[p]], bilinear.

    Args:
      img: float32 [k * n, 784].
      field: float32 [n, 2, 28, 28], (down, right) in pixels; field i moves the k pictures i, n + i, 2 * n + i, ...

    Beyond the edge a picture goes on as its edge.  Returns float32 [k * n, 784].
    """
    n = field.shape[0]
    # A little less than the last pixel, so that each source has a neighbour below and to the right.
    source = tf.clip_by_value(_pixel_places() + field, 0, IMAGE_SIDE - 1 - 1e-3)
    corner = tf.floor(source)
    down, right = (tf.reshape(part, [n * INPUT_NODE, 1]) for part in tf.unstack(source - corner, axis=1))
    # A gather moves whole rows of a table.  So the k pictures of a field stand side by side in a table of n * 784 rows
    # and k columns: row 784 * i + p holds pixel p of the pictures of field i.  An example: with 2 fields and 6 pictures
    # the row 784 + 5 holds pixel 5 of the pictures 1, 3 and 5.
    table = tf.transpose(tf.reshape(img, [-1, n * INPUT_NODE]))
    row, column = tf.unstack(tf.cast(corner, tf.int32), axis=1)
    index = tf.reshape(INPUT_NODE * tf.range(n)[:, None, None] + IMAGE_SIDE * row + column, [-1])
    # Each pixel of the output is a weighted sum of four pixels.  The key of a weight is the number of rows from the
    # corner's row in the table to the row of the pixel.
    weights = {
        0: (1 - down) * (1 - right),  # the corner itself, which is upper left
        1: (1 - down) * right,  # the pixel to the right of it
        IMAGE_SIDE: down * (1 - right),  # the pixel below it
        IMAGE_SIDE + 1: down * right,  # the pixel below and to the right
    }
    moved = tf.zeros_like(table)
    for rows, weight in weights.items():
        with tf.control_dependencies([moved]):  # One after the other, since all four at once would take more memory.
            moved += tf.gather(table, index + rows) * weight
    return tf.reshape(tf.transpose(moved), img.shape)


def _pixel_places():
    """Where each pixel is, (down, right): float32 [2, 28, 28]."""
    return tf.stack(tf.meshgrid(tf.range(float(IMAGE_SIDE)), tf.range(float(IMAGE_SIDE)), indexing="ij"))


# ======== Training


class TrainingGraph(NamedTuple):
    """The tensors and operations of the training."""

    train_op: tf.Operation  # one step: weights and step counter, then the averages
    step: tf.Tensor  # the step counter after that, int64
    loss: tf.Tensor  # of the batch
    queue_fill: tf.Tensor  # 0..1
    summaries: tf.Tensor  # for TensorBoard
    restorable: Restorable  # all variables


def backward(args):
    """Train up to the step args.steps, from the newest checkpoint of args.model on (lecture 6.1 and 6.2).

    Returns the number of the signal that ended it early, or None.
    """
    with tf.Graph().as_default():
        graph = build_training_graph(args)
        with tf.Session(config=_share_cores()) as sess:
            # string_input_producer counts its epochs in a local variable.
            sess.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
            step = resume(sess, graph, args)
            if step >= args.steps:
                print(f"Nothing left to do; to train on, run with a larger total such as --steps {2 * step}.")
                return None
            prepare_model_dir(args)
            coord = tf.train.Coordinator()
            threads = tf.train.start_queue_runners(sess=sess, coord=coord)
            try:
                return train(sess, graph, args, step, functools.partial(save, sess, graph, args))
            finally:
                coord.request_stop()
                coord.join(threads)


def _share_cores():
    """The session's settings, by which an operation is spread over half of the cores.

    The training step leaves the other half to the queue's thread, which works at the same time.  Spread over all cores,
    the two would often wait for each other: on 2 cores a training step then takes a quarter longer.
    """
    return tf.ConfigProto(intra_op_parallelism_threads=max(1, mnist_app.count_processors() // 2))


def build_training_graph(args, task=0, tasks=1):
    """Build the queue, the network and the training step in the default graph, on machine `task` of `tasks`.

    Looks at every record of the training set before, and prints how many there are.  Returns a TrainingGraph.
    """
    # The seed changes with each checkpoint.  Otherwise a training that is killed again and again would see the same
    # first batches each time.
    newest_step = max(map(mnist_forward.get_step, mnist_forward.list_checkpoints(args.model)), default=0)
    tf.set_random_seed(args.seed + newest_step + task)
    # Where several machines count a step at the same time, an ordinary variable may lose one of them.  A resource
    # variable, TensorFlow's newer kind, adds all of them.
    with tf.variable_scope("", use_resource=True):
        global_step = tf.train.create_global_step()

    # The lecture sets train_num_examples by hand, because its learning rate falls once an epoch.  Ours falls at every
    # step, so here the number is only printed.
    _, train_num_examples = mnist_generateds.find_records(args.data, mnist_generateds.TRAIN_SET)
    print(f"{train_num_examples} training pictures, {train_num_examples / args.batch_size:g} steps an epoch")
    # Learning rate and distortions take their course from args.from_step to args.steps.
    schedule_step = tf.maximum(global_step - args.from_step, 0)
    schedule_steps = args.steps - args.from_step
    distort_img = None
    if args.distortions:
        strength = fade_strength(args.distortions, schedule_step, schedule_steps)
        distort_img = functools.partial(distort, strength=strength)
    img_batch, label_batch = mnist_generateds.get_tfrecord(
        args.batch_size, isTrain=True, data_dir=args.data, distort=distort_img, task=task, tasks=tasks
    )

    y = mnist_forward.forward(img_batch, REGULARIZER, len(mnist_forward.read_class_names(args.data)))
    ce = tf.nn.sparse_softmax_cross_entropy_with_logits(logits=y, labels=tf.argmax(label_batch, 1))
    loss = tf.reduce_mean(ce) + tf.add_n(tf.get_collection("losses"))
    learning_rate = tf.train.cosine_decay(args.learning_rate, schedule_step, schedule_steps)
    train_op, step = build_train_op(loss, learning_rate, global_step)

    queue_fill = tf.get_collection("queue_fill")[0]
    summaries = _summarise(img_batch, {"loss": loss, "learning_rate": learning_rate, "queue_fill": queue_fill})
    restorable = Restorable({variable.op.name: variable for variable in tf.global_variables()})
    return TrainingGraph(train_op, step, loss, queue_fill, summaries, restorable)


def build_train_op(loss, learning_rate, global_step):
    """Build one step of the training: the weights are updated and the step is counted, then the averages are updated.

    Returns (the operation; the step counter after the update, a tensor).
    """
    optimizer = tf.train.MomentumOptimizer(learning_rate, MOMENTUM, use_nesterov=True)
    update_weights = optimizer.minimize(loss, global_step)
    with tf.control_dependencies([update_weights]):
        step = global_step.read_value()
        # The averages are updated at every AVERAGE_EVERY-th step.  The decay is taken to that power, so that one update
        # moves them as far as an update at each of these steps would.  The second argument is the number of
        # updates so far, n: TensorFlow takes (1 + n) / (10 + n) for the decay as long as that is smaller.
        ema = tf.train.ExponentialMovingAverage(MOVING_AVERAGE_DECAY**AVERAGE_EVERY, step // AVERAGE_EVERY)
        is_average_due = tf.equal(step % AVERAGE_EVERY, 0)
        return tf.cond(is_average_due, lambda: ema.apply(tf.trainable_variables()), tf.no_op), step


def _summarise(img_batch, scalars):
    """The summaries that TensorBoard shows, a string tensor: scalars by their names, and six pictures of the batch."""
    for name, scalar in scalars.items():
        tf.summary.scalar(name, scalar)
    tf.summary.image("pictures", tf.reshape(img_batch[:6], [-1, IMAGE_SIDE, IMAGE_SIDE, 1]), max_outputs=6)
    return tf.summary.merge_all()


def resume(sess, graph, args):
    """Restore the newest checkpoint of args.model, if there is one (lecture 6.1), and return its step, else 0."""
    if mnist_forward.list_checkpoints(args.model):
        mnist_forward.require_same_classes(args.model, args.data)
    ckpt = mnist_forward.restore_newest(sess, graph.restorable, args.model)
    if not ckpt:
        return 0
    step = mnist_forward.get_step(ckpt)
    print(f"Going on from {ckpt}, step {step} of {args.steps}")
    # The saver deletes the oldest checkpoint that it knows once it knows more than five.  After a restart it knows
    # none, so it is told of those in the folder, the oldest first.
    graph.restorable.saver.recover_last_checkpoints(mnist_forward.list_named_checkpoints(args.model)[::-1])
    return step


def train(sess, graph, args, step, save_step):
    """Run training steps from `step` to args.steps.

    Every args.save_every steps, after the last one, and when a signal ends it, it prints a line and calls
    save_step(step, steps a second, graph.summaries' value for the next batch).
    Returns the number of the signal that ended it early, or None.  Raises UserError where the loss overflows.
    """
    fetches = [graph.train_op, graph.step, graph.loss]
    # A callable costs less at each step than `run` does.  The session of several machines has none.
    take_step = sess.make_callable(fetches) if isinstance(sess, tf.Session) else functools.partial(sess.run, fetches)
    reported_step = step
    reported_at = time.perf_counter()
    with _catch_stop_signals() as caught:
        is_stopped = False
        while step < args.steps and not is_stopped:
            step_before = step
            _, step, loss_value = take_step()
            step = min(step, args.steps)  # Several machines may take the last step at once.
            is_stopped = bool(caught)
            is_interval_over = step // args.save_every > step_before // args.save_every
            is_due = is_interval_over or step == args.steps or is_stopped
            _require_finite(loss_value, step, args)
            if is_due:
                # The step computed its loss before it updated the weights.  One more batch shows whether the loss of
                # the updated weights is finite, too, before these weights are saved.
                next_loss, queue_fill, summaries = sess.run([graph.loss, graph.queue_fill, graph.summaries])
                _require_finite(next_loss, step, args)
                rate = (step - reported_step) / (time.perf_counter() - reported_at)
                speed = _describe_speed(rate, args.steps - step, queue_fill)
                print(f"After {step} training step(s), loss on training batch is {loss_value:g}.  {speed}", flush=True)
                save_step(step, rate, summaries)
                reported_step = step
                reported_at = time.perf_counter()
    return caught[0] if caught else None


def _require_finite(loss_value, step, args):
    """Raise UserError unless the loss is a finite number."""
    if not math.isfinite(loss_value):
        cure = f"run again with a lower --learning_rate; {args.model} keeps the checkpoints from before"
        raise UserError(f"The loss is no longer a finite number at step {step}: {cure}.")


def _describe_speed(rate, steps_left, queue_fill):
    """How fast the training is, at `rate` steps a second, how long it will still take, and how full its queue is."""
    left = datetime.timedelta(seconds=round(steps_left / max(rate, 1e-3)))
    return f"{rate:.0f} steps/s, {left} left, queue {queue_fill:.0%} full"


@contextlib.contextmanager
def _catch_stop_signals():
    """Collect stop signals while the block runs, so that the training can save before it ends.

    A stop signal is Ctrl-C (SIGINT), a plain `kill` (SIGTERM), or the end of the terminal or the connection (SIGHUP,
    unless `nohup` made the program ignore it).  The block gets a list, to which the number of the first signal is
    added.  A second signal of the same kind ends the program at once, as if it were not caught.
    """
    caught = []

    def catch(number, _frame):
        caught.append(number)
        signal.signal(number, signal.SIG_DFL)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # Windows has none.
        numbers.append(signal.SIGHUP)
    handlers = {number: signal.signal(number, catch) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


# ======== The model folder


def save(sess, graph, args, step, rate, summaries):
    """Save a checkpoint, and for TensorBoard the serialized `summaries` and the `rate` in steps a second.

    Raises UserError where the disk is full; the earlier checkpoints stay whole.
    """
    try:
        path = str(args.model / MODEL_NAME)
        graph.restorable.saver.save(sess, path, global_step=step, write_meta_graph=False)
    except (tf.errors.UnavailableError, tf.errors.AbortedError):  # The parameter server is gone, not the disk.
        raise
    except (tf.errors.OpError, ValueError) as error:  # ValueError: the folder is gone.
        _remove_unfinished(args.model)
        why = f"{args.model} took no checkpoint at step {step} ({mnist_forward.explain(error)})"
        raise UserError(f"{why}: make room, the earlier ones are whole.") from None
    speed = tf.Summary.Value(tag="pictures_per_second", simple_value=rate * args.batch_size)
    events = tf.summary.FileWriterCache.get(str(args.model))
    events.add_summary(tf.Summary(value=[speed]), step)
    events.add_summary(summaries, step)
    events.flush()


def prepare_model_dir(args):
    """Make a model folder ready to be trained in: without half a checkpoint, with the classes and outlines."""
    _remove_unfinished(args.model)
    if not (args.data / OUTLINES_FILE).exists():
        print(f"{args.data} has no {OUTLINES_FILE} of mnist_generateds.py: the app will refuse less.")
    has_checkpoints = bool(mnist_forward.list_checkpoints(args.model))
    for name in mnist_forward.FILES_FOR_MODEL:
        if (args.data / name).exists():
            with mnist_forward.write_whole(args.model / name) as part:
                shutil.copyfile(args.data / name, part)
        elif not has_checkpoints:  # Then such a file is left over from a model that was removed.
            (args.model / name).unlink(missing_ok=True)


def _remove_unfinished(model_dir):
    """Remove what a save that was killed, or that found the disk full, has left in a model folder."""
    for part in [*model_dir.glob(f"{MODEL_NAME}-*[._]temp*"), *model_dir.glob("checkpoint.tmp*")]:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()


# ======== Training on several machines


class Machine(NamedTuple):
    """This machine's place in a training on several."""

    cluster: object  # a tf.train.ClusterSpec, the addresses of all machines
    job: str  # "ps", "chief" or "worker"
    index: int  # which one of its job, from 0

    @property
    def task(self):
        """Its number among the machines that train, from 0: the chief's, then those of the workers."""
        return 0 if self.job == "chief" else 1 + self.index


def read_machine():
    """The Machine that the environment variable TF_CONFIG describes; None without it."""
    if not os.environ.get("TF_CONFIG"):
        return None
    try:
        config = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        machine = Machine(config.cluster_spec(), config.task_type, config.task_id)
        for job, index in ((machine.job, machine.index), ("ps", 0), ("chief", 0)):
            machine.cluster.task_address(job, index)  # Raises where there is none.
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"TF_CONFIG is not as the README shows it ({error}): correct it, or unset it.") from None
    return machine


def _build_replica(args, machine, own_device):
    """The TrainingGraph of one Machine of several, of which replica_device_setter places all variables on `ps`."""
    tasks = 1 + len(machine.cluster.as_dict().get("worker", []))
    with tf.device(tf.train.replica_device_setter(cluster=machine.cluster, worker_device=own_device)):
        return build_training_graph(args, machine.task, tasks)


def backward_in_cluster(args, machine):
    """This machine's part of a training on several; returns as backward does.

    1. `ps`, the parameter server, only answers.
    2. The chief waits for the parameter server, then initialises the variables, and restores them if it can.
    3. A worker waits until all variables are initialised.  A step that it trains before they are restored is lost.
    4. The chief and the workers read batches of their own, and each trains the same variables.  Only the chief saves.
    Each may be killed and started again.
    """
    server = tf.train.Server(machine.cluster, machine.job, machine.index)
    if machine.job == "ps":
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # `join` would not notice it.
        server.join()  # This never returns.
    is_chief = machine.job == "chief"
    own_device = f"/job:{machine.job}/task:{machine.index}"
    graph = _build_replica(args, machine, own_device)

    # Both functions are called later: `restore` while the last lines make the session, `save_step` during the training.
    def restore(_scaffold, sess):
        resume(sess, graph, args)
        prepare_model_dir(args)

    def save_step(step, rate, summaries):
        # A tf.train.Saver needs the plain session that is in the MonitoredSession: step_context.session.  TensorFlow
        # asks for an argument of this name.
        if is_chief:
            save_in = functools.partial(save, graph=graph, args=args, step=step, rate=rate, summaries=summaries)
            monitored_sess.run_step_fn(lambda step_context: save_in(step_context.session))

    awaited = "the parameter server" if is_chief else "the parameter server and the chief"
    print(f"{machine.job} {machine.index} waits for {awaited}", flush=True)
    # A Scaffold holds what a new session needs: operations that initialise all global and local variables, which it
    # makes by itself; the saver, or it would make another one; and what the chief calls after the initialisation.
    scaffold = tf.train.Scaffold(saver=graph.restorable.saver, init_fn=restore)
    # The creator does step 2 or 3.  A MonitoredSession lets it make its plain session, makes the Coordinator and starts
    # the queue runners, as the lecture does by hand.
    creator = tf.train.ChiefSessionCreator if is_chief else tf.train.WorkerSessionCreator
    alone = tf.ConfigProto(device_filters=["/job:ps", own_device])  # Without it every start waits for every machine.
    with tf.train.MonitoredSession(creator(scaffold, server.target, alone)) as monitored_sess:
        return train(monitored_sess, graph, args, monitored_sess.run(tf.train.get_global_step()), save_step)


# ======== The program


def parse_arguments():
    parser = argparse.ArgumentParser(description="Train the network, from its newest checkpoint on.")
    parser.add_argument("--data", type=Path, default=DATA_PATH, help="folder of the TFRecords (%(default)s)")
    parser.add_argument("--model", type=Path, default=MODEL_SAVE_PATH, help="folder of the checkpoints (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="train up to this step in all (%(default)s)")
    from_step = "step from which learning rate and distortions take their course, to train on (%(default)s)"
    parser.add_argument("--from_step", type=int, default=0, help=from_step)
    parser.add_argument("--batch_size", type=int, default=BATCH_SIZE, help="pictures a step (%(default)s)")
    parser.add_argument("--learning_rate", type=float, default=LEARNING_RATE_BASE, help="at first (%(default)s)")
    parser.add_argument("--save_every", type=int, default=SAVE_EVERY, help="steps between checkpoints (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of weights, shuffling and distortions (%(default)s)")
    parser.add_argument("--distortions", type=float, default=1, help="their strength; 0: none (%(default)s)")
    args = parser.parse_args()
    for name, most in {"steps": 10**9, "batch_size": 10**5, "save_every": 10**9, "distortions": 3}.items():
        least = 0 if name == "distortions" else 1
        if not least <= getattr(args, name) <= most:
            parser.error(f"--{name} must be from {least} to {most}")
    if not (math.isfinite(args.learning_rate) and args.learning_rate > 0):
        parser.error("--learning_rate must be a number above 0")
    if not 0 <= args.from_step < args.steps:
        parser.error(f"--from_step must be from 0 to {args.steps - 1}, before the last step")
    return args


def main():
    args = parse_arguments()
    machine = read_machine()
    if machine and machine.job != "chief":
        return _report_stop(backward_in_cluster(args, machine))
    for set_name in (mnist_generateds.TRAIN_SET, mnist_generateds.TEST_SET):
        mnist_generateds.find_records(args.data, set_name)  # What is missing is said before a folder is made.
    with mnist_forward.hold_alone(args.model, "--model", "another training"):
        caught = backward_in_cluster(args, machine) if machine else backward(args)
    if not caught:
        mnist_test.test(args.model, args.data, once=True)
    return _report_stop(caught)


def _report_stop(caught):
    """The exit status, after a line where a signal, by its number, ended the training early."""
    if not caught:
        return 0
    print("Stopped; run again to go on from the last checkpoint.")
    return 128 + caught


if __name__ == "__main__":
    mnist_forward.run(main)
