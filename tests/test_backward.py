"""The training: its lines, its checkpoints, and how it goes on after whatever ended it."""

import os
import random
import re
import shutil
import signal
import time

import pytest
from conftest import restore_newest, run, run_with_small_disk, run_without_privileges, start, steps_printed
from test_forward import train_like_the_lecture
from test_generateds import idx_folder

import mnist_forward
from mnist_forward import tf


def train(data, model, *options, steps=60, every=20, **kwargs):
    return run(
        "mnist_backward.py",
        "--data",
        data,
        "--model",
        model,
        "--steps",
        steps,
        "--save_every",
        every,
        *options,
        **kwargs,
    )


def stored_steps(model):
    return [mnist_forward.get_step(path) for path in mnist_forward.list_checkpoints(model)]


def start_endless(data, model):
    """A training that has saved its first checkpoints and would go on for long."""
    process = start("mnist_backward.py", "--data", data, "--model", model, "--steps", 100000, "--save_every", 10)
    for _ in range(2):
        while "training step(s), loss" not in process.stdout.readline():
            assert process.poll() is None
    return process


def test_a_training_prints_saves_judges_itself_and_goes_on_from_its_total(data, tmp_path):
    said = train(data, tmp_path, "--seed", 1)
    assert steps_printed(said) == [20, 40, 60]
    assert "After 60 training step(s), loss on training batch is " in said
    assert "After 60 training step(s), test accuracy = 0." in said
    assert stored_steps(tmp_path) == [60, 40, 20]

    said = train(data, tmp_path)
    assert "Nothing left to do" in said and "--steps 120" in said
    assert steps_printed(said) == []

    said = train(data, tmp_path, steps=70)
    assert "step 60 of 70" in said
    assert steps_printed(said) == [70], "a checkpoint at the last step"
    assert stored_steps(tmp_path) == [70, 60, 40, 20]


def test_a_checkpoint_holds_weights_averages_and_optimizer(model):
    names = dict(tf.train.list_variables(mnist_forward.list_checkpoints(model)[0]))
    for variable in ("Variable", "Variable_1", "Variable_2", "Variable_3"):
        assert {variable, f"{variable}/ExponentialMovingAverage", f"{variable}/Momentum"} <= names.keys()
    assert tf.train.load_variable(mnist_forward.list_checkpoints(model)[0], "global_step") == 600


def test_a_stop_signal_saves_the_step_it_interrupts(data, tmp_path):
    last = None
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start_endless(data, tmp_path)
        time.sleep(0.5)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert "Stopped; run again to go on" in said and "Traceback" not in said
        if last:
            assert steps_printed(said)[0] > last, "it went on from there"
        last = steps_printed(said)[-1]
        assert stored_steps(tmp_path)[0] == last


def test_kill_9_loses_no_more_than_an_interval(data, tmp_path):
    random.seed(5)
    process = start_endless(data, tmp_path)
    time.sleep(random.uniform(0, 1))
    process.kill()
    printed = steps_printed(process.communicate()[0])
    newest = stored_steps(tmp_path)[0]
    assert newest >= (printed[-1] if printed else 20) - 10
    said = train(data, tmp_path, steps=newest + 15, every=10)
    assert f"step {newest} of" in said
    assert stored_steps(tmp_path)[0] == newest + 15
    assert not list(tmp_path.glob("*temp*")), "what the killed one left half written is gone"


def test_a_second_trainer_on_the_same_folder_is_refused(data, tmp_path):
    process = start_endless(data, tmp_path)
    said = train(data, tmp_path, status=1)
    process.kill()
    process.communicate()
    assert "another training holds it" in said


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_good_checkpoint(data, model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    said = train(data, copy, "--learning_rate", "1e20", steps=1200, every=300, status=1)
    assert "no longer a finite number" in said and "--learning_rate" in said
    assert int(re.search(r"at step (\d+)", said)[1]) < 700, "at once"
    assert stored_steps(copy) == [600, 400, 200]


def damage_newest(model, damage):
    newest = mnist_forward.list_checkpoints(model)[0]
    if damage == "truncated":
        os.truncate(f"{newest}.data-00000-of-00001", 100000)
    elif damage == "emptied":
        os.truncate(f"{newest}.index", 0)
    elif damage == "flipped":
        with open(f"{newest}.data-00000-of-00001", "r+b") as file:
            for place in range(500, os.path.getsize(file.name), 10000):  # in every tensor
                file.seek(place)
                byte = file.read(1)[0]
                file.seek(place)
                file.write(bytes([byte ^ 1]))
    elif damage == "data missing":
        os.remove(f"{newest}.data-00000-of-00001")
    elif damage == "state missing":
        os.remove(model / "checkpoint")


@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "data missing", "state missing"])
def test_the_newest_whole_checkpoint_is_taken(data, model, tmp_path, damage):
    copy = shutil.copytree(model, tmp_path / "a copy, größer")
    damage_newest(copy, damage)
    with tf.Graph().as_default(), tf.Session() as sess:
        mnist_forward.forward(tf.zeros([1, 784]), None)
        path = restore_newest(sess, copy)
    assert mnist_forward.get_step(path) == (600 if damage == "state missing" else 400)


