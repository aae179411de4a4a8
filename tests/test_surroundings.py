"""Where the scripts run: beside one another, in a thread, in a pipe, without a terminal, with names of any system."""

import signal
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from conftest import ROOT, TRAIN_RECORDS, command, run, start, steps_printed
from PIL import Image
from test_generateds import GOOD, idx_folder, write_records
from test_preparation import drawn, on_paper

import mnist_forward
import mnist_generateds
from mnist_forward import UserError


def python(code, **options):
    """Run Python code beside the scripts; returns the finished process."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=60, **options
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


def test_idx_files_under_the_names_of_other_classes_are_refused(tmp_path, digits):
    ((images, labels), _) = digits
    idx_folder(tmp_path, images[:50], labels[:50])
    (tmp_path / "classes.txt").write_text("".join(f"{letter}\n" for letter in "ABCDEFGHIJK"))
    said = run("mnist_generateds.py", "--data", tmp_path, status=1)
    assert f"{tmp_path}/classes.txt names 11 classes, K has no training picture: delete that file" in said
    assert not list(tmp_path.glob("*.tfrecords"))
    (tmp_path / "classes.txt").write_text("".join(f"{letter}\n" for letter in "ABCDEFGHIJ"))
    said = run("mnist_generateds.py", "--data", tmp_path)
    assert f"The classes are those of {tmp_path}/classes.txt" in said and f"A: {(labels[:50] == 0).sum()}, " in said


@pytest.mark.parametrize("shards", [-3, 0, 201])
def test_a_number_of_shards_that_can_t_be_is_refused(shards):
    said = run("mnist_generateds.py", "--shards", shards, status=2)
    assert "--shards must be from 1 to 200" in said


def test_shards_of_the_command_line_are_written(tmp_path, digits):
    ((images, labels), _) = digits
    run("mnist_generateds.py", "--data", idx_folder(tmp_path, images[:50], labels[:50]), "--shards", 3)
    names = sorted(path.name for path in tmp_path.glob("mnist_train*"))
    assert names == [f"mnist_train-0000{i}-of-00003.tfrecords" for i in range(3)]


def test_a_name_is_the_same_with_its_accents_apart(tmp_path):
    composed = unicodedata.normalize("NFC", "ä")
    apart = unicodedata.normalize("NFD", "ä")
    pictures = tmp_path / "pictures"
    cross = Image.fromarray(np.uint8(on_paper(drawn([(0, 0), (1, 1)], [(1, 0), (0, 1)])) * 255))
    for name in (apart, "b"):
        (pictures / name).mkdir(parents=True)
        for i in range(2):
            cross.save(pictures / name / f"{i}.png")
    (tmp_path / "labels.txt").write_text(f"b/0.png {composed}\nb/1.png {apart}\n", encoding="utf-8")
    data = tmp_path / "data"
    run("mnist_generateds.py", "--data", data, "--train", pictures, "--test", pictures, tmp_path / "labels.txt")
    assert sorted(mnist_forward.read_class_names(data)) == ["b", composed]


def test_records_that_were_changed_are_looked_at_again(tmp_path):
    path = tmp_path / TRAIN_RECORDS
    write_records(path, GOOD)
    assert mnist_generateds.count_records(path) == 3
    write_records(path, GOOD[:2])
    assert mnist_generateds.count_records(path) == 2
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match="is not 2 int64"):
        mnist_generateds.count_records(path)


def test_who_reads_only_the_first_line_gets_no_complaint(model):
    given = " ".join(f"'{one}'" for one in command("mnist_app.py", "--model", model, ROOT / "pic"))
    done = subprocess.run(f"{given} | head -1", shell=True, capture_output=True, encoding="utf-8", timeout=60)
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
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGHUP and "Stopped; run again" in said
    assert mnist_forward.get_step(mnist_forward.list_checkpoints(tmp_path)[0]) == steps_printed(said)[-1]
