"""The network that all scripts share: 784-500-10, fully connected (lecture 6.1).

Below it stands what else they have in common, in this order: the way to the newest checkpoint, the names of the
classes, errors that a user can cure, and the import of TensorFlow.  Each script imports only from those before it:
mnist_forward.py, mnist_app.py, mnist_generateds.py, mnist_test.py, mnist_backward.py.
"""

import contextlib
import os
import re
import signal
import sqlite3
import sys
import threading
import time
import unicodedata
from pathlib import Path

# `tf` is tensorflow.compat.v1, TensorFlow 1 as the lecture uses it.  The last lines of this file import it, because
# some care is needed to keep its start-up messages off the screen.

IMAGE_SIDE = 28  # pixels
INPUT_NODE = IMAGE_SIDE * IMAGE_SIDE
LAYER1_NODE = 500
OUTPUT_NODE = 10  # the ten digits; a file `classes.txt` names other classes
DIGITS = [str(digit) for digit in range(OUTPUT_NODE)]

# Lecture: 0.99.  At 0.999 the average covers the last 1,000 steps, which the cosine decay has made quiet by then.
MOVING_AVERAGE_DECAY = 0.999

PROJECT_DIR = Path(__file__).resolve().parent
DATA_PATH = PROJECT_DIR / "data"
MODEL_SAVE_PATH = PROJECT_DIR / "model"
MODEL_NAME = "mnist_model"

# ---- The network


def get_weight(shape, regularizer):
    """Create weights, a float32 variable [rows, columns].

    Args:
      shape: [rows, columns].
      regularizer: the factor of their L2 term in the collection `losses` (lecture: 0.0001); None adds no term.
    """
    w = tf.Variable(tf.truncated_normal(shape, stddev=0.1))
    if regularizer is not None:
        tf.add_to_collection("losses", regularizer * tf.nn.l2_loss(w))
    return w


def get_bias(shape):
    """Create biases, a float32 variable [columns] of zeros."""
    return tf.Variable(tf.zeros(shape))


def forward(x, regularizer, classes=OUTPUT_NODE):
    """Build the network in the default graph.

    The variables have no names of their own (`Variable`, `Variable_1`, ...), as in the checkpoints of the lecture's
    program.  So no other unnamed variable may be created before them, or all their names would shift.

    Args:
      x: pictures, float32 [n, 784], 0 = paper .. 1 = ink.
      regularizer: as for get_weight; None where nothing is trained.
      classes: how many.

    Returns the scores before the softmax, float32 [n, classes].
    Raises ValueError where the graph already has an unnamed variable.
    """
    w1 = get_weight([INPUT_NODE, LAYER1_NODE], regularizer)
    if w1.op.name != "Variable":
        raise ValueError(f"The first weights are named {w1.op.name!r}: build the network first, in a graph of its own.")
    b1 = get_bias([LAYER1_NODE])
    y1 = tf.nn.relu(tf.matmul(x, w1) + b1)
    w2 = get_weight([LAYER1_NODE, classes], regularizer)
    b2 = get_bias([classes])
    return tf.matmul(y1, w2) + b2


def build_averaged_network(x, classes):
    """Build the network whose weights will be the moving averages of a checkpoint, as test and app use it.

    Returns (scores, float32 [n, classes], as those of forward; the Restorable that restore_newest fills).
    """
    y = forward(x, None, classes)
    averages = tf.train.ExponentialMovingAverage(MOVING_AVERAGE_DECAY)
    return y, Restorable(averages.variables_to_restore())


# ---- Checkpoints


class Restorable:
    """Variables, by their names in a checkpoint, and the tf.train.Saver that was made for exactly these."""

    def __init__(self, variables):
        self.variables = variables
        self.saver = tf.train.Saver(variables, save_relative_paths=True)


def get_step(checkpoint):
    """The training step that a checkpoint's name ends in, `model/mnist_model-2000` -> 2000, or 0."""
    found = re.search(r"-(\d+)$", checkpoint)
    return int(found[1]) if found else 0


