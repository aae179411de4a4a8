"""What the tests share: the scripts run as a user runs them, on a small data folder and a network trained on it."""

import ctypes
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import mnist_app  # noqa: E402
import mnist_forward  # noqa: E402
import mnist_generateds  # noqa: E402

# Started in the background, pytest would hand on to the scripts that Ctrl-C is to be ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # Started with nohup, it would hand on that this signal is ignored.

TIMEOUT = 300  # seconds: a program that takes longer hangs, whatever the machine
TRAIN, TEST = 3000, 500  # pictures in the small data folder
TRAIN_RECORDS, TEST_RECORDS = "mnist_train.tfrecords", "mnist_test.tfrecords"


def command(script, *arguments):
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


def run(script, *arguments, status=0, cwd=None, **options):
    """Run a script to its end; returns its standard output, or its standard error where it must fail."""
    options = {"stdin": subprocess.DEVNULL, "timeout": TIMEOUT, "encoding": "utf-8", **options}
    done = subprocess.run(command(script, *arguments), capture_output=True, cwd=cwd, **options)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if status == 0:
        assert done.stderr == "", "a normal run is quiet"
        return done.stdout
    return done.stderr


def make_found(pixels, boxes, **others):
    """A Found of clear digits, without cuts and lines; `others` are fields that it has otherwise."""
    boxes = np.asarray(boxes, float)
    n = len(boxes)
    sizes = (boxes[:, 2:] - boxes[:, :2]).T
    nothing = np.zeros([0, 4])
    found = mnist_app.Found(pixels, boxes, sizes, nothing, nothing, np.zeros(n), np.ones(n), np.zeros(n, bool))
    return found._replace(**others)


def run_with_small_disk(script, *arguments, limit):
    """Run a script that can write no file of more than `limit` bytes; returns its standard error."""
    path = str(ROOT / script)
    code = (
        f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        f"sys.argv[0] = {path!r}; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path({path!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, encoding="utf-8", timeout=TIMEOUT
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def start(script, *arguments, cwd=None):
    """Start a script whose output can be read line by line from `.stdout`."""
    given = command(script, *arguments)
    return subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", cwd=cwd)


def steps_printed(output):
    return [int(step) for step in re.findall(r"After (\d+) training step\(s\), loss", output)]


def mnist():
    """((pictures uint8 [n, 28, 28], labels uint8 [n]) of the training set, the same of the test set)."""
    data = ROOT / "data"
    return tuple(
        (
            mnist_generateds.read_idx(data / f"{prefix}-images-idx3-ubyte.gz", 3),
            mnist_generateds.read_idx(data / f"{prefix}-labels-idx1-ubyte.gz", 1),
        )
        for prefix in ("train", "t10k")
    )


def write_small_data(folder, digits):
    """Write the records of the first training and test digits to a data folder."""
    for name, (images, labels), count in zip(("mnist_train", "mnist_test"), digits, (TRAIN, TEST), strict=True):
        samples = [(image.tobytes(), label) for image, label in zip(images[:count], labels[:count], strict=True)]
        mnist_generateds.write_tfrecords(folder, name, samples, mnist_forward.read_class_names(folder))
        if name == mnist_generateds.TRAIN_SET:
            mnist_app.write_outlines(folder, samples)
    return folder


def restore_newest(sess, model):
    """Restore the averages of the newest whole checkpoint into the network of the default graph; returns its path."""
    averages = mnist_forward.tf.train.ExponentialMovingAverage(mnist_forward.MOVING_AVERAGE_DECAY)
    restorable = mnist_forward.Restorable(averages.variables_to_restore())
    return mnist_forward.restore_newest(sess, restorable, model)


def run_without_privileges(script, *arguments):
    """Run a script under the file permissions, which root otherwise stands above; returns the finished process."""

    def drop():
        libc = ctypes.CDLL(None)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: for what is executed next

    given = command(script, *arguments)
    return subprocess.run(given, capture_output=True, encoding="utf-8", timeout=TIMEOUT, preexec_fn=drop)


@pytest.fixture(scope="session")
def digits():
    return mnist()


@pytest.fixture(scope="session")
def data(tmp_path_factory, digits):
    """A data folder with the records of the first training and test digits."""
    return write_small_data(tmp_path_factory.mktemp("data"), digits)


@pytest.fixture(scope="session")
def model(tmp_path_factory, data):
    """A model folder with checkpoints of the steps 200, 400 and 600: right on about nine digits in ten."""
    folder = tmp_path_factory.mktemp("model")
    run("mnist_backward.py", "--data", data, "--model", folder, "--steps", 600, "--save_every", 200, "--seed", 1)
    return folder


@pytest.fixture
def write(monkeypatch, capsys):
    """Run mnist_generateds.py in this process; returns what it printed, or where it must fail its sentence."""

    def write(*arguments, fails=False):
        monkeypatch.setattr(sys, "argv", ["mnist_generateds.py", *map(str, arguments)])
        capsys.readouterr()
        if fails:
            with pytest.raises(mnist_forward.UserError) as error:
                mnist_generateds.main()
            return str(error.value)
        mnist_generateds.main()
        return capsys.readouterr().out

    return write
