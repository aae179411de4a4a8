"""Each step of the preparation on a picture that needs it: without the step, its test fails.

Strokes are drawn here, so that what the network should be shown is known: the same strokes on an even, white sheet.
"""

import numpy as np
import pytest
from make_pictures import lamp, shadow
from PIL import Image, ImageDraw, ImageFilter

import mnist_app
from mnist_app import PictureError, find_digits

TWO = [(0.1, 0.25), (0.3, 0.05), (0.65, 0.05), (0.8, 0.3), (0.1, 1), (0.85, 1)]
SEVEN = [(0.1, 0), (0.85, 0), (0.4, 1)]
FIVE, HAT = [(0.3, 0.05), (0.25, 0.45), (0.6, 0.4), (0.8, 0.7), (0.5, 1), (0.15, 0.9)], [(0.42, 0), (0.85, 0.02)]
BLOB = [(0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6), (0.4, 0.4)]


def drawn(*strokes, size=(400, 300), box=(150, 60, 250, 240), pen=14):
    """Cover of ink, float32 [h, w] 0..1: strokes, given in their box from (0, 0) to (1, 1), with a round pen."""
    image = Image.new("L", [4 * side for side in size])
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = (4 * side for side in box)
    for stroke in strokes:
        points = [(left + x * (right - left), top + y * (bottom - top)) for x, y in stroke]
        draw.line(points, 255, 4 * pen, joint="curve")
        for x, y in points:
            draw.ellipse((x - 2 * pen, y - 2 * pen, x + 2 * pen, y + 2 * pen), 255)
    return np.asarray(image.resize(size, Image.Resampling.BOX), np.float32) / 255


def on_paper(cover, paper=(1, 1, 1), ink=(0.1, 0.1, 0.1), light=None, grain=0.0):
    """float32 [h, w, 3] in 0..1."""
    picture = np.array(paper) + cover[..., None] * (np.array(ink, float) - paper)
    if light is not None:
        picture = picture * light[..., None]
    if grain:
        picture = picture + np.random.default_rng(1).normal(0, grain, picture.shape)
    return np.clip(picture, 0, 1).astype(np.float32)


def alike(digit, other):
    return np.corrcoef(digit, other)[0, 1]


def only(picture):
    """What the network is shown of the one digit of a picture, float32 [784]."""
    [pixels] = find_digits(picture).pixels
    return pixels


def count(picture):
    pixels, boxes = find_digits(picture)[:2]
    assert len(pixels) == len(boxes)
    return len(pixels)


@pytest.fixture(scope="module")
def two():
    return only(on_paper(drawn(TWO)))


@pytest.mark.parametrize(
    ("paper", "ink"),
    [
        ((0.95, 0.93, 0.88), (0.12, 0.2, 0.5)),
        ((0.1, 0.1, 0.12), (0.9, 0.9, 0.85)),
        ((1, 1, 1), (1, 1, 0.25)),  # yellow on white: hardly darker
        ((0.15, 0.25, 0.9), (0.9, 0.185, 0.15)),  # red on blue, nearly as bright
        ((0.25, 0.6, 0.3), (0.62, 0.42, 0.3)),  # brown on green, as bright
    ],
)
def test_ink_of_any_colour_on_paper_of_any_colour(two, paper, ink):
    assert alike(only(on_paper(drawn(TWO), paper, ink, grain=0.01)), two) > 0.95


@pytest.mark.parametrize("light", [lamp((400, 300), 0.2), shadow((400, 300))])
def test_uneven_light_is_taken_out(two, light):
    assert alike(only(on_paper(drawn(TWO), light=light, grain=0.01)), two) > 0.9


@pytest.mark.parametrize("light_ink", [False, True])
def test_polarity_is_found_also_in_a_vignette(two, light_ink):
    down, across = np.mgrid[-1:1:300j, -1:1:400j]
    vignette = (1 - 0.35 * (down**2 + across**2)).astype(np.float32)
    colours = {"paper": (0.3,) * 3, "ink": (1,) * 3} if light_ink else {"paper": (1,) * 3, "ink": (0.3,) * 3}
    assert alike(only(on_paper(drawn(TWO), light=vignette, **colours)), two) > 0.9


