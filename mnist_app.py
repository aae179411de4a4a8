"""Reads pictures of handwritten digits (lecture 6.1): a photo in, the number out.
It restores the newest checkpoint in model/ once, after mnist_backward.py has trained it.

    python mnist_app.py                       # asks, as the lecture does, how many pictures and for their paths
    python mnist_app.py pic/*.png             # one line a picture: path, number, probability
    python mnist_app.py --json pic/           # the same for programs, one JSON object a line
    python mnist_app.py --look seen/ pic/     # and pictures of what was found, what the network saw, what it answered
"""

import argparse
import functools
import glob
import itertools
import json
import os
import re
import tempfile
import textwrap
import warnings
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

import mnist_forward
from mnist_forward import INPUT_NODE, MODEL_SAVE_PATH, MOVING_AVERAGE_DECAY, UserError, class_names, tf, whole

warnings.filterwarnings("ignore", module="PIL")  # what is wrong with a picture is said in one sentence

# The picture as opened, in pixels.
LONGEST_SIDE = 1000  # a digit of a twentieth of it is then 50 high, twice what the network sees
ENLARGED_SIDE = 112  # a 28x28 picture enlarged four times: a stroke is several pixels wide and has edges
MOST_PIXELS = 100_000_000  # as decoded; more would not fit into memory a few at a time
ONE_DIGIT_SIDE = 40  # two legible digits side by side do not fit in so few pixels
# MNIST's form.  Half of its own strokes lie between 2.1 and 2.9 pixels of the box.
SIDE, BOX = 28, 20
FINE = 4  # strokes are measured and mended at four times MNIST's resolution
THIN, MIDDLING, THICK = 2.1, 2.6, 3.0
# Paper and ink; a contrast of 1 is that of black on white.
WIDEST_STROKE = 0.3  # of the short side; what is wider is paper, shadow or table, never a pen's stroke
NOISE_FACTOR = 6.0  # ink stands out from the paper's grain by more than its rare extremes (4-5 deviations)
LEAST_CONTRAST = 0.035  # an eye, too, sees no writing in less than 9 of 255 levels
EDGE = 0.3  # of the ink's contrast: a stroke ends there; below one half, for the pen that ran dry
PAPER_WINDOW = 6  # strokes wide: paper is seen round every stroke, also where two of them meet
PRESSURE = 0.4  # of the digit's full ink: a paler stroke is brought up to it, a still paler one is a smudge
SHARP = 0.65  # of the ink's contrast lies in the step at its edge: digits 0.82 and more, soft shadows to 0.57
# Shares of the picture.
SOFT = 0.02  # even a blurred pen's edge is no wider, a shadow's is
RULING = 1 / 60  # a printed line is thinner than that
SEEN = 0.6  # of such a line is seen beside what is written on it: more than of strokes that lie in one line
RIM = 0.02  # so near the rim counts as touching it
SMALLEST = 1 / 30  # what is smaller is a blot, or too far away to be read
# Strokes, in units of the digit's height.
SPECK = 0.12  # a dot of this size is no stroke of a digit
FRAGMENT = 0.5  # a smaller piece is not a digit by itself: the hat of a 5, the bar of a broken 4
NEAR = 0.25  # how far a fragment may lie from the digit that it belongs to
FLAT = 6  # times as wide as high: no digit but a dash, an underline, a sheet's edge
TABLE = 4  # times the ink of the largest piece in the middle: more than a digit at the rim ever has
MOST_STROKES = 300  # a sheet of ten rows of ten digits, each in three strokes
# No digit.
LEAST_SURE = 0.5  # of 439 real digits three got less than 0.6, so this refuses hardly one, but few letters, too
STRANGE = 0.002  # of the training digits lie so far from the rest: further off refuses nine of ten drawings
FAMILIAR, FAMILIAR_SAMPLES = "outlines.npz", 20000  # outlines of so many, beside the records and the checkpoints
# [28, 14]: the triangle filter that halves a side; without its blur a line beside a line would be no likeness at all.
HALF = np.maximum(0, 1 - np.abs(np.arange(SIDE)[:, None] - (2 * np.arange(SIDE // 2) + 0.5)) / 2).astype(np.float32)
PLACES = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]  # a digit moved by a pixel is the same digit: their mean errs less
NO_DIGIT = "shows no digit: write larger or with a darker pen."


class PictureError(Exception):
    """What is wrong with a picture and what cures it: the rest of a sentence that begins with its path."""


# One digit of a picture: box (left, top, right, bottom) in its pixels; pixels float32 [784], ink = 1.
Digit = namedtuple("Digit", "box pixels")


def open_picture(path):
    """The picture at `path` as float32 [h, w, 3] in 0..1, upright, at most LONGEST_SIDE long; raises PictureError."""
    Image.init()
    harmless = [name for name in Image.ID if name != "EPS"]  # for PostScript Pillow would start another program
    try:
        with Image.open(path, formats=harmless) as image:
            image.draft("RGB", (2 * LONGEST_SIDE, 2 * LONGEST_SIDE))  # a JPEG is decoded at a fraction of its size
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError(f"more than {MOST_PIXELS} pixels")
            ImageOps.exif_transpose(image, in_place=True)
            rgb = to_rgb(image)
    except Exception as error:  # a damaged one makes Pillow trip over anything
        said = " ".join(str(error).split()).partition(" file '")[0] or type(error).__name__
        why = getattr(error, "strerror", None) or said
        raise PictureError(f"can't be read ({why}): check the path, or save it again as PNG or JPEG.") from None
    rgb.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(rgb, np.float32) / 255


def to_rgb(image):
    """A Pillow image of any mode as mode RGB: transparency on a contrasting ground, more than 8 bits by their range."""
    if image.mode[0] in "IF":  # 16 and 32 bits have no agreed white: their own range is black to white
        values = np.clip(np.nan_to_num(np.asarray(image, np.float32)), -1e9, 1e9)
        return Image.fromarray(np.uint8((values - values.min()) / max(np.ptp(values), 1e-9) * 255)).convert("RGB")
    if image.mode not in ("LA", "La", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    pixels = np.asarray(image.resize([min(side, 250) for side in image.size]), np.float32)
    shade = np.average(pixels[..., :3].mean(2), weights=pixels[..., 3] + 1e-6)
    ground = Image.new("RGBA", image.size, "white" if shade < 128 else "black")
    return Image.alpha_composite(ground, image).convert("RGB")


def resize(grey, height, width, how=Image.Resampling.BICUBIC):
    """float32 [h, w] scaled to [height, width], anti-aliased when it shrinks."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(grey, np.float32)).resize((width, height), how))


def running(extreme, grey, high, wide=None):
    """np.maximum or np.minimum of `grey` [h, w] over centred windows, `high` x `wide` or square."""
    for side in (high, high if wide is None else wide):
        grey, span = np.pad(grey, ((side // 2, (side - 1) // 2), (0, 0)), mode="edge"), 1
        while span < side:  # doubling: the extreme of 2n neighbours is that of two windows of n
            step = min(span, side - span)
            grey, span = extreme(grey[:-step], grey[step:]), span + step
        grey = grey.T
    return grey


def grey_from_colour(picture):
    """float32 [h, w]: the picture [h, w, 3] along the colour axis on which its details differ most, as the light may
    differ more than the ink does; luminance would lose yellow on white and red on blue."""
    small = picture[:: max(1, picture.shape[0] // 250), :: max(1, picture.shape[1] // 250)]
    blurred = [resize(resize(c, 4, 4, Image.Resampling.BOX), *small.shape[:2]) for c in np.moveaxis(small, 2, 0)]
    details = (small - np.stack(blurred, 2)).reshape(-1, 3)
    axis = np.linalg.eigh(details.T @ details)[1][:, -1]
    axis *= 1 if axis.sum() >= 0 else -1
    return (picture @ (axis / np.abs(axis).sum())).astype(np.float32)


def ink_is_dark(grey):
    """Whether the ink of `grey` [h, w] is its dark side: ink is rarer than paper and off the rim."""
    small = resize(grey, 48, 48, Image.Resampling.BOX)
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    bow = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], -1).reshape(-1, 6)
    # Without the light's slope and bow: a dark corner is no ink.
    flat = small - (bow @ np.linalg.lstsq(bow, small.ravel(), rcond=None)[0]).reshape(48, 48)
    return ((flat - np.median(flat[np.maximum(abs(x), abs(y)) > 0.8])) ** 3).sum() < 0


def ink_of(grey):
    """(contrast float32 [h, w], level): how much darker than its paper each pixel of grey [h, w] is; ink > level.
    Paper is what remains when all that is narrower than a window is closed: shadows and the table belong to it."""
    height, width = grey.shape
    window = widest = WIDEST_STROKE * min(grey.shape)
    for _ in range(2):  # once more when the strokes' width is known
        shrink = max(1, int(window / 12))  # the paper is smooth: a coarse picture of it will do
        small = resize(grey, -(-height // shrink), -(-width // shrink), Image.Resampling.BOX)
        side = max(3, round(window / shrink))
        paper = running(np.minimum, running(np.maximum, small, side), side + 2)  # 2: its edges stay outside
        contrast = resize(paper, height, width, Image.Resampling.BILINEAR) - grey
        level = threshold(contrast)
        window = min(PAPER_WINDOW * stroke_width(contrast > level), widest)
    return contrast, level


def threshold(contrast):
    """The contrast above which a pixel is ink; raises PictureError when none stands out."""
    faintest, faint = np.percentile(contrast[::2, ::2], [5, 30])  # paper, even where ink fills half the picture
    grain = (faint - faintest) / 1.12  # in deviations of a normal grain those two lie at -1.64 and -0.52
    # At least LEAST_CONTRAST also where the interpolated paper lies below the picture's.
    least = max(faint + 0.52 * grain + max(NOISE_FACTOR * grain, LEAST_CONTRAST), LEAST_CONTRAST)
    ink = contrast[contrast > least]
    if not ink.size:
        raise PictureError(NO_DIGIT)
    return max(least, EDGE * (ink**2).sum() / ink.sum())  # the ink's mean, weighted for its dark core


def label(mask):
    """The pieces of mask [h, w] that are connected, also at corners: (labels int32 [h, w], 0 = none; boxes int [n, 4],
    left, top, right, bottom; areas int [n])."""
    padded = np.pad(mask, ((0, 1), (1, 1)))
    ink, stride = np.flatnonzero(padded), padded.shape[1]
    number = np.cumsum(np.diff(ink, prepend=-1) > 1)  # each level run of ink is a piece at first
    run = np.zeros(padded.size, np.int32)
    run[ink] = number
    below = [run[ink + stride + right] for right in (-1, 0, 1)]
    one, other = np.concatenate([(number[other > 0], other[other > 0]) for other in below], axis=1)
    root = np.arange(number.max(initial=0) + 1)
    while one.size:  # runs that touch are joined until none is left
        np.minimum.at(root, np.maximum(root[one], root[other]), np.minimum(root[one], root[other]))
        while (root != root[root]).any():
            root = root[root]
        apart = root[one] != root[other]
        one, other = one[apart], other[apart]
    run[ink] = piece = np.unique(root, return_inverse=True)[1][number]
    areas = np.bincount(piece)[1:]
    y, x = np.divmod(ink[np.argsort(piece, kind="stable")], stride)
    first = np.cumsum(areas) - areas
    near, far = np.minimum.reduceat([x - 1, y], first, axis=1), np.maximum.reduceat([x, y + 1], first, axis=1)
    return run.reshape(padded.shape)[:-1, 1:-1], np.concatenate([near, far]).T, areas


def ruling(mask):
    """The pixels of mask [h, w] on thin lines across its whole width, without strokes that cross: ruled paper."""
    height, width = mask.shape
    thick = max(3, round(RULING * height)) | 1
    thin = mask & ~running(np.maximum, running(np.minimum, mask, thick, 1), thick, 1)
    if thin.any(axis=0).sum() < SEEN * width:  # what follows is slow, and most sheets are not ruled
        return np.zeros_like(mask)
    lean = max(1, height // 200)  # a line may lean: so much within the shortest piece of it
    piece, gap = max(1, width // 8), 2 * thick + 1  # a gap is left by a crossing stroke, or by squared paper's uprights
    pieces = running(np.minimum, running(np.maximum, thin, 2 * lean + 1, gap), 1, piece + gap)
    rim = max(1, width // 4)
    lines = np.pad(running(np.maximum, pieces, gap, 2 * piece), ((0, 0), (rim, rim)))
    for extreme in (np.maximum, np.minimum):  # over the gap that a digit leaves, up to half the picture
        lines = running(extreme, lines, 1, 2 * rim + 1)
    labels, boxes, _ = label(lines[:, rim:-rim])
    seen = np.zeros((len(boxes) + 1, width), bool)
    seen[labels[thin], np.nonzero(thin)[1]] = True
    across = np.concatenate([[False], boxes[:, 2] - boxes[:, 0] >= width])
    return thin & (across & (seen.sum(axis=1) >= SEEN * width))[labels]


def strokes(contrast, level):
    """(labels, boxes, areas, keep): the pieces of ink, keep bool [n] if it may be a digit's; PictureError if none."""
    labels, boxes, areas = label(contrast > level)
    mask = ~np.concatenate([[True], round_the_paper(labels, boxes, areas)])[labels]  # 0 is the paper itself
    labels, boxes, areas = label(mask & ~ruling(mask) & ~ruling(mask.T).T)
    widths, heights = (boxes[:, 2:] - boxes[:, :2]).T
    keep = is_sharp(contrast, labels, areas) & (widths <= FLAT * heights)
    if not keep.any():
        raise PictureError(NO_DIGIT)
    on_rim = (boxes[:, :2] <= 0).any(1) | (boxes[:, 2:] >= labels.shape[::-1]).any(1)
    # At the rim a small piece is the end of a shadow or of something beside the sheet rather than a loose stroke.
    keep &= np.maximum(widths, heights) >= np.where(on_rim, FRAGMENT, SPECK) * digit_height(heights, areas * keep)
    if keep.sum() > MOST_STROKES:
        raise PictureError("shows a pattern rather than digits: photograph them on plain paper.")
    return labels, boxes, areas, keep


def round_the_paper(labels, boxes, areas):
    """bool [n]: pieces round the paper: frames, sheet edges, and what lies in a strip with the table."""
    height, width = labels.shape
    inner = labels[height // 6 : height - height // 6, width // 6 : width - width // 6]
    outside = np.bincount(inner.ravel(), minlength=len(areas) + 1)[1:] < 0.05 * areas
    near, far = RIM * np.array([width, height]), (1 - RIM) * np.array([width, height])
    rims = (boxes[:, :2] <= near).sum(1) + (boxes[:, 2:] >= far).sum(1)
    round_it = outside & (rims >= 2)
    # A first or last digit touches the rim, too, but has not many times the ink of those in the middle.
    table = outside & (rims >= 1) & (areas > TABLE * areas[~outside].max(initial=areas.max() if outside.all() else 0))
    for axis, length in enumerate((width, height)):
        first, last = boxes[:, axis], boxes[:, axis + 2]
        top = last[table & (last <= length / 6)].max(initial=0)
        bottom = first[table & (first >= length * 5 / 6)].min(initial=length)
        round_it |= (last <= top) | (first >= bottom)
    return round_it


def is_sharp(contrast, labels, areas):
    """bool [n]: pieces whose outline is a small step from paper to ink, unlike a shadow's."""
    mask, count = labels > 0, len(areas) + 1
    y, x = np.nonzero(mask & ~running(np.minimum, mask, 3))
    step, piece = max(3, round(SOFT * min(labels.shape))), labels[y, x]
    padded = np.pad(contrast, step, mode="edge")
    around = [padded[y + down, x + right] for down in (0, step, 2 * step) for right in (0, step, 2 * step)]
    steps, outline = np.bincount(piece, np.ptp(around, axis=0), count)[1:], np.bincount(piece, minlength=count)[1:]
    ink = np.bincount(labels[mask], contrast[mask], count)[1:]
    return steps * areas > SHARP * ink * outline  # in the mean of each


def digit_height(heights, ink):
    """The height of the piece in which the median pixel of ink lies; both [n]."""
    order = np.argsort(heights)
    before = np.cumsum(ink[order])
    return heights[order[np.searchsorted(before, before[-1] / 2)]]


def group(boxes, areas, keep):
    """A list of arrays of piece numbers, one for each digit: a fragment goes to the nearest large piece, large pieces
    close above each other (a broken 8) are one."""
    pieces = np.flatnonzero(keep)
    widths, heights = (boxes[pieces, 2:] - boxes[pieces, :2]).T
    digit = digit_height(heights, areas[pieces])
    near, far = boxes[pieces, :2], boxes[pieces, 2:]
    across, down = np.moveaxis(np.maximum(near[:, None], near) - np.minimum(far[:, None], far), 2, 0)  # < 0: overlap
    big = heights >= FRAGMENT * digit
    distance = np.where(big, np.maximum(across, 0) + np.maximum(down, 0), np.inf)
    owner = np.where(big, np.arange(len(pieces)), distance.argmin(1))
    stacked = (-across > 0.5 * np.minimum.outer(widths, widths)) & (down < NEAR * digit / 2) & big & big[:, None]
    for one, other in np.argwhere(stacked):
        owner[owner == owner[other]] = owner[one]
    close = big | (distance.min(1) < NEAR * digit)
    return [pieces[close & (owner == digit)] for digit in np.unique(owner)]


def reading_order(boxes):
    """The order of boxes [n, 4]: rows top to bottom, left to right in each."""
    rows, middle, half = [], (boxes[:, 1] + boxes[:, 3]) / 2, (boxes[:, 3] - boxes[:, 1]) / 2
    for i in np.argsort(boxes[:, 0]):
        row = min(rows, key=lambda row: abs(middle[i] - middle[row[-1]]), default=[i])  # it may lean: by its last
        if row[-1] != i and abs(middle[i] - middle[row[-1]]) <= max(half[i], half[row[-1]]):
            row.append(i)
        else:
            rows.append([i])
    return [i for row in sorted(rows, key=lambda row: middle[row].mean()) for i in row]


def stroke_width(mask):
    """The mean width of the strokes of mask [h, w] in pixels: two areas by one outline."""
    mask = np.pad(mask, 1)
    outline = (mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum()
    return 2 * mask.sum() / max(outline * np.pi / 4, 1)


def mend_thickness(ink):
    """ink [h, w] at FINE resolution with strokes no thinner and no thicker than MNIST's."""
    width = stroke_width(ink > 0.5) / FINE
    wanted = min(MIDDLING, 2 * THIN - width) if width < THIN else min(width, THICK)  # without a step at THIN
    extreme = np.maximum if wanted > width else np.minimum
    radius = abs(wanted - width) / 2 * FINE  # by so many pixels on every side, in octagons
    for left in np.arange(radius, 0, -1):
        upright, level = running(extreme, ink, 3, 1), running(extreme, ink, 1, 3)
        grown = running(extreme, upright, 1, 3) if int(left) % 2 else extreme(upright, level)
        ink = ink + (grown - ink) * min(left, 1)
    return ink


def fit_to_box(ink):
    """ink [h, w] cut to its strokes and scaled so that its long side is BOX * FINE pixels."""
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis)) for axis in (1, 0))
    if not rows.size:
        raise PictureError(NO_DIGIT)
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX * FINE / max(ink.shape)
    return np.clip(resize(ink, *(max(1, round(side * scale)) for side in ink.shape)), 0, 1)


def to_mnist(ink):
    """ink [h, w] in 0..1 of one digit as float32 [784]: MNIST's thickness, 20x20 box, centre of mass."""
    faint = 2 * max(max(ink.shape) / (BOX * FINE), 1) - stroke_width(ink > 0.5)
    if faint > 0:  # finer than two pixels of the fine picture: shrinking would fade the stroke
        ink = running(np.maximum, ink, round(faint) + 1)
    ink = fit_to_box(mend_thickness(np.pad(fit_to_box(ink), 2 * FINE)))  # with room for strokes to grow
    ink = np.clip(resize(ink, *(max(1, round(side / FINE)) for side in ink.shape)), 0, 1)
    centre = [ink.sum(1 - axis) @ np.arange(length) / ink.sum() for axis, length in enumerate(ink.shape)]
    # MNIST's centre is that of pixel 14, half a pixel past the middle.
    start = np.clip(np.rint(SIDE // 2 - np.array(centre)).astype(int), 0, SIDE - np.array(ink.shape))
    form = np.pad(ink, [(0, SIDE - length) for length in ink.shape])
    return np.roll(form, start, (0, 1)).astype(np.float32).ravel()


def digit_ink(contrast, labels, pieces, frame):
    """float32 [h, w] in 0..1: the grey levels of one digit's pieces alone, 1 = its full ink."""
    left, top, right, bottom = frame
    window = slice(max(top - 2, 0), bottom + 2), slice(max(left - 2, 0), right + 2)
    mask = np.isin(labels[window], pieces + 1)
    ink = contrast[window] * running(np.maximum, mask, 3)
    full = np.percentile(ink[mask], 75)
    pressure = running(np.maximum, ink, 2 * round(stroke_width(mask)) + 1)
    return np.clip(ink / np.clip(pressure, PRESSURE * full, full), 0, 1)


def find_digits(picture):
    """The digits of picture (float32 [h, w, 3], 0..1), a list of Digit in reading order; PictureError where none is."""
    grey, margin = grey_from_colour(picture), 0
    one_digit = max(grey.shape) <= ONE_DIGIT_SIDE
    enlarged = -(-ENLARGED_SIDE // max(grey.shape))
    grey = resize(grey, *(side * enlarged for side in grey.shape))
    if one_digit:  # it may fill the picture: there must be paper to see
        margin = max(grey.shape) // 2
        grey = np.pad(grey, margin, constant_values=np.median([*grey[0], *grey[-1], *grey[:, 0], *grey[:, -1]]))
    contrast, level = ink_of(grey if ink_is_dark(grey) else -grey)
    level = np.percentile(contrast, 99.5) / 2 if one_digit else level
    labels, boxes, areas, keep = strokes(contrast, level)
    groups = [np.flatnonzero(keep)] if one_digit else group(boxes, areas, keep)
    frames = np.array([[*boxes[pieces, :2].min(0), *boxes[pieces, 2:].max(0)] for pieces in groups])
    large = (frames[:, 2:] - frames[:, :2]).max(1) >= SMALLEST * max(grey.shape)
    if not large.any():
        raise PictureError("shows no digit, only a dot: come nearer with the camera.")
    digits = np.flatnonzero(large)[reading_order(frames[large])]
    forms = [to_mnist(digit_ink(contrast, labels, groups[i], frames[i])) for i in digits]
    return [Digit(tuple((frames[i] - margin) / enlarged), form) for i, form in zip(digits, forms, strict=True)]


def pre_pic(picture_path):
    """The most prominent digit of a picture file as float32 [1, 784], 0..1, white on black; raises PictureError."""
    digits = find_digits(open_picture(picture_path))
    return max(digits, key=lambda d: (d.box[2] - d.box[0]) * (d.box[3] - d.box[1])).pixels[None]


def outlines(pictures):
    """float32 [n, 196]: pictures [n, 784] at half size, of length 1, so that a product is how alike two of them are."""
    halved = (HALF.T @ pictures.reshape(-1, SIDE, SIDE) @ HALF).reshape(-1, SIDE * SIDE // 4)
    return halved / np.maximum(np.linalg.norm(halved, axis=1, keepdims=True), 1e-6)


def write_familiar(folder, samples):
    """Write to a folder outlines of some of the training samples, [(784 bytes, class), ...], with their classes, and
    how far one of them must lie from all others of its class to be strange."""
    pixels, classes = zip(*samples[:: -(-len(samples) // FAMILIAR_SAMPLES)], strict=True)
    pictures = np.frombuffer(b"".join(pixels), np.uint8).reshape(-1, INPUT_NODE) / np.float32(255)
    seen, classes, apart = outlines(pictures), np.array(classes), []
    for i in np.unique(classes):
        own = seen[classes == i]
        alike = own[:1000] @ own.T  # all of them would need the square of their number
        np.fill_diagonal(alike, 0)
        apart.extend(1 - alike.max(1))
    with whole(folder / FAMILIAR) as part, open(part, "wb") as file:
        strange = np.quantile(apart, 1 - STRANGE)
        np.savez_compressed(file, outlines=seen.astype(np.float16), classes=classes, strange=strange)


@functools.cache
def familiar(model):
    """(outlines float32 [n, 196], their classes int [n], the distance that is strange); of a model trained by the
    lecture's program, which has none, (.., .., inf).  Raises UserError where the file is damaged."""
    path = Path(model) / FAMILIAR
    try:
        with np.load(path) as file:
            seen, classes, strange = (file[name] for name in ("outlines", "classes", "strange"))
        return seen.reshape(len(classes), SIDE * SIDE // 4).astype(np.float32), classes, float(strange)
    except FileNotFoundError:
        return np.zeros([0, SIDE * SIDE // 4]), np.zeros(0), np.inf
    except Exception:  # numpy, zip and zlib have one each
        raise UserError(f"{path} is damaged: delete it and run mnist_backward.py, which copies it anew.") from None


def are_strange(pictures, answers, model):
    """bool [n]: which of the pictures [n, 784] resemble no training picture of the class, int [n], that they got."""
    seen, classes, strange = familiar(model)
    alike = np.where(answers[:, None] == classes, outlines(pictures) @ seen.T, -1)
    return 1 - alike.max(axis=1, initial=-1) > strange


@functools.cache
def restored(model):
    """(sess, x, y) of the newest checkpoint in a folder: pictures x [n, 784] to probabilities y [n, classes]; UserError
    where there is none that is whole and this network's."""
    with tf.Graph().as_default():
        x = tf.placeholder(tf.float32, [None, INPUT_NODE])
        y = tf.nn.softmax(mnist_forward.forward(x, None, len(class_names(model))))
        variables = tf.train.ExponentialMovingAverage(MOVING_AVERAGE_DECAY).variables_to_restore()
        saver = tf.train.Saver(variables)
        sess = tf.Session()
    if not mnist_forward.restore_newest(sess, saver, variables, model):
        raise UserError(f"{model} holds no checkpoint: run mnist_backward.py first.")
    return sess, x, y


def probabilities_of(pictures, model):
    """Probabilities, float32 [n, classes], that the restored network gives to pictures, float32 [n, 784]."""
    sess, x, y = restored(model)
    return sess.run(y, {x: pictures})


def restore_model(testPicArr, model=MODEL_SAVE_PATH):
    """The lecture's function: the class, 0..9, that the restored network sees in an array, float32 [1, 784]."""
    return int(probabilities_of(testPicArr, model)[0].argmax())


def export_model(model, folder):
    """Write the network to a new folder as a SavedModel: `pictures` [n, 784], 0..1, to `probabilities` [n, classes]."""
    sess, x, y = restored(model)
    if folder.exists():
        raise UserError(f"{folder} exists: name a new folder, for TensorFlow Serving a number in the model's folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as part, sess.graph.as_default():
        tf.saved_model.simple_save(sess, os.path.join(part, "new"), {"pictures": x}, {"probabilities": y})
        os.rename(os.path.join(part, "new"), folder)
    print(f"{folder} is a SavedModel with the answers of {model}")


class Answer(NamedTuple):
    """What the app says of one picture: the digits it found, or one sentence that says why there is no number."""

    path: str
    digits: tuple = ()  # of Digit
    guesses: tuple = ()  # of each digit the three likeliest classes, ((name, probability), ...)
    number: str = ""
    probability: float = 0.0  # that every digit is right, each taken for itself
    error: str = ""

    def __str__(self):
        return self.error or f"{self.number} ({self.probability:.1%})"


def read_picture(path, model):
    """The Answer to the picture at `path`."""
    try:
        digits = find_digits(open_picture(path))
    except PictureError as error:
        return Answer(path, error=str(error))
    pixels = np.stack([digit.pixels for digit in digits])
    places = np.concatenate([np.roll(pixels.reshape(-1, SIDE, SIDE), by, (1, 2)) for by in PLACES])
    each = probabilities_of(places.reshape(-1, INPUT_NODE), model).reshape(len(PLACES), len(digits), -1)
    probabilities, names = each.mean(axis=0), class_names(model)
    surest = probabilities.max(axis=1)
    doubtful = (surest < LEAST_SURE) | are_strange(pixels, probabilities.argmax(axis=1), model)
    error = "shows nothing that is clearly a digit: write larger, or one digit apart from the other."
    best = [[(names[i], p[i]) for i in np.argsort(-p)[:3]] for p in probabilities]
    number = ("" if max(map(len, names)) == 1 else " ").join(guesses[0][0] for guesses in best)
    return Answer(path, digits, best, number, float(surest.prod()), error if doubtful.mean() > 0.5 else "")


def read_pictures(paths, model):
    """Yield the Answer to each path, in order; as many pictures are in work as the machine has processors."""
    restored(model)
    familiar(model)  # both before there are threads, each of which would begin anew
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(functools.partial(read_picture, model=model), paths)


def text_picture(text, width, size=13, ground="white"):
    """The text as an RGB picture, in lines of about `width` pixels: of that width, or of its widest line's."""
    font = ImageFont.load_default(size)
    lines = textwrap.fill(text, max(1, 2 * width // size)).replace("\xa0", " ")  # no place to break a line
    right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((2, 2), lines, font)[2:]
    image = Image.new("RGB", (max(width, int(right) + 2), int(bottom) + 4), ground)
    ImageDraw.Draw(image).multiline_text((2, 2), lines, "black", font)
    return image


def grid(images, across):
    """An RGB picture of the images, `across` in a row, on white."""
    columns = [max(image.width for image in images[i::across]) + 12 for i in range(min(across, len(images)))]
    rows = [max(image.height for image in images[i : i + across]) + 12 for i in range(0, len(images), across)]
    sheet = Image.new("RGB", (sum(columns), sum(rows)), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (sum(columns[: i % across]) + 6, sum(rows[: i // across]) + 6))
    return sheet


def seen_by_network(pixels, caption, side=84):
    """A picture of pixels, [784] in 0..1, enlarged to `side` without smoothing, above a caption."""
    image = Image.fromarray(np.uint8(pixels.reshape(SIDE, SIDE) * 255))
    return grid([image.resize((side, side), Image.Resampling.NEAREST), text_picture(caption, side)], across=1)


def save_picture(image, path):
    """Save a Pillow image as PNG, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        image.save(part, format="PNG")


def boxed_photo(answer, side):
    """The photo with a box round each digit, at most `side` wide and high; of no picture a grey square."""
    try:
        photo = Image.fromarray(np.uint8(open_picture(answer.path) * 255))
    except PictureError:
        photo = Image.new("RGB", (side, side), "lightgrey")
    scale = side / max(photo.size)
    photo = photo.resize([max(1, round(length * scale)) for length in photo.size])
    for digit in answer.digits:
        ImageDraw.Draw(photo).rectangle([edge * scale for edge in digit.box], outline="red", width=2)
    return photo


def draw_answer(answer):
    """An RGB picture: the photo with its digits boxed, what the network saw, and the three likeliest digits of each."""
    photo, seen = boxed_photo(answer, 480), []
    for digit, guesses in zip(answer.digits, answer.guesses, strict=True):
        caption = ", ".join(f"{name:.20}:\xa0{probability:.1%}" for name, probability in guesses)
        seen.append(seen_by_network(digit.pixels, caption, 112))
    if seen:
        photo = grid([photo, grid(seen, across=max(3, len(seen) // 3))], across=2)
    return grid([text_picture(f"{Path(answer.path).name}: {answer}", photo.width, size=18), photo], across=1)


def album(answers, folder):
    """Yield the answers on, and save a picture of each in `folder`, and a contact sheet of every 60 of them."""
    for first in itertools.count(1, 60):
        cells = []
        for number, answer in enumerate(itertools.islice(answers, 60), first):
            save_picture(draw_answer(answer), folder / f"{number:04d}-{Path(answer.path).stem[:80]}.png")
            caption = text_picture(f"{Path(answer.path).name[-60:]}: {answer}", 200)
            cells.append(grid([boxed_photo(answer, 200), caption], across=1))
            yield answer
        if not cells:
            return
        save_picture(grid(cells, across=6), folder / f"contact-sheet-{first:04d}.png")


def given_path(text):
    """The path that a user means who types it or drags it onto the terminal: quotes, blanks, backslashes and `~`."""
    typed = [text.strip(), text.strip().strip("'\""), re.sub(r"\\(.)", r"\1", text.strip())]
    paths = [os.path.expanduser(path) for path in typed]
    return next(filter(os.path.exists, paths), paths[0])


def pictures_in(arguments):
    """Yield the path of each picture that the arguments name: files, folders and patterns such as `pic/*.png`."""
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    for argument in arguments:
        if os.path.isdir(argument):
            inside = glob.glob(os.path.join(glob.escape(argument), "*"))
            found = [path for path in inside if os.path.splitext(path)[1].lower() in suffixes]
        else:
            found = [] if os.path.exists(argument) else glob.glob(argument, recursive=True)
        yield from sorted(found) or [argument]


def application(model):
    """The lecture's conversation: how many pictures, then each path and its answer; returns the exit status."""
    restored(model)
    failed = False
    try:
        while not re.fullmatch("0{,9}[1-9][0-9]{,8}", number := input("input the number of test pictures:").strip()):
            print(f"{number!r} is no number of pictures: type 1, 2, 3, ...")
        for _ in range(int(number)):
            while not (path := given_path(input("the path of test picture:"))):
                print("That is no path: type the path of a picture.")
            answer = read_picture(path, model)
            said = f"The prediction number is: {answer.number}\n({answer.probability:.1%} sure)"
            print(f"{path}: {answer}" if answer.error else said)
            failed |= bool(answer.error)
    except EOFError:
        print("\nThe input ended before the last picture.")
        failed = True
    return int(failed)


def main():
    parser = argparse.ArgumentParser(description="Read pictures of handwritten digits.")
    parser.add_argument("pictures", nargs="*", help="pictures, folders of pictures, patterns; none: ask for them")
    parser.add_argument("--model", type=Path, default=MODEL_SAVE_PATH, help="folder of the checkpoints (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--look", type=Path, metavar="DIR", help="save there what was found, seen and answered")
    parser.add_argument("--export", type=Path, metavar="DIR", help="write the network there as a SavedModel, and end")
    args = parser.parse_args()
    if args.export and (args.pictures or args.look):
        parser.error("--export reads no pictures: give it alone")
    if args.export:
        return export_model(args.model, args.export)
    if not args.pictures:
        return application(args.model)
    failed, answers = False, read_pictures(pictures_in(args.pictures), args.model)
    for answer in album(answers, args.look) if args.look else answers:
        failed |= bool(answer.error)
        read = {"digits": answer.number, "probability": round(answer.probability, 4)}
        said = {"error": f"The picture {answer.error}"} if answer.error else read
        print(json.dumps({"picture": answer.path, **said}) if args.json else f"{answer.path}: {answer}", flush=True)
    return int(failed)


if __name__ == "__main__":
    mnist_forward.run(main)
