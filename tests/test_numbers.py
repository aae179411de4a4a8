"""Whole numbers on the sheets that people have, each read through pre_pic and restore_model.

Each sheet needs one step of the reader: without this step, its test fails.
"""

import json

import numpy as np
import pytest
from conftest import ROOT, run
from make_pictures import BLACK, DIGITS, sheet, stroke
from PIL import Image, ImageDraw

import mnist_app

SIZE = (900, 320)


@pytest.fixture
def number(digits):
    """Lay digits in a row: returns (strokes, left, top) of each, as make_pictures.sheet takes them."""
    (_, (images, _)) = digits

    def number(text, gap=40, height=140, left=90, top=80):
        placed = []
        for digit in text:
            strokes = stroke(images[DIGITS[int(digit)]], height)
            placed.append((strokes, left, top))
            left += strokes.shape[1] + gap
        return placed

    return number


@pytest.fixture
def read(model, tmp_path):
    """Read a Pillow image with the small model; returns its Reading."""

    def read(picture):
        picture.save(tmp_path / "sheet.png")
        return mnist_app.read_picture(tmp_path / "sheet.png", model)

    return read


def on_sheet(placed, size=SIZE):
    return sheet(np.random.default_rng(1), size, placed)


def draw_lines(picture, *lines, width=5):
    for line in lines:
        ImageDraw.Draw(picture).line(line, BLACK, width)
    return picture


def test_digits_that_touch_are_cut_apart(number, read):
    reading = read(on_sheet(number("206", gap=-52)))
    assert reading.answer.number == "206" and not reading.answer.error
    left, right, _ = reading.found.boxes
    cut = reading.found.cuts[0]
    assert abs(cut[[0, 2]].mean() - (left[2] + right[0]) / 2) < 25


def test_one_digit_is_not_cut(number, read):
    for digit in DIGITS:
        reading = read(on_sheet(number(str(digit)), size=(400, 320)))
        assert len(reading.found.boxes) == 1 and len(reading.found.cuts) == 0


def test_the_lines_of_a_form_are_taken_out(number, read):
    placed = number("2046", gap=60)
    box = [(60, 60), (840, 60), (840, 260), (60, 260), (60, 60)]
    separators = [[(left - 30, 60), (left - 30, 260)] for _, left, _ in placed[1:]]
    reading = read(draw_lines(on_sheet(placed), box, *separators))
    assert reading.answer.number == "2046" and not reading.answer.error
    assert len(reading.found.lines) >= 4


def test_a_line_through_the_feet_of_digits_is_taken_out(number, read):
    placed = number("304", gap=50)
    foot = placed[0][2] + placed[0][0].shape[0] - 22
    reading = read(draw_lines(on_sheet(placed), [(40, foot), (860, foot)]))
    assert reading.answer.number == "304" and not reading.answer.error


def test_what_lies_round_the_sheet_does_not_count(number, read):
    table = np.random.default_rng(2).normal(60, 12, (900, 1200, 3))
    picture = Image.fromarray(np.uint8(np.clip(table, 0, 255)))
    written = (
        on_sheet(number("4072", height=110, gap=20, left=60), size=(640, 260)).convert("RGBA").rotate(12, expand=True)
    )
    picture.paste(written, (300, 200), written)
    assert read(picture).answer.number == "4072"


def test_grain_as_strong_as_a_pencil_is_smoothed(number, read):
    placed = number("308")
    picture = np.asarray(sheet(np.random.default_rng(3), SIZE, placed, ink=(150, 150, 150)), float)
    picture += np.random.default_rng(4).normal(0, 28, picture.shape[:2])[..., None]
    assert read(Image.fromarray(np.uint8(np.clip(picture, 0, 255)))).answer.number == "308"


def test_a_small_zero_between_large_digits_is_a_digit(number, read):
    placed = number("4", height=160) + number("0", height=70, left=330, top=150) + number("2", height=160, left=560)
    assert read(on_sheet(placed)).answer.number == "402"


def test_the_edge_of_the_sheet_is_no_one(number, read):
    picture = draw_lines(on_sheet(number("326")), [(2, 20), (2, 290)], width=9)
    assert read(picture).answer.number == "326"


