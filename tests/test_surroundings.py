"""Where the scripts run: beside one another, in a thread, in a pipe, without a terminal, with names of any system."""

import os
import signal
import subprocess
import sys
import time
import unicodedata

import numpy as np
import pytest
from conftest import ROOT, TIMEOUT, TRAIN_RECORDS, command, run, start, steps_printed
from PIL import Image
from test_generateds import GOOD, idx_folder, write_records
from test_preparation import drawn, on_paper

import mnist_app
import mnist_forward
import mnist_generateds
from mnist_forward import UserError


def python(code, **options):
    """Run Python code beside the scripts; returns the finished process."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=TIMEOUT, **options
    )


def test_a_second_writer_on_the_same_data_folder_is_refused(tmp_path, digits):
    ((images, labels), _) = digits
    idx_folder(tmp_path, images[:50], labels[:50])
    with mnist_forward.hold_alone(tmp_path, "--data", "another writer"):
        said = run("mnist_generateds.py", "--data", tmp_path, status=1)
    assert f"{tmp_path} can't be written to (another writer holds it): name another --data." in said
    assert not list(tmp_path.glob("*.tfrecords"))
    run("mnist_generateds.py", "--data", tmp_path)


def test_a_lock_that_a_folder_s_name_speaks_of_is_none(tmp_path):
    (tmp_path / "a locked folder").write_text("a file")
    with (
        pytest.raises(UserError) as error,
        mnist_forward.hold_alone(tmp_path / "a locked folder", "--model", "another"),
    ):
        pass
    assert "another holds it" not in str(error.value)


def test_idx_files_under_the_names_of_other_classes_are_refused(tmp_path, digits, write):
    ((images, labels), _) = digits
    idx_folder(tmp_path, images[:50], labels[:50])
    (tmp_path / "classes.txt").write_text("".join(f"{letter}\n" for letter in "ABCDEFGHIJK"))
    said = write("--data", tmp_path, fails=True)
    assert f"{tmp_path}/classes.txt names 11 classes, K has no training picture: delete that file" in said
    assert not list(tmp_path.glob("*.tfrecords"))
    (tmp_path / "classes.txt").write_text("".join(f"{letter}\n" for letter in "ABCDEFGHIJ"))
    said = write("--data", tmp_path)
    assert "outside the USA" not in said, "no letters of theirs are missed"
    assert f"The classes are those of {tmp_path}/classes.txt" in said and f"A: {(labels[:50] == 0).sum()}, " in said


@pytest.mark.parametrize("shards", [-3, 0, 201])
def test_a_number_of_shards_that_can_t_be_is_refused(write, capsys, shards):
    with pytest.raises(SystemExit) as ended:
        write("--shards", shards)
    assert ended.value.code == 2
    assert "--shards must be from 1 to 200" in capsys.readouterr().err


def test_shards_of_the_command_line_are_written(tmp_path, digits, write):
    ((images, labels), _) = digits
    folder = idx_folder(tmp_path, images[:50], labels[:50])
    sets = ("mnist_test", "mnist_train")

    def list_names():
        return sorted(path.name for path in folder.glob("*.tfrecords"))

    write("--data", folder, "--shards", 3)
    assert list_names() == [f"{name}-0000{i}-of-00003.tfrecords" for name in sets for i in range(3)]
    write("--data", folder)
    assert list_names() == [f"{name}.tfrecords" for name in sets], "the old shards are gone"


def test_a_name_is_the_same_with_its_accents_apart(tmp_path, write):
    composed = unicodedata.normalize("NFC", "ä")
    apart = unicodedata.normalize("NFD", "ä")
    pictures = tmp_path / "pictures"
    cross = Image.fromarray(np.uint8(on_paper(drawn([(0, 0), (1, 1)], [(1, 0), (0, 1)])) * 255))
    for name in (apart, "b"):
        (pictures / name).mkdir(parents=True)
        for i in range(2):
            cross.save(pictures / name / f"{i}.png")
    lines = [f"b/0.png {composed}", f"b/1.png {apart}", f"{composed}/0.png\tb", f"{apart}/1.png b", ""]
    (tmp_path / "labels.txt").write_text("\n".join(lines), encoding="utf-8")
    data = tmp_path / "data"
    said = write("--data", data, "--train", pictures, "--test", pictures, tmp_path / "labels.txt")
    assert sorted(mnist_forward.read_class_names(data)) == ["b", composed] and f"{composed}: 2, b: 2" in said
    (pictures / composed).mkdir()
    said = write("--data", data, "--train", pictures, fails=True)
    assert f"two sub-folders that are both named {composed}" in said


def test_records_that_were_changed_are_looked_at_again(tmp_path):
    path = tmp_path / TRAIN_RECORDS
    write_records(path, GOOD)
    assert mnist_generateds.count_records(path) == 3
    write_records(path, GOOD[:2])
    assert mnist_generateds.count_records(path) == 2
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")  # of the same size
    with pytest.raises(UserError, match="no good at record 2"):
        mnist_generateds.count_records(path)
    write_records(path, GOOD[:2])
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match="is not 2 int64"):
        mnist_generateds.count_records(path)


def test_who_reads_only_the_first_line_gets_no_complaint(model):
    given = " ".join(f"'{one}'" for one in command("mnist_app.py", "--model", model, ROOT / "pic"))
    done = subprocess.run(f"{given} | head -1", shell=True, capture_output=True, encoding="utf-8", timeout=TIMEOUT)
    assert done.stdout.count("\n") == 1 and done.stderr == ""


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_a_closed_standard_stream_is_no_traceback(model, descriptor):
    path = str(ROOT / "mnist_app.py")
    arguments = [sys.executable, path, "--model", str(model), str(ROOT / "pic" / "1.png")]
    code = f"import os; os.close({descriptor}); os.execv({sys.executable!r}, {arguments!r})"
    done = python(code)
    assert "Traceback" not in done.stderr
    if descriptor != 1:
        assert "1.png: 1 (" in done.stdout


def test_the_scripts_can_be_imported_in_a_thread_and_without_a_terminal():
    code = """
