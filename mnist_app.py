"""Reads pictures of handwritten digits (lecture 6.1): a photo in, the number out.

    python mnist_app.py                       # asks, as the lecture does, how many pictures and for their paths
    python mnist_app.py pic/*.png             # one line a picture: path, number, probability
    python mnist_app.py --json pic/           # the same for programs, one JSON object a line
    python mnist_app.py --look seen/ pic/     # and pictures of what was found, what the network saw, what it answered

restores the averaged weights of the newest checkpoint in model/ once, after mnist_backward.py has trained them.
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
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

import mnist_forward
from mnist_forward import INPUT_NODE, MODEL_SAVE_PATH, UserError, class_names, tf

warnings.filterwarnings("ignore", module="PIL")  # what is wrong with a picture is said in one sentence

# The picture as opened.  A hand-written digit fills at least a twentieth of its photo, so at 1,000 pixels it
# is still 50 high, twice what the network sees: more pixels only cost time.
LONGEST_SIDE = 1000
SHORTEST_SIDE = 112  # a 28x28 picture enlarged four times: a stroke is then several pixels wide and has edges
MOST_PIXELS = 100_000_000  # as decoded; more would not fit into memory a few at a time
ONE_DIGIT_SIDE = 40  # two legible digits side by side do not fit in so few pixels

# MNIST's form.
SIDE = 28
BOX = 20
FINE = 4  # strokes are measured and mended at four times MNIST's resolution
# Pixels of the box.  Half of MNIST's own strokes lie between 2.1 and 2.9: a loop that a pen of that range left open
# stays open.
THIN, MIDDLING, THICK = 2.1, 2.6, 3.0

# Paper and ink.
WIDEST_STROKE = 0.3  # of the short side; what is wider is paper, shadow or table, never a pen's stroke
NOISE_FACTOR = 6.0  # ink stands out from the paper's grain by more than its rare extremes (4-5 deviations)
LEAST_CONTRAST = 0.035  # of the full range: an eye, too, sees no writing in less than 9 of 255 levels
EDGE = 0.3  # of the ink's contrast: a stroke ends there; below one half, for the pen that ran dry
PAPER_WINDOW = 6  # strokes wide: paper is seen round every stroke, also where two of them meet
RULING = 1 / 60  # of the picture: a printed line is thinner than that, a sheet shows few of them
SEEN = 0.6  # of such a line is seen beside what is written on it: more than of strokes that lie in one line
PRESSURE = 0.4  # of the digit's full ink: a paler stroke is brought up to it, a still paler one is a smudge
RIM = 0.02  # of the picture: so near the rim counts as touching it
SMALLEST = 1 / 30  # of the picture: what is smaller is a blot, or too far away to be read
TABLE = 4  # times the ink of the largest piece in the middle: more than a digit at the rim ever has
SOFT = 0.02  # of the picture: even a blurred pen's edge is no wider, a shadow's is
SHARP = 0.65  # of the ink's contrast lies in that step: digits looked at 0.82 and more, soft shadows to 0.57

# Strokes, in units of the digit's height.
SPECK = 0.12  # a dot of this size is no stroke of a digit
FRAGMENT = 0.5  # a smaller piece is not a digit by itself: the hat of a 5, the bar of a broken 4
FLAT = 6  # times as wide as high: no digit but a dash, an underline, a sheet's edge
NEAR = 0.25  # how far a fragment may lie from the digit that it belongs to
MOST_STROKES = 300  # a sheet of ten rows of ten digits, each in three strokes

# No digit.  Of 439 real digits three got less than 0.6, so this refuses hardly one, but few letters, too.
LEAST_SURE = 0.5
# A digit that is further from all familiar ones of its class than 2 in 1,000 training digits are from one another
# is none: that refuses eight of ten drawings and letters unlike any digit, and two of 1,000 MNIST digits.
STRANGE = 0.002
FAMILIAR = "familiar.npz"  # beside the checkpoints
MOST_SLANT = 0.7
WIDTHS = (0.85, 1.0, 1.18)  # people write narrow and wide
# [28, 14]: the triangle filter that halves a side; without its blur a line beside a line would be no likeness at all.
HALF = np.maximum(0, 1 - np.abs(np.arange(SIDE)[:, None] - (2 * np.arange(SIDE // 2) + 0.5)) / 2).astype(np.float32)

AT_ONCE = 32  # pictures prepared and read together

NO_DIGIT = "shows no digit: write larger or with a darker pen."


class PictureError(Exception):
    """What is wrong with a picture and what cures it: the rest of a sentence that begins with its path."""


class Digit(NamedTuple):
    """One digit of a picture: box (left, top, right, bottom) in its pixels; pixels float32 [784], ink = 1."""

    box: tuple
    pixels: np.ndarray


# ---------------------------------------------------------------- opening


def rgb_image(path):
    """The picture at `path`, upright, as a Pillow image of mode RGB; a large JPEG at a fraction of its size.

    Raises:
      PictureError: there is no picture at `path`, or it claims too many pixels.
    """
    Image.init()
    # For a PostScript file Pillow would start another program, and let the file run in it.
    harmless = [name for name in Image.ID if name != "EPS"]
    try:
        with Image.open(path, formats=harmless) as image:
            image.draft("RGB", (2 * LONGEST_SIDE, 2 * LONGEST_SIDE))
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            ImageOps.exif_transpose(image, in_place=True)
            return to_rgb(image)
    except Image.DecompressionBombError:
        raise PictureError(f"claims more than {MOST_PIXELS // 10**6} million pixels: shrink it.") from None
    except FileNotFoundError:
        if str(path).startswith(("http://", "https://")):
            raise PictureError("is a web address: download the picture and name its file.") from None
        raise PictureError("does not exist: check the path.") from None
    except IsADirectoryError:
        raise PictureError("is a folder without pictures, or one that may not be looked into.") from None
    except PermissionError:
        raise PictureError("may not be read: change its permissions.") from None
    except Exception:  # a damaged file makes Pillow's decoders trip over anything
        raise PictureError("is no picture or is damaged: save it again as PNG or JPEG.") from None


def open_picture(path):
    """The picture at `path` as float32 [h, w, 3] in 0..1, upright, at most LONGEST_SIDE long; raises PictureError."""
    image = rgb_image(path)
    scale = LONGEST_SIDE / max(image.size)
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.size]
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(image, np.float32) / 255


def to_rgb(image):
    """Returns a Pillow image of any mode as mode RGB."""
    if image.mode[0] in "IF":  # 16 and 32 bits: no agreed white, so their own range is black to white
        values = np.clip(np.nan_to_num(np.asarray(image, np.float32)), -1e9, 1e9)
        spread = max(float(np.ptp(values)), 1e-9)
        return Image.fromarray(np.uint8((values - values.min()) / spread * 255)).convert("RGB")
    if "A" not in image.mode.upper().replace("LAB", "") and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    if image.getextrema()[3][0] == 255:  # opaque all over
        return image.convert("RGB")
    pixels = np.asarray(image.resize([min(side, 250) for side in image.size]), np.float32)
    weight = pixels[..., 3]
    shade = (pixels[..., :3].mean(2) * weight).sum() / max(weight.sum(), 1)
    ground = Image.new("RGBA", image.size, "white" if shade < 128 else "black")
    return Image.alpha_composite(ground, image).convert("RGB")


# ---------------------------------------------------------------- arrays as pictures


def resize(grey, height, width, how=Image.Resampling.BICUBIC):
    """Returns float32 [h, w] scaled to [height, width], anti-aliased when it shrinks."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(grey, np.float32)).resize((width, height), how))