def test_a_one_at_the_rim_is_a_digit(number, read, tmp_path):
    picture = on_sheet(number("126"))
    left, top, right, bottom = mnist_app.find_digits(np.asarray(picture, np.float32) / 255).boxes.T
    tight = picture.crop((int(left.min()), int(top.min()) - 30, int(right.max()), int(bottom.max()) + 30))
    assert read(tight).answer.number == "126"


def test_boxes_are_in_the_pixels_of_the_upright_picture_as_it_was_opened(number, model, tmp_path):
    large = on_sheet(number("72")).resize((2700, 960))
    exif = Image.Exif()
    exif[0x0112] = 6  # It was taken with the camera upright.
    large.rotate(90, expand=True).save(tmp_path / "photo.jpg", exif=exif)
    said = json.loads(run("mnist_app.py", "--model", model, "--json", tmp_path / "photo.jpg"))
    assert said["digits"] == "72" and len(said["each"]) == 2
    assert said["probability"] == pytest.approx(np.prod(said["each"]), abs=2e-3)
    for box, (strokes, left, top) in zip(said["boxes"], number("72"), strict=True):
        height, width = strokes.shape
        expected = np.array([left, top, left + width, top + height]) * 3
        assert np.abs(np.array(box) - expected).max() < 90, "the strokes have a margin of about 20 pixels"


def test_look_shows_cuts_and_lines(number, model, tmp_path):
    placed = number("304", gap=-20)
    picture = draw_lines(on_sheet(placed), [(40, 290), (860, 290)])
    picture.save(tmp_path / "sheet.png")
    found = mnist_app.pre_pic(tmp_path / "sheet.png", model, return_found=True)
    nothing = np.zeros([0, 4])
    found = found._replace(
        cuts=np.array([[200.0, 80, 210, 220]]), lines=np.array([[40.0, 290, 860, 290]]), boxes=nothing
    )
    shown = np.asarray(mnist_app.draw_found(tmp_path / "sheet.png", found, 900))
    assert (shown[150] == (255, 0, 255)).all(1).any() and (shown[:, 400] == (0, 0, 255)).all(1).any()


def test_no_answer_has_a_confidence_of_nothing(model, monkeypatch):
    probabilities = np.full([4, 10], 0.1)
    probabilities[:, 3] = 0.14
    network = type("Network", (), {"run": lambda self, y, feed: probabilities})()
    monkeypatch.setattr(mnist_app, "_restored_network", lambda model_dir: (network, "x", "y"))
    monkeypatch.setattr(mnist_app, "_shows_no_number", lambda *_: False)
    answer = mnist_app.restore_model(np.zeros([4, 784], np.float32), model)
    assert "nothing that is clearly a digit" in answer.error


def test_strokes_that_are_no_writing_get_a_sentence(read):
    rng = np.random.default_rng(5)
    picture = Image.new("RGB", (700, 500), "white")
    for _ in range(14):  # A drawing: triangles and arcs of all sizes.
        x, y = rng.integers(60, 600), rng.integers(60, 400)
        points = [tuple(int(v) for v in (x, y) + rng.normal(0, 45, 2)) for _ in range(4)]
        ImageDraw.Draw(picture).polygon(points, outline="black", width=int(rng.integers(2, 9)))
    assert read(picture).answer.error


def test_the_pictures_of_the_clone_are_read_in_one_look():
    """The plain way is enough for a clear sheet, so that reading stays fast."""
    picture = mnist_app.open_picture(ROOT / "pic" / "number.png")
    ways = []

    def score(pixels):
        ways.append(len(pixels))
        return np.full(len(pixels), 3.0), np.zeros(len(pixels), bool)

    found = mnist_app.find_digits(picture, score)
    assert ways == [5] and len(found.pixels) == 5


def test_where_no_way_to_see_a_picture_gives_a_digit_it_gets_a_sentence(model, tmp_path, monkeypatch):
    def plain():
        raise mnist_app.PictureError("shows no digit at first.")

    def doubtful():
        picture = mnist_app.open_picture(ROOT / "pic" / "7.png")
        return mnist_app._see_sheet(mnist_app._grey_from_colour(picture), False)

    monkeypatch.setattr(mnist_app, "_list_sheets", lambda *_: iter([plain, doubtful]))
    with pytest.raises(mnist_app.PictureError, match="shows no digit at first"):
        mnist_app.find_digits(np.ones([50, 50, 3], np.float32), lambda pixels: (np.full(len(pixels), -9.0), [True]))
