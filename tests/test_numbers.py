"""Whole numbers on the sheets that people have, each read through pre_pic and restore_model.

Each sheet needs one step of the reader: without this step, its test fails.
"""

import functools
import json
import shutil

import make_whole_digits
import numpy as np
import pytest
from conftest import ROOT, make_found, run
from long_numbers import Kind, make_picture
from make_pictures import BLACK, DIGITS, grain, sheet, stroke
from PIL import Image, ImageDraw

import mnist_app
from mnist_forward import IMAGE_SIDE

SIZE = (900, 320)
STAIN = (170, 168, 162)  # much paler than ink


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
    placed = number("206", gap=-52)
    reading = read(on_sheet(placed))
    assert reading.answer.number == "206" and not reading.answer.error
    assert len(reading.found.cuts) == 2
    for (strokes, left, _), box in zip(placed, reading.found.boxes, strict=True):
        columns = left + np.flatnonzero((strokes > 0.5).any(axis=0))
        # A cut that leans by half a pixel for each pixel down takes up to 35 pixels of the next digit with it.
        assert abs(box[0] - columns[0]) < 50 and abs(box[2] - columns[-1]) < 50


def test_digits_that_overlap_are_cut_where_most_is_recognised(number, read):
    # The strokes cross, so the cut with the least ink on it would go through a digit.
    numbers = ("82", "66", "40", "52", "56", "80")
    answers = [read(on_sheet(number(text, gap=-80))).answer.number for text in numbers]
    assert sum(map(str.__eq__, answers, numbers)) >= 5


def make_pieces(digits):
    """Pieces of ink, (pixels, float32 [n, 784]; bool [n], which are whole digits)."""
    (_, (images, labels)) = digits
    rng = np.random.default_rng(1)
    source = make_whole_digits.Source(images, labels)
    pieces = [piece for _ in range(60) for piece in make_whole_digits.make_scene(rng, [source])]
    pixels = np.stack([mnist_app._to_mnist(np.pad(ink, 2)) for ink, _ in pieces])
    return pixels, np.array([is_whole for _, is_whole in pieces])


def test_a_whole_digit_is_told_from_several_and_from_a_part_of_one(digits):
    pixels, is_whole = make_pieces(digits)
    guessed = mnist_app._measure_wholeness(pixels) > 0
    assert (guessed == is_whole).mean() > 0.93
    assert guessed[is_whole].mean() > 0.9, "of those that are whole"


# Some scribbles look like a 2 or a 3.
@pytest.mark.parametrize("name, least", [("letter", 0.9), ("scribble", 0.75), ("outline", 0.9), ("blot", 0.9)])
def test_a_shape_that_nobody_wrote_as_a_digit_is_none(name, least):
    rng = np.random.default_rng(1)
    draw = getattr(make_whole_digits, f"draw_{name}")
    pixels = draw_samples(draw, rng)
    assert len(np.unique(pixels, axis=0)) > 90
    assert (mnist_app._measure_wholeness(pixels) < 0).mean() > least


def draw_samples(draw, *arguments):
    """A hundred pictures that a function of make_whole_digits draws, float32 [100, 784]."""
    samples = make_whole_digits.make_samples((draw(*arguments), True) for _ in range(100))
    return np.stack([pixels for pixels, _ in samples]) / np.float32(255)


@pytest.mark.parametrize("name", ["digit_with_tick", "one_with_foot"])
def test_a_digit_with_a_tick_or_a_foot_is_whole(name, digits):
    (_, (images, labels)) = digits
    sources = [make_whole_digits.Source(images, labels)]
    rng = np.random.default_rng(1)
    draw = getattr(make_whole_digits, f"draw_{name}")
    assert (mnist_app._measure_wholeness(draw_samples(draw, rng, sources)) > 0).mean() > 0.9


def test_a_one_with_a_foot_is_wide_at_its_end(digits):
    (_, (images, labels)) = digits
    sources = [make_whole_digits.Source(images, labels)]
    widenings = []
    for seed in range(20):
        widths = (make_whole_digits.draw_one_with_foot(np.random.default_rng(seed), sources) > 0.5).sum(axis=1)
        widths = widths[widths > 0]
        widenings.append(widths[-30:].max() / np.median(widths))
    assert np.median(widenings) > 1.8  # It is 1.1 without feet.


def test_a_tick_beside_a_digit_adds_ink(digits):
    (_, sample) = digits
    sources = [make_whole_digits.Source(*sample)]
    added = []
    for seed in range(20):
        ticked = make_whole_digits.draw_digit_with_tick(np.random.default_rng(seed), sources)
        [digit], _ = make_whole_digits.choose_digits(np.random.default_rng(seed), sources, 1)
        added.append(ticked.sum() - digit.sum())
    assert min(added) > -0.1 and np.mean(np.array(added) > 1) > 0.4  # Sums of pixels are rounded.


def test_the_network_that_tells_whole_digits_is_trained(digits, monkeypatch, capsys):
    monkeypatch.setattr(make_whole_digits, "BATCH", 50)
    monkeypatch.setattr(make_whole_digits, "AVERAGE_DECAY", 0.9)  # There are few steps.
    pixels, is_whole = make_pieces(digits)
    weights = make_whole_digits.train(np.rint(pixels * 255).astype(np.uint8), is_whole)
    assert "epoch 12 of 12" in capsys.readouterr().out
    monkeypatch.setattr(mnist_app, "_read_whole_digits", lambda: weights)
    sess, x, y = mnist_app._whole_digit_network.__wrapped__()
    assert ((sess.run(y, {x: pixels}) > 0) == is_whole).mean() > 0.8


def test_weights_of_the_log_odds_are_fitted(digits, model, monkeypatch, capsys):
    pixels, is_whole = make_pieces(digits)
    make_whole_digits.print_weights(np.rint(pixels * 255).astype(np.uint8), is_whole, model)
    printed = capsys.readouterr().out.split(": ")[1].strip()
    weights = {name: float(weight) for name, weight in (words.rsplit(" ", 1) for words in printed.split(", "))}
    assert weights.keys() == mnist_app._LOG_ODDS_WEIGHTS.keys()
    monkeypatch.setattr(mnist_app, "_LOG_ODDS_WEIGHTS", weights)
    monkeypatch.setattr(mnist_app, "_LEAST_WHOLENESS", -np.inf)  # They are fitted without it.
    log_odds = mnist_app._judge(pixels, model).log_odds
    assert ((log_odds > 0) == is_whole).mean() > 0.95
    # With a bias among the features, the mean of the fitted probabilities is the share of the whole digits.
    assert (1 / (1 + np.exp(-log_odds))).mean() == pytest.approx(is_whole.mean(), abs=0.01)