def contents(folder):
    """What is in a folder: {name: (bytes, time of the last change)}, but for the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_run_that_trains_nothing_changes_nothing(data, model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "done")
    (copy / "outlines.npz").write_bytes(b"of another training set")
    before = contents(copy)
    assert "Nothing left to do" in train(data, copy, steps=600)
    after = contents(copy)
    assert {name: after[name] for name in before} == before
    assert not {name for name in after if "test" not in name} - before.keys()


def test_a_refused_training_changes_nothing(data, model, tmp_path):
    of_lecture = tmp_path / "lecture"
    of_lecture.mkdir()
    train_like_the_lecture(of_lecture)
    (of_lecture / "mnist_model-9.data-00000-of-00001.tempstate").write_bytes(b"half a save")
    before = contents(of_lecture)
    assert "another program's" in train(data, of_lecture, steps=49100, status=1)
    assert contents(of_lecture) == before
    said = train(tmp_path, tmp_path / "model", status=1)
    assert "mnist_train.tfrecords is missing" in said
    assert not (tmp_path / "model").exists()


def test_only_checkpoints_that_the_state_file_names_are_deleted(data, model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    for step in range(1, 8):
        for part in ("index", "data-00000-of-00001"):
            shutil.copy(model / f"mnist_model-200.{part}", copy / f"mnist_model-{step}.{part}")
    train(data, copy, steps=680, every=20)
    assert stored_steps(copy) == [680, 660, 640, 620, 600, *range(7, 0, -1)], "five of its own, and the others"


def test_all_three_programs_fall_back_and_say_so(data, model, tmp_path):
    damage_newest(shutil.copytree(model, tmp_path / "eine Kopie, größer"), "flipped")
    copy = "eine Kopie, größer"  # a relative path, with blanks and an umlaut, from another current directory
    picture = mnist_forward.PROJECT_DIR / "pic" / "7.png"
    for script, options in (
        ("mnist_test.py", ["--data", data, "--once"]),
        ("mnist_app.py", [picture]),
        ("mnist_backward.py", ["--data", data, "--steps", 410]),
    ):
        done = start(script, "--model", copy, *options, cwd=tmp_path)
        said, _ = done.communicate(timeout=60)
        assert done.returncode == 0
        assert "mnist_model-600 is damaged and passed over; restored" in said


def test_a_folder_with_no_whole_checkpoint_is_not_started_over(data, model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    for path in copy.glob("*.index"):
        os.truncate(path, 30)
    said = train(data, copy, status=1)
    assert "no whole checkpoint" in said and "mnist_backward.py" in said
    assert all(path.stat().st_size == 30 for path in copy.glob("*.index"))


def test_a_moved_folder_goes_on(data, model, tmp_path):
    moved = shutil.copytree(model, tmp_path / "moved")
    state = (moved / "checkpoint").read_text()
    assert str(model) not in state, "the paths in it are relative"
    (moved / "checkpoint").write_text(state.replace('"mnist_model', '"/nowhere/model/mnist_model'))
    assert mnist_forward.list_checkpoints(moved)[0] == str(moved / "mnist_model-600")


def test_a_full_disk_ends_the_run_and_keeps_the_earlier_checkpoints(data, model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    said = run_with_small_disk("mnist_backward.py", "--data", data, "--model", copy, "--steps", 620, limit=2 * 2**20)
    assert "took no checkpoint" in said and "File too large" in said and "make room" in said
    assert stored_steps(copy) == [600, 400, 200]
    assert not list(copy.glob("*temp*"))
    assert "step 600 of 610" in train(data, copy, steps=610)


def test_from_a_read_only_folder_is_read_and_nothing_is_trained(data, model, digits, tmp_path):
    for name, folder in (("data", data), ("model", model)):
        shutil.copytree(folder, tmp_path / name)
    (_, (images, labels)) = digits
    idx_folder(tmp_path / "data", images[:5], labels[:5])
    for name in ("data", "model"):
        for path in [*(tmp_path / name).rglob("*"), tmp_path / name]:
            path.chmod(0o555 if path.is_dir() else 0o444)
    given = ["--data", tmp_path / "data", "--model", tmp_path / "model"]
    done = run_without_privileges("mnist_test.py", *given, "--once")
    assert done.returncode == 0 and "After 600 training step(s), test accuracy" in done.stdout, done.stderr
    done = run_without_privileges("mnist_app.py", *given[2:], mnist_forward.PROJECT_DIR / "pic" / "1.png")
    assert done.returncode == 0 and "1.png: 1 (" in done.stdout, done.stderr
    for script, options, cure in (
        ("mnist_backward.py", given, "can't be written to"),
        ("mnist_generateds.py", given[:2], "name another"),
    ):
        done = run_without_privileges(script, *options)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert str(tmp_path) in done.stderr and cure in done.stderr