def test_faint_ink_gets_its_own_threshold(two):
    assert alike(only(on_paper(drawn(TWO), (0.8,) * 3, (0.7,) * 3, grain=0.01)), two) > 0.9


def test_what_no_eye_would_see_is_no_ink():
    with pytest.raises(PictureError):
        find_digits(on_paper(drawn(TWO), (0.8,) * 3, (0.78,) * 3))


def test_specks_are_dropped(two):
    rng = np.random.default_rng(2)
    cover = drawn(TWO)
    for _ in range(15):
        y, x = rng.integers(5, 290), rng.choice([*range(5, 120), *range(280, 390)])
        cover[y : y + 5, x : x + 5] = 1
    assert alike(only(on_paper(cover)), two) > 0.99


def test_ruled_lines_are_dropped(two):
    cover = drawn(TWO)
    for y in range(10, 300, 50):
        cover[y : y + 2] = 1
    assert alike(only(on_paper(cover)), two) > 0.85
    cover = drawn(TWO)
    for x in range(10, 400, 50):
        cover[:, x : x + 2] = 1
    assert alike(only(on_paper(cover)), two) > 0.85
    for lean in (0.02, 0.06):
        leaning = drawn(*([(0, y), (1, y + lean)] for y in np.arange(0.03, 1, 0.15)), box=(-5, 0, 405, 300), pen=2)
        assert alike(only(on_paper(np.maximum(drawn(TWO), leaning))), two) > 0.95
    blank = np.zeros_like(cover)
    blank[20::45] = blank[21::45] = 1
    with pytest.raises(PictureError):
        find_digits(on_paper(blank))


def test_strokes_in_one_line_are_no_ruling():
    ones = drawn([(0, 0.02), (0, 0.25)], [(0, 0.75), (0, 0.98)], box=(200, 0, 300, 300), pen=5)
    assert count(on_paper(ones)) == 2


def test_frames_and_table_round_the_sheet_are_dropped(two):
    for strip in (np.s_[:25], np.s_[:, -30:]):
        cover = drawn(TWO)
        cover[strip] = 1
        assert alike(only(on_paper(cover)), two) > 0.95
    cover = drawn(TWO)
    cover[:8] = cover[-8:] = 1
    cover[:, :8] = cover[:, -8:] = 1
    assert alike(only(on_paper(cover)), two) > 0.95


def test_a_patterned_table_cloth_is_no_digit():
    cover = drawn(TWO, box=(230, 110, 280, 190), pen=6)
    two = only(on_paper(cover))
    cover[4:44, 250:265] = 1  # a tassel that hangs by itself
    for start in range(3):
        cover[start:45:12, 40:241] = cover[:45, 40 + start : 241 : 12] = 1
    assert alike(only(on_paper(cover)), two) > 0.95


def test_an_underline_is_no_digit(two):
    assert alike(only(on_paper(drawn(TWO, [(-0.5, 1.2), (1.6, 1.2)]))), two) > 0.95


def test_a_small_piece_far_from_the_digit_is_no_stroke_of_it(two):
    assert alike(only(on_paper(drawn(TWO, [(1.9, 0.5), (2.1, 0.6)]))), two) > 0.95


def test_a_small_piece_at_the_border_is_no_stroke_of_the_digit(two):
    cover = drawn(TWO, box=(150, 100, 250, 280))
    cover[-14:, 90:120] = 1
    assert alike(only(on_paper(cover)), two) > 0.95


def test_a_digit_that_touches_the_border_is_kept():
    cover = np.maximum(drawn(TWO, box=(0, 60, 90, 240)), drawn(SEVEN, box=(200, 60, 290, 240)))
    boxes = find_digits(on_paper(cover)).boxes
    assert len(boxes) == 2
    assert boxes[0, 0] <= 2


def test_the_shadow_of_a_hand_is_no_digit():
    down, across = np.mgrid[:300, :400]
    blob = np.exp(-((down - 150) ** 2 + (across - 200) ** 2) / 2 / 50**2).astype(np.float32)
    with pytest.raises(PictureError):
        find_digits(on_paper(0.6 * blob))


