"""The training: its lines, its checkpoints, and how it goes on after whatever ended it."""

import argparse
import os
import random
import re
import shutil
import signal
import sys
import time

import numpy as np
import pytest
from conftest import TIMEOUT, restore_newest, run, run_with_small_disk, run_without_privileges, start, steps_printed
from test_forward import train_like_the_lecture
from test_generateds import idx_folder

import mnist_backward
import mnist_forward
import mnist_generateds
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


def test_a_training_prints_saves_evaluates_itself_and_goes_on_from_its_total(data, tmp_path):
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
        said, _ = process.communicate(timeout=TIMEOUT)
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
        said, _ = done.communicate(timeout=TIMEOUT)
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


# ---- the graph of the training


@pytest.fixture
def arguments(monkeypatch, data, tmp_path):
    """A function of options that returns what the trainer reads from such a command line."""

    def parse(*options):
        given = ["mnist_backward.py", "--data", data, "--model", tmp_path, *options]
        monkeypatch.setattr(sys, "argv", list(map(str, given)))
        return mnist_backward.parse_arguments()

    return parse


@pytest.fixture
def graph(arguments):
    """A function of options that returns the TrainingGraph of such a command line, in the default graph."""
    with tf.Graph().as_default():
        yield lambda *options, **machine: mnist_backward.build_training_graph(arguments(*options), **machine)


def start_session(sess):
    sess.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
    tf.train.start_queue_runners(sess=sess, coord=tf.train.Coordinator())


def test_the_default_is_what_the_readme_tells(arguments):
    readme = (mnist_forward.PROJECT_DIR / "README.md").read_text(encoding="utf-8")
    assert f"**default**, {arguments().steps:,} steps" in readme


def test_the_loss_is_cross_entropy_and_l2_of_the_weights(graph):
    loss = graph().loss
    with tf.Session() as sess:
        start_session(sess)
        w1, w2 = (v for v in tf.trainable_variables() if len(v.shape) == 2)
        # With w2 zero every class has probability 0.1, whatever the picture.
        w1.load(np.full(w1.shape, 2), sess)
        w2.load(np.zeros(w2.shape), sess)
        assert sess.run(loss) == pytest.approx(np.log(10) + 1e-5 * 784 * 500 * 2**2 / 2, rel=1e-3)


def test_every_tenth_step_the_average_takes_in_the_weights_as_they_are_then(graph):
    training = graph("--steps", 200_000)
    with tf.Session() as sess:
        start_session(sess)
        weights = tf.trainable_variables()[0]
        average = next(v for v in tf.global_variables() if v.op.name == "Variable/ExponentialMovingAverage")
        # The decay is 0.999 a step once there were many; of the first steps the average is over a ninth.
        for first, decay in ((100_000, 0.999**10), (0, 2 / 11)):
            tf.train.get_global_step().load(first, sess)
            before = sess.run(average)
            for _ in range(9):
                sess.run(training.train_op)
            np.testing.assert_array_equal(sess.run(average), before)
            sess.run(training.train_op)
            expected = decay * before + (1 - decay) * sess.run(weights)
            np.testing.assert_allclose(sess.run(average), expected, atol=1e-5)


def events(folder):
    """What the event files of a folder hold: {tag: {step: number}}."""
    found = {}
    for path in sorted(folder.glob("events.*")):
        for event in tf.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_the_learning_rate_falls_from_its_base_to_zero_and_again_from_a_later_step(data, model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    train(data, copy, "--from_step", 600, "--learning_rate", 0.05, steps=700, every=1)
    rates = events(copy)["learning_rate"]
    # The summaries of a step have the rate of the next one.
    assert rates[600] == pytest.approx(0, abs=1e-4)
    assert rates[601] == pytest.approx(0.05, rel=0.01)
    assert rates[650] == pytest.approx(0.025, rel=0.01)
    assert rates[200] == pytest.approx(0.12 * 0.75, rel=0.01), "of the 600 steps before"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--steps", 60, "--from_step", 60), "--from_step"),
        (("--learning_rate", "-1"), "--learning_rate must be"),
        (("--learning_rate", "0"), "--learning_rate must be"),
        (("--learning_rate", "nan"), "--learning_rate must be"),
    ],
)
def test_a_first_step_is_before_the_last_and_a_learning_rate_above_0(arguments, capsys, options, said):
    with pytest.raises(SystemExit) as ended:
        arguments(*options)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_distortions_fade_over_the_last_steps():
    with tf.Graph().as_default(), tf.Session() as sess:
        strengths = [sess.run(mnist_backward.fade_strength(2.0, step, 100)) for step in (0, 70, 85, 100)]
    np.testing.assert_allclose(strengths, [2, 2, 1.3, 0.6], rtol=1e-5)


