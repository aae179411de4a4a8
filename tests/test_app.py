"""The app as a user meets it: the lecture's conversation, many pictures at once, bad ones among them."""

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from conftest import ROOT, TIMEOUT, command, make_found, run, run_without_privileges
from PIL import Image
from test_preparation import drawn, on_paper

import mnist_app
import mnist_forward
from mnist_forward import DIGITS, UserError, tf

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
            timeout=TIMEOUT,
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
    assert status == 3


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
    assert process.wait(timeout=TIMEOUT) == 130  # with its input still open: its end would end the program, too
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
    done = subprocess.run(command(*arguments), capture_output=True, encoding="utf-8", timeout=TIMEOUT)
    assert done.returncode == 3 and done.stderr == ""
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    pictures = [folder / "a.png", folder / "b.png", *given[1:4], PIC / "1.png", PIC / "2.png", given[5]]
    assert [answer["picture"] for answer in answers] == [str(path) for path in pictures]
    assert [answer.get("digits") for answer in answers] == ["1", "2", None, None, None, "1", "2", "1"]
    for answer in answers:
        if "error" in answer:
            assert answer["error"].endswith(".") and "\n" not in answer["error"]
        else:
            assert 0.5 <= answer["probability"] <= 1

    done = subprocess.run(command(*[a for a in arguments if a != "--json"]), capture_output=True, timeout=TIMEOUT)
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 3 and len(lines) == len(answers)
    assert lines[0].startswith(f"{folder / 'a.png'}: 1 (")


def test_a_pattern_that_matches_folders_names_their_pictures_once(tmp_path):
    pictures = [tmp_path / folder / name for folder in ("in1", "in2") for name in ("a.png", "b.JPG")]
    for path in pictures:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        path.with_suffix(".txt").touch()
    assert list(mnist_app.list_pictures([f"{tmp_path}/in*"])) == [str(path) for path in pictures]
    assert list(mnist_app.list_pictures([f"{tmp_path}/**/*.png"])) == [str(path) for path in pictures[::2]]


@pytest.fixture(scope="module")
def knowing_model(tmp_path_factory, model, digits):
    """The small network of the tests beside as many familiar digits as the trainer takes from the whole set."""
    folder = tmp_path_factory.mktemp("knowing") / "model"
    shutil.copytree(model, folder)
    ((images, labels), _) = digits
    mnist_app.write_outlines(folder, list(zip(map(bytes, images[:20000]), labels[:20000], strict=True)))
    return folder


def test_most_letters_and_drawings_get_a_sentence(knowing_model, tmp_path):
    for (name, strokes), pen in itertools.product(NO_DIGITS.items(), (6, 12, 20, 28)):
        picture = on_paper(drawn(*strokes, box=(120, 60, 280, 220), pen=pen))
        Image.fromarray(np.uint8(picture * 255)).save(tmp_path / f"{name}-{pen}.png")
    done = subprocess.run(
        command("mnist_app.py", "--model", knowing_model, tmp_path),
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
    )
    sentences = ("nothing that is clearly a digit", "something else than writing")
    refused = [line for line in done.stdout.splitlines() if any(sentence in line for sentence in sentences)]
    assert len(refused) >= 26, done.stdout


GUESSES = ((("4", 0.9), ("9", 0.1), ("1", 0.0)), (("2", 0.8), ("7", 0.2), ("3", 0.0)))


def run_main(monkeypatch, capsys, *arguments):
    """Run the app in this process; returns what it printed."""
    monkeypatch.setattr("sys.argv", ["mnist_app.py", *map(str, arguments)])
    mnist_app.main()
    return capsys.readouterr().out