def test_the_blurred_stroke_of_a_one_is_no_shadow():
    blurred = ImageFilter.GaussianBlur(1.1)
    for pen in (8, 10, 12, 14):
        one = drawn([(0, 0), (0, 1)], [(3, 0), (3, 1)], size=(1000, 750), box=(400, 300, 450, 420), pen=pen)
        cover = np.asarray(Image.fromarray(np.uint8(one * 255)).filter(blurred), np.float32) / 255
        assert count(on_paper(cover)) == 2, pen


def test_loose_strokes_of_a_digit_stay_together_and_digits_apart():
    five = only(on_paper(drawn(FIVE, HAT)))
    loose = [(x + 0.05, y - 0.05) for x, y in HAT]
    assert alike(only(on_paper(drawn(FIVE, loose))), five) > 0.7
    loops = [[(0.5 + 0.5 * np.sin(a), y - 0.22 * np.cos(a)) for a in np.linspace(0, 6.3, 30)] for y in (0.23, 0.77)]
    assert count(on_paper(drawn(*loops))) == 1, "an 8 broken at its waist"
    apart = np.maximum(drawn(TWO, box=(40, 60, 140, 240)), drawn(SEVEN, box=(200, 60, 300, 240)))
    assert count(on_paper(apart)) == 2


def test_pixels_that_touch_at_a_corner_are_one_piece():
    for line in (np.eye(9, dtype=bool), np.fliplr(np.eye(9, dtype=bool))):
        assert mnist_app._find_components(line).areas.tolist() == [9]


def test_a_fragment_of_a_broken_digit_goes_with_both_halves():
    mask = np.zeros([110, 80], bool)
    mask[10:50, 10:40] = mask[53:93, 10:40] = True
    mask[30:40, 43:50] = True  # It is near the upper half only.
    groups = mnist_app._group_into_digits(mnist_app._find_components(mask))
    assert [sorted(group) for group in groups] == [[0, 1, 2]]


def test_rows_are_read_from_left_to_right_then_down():
    cover = np.zeros((600, 800), np.float32)
    expected = []
    for row in range(2):
        for column in range(4):
            left, top = 60 + 190 * column, 60 + 270 * row + 25 * column  # the rows lean
            cover = np.maximum(cover, drawn(TWO, size=(800, 600), box=(left, top, left + 90, top + 150)))
            expected.append((left, top))
    boxes = find_digits(on_paper(cover)).boxes
    assert len(boxes) == 8
    assert np.abs(boxes[:, :2] - expected).max() < 20


def test_a_digit_belongs_to_the_nearest_of_close_rows_that_lean():
    rng, right = np.random.default_rng(0), 0
    for _ in range(300):
        boxes = []
        for row in range(3):
            left = rng.uniform(0, 400)
            for _ in range(6):
                high, wide = rng.uniform(75, 100), rng.uniform(30, 70)
                middle = 110 * row - 0.12 * left + rng.uniform(-8, 8)
                boxes.append((left, middle - high / 2, left + wide, middle + high / 2))
                left += wide + rng.uniform(20, 160)
        right += mnist_app._reading_order(np.array(boxes)) == list(range(len(boxes)))
    assert right >= 299, "in the first row that is near enough it would be 295"


def test_a_row_that_leans_much_is_read_along_its_lean():
    slope = -0.27  # 15 degrees up to the right
    boxes = []
    for row in (0, 100):
        for left, high in ((0, 40), (105, 50), (205, 40), (310, 50), (410, 45)):
            bottom = row + slope * left + high / 2
            boxes.append((left, bottom - high, left + 35, bottom))
    assert mnist_app._reading_order(np.array(boxes)) == list(range(len(boxes)))


def test_a_stroke_that_fades_keeps_its_pale_end(two):
    fading = np.linspace(1, 0.45, 300, dtype=np.float32)[:, None]
    assert alike(only(on_paper(drawn(TWO) * fading)), two) > 0.97


