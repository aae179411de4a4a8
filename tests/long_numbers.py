"""Whole numbers, made of MNIST's digits, through the app: `python tests/long_numbers.py` (5,000 pictures, minutes).

The pictures are pen on paper: single digits; pairs and triples of digits that touch or overlap; numbers in the fields
of forms.  Printed for each kind: how many were read exactly, how many of the digits by edit distance, how many
pictures got no answer, and how many of the single digits were read as several.

    python tests/long_numbers.py                             # all of the kinds
    python tests/long_numbers.py --kinds pair triple-2       # the kinds whose names begin so
    python tests/long_numbers.py --set held_out --count 50   # fifty of each kind, to choose by
    python tests/long_numbers.py --save seen/ --list         # keep the pictures, and list what was misread

The kinds are `single`; `pair-K` and `triple-K`, of which the digits overlap by K pixels where a digit is 20 high; and
`FIELD-WIDTH-clear` and `FIELD-WIDTH-cross`, of which the lines keep off the strokes, or touch and cross them.  The same
kind and number is the same picture again, whatever else is asked for.
"""

import argparse
import contextlib
import tempfile
from itertools import product
from pathlib import Path
from typing import NamedTuple

import make_pictures
import numpy as np
from conftest import ROOT
from PIL import Image

from mnist_app import read_pictures
from mnist_forward import MODEL_SAVE_PATH
from mnist_generateds import read_idx

SEED = 1
# The file names of each set, and which of their digits.  Those held out are not used by make_whole_digits.py either.
SETS = {"test": ("t10k", slice(None)), "held_out": ("train", slice(-5000, None))}
PAPER = (235, 235, 235)
INK = (40, 40, 40)

HEIGHT = 120  # of a digit, in pixels; all that follows is in shares of it
UNLIKE = 0.1  # digits of one number are so much higher or lower than HEIGHT at most
JITTER = 0.04  # and stand so much above or below their line
MARGIN = 0.6  # of paper round everything
PIXEL = 1 / 20  # a pixel of MNIST, where a digit is 20 pixels high
GAP = (0.12, 0.4)  # between the digits of a number that do not touch
STROKE = 0.12  # how wide MNIST's strokes are

OVERLAPS = (0, 2, 4)
FIELDS = ("box", "cells", "baseline", "grid")
WIDTHS = {"thin": STROKE / 6, "half": STROKE / 2, "full": STROKE}
CLEAR = (0.06, 0.2)  # from the strokes to the edge of a line that keeps off them
DEEP = 0.1  # a line that crosses strokes has its middle so far inside them at most
SQUARE = (0.5, 0.9)  # the squares of a grid behind the digits
BEYOND = (0.1, 0.4)  # a baseline goes on so far beyond the digits
GREY = (0.6, 1.0)  # a printed line's ink, as a share of the pen's
LEAN = 1.0  # degrees by which a field leans at most


class Kind(NamedTuple):
    """A kind of picture, and how many of these pictures are made."""

    name: str
    count: int

    @property
    def group(self):
        """The part of the name that says of which of four totals the kind is a part."""
        first = self.name.split("-")[0]
        return "field" if first in FIELDS else first


KINDS = (
    [Kind("single", 2000)]
    + [Kind(f"{name}-{overlap}", 334) for name, overlap in product(("pair", "triple"), OVERLAPS)]
    + [Kind("-".join(parts), 42) for parts in product(FIELDS, WIDTHS, ("clear", "cross"))]
)


class Row(NamedTuple):
    """A number on paper: its ink, float32 [h, w] in 0..1, and each digit's box, int [n, 4] (left, top, right, bottom).

    The ink may be changed in place: lines are drawn into it.
    """

    ink: np.ndarray
    boxes: np.ndarray


# ======== Making the pictures


def choose_digits(rng, labels, count):
    """The numbers of `count` digits, each class as likely as the others, int [count]."""
    classes = rng.integers(0, 10, count)
    return np.array([rng.choice(np.flatnonzero(labels == digit)) for digit in classes])