@pytest.mark.parametrize("way", ["prompt", "arguments", "json", "look"])
def test_every_way_to_an_answer_goes_through_pre_pic_and_restore_model(model, monkeypatch, capsys, tmp_path, way):
    pixels = np.linspace(0, 1, 2 * 784, dtype=np.float32).reshape(2, 784)
    boxes = np.array([[10.0, 20, 110, 220], [150, 20, 250, 220]])
    asked = []

    def restore_model(given, *model_dir):
        asked.append((given, *model_dir))
        return mnist_app.Answer("42", 0.72, GUESSES)

    found = make_found(pixels, boxes, scale=2.0)

    def pre_pic(path, model_dir, return_found=False):
        assert str(path) == str(PIC / "1.png") and model_dir == model
        return found if return_found else pixels

    monkeypatch.setattr(mnist_app, "pre_pic", pre_pic)
    monkeypatch.setattr(mnist_app, "restore_model", restore_model)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"1\n{PIC / '1.png'}\n"))
    options = {"prompt": [], "arguments": [PIC / "1.png"], "json": ["--json", PIC / "1.png"]}
    options["look"] = ["--look", tmp_path / "look", PIC / "1.png"]
    said = run_main(monkeypatch, capsys, "--model", model, *options[way])
    details = {"each": [0.9, 0.8], "boxes": [[20, 40, 220, 440], [300, 40, 500, 440]]}
    expected = {
        "prompt": "The prediction number is: 42\n(72.0% sure)\n",
        "json": json.dumps({"picture": str(PIC / "1.png"), "digits": "42", "probability": 0.72, **details}) + "\n",
    }
    assert said.endswith(expected.get(way, f"{PIC / '1.png'}: 42 (72.0%)\n"))
    [(given, model_dir)] = asked
    assert given is pixels and model_dir == model
    if way == "look":
        with Image.open(tmp_path / "look" / "0001-1.png") as image:
            red = (np.asarray(image.convert("RGB")) == (255, 0, 0)).all(2)
        edges = np.flatnonzero(red.sum(0) > 50)
        assert len(edges) == 8, "two boxes, each edge of a box two pixels wide"


def test_pre_pic_returns_all_digits_with_and_without_the_rest(model):
    found = mnist_app.pre_pic(PIC / "number.png", model, return_found=True)
    pixels = mnist_app.pre_pic(PIC / "number.png", model)
    assert pixels.shape == (5, 784) and (pixels == found.pixels).all()


def test_answers_are_not_held_back_for_their_pictures(model, monkeypatch, capsys, tmp_path):
    def read_pictures(paths, model_dir):
        yield mnist_app.Reading(str(PIC / "1.png"), mnist_app.Answer(error="first"))
        raise AssertionError("asked for the second before the first was passed on")

    monkeypatch.setattr(mnist_app, "read_pictures", read_pictures)
    with pytest.raises(AssertionError):
        run_main(monkeypatch, capsys, "--model", model, "--look", tmp_path / "look", PIC / "1.png")
    assert "first" in capsys.readouterr().out
    assert (tmp_path / "look" / "0001-1.png").exists()


@pytest.fixture
def answer_with(model, monkeypatch):
    """Let the network give these probabilities; returns its Answer."""

    def answer_with(probabilities):
        network = types.SimpleNamespace(run=lambda y, feed: np.array(probabilities))
        monkeypatch.setattr(mnist_app, "_restored_network", lambda model_dir: (network, "x", "y"))
        return mnist_app.restore_model(np.zeros([len(probabilities), 784], np.float32), model)

    return answer_with


def row(**probabilities):
    """Ten probabilities of which some are given, by names as in `p3`."""
    return [probabilities.get(f"p{digit}", 0.0) for digit in range(10)]


def test_an_answer_is_the_likeliest_classes_and_the_probability_that_all_are_right(answer_with):
    answer = answer_with([row(p4=0.9, p9=0.08, p1=0.02), row(p2=0.8, p7=0.15, p3=0.05)])
    assert answer.number == "42" and answer.confidence == pytest.approx(0.72)
    names = [[name for name, _ in guesses] for guesses in answer.guesses]
    assert names == [["4", "9", "1"], ["2", "7", "3"]], "the three likeliest, in order"
    assert str(answer) == "42 (72.0%)"