def ink_width(digit):
    return mnist_app._stroke_width(digit.reshape(28, 28) > 0.5)


def test_paper_beside_a_digit_changes_nothing():
    ink = drawn([(0, 0), (1, 0), (0.3, 1)], size=(60, 84), box=(10, 10, 50, 74), pen=3)
    beside_others = np.pad(ink, [(0, 0), (200, 420)])
    assert mnist_app._to_mnist(beside_others) == pytest.approx(mnist_app._to_mnist(ink))


def test_thin_and_thick_strokes_become_mnist_s():
    thin, thick = only(on_paper(drawn(SEVEN, pen=4))), only(on_paper(drawn(SEVEN, pen=60)))
    assert 1.8 < ink_width(thin) < 3.2
    assert 1.8 < ink_width(thick) < 3.6
    assert alike(thin, thick) > 0.6


def test_a_hairline_of_a_large_picture_is_not_lost(two):
    hairline = only(on_paper(drawn(TWO, size=(1000, 800), box=(300, 50, 700, 750), pen=2)))
    assert hairline.max() > 0.95 and alike(hairline, two) > 0.8


def test_strokes_within_mnist_s_range_keep_their_thickness():
    for pen in (18, 22):
        assert ink_width(only(on_paper(drawn(TWO, pen=pen)))) == pytest.approx(20 * pen / (180 + pen), rel=0.2)


def test_grey_levels_are_kept(two):
    levels = np.unique(np.rint(two * 255))
    assert len(levels) > 30
    assert two.min() == 0 and two.max() > 0.95
    coarse = only(on_paper(drawn(TWO, size=(80, 60), box=(30, 12, 50, 48), pen=3)))
    assert alike(coarse, two) > 0.95, "where pixels are few, the greys at the edge tell where it lies"


def test_a_small_picture_is_enlarged(two):
    assert alike(only(on_paper(drawn(TWO, size=(100, 75), box=(37.5, 15, 62.5, 60), pen=1))), two) > 0.95


def test_a_sheet_full_of_small_marks_gets_a_sentence():
    cross = drawn([(0, 0), (1, 1)], [(1, 0), (0, 1)], size=(40, 40), box=(6, 6, 34, 34), pen=5)
    with pytest.raises(PictureError, match="a pattern rather than digits"):
        find_digits(on_paper(np.tile(cross, (18, 20))))


def test_the_digit_fills_20_pixels_and_its_centre_of_mass_is_the_middle(two):
    picture = two.reshape(28, 28)
    rows, columns = np.flatnonzero(picture.max(1) > 0.1), np.flatnonzero(picture.max(0) > 0.1)
    assert max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1 in (20, 21)
    assert (columns[-1] - columns[0] + 1) / (rows[-1] - rows[0] + 1) == pytest.approx(90 / 194, abs=0.1), "proportions"
    for axis in (0, 1):
        centre = (picture.sum(1 - axis) * np.arange(28)).sum() / picture.sum()
        assert centre == pytest.approx(14, abs=0.51), "by whole pixels"
    heavy = only(on_paper(drawn(SEVEN, [(0.1, 1), (0.9, 1)], [(0.1, 0.93), (0.9, 0.93)]))).reshape(28, 28)
    assert (heavy.sum(1) * np.arange(28)).sum() / heavy.sum() == pytest.approx(14, abs=0.51)


@pytest.mark.parametrize("form", ["as it is", "inverted", "280", "280 inverted"])
def test_mnist_s_own_digits_come_through_unharmed(digits, form):
    (_, (images, _)) = digits
    for image in images[:40]:
        changed = 255 - image if "inverted" in form else image
        if "280" in form:
            changed = np.asarray(Image.fromarray(changed).resize((280, 280), Image.Resampling.BICUBIC))
        digit = only(np.repeat(changed[..., None].astype(np.float32) / 255, 3, axis=2))
        assert np.corrcoef(digit, image.ravel())[0, 1] > 0.6, "but for its strokes' thickness"