def list_named_checkpoints(model_dir):
    """List the paths of the checkpoints that the file `checkpoint` of a folder names (lecture 6.1), newest first.

    The folder may have been moved since, so of the paths in that file only the last part counts.
    """
    if re.search(r"[*?\[]", str(model_dir)):
        raise UserError(f"{model_dir} has one of * ? [ in its path, which TensorFlow takes for a pattern: rename it.")
    try:
        ckpt = tf.train.get_checkpoint_state(str(model_dir))
    except ValueError:  # The file is not UTF-8.
        ckpt = None
    if not ckpt:
        return []
    paths = [ckpt.model_checkpoint_path, *reversed(ckpt.all_model_checkpoint_paths)]
    names = dict.fromkeys(os.path.basename(path) for path in paths)
    return [str(Path(model_dir) / name) for name in names]


def list_checkpoints(model_dir):
    """List the paths of all checkpoints in a folder, in the order in which they are tried.

    First come those that are named, newest first.  Then come those that are found by their file names alone, in case
    the file `checkpoint` is lost, or what it names is damaged.
    """
    index_files = Path(model_dir).glob(f"{MODEL_NAME}-*.index")
    found = [str(path.with_suffix("")) for path in index_files if re.search(r"-\d+$", path.stem)]
    return list(dict.fromkeys([*list_named_checkpoints(model_dir), *sorted(found, key=get_step, reverse=True)]))


def restore_newest(sess, restorable, model_dir):
    """Restore the newest whole checkpoint of a folder, and name on standard error the damaged ones before it.

    Returns its path, or None where there is none.  Raises UserError where it is another network's, or none is whole.
    """
    # A trainer may have deleted all the checkpoints that were listed, or may still be writing its first: look again.
    for _ in range(5):
        paths = list_checkpoints(model_dir)
        if not paths:
            return None
        damaged = []
        for path in paths:
            if _restore(sess, restorable, path):
                for other in damaged:
                    print(f"{other} is damaged and passed over; restored {path} instead.", file=sys.stderr)
                return path
            if os.path.exists(f"{path}.index"):  # Otherwise a trainer has deleted it meanwhile.
                damaged.append(path)
        time.sleep(0.5)
    cure = "put a copy back, or empty the folder and run mnist_backward.py to train anew"
    raise UserError(f"{model_dir} holds no whole checkpoint, {os.path.basename(paths[0])} is damaged: {cure}.")


def _restore(sess, restorable, path):
    """Restore one checkpoint; returns whether it could be read.  Raises UserError where it is another network's."""
    try:
        stored = tf.train.load_checkpoint(path).get_variable_to_shape_map()
        for name, variable in sorted(restorable.variables.items()):
            theirs = stored.get(name, "missing")
            ours = variable.shape.as_list()
            if theirs != ours:
                which = f"{path} is another network's or another program's"
                raise UserError(f"{which}, {name!r} is {theirs} there and {ours} here: name another --model.")
        restorable.saver.restore(sess, path)
    except (tf.errors.OpError, ValueError, RuntimeError):
        return False
    return True


# ---- Classes

CLASSES_FILE = "classes.txt"  # their names, one a line, in a data folder and in a model folder
OUTLINES_FILE = "outlines.npz"  # of training digits, by which mnist_app.py knows what is no digit
# The trainer copies these files from the data folder to the model folder.
FILES_FOR_MODEL = (CLASSES_FILE, OUTLINES_FILE)