def draw_digit(rng, picture, thinner=0.0):
    """The strokes of an MNIST digit, uint8 [28, 28], at about HEIGHT: float32 [h, w] in 0..1, without paper round.

    `thinner` is as for make_pictures.stroke.
    """
    height = HEIGHT * rng.uniform(1 - UNLIKE, 1 + UNLIKE)
    strokes = make_pictures.stroke(picture, height, thinner)
    inside = strokes > 0.5
    rows = np.flatnonzero(inside.any(axis=1))
    columns = np.flatnonzero(inside.any(axis=0))
    return strokes[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def set_in_row(rng, digits, gaps):
    """The Row of drawn digits with `gaps`, float [n - 1], between the boxes of neighbours, negative where they overlap.

    Where digits overlap, the darker ink is seen.
    """
    margin = round(MARGIN * HEIGHT)
    foot = margin + round((1 + UNLIKE + JITTER) * HEIGHT)
    boxes = []
    right = margin
    for strokes, gap in zip(digits, [0, *gaps], strict=True):
        height, width = strokes.shape
        left = right + round(gap * HEIGHT)
        bottom = foot + round(rng.uniform(-JITTER, JITTER) * HEIGHT)
        right = left + width
        boxes.append((left, bottom - height, right, bottom))
    ink = np.zeros([foot + margin, right + margin], np.float32)
    for strokes, (left, top, right, bottom) in zip(digits, boxes, strict=True):
        area = ink[top:bottom, left:right]
        np.maximum(area, strokes, out=area)
    return Row(ink, np.array(boxes))


def draw_upright(ink, x, top, bottom, width, grey):
    """Draw an upright line with its middle at x, from top to bottom, all in pixels of ink [h, w]; transpose for others.

    What lies outside the ink is left out; the pen's stroke under the line stays as dark as it is.
    """
    left = round(x - width / 2)
    area = ink[max(round(top), 0) : max(round(bottom), 0), max(left, 0) : max(left + max(round(width), 1), 0)]
    np.maximum(area, grey, out=area)


def draw_level(ink, y, left, right, width, grey):
    """Draw a level line as draw_upright does an upright one."""
    draw_upright(ink.T, y, left, right, width, grey)


def choose_distance(rng, width, crosses):
    """How far outside a stroke's edge the middle of a line `width` wide lies, in pixels; below 0 is inside."""
    if crosses:
        return -rng.uniform(0, DEEP) * HEIGHT
    return rng.uniform(*CLEAR) * HEIGHT + width / 2


def draw_box(rng, row, width, grey, crosses):
    """Draw one box round all digits; if it crosses, its upper or its lower side, or both, go through digits.

    Returns (left, top, right, bottom) of the middles of the box's lines.
    """
    sides = rng.choice(["top", "bottom", "both"])
    top = row.boxes[:, 1].min() - choose_distance(rng, width, crosses and sides != "bottom")
    bottom = row.boxes[:, 3].max() + choose_distance(rng, width, crosses and sides != "top")
    left = row.boxes[:, 0].min() - choose_distance(rng, width, crosses=False)
    right = row.boxes[:, 2].max() + choose_distance(rng, width, crosses=False)
    for y in (top, bottom):
        draw_level(row.ink, y, left - width / 2, right + width / 2, width, grey)
    for x in (left, right):
        draw_upright(row.ink, x, top, bottom, width, grey)
    return left, top, right, bottom


def draw_cells(rng, row, width, grey, crosses):
    """Draw a box that keeps off the digits, and separators between the digits; if they cross, each touches one."""
    _, top, _, bottom = draw_box(rng, row, width, grey, crosses=False)
    for before, after in zip(row.boxes[:-1, 2], row.boxes[1:, 0], strict=True):
        x = (before + after) / 2
        if crosses:
            inside = choose_distance(rng, width, crosses)
            x = rng.choice([before + inside, after - inside])
        draw_upright(row.ink, x, top, bottom, width, grey)


def draw_baseline(rng, row, width, grey, crosses):
    """Draw a line under the row; if it crosses, it goes through the feet of most digits."""
    foot = np.median(row.boxes[:, 3]) if crosses else row.boxes[:, 3].max()
    y = foot + choose_distance(rng, width, crosses)
    left = row.boxes[0, 0] - rng.uniform(*BEYOND) * HEIGHT
    right = row.boxes[-1, 2] + rng.uniform(*BEYOND) * HEIGHT
    draw_level(row.ink, y, left, right, width, grey)


def draw_grid(rng, row, width, grey, crosses):
    """Draw squares over the whole sheet: small ones behind the digits, or cells that hold a digit each."""
    height, length = row.ink.shape
    if crosses:
        side = rng.uniform(*SQUARE) * HEIGHT
        uprights = np.arange(rng.uniform(0, side), length, side)
        levels = np.arange(rng.uniform(0, side), height, side)
    else:
        uprights = cell_edges(row)
        side = uprights[1] - uprights[0]
        middle = (row.boxes[:, 1].min() + row.boxes[:, 3].max()) / 2
        levels = middle + side * (np.arange(-1, 3) - 0.5)
    for x in uprights:
        draw_upright(row.ink, x, 0, height, width, grey)
    for y in levels:
        draw_level(row.ink, y, 0, length, width, grey)


def cell_edges(row):
    """Where the uprights of a grid are that has one of a row's digits, set at a like pitch, in each of its cells."""
    middles = (row.boxes[:, 0] + row.boxes[:, 2]) / 2
    pitch = np.diff(middles).mean()
    return middles[0] + pitch * (np.arange(-1, len(middles) + 2) - 0.5)


def make_number(rng, images, labels, count, overlap):
    """A number of `count` digits that overlap by `overlap` pixels of MNIST: (label, ink)."""
    chosen = choose_digits(rng, labels, count)
    digits = [draw_digit(rng, images[i]) for i in chosen]
    row = set_in_row(rng, digits, [-overlap * PIXEL] * (count - 1))
    return "".join(map(str, labels[chosen])), row.ink


def make_field(rng, images, labels, field, width, crosses):
    """A number of 3 to 6 digits in the field of a form, as make_number."""
    chosen = choose_digits(rng, labels, rng.integers(3, 7))
    digits = [draw_digit(rng, images[i]) for i in chosen]
    width *= HEIGHT
    if crosses or field in ("box", "baseline"):
        gaps = rng.uniform(*GAP, len(digits) - 1)
    elif field == "cells":
        gaps = 2 * rng.uniform(*CLEAR, len(digits) - 1) + width / HEIGHT
    else:
        # Of a grid's cells all are as wide as the widest digit and the highest one need.
        widths = np.array([strokes.shape[1] for strokes in digits])
        highest = (1 + 2 * (UNLIKE + JITTER)) * HEIGHT
        pitch = max(widths.max(), highest) + 2 * rng.uniform(*CLEAR) * HEIGHT + width
        gaps = (pitch - (widths[:-1] + widths[1:]) / 2) / HEIGHT
    row = set_in_row(rng, digits, gaps)
    draw = {"box": draw_box, "cells": draw_cells, "baseline": draw_baseline, "grid": draw_grid}[field]
    draw(rng, row, width, rng.uniform(*GREY), crosses)
    leaning = Image.fromarray(row.ink).rotate(rng.uniform(-LEAN, LEAN), Image.Resampling.BILINEAR)
    return "".join(map(str, labels[chosen])), np.asarray(leaning)


def make_picture(kind, number, images, labels):
    """Picture `number` of a kind: (label, Pillow image)."""
    rng = np.random.default_rng([SEED, *kind.name.encode(), number])
    first, *rest = kind.name.split("-")
    if kind.group == "field":
        label, ink = make_field(rng, images, labels, first, WIDTHS[rest[0]], rest[1] == "cross")
    else:
        count = {"single": 1, "pair": 2, "triple": 3}[first]
        label, ink = make_number(rng, images, labels, count, int(rest[0]) if rest else 0)
    return label, make_pictures.sheet(rng, ink.shape[::-1], [(ink, 0, 0)], INK, PAPER)


def save_pictures(kind, count, digits, folder):
    """Write `count` pictures of a kind as label__kind__n.png; returns (labels, paths)."""
    labels = []
    paths = []
    for number in range(count):
        label, picture = make_picture(kind, number, *digits)
        path = folder / f"{label}__{kind.name}__{number:04}.png"
        picture.convert("L").save(path, compress_level=1)
        labels.append(label)
        paths.append(path)
    return labels, paths


# ======== Reading the pictures


def edit_distance(text, other):
    """How many letters must be put in, taken out or changed to make one text of another."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(text, 1):
        before = row
        row = [i]
        for j, its in enumerate(other, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != its)))
    return row[-1]


def count_right(labels, answers):
    """The counts of one kind, int [6]: pictures, exact, without answer, of too many digits; digits, right ones.

    `answers` are the app's, in the order of `labels`.
    """
    counts = np.zeros(6, int)
    for label, answer in zip(labels, answers, strict=True):
        said = "" if answer.error else answer.number
        right = len(label) - min(edit_distance(said, label), len(label))
        counts += [1, said == label, said == "", len(said) > len(label), len(label), right]
    return counts


def print_counts(name, counts):
    """Print one line of the table: the name of a kind, and the counts of count_right as shares."""
    pictures, exact, refused, too_many, digits, right = counts.tolist()
    shares = [exact / pictures, right / digits, refused / pictures, too_many / pictures]
    print(f"{name:22}{pictures:9}", *(f"{share:12.1%}" for share in shares), sep="", flush=True)


def print_table(kinds, count, digits, model, folder, listed):
    """Make and read the pictures of all kinds, and print the shares of each kind and of each group of kinds."""
    print(f"{'':22}{'pictures':>9}{'exact':>12}{'digits':>12}{'no answer':>12}{'too many':>12}")
    totals = {}
    for kind in kinds:
        labels, paths = save_pictures(kind, count or kind.count, digits, folder)
        answers = [reading.answer for reading in read_pictures(paths, model)]
        if listed:
            for label, path, answer in zip(labels, paths, answers, strict=True):
                if answer.error or answer.number != label:
                    print(f"  {path.name}: {answer}")
        counts = count_right(labels, answers)
        print_counts(kind.name, counts)
        totals.setdefault(kind.group, []).append(counts)
    if "pair" in totals and "triple" in totals:
        totals["touching"] = totals["pair"] + totals["triple"]
    for group, parts in totals.items():
        if len(parts) > 1:
            print_counts(f"all of {group}", np.sum(parts, axis=0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=[""], help="how the names of the kinds begin (all of them)")
    parser.add_argument("--count", type=int, help="pictures of each kind (2,000 single; 334; 42 of fields)")
    parser.add_argument("--set", choices=SETS, default="test", help="whose digits are used (%(default)s)")
    parser.add_argument("--model", type=Path, default=MODEL_SAVE_PATH, help="folder of the checkpoints (%(default)s)")
    parser.add_argument("--save", type=Path, metavar="DIR", help="keep the pictures there")
    parser.add_argument("--list", action="store_true", help="list what was misread")
    args = parser.parse_args()
    kinds = [kind for kind in KINDS if kind.name.startswith(tuple(args.kinds))]
    if not kinds:
        parser.error(f"these are the kinds: {', '.join(kind.name for kind in KINDS)}")
    prefix, which = SETS[args.set]
    images = read_idx(ROOT / "data" / f"{prefix}-images-idx3-ubyte.gz", 3)[which]
    labels = read_idx(ROOT / "data" / f"{prefix}-labels-idx1-ubyte.gz", 1)[which]
    with contextlib.ExitStack() as stack:
        folder = args.save or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        print_table(kinds, args.count, (images, labels), args.model, folder, args.list)


if __name__ == "__main__":
    main()