def test_training_batches_are_distorted_unless_told_otherwise(graph, monkeypatch):
    given = []
    read = mnist_generateds.get_tfrecord
    monkeypatch.setattr(mnist_generateds, "get_tfrecord", lambda *a, **k: given.append(k["distort"]) or read(*a, **k))
    graph()
    moved = given[0](tf.constant(np.eye(800, 784, dtype="f")))
    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        assert np.abs(sess.run(moved) - np.eye(800, 784)).max() > 0.5
    with tf.Graph().as_default():
        graph("--distortions", 0)
    assert given[1] is None


def test_fields_are_shared_alike_whatever_the_batch(graph, data):
    for num in (1, 7, 100, 300, 900):
        with tf.Graph().as_default(), tf.Session() as sess:
            img, label = mnist_generateds.get_tfrecord(
                num, data_dir=data, distort=lambda img: mnist_backward.distort(img, 1.0)
            )
            start_session(sess)
            pictures, labels = sess.run([img, label])
            assert pictures.shape == (num, 784) and labels.shape == (num, 10)


def test_seed_machine_and_checkpoint_make_other_random_numbers(graph, model, tmp_path):
    def seed(*options, **machine):
        with tf.Graph().as_default() as built:
            graph(*options, **machine)
        return built.seed

    seeds = [seed("--seed", 5), seed("--seed", 6), seed("--seed", 5, task=3, tasks=4)]
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)
    seeds.append(seed("--seed", 5))
    assert len(set(seeds)) == 4


# ---- what is said while it trains


class SlowSession:
    """Stands for a session: step number `step` takes seconds(step) on the clock `now`."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.now = 0.0
        self.step = 0

    def run(self, fetches):
        if "train_op" not in fetches:
            return [{"loss": 0.25, "queue_fill": 0.5, "summaries": b"some"}[name] for name in fetches]
        self.now += self.seconds(self.step)
        self.step += 1
        return [None, self.step, 0.75]


def test_speed_and_time_left_are_those_of_the_last_interval(monkeypatch, capsys, arguments):
    sess = SlowSession(lambda step: 1 if step < 10 else 0.1)
    monkeypatch.setattr(time, "perf_counter", lambda: sess.now)
    named = argparse.Namespace(**{name: name for name in ("train_op", "step", "loss", "queue_fill", "summaries")})
    saved = []

    def save_step(step, rate, summaries):
        saved.append((step, round(rate, 3), summaries))

    args = arguments("--steps", 30, "--save_every", 10)
    assert mnist_backward.train(sess, named, args, 0, save_step) is None
    assert saved == [(10, 1, b"some"), (20, 10, b"some"), (30, 10, b"some")]
    assert capsys.readouterr().out.splitlines() == [
        "After 10 training step(s), loss on training batch is 0.75.  1 steps/s, 0:00:20 left, queue 50% full",
        "After 20 training step(s), loss on training batch is 0.75.  10 steps/s, 0:00:01 left, queue 50% full",
        "After 30 training step(s), loss on training batch is 0.75.  10 steps/s, 0:00:00 left, queue 50% full",
    ]


def test_tensorboard_gets_pictures_a_second_and_step_numbers(data, tmp_path):
    said = train(data, tmp_path, "--batch_size", 50, steps=40)
    printed = [int(rate) for rate in re.findall(r"  (\d+) steps/s", said)]
    of_events = events(tmp_path)["pictures_per_second"]
    assert list(of_events) == [20, 40]
    np.testing.assert_allclose(list(of_events.values()), np.multiply(printed, 50), atol=26)
    assert list(events(tmp_path / "test")["accuracy"]) == [40]


def test_the_second_stop_signal_ends_the_program_at_once():
    default = signal.getsignal(signal.SIGTERM)
    with mnist_backward._catch_stop_signals() as caught:
        os.kill(os.getpid(), signal.SIGTERM)
        assert caught == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == default


# ---- the model folder before a training


def test_a_missing_test_set_is_said_before_the_training(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    (copy / "mnist_test.tfrecords").unlink()
    assert "mnist_test.tfrecords is missing" in train(copy, tmp_path / "model", status=1)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_files_of_a_model_that_was_removed_and_half_a_checkpoint_go(model, tmp_path, has_checkpoint):
    data = tmp_path / "data"
    data.mkdir()
    copy = tmp_path / "model"
    copy.mkdir()
    if has_checkpoint:
        shutil.copytree(model, copy, dirs_exist_ok=True)
    for name in ("classes.txt", "outlines.npz", "mnist_model-9.data-00000-of-00001.tempstate1", "checkpoint.tmp1"):
        (copy / name).write_text("left over")
    (copy / "mnist_model-9_temp").mkdir()
    mnist_backward.prepare_model_dir(argparse.Namespace(data=data, model=copy))
    left = {path.name for path in copy.iterdir() if path.is_dir() or path.read_bytes() == b"left over"} - {"test"}
    assert left == ({"classes.txt", "outlines.npz"} if has_checkpoint else set())
    (data / "outlines.npz").write_text("of the data")
    mnist_backward.prepare_model_dir(argparse.Namespace(data=data, model=copy))
    assert (copy / "outlines.npz").read_text() == "of the data"
