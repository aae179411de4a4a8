"""The app as a user meets it: the lecture's conversation, many pictures at once, bad ones among them."""

import io
import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import ROOT, command, run, run_without_privileges
from PIL import Image
from test_preparation import drawn, on_paper

import mnist_app
from mnist_forward import UserError, tf

PIC = ROOT / "pic"
# Letters and drawings that no digit resembles, as strokes from (0, 0) to (1, 1).
NO_DIGITS = {
    "A": [[(0, 1), (0.5, 0), (1, 1)], [(0.2, 0.6), (0.8, 0.6)]],
    "H": [[(0, 0), (0, 1)], [(1, 0), (1, 1)], [(0, 0.5), (1, 0.5)]],
    "K": [[(0, 0), (0, 1)], [(0.8, 0), (0, 0.5), (0.8, 1)]],
    "M": [[(0, 1), (0, 0), (0.5, 0.6), (1, 0), (1, 1)]],
    "W": [[(0, 0), (0.25, 1), (0.5, 0.3), (0.75, 1), (1, 0)]],
    "X": [[(0, 0), (1, 1)], [(1, 0), (0, 1)]],
    "house": [[(0, 0.45), (0.5, 0), (1, 0.45), (1, 1), (0, 1), (0, 0.45), (1, 0.45)]],
    "envelope": [[(0, 0), (1, 0), (1, 0.7), (0, 0.7), (0, 0), (0.5, 0.4), (1, 0)]],
    "star": [[(0.5, 0), (0.8, 0.9), (0, 0.35), (1, 0.35), (0.2, 0.9), (0.5, 0)]],
    "hash": [[(0.3, 0), (0.3, 1)], [(0.7, 0), (0.7, 1)], [(0, 0.3), (1, 0.3)], [(0, 0.7), (1, 0.7)]],
}


@pytest.fixture
def talk(model):
    """Run the conversation with these lines typed in; returns (exit status, what was printed)."""

    def talk(*lines):
        done = subprocess.run(
            command("mnist_app.py", "--model", model),
            input="".join(f"{line}\n" for line in lines),
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    return talk


def test_the_lecture_s_conversation(talk):
    status, said = talk(10, *(PIC / f"{digit}.png" for digit in range(10)))
    assert status == 0
    assert said.startswith("input the number of test pictures:the path of test picture:The prediction number is: ")
    answers = [line.rpartition(" ")[2] for line in said.splitlines() if "The prediction number is: " in line]
    assert len(answers) == 10
    right = sum(answer == str(digit) for digit, answer in enumerate(answers))
    assert right >= 8, f"{answers} from the small network of the tests"


def test_odd_answers_are_asked_again_with_a_sentence(talk, tmp_path):
    picture = shutil.copy(PIC / "1.png", tmp_path / "a one.png")
    status, said = talk(
        "",
        "abc",
        "-3",
        "3.0",
        "1e9",
        "３",
        "0",
        "3",
        "",
        f" '{picture}'  ",
        "gone.png",
        str(picture).replace(" ", "\\ "),
    )
    assert said.count("is no number of pictures") == 7
    assert said.count("That is no path") == 1
    assert said.count("The prediction number is: 1") == 2
    assert "gone.png: can't be read (No such file or directory): check the path" in said
    assert status == 1


@pytest.mark.parametrize("typed", [[], ["2", str(PIC / "1.png")]])
def test_the_end_of_the_input_ends_it_with_a_sentence(model, monkeypatch, capsys, typed):
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in typed)))
    assert mnist_app.application(model) == 1
    assert "The input ended before the last picture." in capsys.readouterr().out