import io, sys, threading
sys.stdout = io.StringIO()  # has no `reconfigure`, like a notebook's
sys.stdin = io.StringIO()
said = []
def work():
    import mnist_forward
    try:
        mnist_forward.run(lambda: said.append("done"))
    except SystemExit as end:
        said.append(end.code)
thread = threading.Thread(target=work)
thread.start()
thread.join()
assert said == ["done", None], said
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_two_trainings_in_one_process(data, tmp_path):
    code = f"""
import sys
import mnist_backward
for steps in ("20", "40"):
    sys.argv = ["mnist_backward.py", "--data", {str(data)!r}, "--model", {str(tmp_path)!r}, "--steps", steps]
    mnist_backward.main()
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert steps_printed(done.stdout) == [20, 40]


def test_a_dropped_connection_saves_like_ctrl_c(data, tmp_path):
    given = ["--data", data, "--model", tmp_path, "--steps", 10**6, "--save_every", 20]
    process = start("mnist_backward.py", *given)
    while "training step(s), loss" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    said, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 128 + signal.SIGHUP and "Stopped; run again" in said
    assert mnist_forward.get_step(mnist_forward.list_checkpoints(tmp_path)[0]) == steps_printed(said)[-1]


# What Windows, macOS or a small build of Python lack, or do otherwise: run before a script.
OTHER_SYSTEM = """
import os, signal, sys
for module in ("fcntl", "resource", "pwd", "grp", "termios", "_sqlite3", "sqlite3"):
    sys.modules[module] = None  # importing it fails