def test_names_of_several_letters_stay_apart(answer_with, monkeypatch):
    monkeypatch.setattr(mnist_app, "read_class_names", lambda _: ["0", "1", "2", "3", "four", "5", "6", "7", "8", "9"])
    assert answer_with([row(p4=0.9, p9=0.1), row(p2=0.8, p7=0.2), row(p4=0.9, p9=0.1)]).number == "four 2 four"


def test_an_unsure_network_gets_a_sentence_but_one_unsure_digit_of_a_number_does_not(model, monkeypatch):
    monkeypatch.setattr(mnist_app, "_measure_strangeness", lambda pixels, classes, model_dir: np.zeros(len(pixels)))
    monkeypatch.setattr(mnist_app, "_measure_wholeness", lambda pixels: np.full(len(pixels), 2.0))
    sure = row(p3=0.9, p5=0.1)
    unsure = row(p3=0.4, p5=0.3, p8=0.3)
    picture = np.ones([100, 300, 3], np.float32)
    for probabilities, refused in (([row(p1=0.7, p7=0.3)], False), ([unsure], True), ([unsure, sure, sure], False)):
        n = len(probabilities)
        pixels = np.zeros([n, 28, 28], np.float32)
        pixels[:, 4:24, 8:20] = 1
        judgement = mnist_app.judge_digits(pixels.reshape(n, 784), np.array(probabilities), model)
        boxes = [[90 * i + 10, 10, 90 * i + 60, 90] for i in range(n)]
        strokes = n * (mnist_app._Strokes(area=1000, width=6.0, thick=0.0, length=2.0),)
        found = make_found(pixels.reshape(n, 784), boxes, strokes=strokes, **judgement._asdict())
        assert ("nothing that is clearly a digit" in str(mnist_app._find_refusal(found, picture, DIGITS))) == refused


def test_the_answer_is_the_mean_over_the_digit_and_its_places_a_pixel_off(model):
    pixels = np.zeros([2, 28, 28], np.float32)
    pixels[0, 4:24, 10:14] = 1
    pixels[1, :, 26:] = np.linspace(0, 1, 28)[:, None]  # ink at the edges, which must not come in on the other side
    framed = np.pad(pixels, ((0, 0), (1, 1), (1, 1)))
    moved = [framed[:, 1 - y : 29 - y, 1 - x : 29 - x] for y, x in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))]
    w1, b1, w2, b2 = (
        tf.train.load_variable(str(model / "mnist_model-600"), f"{name}/ExponentialMovingAverage")
        for name in ("Variable", "Variable_1", "Variable_2", "Variable_3")
    )
    scores = np.exp(np.maximum(np.reshape(moved, [5, 2, 784]) @ w1 + b1, 0) @ w2 + b2)
    expected = (scores / scores.sum(2, keepdims=True)).mean(0).max(1)
    answer = mnist_app.restore_model(pixels.reshape(2, 784), model)
    np.testing.assert_allclose([guesses[0][1] for guesses in answer.guesses], expected, atol=1e-5)


def test_hardly_a_real_digit_is_taken_for_none(knowing_model, digits):
    (_, (images, labels)) = digits
    pictures = images[:2000].reshape(-1, 784) / np.float32(255)
    assert (mnist_app._measure_strangeness(pictures, labels[:2000].astype(int), knowing_model) > 1).mean() < 0.01
    upside_down = pictures[labels[:2000] == 4][:, ::-1]
    assert (mnist_app._measure_strangeness(upside_down, np.full(len(upside_down), 4), knowing_model) > 1).mean() > 0.3