def test_ctrl_c_ends_it_quietly(model):
    process = subprocess.Popen(
        command("mnist_app.py", "--model", model), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.read(10) == b"input the "
    time.sleep(1)  # until it waits for the answer
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130  # with its input still open: its end would end the program, too
    assert b"Traceback" not in process.stderr.read()


def test_many_pictures_with_bad_ones_among_them(model, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(PIC / "2.png", folder / "b.png")
    shutil.copy(PIC / "1.png", folder / "a.png")
    (folder / "notes.txt").write_text("not a picture, not looked at")
    not_utf8 = os.fsencode(tmp_path) + b"/\xff.png"
    shutil.copy(PIC / "1.png", not_utf8)
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (400, 300), "white").save(tmp_path / "blank.png")
    given = [
        folder,
        tmp_path / "text.png",
        "gone.png",
        tmp_path / "blank.png",
        f"{PIC}/[12].png",
        os.fsdecode(not_utf8),
    ]
    arguments = ["mnist_app.py", "--model", model, "--json", *map(os.fsdecode, given)]
    done = subprocess.run(command(*arguments), capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 1 and done.stderr == ""
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    pictures = [folder / "a.png", folder / "b.png", *given[1:4], PIC / "1.png", PIC / "2.png", given[5]]
    assert [answer["picture"] for answer in answers] == [str(path) for path in pictures]
    assert [answer.get("digits") for answer in answers] == ["1", "2", None, None, None, "1", "2", "1"]
    for answer in answers:
        if "error" in answer:
            assert answer["error"].endswith(".") and "\n" not in answer["error"]
        else:
            assert 0.5 <= answer["probability"] <= 1

    done = subprocess.run(command(*[a for a in arguments if a != "--json"]), capture_output=True, timeout=60)
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 1 and len(lines) == len(answers)
    assert lines[0].startswith(f"{folder / 'a.png'}: 1 (")


@pytest.fixture(scope="module")
def knowing_model(tmp_path_factory, model, digits):
    """The small network of the tests beside as many familiar digits as the trainer takes from the whole set."""
    folder = tmp_path_factory.mktemp("knowing") / "model"
    shutil.copytree(model, folder)
    ((images, labels), _) = digits
    mnist_app.write_familiar(folder, list(zip(map(bytes, images[:20000]), labels[:20000], strict=True)))
    return folder


def test_most_letters_and_drawings_get_a_sentence(knowing_model, tmp_path):
    for name, strokes in NO_DIGITS.items():
        picture = on_paper(drawn(*strokes, box=(120, 60, 280, 220)))
        Image.fromarray(np.uint8(picture * 255)).save(tmp_path / f"{name}.png")
    done = subprocess.run(
        command("mnist_app.py", "--model", knowing_model, tmp_path), capture_output=True, encoding="utf-8", timeout=60
    )
    refused = [line for line in done.stdout.splitlines() if "nothing that is clearly a digit" in line]
    assert len(refused) >= 7, done.stdout


def test_answers_are_not_held_back_for_their_pictures(tmp_path):
    def answers():
        yield mnist_app.Answer(str(PIC / "1.png"), error="first")
        raise AssertionError("asked for the second before the first was passed on")

    assert next(mnist_app.album(answers(), tmp_path / "look")).error == "first"
    assert (tmp_path / "look" / "0001-1.png").exists()


def test_an_unsure_network_gets_a_sentence_but_one_unsure_digit_of_a_number_does_not(model, monkeypatch):
    monkeypatch.setattr(mnist_app, "are_strange", lambda pictures, answers, model: np.zeros(len(pictures), bool))
    for name, first, refused in (("1", 0.7, False), ("1", 0.4, True), ("number", 0.4, False)):

        def probabilities_of(pictures, model, first=first):
            sure = np.full([5, len(pictures) // 5], 0.9)
            sure[:, 0] = first  # of the first digit, in all five places
            sure = sure.reshape(-1, 1)
            return np.hstack([sure, np.repeat((1 - sure) / 9, 9, axis=1)])

        monkeypatch.setattr(mnist_app, "probabilities_of", probabilities_of)
        [answer] = mnist_app.read_pictures([PIC / f"{name}.png"], model)
        assert ("nothing that is clearly a digit" in answer.error) == refused


def test_the_answer_is_the_mean_over_the_digit_and_its_places_a_pixel_off(model, monkeypatch):
    seen = []

    def probabilities_of(pictures, model):
        seen.extend(pictures.reshape(-1, 28, 28))
        return np.array([[0.1, 0.9, 0.0], *[[0.4, 0.0, 0.6]] * 4])

    monkeypatch.setattr(mnist_app, "probabilities_of", probabilities_of)
    monkeypatch.setattr(mnist_app, "are_strange", lambda pictures, answers, model: np.zeros(len(pictures), bool))
    [answer] = mnist_app.read_pictures([PIC / "7.png"], model)
    assert answer.number == "2" and answer.probability == pytest.approx(4 * 0.6 / 5)
    places = {tuple(np.argwhere(picture > 0.5).mean(0) - np.argwhere(seen[0] > 0.5).mean(0)) for picture in seen}
    assert {tuple(np.rint(place).astype(int)) for place in places} == {(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)}


def test_hardly_a_real_digit_is_taken_for_none(knowing_model, digits):
    (_, (images, labels)) = digits
    pictures = images[:2000].reshape(-1, 784) / np.float32(255)
    assert mnist_app.are_strange(pictures, labels[:2000].astype(int), knowing_model).mean() < 0.01
    upside_down = pictures[labels[:2000] == 4][:, ::-1]
    assert mnist_app.are_strange(upside_down, np.full(len(upside_down), 4), knowing_model).mean() > 0.3


def test_damaged_familiar_digits_are_said_with_the_cure(model, tmp_path):
    whole = (model / mnist_app.FAMILIAR).read_bytes()
    for number, damaged in enumerate((b"", whole[: len(whole) // 2], b"no archive")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / mnist_app.FAMILIAR).write_bytes(damaged)
        with pytest.raises(UserError, match=r"is damaged: delete it and run mnist_backward\.py"):
            mnist_app.familiar(folder)
    np.savez(tmp_path / "foreign.npz", outlines=np.ones(5), classes=np.arange(3), strange=0.1)
    (tmp_path / "0" / "other").mkdir()
    (tmp_path / "foreign.npz").rename(tmp_path / "0" / "other" / mnist_app.FAMILIAR)
    with pytest.raises(UserError, match="is damaged"):
        mnist_app.familiar(tmp_path / "0" / "other")
    none = mnist_app.are_strange(np.zeros([2, 784], np.float32), np.zeros(2, int), tmp_path)
    assert not none.any(), "a model of the lecture's program has none"


def test_no_checkpoint_is_said_with_the_cure(tmp_path):
    with pytest.raises(UserError, match=r"holds no checkpoint: run mnist_backward\.py first"):
        next(mnist_app.read_pictures([PIC / "1.png"], tmp_path))


def test_a_picture_and_a_model_without_permission_are_refused(model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    picture = shutil.copy(PIC / "1.png", tmp_path / "mine.png")
    os.chmod(picture, 0)
    done = run_without_privileges("mnist_app.py", "--model", tmp_path / "model", picture, PIC / "1.png")
    assert done.returncode == 1 and done.stderr == ""
    assert "mine.png: can't be read (Permission denied)" in done.stdout and "1.png: 1 (" in done.stdout
    os.chmod(tmp_path / "model", 0)
    done = run_without_privileges("mnist_app.py", "--model", tmp_path / "model", PIC / "1.png")
    assert done.returncode == 1 and "Traceback" not in done.stderr and str(tmp_path / "model") in done.stderr


def test_the_exported_network_answers_as_the_checkpoint(model, tmp_path, digits):
    version = tmp_path / "digits" / "1"
    assert f"{version} is a SavedModel" in run("mnist_app.py", "--model", model, "--export", version)
    assert f"{version} exists: name a new folder" in run(
        "mnist_app.py", "--model", model, "--export", version, status=1
    )
    assert [path.name for path in version.parent.iterdir()] == ["1"], "nothing unfinished is left"
    (_, (images, _)) = digits
    x = images[:50].reshape(-1, 784) / np.float32(255)
    with tf.Graph().as_default(), tf.Session() as sess:
        signature = tf.saved_model.load(sess, ["serve"], str(version)).signature_def["serving_default"]
        y = sess.run(signature.outputs["probabilities"].name, {signature.inputs["pictures"].name: x})
    w1, b1, w2, b2 = (
        tf.train.load_variable(str(model / "mnist_model-600"), f"{name}/ExponentialMovingAverage")
        for name in ("Variable", "Variable_1", "Variable_2", "Variable_3")
    )
    scores = np.exp(np.maximum(x @ w1 + b1, 0) @ w2 + b2)
    np.testing.assert_allclose(y, scores / scores.sum(1, keepdims=True), atol=1e-5)


def test_looking_saves_a_picture_of_each_answer_and_a_contact_sheet(model, tmp_path):
    Image.new("RGB", (5000, 1)).save(tmp_path / "line.png")  # hard to show
    seen = tmp_path / "seen"
    run(
        "mnist_app.py",
        "--model",
        model,
        "--look",
        seen,
        PIC / "3.png",
        PIC / "number.png",
        tmp_path / "line.png",
        status=1,
    )
    names = sorted(path.name for path in seen.iterdir())
    assert names == ["0001-3.png", "0002-number.png", "0003-line.png", "contact-sheet-0001.png"]
    with Image.open(seen / "0001-3.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red = (pixels == (255, 0, 0)).all(2)
    assert red.any(1).sum() > 50 and red.any(0).sum() > 50, "a box round the digit"
    for edge in (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]):
        assert (edge == 255).all(), "nothing is cut off at the edges"