for name in ("sched_getaffinity", "process_cpu_count", "fork", "getuid", "geteuid", "mkfifo", "openpty"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGUSR1", "SIGALRM", "SIGKILL", "setitimer", "alarm", "pause"):
    if hasattr(signal, name):
        delattr(signal, name)
import runpy
sys.path.insert(0, os.getcwd())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_scripts_run_without_what_only_linux_has_and_on_a_console_in_another_code(tmp_path):
    for name, strokes in (("猫", [[(0, 0), (1, 1)], [(1, 0), (0, 1)]]), ("犬", [[(0, 0), (0.5, 1), (1, 0)]])):
        (tmp_path / "all" / name).mkdir(parents=True)
        for i in range(3):
            picture = on_paper(drawn(*strokes, box=(120 + 20 * i, 60, 280, 220)))
            Image.fromarray(np.uint8(picture * 255)).save(tmp_path / "all" / name / f"{i}.png")
    data, model = tmp_path / "data", tmp_path / "model"
    for code_page, script, *arguments in (
        ("cp1252", "mnist_generateds.py", "--data", data, "--train", tmp_path / "all"),
        ("gbk", "mnist_backward.py", "--data", data, "--model", model, "--steps", 40),
        ("cp1252", "mnist_test.py", "--data", data, "--model", model, "--once", "--look", tmp_path / "seen"),
        ("gbk", "mnist_app.py", "--model", model, tmp_path / "all" / "猫" / "0.png"),
    ):
        environment = {**os.environ, "PYTHONIOENCODING": code_page, "PYTHONUTF8": "0"}
        done = subprocess.run(
            [sys.executable, "-c", OTHER_SYSTEM, script, *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            timeout=TIMEOUT,
        )
        said = done.stdout.decode(code_page)
        assert done.returncode in (0, 3) and b"Traceback" not in done.stderr, done.stderr.decode()
        if script in ("mnist_generateds.py", "mnist_backward.py"):
            assert "This Python has no sqlite3, so" in said and "is not locked" in said
    assert mnist_forward.read_class_names(model) == sorted(["猫", "犬"])


def test_a_file_that_another_program_has_open_is_said_with_the_cure(tmp_path, monkeypatch):
    def replace(part, path):
        raise PermissionError(13, "Access is denied", str(part), 5, str(path))

    monkeypatch.setattr("pathlib.Path.replace", replace)  # as Windows does it
    with (
        pytest.raises(
            UserError, match=r"sheet\.png can't be replaced \(Access is denied\): close the program that has"
        ),
        mnist_forward.write_whole(tmp_path / "sheet.png") as part,
    ):
        part.touch()
    assert not list(tmp_path.iterdir())


def test_a_pipe_that_was_closed_is_no_complaint_on_windows_either():
    code = """
import errno, sys
import mnist_forward
sys.platform = "win32"
def main():
    raise OSError(errno.EINVAL, "Invalid argument")
mnist_forward.run(main)
"""
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_a_folder_s_name_with_braces_is_refused_like_any_other(tmp_path):
    (tmp_path / "{file} {0}").touch()
    with (
        pytest.raises(UserError, match=r"\{file\} \{0\} can't be written to .*: name another --data"),
        mnist_forward.hold_alone(tmp_path / "{file} {0}", "--data", "another writer"),
    ):
        pass


def test_no_more_pixels_are_decoded_at_once_than_fit_into_memory(tmp_path, monkeypatch):
    Image.new("L", (100, 60), "white").save(tmp_path / "sheet.png")
    monkeypatch.setattr(mnist_app, "_pixel_budget", mnist_app._PixelBudget(14_000))  # two such pictures
    monkeypatch.setattr(mnist_app, "count_processors", lambda: 8)
    at_once = []
    real = mnist_app._decode

    def decode(image):
        at_once.append(len(at_once_now))
        at_once_now.append(1)
        time.sleep(0.02)
        try:
            return real(image)
        finally:
            at_once_now.pop()

    at_once_now = []
    monkeypatch.setattr(mnist_app, "_decode", decode)
    assert len(list(mnist_app.map_in_threads(mnist_app.open_picture, [tmp_path / "sheet.png"] * 24))) == 24
    assert max(at_once) == 1, "beside one that is in work"


def test_only_processors_that_the_program_may_use_are_counted():
    code = """
import os
import mnist_app
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(mnist_app.count_processors())
"""
    assert python(code).stdout == "1\n"


@pytest.mark.parametrize("own", [{}, {"TF_FORCE_GPU_ALLOW_GROWTH": "false", "OPENBLAS_NUM_THREADS": "2"}])
def test_a_graphics_card_is_shared_and_no_thread_too_many_is_started_unless_the_user_says_so(own):
    expected = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "OPENBLAS_NUM_THREADS": "1", **own}
    code = f"import os, mnist_forward; print([os.environ[name] for name in {list(expected)}])"
    environment = {name: value for name, value in os.environ.items() if name not in expected}
    assert python(code, env={**environment, **own}).stdout == f"{list(expected.values())}\n"
