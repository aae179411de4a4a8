"""The network that all scripts share: 784-500-10, fully connected (lecture 6.1).

Below it stands what else they have in common, in this order: the way to the newest checkpoint, the names of the
classes, errors that a user can cure, and the import of TensorFlow.  Each script imports only from those before it:
mnist_forward.py, mnist_app.py, mnist_generateds.py, mnist_test.py, mnist_backward.py.
"""

import codecs
import contextlib
import errno
import os
import re
import signal
import sys
import threading
import time
import unicodedata
from pathlib import Path

try:
    import sqlite3
except ImportError:  # A Python that was built by hand may have none.
    sqlite3 = None

# The name `tf` stands for tensorflow.compat.v1, TensorFlow 1 as the lecture uses it.  It is defined in the last line of
# this file, since keeping TensorFlow's start-up messages off the screen takes a function.

IMAGE_SIDE = 28  # pixels
INPUT_NODE = IMAGE_SIDE * IMAGE_SIDE
LAYER1_NODE = 500
OUTPUT_NODE = 10  # one for each digit; other classes are named in a file `classes.txt`
DIGITS = [str(digit) for digit in range(OUTPUT_NODE)]

# Lecture: 0.99.  With 0.999 the average covers about the last 1,000 steps; by then the cosine decay has made the
# learning rate, and so the changes of the weights, small.
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

    The variables are not given names, so TensorFlow names them `Variable`, `Variable_1`, ..., as in the checkpoints of
    the lecture's program.  Another variable without a name, created before, would shift all these names.

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
    """Build the network that test and app use: its weights will be the moving averages in a checkpoint.

    Args:
      x: pictures, float32 [n, 784], 0 = paper .. 1 = ink.
      classes: how many.

    Returns (the scores of forward, float32 [n, classes]; the Restorable that restore_newest fills with a checkpoint).
    """
    y = forward(x, None, classes)
    # As in the lecture: variables_to_restore gives each variable the name of its average in the checkpoint.
    averages = tf.train.ExponentialMovingAverage(MOVING_AVERAGE_DECAY)
    return y, Restorable(averages.variables_to_restore())


# ---- Checkpoints


class Restorable:
    """Variables, in a dictionary by their names in a checkpoint, and the tf.train.Saver of these variables."""

    def __init__(self, variables):
        self.variables = variables
        self.saver = tf.train.Saver(variables, save_relative_paths=True)


def get_step(checkpoint):
    """The training step at the end of a checkpoint's path, 2000 of `model/mnist_model-2000`; 0 where there is none."""
    found = re.search(r"-(\d+)$", checkpoint)
    return int(found[1]) if found else 0


def list_named_checkpoints(model_dir):
    """List the paths of the checkpoints that the file `checkpoint` of a folder names (lecture 6.1), newest first.

    Of the paths in that file only the last part counts, since the folder may have been moved.  Raises UserError where
    TensorFlow would take the folder's path for a pattern.
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

    First come the checkpoints that the file `checkpoint` names, newest first.  Then come all others in the folder, in
    case that file is lost, or the checkpoints that it names are damaged.
    """
    index_files = Path(model_dir).glob(f"{MODEL_NAME}-*.index")
    found = [str(path.with_suffix("")) for path in index_files if re.search(r"-\d+$", path.stem)]
    return list(dict.fromkeys([*list_named_checkpoints(model_dir), *sorted(found, key=get_step, reverse=True)]))


def restore_newest(sess, restorable, model_dir):
    """Restore the newest whole checkpoint of a folder; damaged ones are passed over and named on standard error.

    Args:
      sess: the session of the variables.
      restorable: the Restorable of the variables.
      model_dir: the folder.

    Returns the path of the checkpoint, or None where the folder holds none.  Raises UserError where a checkpoint is
    another network's, or no checkpoint is whole.
    """
    # Meanwhile a trainer may have deleted all the checkpoints in the list, or may still be writing its first one.  So a
    # list without a whole checkpoint is made again, a few times.
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
            if os.path.exists(f"{path}.index"):  # If not, a trainer has deleted this checkpoint meanwhile.
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
OUTLINES_FILE = "outlines.npz"  # With these outlines of training digits mnist_app.py tells what is no digit.
# The trainer copies these two files from the data folder to the model folder.
FILES_FOR_MODEL = (CLASSES_FILE, OUTLINES_FILE)


def read_lines(path):
    """Read the lines of a text file in UTF-8, or in UTF-16 with its mark, as `>` of Windows' PowerShell writes it.

    Accents are joined to their letters (NFC), since some systems write them apart in the names of files, and so in the
    names of classes.  Raises UserError where the file is in another encoding.
    """
    content = path.read_bytes()
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf_16 else "utf-8-sig")  # `sig`: with or without a byte order mark
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text in UTF-8: save it as UTF-8.") from None
    return unicodedata.normalize("NFC", text).splitlines()