def running(extreme, grey, size):
    """Returns np.maximum or np.minimum of `grey` [h, w] over centred windows, size (high, wide) or a side."""
    for axis, side in enumerate(np.broadcast_to(size, 2)):
        if side <= 1:
            continue
        pad = [(0, 0), (0, 0)]
        pad[axis] = (side // 2, (side - 1) // 2)
        grey = np.moveaxis(np.pad(grey, pad, mode="edge"), axis, 0)
        span = 1
        while span < side:  # doubling: the extreme of 2n neighbours is that of two windows of n
            step = min(span, side - span)
            grey = extreme(grey[:-step], grey[step:])
            span += step
        grey = np.moveaxis(grey, 0, axis)
    return grey


# ---------------------------------------------------------------- paper and ink


def grey_from_colour(picture):
    """Returns float32 [h, w]: the picture [h, w, 3] along the colour axis on which its details differ most.

    Luminance would lose yellow on white and red on blue; details, not the whole picture, because the light
    may vary more than the ink does.
    """
    small = picture[:: max(1, picture.shape[0] // 250), :: max(1, picture.shape[1] // 250)]
    height, width = small.shape[:2]
    blurred = [resize(resize(c, 4, 4, Image.Resampling.BOX), height, width) for c in np.moveaxis(small, 2, 0)]
    details = (small - np.stack(blurred, 2)).reshape(-1, 3)
    axis = np.linalg.eigh(details.T @ details)[1][:, -1]
    axis *= 1 if axis.sum() >= 0 else -1
    return (picture @ (axis / np.abs(axis).sum())).astype(np.float32)


def ink_is_dark(grey):
    """Returns whether the ink of `grey` [h, w] is its dark side: ink is rarer than paper and off the rim.

    The light's slope and bow are taken out first: a dark corner is no ink.
    """
    small = resize(grey, 48, 48, Image.Resampling.BOX)
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    bow = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], -1).reshape(-1, 6)
    flat = small - (bow @ np.linalg.lstsq(bow, small.ravel(), rcond=None)[0]).reshape(48, 48)
    rim = np.concatenate([flat[:5].ravel(), flat[-5:].ravel(), flat[:, :5].ravel(), flat[:, -5:].ravel()])
    return ((flat - np.median(rim)) ** 3).sum() < 0


def ink_of(grey):
    """Returns (contrast float32 [h, w], level): how much darker than its paper each pixel is; ink > level.

    Twice: the first look only finds out how wide the strokes are, so that the second can take every wider
    thing (a shadow, a dark corner, the table) for paper.
    """
    contrast = contrast_to_paper(grey, WIDEST_STROKE * min(grey.shape))
    level = threshold(contrast)
    wide = PAPER_WINDOW * stroke_width(contrast > level)
    if wide < WIDEST_STROKE * min(grey.shape):
        contrast = contrast_to_paper(grey, wide)
        level = threshold(contrast)
    return contrast, level


def plain_ink_of(grey):
    """Returns (contrast, level) as `ink_of`, against one paper: the middle grey of the rim.

    For a picture that a single digit fills: too little paper is left in it to follow the light across it.
    """
    rim = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    contrast = np.median(rim) - grey
    lightest, darkest = np.percentile(contrast, [2, 98])
    if -lightest > darkest:  # light ink: it stands out further than any unevenness of its ground
        contrast, darkest = -contrast, -lightest
    level = darkest / 2
    if level < LEAST_CONTRAST:
        raise PictureError(NO_DIGIT)
    return contrast, level


def contrast_to_paper(grey, window):
    """Returns float32 [h, w]: how much darker than the paper around it each pixel is.

    The paper is what remains when everything narrower than `window` is closed: shadows, vignettes and the
    table beside the sheet are wider and so belong to it, with sharp edges where theirs are.
    """
    height, width = grey.shape
    shrink = max(1, int(window / 12))  # the paper is smooth: a coarse picture of it will do
    small = resize(grey, -(-height // shrink), -(-width // shrink), Image.Resampling.BOX)
    window = max(3, round(window / shrink))
    paper = running(np.minimum, running(np.maximum, small, window), window + 2)  # 2: its edges stay outside
    return resize(paper, height, width, Image.Resampling.BILINEAR) - grey


def threshold(contrast):
    """Returns the contrast above which a pixel is ink; raises PictureError when none stands out."""
    faintest, faint = np.percentile(contrast[::2, ::2], [5, 30])  # paper, even where ink fills half the picture
    grain = (faint - faintest) / 1.12  # in deviations of a normal grain those two lie at -1.64 and -0.52
    least = faint + 0.52 * grain + max(NOISE_FACTOR * grain, LEAST_CONTRAST)
    least = max(least, LEAST_CONTRAST)  # the interpolated paper may lie below the picture's
    ink = contrast[contrast > least]
    if not ink.size:
        raise PictureError(NO_DIGIT)
    return max(least, EDGE * (ink**2).sum() / ink.sum())  # the ink's mean, weighted for its dark core


# ---------------------------------------------------------------- strokes


def runs(mask):
    """Returns (start [n], end [n]) of the level runs of ink of mask [h, w], in rows of w + 1 pixels."""
    rows = np.pad(mask, ((0, 0), (0, 1))).ravel()  # the extra pixel of paper ends a run at the rim
    change = np.flatnonzero(rows[1:] != rows[:-1]) + 1
    if rows[0]:
        change = np.concatenate([[0], change])
    return change[::2], change[1::2]


def label(mask):
    """Returns (labels int32 [h, w], 0 = paper; boxes int [n, 4] left, top, right, bottom; areas [n]).

    Connected pieces (8 neighbours) by runs of pixels: runs that touch in neighbouring rows are joined
    until nothing changes.
    """
    height, width = mask.shape
    stride = width + 1
    start, end = runs(mask)
    first = np.searchsorted(end + stride, start, "left")  # runs of the row above from first to last touch
    last = np.searchsorted(start + stride, end, "right")
    touching = np.maximum(last - first, 0)
    below = np.repeat(np.arange(len(start)), touching)
    above = np.arange(len(below)) + np.repeat(first - np.cumsum(touching) + touching, touching)
    parent = np.arange(len(start))
    while (parent[below] != parent[above]).any():
        one, other = parent[below], parent[above]
        np.minimum.at(parent, np.maximum(one, other), np.minimum(one, other))
        while (parent != parent[parent]).any():
            parent = parent[parent]
    roots, piece = np.unique(parent, return_inverse=True)
    labels = np.zeros(mask.shape, np.int32)
    labels[mask] = np.repeat(piece + 1, end - start)
    row, left = np.divmod(start, stride)
    boxes = np.empty((len(roots), 4), int)
    boxes[:, :2], boxes[:, 2:] = (width, height), 0
    for column, values in enumerate((left, row)):
        np.minimum.at(boxes[:, column], piece, values)
    for column, values in enumerate((left + end - start, row + 1), 2):
        np.maximum.at(boxes[:, column], piece, values)
    return labels, boxes, np.bincount(piece, end - start, len(roots)).astype(int)


def sizes(boxes):
    """Returns (widths, heights) of boxes [n, 4]."""
    return boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]


def without_rulings(mask):
    """Returns mask [h, w] without thin lines from rim to rim: ruled or squared paper, sheet edges."""
    upright = ruling(mask.T).T
    return mask & ~ruling(mask) & ~upright


def ruling(mask):
    """Returns the pixels of mask [h, w] on thin lines across its whole width, without strokes that cross."""
    height, width = mask.shape
    thick = max(2, round(RULING * height))
    thickness = run_lengths(mask.T).T
    thin = mask & (thickness <= thick)
    if thin.any(axis=0).sum() < SEEN * width:  # what follows is slow, and most sheets are not ruled
        return np.zeros_like(mask)
    lean = max(1, height // 200)  # a line may lean: so much within the shortest piece of it
    piece, gap = width // 8, 2 * thick + 1  # a crossing stroke or the upright lines of squared paper leave a gap
    pieces = running(np.minimum, running(np.maximum, thin, (2 * lean + 1, gap)), (1, piece + gap))
    rim = max(1, width // 4)
    lines = np.pad(running(np.maximum, pieces, (gap, 2 * piece)), ((0, 0), (rim, rim)))
    for extreme in (np.maximum, np.minimum):  # over the gap that a digit leaves, up to half the picture
        lines = running(extreme, lines, (1, 2 * rim + 1))
    labels, boxes, _ = label(lines[:, rim:-rim])
    across = np.concatenate([[False], sizes(boxes)[0] >= width])
    covered = np.zeros((len(across), width), bool)
    covered[labels[thin], np.nonzero(thin)[1]] = True
    return thin & (across & (covered.sum(axis=1) >= SEEN * width))[labels]


def run_lengths(mask):
    """Returns int32 [h, w]: the length of the level run of ink through each pixel, 0 on paper."""
    start, end = runs(mask)
    lengths = np.zeros(mask.shape, np.int32)
    lengths[mask] = np.repeat(end - start, end - start)
    return lengths


def strokes(contrast, level):
    """Returns (labels, boxes, areas, keep): the pieces of ink, keep [n] where one may be a digit's."""
    labels, boxes, areas = label(contrast > level)
    no_digit = np.concatenate([[True], round_the_paper(labels, boxes, areas)])  # 0 is the paper itself
    labels, boxes, areas = label(without_rulings(~no_digit[labels]))
    if not len(areas):
        raise PictureError(NO_DIGIT)
    widths, heights = sizes(boxes)
    sharp = is_sharp(contrast, labels, len(areas))
    if not sharp.any():
        raise PictureError("shows no digit, only a shadow: write with a darker pen.")
    keep = sharp & (widths <= FLAT * heights)
    keep = keep if keep.any() else sharp
    long = np.maximum(widths, heights)
    on_rim = (boxes[:, :2] <= 0).any(1) | (boxes[:, 2:] >= labels.shape[::-1]).any(1)
    # At the rim a small piece is the end of a shadow or of something beside the sheet rather than a loose stroke.
    keep &= long >= np.where(on_rim, FRAGMENT, SPECK) * digit_height(boxes, areas, keep)
    if keep.sum() > MOST_STROKES:
        raise PictureError("shows a pattern rather than digits: photograph them on plain paper.")
    return labels, boxes, areas, keep


def is_sharp(contrast, labels, count):
    """Returns bool [count]: pieces whose outline is a small step from paper to ink, unlike a shadow's."""
    mask = labels > 0
    y, x = np.nonzero(mask & ~running(np.minimum, mask, 3))
    y, x = (axis[:: 1 + len(axis) // 20000] for axis in (y, x))  # of a busy picture a part will do
    height, width = labels.shape
    step = max(3, round(SOFT * min(height, width)))
    around = [
        contrast[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)]
        for dy in (-step, 0, step)
        for dx in (-step, 0, step)
    ]
    piece = labels[y, x]
    outline = np.maximum(np.bincount(piece, minlength=count + 1), 1)
    rise = np.bincount(piece, np.max(around, 0) - np.min(around, 0), count + 1) / outline
    areas = np.maximum(np.bincount(labels[mask], minlength=count + 1), 1)
    full = np.bincount(labels[mask], contrast[mask], count + 1) / areas
    return (rise > SHARP * full)[1:]


def round_the_paper(labels, boxes, areas):
    """Returns bool [n]: pieces round the paper: frames, sheet edges, and what lies in a strip with the table."""
    height, width = labels.shape
    inner = labels[height // 6 : height - height // 6, width // 6 : width - width // 6]
    outside = np.bincount(inner.ravel(), minlength=len(areas) + 1)[1:] < 0.05 * areas
    slack = np.array([width, height]) * RIM
    rims = (boxes[:, :2] <= slack).sum(1) + (boxes[:, 2:] >= [width, height] - slack).sum(1)
    long = np.maximum(*sizes(boxes))
    round_it = outside & (rims >= 2) & (long[~outside].max(initial=0) > SPECK * long)
    # A first or last digit touches the rim, too, but has not many times the ink of those in the middle.
    table = outside & (rims >= 1) & (areas > TABLE * areas[~outside].max(initial=areas.max() if outside.all() else 0))
    for axis, length in enumerate((width, height)):
        first, last = boxes[:, axis], boxes[:, axis + 2]
        top = last[table & (last <= length / 6)].max(initial=0)
        bottom = first[table & (first >= length * 5 / 6)].min(initial=length)
        round_it |= (last <= top) | (first >= bottom)
    return round_it


def digit_height(boxes, areas, keep):
    """Returns the height of the piece in which the median pixel of ink lies."""
    heights = sizes(boxes)[1]
    order = np.argsort(np.where(keep, heights, 0))
    ink = np.cumsum(np.where(keep, areas, 0)[order])
    return heights[order[np.searchsorted(ink, ink[-1] / 2)]]


def group(boxes, areas, keep):
    """Returns a list of lists of piece numbers, one list for each digit."""
    widths, heights = sizes(boxes)
    digit = digit_height(boxes, areas, keep)
    pieces = np.flatnonzero(keep)
    big = [i for i in pieces if heights[i] >= FRAGMENT * digit]
    owner = {i: i for i in big}

    def gaps(i, j):
        return (max(boxes[i, k], boxes[j, k]) - min(boxes[i, k + 2], boxes[j, k + 2]) for k in (0, 1))

    for a, i in enumerate(big):
        for j in big[a + 1 :]:
            across, down = gaps(i, j)
            if -across > 0.5 * min(widths[i], widths[j]) and down < NEAR * digit / 2:
                owner = {k: owner[i] if v == owner[j] else v for k, v in owner.items()}
    for i in pieces:
        if i not in owner:
            distance, j = min((sum(max(g, 0) for g in gaps(i, j)), j) for j in big)
            if distance < NEAR * digit:
                owner[i] = owner[j]
    groups = {}
    for i, j in owner.items():
        groups.setdefault(j, []).append(i)
    return list(groups.values())


def large_enough(groups, boxes, side):
    """Returns (groups, frames [n, 4]): the groups that are no mere dots on a picture `side` long."""
    frames = np.array([[*boxes[g, :2].min(0), *boxes[g, 2:].max(0)] for g in groups])
    large = np.maximum(*sizes(frames)) >= SMALLEST * side
    if not large.any():
        raise PictureError("shows no digit, only a dot: come nearer with the camera.")
    return [g for g, ok in zip(groups, large, strict=True) if ok], frames[large]


def reading_order(boxes):
    """Returns the order of boxes [n, 4]: rows top to bottom, left to right in each."""
    rows = []
    for i in np.argsort(boxes[:, 1] + boxes[:, 3]):
        middle = (boxes[i, 1] + boxes[i, 3]) / 2
        for row in rows:
            last = boxes[row[np.argmin(np.abs(boxes[row, 0] - boxes[i, 0]))]]  # the neighbour: rows may lean
            if last[1] <= middle <= last[3]:
                row.append(i)
                break
        else:
            rows.append([i])
    return [i for row in rows for i in sorted(row, key=lambda i: boxes[i, 0])]


# ---------------------------------------------------------------- MNIST's form


def stroke_width(mask):
    """Returns the mean width of the strokes of mask [h, w] in pixels: two areas by one outline."""
    mask = np.pad(mask, 1)
    outline = (mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum()
    return 2 * mask.sum() / max(outline * np.pi / 4, 1)


def mend_thickness(ink):
    """Returns ink [h, w] at FINE resolution with strokes no thinner and no thicker than MNIST's."""
    width = stroke_width(ink > 0.5) / FINE
    if width < THIN:
        wanted = min(MIDDLING, 2 * THIN - width)  # without a step at THIN: two pictures of a digit stay alike
        return widen(ink, np.maximum, (wanted - width) / 2 * FINE)
    if width > THICK:
        return widen(ink, np.minimum, (width - THICK) / 2 * FINE)
    return ink


def widen(ink, extreme, radius):
    """Returns ink [h, w] grown (np.maximum) or shrunk (np.minimum) on every side by `radius` pixels."""
    while radius > 0:
        grown = running(extreme, ink, 3) if int(radius) % 2 else _cross(extreme, ink)
        ink = ink + (grown - ink) * min(radius, 1)
        radius -= 1
    return ink


def _cross(extreme, ink):
    pad = np.pad(ink, 1)
    return extreme.reduce([ink, pad[:-2, 1:-1], pad[2:, 1:-1], pad[1:-1, :-2], pad[1:-1, 2:]])


def fit_to_box(ink):
    """Returns ink [h, w] cut to its strokes and scaled so that its long side is BOX * FINE pixels."""
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis)) for axis in (1, 0))
    if not rows.size:
        raise PictureError(NO_DIGIT)
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX * FINE / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    return np.clip(resize(ink, height, width), 0, 1)


def to_mnist(ink):
    """Returns ink [h, w] in 0..1 of one digit as float32 [784]: MNIST's thickness, 20x20 box, centre."""
    shrink = max(max(ink.shape) / (BOX * FINE), 1)
    faint = 2 * shrink - stroke_width(ink > 0.5)
    if faint > 0:  # finer than two pixels of the fine picture: shrinking would fade the stroke
        ink = running(np.maximum, ink, round(faint) + 1)
    room = 2 * FINE  # for strokes to grow
    ink = fit_to_box(mend_thickness(np.pad(fit_to_box(ink), room)))
    height, width = (max(1, round(side / FINE)) for side in ink.shape)
    return centred(np.clip(resize(ink, height, width), 0, 1)).ravel()


def centred(ink):
    """Returns ink [<=20, <=20] placed by whole pixels in [28, 28] with its centre of mass at the centre."""
    height, width = ink.shape
    y, x = (
        round(SIDE // 2 - float(ink.sum(1 - axis) @ np.arange(length) / ink.sum()))
        for axis, length in enumerate(ink.shape)
    )  # MNIST's centre is the middle of pixel 14, half a pixel past the middle of the picture
    y, x = min(max(y, 0), SIDE - height), min(max(x, 0), SIDE - width)
    form = np.zeros((SIDE, SIDE), np.float32)
    form[y : y + height, x : x + width] = ink
    return form


# ---------------------------------------------------------------- the whole way


def find_digits(picture):
    """Returns the digits of picture (float32 [h, w, 3], 0..1) as a list of Digit in reading order.

    Raises PictureError when there is nothing that could be a digit.
    """
    grey = grey_from_colour(picture)
    height, width = grey.shape
    enlarged = max(1, -(-SHORTEST_SIDE // min(height, width))) if max(height, width) < LONGEST_SIDE / 2 else 1
    if enlarged > 1:
        grey = resize(grey, height * enlarged, width * enlarged)
    if max(height, width) <= ONE_DIGIT_SIDE:
        contrast, level = plain_ink_of(grey)
        labels, boxes, _ = label(contrast > level)
        groups = [np.flatnonzero(np.maximum(*sizes(boxes)) >= SPECK * sizes(boxes)[1].max())]
    else:
        contrast, level = ink_of(grey if ink_is_dark(grey) else -grey)
        labels, boxes, areas, keep = strokes(contrast, level)
        groups = group(boxes, areas, keep)
    groups, frames = large_enough(groups, boxes, max(contrast.shape))
    return [
        Digit(tuple(frames[i] / enlarged), to_mnist(digit_ink(contrast, labels, groups[i], frames[i])))
        for i in reading_order(frames)
    ]


def digit_ink(contrast, labels, pieces, frame):
    """Returns float32 [h, w] in 0..1: the grey levels of one digit's pieces alone, 1 = its full ink."""
    left, top, right, bottom = frame
    window = slice(max(top - 2, 0), bottom + 2), slice(max(left - 2, 0), right + 2)
    mine = np.zeros(labels.max() + 1, bool)
    mine[np.asarray(pieces) + 1] = True
    mask = mine[labels[window]]
    near = running(np.maximum, mask, 3)
    ink = contrast[window] * near
    full = np.percentile(ink[mask], 75)
    pressure = running(np.maximum, ink, 2 * round(stroke_width(mask)) + 1)
    return np.clip(ink / np.clip(pressure, PRESSURE * full, full), 0, 1)


def pre_pic(picture_path):
    """Returns the most prominent digit of a picture file as float32 [1, 784], 0..1, white on black."""
    digits = find_digits(open_picture(picture_path))
    largest = max(digits, key=lambda d: (d.box[2] - d.box[0]) * (d.box[3] - d.box[1]))
    return largest.pixels[None]


# ---------------------------------------------------------------- a digit or not


def outlines(pictures, width=1.0):
    """Returns float32 [n, 196], for comparing: pictures [n, 784] without their slant, `width` times as wide, at half
    size, of length 1."""
    ink, at = pictures.reshape(-1, SIDE, SIDE), np.arange(SIDE, dtype=np.float32)
    mass = np.maximum(ink.sum((1, 2)), 1e-6)
    middle = (ink.sum(1) @ at / mass)[:, None]
    down, across = at - (ink.sum(2) @ at / mass)[:, None], at - middle
    slant = (down * (ink @ across[..., None])[..., 0]).sum(1) / np.maximum((down**2 * ink.sum(2)).sum(1), 1e-6)
    shift = np.clip(slant, -MOST_SLANT, MOST_SLANT)[:, None] * down
    source = np.clip((middle + across / width)[:, None] + shift[:, :, None], 0, SIDE - 1 - 1e-3)
    left = source.astype(int)
    share = source - left
    upright = np.take_along_axis(ink, left, 2) * (1 - share) + np.take_along_axis(ink, left + 1, 2) * share
    halved = (HALF.T @ upright @ HALF).reshape(-1, SIDE * SIDE // 4)
    return halved / np.maximum(np.linalg.norm(halved, axis=1, keepdims=True), 1e-6)


def likeness(pictures, seen):
    """Returns float32 [n, m]: the cosine of pictures [n, 784], as wide as suits best, and outlines [m, 196]."""
    return functools.reduce(np.maximum, (outlines(pictures, width) @ seen.T for width in WIDTHS))


def write_familiar(model, pictures, classes):
    """Write what the app compares with to the folder `model`: outlines of training pictures, and how far is strange.

    Args:
      model: folder.
      pictures: float32 [n, 784], 0..1; some thousands of them.
      classes: int [n].
    """
    seen, apart = np.empty((len(pictures), SIDE * SIDE // 4), np.uint8), []
    for i in np.unique(classes):
        own = outlines(pictures[classes == i])
        seen[classes == i] = own / own.max(axis=1, keepdims=True) * 255
        for start in range(0, len(own), 1000):  # at once they would need the square of their number
            alike = likeness(pictures[classes == i][start : start + 1000], own)
            np.fill_diagonal(alike[:, start:], 0)
            apart.extend(1 - alike.max(1))
    part = model / (FAMILIAR + ".part")
    try:
        with open(part, "wb") as file:
            np.savez_compressed(file, outlines=seen, classes=classes, strange=np.quantile(apart, 1 - STRANGE))
        part.replace(model / FAMILIAR)
    finally:
        part.unlink(missing_ok=True)


@functools.cache
def familiar(model):
    """({class: outlines float32 [n, 196]}, the distance that is strange), or None: a model trained by the lecture's
    program has none.  Raises UserError where the file is damaged."""
    path = Path(model) / FAMILIAR
    try:
        with np.load(path, allow_pickle=False) as file:
            seen, classes, strange = (file[name] for name in ("outlines", "classes", "strange"))
        seen = seen.reshape(len(classes), SIDE * SIDE // 4)
        seen = seen / np.linalg.norm(seen, axis=1, keepdims=True).astype(np.float32)
        return {int(i): seen[classes == i] for i in np.unique(classes)}, float(strange)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error):
        raise UserError(f"{path} is damaged: delete it and run mnist_backward.py, which writes it anew.") from None


def are_strange(pictures, answers, model):
    """Returns bool [n]: which of the pictures [n, 784] resemble no training picture of the class that they got."""
    known = familiar(model)
    if not known or not len(pictures):
        return np.zeros(len(pictures), bool)
    distances = np.ones(len(pictures))
    for i in np.unique(answers):
        if i in known[0]:
            distances[answers == i] = 1 - likeness(pictures[answers == i], known[0][i]).max(1)
    return distances > known[1]


# ---------------------------------------------------------------- the network's answer


@functools.cache
def restored(model):
    """(sess, x, y): pictures x, float32 [n, 784], to probabilities y, float32 [n, classes]; once for each folder.

    Raises:
      UserError: the folder `model` holds no whole checkpoint of this network.
    """
    with tf.Graph().as_default():
        x = tf.placeholder(tf.float32, [None, INPUT_NODE])
        y = tf.nn.softmax(mnist_forward.forward(x, None, len(class_names(model))))
        variables = mnist_forward.averaged_variables()
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
    """Write the averaged network as a SavedModel, `pictures` float32 [n, 784] in 0..1 to `probabilities` [n, classes].

    TensorFlow Serving looks for numbered versions, so it becomes folder/1, folder/2, ...; it gets that name when it was
    loaded again and answered as the checkpoint does.
    """
    sess, x, y = restored(model)
    folder.mkdir(parents=True, exist_ok=True)
    versions = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
    version = folder / str(max(versions, default=0) + 1)
    some = np.random.default_rng(1).random([100, INPUT_NODE], np.float32)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as part, sess.graph.as_default():
        new = Path(part) / "model"
        tf.saved_model.simple_save(sess, str(new), {"pictures": x}, {"probabilities": y})
        with tf.Graph().as_default(), tf.Session() as again:
            signature = tf.saved_model.load(again, ["serve"], str(new)).signature_def["serving_default"]
            answers = again.run(signature.outputs["probabilities"].name, {signature.inputs["pictures"].name: some})
        if not np.allclose(answers, probabilities_of(some, model), atol=1e-5):
            raise UserError(f"The network written to {folder} does not answer as {model} does: export it again.")
        new.replace(version)
    print(f"{version} is a SavedModel with the answers of {model}")


class Answer(NamedTuple):
    """What the app says of one picture: the digits it found, or one sentence that says why there is no number."""

    path: str
    digits: list  # of Digit
    probabilities: np.ndarray  # float32 [n, classes], of each digit
    names: list  # of the classes
    error: str = ""

    @property
    def number(self):
        read = [self.names[i] for i in self.probabilities.argmax(axis=1)]
        return ("" if max(map(len, self.names)) == 1 else " ").join(read)

    @property
    def probability(self):
        """That every digit is right, each taken for itself."""
        return float(self.probabilities.max(axis=1).prod())


def found_digits(path):
    """(digits, error) of one picture: the part of the work that needs no network."""
    try:
        return find_digits(open_picture(path)), ""
    except PictureError as error:
        return [], str(error)


def read_pictures(paths, model):
    """Yield an Answer for each path, in order, a few pictures at a time so that memory stays flat."""
    restored(model)
    paths, names = iter(paths), class_names(model)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while some := list(itertools.islice(paths, AT_ONCE)):
            found = list(pool.map(found_digits, some))
            pixels = np.reshape([digit.pixels for digits, _ in found for digit in digits], [-1, INPUT_NODE])
            probabilities = probabilities_of(pixels.astype(np.float32), model)
            doubtful = (probabilities.max(axis=1) < LEAST_SURE) | are_strange(pixels, probabilities.argmax(1), model)
            for path, (digits, error) in zip(some, found, strict=True):
                own, probabilities = np.split(probabilities, [len(digits)])
                doubts, doubtful = np.split(doubtful, [len(digits)])
                if not error and doubts.mean() > 0.5:
                    error = "shows nothing that is clearly a digit: write larger, or one digit apart from the other."
                yield Answer(path, digits, own, names, error)


# ---------------------------------------------------------------- pictures of the answers


def boxed_photo(answer, width, height):
    """The photo, fitted to width x height, with a box round each digit."""
    try:
        photo = Image.fromarray(np.uint8(open_picture(answer.path) * 255))
    except PictureError:
        photo = Image.new("RGB", (width, height), "lightgrey")
    scale = min(width / photo.width, height / photo.height)
    photo = photo.resize([max(1, round(side * scale)) for side in photo.size])
    for digit in answer.digits:
        ImageDraw.Draw(photo).rectangle([side * scale for side in digit.box], outline="red", width=2)
    return photo


def seen_by_network(pixels, side):
    """Pixels, [784] in 0..1, as a Pillow image enlarged to `side` without smoothing."""
    return Image.fromarray(np.uint8(pixels.reshape(SIDE, SIDE) * 255)).resize((side, side), Image.Resampling.NEAREST)


def draw_text(image, text, left, top, width, size):
    """Write the text, black, in lines no longer than `width`; returns the y coordinate below it."""
    draw, font, characters = ImageDraw.Draw(image), ImageFont.load_default(size), len(text)
    while characters > 1 and draw.multiline_textbbox((0, 0), textwrap.fill(text, characters), font)[2] > width:
        characters -= 1
    lines = textwrap.fill(text, max(1, characters))
    draw.multiline_text((left, top), lines, "black", font)
    return draw.multiline_textbbox((left, top), lines, font)[3]


def draw_answer(answer):
    """An RGB picture: the photo with its digits boxed, what the network saw, and the three likeliest digits of each."""
    photo = boxed_photo(answer, 480, 480)
    rows, pitch = max(1, min(len(answer.digits), 3)), 124
    width = 504 + 250 * -(-len(answer.digits) // rows)
    title = Image.new("RGB", (width, 600), "white")
    top = draw_text(title, as_line(answer, Path(answer.path).name), 12, 12, width - 24, 18) + 16
    image = Image.new("RGB", (width, top + max(photo.height, rows * pitch) + 12), "white")
    image.paste(title.crop((0, 0, width, top)))
    image.paste(photo, (12, top))
    for i, (digit, probabilities) in enumerate(zip(answer.digits, answer.probabilities, strict=True)):
        left, y = 504 + 250 * (i // rows), top + pitch * (i % rows)
        image.paste(seen_by_network(digit.pixels, 112), (left, y))
        for best in np.argsort(-probabilities)[:3]:
            y = draw_text(image, f"{answer.names[best]:.20}  {probabilities[best]:.1%}", left + 124, y, 120, 18) + 10
    return image


def contact_sheet(images, captions, across, width, height):
    """An RGB picture with the images side by side, `across` in a row, each on width x height above its caption."""
    across = min(across, len(images))
    sheet = Image.new("RGB", (across * width, -(-len(images) // across) * height), "white")
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = i % across * width + 6, i // across * height + 6
        sheet.paste(image, (left, top))
        caption = caption if len(caption) <= 90 else f"{caption[:40]} ... {caption[-45:]}"
        draw_text(sheet, caption, left, top + image.height + 4, width - 12, 13)
    return sheet


def save_picture(image, path):
    """Save a Pillow image as PNG, which appears only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    image.save(part, format="PNG")
    part.replace(path)


def album(answers, folder):
    """Yield the answers on, and save a picture of each in `folder`, and a contact sheet of every 60 of them."""
    for _, numbered in itertools.groupby(enumerate(answers, 1), lambda numbered: (numbered[0] - 1) // 60):
        page = []
        for number, answer in numbered:
            save_picture(draw_answer(answer), folder / f"{number:04d}-{Path(answer.path).stem[:80]}.png")
            yield answer
            page.append(answer)
        if len(page) > 1:
            photos = [boxed_photo(answer, 208, 190) for answer in page]
            captions = [as_line(answer, Path(answer.path).name) for answer in page]
            sheet = contact_sheet(photos, captions, across=6, width=220, height=330)
            save_picture(sheet, folder / f"contact-sheet-{number:04d}.png")


# ---------------------------------------------------------------- paths and answers, as a user gives and gets them


def given_path(text):
    """The path that a user means who types it or drags it onto the terminal: quotes, blanks, backslashes and `~`."""
    path = text.strip()
    if len(path) > 1 and path[0] == path[-1] and path[0] in "'\"":
        path = path[1:-1]
    path = os.path.expanduser(path)
    return path if os.path.exists(path) else re.sub(r"\\(.)", r"\1", path)


def pictures_in(arguments):
    """Yield the path of each picture that the arguments name: files, folders and patterns such as `pic/*.png`."""
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    for argument in arguments:
        if os.path.isdir(argument):
            try:
                names = sorted(name for name in os.listdir(argument) if os.path.splitext(name)[1].lower() in suffixes)
            except OSError:
                names = []
            yield from [os.path.join(argument, name) for name in names] or [argument]
        elif not os.path.exists(argument) and glob.has_magic(argument):
            yield from sorted(glob.glob(argument, recursive=True)) or [argument]
        else:
            yield argument


def as_json(answer):
    if answer.error:
        return json.dumps({"picture": answer.path, "error": f"The picture {answer.error}"})
    return json.dumps({"picture": answer.path, "digits": answer.number, "probability": round(answer.probability, 4)})


def as_line(answer, name=None):
    said = answer.error or f"{answer.number} ({answer.probability:.1%})"
    return f"{name or answer.path}: {said}"


def ask_number(prompt):
    """Ask until the answer is a whole number of at least 1."""
    while True:
        text = input(prompt).strip()
        if text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0:
            return int(text)
        print(f"{text!r} is no number of pictures: type 1, 2, 3, ...")


def application(model):
    """The lecture's conversation: how many pictures, then each path and its answer; returns the exit status."""
    restored(model)
    failed = False
    try:
        for _ in range(ask_number("input the number of test pictures:")):
            while not (path := given_path(input("the path of test picture:"))):
                print("That is no path: type the path of a picture.")
            for answer in read_pictures([path], model):
                failed |= bool(answer.error)
                if answer.error:
                    print(as_line(answer))
                else:
                    print(f"The prediction number is: {answer.number}\n({answer.probability:.1%} sure)")
    except EOFError:
        print("\nThe input ended before the last picture.")
        failed = True
    return int(failed)


def main():
    parser = argparse.ArgumentParser(description="Read pictures of handwritten digits.")
    parser.add_argument("pictures", nargs="*", help="pictures, folders of pictures, patterns; none: ask for them")
    parser.add_argument("--model", type=Path, default=MODEL_SAVE_PATH, help="folder of the checkpoints (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument(
        "--look", type=Path, metavar="DIR", help="save there, for each picture, what was found, seen and answered"
    )
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="write the network there for TensorFlow Serving, and end"
    )
    args = parser.parse_args()
    if args.export:
        if args.pictures or args.look:
            parser.error("--export reads no pictures: give it alone")
        return export_model(args.model, args.export)
    if not args.pictures:
        return application(args.model)

    failed = False
    answers = read_pictures(pictures_in(args.pictures), args.model)
    for answer in album(answers, args.look) if args.look else answers:
        print(as_json(answer) if args.json else as_line(answer), flush=True)
        failed |= bool(answer.error)
    return int(failed)


if __name__ == "__main__":
    mnist_forward.run(main)