def test_wholeness_is_what_two_convolutions_and_two_layers_say(digits):
    (_, (images, _)) = digits
    pixels = images[:3].reshape(-1, 784) / np.float32(255)
    weights = mnist_app._read_whole_digits()
    maps = pixels.reshape(3, 28, 28, 1)
    for number in (1, 2):
        framed = np.pad(maps, ((0, 0), (2, 2), (2, 2), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(framed, (5, 5), axis=(1, 2))
        maps = np.einsum("nyxcij,ijcd->nyxd", windows, weights[f"weights{number}"])
        maps = np.maximum(maps + weights[f"biases{number}"], 0)
        side = maps.shape[1] // 2
        maps = maps.reshape(3, side, 2, side, 2, -1).max(axis=(2, 4))
    hidden = np.maximum(maps.reshape(3, -1) @ weights["weights3"] + weights["biases3"], 0)
    expected = hidden @ weights["weights4"] + weights["biases4"]
    assert mnist_app._measure_wholeness(pixels) == pytest.approx(expected[:, 0], rel=1e-3)


def test_what_is_known_of_digits_is_no_help_with_other_classes(digits, model, tmp_path, monkeypatch):
    (_, (images, _)) = digits
    shutil.copytree(model, tmp_path / "own")
    (tmp_path / "own" / "classes.txt").write_text("\n".join("ABCDEFGHIJ"))
    pixels = images[:5].reshape(-1, 784) / np.float32(255)
    probabilities = np.full([5, 10], 0.1)
    before = [mnist_app.judge_digits(pixels, probabilities, folder).log_odds for folder in (model, tmp_path / "own")]
    monkeypatch.setattr(mnist_app, "_measure_wholeness", lambda pixels: np.full(len(pixels), -9.0))
    after = [mnist_app.judge_digits(pixels, probabilities, folder).log_odds for folder in (model, tmp_path / "own")]
    assert (after[0] < before[0] - 1).all() and (after[1] == before[1]).all()


def test_wholeness_counts_down_to_its_limit_only(digits, model, monkeypatch):
    (_, (images, _)) = digits
    pixels = images[:1].reshape(-1, 784) / np.float32(255)
    log_odds = []
    for wholeness in (-20.0, -5.0, -4.0):
        monkeypatch.setattr(mnist_app, "_measure_wholeness", lambda pixels, wholeness=wholeness: np.array([wholeness]))
        log_odds.append(mnist_app.judge_digits(pixels, np.full([1, 10], 0.1), model).log_odds[0])
    assert log_odds[0] == log_odds[1] < log_odds[2]


@pytest.mark.parametrize("spacing", [50, 80])
def test_a_lone_one_on_ruled_paper_is_no_letter(spacing, number, read):
    ruled = draw_lines(on_sheet(number("1", left=400)), *((0, y, 900, y) for y in range(30, 320, spacing)), width=2)
    reading = read(ruled)
    assert reading.answer.number == "1" and not reading.answer.error
    assert len(reading.found.lines) > 0


def list_longer_rows(row, ends, log_odds=3, least=-99):
    """(left side of the last digit, where its row ends) of each row that _extend makes of one row in a block of ink."""
    cuts = [mnist_app._Cut(end, 0) for end in ends]
    ink = np.ones([50, 150], np.float32)
    longer = mnist_app._extend([row], cuts, ink, judge_alike(log_odds, confidence=1), least)
    return [(one.digits[-1].box[0], one.end.x) for one in longer]


def test_a_digit_may_share_ink_with_the_one_before():
    first = mnist_app._Row(0.0, [], mnist_app._Cut(0, 0))
    assert list_longer_rows(first, [50]) == [(0, 50)], "there is none before the first digit"
    second = mnist_app._Row(0.0, ["a digit"], mnist_app._Cut(60, 0))
    rows = list_longer_rows(second, [100])
    assert [left for left, _ in rows] == pytest.approx([60, 60 - 0.12 * 50, 60 - 0.2 * 50], abs=1)
    assert [end for _, end in rows] == [100, 100, 100]
    ends = list(range(80, 112, 2))
    assert len(list_longer_rows(second, ends)) == len(ends) + 4 + 4, "the most probable ones only, for each share"
    assert list_longer_rows(second, ends, log_odds=-3.9), "a rare form of a digit"
    assert not list_longer_rows(second, ends, log_odds=-4.1)


def test_a_digit_may_be_twice_as_wide_as_high():
    first = mnist_app._Row(0.0, [], mnist_app._Cut(0, 0))
    assert [end for _, end in list_longer_rows(first, [4, 6, 99, 101])] == [6, 99]


def test_the_search_goes_on_with_six_rows_each_to_another_place():
    rows = [mnist_app._Row(-total, [], mnist_app._Cut(place, 0)) for place in range(8) for total in (place, place + 9)]
    chosen = mnist_app._choose_best(rows)
    assert sorted(row.end.x for row in chosen) == [0, 1, 2, 3, 4, 5]
    assert all(row.total == -row.end.x for row in chosen)


def test_what_is_hardly_less_likely_one_digit_than_not_is_cut_where_two_are_likely(digits, read):
    """In this made picture a 1 and a 7 stand so close that they may be one 7."""
    ((images, labels), _) = digits
    label, picture = make_picture(Kind("triple-0", 1), 144, images[-5000:], labels[-5000:])
    assert label == "177" and read(picture).answer.number == label


def test_rows_of_hardly_any_digits_are_not_extended():
    start = mnist_app._Cut(0, 0)
    for total, count, least in ((-100, 1, -2), (-100, 3, -5), (-1, 3, -0.5)):
        best = mnist_app._Row(total, [], start)
        assert mnist_app._find_least_total(count, best) == least
    row = mnist_app._Row(-1.0, [], start)
    price = 0.5 + np.log1p(np.exp(-3))
    assert list_longer_rows(row, [50], log_odds=3, least=-1.01 - price)
    assert not list_longer_rows(row, [50], log_odds=3, least=-0.99 - price)
    # The network is not asked where even a sure digit would not do.
    assert list_longer_rows(row, [50], log_odds=99, least=-1.51)
    assert not mnist_app._extend([row], [mnist_app._Cut(50, 0)], np.ones([50, 150]), judge=None, least=-1.49)


def test_a_cut_is_shown_where_the_ink_is_cut():
    cut = mnist_app._Cut(50, 0.5)
    widths = mnist_app._between(np.ones([40, 100]), mnist_app._Cut(0, 0), cut).sum(axis=1)
    assert mnist_app._draw_cut(cut, 40) == pytest.approx([widths[0], 0, widths[-1], 40], abs=1)
    assert widths[-1] - widths[0] == pytest.approx(0.5 * 40, abs=1)


def test_one_digit_is_not_cut(number, read):
    for digit in DIGITS:
        reading = read(on_sheet(number(str(digit)), size=(400, 320)))
        assert len(reading.found.boxes) == 1 and len(reading.found.cuts) == 0


def test_a_frame_round_a_digit_is_left_out(number, read):
    [digit] = number("9", left=380)
    for shape in ("rectangle", "ellipse"):
        picture = on_sheet([digit])
        getattr(ImageDraw.Draw(picture), shape)((330, 40, 570, 280), outline=BLACK, width=9)
        reading = read(picture)
        assert reading.answer.number == "9" and not reading.answer.error
        [[left, top, right, bottom]] = reading.found.boxes
        assert left > 345 and top > 55 and right < 555 and bottom < 265


@pytest.mark.parametrize("width, is_frame", [(140, False), (220, True)])
def test_a_narrow_ring_round_a_slash_is_a_zero_and_no_frame(width, is_frame):
    picture = Image.new("L", (500, 340))
    ImageDraw.Draw(picture).ellipse([150, 60, 150 + width, 280], outline=255, width=14)
    ImageDraw.Draw(picture).line([(118 + width / 2, 225), (182 + width / 2, 108)], 255, 13)
    pieces = mnist_app._find_components(np.asarray(picture) > 128)
    assert mnist_app._find_frames(pieces)[0] == is_frame


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_circle_with_a_fine_line_is_a_frame(width):
    picture = Image.new("L", (300, 300))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((40, 40, 260, 260), outline=255, width=width)
    draw.line([(110, 90), (190, 90), (140, 210)], 255, 12)
    pieces = mnist_app._find_components(np.asarray(picture) > 128)
    assert list(mnist_app._find_frames(pieces)) == [True, False]


@pytest.mark.parametrize("side", [0, 200])
def test_what_is_open_to_one_side_is_no_frame(side):
    picture = Image.new("L", (300, 300))
    draw = ImageDraw.Draw(picture)
    draw.line([(250 - side, 50), (50 + side, 50), (50 + side, 250), (250 - side, 250)], 255, 5)
    draw.line([(150, 90), (150, 200)], 255, 12)
    assert not any(mnist_app._find_frames(mnist_app._find_components(np.asarray(picture) > 128)))


def test_a_narrow_box_round_a_whole_digit_is_a_frame(number):
    [digit] = number("3", left=400)
    picture = on_sheet([digit])
    ImageDraw.Draw(picture).rectangle((400, 20, 582, 265), outline=BLACK, width=7)
    pieces = mnist_app._find_components(np.asarray(picture.convert("L")) < 128)
    assert mnist_app._find_frames(pieces).sum() == 1


def test_a_form_whose_lines_touch_all_digits_but_one_is_no_frame_round_it():
    mask = np.zeros([200, 320], bool)
    for side in (slice(20, 26), slice(174, 180)):
        mask[side, 20:300] = True
    for side in (slice(20, 26), slice(294, 300)):
        mask[20:180, side] = True
    mask[60:140, 60:70] = True  # a digit
    narrow = mask.copy()
    narrow[:, 200:] = False
    narrow[20:180, 194:200] = True
    for picture, is_frame in ((mask, False), (narrow, True)):
        pieces = mnist_app._find_components(picture)
        assert mnist_app._find_frames(pieces).any() == is_frame, "a wide one may hold more digits, which touch it"
    narrow[20:180, 100:106] = True  # another cell
    assert not mnist_app._find_frames(mnist_app._find_components(narrow)).any()


def test_a_digit_that_reaches_over_another_is_no_frame(read):
    picture = on_sheet([])
    draw_lines(picture, [(300, 80), (520, 80), (420, 290)], width=14)  # a 7, whose box holds ...
    draw_lines(picture, [(340, 130), (340, 250)], width=14)  # ... another stroke
    assert "7" in read(picture).answer.number


def test_the_lines_of_a_form_are_taken_out(number, read):
    placed = number("2046", gap=60)
    box = [(60, 60), (840, 60), (840, 260), (60, 260), (60, 60)]
    separators = [[(left - 30, 60), (left - 30, 260)] for _, left, _ in placed[1:]]
    reading = read(draw_lines(on_sheet(placed), box, *separators))
    assert reading.answer.number == "2046" and not reading.answer.error
    x, y, other_x, other_y = reading.found.lines.T
    assert (abs(other_y - y) > 100).sum() >= 5, "two sides and three separators"
    assert (abs(other_x - x) > 500).sum() >= 2


def test_the_separators_of_a_form_are_no_ones_where_the_picture_is_cut_close(number, read):
    placed = number("2046", gap=60)
    separators = [[(left - 30, 60), (left - 30, 260)] for _, left, _ in placed]
    level_lines = [[(0, y), (900, y)] for y in (60, 260)]
    reading = read(draw_lines(on_sheet(placed), *level_lines, *separators))
    assert reading.answer.number == "2046" and len(reading.found.lines) == 6


def test_ones_between_the_lines_of_ruled_paper_are_no_separators(read):
    picture = on_sheet([], size=(900, 500))
    draw_lines(picture, *[[(0, y), (900, y)] for y in range(60, 500, 80)], width=2)
    ones = [[(x, 142), (x, 214)] for x in (200, 350, 500)]
    reading = read(draw_lines(picture, *ones, width=8))
    assert len(reading.found.boxes) == 3


@pytest.mark.parametrize(
    ("level_width", "width", "top", "bottom", "is_line"),
    [
        (9, 10, 110, 230, False),  # the stem of a 9, which ends in the middle of the box
        (9, 10, 62, 170, False),  # the stem of a 4, which begins there
        (9, 10, 42, 238, True),  # a separator
        (9, 10, 0, 280, True),  # a line that goes on far beyond the box
        (3, 10, 42, 238, False),  # a 1 of a thick pen
        (3, 5, 42, 238, True),  # a separator that is hardly thicker
        (1, 3, 42, 238, True),
    ],
)
def test_upright_strokes_in_a_box_are_no_lines(level_width, width, top, bottom, is_line):
    contrast = np.zeros([280, 700], np.float32)
    half = level_width // 2
    for y in (70, 210):
        contrast[y - half : y + half + 1, 60:640] = 1
    for x in (62, 637):
        contrast[70:210, x - half : x + half + 1] = 1
    contrast[70 - half : 211 + half, 100:600:12] = 0  # The level lines are dashed.
    contrast[top:bottom, 300 : 300 + width] = 1
    view = mnist_app._View(contrast, 0.5, np.zeros([0, 4]), to_picture=lambda points: points)
    without = mnist_app._without_lines(view)
    assert len(without.lines) == 4 + is_line
    assert (without.contrast[140, 300 : 300 + width] > 0).all() != is_line


def test_a_single_upright_line_is_taken_out_beside_a_level_one_alone():
    stem = np.zeros([280, 280], np.float32)
    stem[40:240, 130:140] = 1
    two = np.maximum(stem, np.roll(stem, 80, axis=1))
    on_line = stem.copy()
    on_line[240:244, 20:260] = 1
    for contrast, count in ((stem, 0), (two, 2), (on_line, 2)):
        view = mnist_app._View(contrast, 0.5, np.zeros([0, 4]), to_picture=lambda points: points)
        assert len(mnist_app._remove_lines(view, 0.35, 28).lines) == count


def test_a_separator_goes_to_a_level_line_at_both_ends():
    level_lines = np.array([[0.0, 10, 100, 20], [0, 110, 100, 120]])  # They lean a little.
    seen_and_hidden = mnist_app._Line(15, 115, first_seen=30, last_seen=100, slope=0.0, offset=50.0)
    for top, bottom, is_separator in ((15, 115, True), (18, 112, True), (25, 115, False), (15, 105, False)):
        mask = np.zeros([100, 130], bool)
        mask[49:52, top:bottom] = True
        assert mnist_app._is_separator(mask, level_lines, seen_and_hidden) == is_separator
    beside_ink = seen_and_hidden._replace(start=25, end=105)
    assert not mnist_app._is_separator(np.ones([100, 130], bool), level_lines, beside_ink)


def test_the_two_sides_of_a_box_are_taken_out_however_thick_and_short(number, read):
    placed = number("304", gap=30)
    top, bottom, right = 62, 262, placed[-1][1] + placed[-1][0].shape[1] + 20
    box = [(60, top), (right, top), (right, bottom), (60, bottom), (60, top - 7)]
    reading = read(draw_lines(on_sheet(placed, size=(900, 900)), box, width=16))
    assert reading.answer.number == "304" and len(reading.found.lines) == 4
    level_lines = np.array([[60.0, 62, 600, 62], [60, 262, 600, 262]])
    for x, start, end, is_side in (
        (65, 62, 262, True),
        (590, 70, 255, True),
        (300, 62, 262, False),
        (65, 62, 200, False),
    ):
        line = mnist_app._Line(start, end, start, end, slope=0.0, offset=x)
        assert mnist_app._is_side(level_lines, line) == is_side


def test_a_line_through_the_feet_of_digits_is_taken_out(number, read):
    placed = number("304", gap=50)
    foot = placed[0][2] + placed[0][0].shape[0] - 22
    reading = read(draw_lines(on_sheet(placed), [(40, foot), (860, foot)]))
    assert reading.answer.number == "304" and not reading.answer.error


def test_lines_that_are_paler_than_the_pen_are_left_out_however_thick(number, read):
    placed = number("2046", gap=30)
    levels = [(np.full([16, SIZE[0]], 0.6), 0, y) for y in range(40, SIZE[1], 70)]
    uprights = [(np.full([SIZE[1], 16], 0.6), x, 0) for x in range(50, SIZE[0], 70)]
    reading = read(on_sheet(placed + levels + uprights))
    assert reading.answer.number == "2046" and not reading.answer.error
    assert not len(reading.found.lines) and not len(reading.found.cuts)


@pytest.mark.parametrize("paler, are_two", [(0.5, True), (0.7, True), (0.97, False)])
def test_two_inks_are_told_from_an_uneven_one(paler, are_two):
    contrast = np.zeros([200, 400], np.float32)
    contrast[90:110] = paler
    contrast[20:180, 190:210] = 1
    contrast *= 0.8 + grain(np.random.default_rng(1), contrast.shape, 9, 0.03)
    view = view_of()._replace(contrast=contrast, threshold=0.3)
    if not are_two:
        with pytest.raises(mnist_app.PictureError):
            mnist_app._keep_darker_ink(view)
        return
    darker = mnist_app._keep_darker_ink(view).contrast
    assert not darker[:, :180].any() and not darker[:, 220:].any()
    assert (darker[25:175, 195:205] == contrast[25:175, 195:205]).all()


def test_the_pale_edges_of_strokes_are_no_other_ink():
    contrast = mnist_app._blur(view_of((20, 180, 190, 198)).contrast, 1)
    contrast *= 0.8 + grain(np.random.default_rng(1), contrast.shape, 9, 0.03)
    with pytest.raises(mnist_app.PictureError):
        mnist_app._keep_darker_ink(view_of()._replace(contrast=contrast, threshold=0.24))


def test_strokes_too_thin_to_have_a_darkness_are_of_one_ink():
    for strokes in ([(20, 180, 200, 202)], []):
        with pytest.raises(mnist_app.PictureError):
            mnist_app._keep_darker_ink(view_of(*strokes))


def view_of(*strokes):
    """A _View of these strokes, each (top, bottom, left, right) in a picture of 200x400 pixels."""
    contrast = np.zeros([200, 400], np.float32)
    for top, bottom, left, right in strokes:
        contrast[top:bottom, left:right] = 1
    return mnist_app._View(contrast, 0.5, np.zeros([0, 4]), lambda points: points)


def test_the_upright_stroke_of_a_digit_on_a_line_may_be_no_line():
    baseline = (160, 168, 0, 400)
    stem = (20, 150, 200, 210)
    view = view_of(baseline, stem)
    assert len(mnist_app._without_lines(view).lines) == 2
    without = mnist_app._without_lines(view, is_baseline=True)
    assert len(without.lines) == 1 and not without.contrast[155:175, 10:].any()
    assert without.contrast[20:150, 200:210].all()
    with pytest.raises(mnist_app.PictureError):
        mnist_app._without_lines(view_of(baseline, (60, 68, 0, 400), stem), is_baseline=True)


def test_digits_that_a_line_joined_are_preferred_to_those_cut_out_of_it():
    pixels = np.zeros([2, 784])
    boxes = [[0, 0, 20, 30], [30, 0, 50, 30]]
    cut = make_found(pixels, boxes, cuts=np.zeros([1, 4]), log_odds=np.array([2.0, 2.0]))
    line = np.array([[-20.0, 28, 70, 28]])
    uncut = make_found(pixels, boxes, log_odds=np.array([-1.0, 1.0]), lines=line)
    assert mnist_app._explains_more(uncut, cut)
    joined_bars = np.array([[0.0, 2, 50, 2]])
    assert not mnist_app._explains_more(uncut._replace(lines=joined_bars), cut), "they are strokes of the digits"
    assert not mnist_app._explains_more(uncut._replace(log_odds=np.array([-5.0, 1.0])), cut), "one is no digit"


@pytest.mark.parametrize("cuts, is_preferred", [(0, True), (1, True), (2, False)])
def test_of_digits_on_a_line_those_with_fewer_cuts_are_preferred(cuts, is_preferred):
    pixels = np.zeros([3, 784])
    boxes = [[0, 0, 20, 30], [30, 0, 50, 30], [60, 0, 80, 30]]
    cut = make_found(pixels, boxes, cuts=np.zeros([2, 4]), log_odds=np.array([2.0, 2.0, 2.0]))
    line = np.array([[-20.0, 28, 100, 28]])
    found = cut._replace(cuts=np.zeros([cuts, 4]), log_odds=np.array([-1.0, 1.0, 1.0]), lines=line)
    assert mnist_app._explains_more(found, cut) == is_preferred


@pytest.mark.parametrize("log_odds, is_preferred", [((0.5, 0.5), True), ((-0.5, 0.5), False), ((0.5,), False)])
def test_several_likely_digits_with_fewer_cuts_are_preferred(log_odds, is_preferred):
    pixels = np.zeros([3, 784])
    boxes = [[0, 0, 20, 30], [30, 0, 50, 30], [60, 0, 80, 30]]
    cut = make_found(pixels, boxes, cuts=np.zeros([2, 4]), log_odds=np.array([2.0, 2.0, 2.0]))
    count = len(log_odds)
    found = make_found(pixels[:count], boxes[:count], log_odds=np.array(log_odds))
    assert mnist_app._explains_more(found, cut) == is_preferred


def test_a_rare_form_of_a_digit_is_no_evidence_against_a_view():
    def evidence(log_odds):
        return mnist_app._sum_evidence(make_found(np.zeros([1, 784]), [[0, 0, 30, 40]], log_odds=np.array([log_odds])))

    assert evidence(-2.0) == 0 and evidence(-5.0) < -0.9 and evidence(4.0) > 0.9


def test_what_lies_round_the_sheet_does_not_count(number, read):
    table = np.random.default_rng(2).normal(60, 12, (900, 1200, 3))
    picture = Image.fromarray(np.uint8(np.clip(table, 0, 255)))
    written = (
        on_sheet(number("4072", height=110, gap=20, left=60), size=(640, 260)).convert("RGBA").rotate(12, expand=True)
    )
    picture.paste(written, (300, 200), written)
    assert read(picture).answer.number == "4072"


def test_a_sheet_is_told_from_what_is_nearly_as_light():
    grey = np.full([150, 200], 0.05, np.float32)
    grey[60:75, 5:80] = 0.62  # a glare on the table, which touches the sheet
    sheet = np.zeros(grey.shape, bool)
    sheet[20:130, 75:185] = True
    grey[sheet] = 0.66
    assert (mnist_app._find_sheet(grey) != sheet).mean() < 0.01


def test_a_light_that_fades_makes_no_sheet_though_strokes_cross_its_edge():
    grey = np.tile(np.linspace(0.8, 0.7, 200), [150, 1])
    for row in range(15, 150, 40):
        grey[row : row + 3, 80:120] = 0.1
    assert mnist_app._find_sheet(grey.astype(np.float32)) is None


def test_a_dark_table_at_the_rim_does_not_make_a_pale_pen_paler():
    paper = np.random.default_rng(6).normal(0.85, 0.004, [400, 500])
    for column, depth in ((120, 0.5), (200, 0.2), (280, 0.2), (360, 0.2)):
        paper[180:260, column : column + 5] -= depth
    on_table = paper.copy()
    on_table[:35] = 0.1
    for grey in (paper, on_table):
        contrast, threshold = mnist_app._measure_ink(grey.astype(np.float32))
        ink = contrast[180:260, 100:400] > threshold
        assert 4 * 80 * 4 <= ink.sum() <= 4 * 80 * 7, "four strokes, three of them pale, each five pixels wide"


def test_a_stain_is_no_digit(number, read):
    stained = np.minimum(
        np.asarray(on_sheet(number("308"))),
        np.asarray(sheet(np.random.default_rng(1), SIZE, number("2", left=700), STAIN)),
    )
    reading = read(Image.fromarray(stained))
    assert reading.answer.number == "308" and reading.found.share_of_ink > 0.99


def test_grain_as_strong_as_a_pencil_is_smoothed(number, read):
    placed = number("308")
    picture = np.asarray(sheet(np.random.default_rng(3), SIZE, placed, ink=(150, 150, 150)), float)
    picture += np.random.default_rng(4).normal(0, 28, picture.shape[:2])[..., None]
    assert read(Image.fromarray(np.uint8(np.clip(picture, 0, 255)))).answer.number == "308"


@pytest.mark.parametrize("rows, noise, is_smoothed", [(4, 0, False), (4, 0.05, True), (3, 0, True)])
def test_many_digits_on_smooth_paper_are_not_smoothed(rows, noise, is_smoothed):
    """Smoothing would join them, and cutting them apart again takes most of the time."""
    grey = np.full([600, 600], 0.9, np.float32)
    for row, column in np.ndindex(rows, 6):
        grey[100 * row + 50 :, 90 * column + 40 :][:60, :8] = 0.1
    grey += np.random.default_rng(1).normal(0, noise, grey.shape).astype(np.float32)
    if is_smoothed:
        view = mnist_app._see_smoothed(grey, shows_one_digit=False)
        assert len(mnist_app._find_pieces(view.contrast, view.threshold).areas) >= 6 * rows
    else:
        with pytest.raises(mnist_app.PictureError):
            mnist_app._see_smoothed(grey, shows_one_digit=False)


def test_a_row_that_leans_is_turned_level(number, read):
    picture = on_sheet(number("23845", height=120, gap=30), size=(1020, 300))
    lean = 33
    leaning = picture.rotate(-lean, Image.Resampling.BICUBIC, expand=True, fillcolor=(238, 234, 224))
    reading = read(leaning)
    assert reading.answer.number == "23845" and not reading.answer.error
    # The boxes lie in the picture as it is: from one digit to the next they go down as the row does.
    middles = (reading.found.boxes[:, :2] + reading.found.boxes[:, 2:]) / 2
    across, down = (middles[-1] - middles[0]) / 4
    assert abs(np.degrees(np.arctan2(down, across)) - lean) < 4
    ink = np.argwhere(np.asarray(leaning.convert("L")) < 120)[:, ::-1]
    assert np.abs(reading.found.boxes[:, :2].min(0) - ink.min(0)).max() < 30
    assert np.abs(reading.found.boxes[:, 2:].max(0) - ink.max(0)).max() < 30
    assert np.abs(reading.found.sizes[1] - 120).max() < 12, "the digits' own heights, not those of upright boxes"


def test_a_turned_view_says_where_its_points_are_in_the_picture():
    contrast = np.zeros([300, 400], np.float32)
    for x, y in ((80, 80), (200, 130), (320, 180)):
        contrast[y - 30 : y + 30, x - 10 : x + 10] = 1
    contrast[:, :8] = 1  # the table beside the sheet
    ruling = np.array([[10.0, 20, 390, 60]])
    view = mnist_app._View(contrast, 0.5, ruling, lambda points: points + [7, 9])
    turned = mnist_app._turn_level(view)
    assert np.allclose(mnist_app._place_ends(turned, turned.lines), [[17, 29, 397, 69]])
    rows, columns = np.nonzero(turned.contrast > 0.5)
    assert np.ptp(rows) < 90, "the three strokes stand in a row"
    [middle] = turned.to_picture(np.array([[columns.mean(), rows.mean()]]))
    assert np.abs(middle - (207, 139)).max() < 2
    with pytest.raises(mnist_app.PictureError):
        mnist_app._turn_level(view._replace(contrast=contrast[50:110]))


def test_a_small_zero_between_large_digits_is_a_digit(number, read):
    placed = number("4", height=160) + number("0", height=70, left=330, top=150) + number("2", height=160, left=560)
    assert read(on_sheet(placed)).answer.number == "402"


def test_a_stain_among_specks_is_no_digit():
    contrast = np.zeros([300, 300], np.float32)
    contrast[100:160, 130:140] = 0.2  # the stain
    for top, left in ((20, 20), (20, 250), (250, 20)):
        contrast[top : top + 20, left : left + 6] = 1

    def judge(pixels):
        return mnist_app.Judgement(np.full(len(pixels), -2.0), np.ones(len(pixels)), np.zeros(len(pixels), bool))

    view = mnist_app._View(contrast, 0.1, np.zeros([0, 4]), to_picture=lambda points: points)
    with pytest.raises(mnist_app.PictureError):
        mnist_app._read_view(view, False, judge)


def test_low_zeros_close_to_a_digit_or_to_each_other_are_digits(number, read):
    placed = number("4", height=160) + number("6", height=200, left=330, top=40)
    placed += number("0", height=62, left=275, top=130)
    placed += number("00", gap=6, height=62, left=620, top=130)
    reading = read(on_sheet(placed))
    assert reading.answer.number == "40600" and len(reading.found.cuts) == 0


@pytest.mark.parametrize(
    "boxes, whole, count",
    [
        ([(50, 20, 56, 80), (60, 60, 80, 80)], -0.5, 2),  # 1, and a low 0
        ([(50, 20, 56, 80), (60, 60, 80, 80)], 0.5, 1),  # likelier one digit than not
        ([(50, 20, 56, 80), (60, 60, 65, 80)], -3.0, 1),  # strokes, each of which looks like a 1
        ([(50, 20, 56, 130), (60, 60, 80, 80)], -3.0, 1),  # a line, and what is near it
    ],
)
def test_only_what_may_be_two_digits_is_taken_apart(boxes, whole, count):
    contrast = np.zeros([150, 100], np.float32)
    for left, top, right, bottom in boxes:
        contrast[top:bottom, left:right] = 1
    pieces = mnist_app._find_components(contrast > 0.5)

    def judge(pixels):
        log_odds = np.array([whole, *[2.0] * (len(pixels) - 1)])
        return mnist_app.Judgement(log_odds, np.ones(len(pixels)), np.zeros(len(pixels), bool))

    assert len(mnist_app._take_apart(contrast, pieces, np.arange(2), judge)) == count


def test_a_digit_that_is_hardly_smaller_than_the_others_is_a_digit(number):
    """Of a page the smallest digits may be just below the size that a digit has at least."""
    placed = [piece for top in (60, 300) for piece in number("2222", gap=80, height=32, top=top)]
    placed += number("2", height=26, left=700, top=64) + number("2", height=12, left=800, top=70)
    picture = np.asarray(on_sheet(placed, size=(870, 400)), np.float32) / 255
    heights = mnist_app.find_digits(picture).sizes[1]
    assert len(heights) == 9 and heights.min() < 29


def test_a_digit_that_is_broken_in_two_halves_is_a_digit(number, read):
    placed = number("4", height=160) + number("0", height=130, left=330, top=95) + number("2", height=160, left=560)
    picture = on_sheet(placed)
    ImageDraw.Draw(picture).rectangle([300, 176, 480, 190], (235, 235, 235))
    reading = read(picture)
    assert reading.answer.number == "402"
    assert np.ptp(reading.found.boxes[1, [1, 3]]) > 120


@pytest.mark.parametrize("text", ["3", "5", "8", "28"])
def test_two_halves_far_apart_are_joined_where_they_are_a_digit_only_together(number, read, text):
    picture = on_sheet(number(text, height=160))
    start = number(text, height=160)[-1][1]
    ImageDraw.Draw(picture).rectangle([start, 154, start + 160, 168], (235, 235, 235))
    reading = read(picture)
    assert reading.answer.number == text
    assert np.ptp(reading.found.boxes[-1, [1, 3]]) > 140


@pytest.mark.parametrize(
    "gap, log_odds, loose, joined_log_odds, count",
    [
        (10, (-2, 2), (False, False), 1, 1),
        (10, (-2, -2), (True, True), 1, 1),
        (10, (-0.5, 2), (False, False), 1, 1),
        (20, (-2, 2), (False, False), 1, 2),  # They are far apart,
        (10, (1, 2), (False, False), 3, 2),  # or each is a digit,
        (10, (-2, 2), (True, False), 3, 2),  # or one is a blot,
        (10, (-2, 2), (False, False), -1, 2),  # or they are no digit together.
    ],
)
def test_two_pieces_are_joined_only_where_they_may_be_a_broken_digit(gap, log_odds, loose, joined_log_odds, count):
    contrast = np.zeros([100, 100], np.float32)
    contrast[20:80, 20:40] = 1
    contrast[20:80, 40 + gap : 60 + gap] = 1
    pieces = mnist_app._find_components(contrast > 0.5)
    parts = [mnist_app._make_part(contrast, pieces, np.array([i]), loose[i]) for i in range(2)]
    parts = [part._replace(log_odds=log_odds[i]) for i, part in enumerate(parts)]
    judge = judge_alike(joined_log_odds, 1.0)
    assert len(mnist_app._join_broken(parts, contrast, pieces, judge)) == count


def make_bars(*boxes):
    """The contrast, the pieces and the _Parts of black bars, of which none looks like a digit."""
    contrast = np.zeros([200, 100], np.float32)
    for left, top, right, bottom in boxes:
        contrast[top:bottom, left:right] = 1
    pieces = mnist_app._find_components(contrast > 0.5)
    parts = [mnist_app._make_part(contrast, pieces, np.array([i])) for i in range(len(boxes))]
    return contrast, pieces, [part._replace(log_odds=-2) for part in parts]


BARS = (10, 20, 30, 80), (40, 20, 60, 80), (70, 20, 90, 80)


@pytest.mark.parametrize("down, count", [(30, 1), (72, 2)])
def test_what_stands_in_two_rows_is_not_joined(down, count):
    judge = judge_alike(1.0, 1.0)
    two = BARS[0], (32, 20 + down, 52, 80 + down)
    contrast, pieces, parts = make_bars(*two, (90, 20, 99, 80))
    assert len(mnist_app._join_broken(parts, contrast, pieces, judge)) == count + 1
    contrast, pieces, parts = make_bars(*two)
    assert len(mnist_app._join_broken(parts, contrast, pieces, judge)) == 1, "there are no others"


def test_a_piece_is_joined_with_one_other_at_most():
    contrast, pieces, parts = make_bars(*BARS)
    joined = mnist_app._join_broken(parts, contrast, pieces, judge_alike(1.0, 1.0))
    assert sorted(len(part.group) for part in joined) == [1, 2]


@pytest.mark.parametrize(
    "bar, log_odds, then, moves",
    [
        ((34, 20, 60, 30), (-2, 2), 1, True),
        ((34, 20, 60, 30), (2, -2), 1, True),
        ((34, 20, 60, 30), (1, 1), 3, False),  # Each is a digit as it is,
        ((34, 20, 60, 30), (-2, 2), -1, False),  # or they are none then, either,
        ((46, 20, 60, 30), (-2, 2), 1, False),  # or the bar is far away,
        ((34, 20, 60, 60), (-2, 2), 1, False),  # or it is no fragment.
    ],
)
def test_a_fragment_goes_to_the_digit_that_needs_it(bar, log_odds, then, moves):
    contrast, pieces, _ = make_bars((10, 20, 30, 80), bar, (64, 20, 84, 80))
    groups = [0], [1, 2]
    parts = [mnist_app._make_part(contrast, pieces, np.array(group)) for group in groups]
    parts = [part._replace(log_odds=value) for part, value in zip(parts, log_odds, strict=True)]
    moved = mnist_app._move_fragments(parts, contrast, pieces, judge_alike(then, 1.0))
    assert [sorted(part.group) for part in moved] == ([[0, 1], [2]] if moves else [[0], [1, 2]])


def test_the_last_piece_of_a_digit_is_not_moved():
    contrast, pieces, parts = make_bars((10, 20, 30, 80), (34, 20, 60, 30))
    assert mnist_app._move_fragments(parts, contrast, pieces, judge_alike(1.0, 1.0)) is parts


def make_row_with_fragments():
    """The contrast, the pieces and three unlikely _Parts in a row: (bar, fragment), (bar, fragment), (bar)."""
    boxes = (0, 20, 14, 80), (16, 20, 30, 30), (32, 20, 46, 80), (48, 20, 62, 30), (64, 20, 78, 80)
    contrast, pieces, _ = make_bars(*boxes)
    parts = [mnist_app._make_part(contrast, pieces, np.array(group)) for group in ([0, 1], [2, 3], [4])]
    return contrast, pieces, [part._replace(log_odds=-2) for part in parts]


@pytest.mark.parametrize(
    "log_odds, groups",
    [((3, 1), [[0], [1, 2, 3], [4]]), ((1, 3), [[0, 1], [2], [3, 4]]), ((-1, -1), [[0, 1], [2, 3], [4]])],
)
def test_of_two_moves_of_one_digit_the_likelier_one_is_made(log_odds, groups):
    contrast, pieces, parts = make_row_with_fragments()

    def judge(pixels):
        assert len(pixels) == len(log_odds)
        return mnist_app.Judgement(np.array(log_odds, float), np.ones(2), np.zeros(2, bool))

    moved = mnist_app._move_fragments(parts, contrast, pieces, judge)
    assert [sorted(part.group) for part in moved] == groups


@pytest.mark.parametrize("picture", [104, 113, 115])
def test_the_bar_of_a_broken_five_is_no_part_of_the_next_digit(picture, digits, read):
    """In these made pictures the bar of a 5 is nearer to the next digit than to the rest of the 5."""
    ((images, labels), _) = digits
    label, picture = make_picture(Kind("pair-0", 1), picture, images[-5000:], labels[-5000:])
    assert read(picture).answer.number == label


def test_on_a_page_of_many_digits_nothing_is_joined_or_cut(number, read, monkeypatch):
    monkeypatch.setattr(mnist_app, "_MOST_DIGITS_TO_CUT", 2)
    contrast, pieces, parts = make_bars(*BARS[:2])
    judge = judge_alike(1.0, 1.0)
    assert len(mnist_app._join_broken(parts, contrast, pieces, judge)) == 1
    contrast, pieces, parts = make_bars(*BARS)
    assert mnist_app._join_broken(parts, contrast, pieces, judge) is parts
    view = mnist_app._View(contrast, 0.5, np.zeros([0, 4]), lambda points: points)
    assert mnist_app._add_pale_strokes(parts, view, pieces, judge) is parts
    contrast, pieces, parts = make_row_with_fragments()
    assert mnist_app._move_fragments(parts, contrast, pieces, judge) is parts
    assert len(read(on_sheet(number("20", gap=-52))).found.cuts) == 1
    assert len(read(on_sheet(number("2060", gap=-52))).found.cuts) == 0


def test_what_goes_round_two_digits_is_no_digit():
    boxes = [[0, 0, 300, 100], [20, 20, 60, 80], [100, 20, 140, 80], [95, 10, 145, 90]]
    parts = [mnist_app._Part(None, np.array(box), log_odds=3) for box in boxes]
    assert [part.log_odds for part in mnist_app._doubt_frames(parts)] == [-8, 3, 3, 3]
    assert [part.log_odds for part in mnist_app._doubt_frames(parts[:2])] == [3, 3]


def draw_figure_eight(paler):
    """A contrast with an 8, of which the upper right of the loop is paler than the rest by that share."""
    contrast = np.zeros([200, 160], np.float32)
    ring = Image.new("L", (160, 200))
    ImageDraw.Draw(ring).ellipse([45, 20, 105, 100], outline=255, width=12)
    ImageDraw.Draw(ring).ellipse([40, 88, 110, 180], outline=255, width=12)
    contrast[np.asarray(ring) > 0] = 1
    contrast[20:85, 78:110] *= paler
    return contrast


@pytest.mark.parametrize("paler, number", [(0.2, "8"), (0.12, "6")])
def test_the_strokes_of_a_dry_pen_are_added_where_they_make_a_digit_clear(paler, number, model):
    judge = functools.partial(mnist_app._judge, model_dir=model)
    found = mnist_app._read_view(view_of()._replace(contrast=draw_figure_eight(paler), threshold=0.3), False, judge)
    assert mnist_app.restore_model(found.pixels, model).number == number


@pytest.mark.parametrize(
    "log_odds, confidence, pale_log_odds, pale_confidence, is_added",
    [
        (2, 0.6, 3, 0.95, True),
        (-2, 0.99, 1, 0.95, True),
        (2, 0.95, 3, 0.99, False),  # It was clear,
        (2, 0.6, 1, 0.95, False),  # or it is less clear,
        (2, 0.6, 3, 0.8, False),  # or not clear either,
        (-3, 0.6, -1, 0.95, False),  # or it is still doubtful.
    ],
)
def test_pale_strokes_are_added_to_unclear_digits_alone(log_odds, confidence, pale_log_odds, pale_confidence, is_added):
    view = view_of()._replace(contrast=draw_figure_eight(0.2), threshold=0.3)
    pieces = mnist_app._find_components(view.contrast > view.threshold)
    part = mnist_app._make_part(view.contrast, pieces, np.arange(len(pieces.areas)))
    part = part._replace(log_odds=log_odds, confidence=confidence)
    (result,) = mnist_app._add_pale_strokes([part], view, pieces, judge_alike(pale_log_odds, pale_confidence))
    assert (result.pixels.sum() > part.pixels.sum()) == is_added
    assert result.strokes == part.strokes


def test_pale_strokes_between_two_digits_are_of_neither():
    view = view_of((50, 150, 50, 90), (50, 150, 110, 150))
    view.contrast[90:110, 90:110] = 0.4
    pieces = mnist_app._find_components(view.contrast > view.threshold)
    parts = [mnist_app._make_part(view.contrast, pieces, np.array([i]))._replace(confidence=0.6) for i in range(2)]
    result = mnist_app._add_pale_strokes(parts, view, pieces, judge_alike(3, 0.99))
    assert all(one is other for one, other in zip(result, parts, strict=True))


def test_where_two_printed_lines_cross_no_ink_stays():
    contrast = np.zeros([300, 500], np.float32)
    for start in (100, 200):
        contrast[start : start + 14] = contrast[:, start + 50 : start + 64] = 1
    sheet_of_squares = mnist_app._View(contrast, 0.5, np.zeros([0, 4]), lambda points: points)
    without = mnist_app._remove_lines(sheet_of_squares, 0.35, 50)
    assert len(without.lines) == 4 and without.contrast.max() == 0


def test_a_line_that_strokes_hide_for_the_most_part_is_a_line():
    mask = np.zeros([200, 400], bool)
    for left in range(10, 400, 100):
        mask[70:150, left : left + 60] = True
    assert len(mnist_app._find_lines(mask, 0.35, 20)[2]) == 0
    mask[100:103] = True
    on_line, _, lines = mnist_app._find_lines(mask, 0.35, 20)
    assert len(lines) == 1 and on_line.sum() == 3 * (400 - 4 * 60)


def test_the_edge_of_the_sheet_is_no_one(number, read):
    picture = draw_lines(on_sheet(number("326")), [(2, 20), (2, 290)], width=9)
    assert read(picture).answer.number == "326"


def test_a_stroke_along_the_rim_beside_no_digit_is_no_one(number, read):
    assert read(draw_lines(on_sheet(number("326")), (7, 240, 7, 316), width=14)).answer.number == "326"
    assert read(draw_lines(on_sheet(number("326")), (7, 140, 7, 216), width=14)).answer.number == "1326", "in the row"


def test_a_line_that_is_finer_than_the_pen_is_no_one(number, read):
    assert read(draw_lines(on_sheet(number("3")), (330, 100, 330, 200), width=4)).answer.number == "3"
    assert read(draw_lines(on_sheet(number("3")), (330, 100, 330, 200), width=12)).answer.number == "31"


def test_a_blot_in_no_row_is_no_digit(number, read):
    picture = on_sheet(number("308"), size=(900, 420))
    ImageDraw.Draw(picture).ellipse([400, 280, 470, 360], BLACK)
    assert read(picture).answer.number == "308"


@pytest.mark.parametrize(
    "box, log_odds, width, others, is_dropped",
    [
        ([0, 200, 50, 260], -5, 6.0, 3, True),
        ([0, 200, 50, 260], -0.5, 10.0, 3, True),
        ([0, 200, 50, 260], 0.5, 10.0, 3, False),
        ([0, 200, 50, 260], -2, 8.0, 3, False),  # It may be a digit,
        ([400, 130, 450, 190], -5, 13.0, 3, False),  # or it is in the row,
        ([0, 200, 90, 260], -5, 13.0, 3, False),  # or it may be two digits that touch,
        ([0, 200, 50, 260], -5, 13.0, 2, False),  # or there are few digits.
    ],
)
def test_only_what_is_surely_no_digit_and_in_no_row_is_dropped(box, log_odds, width, others, is_dropped):
    def part(box, log_odds, width):
        strokes = mnist_app._Strokes(area=1000, width=width, thick=0.0, length=2.0)
        return mnist_app._Part(None, np.array(box), strokes=strokes, log_odds=log_odds)

    digits = [part([x, 100, x + 50, 180], 3, 6.0) for x in range(100, 100 + 90 * others, 90)]
    assert len(mnist_app._drop_blots([*digits, part(box, log_odds, width)])) == others + (not is_dropped)


def test_a_line_that_is_much_higher_than_the_digits_is_no_one(number, read):
    picture = on_sheet(number("308", height=80), size=(700, 420))
    assert read(draw_lines(picture, (560, 60, 566, 330), width=10)).answer.number == "308"
    picture = on_sheet(number("308", height=80), size=(700, 420))
    assert read(draw_lines(picture, (560, 60, 566, 190), width=10)).answer.number == "3081", "a long 1"


def test_more_lines_than_digits_do_not_hide_how_high_a_digit_is():
    pen = mnist_app._Strokes(area=1000, width=6, thick=0, length=2)
    digits = [mnist_app._Part(None, np.array([x, 100, x + 50, 180]), strokes=pen) for x in (100, 200)]
    lines = [mnist_app._Part(None, np.array([x, 20, x + 6, 300]), strokes=pen) for x in (300, 400, 500)]
    assert mnist_app._drop_upright_lines(digits + lines, (400, 700)) == digits
    assert mnist_app._drop_upright_lines(lines, (400, 700)) == lines


def test_where_much_ink_is_in_no_digit_the_picture_is_seen_in_another_way():
    one = make_found(np.zeros([1, 784]), [[0, 0, 20, 30]], log_odds=np.array([2.0]))
    assert mnist_app._needs_no_other_look(one._replace(share_of_ink=0.95))
    assert not mnist_app._needs_no_other_look(one._replace(share_of_ink=0.85))


def test_a_one_at_the_rim_is_a_digit(number, read, tmp_path):
    picture = on_sheet(number("126"))
    left, top, right, bottom = mnist_app.find_digits(np.asarray(picture, np.float32) / 255).boxes.T
    tight = picture.crop((int(left.min()), int(top.min()) - 30, int(right.max()), int(bottom.max()) + 30))
    assert read(tight).answer.number == "126"


@pytest.mark.parametrize("text", ["2039482", "1302", "2031"])
@pytest.mark.parametrize("paper_below", [0, 150])
def test_a_picture_cut_close_round_a_row_keeps_its_first_and_last_digit(number, read, text, paper_below):
    picture = on_sheet(number(text, gap=20), size=(1400, 520))
    inside = np.argwhere(np.asarray(picture.convert("L")) < 120)
    (top, left), (bottom, right) = inside.min(0), inside.max(0) + 1
    assert read(picture.crop((left, top, right, bottom + paper_below))).answer.number == text


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


def judge_alike(log_odds, confidence):
    """A judge for find_digits, to which all pieces of ink have these log odds and this confidence."""

    def judge(pixels):
        ones = np.ones(len(pixels))
        return mnist_app.Judgement(log_odds * ones, confidence * ones, np.zeros(len(pixels), bool))

    return judge


def find_refusal(picture, log_odds, confidence):
    """Why a Pillow image is refused, or None, where all pieces of ink have these log odds and this confidence."""
    picture = np.asarray(picture.convert("RGB"), np.float32) / 255
    found = mnist_app.find_digits(picture, judge_alike(log_odds, confidence))
    return mnist_app._find_refusal(found, picture, [str(digit) for digit in range(10)])


def test_no_answer_has_a_confidence_of_nothing(number):
    picture = on_sheet(number("2222"))
    assert find_refusal(picture, log_odds=9, confidence=0.2) is None
    assert "nothing that is clearly a digit" in find_refusal(picture, log_odds=9, confidence=0.14)


def refuses(picture):
    """Whether it is called no writing, where each piece may as well be a digit as not."""
    return "something else than writing" in (find_refusal(picture, log_odds=0, confidence=1) or "")


def draw_upright(draw, x, height, y=200):
    draw.line([(x, y - height / 2), (x, y + height / 2)], "black", 12)


def test_strokes_of_one_width_and_one_colour_are_writing(digits):
    (_, (images, _)) = digits
    (two,) = (stroke(images[DIGITS[2]], 200),)
    assert not refuses(sheet(np.random.default_rng(1), (400, 400), [(two, 120, 100)]))
    assert not refuses(sheet(np.random.default_rng(1), (900, 400), [(two, left, 100) for left in (80, 320, 560)]))


@pytest.mark.parametrize("path", sorted((ROOT / "pic").glob("*.png")), ids=lambda path: path.name)
def test_the_pictures_of_the_clone_are_writing(path):
    assert not refuses(Image.open(path))


def test_grainy_pencil_is_writing(digits):
    (_, (images, _)) = digits
    two = stroke(images[DIGITS[2]], 200)
    picture = sheet(np.random.default_rng(1), (500, 500), [(two, 150, 150)], ink=(190, 190, 190), paper=(225, 225, 225))
    grainy = np.asarray(picture, float) + np.random.default_rng(2).normal(0, 4, (500, 500, 3))
    assert not refuses(Image.fromarray(np.uint8(np.clip(grainy, 0, 255))))


def test_red_ink_on_blue_lines_is_writing(digits):
    (_, (images, _)) = digits
    two = stroke(images[DIGITS[2]], 200)
    picture = sheet(np.random.default_rng(1), (500, 500), [(two, 150, 150)], ink=(200, 30, 30))
    for y in range(30, 500, 60):
        ImageDraw.Draw(picture).line([(0, y), (500, y)], (130, 170, 230), 2)
    assert not refuses(picture)


def test_own_classes_may_be_drawings(model, tmp_path, monkeypatch):
    picture = Image.new("RGB", (300, 400), "white")
    ImageDraw.Draw(picture).line([(150, 60), (150, 340)], "black", 8)
    ImageDraw.Draw(picture).ellipse([100, 40, 200, 140], fill="black")
    picture.save(tmp_path / "drawing.png")
    with pytest.raises(mnist_app.PictureError, match="something else than writing|nothing that is clearly a digit"):
        mnist_app.pre_pic(tmp_path / "drawing.png", model)
    monkeypatch.setattr(mnist_app, "read_class_names", lambda model_dir: [f"class {i}" for i in range(10)])
    assert len(mnist_app.pre_pic(tmp_path / "drawing.png", model)) >= 1, "no sentence"


def test_a_one_from_edge_to_edge_is_no_ruling():
    picture = np.ones([102, 120, 3], np.float32)
    picture[1:101, 30:33] = picture[10:90, 70:73] = picture[10:90, 97:100] = 0
    picture[10:13, 70:100] = picture[87:90, 70:100] = 0
    assert len(mnist_app.find_digits(picture).boxes) == 2


def test_a_stroke_with_a_blot_is_no_writing():
    picture = Image.new("RGB", (300, 400), "white")
    ImageDraw.Draw(picture).line([(150, 60), (150, 340)], "black", 8)
    ImageDraw.Draw(picture).ellipse([100, 40, 200, 140], fill="black")
    assert refuses(picture)


def test_many_strokes_in_one_place_are_no_writing(read):
    picture = Image.new("RGB", (300, 400), "white")
    for inset in range(0, 75, 9):
        ImageDraw.Draw(picture).ellipse([60 + inset, 60 + inset, 240 - inset, 340 - inset], outline="black", width=3)
    ImageDraw.Draw(picture).line([(150, 60), (150, 340)], "black", 3)
    assert refuses(picture)
    assert "something else than writing" in read(picture).answer.error


@pytest.mark.parametrize("spokes", [0, 4])
def test_circles_and_wheels_are_no_writing(spokes, read):
    picture = Image.new("RGB", (400, 400), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse([100, 100, 300, 300], outline="black", width=20)
    for angle in np.arange(spokes) * np.pi / spokes:
        across, down = 100 * np.cos(angle), 100 * np.sin(angle)
        draw.line([(200 - across, 200 - down), (200 + across, 200 + down)], "black", 12)
    assert "something else than writing" in read(picture).answer.error
    narrower = picture.resize((320, 400))
    assert spokes or read(narrower).answer.number == "0"


def test_a_round_zero_in_a_number_is_writing():
    circle = Image.new("L", (IMAGE_SIDE, IMAGE_SIDE))
    ImageDraw.Draw(circle).ellipse([4, 4, 23, 23], outline=255, width=3)
    zero = np.asarray(circle, np.float32).ravel() / 255
    narrow = np.asarray(circle.resize((22, IMAGE_SIDE)), np.float32) / 255
    other = np.pad(narrow, [(0, 0), (3, 3)]).ravel()
    assert mnist_app._is_wheel(np.stack([zero])) and mnist_app._is_wheel(np.stack([zero, zero, other]))
    assert not mnist_app._is_wheel(np.stack([zero, other])) and not mnist_app._is_wheel(np.stack([other]))


def test_a_stroke_of_less_than_a_pixel_is_no_traceback(read):
    picture = Image.new("RGB", (45, 5), "white")
    ImageDraw.Draw(picture).line([(21, 1), (24, 4)], (120, 120, 120))
    read(picture)
    tiny = np.array([[23.67, 2.67, 24.0, 3.0]])
    assert mnist_app._measure_colourfulness(np.ones([5, 45, 3], np.float32), tiny) < 1e-6
    assert not mnist_app._is_sign(
        np.ones([5, 45, 3], np.float32), make_found(np.zeros([1, 784]), tiny, is_ink_light=True)
    )


@pytest.mark.parametrize(
    "ink, paper, is_writing",
    [
        ("white", (190, 30, 40), False),  # a sign
        ((250, 240, 120), (40, 90, 190), False),
        ("white", (44, 62, 54), True),  # a blackboard
        ("white", (35, 75, 60), True),
        ("black", (255, 235, 90), True),  # a note
        ((20, 20, 90), (250, 130, 170), True),
    ],
)
def test_light_strokes_on_a_strong_colour_are_no_writing(ink, paper, is_writing):
    picture = Image.new("RGB", (400, 400), paper)
    ImageDraw.Draw(picture).ellipse([140, 100, 260, 300], outline=ink, width=20)
    assert refuses(picture) != is_writing


@pytest.mark.parametrize("paper, table", [((255, 235, 90), (255, 235, 90)), ("white", (160, 100, 50))])
def test_dark_strokes_on_a_note_under_a_lamp_are_writing(paper, table):
    picture = Image.new("RGB", (400, 400), table)
    draw = ImageDraw.Draw(picture)
    draw.rectangle([80, 80, 320, 320], fill=paper)
    draw.ellipse([150, 100, 250, 300], outline=(40, 40, 60), width=6)
    y, x = np.ogrid[-1:1:400j, -1:1:400j]
    lit = np.asarray(picture) * (1 - 0.1 * (x**2 + y**2))[..., None]
    assert not refuses(Image.fromarray(np.uint8(lit)))


def test_many_colours_are_no_writing():
    picture = Image.new("RGB", (300, 400), "white")
    for angle in range(360):
        ImageDraw.Draw(picture).arc([80, 80, 220, 320], angle, angle + 2, f"hsv({angle}, 100%, 80%)", 16)
    assert refuses(picture)
    assert not refuses(picture.convert("L"))


def test_two_strokes_that_a_short_line_joined_may_be_a_letter():
    boxes = [[0, 0, 10, 40], [40, 0, 50, 40]]
    bar, baseline = np.array([[0.0, 20, 50, 20]]), np.array([[-20.0, 38, 70, 38]])
    elevens = make_found(np.zeros([2, 784]), boxes, log_odds=np.array([2.0, 2.0]))
    assert mnist_app._is_number(elevens) and mnist_app._is_number(elevens._replace(lines=baseline))
    assert not mnist_app._is_number(elevens._replace(lines=bar)), "an H"


def test_what_was_cut_out_of_one_piece_needs_more_evidence():
    """The piece may be a letter: a refused digit needs clear ones beside it, and what is surely no digit spoils it."""
    boxes = [[40 * i, 0, 40 * i + 30, 40] for i in range(3)]
    for log_odds, refused, is_number in (
        ([2.0, 0.0], 0, True),
        ([2.0, 0.0], 1, False),
        ([7.0, 1.5, 2.0], 1, True),
        ([1.0, 0.8, 0.0], 1, False),
        ([3.5, -2.5], 0, False),
    ):
        n = len(log_odds)
        is_refused = np.arange(n) >= n - refused
        row = make_found(np.zeros([n, 784]), boxes[:n], log_odds=np.array(log_odds), is_refused=is_refused)
        assert mnist_app._is_number(row), "digits that are apart"
        assert mnist_app._is_number(row._replace(cuts=np.zeros([n - 1, 4]))) == is_number


def test_a_fence_is_no_number():
    picture = Image.new("RGB", (900, 400), "white")
    for x, height in zip(range(60, 860, 60), 4 * [200, 260, 180, 230], strict=False):
        draw_upright(ImageDraw.Draw(picture), x, height)
    assert refuses(picture)


def test_digits_of_unlike_heights_are_no_number(digits):
    (_, (images, _)) = digits
    for high, low in ((200, 200), (280, 150)):
        placed = [(stroke(images[DIGITS[2]], height), left, 60) for height, left in ((high, 60), (low, 500))]
        picture = sheet(np.random.default_rng(1), (900, 400), placed)
        for x, height in ((400, high), (800, low), (850, high)):
            draw_upright(ImageDraw.Draw(picture), x, height)
        assert refuses(picture) == (low < high)


def test_one_digit_beside_much_other_ink_is_no_writing():
    """An arrow or a letter in a drawing may look like a digit."""
    strokes = (mnist_app._Strokes(area=500, width=6.0, thick=0.0, length=2.0),)
    one = make_found(np.zeros([1, 784]), [[0, 0, 40, 60]], log_odds=np.array([1.0]), strokes=strokes)
    for share, is_writing in ((0.97, True), (0.3, False)):
        assert mnist_app._is_writing(one._replace(share_of_ink=share), colourfulness=0) == is_writing


def test_two_digits_of_very_unlike_heights_are_no_writing():
    """A stick and the ball beside it, in a drawing."""
    pen = mnist_app._Strokes(area=500, width=6.0, thick=0.0, length=2.0)
    for height, is_writing in ((50, True), (14, False)):
        boxes = [[0, 0, 30, 60], [60, 0, 60 + height / 2, height]]
        two = make_found(np.zeros([2, 784]), boxes, log_odds=np.array([0.5, 0.5]), strokes=2 * (pen,))
        assert mnist_app._is_writing(two._replace(share_of_ink=0.8), colourfulness=0) == is_writing


def test_ink_that_covers_much_of_the_picture_is_no_writing():
    pen = mnist_app._Strokes(area=500, width=6.0, thick=0.0, length=2.0)
    for bars, is_writing in ((4, True), (7, False)):
        picture = Image.new("L", (200, 200), "white")
        ImageDraw.Draw(picture).rectangle([10, 180, 189, 189], "black")
        for i in range(bars):
            ImageDraw.Draw(picture).rectangle([10 + 24 * i, 20, 21 + 24 * i, 180], "black")
        covered = (np.asarray(picture) == 0).mean()
        assert (covered < 1 / 3) == is_writing
        found = mnist_app.find_digits(np.asarray(picture.convert("RGB"), np.float32) / 255)
        assert abs(found.coverage - covered) < 0.01
        found = found._replace(log_odds=np.array([3.0]), strokes=(pen,))
        assert mnist_app._is_writing(found, colourfulness=0) == is_writing


def test_a_doubtful_digit_with_much_ink_round_it_is_no_writing():
    """A drawing fills its sheet; a digit of a rare form has paper round it."""
    strokes = (mnist_app._Strokes(area=500, width=6.0, thick=0.15, length=2.4),)
    one = make_found(np.zeros([1, 784]), [[0, 0, 40, 60]], log_odds=np.array([-4.0]), strokes=strokes)
    for coverage, is_writing in ((0.05, True), (0.3, False)):
        assert mnist_app._is_writing(one._replace(coverage=coverage), colourfulness=0) == is_writing


def test_a_printed_frame_is_no_part_of_the_coverage(number):
    plain = on_sheet(number("9", left=380))
    framed = plain.copy()
    ImageDraw.Draw(framed).rectangle((330, 40, 570, 280), outline=BLACK, width=9)
    of_plain, of_framed = (
        mnist_app.find_digits(np.asarray(image.convert("RGB"), np.float32) / 255).coverage for image in (plain, framed)
    )
    assert of_framed == pytest.approx(of_plain, rel=0.1)


def test_blots_and_colours_in_a_row_are_no_writing():
    boxes = [[60 * i, 0, 60 * i + 40, 60] for i in range(4)]
    pen = mnist_app._Strokes(area=500, width=6.0, thick=0.02, length=2.4)
    row = make_found(np.zeros([4, 784]), boxes, log_odds=np.full(4, 0.5), strokes=4 * (pen,))
    assert mnist_app._is_writing(row, colourfulness=0)
    assert not mnist_app._is_writing(row._replace(strokes=4 * (pen._replace(thick=0.8),)), colourfulness=0)
    doubtful = row._replace(log_odds=np.full(4, -0.2), share_of_ink=0.7)
    assert mnist_app._is_writing(doubtful, colourfulness=0) and not mnist_app._is_writing(doubtful, colourfulness=0.3)


def test_long_strokes_and_much_ink_in_a_row_are_no_writing():
    """The curves of a plot have long strokes, and a picture of many things leaves little paper."""
    boxes = [[60 * i, 0, 60 * i + 40, 60] for i in range(4)]
    pen = mnist_app._Strokes(area=500, width=6.0, thick=0.02, length=2.4)
    row = make_found(np.zeros([4, 784]), boxes, log_odds=np.full(4, 0.5), share_of_ink=0.66, strokes=4 * (pen,))
    curve = pen._replace(length=6.0)
    assert mnist_app._is_writing(row, colourfulness=0)
    assert not mnist_app._is_writing(row._replace(strokes=(pen, pen, pen, curve)), colourfulness=0)
    assert not mnist_app._is_writing(row._replace(coverage=0.33), colourfulness=0)


def test_a_row_of_which_half_are_surely_no_digits_is_no_writing():
    """One bad digit does not spoil a row; of a printed word several letters are no digits."""
    boxes = [[60 * i, 0, 60 * i + 40, 60] for i in range(4)]
    pen = mnist_app._Strokes(area=500, width=6.0, thick=0.02, length=2.4)
    row = make_found(np.zeros([4, 784]), boxes, share_of_ink=0.75, strokes=4 * (pen,))
    for log_odds, is_writing in (([1, 1, 1, 1], True), ([6, 6, 6, -4], True), ([6, 6, -4, -4], False)):
        assert mnist_app._is_writing(row._replace(log_odds=np.array(log_odds, float)), colourfulness=0) == is_writing


def test_strokes_as_narrow_as_a_one_are_no_evidence_of_writing_or_of_cuts():
    """Any stroke of a fence, a pattern or a letter is a clear 1."""
    pen = mnist_app._Strokes(area=500, width=6.0, thick=0.0, length=1.0)
    for width, is_written in ((10, False), (40, True)):
        boxes = [[60 * i, 0, 60 * i + width, 60] for i in range(4)]
        row = make_found(np.zeros([4, 784]), boxes, log_odds=np.full(4, 5.0), strokes=4 * (pen,))
        assert mnist_app._is_writing(row, colourfulness=0) == is_written
        assert mnist_app._is_number(row), "digits that are apart"
        assert mnist_app._is_number(row._replace(cuts=np.zeros([3, 4]))) == is_written


def test_digits_in_a_heap_of_other_ink_are_no_number(digits):
    (_, (images, _)) = digits
    two = stroke(images[DIGITS[2]], 100)
    picture = sheet(np.random.default_rng(1), (900, 600), [(two, left, 40) for left in (80, 320, 560)])
    dashes = [[(100, y), (800, y)] for y in range(220, 560, 40)]
    assert refuses(draw_lines(picture, *dashes, width=25))


def test_the_pictures_of_the_clone_are_read_in_one_look():
    """The plain way is enough for a clear sheet, so that reading stays fast."""
    picture = mnist_app.open_picture(ROOT / "pic" / "number.png")
    ways = []

    def judge(pixels):
        ways.append(len(pixels))
        return judge_alike(log_odds=3, confidence=1)(pixels)

    found = mnist_app.find_digits(picture, judge)
    assert ways == [5] and len(found.pixels) == 5


def test_where_no_way_to_see_a_picture_gives_a_digit_it_gets_a_sentence(model, tmp_path, monkeypatch):
    def plain():
        raise mnist_app.PictureError("shows no digit at first.")

    def doubtful():
        picture = mnist_app.open_picture(ROOT / "pic" / "7.png")
        return mnist_app._see_picture(mnist_app._grey_from_colour(picture), False)

    monkeypatch.setattr(mnist_app, "_list_views", lambda *_: iter([plain, doubtful]))
    with pytest.raises(mnist_app.PictureError, match="shows no digit at first"):
        mnist_app.find_digits(np.ones([50, 50, 3], np.float32), judge_alike(log_odds=-9, confidence=1))