def read_class_names(folder):
    """Read the names of the classes from `classes.txt` of a data or model folder.

    Returns the names in the order of the network's outputs; without that file they are the ten digits.  Raises
    UserError where the file is no list of names.
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
    """An error that the user can cure; its text is one sentence that says what is wrong and what cures it."""


def explain(error):
    """Find the line of an error's message that tells what went wrong.

    A message of TensorFlow has many lines.  The one that tells it follows the line that begins with `Node:`, as here:

        Graph execution error:
        Detected at node 'save/SaveV2' defined at (most recent call last): ...
        Node: 'save/SaveV2'
        model/mnist_model-620.data-00000-of-00001; File too large
             [[{{node save/SaveV2}}]] ...

    Of a message without such a line the first one tells it.
    """
    lines = str(error).splitlines() or [type(error).__name__]
    before_last = range(len(lines) - 1)
    after_node = [lines[i + 1] for i in before_last if lines[i].startswith("Node: ")]
    return after_node[-1] if after_node else lines[0]


def run(main):
    """Run a script's `main`, and turn what a user can cause into one sentence and exit status 1."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if hasattr(stream, "reconfigure"):  # The streams of a notebook have no such method.
            # The names of files and classes may have characters that the console has not.
            stream.reconfigure(errors=errors)
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
    except OSError as error:
        if _is_output_closed(error):
            # Python writes what is left of the output when it ends, which would be an error once more.  So the output
            # now goes to os.devnull, which takes everything.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        cure = "name another file or folder" if error.filename else "make room"
        sys.exit(f"{error.filename or 'Output'}: {error.strerror or error}; {cure}.")
    except tf.errors.OpError as error:  # An error in a thread of a queue comes here, too: coord.join raises it.
        sys.exit(f"TensorFlow stopped: {explain(error)}; put that right and run again.")
    except KeyboardInterrupt:
        sys.exit(130)


def _is_output_closed(error):
    """Whether an OSError says that the reader of the output has seen enough, as in `| head -1`."""
    # Windows says only "Invalid argument".
    return isinstance(error, BrokenPipeError) or (sys.platform == "win32" and error.errno == errno.EINVAL)


@contextlib.contextmanager
def write_whole(path):
    """Let the block write a file under a temporary name, and give it the name `path` if the block ends without error.

    Yields the temporary path.  Raises UserError where the file at `path` can't be replaced: Windows replaces no file
    that another program has open.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        try:
            part.replace(path)
        except PermissionError as error:
            cure = "close the program that has it open, and run again"
            raise UserError(f"{path} can't be replaced ({error.strerror}): {cure}.") from None
    finally:
        part.unlink(missing_ok=True)


def make_dir(folder, option):
    """Make a folder if it is missing.

    Raises UserError, which names the command line's `option` for that folder, where it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        is_file = isinstance(error, (FileExistsError, NotADirectoryError))
        why = "a file has that name" if is_file else error.strerror
        raise UserError(f"{folder} can't be a folder ({why}): name another {option}.") from None


@contextlib.contextmanager
def hold_alone(folder, option, holder):
    """Lock a folder for the length of the block, so that no second program writes there; make it if it is missing.

    The lock is an exclusive transaction of SQLite on a file `.lock` in the folder.  Such a lock works on every system,
    and it ends with the program that holds it, even if that is killed.

    Args:
      folder: the folder, a Path.
      option: the command line's option for another folder, such as "--data".
      holder: what a second program is called, such as "another writer".

    Raises UserError where the folder is locked already, or can't be written to.
    """
    lock_file = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock_file.write_bytes(b"")  # In a read-only folder this fails; SQLite would open the file all the same.
    except OSError as error:
        raise UserError(f"{folder} can't be written to ({error}): name another {option}.") from None
    if not sqlite3:
        print(f"This Python has no sqlite3, so {folder} is not locked: start no second program that writes there.")
        yield
        return
    with contextlib.closing(sqlite3.connect(lock_file, timeout=0)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            why = f"{holder} holds it" if str(error) == "database is locked" else error
            raise UserError(f"{folder} can't be written to ({why}): name another {option}.") from None
        yield


# ---- TensorFlow


def _import_tensorflow_quietly():
    """Import tensorflow.compat.v1 and switch it to graph mode, without its start-up messages on the screen.

    Errors are still seen, since they come as exceptions.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Let a training and mnist_test.py share a graphics card: without this setting the first of them takes all its
    # memory.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    # The scripts prepare pictures in one thread for each processor.  If numpy started more threads for each product of
    # matrices, preparing would take one and a half times as long.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
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
    except OSError:  # The program was started without a descriptor 2.
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
    if threading.current_thread() is not threading.main_thread():  # Only the main thread may set a signal's handler.
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


tf = _import_tensorflow_quietly()
