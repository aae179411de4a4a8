"""The network that every other script shares, 784-500-10, fully connected, and what else they have in common: folders,
classes, checkpoints, and the one sentence with which a script ends when a user can cure what is wrong.
Imports go one way: forward <- app <- generateds <- test <- backward.
"""

import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path

# TensorFlow's start-up notes stay off the screen; errors come as exceptions and are still seen.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
stderr, interrupt = os.dup(2), signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to save yet: just end
try:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # the note about missing CUDA drivers is written past that setting
    import tensorflow.compat.v1 as tf

    tf.logging.set_verbosity(tf.logging.FATAL)
    tf.disable_v2_behavior()
finally:
    os.dup2(stderr, 2)
    signal.signal(signal.SIGINT, interrupt)

INPUT_NODE = 784  # 28x28 pixels
LAYER1_NODE = 500
OUTPUT_NODE = 10  # the digits; a file `classes.txt` names other classes
CLASSES = "classes.txt"

HERE = Path(__file__).resolve().parent
DATA_PATH = HERE / "data"
MODEL_SAVE_PATH = HERE / "model"
MODEL_NAME = "mnist_model"
# Lecture: 0.99.  At 0.999 the average covers the last 1,000 steps, which the cosine decay has made quiet by then.
MOVING_AVERAGE_DECAY = 0.999


class UserError(Exception):
    """Something that the person at the keyboard can cure; the text is one sentence that says what and how."""


def cause(error):
    """What went wrong in TensorFlow, in one line: its messages begin with where in the graph that was."""
    *_, said = str(error).rpartition("Node: ")
    return said.splitlines()[1 if "Node: " in str(error) else 0]


def run(main):
    """Run a script's `main` and turn what a user can cause into one sentence and exit status 1."""
    sys.stdin.reconfigure(errors="surrogateescape")  # for names that are not UTF-8
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
    except OSError as error:
        cure = "name another file or folder" if error.filename else "make room"
        sys.exit(f"{error.filename or 'Output'}: {error.strerror or error}; {cure}.")
    except tf.errors.OpError as error:  # also what a queue thread met, from coord.join
        sys.exit(f"TensorFlow stopped: {cause(error)}; put that right and run again.")
    except KeyboardInterrupt:
        sys.exit(130)


@contextlib.contextmanager
def whole(path):
    """A temporary name to write to, which becomes `path` only when the block has ended without an error."""
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def get_weight(shape, regularizer):
    """Weights [rows, columns], float32; their L2 term joins the collection `losses` (lecture: 0.0001)."""
    w = tf.Variable(tf.truncated_normal(shape, stddev=0.1))
    if regularizer is not None:
        tf.add_to_collection("losses", regularizer * tf.nn.l2_loss(w))
    return w


def get_bias(shape):
    """Biases [columns], float32, zero."""
    return tf.Variable(tf.zeros(shape))


def forward(x, regularizer, classes=OUTPUT_NODE):
    """The network of x, float32 [n, 784], 0 = paper .. 1 = ink: the scores before the softmax, float32 [n, classes].

    `regularizer` weighs the L2 terms added to `losses`; None where nothing is trained.  The variables stay unnamed
    (`Variable`, `Variable_1`, ...), as in the checkpoints of the lecture's program: build the network before others.
    """
    w1 = get_weight([INPUT_NODE, LAYER1_NODE], regularizer)
    b1 = get_bias([LAYER1_NODE])
    y1 = tf.nn.relu(tf.matmul(x, w1) + b1)
    w2 = get_weight([LAYER1_NODE, classes], regularizer)
    b2 = get_bias([classes])
    return tf.matmul(y1, w2) + b2


def read_lines(path):
    """The lines of a text file in UTF-8, with or without a byte order mark; UserError where it is in another code."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text in UTF-8: save it as UTF-8.") from None


def class_names(folder):
    """The lines of `classes.txt` in a data or model folder, in the order of the network's outputs; without that file
    the ten digits.  Raises UserError where it is no such list."""
    path = Path(folder) / CLASSES
    if not path.exists():
        return [str(digit) for digit in range(OUTPUT_NODE)]
    names = [line.strip() for line in read_lines(path) if line.strip()]
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"{path} must hold two or more names, each once, one a line: correct it.")
    return names


def require_same_classes(model, data):
    """Raise UserError unless the network of the folder `model` was trained for the classes of the folder `data`."""
    trained, given = class_names(model), class_names(data)
    if trained != given:
        trained, given = (f"{len(names)} classes ({', '.join(names):.60})" for names in (trained, given))
        raise UserError(f"{model} was trained for {trained}, {data} holds {given}: name another --model or --data.")


def stored_step(checkpoint):
    """The training step that a checkpoint's name ends in, `model/mnist_model-2000` -> 2000, or 0."""
    found = re.search(r"-(\d+)$", checkpoint)
    return int(found[1]) if found else 0


def checkpoints(model):
    """Paths of the checkpoints in the folder `model`, newest first: those in the file `checkpoint` (lecture 6.1), with
    paths that may be from before a move, then by name alone, for the day that file is lost or names a damaged one."""
    if re.search(r"[*?\[]", str(model)):
        raise UserError(f"{model} has one of * ? [ in its path, which TensorFlow takes for a pattern: rename it.")
    try:
        ckpt = tf.train.get_checkpoint_state(str(model))
    except ValueError:  # not UTF-8
        ckpt = None
    named = [ckpt.model_checkpoint_path, *reversed(ckpt.all_model_checkpoint_paths)] if ckpt else []
    found = [path.stem for path in Path(model).glob(f"{MODEL_NAME}-*.index") if re.search(r"-\d+$", path.stem)]
    names = [os.path.basename(path) for path in named] + sorted(found, key=stored_step, reverse=True)
    return [str(Path(model) / name) for name in dict.fromkeys(names)]


def restore_newest(sess, saver, variables, model):
    """Restore the newest whole checkpoint of the folder `model` by `saver`, tf.train.Saver(variables), naming damaged
    ones; returns its path, or None where there is none.  Raises UserError where it is another network's or none whole.
    """
    for _ in range(5):
        paths, damaged = checkpoints(model), []
        for path in paths:
            try:
                stored = tf.train.load_checkpoint(path).get_variable_to_shape_map()
                for name, variable in sorted(variables.items()):
                    theirs, ours = stored.get(name, "missing"), variable.shape.as_list()
                    if theirs != ours:
                        which = f"{path} is another network's or another program's"
                        raise UserError(f"{which}, {name!r} is {theirs} there and {ours} here: name another --model.")
                saver.restore(sess, path)
            except (tf.errors.OpError, ValueError, RuntimeError):
                damaged += [path] if os.path.exists(f"{path}.index") else []  # or a trainer has deleted it meanwhile
                continue
            for other in damaged:
                print(f"{other} is damaged and passed over; restored {path} instead.", file=sys.stderr)
            return path
        if not paths:
            return None
        time.sleep(0.5)  # a trainer may just have deleted all that were found, or not be done with its first
    cure = "put a copy back, or empty the folder and run mnist_backward.py to train anew"
    raise UserError(f"{model} holds no whole checkpoint, {os.path.basename(paths[0])} is damaged: {cure}.")