def test_damaged_familiar_digits_are_said_with_the_cure(model, tmp_path):
    whole = (model / mnist_forward.OUTLINES_FILE).read_bytes()
    for number, damaged in enumerate((b"", whole[: len(whole) // 2], b"no archive")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / mnist_forward.OUTLINES_FILE).write_bytes(damaged)
        with pytest.raises(UserError, match=r"is damaged: copy it anew"):
            mnist_app._read_outlines(folder)
    np.savez(tmp_path / "foreign.npz", outlines=np.ones(5), classes=np.arange(3), strange=0.1)
    (tmp_path / "0" / "other").mkdir()
    (tmp_path / "foreign.npz").rename(tmp_path / "0" / "other" / mnist_forward.OUTLINES_FILE)
    with pytest.raises(UserError, match="is damaged"):
        mnist_app._read_outlines(tmp_path / "0" / "other")
    none = mnist_app._measure_strangeness(np.zeros([2, 784], np.float32), np.zeros(2, int), tmp_path) > 1
    assert not none.any(), "a model of the lecture's program has none"


def test_damaged_weights_for_whole_digits_are_said_with_the_cure(tmp_path, monkeypatch):
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(mnist_app.WHOLE_DIGITS_PATH.read_bytes()[:9999])
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, weights1=np.ones([784, 500]), biases1=np.ones(500))
    for path in (damaged, foreign, tmp_path / "missing.npz"):
        monkeypatch.setattr(mnist_app, "WHOLE_DIGITS_PATH", path)
        with pytest.raises(UserError, match=rf"{path.name} is missing or damaged: take it from the repository again"):
            mnist_app._whole_digit_network.__wrapped__()


def test_no_checkpoint_is_said_with_the_cure(tmp_path):
    with pytest.raises(UserError, match=r"holds no checkpoint: run mnist_backward\.py first"):
        next(mnist_app.read_pictures([PIC / "1.png"], tmp_path))


def test_a_picture_and_a_model_without_permission_are_refused(model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    picture = shutil.copy(PIC / "1.png", tmp_path / "mine.png")
    os.chmod(picture, 0)
    done = run_without_privileges("mnist_app.py", "--model", tmp_path / "model", picture, PIC / "1.png")
    assert done.returncode == 3 and done.stderr == ""
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
    np.save(tmp_path / "pixels.npy", images[:200].reshape(-1, 784) / np.float32(255))
    # In TensorFlow 2's own mode, in a process of its own.
    code = """
import logging, sys
import numpy as np, tensorflow as tf
said = []
logging.getLogger("tensorflow").addHandler(type("H", (logging.Handler,), {"emit": lambda self, r: said.append(r)})())
network = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
np.save(sys.argv[3], network(pictures=tf.constant(np.load(sys.argv[2])))["probabilities"].numpy())
assert not said, [record.getMessage() for record in said]
"""
    given = [version, tmp_path / "pixels.npy", tmp_path / "probabilities.npy"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, given)], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    probabilities = np.load(tmp_path / "probabilities.npy")
    answer = mnist_app.restore_model(np.load(tmp_path / "pixels.npy"), model)
    assert "".join(str(digit) for digit in probabilities.argmax(1)) == answer.number
    expected = [guesses[0][1] for guesses in answer.guesses]
    np.testing.assert_allclose(probabilities.max(1), expected, atol=1e-5)


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
        status=3,
    )
    names = sorted(path.name for path in seen.iterdir())
    assert names == ["0001-3.png", "0002-number.png", "0003-line.png", "contact-sheet-0001.png"]
    with Image.open(seen / "0001-3.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red = (pixels == (255, 0, 0)).all(2)
    assert red.any(1).sum() > 50 and red.any(0).sum() > 50, "a box round the digit"
    for edge in (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]):
        assert (edge == 255).all(), "nothing is cut off at the edges"


def test_a_file_in_place_of_a_folder_is_said_before_any_picture_is_read(model, monkeypatch, capsys, tmp_path):
    file = tmp_path / "seen"
    file.touch()
    with pytest.raises(UserError, match=r"seen can't be a folder \(a file has that name\): name another --look"):
        run_main(monkeypatch, capsys, "--model", model, "--look", file, PIC / "1.png")
    with pytest.raises(UserError, match=r"seen can't be a folder \(a file has that name\): name another --export"):
        run_main(monkeypatch, capsys, "--model", model, "--export", file / "1")
    assert capsys.readouterr().out == ""


def test_a_path_in_the_home_folder_may_be_typed_with_a_tilde(model, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(PIC / "1.png", tmp_path / "mine.png")
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n~/mine.png\n"))
    assert "The prediction number is: 1\n" in run_main(monkeypatch, capsys, "--model", model)


def readings(count, path=PIC / "1.png", answer=None):
    return [mnist_app.Reading(str(path), answer or mnist_app.Answer(error=f"{i}.")) for i in range(count)]


def test_every_answer_is_on_a_contact_sheet(monkeypatch, tmp_path):
    sheets = {}
    monkeypatch.setattr(mnist_app, "save_picture", lambda image, path: sheets.update({path.name: image.width}))
    monkeypatch.setattr(mnist_app, "open_picture", lambda path: np.ones((30, 40, 3), np.float32))
    captions = []
    blank = Image.new("RGB", (9, 9))
    monkeypatch.setattr(mnist_app, "draw_text", lambda text, *_, **__: captions.append(text) or blank)
    album = mnist_app._Album(tmp_path, DIGITS)
    for reading in readings(125):
        album.add(reading)
    album.save_sheet()
    album.save_sheet()
    sheets = {name: width for name, width in sheets.items() if "sheet" in name}
    six_in_a_row = 6 * (12 + 200 + 12)
    assert [*sheets] == [f"contact-sheet-{i:04d}.png" for i in (1, 61, 121)]
    assert sheets["contact-sheet-0001.png"] == six_in_a_row
    assert captions[1::2] == [f"1.png: {i}." for i in range(125)], "a title and a caption each"


def test_boxes_are_drawn_round_the_digits_at_any_scale(tmp_path):
    Image.new("RGB", (400, 200), "white").save(tmp_path / "sheet.png")
    found = make_found(np.zeros([1, 784]), [[100, 40, 300, 160]])
    for side in (100, 400, 800):
        shown = np.asarray(mnist_app.draw_found(tmp_path / "sheet.png", found, side))
        rows, columns = np.nonzero((shown == (255, 0, 0)).all(2))
        scale = side / 400
        expected = np.array([100, 40, 300, 160]) * scale
        assert np.abs([columns.min(), rows.min(), columns.max(), rows.max()] - expected).max() <= 1
        assert shown.shape[:2] == (round(200 * scale), side)


def test_the_box_of_a_small_picture_lies_round_its_ink(digits, tmp_path):
    (_, (images, _)) = digits
    for i in range(20):
        Image.fromarray(images[i]).save(tmp_path / "digit.png")
        [box] = mnist_app.pre_pic(tmp_path / "digit.png", return_found=True).boxes
        rows, columns = np.flatnonzero((images[i] > 100).any(1)), np.flatnonzero((images[i] > 100).any(0))
        ink = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(box - ink).max() <= 1.5


def test_each_digit_is_shown_over_its_own_guesses(monkeypatch):
    shown = []

    def draw_digit(pixels, caption, side):
        shown.append((round(float(pixels[0]), 1), caption))
        return Image.new("RGB", (side, side))

    monkeypatch.setattr(mnist_app, "draw_digit", draw_digit)
    pixels = np.repeat(np.float32([[0.2], [0.6]]), 784, axis=1)
    found = make_found(pixels, np.zeros([2, 4]))
    reading = mnist_app.Reading(str(PIC / "1.png"), mnist_app.Answer("42", 0.72, GUESSES), found)
    mnist_app._draw_reading(reading)
    assert shown == [
        (0.2, "4:\xa090.0%, 9:\xa010.0%, 1:\xa00.0%"),
        (0.6, "2:\xa080.0%, 7:\xa020.0%, 3:\xa00.0%"),
    ]


def test_a_long_name_that_is_not_ascii_can_be_looked_at(tmp_path):
    picture = tmp_path / f"{'猫' * 80}.png"
    shutil.copy(PIC / "1.png", picture)
    album = mnist_app._Album(tmp_path / "seen", DIGITS)
    album.add(readings(1, picture)[0])
    [saved] = (tmp_path / "seen").iterdir()
    assert saved.name == f"0001-{'猫' * 26}.png"


@pytest.mark.parametrize(
    "arguments", [["--json"], ["--look", "seen"], ["--export", "a", "1.png"], ["--export", "a", "--json"]]
)
def test_options_that_do_not_fit_together_are_refused(monkeypatch, capsys, arguments):
    with pytest.raises(SystemExit) as end:
        run_main(monkeypatch, capsys, *arguments)
    assert end.value.code == 2


def test_without_a_model_nothing_is_asked(monkeypatch, tmp_path):
    monkeypatch.setattr("builtins.input", lambda question: pytest.fail(question))
    with pytest.raises(UserError, match="holds no checkpoint"):
        mnist_app.application(tmp_path)


# ---- names in pictures


@pytest.fixture
def fonts(monkeypatch):
    """Let the system have just the fonts that are put into this {file name: its characters}."""
    fonts = {}

    real = mnist_app.ImageFont.truetype

    def truetype(name, size, **options):
        if not isinstance(name, str):
            return real(name, size, **options)  # Pillow's own font
        if name not in fonts:
            raise OSError("cannot open resource")
        return Font(name)

    class Font:
        def __init__(self, name):
            self.name = name

        def getmask(self, character):
            return b"glyph" if character in fonts[self.name] else b"box"

    monkeypatch.setattr(mnist_app.ImageFont, "truetype", truetype)
    for function in (mnist_app._load_font, mnist_app._has_glyph):
        function.cache_clear()
    yield fonts
    for function in (mnist_app._load_font, mnist_app._has_glyph):
        function.cache_clear()


def test_chinese_names_take_a_font_of_the_system_that_has_them(fonts):
    fonts.update({"msyh.ttc": "犬", "wqy-microhei.ttc": "猫犬 "})
    assert mnist_app._find_font("猫", 13).name == "wqy-microhei.ttc"
    assert mnist_app._find_font("犬", 13).name == "msyh.ttc", "the first that has it"
    assert not hasattr(mnist_app._find_font("cat", 13), "name"), "Pillow's own"
    assert mnist_app.name_in_pictures(["cat", "猫", "鸟"]) == ["cat", "猫", "2"]


def test_without_such_a_font_a_class_has_its_number_and_other_texts_question_marks(fonts, monkeypatch, tmp_path):
    texts = []
    monkeypatch.setattr(mnist_app, "draw_text", lambda text, *_, **__: texts.append(text) or Image.new("RGB", (9, 9)))
    guesses = (("鸟", 0.9), ("cat", 0.1), ("猫", 0.0))
    reading = readings(1, answer=mnist_app.Answer("鸟", 0.9, (guesses,)))[0]
    reading = reading._replace(found=make_found(np.zeros([1, 784]), np.zeros([1, 4])))
    mnist_app._Album(tmp_path, ["cat", "猫", "鸟"]).add(reading)
    assert texts[:2] == ["2:\xa090.0%, cat:\xa010.0%, 1:\xa00.0%", "1.png: 2 (90.0%)"]


def test_a_column_is_as_wide_as_its_widest_picture():
    narrow, wide = Image.new("RGB", (10, 10), "red"), Image.new("RGB", (30, 10), "blue")
    sheet = mnist_app.arrange_in_grid([narrow, narrow, wide, narrow], columns=2)
    assert sheet.size == (30 + 12 + 10 + 12, 2 * (10 + 12))
    assert np.asarray(sheet)[28, 6:36].tolist() == 30 * [[0, 0, 255]], "no other picture covers it"


def test_text_fits_its_width(fonts):
    for text in ("4: 90.0%, 9: 10.0%, 1: 0.0%", "4:\xa090.0%, 9:\xa010.0%, 1:\xa00.0%"):
        assert mnist_app.draw_text(text, 112).size == (112, 38), "two lines"


def test_a_text_that_no_font_has_is_drawn_with_question_marks(fonts):
    assert mnist_app.draw_text("a 猫 b", 100).tobytes() == mnist_app.draw_text("a ? b", 100).tobytes()