def read_lines(path):
    """The lines of a text file in UTF-8; raises UserError where it is in another encoding.

    Accents are joined to their letters (NFC), since some systems write file names, and so class names, apart.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # `sig`: with or without a byte order mark
        return unicodedata.normalize("NFC", text).splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text in UTF-8: save it as UTF-8.") from None


def read_class_names(folder):
    """The names in `classes.txt` of a data or model folder, in the order of the network's outputs.

    Without that file they are the ten digits.  Raises UserError where the file is no list of names.
    """
    path = Path(folder) / CLASSES_FILE
    if not path.exists():
        return DIGITS
    names = [line.strip() for line in read_lines(path) if line.strip()]
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"{path} must hold two or more names, each once, one a line: correct it.")
    return names


def require_same_classes(model_dir, data_dir):
    """Raise UserError unless the network in `model_dir` was trained for the classes of `data_dir`."""
    trained = read_class_names(model_dir)
    given = read_class_names(data_dir)
    if trained != given:
        raise UserError(
            f"{model_dir} was trained for {_summarise(trained)}, {data_dir} holds {_summarise(given)}: "
            "name another --model or --data."
        )


def _summarise(names):
    return f"{len(names)} classes ({', '.join(names):.60})"


# ---- Errors that a user can cure, and files that are whole


class UserError(Exception):
    """Something that the person at the keyboard can cure; its text is one sentence that says what and how."""


def explain(error):
    """What went wrong in TensorFlow, in one line.

    Its messages begin with the place in the graph, and say what happened in the line after `Node:`, as in

        Graph execution error:
        Detected at node 'save/SaveV2' defined at (most recent call last): ...
        Node: 'save/SaveV2'
        model/mnist_model-620.data-00000-of-00001; File too large
             [[{{node save/SaveV2}}]] ...
    """
    lines = str(error).splitlines() or [type(error).__name__]
    after_node = [line for before, line in zip(lines, lines[1:], strict=False) if before.startswith("Node: ")]
    return after_node[-1] if after_node else lines[0]


def run(main):
    """Run a script's `main`, and turn what a user can cause into one sentence and exit status 1."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if hasattr(stream, "reconfigure"):  # That of a notebook has no such method.
            stream.reconfigure(errors=errors)  # File names need not be UTF-8.
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
    except BrokenPipeError:  # Who reads the output has seen enough, as in `| head -1`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        cure = "name another file or folder" if error.filename else "make room"
        sys.exit(f"{error.filename or 'Output'}: {error.strerror or error}; {cure}.")
    except tf.errors.OpError as error:  # The errors of the queue's threads come here, too, by way of coord.join.
        sys.exit(f"TensorFlow stopped: {explain(error)}; put that right and run again.")
    except KeyboardInterrupt:
        sys.exit(130)


@contextlib.contextmanager
def write_whole(path):
    """Give the block a temporary name to write to, and rename that to `path` once the block has ended without error."""
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def hold_alone(folder, option, holder):
    """Hold a folder for this program alone, and make it where it is missing.

    The lock is an exclusive transaction of SQLite on a file `.lock`: it works on every system, and it ends with its
    process.  Raises UserError where it can't be had, which names the `option` for another folder and the `holder`.
    """
    refusal = f"{folder} can't be written to ({{}}): name another {option}."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").write_bytes(b"")  # This fails in a read-only folder; SQLite would open it all the same.
        lock = sqlite3.connect(folder / ".lock", timeout=0)
    except (OSError, sqlite3.Error) as error:
        raise UserError(refusal.format(error)) from None
    with contextlib.closing(lock):
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            raise UserError(refusal.format(f"{holder} holds it" if "locked" in str(error) else error)) from None
        yield


# ---- TensorFlow


def _import_tensorflow_quietly():
    """Import tensorflow.compat.v1 in graph mode; its start-up messages stay off the screen.

    Errors are still seen: they come as exceptions.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Trainer and judge may share a graphics card: otherwise the first would take all of its memory.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    with _ending_on_ctrl_c(), _without_stderr():
        import tensorflow.compat.v1

        tensorflow.compat.v1.logging.set_verbosity(tensorflow.compat.v1.logging.FATAL)
        tensorflow.compat.v1.disable_v2_behavior()
    return tensorflow.compat.v1


@contextlib.contextmanager
def _without_stderr():
    """Discard what is written to file descriptor 2, where some messages go in spite of TF_CPP_MIN_LOG_LEVEL."""
    try:
        stderr = os.dup(2)
    except OSError:  # The program was started without one.
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@contextlib.contextmanager
def _ending_on_ctrl_c():
    """Let Ctrl-C end the program without a traceback: within the block there is nothing to save yet."""
    if threading.current_thread() is not threading.main_thread():  # Only the main thread may set this.
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


tf = _import_tensorflow_quietly()