def test_a_small_picture_that_its_digit_fills_is_read(digits):
    (_, (images, _)) = digits
    for image in images[:40]:
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        tight = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        digit = only(np.repeat(tight[..., None].astype(np.float32) / 255, 3, axis=2))
        shifted = [np.roll(digit.reshape(28, 28), (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        assert max(np.corrcoef(one.ravel(), image.ravel())[0, 1] for one in shifted) > 0.8, "but for a pixel's shift"


def test_loose_strokes_of_a_small_picture_are_one_digit():
    cover = drawn([(0, 0), (0, 1)], [(1, 0), (1, 1)], size=(28, 28), box=(8, 5, 20, 23), pen=3)
    assert count(on_paper(cover)) == 1


def test_a_small_picture_s_strokes_keep_their_thickness(digits):
    (_, (images, _)) = digits
    thicker = []
    for image in images[:100]:
        before = mnist_app._stroke_width(image > 127)
        if mnist_app._THIN < before < mnist_app._THICK:
            digit = only(np.repeat(image[..., None].astype(np.float32) / 255, 3, axis=2))
            thicker.append(ink_width(digit) - before)
    assert abs(np.mean(thicker)) < 0.05


def blank_sheets():
    rng = np.random.default_rng(7)
    down, across = np.mgrid[0:1:300j, 0:1:400j].astype(np.float32)
    noise = rng.normal(0, 1, down.shape).astype(np.float32)

    def soft(size):
        image = Image.fromarray(np.uint8(np.clip(128 + 60 * noise, 0, 255))).filter(ImageFilter.GaussianBlur(size))
        return (np.asarray(image, np.float32) - 128) / 255

    lights = {
        "white": np.ones_like(down),
        "grey": np.full_like(down, 0.5),
        "black": np.zeros_like(down),
        "slope": 0.4 + 0.5 * across,
        "dark slope": 0.05 + 0.3 * down,
        "vignette": 0.95 - 0.8 * ((across - 0.5) ** 2 + (down - 0.5) ** 2),
        "lamp": 0.3 + 0.6 * np.exp(-6 * ((across - 0.3) ** 2 + (down - 0.4) ** 2)),
        "two lamps": 0.3 + 0.4 * np.exp(-4 * (across**2 + down**2)) + 0.3 * np.exp(-5 * (across - 1) ** 2),
        "soft shadow": 0.85 - 0.4 / (1 + np.exp(-30 * (across - 0.6))),
        "hand": 0.85 - 0.3 / (1 + np.exp(40 * ((across - 0.1) ** 2 + (down - 0.9) ** 2 - 0.2))),
    }
    lined, squared = np.full_like(down, 0.9), np.full_like(down, 0.9)
    lined[20::30] = squared[10::25] = 0.6
    squared[:, 10::25] = 0.6
    dust = np.full_like(down, 0.9)
    dust[rng.integers(0, 300, 30), rng.integers(0, 400, 30)] = 0.3
    textures = {
        "weak noise": 0.8 + 0.03 * noise,
        "strong noise": 0.7 + 0.12 * noise,
        "grain": 0.8 + soft(2),
        "coarse grain": 0.8 + 2 * soft(5),
        "clouds": 0.7 + 4 * soft(15),
        "lined": lined,
        "squared": squared,
        "wood": 0.6 + 0.06 * np.sin(60 * down + 3 * np.sin(9 * across)) + 0.02 * noise,
        "cloth": 0.6 + 0.08 * np.sin(400 * across) * np.sin(300 * down) + 0.03 * noise,
        "dust": dust,
    }
    return [*lights.items(), *textures.items()]


@pytest.mark.parametrize(("name", "sheet"), blank_sheets())
def test_a_blank_sheet_gets_a_sentence(name, sheet):
    with pytest.raises(PictureError, match=r"^shows .*\.$"):
        find_digits(np.repeat(np.clip(sheet, 0, 1)[..., None].astype(np.float32), 3, axis=2))


def test_a_tiny_blot_gets_a_sentence():
    with pytest.raises(PictureError, match="only a dot"):
        find_digits(on_paper(drawn(BLOB, box=(200, 150, 206, 156), pen=3, size=(800, 600))))
