"""Reads pictures of handwritten digits (lecture 6.1): a photo in, the number out.

Run mnist_backward.py first: the newest checkpoint in model/ is restored once.

    python mnist_app.py                       # asks, as the lecture does, how many pictures and for their paths
    python mnist_app.py pic/*.png             # one line a picture: path, number, confidence
    python mnist_app.py --json pic/           # the same for programs, one JSON object a line
    python mnist_app.py --look seen/ pic/     # and pictures of what was found, what the network saw, what it answered

The exit status is 0 when every picture got a number, and 3 when some got a sentence instead.  It is 1 when the program
could not work, for example without a model, and 2 when the command line is wrong.

The file goes from the outside to the inside: conversation and command line; `pre_pic` and `restore_model`; opening a
picture; finding the digits in it; MNIST's form for each of them; what is no digit; pictures of the answer.
mnist_generateds.py uses functions of all sections, too: it prepares training pictures as this program prepares photos.
"""

import argparse
import collections
import contextlib
import functools
import glob
import itertools
import json
import math
import os
import re
import tempfile
import textwrap
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import mnist_forward  # Before numpy, since it says with how many threads numpy starts.
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from mnist_forward import IMAGE_SIDE, INPUT_NODE, MODEL_SAVE_PATH, OUTLINES_FILE, UserError, read_class_names, tf

warnings.filterwarnings("ignore", module="PIL")  # What is wrong with a picture is said in one sentence.


# ======== Conversation and command line

NOT_ALL_ANSWERED = 3  # exit status: at least one picture got a sentence instead of a number


def application(model_dir=MODEL_SAVE_PATH):
    """The lecture's conversation: how many pictures, then each path and its answer.  Returns the exit status."""
    _restored_network(model_dir)  # If there is none, this is said before the first question.
    status = 0
    try:
        for _ in range(_ask_how_many()):
            path = _ask_path()
            try:
                pixels = pre_pic(path, model_dir)
                answer = restore_model(pixels, model_dir)
            except PictureError as error:
                answer = Answer(error=str(error))
            if answer.error:
                print(f"{path}: {answer.error}")
                status = NOT_ALL_ANSWERED
            else:
                print(f"The prediction number is: {answer.number}")
                print(f"({answer.confidence:.1%} sure)")
    except EOFError:
        print("\nThe input ended before the last picture.")
        status = 1
    return status


def _ask_how_many():
    """Ask until a number from 1 to 999,999,999 is typed."""
    while True:
        typed = input("input the number of test pictures:").strip()
        # int() would also take other scripts' digits, and fail at thousands of them.
        if re.fullmatch("0{,9}[1-9][0-9]{,8}", typed):
            return int(typed)
        print(f"{typed!r} is no number of pictures: type 1, 2, 3, ...")


def _ask_path():
    """Ask until a path is typed."""
    while True:
        path = _given_path(input("the path of test picture:"))
        if path:
            return path
        print("That is no path: type the path of a picture.")


def _given_path(text):
    """The path that a user means who types it or drags it onto the terminal: quotes, blanks, backslashes and `~`."""
    typed = text.strip()
    candidates = [typed, typed.strip("'\""), re.sub(r"\\(.)", r"\1", typed)]
    paths = [os.path.expanduser(path) for path in candidates]
    return next(filter(os.path.exists, paths), paths[0])


def main():
    parser = argparse.ArgumentParser(description="Read pictures of handwritten digits.")
    parser.add_argument("pictures", nargs="*", help="pictures, folders of pictures, patterns; none: ask for them")
    parser.add_argument("--model", type=Path, default=MODEL_SAVE_PATH, help="folder of the checkpoints (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--look", type=Path, metavar="DIR", help="save there what was found, seen and answered")
    parser.add_argument("--export", type=Path, metavar="DIR", help="write the network there as a SavedModel, and end")
    args = parser.parse_args()
    if args.export and (args.pictures or args.look or args.json):
        parser.error("--export reads no pictures: give it alone")
    if (args.look or args.json) and not args.pictures:
        parser.error("--look and --json need pictures on the command line")
    if args.export:
        return export_model(args.model, args.export)
    if not args.pictures:
        return application(args.model)
    return _answer_arguments(args)


def _answer_arguments(args):
    """Print one line for each picture that the command line names; returns the exit status."""
    status = 0
    album = _Album(args.look, read_class_names(args.model)) if args.look else None
    for reading in read_pictures(list_pictures(args.pictures), args.model):
        if album:
            album.add(reading)
        print(_as_json(reading) if args.json else f"{reading.path}: {reading.answer}", flush=True)
        if reading.answer.error:
            status = NOT_ALL_ANSWERED
    if album:
        album.save_sheet()
    return status


def _as_json(reading):
    """One line of JSON: the picture's path, and either an error, or its digits and their probability.

    With the digits go the probability of each, and its box: left, top, right, bottom in pixels of the upright picture.
    """
    answer = reading.answer
    said = {"picture": reading.path}
    if answer.error:
        said["error"] = f"The picture {answer.error}"
    else:
        said["digits"] = answer.number
        said["probability"] = round(answer.confidence, 4)
        said["each"] = [round(float(guesses[0][1]), 4) for guesses in answer.guesses]
        said["boxes"] = np.rint(reading.found.boxes * reading.found.scale).astype(int).tolist()
    return json.dumps(said)


def list_pictures(arguments):
    """Yield the path of each picture that the arguments name: files, folders and patterns such as `pic/*.png`."""
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    suffixes |= _UNREADABLE_PHOTOS
    for argument in arguments:
        is_pattern = not os.path.exists(argument)
        matches = glob.glob(argument, recursive=True) if is_pattern else [argument]
        found = set()
        for match in matches:
            if os.path.isdir(match):
                inside = glob.glob(os.path.join(glob.escape(match), "*"))
                found.update(path for path in inside if os.path.splitext(path)[1].lower() in suffixes)
            else:
                found.add(match)
        yield from sorted(found) or [argument]


# ======== pre_pic and restore_model


class PictureError(Exception):
    """What is wrong with a picture and what cures it: the rest of a sentence that begins with its path.

    Attributes:
      found: the Found of a picture that is refused although something was found in it; else None.
    """

    def __init__(self, sentence, found=None):
        super().__init__(sentence)
        self.found = found


_NO_DIGIT = "shows no digit: write larger or with a darker pen."
_UNCLEAR = "shows nothing that is clearly a digit: write larger, or leave a gap between digits."
_NO_WRITING = "shows something else than writing: photograph digits that a pen wrote on plain paper."


def pre_pic(picture_path, model_dir=None, return_found=False):
    """Bring a picture of digits to what the network was trained on (lecture 6.1).

    Args:
      picture_path: the picture.
      model_dir: the folder of the checkpoints.  The network there helps to tell digits from lines, shadows and blots,
        and to cut digits that touch; without it only clear sheets are understood.
      return_found: whether to return the whole Found instead of its pixels alone.

    Returns pixels, float32 [n, 784], the n digits in reading order, 0 = paper .. 1 = ink, in MNIST's form.  Raises
    PictureError where the picture can't be read or shows no digit, and where _find_refusal refuses it.
    """
    picture, scale = open_with_scale(picture_path)
    judge = functools.partial(_judge, model_dir=model_dir) if model_dir else None
    found = find_digits(picture, judge)._replace(scale=scale)
    refusal = _find_refusal(found, picture, read_class_names(model_dir)) if model_dir else None
    if refusal:
        raise PictureError(refusal, found)
    return found if return_found else found.pixels


def _judge(pixels, model_dir):
    """The Judgement of the pixels [n, 784] by the network of a model folder."""
    sess, x, y = _restored_network(model_dir)
    return judge_digits(pixels, sess.run(y, {x: pixels}), model_dir)


class Answer(NamedTuple):
    """What the network says of the digits of one picture."""

    number: str = ""  # the digits' classes; with a blank between them where a class's name is longer than one letter
    confidence: float = 0.0  # the probability, 0..1, that every digit is right, each taken for itself
    guesses: tuple = ()  # for each digit its three likeliest classes, ((name, probability), ...)
    error: str = ""  # why there is no number, as a PictureError says it; the other fields are then not to be believed

    def __str__(self):
        return self.error or f"{self.number} ({self.confidence:.1%})"


def restore_model(pixels, model_dir=MODEL_SAVE_PATH):
    """Let the restored network answer (lecture 6.1).

    The network is restored once for each folder; the lecture restores it for each picture.

    Args:
      pixels: the digits of one picture, float32 [n, 784], as pre_pic returns them.
      model_dir: the folder of the checkpoints.

    Returns an Answer.  Raises UserError where the folder holds no whole checkpoint of this network.
    """
    sess, x, y = _restored_network(model_dir)
    probabilities = sess.run(y, {x: pixels})
    names = read_class_names(model_dir)
    guesses = []
    for of_one_digit in probabilities:
        likeliest = np.argsort(-of_one_digit)[:3]
        guesses.append(tuple((names[i], of_one_digit[i]) for i in likeliest))
    between = "" if max(map(len, names)) == 1 else " "
    number = between.join(of_one_digit[0][0] for of_one_digit in guesses)
    return Answer(number, float(probabilities.max(axis=1).prod()), tuple(guesses))


# A digit moved by a pixel, (down, right), is the same digit: the mean over five places errs less than one does.
_PLACES = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]


def build_answer(x, classes):
    """Build the network as it answers: the mean of its probabilities over a digit and the same moved by a pixel.

    Args:
      x: pictures, float32 [n, 784].
      classes: how many.

    Returns (probabilities, float32 [n, classes]; the Restorable that fills the network).
    """
    # A margin of one pixel, so that the ink which is moved out of the picture does not come in again on the other side.
    framed = tf.pad(tf.reshape(x, [-1, IMAGE_SIDE, IMAGE_SIDE]), [[0, 0], [1, 1], [1, 1]])
    # Pixel [r, c] of a moved picture is pixel [r - down, c - right] of x, which is [1 + r - down, 1 + c - right] here.
    moved = [framed[:, 1 - down :, 1 - right :][:, :IMAGE_SIDE, :IMAGE_SIDE] for down, right in _PLACES]
    moved = tf.reshape(tf.stack(moved), [-1, INPUT_NODE])  # from [5, n, 28, 28]: first all digits of the first place
    scores, restorable = mnist_forward.build_averaged_network(moved, classes)
    of_each_place = tf.reshape(tf.nn.softmax(scores), [len(_PLACES), -1, classes])
    return tf.reduce_mean(of_each_place, axis=0), restorable


@functools.cache
def _restored_network(model_dir):
    """(sess, x, y) of the newest checkpoint in a folder: pictures x [n, 784] to probabilities y [n, classes].

    Raises UserError where there is none that is whole and this network's.
    """
    with tf.Graph().as_default():
        x = tf.placeholder(tf.float32, [None, INPUT_NODE])
        y, restorable = build_answer(x, len(read_class_names(model_dir)))
        sess = tf.Session()
    if not mnist_forward.restore_newest(sess, restorable, model_dir):
        raise UserError(f"{model_dir} holds no checkpoint: run mnist_backward.py first.")
    return sess, x, y


def export_model(model_dir, export_dir):
    """Write the restored network to a new folder as a SavedModel: `pictures` to `probabilities`, as in build_answer.

    Its weights are constants, so that TensorFlow 2 loads it as it is.  It gives the probabilities of restore_model, but
    refuses nothing.
    """
    if export_dir.exists():
        raise UserError(
            f"{export_dir} exists: name a new folder, for TensorFlow Serving a number in the model's folder."
        )
    sess, x, y = _restored_network(model_dir)
    frozen = tf.graph_util.convert_variables_to_constants(sess, sess.graph_def, [y.op.name])
    mnist_forward.make_dir(export_dir.parent, "--export")
    with (
        tempfile.TemporaryDirectory(prefix=".export-", dir=export_dir.parent) as part_dir,
        tf.Graph().as_default(),
        tf.Session() as frozen_sess,
    ):
        pictures, probabilities = tf.import_graph_def(frozen, return_elements=[x.name, y.name], name="")
        new_dir = os.path.join(part_dir, "new")
        tf.saved_model.simple_save(frozen_sess, new_dir, {"pictures": pictures}, {"probabilities": probabilities})
        os.rename(new_dir, export_dir)
    print(f"{export_dir} is a SavedModel with the answers of {model_dir}")


class Reading(NamedTuple):
    """One picture, what was found in it, and the Answer to it."""

    path: str
    answer: Answer
    found: "Found" = None  # None where the picture could not be read, or nothing was found in it


def read_picture(path, model_dir):
    """The Reading of the picture at `path`."""
    try:
        found = pre_pic(path, model_dir, return_found=True)
    except PictureError as error:
        # What the network says of a refused picture is shown by --look.
        answer = restore_model(error.found.pixels, model_dir) if error.found else Answer()
        return Reading(path, answer._replace(error=str(error)), error.found)
    return Reading(path, restore_model(found.pixels, model_dir), found)


def read_pictures(paths, model_dir):
    """Yield the Reading of each path, in order; several pictures are in work at once."""
    # All are kept once they are read.  Threads that began without them would each read them anew.
    _restored_network(model_dir)
    _read_outlines(model_dir)
    _whole_digit_network()
    yield from map_in_threads(functools.partial(read_picture, model_dir=model_dir), paths)


def map_in_threads(function, items):
    """Yield function(item) for each item, in order; each processor that this program may use works on one item.

    No more than a few items are in work at a time, so that a million items need no more memory than ten.
    """
    processors = count_processors()
    futures = collections.deque()
    with ThreadPoolExecutor(processors) as pool:
        for item in items:
            futures.append(pool.submit(function, item))
            if len(futures) > 2 * processors:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()


def count_processors():
    """Count the processors that this program may use; in a container they may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # Windows and macOS have no such function.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ======== Opening a picture

# A picture is read with a longest side of at most this many pixels.  A digit of a twentieth of it is then 50 pixels
# high, twice what the network sees.
_LONGEST_SIDE = 1000
# A picture may have at most this many pixels, and so may all pictures together that threads decode at the same time,
# since more might not fit into memory.
_MOST_PIXELS = 100_000_000
# Formats of telephones and cameras that Pillow does not read.  In a folder they count as pictures all the same, so that
# they are refused by name and not left out without a word.
_UNREADABLE_PHOTOS = {".heic", ".heif", ".hif", ".jxl", ".dng"}


def open_picture(path):
    """The picture at `path` as float32 [h, w, 3] in 0..1, upright, at most _LONGEST_SIDE long; raises PictureError."""
    return open_with_scale(path)[0]


def open_with_scale(path):
    """Open the picture at `path`; raises PictureError.

    Returns (what open_picture returns; the scale: one pixel of that picture is so many pixels wide in the file).
    """
    if os.path.isdir(path):
        raise PictureError("is a folder and no picture: name a picture in it, or put some there.")
    Image.init()
    harmless = [name for name in Image.ID if name != "EPS"]  # For PostScript Pillow would start another program.
    try:
        with Image.open(path, formats=harmless) as image:
            longest = max(image.size)  # in the file: `draft` changes the size
            image.draft("RGB", (2 * _LONGEST_SIDE, 2 * _LONGEST_SIDE))  # A JPEG is decoded at a fraction of its size.
            if image.width * image.height > _MOST_PIXELS:
                raise Image.DecompressionBombError
            with _pixel_budget.spend(image.width * image.height):
                picture = _decode(image)
                return picture, longest / max(picture.shape[:2])
    except Image.DecompressionBombError:
        raise PictureError(f"has more than {_MOST_PIXELS} pixels: scale it down.") from None
    except Exception as error:  # A damaged file makes Pillow trip over anything.
        raise PictureError(_explain(path, error)) from None


class _PixelBudget:
    """A number of pixels that threads share, so that the pictures which they decode at one time fit into memory."""

    def __init__(self, pixels):
        self.left = pixels
        self.changed = threading.Condition()

    @contextlib.contextmanager
    def spend(self, pixels):
        """Take a number of pixels for the length of the block, after waiting until as many are left."""
        with self.changed:
            self.changed.wait_for(lambda: pixels <= self.left)
            self.left -= pixels
        try:
            yield
        finally:
            with self.changed:
                self.left += pixels
                self.changed.notify_all()


_pixel_budget = _PixelBudget(_MOST_PIXELS)


def _decode(image):
    """An opened Pillow image as open_picture returns it."""
    ImageOps.exif_transpose(image, in_place=True)
    image = _to_8_bits(image)
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(image.convert("RGB"), np.float32) / 255


def _explain(path, error):
    """Why a picture can't be opened, and what cures that, as the text of a PictureError."""
    suffix = os.path.splitext(path)[1].lower()
    if getattr(error, "strerror", None):
        return f"can't be read ({error.strerror}): check the path."
    if suffix in _UNREADABLE_PHOTOS:
        cure = "save it as JPEG; an iPhone does so by Settings, Camera, Formats, Most Compatible"
        return f"can't be read (Pillow does not know {suffix}): {cure}."
    return f"can't be read ({_first_words(error)}): save it again as PNG or JPEG."


def _first_words(error):
    """What an error of Pillow says, in one line and without the file's name, which is said elsewhere."""
    return " ".join(str(error).split()).partition(" file '")[0] or type(error).__name__


def _to_8_bits(image):
    """A Pillow image of any mode as mode L or RGB, 8 bits a channel."""
    if image.mode[0] in "IF":
        return _from_deep_levels(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _from_transparent(image)
    return image.convert("RGB")


def _from_deep_levels(image):
    """An image of 16 or 32 bits a pixel as mode L: these have no agreed white, so their own range is black to white."""
    # All in place, since such an image may fill the memory.
    levels = np.array(image, np.float32)
    np.nan_to_num(levels, copy=False)
    np.clip(levels, -1e9, 1e9, out=levels)
    levels -= levels.min()
    levels /= max(levels.max(), 1e-9)
    levels *= 255
    return Image.fromarray(levels.astype(np.uint8))


def _from_transparent(image):
    """A transparent image as RGB, on white or black, whichever contrasts with what is opaque."""
    image = image.convert("RGBA")
    pixels = np.asarray(image.resize([min(side, 250) for side in image.size]), np.float32)
    shade = np.average(pixels[..., :3].mean(2), weights=pixels[..., 3] + 1e-6)
    ground = Image.new("RGBA", image.size, "white" if shade < 128 else "black")
    return Image.alpha_composite(ground, image).convert("RGB")


# ======== Finding digits

# A picture whose longest side is at most so many pixels shows one digit: two legible ones do not fit side by side.
_ONE_DIGIT_SIDE = 40
# A small picture is enlarged by a whole number until its longest side is at least so many pixels: a 28x28 picture four
# times.  A stroke is then several pixels wide and has edges.
_ENLARGED_SIDE = 112
# What is smaller than this share of the picture is a blot, or too far away to be read ...
_SMALLEST = 1 / 30
# ... unless it is at least this share of the usual size of the digits in the picture.
_HARDLY_SMALLER = 0.75


class Found(NamedTuple):
    """The digits that were found in a picture, in reading order, and how they were found."""

    pixels: np.ndarray  # the n digits in MNIST's form, float32 [n, 784], 0 = paper .. 1 = ink
    boxes: np.ndarray  # left, top, right, bottom of each in pixels of the picture, float [n, 4]
    sizes: np.ndarray  # the widths and the heights of the digits, float [2, n]; where rows lean, those of level rows
    cuts: np.ndarray  # where touching digits were cut: the two ends of each cut, x, y, x, y, float [c, 4]
    lines: np.ndarray  # the printed lines that were taken out, in the form of the cuts, float [l, 4]
    # For each digit the log odds that it is a whole digit, float [n].  With p its probability, these are
    # log(p / (1 - p)): 0 where p is 0.5, -1 where p is 0.27, -4 where p is 0.02, and 2 where p is 0.88.
    log_odds: np.ndarray
    confidence: np.ndarray  # for each digit the network's probability of its likeliest class, float [n]
    is_refused: np.ndarray  # bool [n], which of them are refused, as judge_digits says
    strokes: tuple = ()  # the _Strokes of the pieces of ink in which the digits were found
    share_of_ink: float = 1.0  # these pieces' share of the ink on the sheet, of which smudges and frames are no part
    coverage: float = 0.0  # this ink's share of the view in which it was found; a very small picture got a margin there
    is_ink_light: bool = False  # whether the ink is lighter than its ground, as chalk on a board is
    scale: float = 1.0  # one pixel of `boxes`, `cuts` and `lines` is this many of the file, which may be larger


def find_digits(picture, judge=None):
    """Find the digits of a picture.

    What is ink, and where a digit ends, is decided by what the network recognises.  So the picture is seen in several
    ways, the plain one first, until in one of them every piece of ink is a clear digit.  Where none of them succeeds,
    the first way wins, unless a later one has clearly more evidence, or needs fewer cuts where all digits were cut out
    of one piece.

    Args:
      picture: float32 [h, w, 3] in 0..1, as open_picture returns it.
      judge: a function of pixels, float32 [n, 784], that returns their Judgement.  Without `judge` the picture is seen
        in the plain way only, touching digits are not cut, and small digits far from the others are not looked for.

    Returns a Found.  Raises PictureError where no digit is found.
    """
    grey = _grey_from_colour(picture)
    shows_one_digit = max(grey.shape) <= _ONE_DIGIT_SIDE
    factor = math.ceil(_ENLARGED_SIDE / max(grey.shape))
    grey = _resize(grey, *(side * factor for side in grey.shape))
    margin = 0
    if shows_one_digit:  # The digit may fill the picture, but paper must be seen round it.
        margin = max(grey.shape) // 2
        rim = [*grey[0], *grey[-1], *grey[:, 0], *grey[:, -1]]
        grey = np.pad(grey, margin, constant_values=np.median(rim))
    best = _find_best(grey, shows_one_digit, judge)
    in_picture = {name: (getattr(best, name) - margin) / factor for name in ("boxes", "cuts", "lines")}
    # The upright box round a turned one may go beyond the picture.
    height, width = picture.shape[:2]
    in_picture["boxes"] = np.clip(in_picture["boxes"], 0, [width, height, width, height])
    return best._replace(**in_picture, sizes=best.sizes / factor)


# What the log odds of a digit (see judge_digits) mean for the choice between two ways to see a picture, and between the
# ways to join and to cut pieces of ink.  Above the first limit a piece is more likely one whole digit than not.  Below
# the second one it may well be something else.  Rare forms of a digit in real hands have log odds down to about the
# third limit.  So only what is below that one is surely no digit.
_LIKELY_LOG_ODDS = 0.0
_DOUBTFUL_LOG_ODDS = -1.25
_INCREDIBLE_LOG_ODDS = -4.0
# A second look counts only if the mean of its log odds is above this limit.
_IMPROBABLE_LOG_ODDS = -1.2
# The evidence of a digit goes from -1 to 1.  Where most digits of the best way so far are credible, another way must
# have this much more evidence if it finds the same number of digits ...
_LEAST_GAIN = 0.3
# ... and this much more if it finds another number of digits: a little less than what one piece costs that is surely no
# digit.
_LEAST_GAIN_OF_OTHER_NUMBER = 0.95
# Clear digits are at least this share of all ink on the sheet.
_SHARE_OF_CLEAR_DIGITS = 0.9
# Any stroke looks like a 1.  So a digit whose width is less than the first share of its height has less weight, down to
# the second number.
_NARROW = 0.5
_WEIGHT_OF_STROKE = 0.3


def _find_best(grey, shows_one_digit, judge):
    """The best Found of all ways to see the picture grey [h, w], in pixels of `grey`; see find_digits."""
    best = None
    first_error = None
    views = _list_views(grey, shows_one_digit)
    if judge is None:
        views = itertools.islice(views, 1)
    for i, make_view in enumerate(views):
        try:
            found = _read_view(make_view(), shows_one_digit, judge)
        except PictureError as error:
            first_error = first_error or error
            continue
        # A second look finds digits in almost anything, so digits that are improbable on average do not count there.
        is_worth_it = i == 0 or found.log_odds.mean() > _IMPROBABLE_LOG_ODDS
        if is_worth_it and (best is None or _explains_more(found, best)):
            best = found
        if best is not None and _needs_no_other_look(best):
            break
    if best is None:
        raise first_error
    return best


def _explains_more(found, best):
    """Whether a Found explains so much more than the best one before it that it is to be preferred."""
    # A way that needs fewer cuts is the simpler explanation.
    needs_fewer_cuts = len(found.cuts) < len(best.cuts)
    are_several_likely = len(found.log_odds) > 1 and (found.log_odds > _LIKELY_LOG_ODDS).all()
    # Digits that a line had joined may be less likely, since they lost some ink with the line.
    explains_piece = are_several_likely or _share_long_line(found)
    if needs_fewer_cuts and _is_one_piece(best) and explains_piece and _is_credible(found).all():
        return True
    if needs_fewer_cuts or _is_credible(best).mean() <= 0.5:
        least_gain = 0
    elif len(found.log_odds) == len(best.log_odds):
        least_gain = _LEAST_GAIN
    else:
        least_gain = _LEAST_GAIN_OF_OTHER_NUMBER
    return _sum_evidence(found) > _sum_evidence(best) + least_gain


# A printed line goes on beyond the digits for more than this share of their height; the joined bars of two 7s do not.
_BEYOND_DIGITS = 0.1


def _share_long_line(found):
    """Whether the digits of a Found, two or more, have one long line, which was taken out and may have joined them."""
    beyond = _BEYOND_DIGITS * np.median(found.sizes[1])
    start = found.boxes[:, 0].min() - beyond
    end = found.boxes[:, 2].max() + beyond
    return len(found.boxes) > 1 and bool(((found.lines[:, 0] < start) & (found.lines[:, 2] > end)).any())


def _sum_evidence(found):
    """How much speaks for a Found: the weighted sum over its digits, each from -1, surely none, to 1, surely one."""
    evidence = np.tanh(found.log_odds / 2)  # This is 2 * p - 1, with p the probability.
    # A rare form of a digit is no evidence against a Found.
    evidence = np.where(_is_credible(found), np.maximum(evidence, 0), evidence)
    width, height = found.sizes
    weight = np.clip(width / height / _NARROW, _WEIGHT_OF_STROKE, 1)
    return (weight * evidence).sum()


def _is_credible(found):
    """bool [n]: which digits of a Found may be digits, if perhaps of a rare form."""
    return ~found.is_refused & (found.log_odds > _INCREDIBLE_LOG_ODDS)


def _needs_no_other_look(found):
    """Whether a Found is clear: no digit is doubtful, not all are of one piece of ink, and hardly any ink is left."""
    is_clear = not found.is_refused.any() and (found.log_odds > _DOUBTFUL_LOG_ODDS).all()
    return is_clear and not _is_one_piece(found) and found.share_of_ink >= _SHARE_OF_CLEAR_DIGITS


def _is_one_piece(found):
    """Whether the digits of a Found, two or more, were all cut out of one piece of ink."""
    return 0 < len(found.cuts) == len(found.log_odds) - 1


class _View(NamedTuple):
    """One way to see a picture: how much each pixel stands out from the paper."""

    contrast: np.ndarray  # float32 [h, w], 1 = black on white
    threshold: float  # the contrast above which a pixel is ink
    lines: np.ndarray  # the printed lines that were taken out, float [l, 4]
    to_picture: Callable  # converts points of the view, x and y, float [p, 2], to points of the picture
    is_ink_light: bool = False  # whether the ink is lighter than the paper; it stands out from it all the same


def _list_views(grey, shows_one_digit):
    """Yield the ways to see the picture grey [h, w], the plain one first.

    Each way is a function that makes a _View, or raises PictureError.  Functions are yielded, not views, since an
    exception inside a generator would end it.
    """

    @functools.cache
    def plain():
        return _see_picture(grey, shows_one_digit)

    yield plain
    yield lambda: _keep_darker_ink(plain())
    yield lambda: _without_lines(plain())
    yield lambda: _without_lines(plain(), is_baseline=True)
    if not shows_one_digit:
        yield lambda: _turn_level(plain())
    yield lambda: _see_smoothed(grey, shows_one_digit)
    cut_out = _cut_sheet_out(grey)
    if cut_out is not None:
        grey_of_sheet, corner, outside = cut_out

        @functools.cache
        def on_sheet():
            seen = _see_picture(grey_of_sheet, shows_one_digit)
            contrast = np.where(outside, 0, seen.contrast)
            return seen._replace(contrast=contrast, to_picture=lambda points: points + corner)

        yield on_sheet
        yield lambda: _without_lines(on_sheet())


# Rows that lean by fewer degrees than this are level.
_LEAST_LEAN = 5


def _turn_level(view):
    """A _View turned so that its rows of digits are level; raises PictureError where they are level already."""
    pieces = _find_pieces(view.contrast, view.threshold)
    lean = _measure_lean(np.array([pieces.frame_of(group) for group in _group_into_digits(pieces)]))
    if abs(lean) < _LEAST_LEAN:
        raise PictureError(_NO_DIGIT)
    # What lies beside the paper is known by the rim of the picture, which is not that of the turned one.
    image = Image.fromarray(np.where(_find_ink_beside_paper(view), 0, view.contrast).astype(np.float32))
    turned = image.rotate(lean, Image.Resampling.BILINEAR, expand=True)
    # The middle of the picture stays the middle.  Turned back, the point (1, 0) beside it becomes (cos, sin).
    cos = math.cos(math.radians(lean))
    sin = math.sin(math.radians(lean))
    turn_back = np.array([[cos, sin], [-sin, cos]])
    old_middle = np.array(image.size) / 2
    new_middle = np.array(turned.size) / 2

    def to_picture(points):
        return view.to_picture((points - new_middle) @ turn_back + old_middle)

    lines = ((view.lines.reshape(-1, 2) - old_middle) @ turn_back.T + new_middle).reshape(-1, 4)
    return view._replace(contrast=np.asarray(turned), lines=lines, to_picture=to_picture)


# There are two inks if their two means explain at least this share of the variance of all ink.  One ink, of normally
# distributed darkness, split at its mean, has 0.64.
_TWO_INKS = 0.73
# The darkness of the ink at a place is the mean over this share of a stroke's width to each side.
_DARKNESS_REACH = 1 / 6


def _keep_darker_ink(view):
    """The _View with only the darker of two inks, as a pen on a paler form; raises PictureError where there is one.

    Printed lines that are paler than the pen go without a trace, however thick they are.
    """
    ink = view.contrast > view.threshold
    core = _erode(ink, 3, 3)  # without the strokes' pale edges
    if not core.any():
        raise PictureError(_NO_DIGIT)
    reach = max(1, round(_DARKNESS_REACH * _stroke_width(ink)))
    share_of_core = _blur(core.astype(np.float32), reach)
    darkness = _blur(np.where(core, view.contrast, 0), reach) / np.maximum(share_of_core, 0.01)
    limit, explained = _split_in_two(darkness[core])
    if explained < _TWO_INKS:
        raise PictureError(_NO_DIGIT)
    return view._replace(contrast=np.where(ink & (darkness > limit), view.contrast, 0))


def _blur(grey, reach):
    """grey [h, w] in 0..1, each pixel the mean over those that are at most `reach` rows and columns away."""
    image = Image.fromarray(np.uint8(np.clip(grey, 0, 1) * 255))
    return np.asarray(image.filter(ImageFilter.BoxBlur(reach)), np.float32) / 255


def _split_in_two(values):
    """Otsu's method: split values, float [n], so that the means of the two parts explain most of the variance.

    Returns (the largest value of the lower part; the share of the variance that the two means explain).
    """
    values = np.sort(values)
    count = np.arange(1, len(values) + 1)  # of the lower part
    share = count / len(values)
    # If d is the distance from the mean of all to that of the lower part, the two means have the variance
    # d * d * share / (1 - share).
    distance = values.mean() - np.cumsum(values, dtype=float) / count
    variance = distance**2 * share / np.maximum(1 - share, 1e-9)
    best = variance[:-1].argmax() if len(values) > 1 else 0
    return values[best], variance[best] / max(values.var(), 1e-9)


# The grain of coarse paper is finer than so many pixels.
_GRAIN = 3
# Paper is smooth where half of the pixels differ from their neighbours by less than this share of the contrast that
# makes a pixel ink.
_LEAST_GRAIN = 0.05
# More digits than these are small and close to each other, so that smoothing joins them.
_MOST_DIGITS_TO_SMOOTH = 20


def _see_smoothed(grey, shows_one_digit):
    """The _View of the picture grey [h, w] without the grain of coarse paper.

    Raises PictureError for many digits on smooth paper.  Smoothing would only join them, and to cut them apart again
    takes time.
    """
    smoothed = _smooth(grey)
    view = _see_picture(smoothed, shows_one_digit)
    has_grain = np.median(np.abs(grey - smoothed)) > _LEAST_GRAIN * view.threshold
    if not has_grain and _count_groups(view) > _MOST_DIGITS_TO_SMOOTH:
        raise PictureError(_NO_DIGIT)
    return view


def _smooth(grey):
    """grey [h, w], each pixel the mean of its neighbours."""
    height, width = grey.shape
    coarse = _resize(grey, -(-height // _GRAIN), -(-width // _GRAIN), Image.Resampling.BOX)
    return _resize(coarse, height, width)


def _count_groups(view):
    """How many digits the ink of a _View makes where none of them touch."""
    return len(_group_into_digits(_find_pieces(view.contrast, view.threshold)))


def _see_picture(grey, shows_one_digit):
    """The _View of the picture grey [h, w] as it is, without ruling."""
    is_ink_light = not _is_ink_dark(grey)
    contrast, threshold = _measure_ink(-grey if is_ink_light else grey)
    if shows_one_digit:  # So few pixels are mostly edges, and an edge lies where the contrast is half the full ink's.
        threshold = np.percentile(contrast, 99.5) / 2
    view = _View(contrast, threshold, np.zeros([0, 4]), lambda points: points, is_ink_light)
    return _remove_lines(view, _RULING_SHARE, max(3, _RULING_THICKNESS * min(grey.shape)), least_count=2)


# A sheet of more digits than these is a page.  On a page no digits are cut apart, since that would take too long.
# Where digits touch, a piece counts for as many as its height goes into its width.
_MOST_DIGITS_TO_CUT = 60


def _read_view(view, shows_one_digit, judge):
    """Find the digits of a _View; returns a Found.  Raises PictureError where there is none.

    With `shows_one_digit` all pieces of ink are taken for one digit; `judge` is as for find_digits.
    """
    pieces = _find_pieces(view.contrast, view.threshold)
    parts, smudges = _set_smudges_apart(_find_parts(view, pieces, shows_one_digit, judge))
    if judge is not None:
        parts = _judge_and_mend(parts, view, pieces, judge)
    if not parts:
        raise PictureError(_NO_DIGIT)
    parts = _drop_upright_lines(parts, view.contrast.shape)
    if judge is not None:
        parts = _drop_blots(parts)
    strokes = tuple(part.strokes for part in parts)
    ink_on_paper = pieces.areas[pieces.on_paper].sum() - sum(part.strokes.area for part in smudges)
    count = sum(max(1, (right - left) / (bottom - top)) for left, top, right, bottom in (part.box for part in parts))
    if judge is not None and not shows_one_digit and count <= _MOST_DIGITS_TO_CUT:
        parts = [one for part in parts for one in _split(part, judge)]
    order = _reading_order(np.array([part.box for part in parts]))
    parts = [parts[i] for i in order]
    boxes = np.array([part.box for part in parts])
    cuts = np.reshape([part.cut for part in parts if part.cut is not None], [-1, 4])
    return Found(
        np.stack([part.pixels for part in parts]),
        _place_boxes(view, boxes),
        (boxes[:, 2:] - boxes[:, :2]).T,
        _place_ends(view, cuts),
        _place_ends(view, view.lines),
        np.array([part.log_odds for part in parts]),
        np.array([part.confidence for part in parts]),
        np.array([part.is_refused for part in parts]),
        strokes,
        sum(each.area for each in strokes) / ink_on_paper,
        ink_on_paper / view.contrast.size,
        view.is_ink_light,
    )


def _judge_and_mend(parts, view, pieces, judge):
    """The _Parts with their Judgement, of which broken ones are mended and doubtful loose ones are left out."""
    parts = _doubt_frames(_judge_parts(parts, judge))
    parts = _move_fragments(parts, view.contrast, pieces, judge)
    parts = _join_broken(parts, view.contrast, pieces, judge)
    parts = [part for part in parts if not part.is_loose or part.log_odds > _DOUBTFUL_LOG_ODDS]
    return _add_pale_strokes(parts, view, pieces, judge)


def _find_parts(view, pieces, shows_one_digit, judge):
    """The _Parts that the pieces of ink of a _View make, not judged yet; the other arguments are as for _read_view.

    Raises PictureError where all are too small.
    """
    groups = [np.flatnonzero(pieces.keep)] if shows_one_digit else _group_into_digits(pieces)
    smallest = _SMALLEST * max(view.contrast.shape)
    sizes = np.array([max(pieces.size_of(group)) for group in groups])
    if sizes.max() < smallest:
        raise PictureError("shows no digit, only a dot: come nearer with the camera.")
    # Where some are large enough, others that are hardly smaller are digits, too.
    least = min(smallest, _HARDLY_SMALLER * np.median(sizes[sizes >= smallest]))
    groups = [group for group, size in zip(groups, sizes, strict=True) if size >= least]
    loose_groups = []
    if judge is not None and not shows_one_digit:
        take_apart = functools.partial(_take_apart, view.contrast, pieces, judge=judge)
        loose_groups = list(itertools.chain.from_iterable(map(take_apart, _list_loose_digits(pieces, groups))))
        groups = list(itertools.chain.from_iterable(map(take_apart, groups)))
    parts = [_make_part(view.contrast, pieces, group) for group in groups]
    return parts + [_make_part(view.contrast, pieces, group, is_loose=True) for group in loose_groups]


def _place_ends(view, ends):
    """The ends of lines in a _View, x, y, x, y, float [l, 4], in pixels of the picture."""
    return view.to_picture(ends.reshape(-1, 2)).reshape(-1, 4)


def _place_boxes(view, boxes):
    """The boxes in a _View, float [n, 4], in pixels of the picture; round a turned box its upright box."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)  # four of each box
    placed = view.to_picture(corners).reshape(-1, 4, 2)
    return np.concatenate([placed.min(axis=1), placed.max(axis=1)], axis=1)


class _Part(NamedTuple):
    """Ink that is taken for one digit."""

    pixels: np.ndarray  # float32 [784], in MNIST's form
    box: np.ndarray  # left, top, right, bottom
    group: np.ndarray = None  # int [m], the numbers of the pieces of ink
    ink: np.ndarray = None  # float32 [h, w], as _cut_out returns it, with its margin
    full_ink: float = 1.0  # the contrast of its dark strokes
    strokes: "_Strokes" = None  # what its strokes are like
    is_loose: bool = False  # It is small and far from the others, so it is dropped where it is doubtful.
    log_odds: float = 0.0  # this and the two below: its Judgement
    confidence: float = 0.0
    is_refused: bool = False
    cut: np.ndarray = None  # the cut to its left, x, y, x, y


def _make_part(contrast, pieces, group, is_loose=False):
    """The _Part of the pieces with the numbers `group`, not judged yet."""
    frame = np.array(pieces.frame_of(group))
    ink, full_ink = _cut_out(contrast, pieces, group, frame)
    left, top, right, bottom = frame
    strokes = _measure_strokes(np.isin(pieces.labels[top:bottom, left:right], group))
    return _Part(_to_mnist(ink), frame, group, ink, full_ink, strokes, is_loose)


# The strokes of a digit have at least this share of the contrast that those of most others have.
_PALEST_DIGIT = 0.4


def _set_smudges_apart(parts):
    """Split _Parts into (digits, smudges and shadows).  Of fewer than three all are digits."""
    least = _PALEST_DIGIT * np.median([part.full_ink for part in parts]) if len(parts) >= 3 else 0
    digits = [part for part in parts if part.full_ink >= least]
    smudges = [part for part in parts if part.full_ink < least]
    return digits, smudges


def _judge_parts(parts, judge):
    """The _Parts with their Judgement."""
    judgement = judge(np.stack([part.pixels for part in parts]))
    return [part._replace(**judgement.of(i)) for i, part in enumerate(parts)]


def _doubt_frames(parts):
    """The judged _Parts, of which those that go round two or more others, as a printed box, are surely no digits."""
    left, top, right, bottom = np.array([part.box for part in parts]).T
    is_inside = np.less.outer(left, left) & np.less.outer(top, top)
    is_inside &= np.greater.outer(right, right) & np.greater.outer(bottom, bottom)
    is_frame = is_inside.sum(axis=1) >= 2
    return [
        part._replace(log_odds=min(part.log_odds, 2 * _INCREDIBLE_LOG_ODDS)) if is_one else part
        for part, is_one in zip(parts, is_frame, strict=True)
    ]


def _move_fragments(parts, contrast, pieces, judge):
    """The judged _Parts, of which fragments go to another digit near them if that makes likely digits of both.

    A fragment, such as the bar of a 5, may be nearer to the next digit than to its own.
    """
    moves = _list_moves(parts, pieces)
    if not moves or len(parts) > _MOST_DIGITS_TO_CUT:
        return parts
    smaller = []
    larger = []
    for giver, taker, fragment in moves:
        rest = np.setdiff1d(parts[giver].group, [fragment])
        smaller.append(_make_part(contrast, pieces, rest, parts[giver].is_loose))
        whole = np.append(parts[taker].group, fragment)
        larger.append(_make_part(contrast, pieces, whole, parts[taker].is_loose))
    smaller = _judge_parts(smaller, judge)
    larger = _judge_parts(larger, judge)
    likelihood = np.minimum([part.log_odds for part in smaller], [part.log_odds for part in larger])
    result = list(parts)
    changed = set()
    for i in np.argsort(-likelihood):
        giver, taker, _ = moves[i]
        if likelihood[i] > _LIKELY_LOG_ODDS and changed.isdisjoint([giver, taker]):
            result[giver] = smaller[i]
            result[taker] = larger[i]
            changed.update([giver, taker])
    return result


def _list_moves(parts, pieces):
    """The moves of a fragment from one of the judged _Parts to another one near it, of which one at least is unlikely.

    Returns a list of (number of the part that gives, number of the part that takes, number of the piece).
    """
    boxes = np.array([part.box for part in parts])
    heights = boxes[:, 3] - boxes[:, 1]
    moves = []
    for giver, part in enumerate(parts):
        for fragment in part.group[pieces.heights[part.group] < _FRAGMENT * heights[giver]]:
            distances = _measure_distances(np.vstack([pieces.boxes[fragment], boxes]))[0, 1:]
            for taker in np.flatnonzero(distances < _NEAR * heights):
                is_unclear = min(part.log_odds, parts[taker].log_odds) < _LIKELY_LOG_ODDS
                if taker != giver and is_unclear:
                    moves.append((giver, taker, fragment))
    return moves


# The gap in a broken digit is at most this share of the longer side of its larger part.  Of its parts one at least is
# less likely a digit than not, and together they are more likely one.  Among other digits they are at most so many
# times as high as the highest one: what is higher stands in two rows.
_BREAK = 0.25
_HIGHEST_JOINED = 1.6


def _join_broken(parts, contrast, pieces, judge):
    """The judged _Parts, of which two are joined where they are one digit together, as the two strokes of an open 4."""
    if len(parts) > _MOST_DIGITS_TO_CUT:
        return parts
    boxes = np.array([part.box for part in parts])
    left, top, right, bottom = boxes.T
    height_together = np.maximum.outer(bottom, bottom) - np.minimum.outer(top, top)
    is_low = (height_together <= _HIGHEST_JOINED * (bottom - top).max()) | (len(parts) < 3)
    longer_side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    log_odds = np.array([part.log_odds for part in parts])
    is_loose = np.array([part.is_loose for part in parts])
    is_near = _measure_distances(boxes) <= _BREAK * np.maximum.outer(longer_side, longer_side)
    is_unclear = np.minimum.outer(log_odds, log_odds) < _LIKELY_LOG_ODDS
    are_alike = np.equal.outer(is_loose, is_loose)  # A blot beside a digit is none of its parts.
    pairs = np.argwhere(np.triu(is_near & is_unclear & are_alike & is_low, 1))
    if not len(pairs):
        return parts
    joined = []
    for one, other in pairs:
        group = np.append(parts[one].group, parts[other].group)
        joined.append(_make_part(contrast, pieces, group, is_loose[one]))
    joined = _judge_parts(joined, judge)
    result = dict(enumerate(parts))
    for i in np.argsort([-part.log_odds for part in joined]):
        one, other = pairs[i]
        if joined[i].log_odds > _LIKELY_LOG_ODDS and one in result and other in result:
            result[len(parts) + i] = joined[i]
            del result[one], result[other]
    return list(result.values())


# Where a pen ran dry, its strokes are paler than the threshold of a _View.  They are above this share of it ...
_PALE = 0.5
# ... and are looked for where the network is less sure of a digit than this, or the digit is doubtful.  With them it
# has to be as sure.
_CLEAR_CONFIDENCE = 0.9


def _add_pale_strokes(parts, view, pieces, judge):
    """The judged _Parts, of which unclear ones have the pale strokes that touch them, too, if that makes them clear."""
    is_unclear = [part.confidence < _CLEAR_CONFIDENCE or part.log_odds < _DOUBTFUL_LOG_ODDS for part in parts]
    if not any(is_unclear) or len(parts) > _MOST_DIGITS_TO_CUT:
        return parts
    is_ink = pieces.labels >= 0
    larger_pieces = _find_components(is_ink | (view.contrast > _PALE * view.threshold))
    larger_of_piece = np.zeros(len(pieces.areas), int)  # Each piece lies within a larger one.
    larger_of_piece[pieces.labels[is_ink]] = larger_pieces.labels[is_ink]
    groups = [np.unique(larger_of_piece[part.group]) for part in parts]
    parts_within = np.bincount(np.concatenate(groups))
    chosen = [i for i in np.flatnonzero(is_unclear) if parts_within[groups[i]].max() == 1]
    if not chosen:
        return parts
    result = list(parts)
    larger = _judge_parts([_make_part(view.contrast, larger_pieces, groups[i]) for i in chosen], judge)
    for i, part in zip(chosen, larger, strict=True):
        if part.confidence >= _CLEAR_CONFIDENCE and part.log_odds > max(parts[i].log_odds, _LIKELY_LOG_ODDS):
            # Whether a pen wrote it is told by the dark strokes, whose edges are sharp.
            result[i] = part._replace(group=parts[i].group, strokes=parts[i].strokes)
    return result


# A piece that is narrower than the first share of its height is a line, such as the edge of the sheet, if it is so many
# times as high as the digits as the second number says, or the third one where it runs along the left or right rim.
_NARROW_LINE = 0.35
_LINE_HEIGHT = 3.0
_RIM_LINE_HEIGHT = 1.5
# It is a line, too, if it runs along that rim with no other piece beside it, or if it is thinner than this share of the
# strokes of what is not narrow.
_HAIRLINE = 0.45


def _drop_upright_lines(parts, shape):
    """The _Parts of a sheet [h, w] without the upright lines that _remove_lines did not find."""
    boxes = np.array([part.box for part in parts])
    left, top, right, bottom = boxes.T
    height = bottom - top
    is_narrow = right - left <= _NARROW_LINE * height
    # What is not narrow tells best how high digits are here.
    usual = np.median(height[~is_narrow]) if (~is_narrow).sum() >= 2 else np.median(height)
    is_at_rim = (left <= 1) | (right >= shape[1] - 1)
    is_high = height > np.where(is_at_rim, _RIM_LINE_HEIGHT, _LINE_HEIGHT) * usual
    is_line = is_narrow & (is_high | is_at_rim & ~_may_be_in_row(boxes))
    if (~is_line).sum() < 2:  # Then nothing is known of how high digits are here: the line may be a 1.
        is_line[:] = False
    if not is_narrow.all():
        stroke_width = np.array([part.strokes.width for part in parts])
        is_line |= is_narrow & (stroke_width < _HAIRLINE * np.median(stroke_width[~is_narrow]))
    return [part for part, drop in zip(parts, is_line, strict=True) if not drop]


def _may_be_in_row(boxes):
    """bool [n]: which of the boxes [n, 4] are as high up as another one, at least in part."""
    down = _measure_gaps(boxes)[1]
    return (down < 0).sum(axis=1) > 1  # since each overlaps itself


# A blot is more than so many times as thick as the strokes of most pieces.
_BLOT_THICKNESS = 1.5


def _drop_blots(parts):
    """The judged _Parts without what is in no row and is a blot or surely no digit.

    All of them stay where fewer than three would be left.
    """
    boxes = np.array([part.box for part in parts])
    left, top, right, bottom = boxes.T
    log_odds = np.array([part.log_odds for part in parts])
    stroke_width = np.array([part.strokes.width for part in parts])
    is_blot = (log_odds < _LIKELY_LOG_ODDS) & (stroke_width > _BLOT_THICKNESS * np.median(stroke_width))
    may_be_several = right - left > bottom - top  # digits that touch, which are cut apart later
    is_none = (is_blot | (log_odds < _INCREDIBLE_LOG_ODDS)) & ~may_be_several & ~_may_be_in_row(boxes)
    others = [part for part, drop in zip(parts, is_none, strict=True) if not drop]
    return others if len(others) >= 3 else parts


# A small piece far from the others is a digit from this share of the digits' height on.
_LOOSE_HEIGHT = 0.3


def _list_loose_digits(pieces, groups):
    """What belongs to no group of _find_parts although it may be a small or a broken digit.

    Those are pieces that _group_into_digits drops, and groups that are too small for _find_parts: beside larger digits
    they are no blots by themselves.  Returns a list of int arrays, the numbers of the pieces of each.
    """
    kept = np.flatnonzero(pieces.keep)
    typical = _typical_height(pieces.heights[kept], pieces.areas[kept])
    loose = np.setdiff1d(kept[pieces.heights[kept] >= _LOOSE_HEIGHT * typical], np.concatenate(groups))
    is_near = _measure_distances(pieces.boxes[loose]) < _NEAR * typical
    one, other = np.nonzero(is_near)  # the pairs of loose pieces that are near each other
    owner = _merge(one, other, len(loose))
    return [loose[owner == number] for number in np.unique(owner)]


# A low 0 is at least this share as high as the digit next to it.
_LOW_ZERO = 0.2


def _take_apart(contrast, pieces, group, judge):
    """Take a group of _group_into_digits apart if its pieces are likelier digits than it is, as a low 0 close to a 1.

    Returns a list of int arrays, the numbers of the pieces of each digit; [group] where it stays as it is.
    """
    heights = pieces.heights[group]
    # Any stroke looks like a 1, so one digit at most is as narrow.
    is_narrow = pieces.widths[group] < _LIKE_A_ONE * heights
    if len(group) < 2 or is_narrow.sum() > 1 or heights.min() < _LOW_ZERO * heights.max():
        return [group]
    ways = [group, *np.split(group, len(group))]
    whole, *apart = judge(np.stack([_make_part(contrast, pieces, way).pixels for way in ways])).log_odds
    return ways[1:] if whole < _LIKELY_LOG_ODDS and min(apart) > _LIKELY_LOG_ODDS else [group]


# -------- Paper and ink

# The widest stroke, as a share of the picture's short side.  What is wider is paper, shadow or table.
_WIDEST_STROKE = 0.3
# The paper's level is taken from a window of so many stroke widths: it is seen round every stroke, also where two meet.
_PAPER_WINDOW = 6
# Ink stands out from the paper by more than so many standard deviations of its grain, whose rare extremes are 4 to 5.
_NOISE_FACTOR = 6.0
# Ink has at least this contrast, where 1 is black on white: an eye, too, sees no writing in less than 9 of 255 levels.
_LEAST_CONTRAST = 0.035
# A stroke ends at this share of the ink's contrast.  It is less than one half, for the pen that ran dry.
_EDGE = 0.3


def _grey_from_colour(picture):
    """float32 [h, w]: the picture [h, w, 3] along the colour axis on which its details differ most.

    That is the first principal component of the details, without the light, which may differ more than the ink does.
    Luminance would lose yellow on white, and red on blue.
    """
    step_down = max(1, picture.shape[0] // 250)
    step_right = max(1, picture.shape[1] // 250)
    small = picture[::step_down, ::step_right]
    channels = np.moveaxis(small, 2, 0)
    light = [_resize(_resize(channel, 4, 4, Image.Resampling.BOX), *small.shape[:2]) for channel in channels]
    details = (small - np.stack(light, 2)).reshape(-1, 3)
    axis = np.linalg.eigh(details.T @ details)[1][:, -1]
    if axis.sum() < 0:
        axis = -axis
    return (picture @ (axis / np.abs(axis).sum())).astype(np.float32)


# The colours of a digit are measured in a picture of at most this many pixels a side, in which their noise is gone.
_COLOUR_SIDE = 24


def _measure_colourfulness(picture, boxes):
    """How much the colours of a picture [h, w, 3] differ inside the boxes [n, 4], apart from light and dark.

    One ink on one paper makes a mixture of two colours, which differs along one axis, and a shadow changes only the
    brightness.  Without their brightness, colours have two axes.  Paper and ink differ along the first one.  Returned
    is the standard deviation along the second one, hardly more than 0 for writing; a channel goes from 0 to 1.
    """
    colours = []
    for left, top, right, bottom in boxes:
        # A small picture was enlarged, so a box may be smaller than a pixel.
        rows = slice(max(math.floor(top), 0), math.ceil(bottom))
        columns = slice(max(math.floor(left), 0), math.ceil(right))
        inside = picture[rows, columns]
        sides = [min(side, _COLOUR_SIDE) for side in inside.shape[:2]]
        small = [_resize(channel, *sides, Image.Resampling.BOX) for channel in np.moveaxis(inside, 2, 0)]
        colours.append(np.stack(small, 2).reshape(-1, 3))
    details = np.concatenate(colours)
    details = details - details.mean(axis=1, keepdims=True)  # without the brightness
    details = details - np.median(details, axis=0)
    # Three variances, the smallest first: variances[0] is 0, that of the brightness, which was taken out; variances[2]
    # is that from paper to ink; variances[1] is what remains.
    variances = np.linalg.eigh(details.T @ details / len(details))[0]
    return math.sqrt(max(variances[1], 0))


# Light writing is on a board or a screen, whose ground has hardly any colour: in none of 114 photos.  Signs and icons
# have light strokes on a ground whose strongest colour channel is above the weakest one by more than this limit.  Dark
# digits may be on paper of any colour.
_MOST_COLOUR_UNDER_LIGHT = 0.3
# The ground is seen at a distance of this share of the height of the boxes.
_GROUND_DISTANCE = 0.15


def _is_sign(picture, found):
    """Whether the digits of a Found are light on a strong colour, as on signs and icons.

    `picture` is float32 [h, w, 3] in 0..1, as for find_digits.
    """
    boxes = found.boxes
    beyond = _GROUND_DISTANCE * np.median(boxes[:, 3] - boxes[:, 1])
    left, top = np.maximum(boxes[:, :2].min(axis=0) - beyond, 0).astype(int)
    right, bottom = np.ceil(boxes[:, 2:].max(axis=0) + beyond).astype(int)
    inside = picture[top:bottom, left:right]
    ground = np.median(np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]]), axis=0)
    return found.is_ink_light and np.ptp(ground) > _MOST_COLOUR_UNDER_LIGHT


def _is_ink_dark(grey):
    """Whether the ink of `grey` [h, w] is its dark side.

    Ink is rare, so the levels have a long tail on its side: the sign of their skewness tells, taken about the level of
    the rim, where there is mostly paper.
    """
    small = _resize(grey, 48, 48, Image.Resampling.BOX)
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    # The light, a quadratic surface, is taken out: a dark corner is no ink.
    light = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], -1).reshape(-1, 6)
    coefficients = np.linalg.lstsq(light, small.ravel(), rcond=None)[0]
    flat = small - (light @ coefficients).reshape(48, 48)
    rim = np.maximum(abs(x), abs(y)) > 0.8
    return ((flat - np.median(flat[rim])) ** 3).sum() < 0


def _measure_ink(grey):
    """Measure how much darker than the paper round it each pixel of grey [h, w] is.

    The level of the paper is a morphological closing: all that is darker and narrower than a window is filled with the
    level of what lies round it.  Shadows and the table are wider than the window, so they stay and count as paper.
    Returns (contrast, float32 [h, w], 1 = black on white; the contrast above which a pixel is ink).
    """
    widest = _WIDEST_STROKE * min(grey.shape)
    contrast, threshold = _compare_with_paper(grey, widest)
    # Now the width of the pen's strokes is known, if not of a dark table's.
    ink = contrast > threshold
    on_paper = _find_ink_on_paper(ink)
    window = _PAPER_WINDOW * _stroke_width(on_paper if on_paper.any() else ink)
    return _compare_with_paper(grey, min(window, widest))


def _compare_with_paper(grey, window):
    """What _measure_ink returns, where the paper's level is taken from windows of so many pixels."""
    height, width = grey.shape
    shrink = max(1, int(window / 12))  # The paper is smooth: a coarse picture of it will do.
    small = _resize(grey, -(-height // shrink), -(-width // shrink), Image.Resampling.BOX)
    side = max(3, round(window / shrink))
    # The dilation lets light paper grow over the strokes, the erosion takes as much away again.  An example of the edge
    # of a shadow, in coarse pixels, of which the middle one is half in the shadow:
    #     small         0.9 0.9 0.7 0.5 0.5
    #     dilated by 3  0.9 0.9 0.9 0.7 0.5
    #     eroded by 3   0.9 0.9 0.7 0.5 0.5
    #     eroded by 5   0.9 0.7 0.5 0.5 0.5
    # The dark half of the middle pixel is 0.5 in `grey`.  Against a paper of 0.7 it would stand out by 0.2, as ink
    # does.  So the erosion is wider by 2 pixels.
    paper = _erode(_dilate(small, side, side), side + 2, side + 2)
    contrast = _resize(paper, height, width, Image.Resampling.BILINEAR) - grey
    return contrast, _find_threshold(contrast)


def _find_threshold(contrast):
    """The contrast above which a pixel is ink; raises PictureError when none stands out."""
    # The contrasts of bare paper have a normal distribution, the grain of the paper.  The 5th and the 30th percentile
    # of a normal distribution lie 1.64 and 0.52 standard deviations below its mean, so 1.12 apart.  Ink has higher
    # contrasts than the paper: with 10 % of ink the 5th and the 30th percentile of all pixels are the 5.6th and the
    # 33rd of the paper's pixels.  These lie a little higher and a little further apart, which does no harm.
    percentile_5, percentile_30 = np.percentile(contrast[::2, ::2], [5, 30])
    grain = (percentile_30 - percentile_5) / 1.12  # one standard deviation
    bare_paper = percentile_30 + 0.52 * grain  # the mean
    # In _measure_ink the erosion is wider than the dilation, so the level of the paper is too dark in places, and the
    # mean may be below 0.  Then ink needs the least contrast all the same.
    least = max(bare_paper + max(_NOISE_FACTOR * grain, _LEAST_CONTRAST), _LEAST_CONTRAST)
    ink = contrast[contrast > least]
    if not ink.size:
        raise PictureError(_NO_DIGIT)
    full_ink = (ink**2).sum() / ink.sum()  # the mean, weighted by itself for the strokes' dark core
    return max(least, _EDGE * full_ink)


# -------- The sheet on a table, and printed lines on the sheet

# The sheet is looked for in a picture of at most this many pixels a side, with this many thresholds.
_COARSE_SIDE = 200
_SHEET_LEVELS = 24
# A sheet covers at least and at most this share of the picture.
_SHEET_SHARES = (0.06, 0.95)
# A sheet has no large holes or bays.  Count, for each row, the pixels from the sheet's first one to its last one; at
# least this share of all of them belongs to the sheet.  The same holds for the columns.
_SOLID = 0.9
# At the edge of a sheet, but for the second share of it, the picture changes within five coarse pixels by at least the
# first share of the difference between sheet and table.  Where a light fades, the picture changes by less.
_SHEET_EDGE = 0.5
_UNSHARP_EDGE = 0.25


def _cut_sheet_out(grey):
    """Cut out the sheet of paper that lies on something darker in grey [h, w].

    Returns (grey of the sheet, float32 [m, n]; its corner, left and top; bool [m, n], what is not on the sheet), or
    None where there is no such sheet.
    """
    height, width = grey.shape
    shrink = max(1, max(grey.shape) / _COARSE_SIDE)
    small = _resize(grey, max(1, round(height / shrink)), max(1, round(width / shrink)), Image.Resampling.BOX)
    mask = _find_sheet(small)
    if mask is None:
        return None
    # The edge of the sheet itself is not writing.
    mask = _erode(np.pad(mask, 2), 5, 5)[2:-2, 2:-2]
    is_sheet = _resize(mask.astype(np.float32), height, width, Image.Resampling.BILINEAR) > 0.5
    if not is_sheet.any():
        return None
    left, top, right, bottom = _box_of(is_sheet)
    window = slice(top, bottom), slice(left, right)
    outside = ~is_sheet[window]
    sheet = np.where(outside, np.median(grey[is_sheet]), grey[window]).astype(np.float32)
    return sheet, (left, top), outside


def _find_sheet(small):
    """Of the light areas of small [h, w] that are solid the one with the sharpest edge, as bool [h, w], or None."""
    if min(small.shape) < 10:
        return None
    step = _dilate(small, 5, 5) - _erode(small, 5, 5)
    best = None
    sharpest = _SHEET_EDGE
    for level in np.linspace(small.min(), small.max(), _SHEET_LEVELS + 2)[1:-1]:
        light = _find_components(_dilate(_erode(small > level, 3, 3), 3, 3))
        if not light.areas.size:
            continue
        mask = _fill_holes(light.labels == light.areas.argmax())
        if not _SHEET_SHARES[0] <= mask.mean() <= _SHEET_SHARES[1] or not _is_solid(mask):
            continue
        inner = np.pad(np.ones(np.subtract(mask.shape, 4), bool), 2)  # The rim of the picture is no edge of a sheet.
        edge = mask & ~_erode(mask, 3, 3) & inner
        difference = np.median(small[mask]) - np.median(small[~mask])
        sharpness = np.quantile(step[edge], _UNSHARP_EDGE) / max(difference, 1e-6) if edge.any() else 0
        if sharpness > sharpest:
            best = mask
            sharpest = sharpness
    return best


def _fill_holes(mask):
    """mask [h, w] and what it encloses."""
    ground = _find_components(~np.pad(mask, 1))
    return (ground.labels != ground.labels[0, 0])[1:-1, 1:-1]


def _is_solid(mask):
    """Whether mask [h, w] has few gaps between the first and the last of each row and each column, as a sheet has."""
    for turned in (mask, mask.T):
        first = turned.argmax(axis=1)
        last = turned.shape[1] - turned[:, ::-1].argmax(axis=1)
        if turned.sum() < _SOLID * (last - first)[turned.any(axis=1)].sum():
            return False
    return True


# Ruled paper has thin lines that are as long as the first share of the picture's side, and no thicker than the second
# share of it.  They are always taken out.
_RULING_SHARE = 0.95
_RULING_THICKNESS = 1 / 60
# On a second look printed lines are as long as this share of the picture's side, and this many times as long as thick.
_LINE_SHARE = 0.35
_LINE_LENGTH = 10
# A line is seen where it is thin, and hidden where a stroke lies on it; in both places there is ink.  It is a line if
# the first share of it is seen, or if the second share is seen and the third one has ink.
_LINE_SEEN = 0.6
_LINE_SEEN_AT_LEAST = 0.3
_LINE_INKED = 0.9
# A line may be interrupted for this share of the picture's side in one place.
_LINE_GAP = 0.1
# Printed lines lean by at most this many pixels down, or up, for each pixel to the right.
_STEEPEST = 0.12
_LINE_SLOPES = np.linspace(-_STEEPEST, _STEEPEST, 49)
# Between two level lines of a form stand separators, at least so many, each as long as this share of the space between
# these lines.  Fewer may be 1s, unless they are the sides of a box.  Between the end of a separator and the level line
# there is hardly any paper, at most this share of the separator's length.
_LEAST_SEPARATORS = 3
_SEPARATOR_SHARE = 0.9
_SEPARATOR_GAP = 0.05
# The two sides of a box are this many times as long as thick, and each of their ends is at the end of a level line, no
# further away than this share of their length.
_SIDE_LENGTH = 5
_SIDE_GAP = 0.15
# Where there are two or more level lines, an upright line is at most so many times as thick as they are.  A long one
# has no end between two level lines that is further from both than this share of the upright line's length: the stem of
# a 9 is no line.
_LIKE_THICKNESS = 2.0
_STEM_GAP = 0.15
# At most this many lines, and rows of strokes that look like one, are looked at in each direction.
_MOST_LINES = 40


def _without_lines(view, is_baseline=False):
    """The _View without printed lines and what lies beside the paper; raises PictureError where there are no lines.

    In a picture that is cut close round a row of digits, their upright strokes are as long as the lines of a form.  So
    with `is_baseline` only a single level line is taken out, on which the digits stand.
    """
    # No line is longer than the picture, so none is thicker than this.  _list_lines compares the thickness of each line
    # with its own length.
    thickest = max(view.contrast.shape) / _LINE_LENGTH
    without = _remove_lines(view, _LINE_SHARE, thickest, is_baseline=is_baseline)
    if len(without.lines) == len(view.lines):
        raise PictureError(_NO_DIGIT)
    return without._replace(contrast=np.where(_find_ink_beside_paper(view), 0, without.contrast))


def _find_ink_beside_paper(view):
    """bool [h, w]: the ink of a _View that lies beside the paper."""
    ink = view.contrast > view.threshold
    return ink & ~_find_ink_on_paper(ink)


def _find_ink_on_paper(ink):
    """ink, bool [h, w], without what lies beside the paper."""
    pieces = _find_components(ink)
    return pieces.mask_of(~_lies_beside_paper(pieces))


def _remove_lines(view, least_share, thickest, least_count=1, is_baseline=False):
    """The _View without printed lines: of forms, of ruled and squared paper.

    The numbers are as for _find_lines; where there are two level lines or more, upright ones are about as thin.
    `is_baseline` is as for _without_lines.
    """
    ink = view.contrast > view.threshold
    if not any(_may_have_lines(turned, least_share, thickest) for turned in (ink, ink.T)):
        return view
    mask = _find_ink_on_paper(ink)
    across, across_bands, across_lines = _find_lines(mask, least_share, thickest, least_count)
    if is_baseline and len(across_lines) != 1:
        return view
    if len(across_lines) >= 2:
        usual = np.median(_find_runs(across, thickest).thickness)
        thickest_upright = min(thickest, max(3, _LIKE_THICKNESS * usual))
        found = _find_uprights_of_form(mask.T, across_lines, least_share, thickest_upright, least_count)
    elif is_baseline:
        found = _find_lines(mask.T, least_share, thickest, math.inf)
    else:
        # A single upright line without a level one may be a 1.
        found = _find_lines(mask.T, least_share, thickest, least_count if len(across_lines) else 2)
    upright, upright_bands, upright_lines = found
    lines = np.concatenate([across_lines, upright_lines[:, [1, 0, 3, 2]]])
    if not len(lines):
        return view
    # Where two printed lines cross, the ink is too thick to be taken for either.  Both bands cover that place.
    on_line = across | upright.T | (across_bands & upright_bands.T)
    # The paler edges of a line go with it, but not those of a stroke that stays.
    edges = _dilate(on_line, 5, 5) & ~_dilate(mask & ~on_line, 3, 3)
    contrast = np.where(on_line | edges, 0, view.contrast)
    return view._replace(contrast=contrast, lines=np.concatenate([view.lines, lines]))


def _find_uprights_of_form(mask, level_lines, least_share, thickest, least_count):
    """Find the upright lines of a form that has two level lines or more.

    Long lines are looked for first; if there are none, separators; and if there are none of these either, the two sides
    of a box.  The mask is turned, [w, h], and the level lines are given as for _is_separator.  The other arguments and
    what is returned are as for _find_lines.
    """
    may_be_printed = functools.partial(_may_be_printed, level_lines)
    found = _find_lines(mask, least_share, thickest, least_count, may_be_printed)
    share = _SEPARATOR_SHARE * _find_widest_space(level_lines) / mask.shape[1]
    if not len(found[2]):
        is_separator = functools.partial(_is_separator, mask, level_lines)
        found = _find_lines(mask, share, thickest, _LEAST_SEPARATORS, is_separator)
    if not len(found[2]):
        is_side = functools.partial(_is_side, level_lines)
        found = _find_lines(mask, share, thickest, 2, is_side, times_as_long=_SIDE_LENGTH)
    return found


def _find_widest_space(lines):
    """The largest distance from one of the nearly horizontal lines [l, 4] to the next one below it, in pixels.

    The smallest one would not do, since two lines may be the halves of a line that is interrupted.
    """
    middles = np.sort((lines[:, 1] + lines[:, 3]) / 2)
    return np.diff(middles).max()


def _may_have_lines(mask, least_share, thickest):
    """Whether mask [h, w] has enough ink, and enough of it thin, for a nearly horizontal line; what follows is slow."""
    least_columns = least_share * mask.shape[1]
    if mask.any(axis=0).sum() < _LINE_SEEN * least_columns:
        return False
    return len(np.unique(_find_runs(mask, thickest).column)) >= _LINE_SEEN_AT_LEAST * least_columns


class _Runs(NamedTuple):
    """The thin vertical runs of ink in a mask, of which nearly horizontal lines are made; int or float [r] each."""

    column: np.ndarray
    start: np.ndarray  # the first row
    end: np.ndarray  # the row after the last one
    middle: np.ndarray
    thickness: np.ndarray


def _find_runs(mask, thickest):
    """The _Runs of a mask [h, w] that are at most so many pixels high."""
    padded = np.pad(mask, ((1, 1), (0, 0))).astype(np.int8)
    change = np.diff(padded, axis=0).T  # [w, h + 1]: 1 where a run starts, -1 where it has ended
    column, start = np.nonzero(change == 1)
    end = np.nonzero(change == -1)[1]
    thickness = end - start
    is_thin = thickness <= thickest
    return _Runs(*(values[is_thin] for values in (column, start, end, (start + end) / 2, thickness)))


def _find_lines(mask, least_share, thickest, least_count=1, is_wanted=None, times_as_long=_LINE_LENGTH):
    """Find nearly horizontal straight lines in mask [h, w], by a Hough transform of the middles of its thin runs.

    Args:
      mask: the ink.
      least_share: a line is at least as long as this share of the width ...
      thickest: ... and at most so many pixels thick.
      least_count: fewer lines than these are none, since a single one may be a 1.
      is_wanted: a function of a _Line that says whether it counts; without it all do.
      times_as_long: a line is at least so many times as long as thick.

    Returns (bool [h, w], the pixels of the lines, without the strokes that cross them; bool [h, w], the full band of
    each line, also where something crosses it; their ends, float [l, 4]).
    """
    width = mask.shape[1]
    runs = _find_runs(mask, thickest)
    on_line = np.zeros_like(mask)
    bands = np.zeros_like(mask)
    lines = []
    for is_line, left, right in _list_lines(mask, runs, least_share * width, times_as_long):
        slope, offset = np.polyfit(runs.column[is_line], runs.middle[is_line], 1)
        line = _Line(left, right, runs.column[is_line].min(), runs.column[is_line].max(), slope, offset)
        if is_wanted and not is_wanted(line):
            continue
        usual = np.median(runs.thickness[is_line])
        # Of the runs near the line, those of about its usual thickness are its ink.  A much thicker one belongs to a
        # stroke that crosses the line, and stays.
        for i in np.flatnonzero(is_line & (runs.thickness <= 1.5 * usual + 1)):
            on_line[runs.start[i] : runs.end[i], runs.column[i]] = True
        for column in range(left, right):
            middle = slope * column + offset
            bands[max(math.floor(middle - usual / 2), 0) : max(math.ceil(middle + usual / 2), 0), column] = True
        lines.append([left, slope * left + offset, right, slope * right + offset])
    if len(lines) < least_count:
        return np.zeros_like(mask), np.zeros_like(mask), np.zeros([0, 4])
    return on_line, bands, np.reshape(lines, [-1, 4])


class _Line(NamedTuple):
    """A straight line, row = slope * column + offset, that is seen in places and hidden by strokes in others."""

    start: int  # the first column
    end: int  # the column after the last one
    first_seen: int  # the first column in which it is seen
    last_seen: int
    slope: float
    offset: float


def _is_separator(mask, level_lines, line):
    """Whether a _Line of mask [w, h], which is upright in the picture, goes to a level line at each of its ends.

    The level lines are given by their ends in the picture, x, y, x, y, float [k, 4].
    """
    most_paper = max(3, _SEPARATOR_GAP * (line.end - line.start))
    for end, seen in ((line.start, line.first_seen), (line.end, line.last_seen)):
        x = line.slope * end + line.offset
        level_ys = _find_level_ys(level_lines, x)
        nearest = level_ys[np.abs(level_ys - end).argmin()]
        first, last = sorted((seen, round(nearest)))
        between = mask[max(round(x) - 1, 0) : round(x) + 2, max(first, 0) : last]
        paper = (~between.any(axis=0)).sum()
        if paper > most_paper or abs(nearest - end) > most_paper:
            return False
    return True


def _may_be_printed(level_lines, line):
    """Whether a _Line, which is upright in the picture, ends at level lines or beyond them, not between two of them.

    The level lines are given as for _is_separator.
    """
    for end in (line.start, line.end):
        level_ys = _find_level_ys(level_lines, line.slope * end + line.offset)
        is_between = level_ys.min() < end < level_ys.max()
        if is_between and np.abs(level_ys - end).min() > _STEM_GAP * (line.end - line.start):
            return False
    return True


def _find_level_ys(level_lines, x):
    """The y of each of the level lines [k, 4] at x, float [k]; a line that ends before x is thought longer."""
    left, left_y, right, right_y = level_lines.T
    return left_y + (right_y - left_y) / (right - left) * (x - left)


def _is_side(level_lines, line):
    """Whether a _Line, which is upright in the picture, has both ends at ends of level lines, as for _is_separator."""
    near = _SIDE_GAP * (line.end - line.start)
    corners = level_lines.reshape(-1, 2)
    ends = np.array([[line.slope * row + line.offset, row] for row in (line.start, line.end)])
    return bool((np.abs(corners - ends[:, None]).max(axis=2).min(axis=1) <= near).all())


def _list_lines(mask, runs, least_length, times_as_long):
    """Yield each line that the _Runs of mask [h, w] make: (bool [r], which runs are its; its first column; its end).

    It is at least `least_length` pixels long, and `times_as_long` times as long as thick.
    """
    height, width = mask.shape
    tolerance = max(2.0, height / 150)  # A printed line is straight to within this many pixels.
    is_free = np.ones(len(runs.column), bool)
    for _ in range(_MOST_LINES):
        # Of the runs that belong to no line yet: find the line that passes near the middles of most of them.
        slope, offset = _find_best_line(runs.column[is_free], runs.middle[is_free], tolerance, width)
        is_near = is_free & (np.abs(runs.middle - slope * runs.column - offset) < tolerance)
        if is_near.sum() < _LINE_SEEN_AT_LEAST * least_length:  # The lines that follow have even fewer.
            return
        left, right = _find_longest_stretch(*_follow_line(mask, runs.column[is_near], slope, offset, tolerance))
        is_line = is_near & (runs.column >= left) & (runs.column < right)
        usual = np.median(runs.thickness[is_line]) if is_line.any() else np.inf
        if right - left >= max(least_length, times_as_long * usual):
            is_free &= ~is_line
            yield is_line, left, right
        else:
            is_free &= ~is_near  # Strokes that happen to lie in one line.


def _find_best_line(column, middle, tolerance, width):
    """The (slope, offset) of the line, row = slope * column + offset, near which most of the points lie.

    The points are `column` and `middle`, [r] each.
    """
    # For each slope the offsets of all points are counted in bins as high as the tolerance.  The shift keeps the
    # numbers of the bins above 0.
    shift = math.ceil(_STEEPEST * width / tolerance)
    most = 0
    best = (0.0, 0.0)
    for slope in _LINE_SLOPES:
        bins = np.floor((middle - slope * column) / tolerance).astype(int) + shift
        counts = np.bincount(bins, minlength=2)
        # A line may lie on the border of two bins.  So two neighbours are counted together, and the offset of the line
        # is the border between them.
        pairs = counts[:-1] + counts[1:]
        fullest = pairs.argmax()
        if pairs[fullest] > most:
            most = pairs[fullest]
            best = (slope, (fullest + 1 - shift) * tolerance)
    return best


def _follow_line(mask, columns, slope, offset, tolerance):
    """Where the line row = slope * column + offset is seen in mask [h, w], and where it is seen or hidden.

    `columns` are those in which it is seen.  Returns two arrays, bool [w]: is_seen; is_inked, seen or hidden.
    """
    height, width = mask.shape
    is_seen = np.zeros(width, bool)
    is_seen[columns] = True
    every_column = np.arange(width)
    rows = slope * every_column + offset + np.arange(-tolerance, tolerance + 1)[:, None]
    rows = np.clip(np.rint(rows).astype(int), 0, height - 1)
    return is_seen, is_seen | mask[rows, every_column].any(axis=0)


def _find_longest_stretch(is_seen, is_inked):
    """The (start, end) of the longest stretch of columns that is a line, (0, 0) where there is none.

    The arguments are what _follow_line returns.
    """
    best = (0, 0)
    # Two rules: the line is mostly seen, or strokes hide it in places.
    for is_on_line, least_seen, least_inked in (
        (is_seen, _LINE_SEEN, 0),
        (is_inked, _LINE_SEEN_AT_LEAST, _LINE_INKED),
    ):
        starts, ends = _split_into_stretches(is_on_line)
        seen = _count_between(is_seen, starts, ends)
        inked = _count_between(is_inked, starts, ends)
        length = ends - starts
        is_line = (seen >= least_seen * length) & (inked >= least_inked * length)
        for start, end in zip(starts[is_line], ends[is_line], strict=True):
            best = max(best, (start, end), key=lambda stretch: stretch[1] - stretch[0])
    return best


def _split_into_stretches(is_on_line):
    """The starts and the ends of the stretches in bool [w], int [s] each; a wide gap ends a stretch."""
    places = np.flatnonzero(is_on_line)
    is_far = np.diff(places) > _LINE_GAP * len(is_on_line)
    is_first = np.append(True, is_far)[: len(places)]  # Cut, since without any place there is no first one.
    is_last = np.append(is_far, True)[: len(places)]
    return places[is_first], places[is_last] + 1


def _count_between(is_counted, starts, ends):
    """How many of bool [w] are true from each start to each end, int [s]."""
    counted_before = np.cumsum(np.append(0, is_counted))
    return counted_before[ends] - counted_before[starts]


# -------- Strokes

# What is less sharp than this is a shadow: the share of the ink's contrast that lies in the step at its edge.  Digits
# have 0.82 and more, soft shadows up to 0.57.
_SHARP = 0.65
# That step is measured within this share of the picture's short side: a blurred pen's edge is no wider, a shadow's is.
_SOFT = 0.02
# What is more times as wide as high is no digit but a dash, an underline or a sheet's edge.
_FLAT = 6
# A piece smaller than this share of the digits' height is no stroke but a dot.
_SPECK = 0.12
# A piece smaller than this share of the digits' height is not a digit by itself: the hat of a 5, the bar of a broken 4.
_FRAGMENT = 0.5
# More strokes than these are a pattern: a sheet of ten rows of ten digits has 300, each digit in three strokes.
_MOST_STROKES = 300


def _find_pieces(contrast, threshold):
    """The _Components of the ink, of which `keep` are strokes of digits; raises PictureError where there are none."""
    pieces = _find_components(contrast > threshold)
    pieces.on_paper = ~_lies_beside_paper(pieces)
    pieces.keep = pieces.on_paper & _is_sharp(pieces, contrast) & (pieces.widths <= _FLAT * pieces.heights)
    if not pieces.keep.any():
        raise PictureError(_NO_DIGIT)
    on_rim = (pieces.boxes[:, :2] <= 0).any(1) | (pieces.boxes[:, 2:] >= contrast.shape[::-1]).any(1)
    # At the rim a small piece is the end of a shadow or of something beside the sheet rather than a loose stroke.
    least = np.where(on_rim, _FRAGMENT, _SPECK) * _typical_height(pieces.heights, pieces.areas * pieces.keep)
    pieces.keep &= np.maximum(pieces.widths, pieces.heights) >= least
    if pieces.keep.sum() > _MOST_STROKES:
        raise PictureError("shows a pattern rather than digits: photograph them on plain paper.")
    is_frame = _find_frames(pieces)
    pieces.keep &= ~is_frame
    pieces.on_paper &= ~is_frame  # A printed frame is no ink of the writer, of which the digits have a share.
    return pieces


# A frame round one digit is at most so many times as wide as high, and one hole is at least this share of what it
# encloses.  The cells of a form are smaller.
_WIDEST_FRAME = 1.5
_HOLE_SHARE = 0.5
# What is narrower than the first share of its height, round a single stroke, is a 0 with a slash in it.  A stroke whose
# length (see _Strokes) is less than the second number is a single one.
_ZERO_WIDTH = 0.8
_SINGLE_STROKE = 1.45


def _find_frames(pieces):
    """bool [n]: which pieces go round one digit, as a box or a circle: round one piece at least _FRAGMENT as high."""
    is_frame = np.zeros(len(pieces.areas), bool)
    left, top, right, bottom = pieces.boxes.T
    for i in np.flatnonzero(pieces.keep & (pieces.widths <= _WIDEST_FRAME * pieces.heights)):
        is_inside = (left > left[i]) & (top > top[i]) & (right < right[i]) & (bottom < bottom[i])
        inner = np.flatnonzero(is_inside & pieces.keep & (pieces.heights >= _FRAGMENT * pieces.heights[i]))
        if inner.size == 1:  # A box round several digits may touch another one, so it is left to _remove_lines.
            labels = pieces.labels[top[i] : bottom[i], left[i] : right[i]]
            is_frame[i] = _is_round_one_digit(labels == i, labels == inner)
    return is_frame


def _is_round_one_digit(frame, inner):
    """Whether a piece of ink, bool [h, w], is a frame round another one, bool [h, w], that is a whole digit."""
    left, top, right, bottom = _box_of(inner)
    is_single_stroke = _measure_strokes(inner[top:bottom, left:right]).length < _SINGLE_STROKE
    if is_single_stroke and frame.shape[1] < _ZERO_WIDTH * frame.shape[0]:
        return False
    # The box of a 7 may hold a 1 that stands under its arm.  What is in a frame lies in its hole, too.  Pixels that
    # touch at a corner are connected, so the ground would leak through a slanting line one pixel wide.  So the frame
    # grows by one pixel to the right, and there are two columns of ground there.
    ground = _find_components(~_dilate(np.pad(frame, [(1, 1), (1, 2)]), 1, 2))
    labels = ground.labels[1:-1, 1:-2]
    outside = ground.labels[0, 0]
    hole = labels[inner][0]
    enclosed = ((labels >= 0) & (labels != outside)).sum()
    return hole != outside and ground.areas[hole] >= _HOLE_SHARE * enclosed


class _Components:
    """The connected components of a mask.

    Attributes:
      labels: int [h, w], the number of the component at each pixel, from 0; -1 where there is none.
      boxes: int [n, 4], left, top, right, bottom of each in pixels; the last two are beyond it.
      areas: int [n], its pixels.
      on_paper: bool [n], whether it may be on the paper.
      keep: bool [n], whether it may belong to a digit.
    """

    def __init__(self, labels, boxes, areas):
        self.labels = labels
        self.boxes = boxes
        self.areas = areas
        self.on_paper = np.ones(len(areas), bool)
        self.keep = np.ones(len(areas), bool)

    @property
    def widths(self):
        return self.boxes[:, 2] - self.boxes[:, 0]

    @property
    def heights(self):
        return self.boxes[:, 3] - self.boxes[:, 1]

    def mask_of(self, chosen):
        """bool [h, w]: the pixels of the components for which `chosen`, bool [n], is true."""
        return np.append(chosen, False)[self.labels]  # The label -1 finds the False at the end.

    def sum_by(self, labels, values=None):
        """Sum over pixels, apart for each component.

        Args:
          labels: the component of each pixel, int [m].
          values: the number to add for each pixel, [m]; without `values` the pixels are counted.

        Returns [n], one sum for each component.
        """
        return np.bincount(labels, values, len(self.areas))

    def size_of(self, numbers):
        """(width, height) of the frame round the components with these numbers, int [m]."""
        left, top, right, bottom = self.frame_of(numbers)
        return right - left, bottom - top

    def frame_of(self, numbers):
        """[left, top, right, bottom] round the components with these numbers, int [m]."""
        return [*self.boxes[numbers, :2].min(0), *self.boxes[numbers, 2:].max(0)]


def _find_components(mask):
    """The connected components of a mask [h, w], with 8 neighbours, as scipy.ndimage.label finds them.

    An example: the ink of the mask on the left makes the four runs in the middle.  Run 3 touches the runs 1 and 2, run
    4 touches none.  So there are two components:

        1 1 0 1 0        1 1 . 2 .        0 0 . 0 .
        0 1 1 0 0        . 3 3 . .        . 0 0 . .
        0 0 0 0 1        . . . . 4        . . . . 1
    """
    # 1. Give each horizontal run of ink a number, from 1; paper has 0.  The mask is searched as one long line of
    # pixels, and the paper added on three sides separates the end of a row from the start of the next.  `ink_index` has
    # the places of the ink's pixels in that line, `run_of_ink` the run of each of them, and `run_at` the run at any
    # place.  The pixel below a place is at place + stride.
    padded = np.pad(mask, ((0, 1), (1, 1)))
    stride = padded.shape[1]
    ink_index = np.flatnonzero(padded)
    starts_run = np.diff(ink_index, prepend=-1) > 1
    run_of_ink = np.cumsum(starts_run)
    run_at = np.zeros(padded.size, np.int32)
    run_at[ink_index] = run_of_ink
    # 2. Merge the runs that touch one in the row below, straight or at a corner.
    upper_runs = []
    lower_runs = []
    for right in (-1, 0, 1):
        run_below = run_at[ink_index + stride + right]
        upper_runs.append(run_of_ink[run_below > 0])
        lower_runs.append(run_below[run_below > 0])
    root = _merge(np.concatenate(upper_runs), np.concatenate(lower_runs), run_of_ink.max(initial=0) + 1)
    # 3. Number the merged runs anew.  Number 0 belongs to the paper, which was merged with nothing, so after taking 1
    # away the components count from 0.
    component_of_run = np.unique(root, return_inverse=True)[1] - 1
    component = component_of_run[run_of_ink]
    labels = np.full(padded.size, -1, np.int32)
    labels[ink_index] = component
    y, padded_x = np.divmod(ink_index, stride)
    boxes, areas = _measure_components(padded_x - 1, y, component)
    return _Components(labels.reshape(padded.shape)[:-1, 1:-1], boxes, areas)


def _measure_components(x, y, component):
    """The boxes, int [n, 4], and areas, int [n], of components; x, y, component: int [m], of each pixel of ink."""
    areas = np.bincount(component)
    # In the order of their components, the pixels of each one lie together.  reduceat takes the minimum over the pixels
    # first[0]:first[1], then over first[1]:first[2], and so on: one minimum for each component.
    order = np.argsort(component, kind="stable")
    first = np.cumsum(areas) - areas
    near = np.minimum.reduceat([x[order], y[order]], first, axis=1)
    far = np.maximum.reduceat([x[order] + 1, y[order] + 1], first, axis=1)
    return np.concatenate([near, far]).T, areas


def _merge(ones, others, count):
    """Union-find over the numbers 0 to `count` - 1.

    Args:
      ones: the first number of each pair that belongs together, int [m].
      others: the second number of each pair, int [m].
      count: how many numbers there are.

    Returns int [count]: for each number the smallest number that pairs join it to, directly or through others.
    """
    root = np.arange(count)
    while ones.size:
        # The larger root of each pair now points to the smaller one.  An example: the pairs (3, 1) and (3, 2) are given
        # as ones = [3, 3] and others = [1, 2], and root is [0, 1, 2, 3].  The first turn makes root[3] the smaller of 1
        # and 2, so root is [0, 1, 2, 1].  The roots of 3 and 2 are then 1 and 2, still apart.  So the pair (3, 2) comes
        # again in the second turn, which makes root [0, 1, 1, 1].
        smaller = np.minimum(root[ones], root[others])
        np.minimum.at(root, np.maximum(root[ones], root[others]), smaller)
        while (root != root[root]).any():  # Follow each chain of numbers to its end.
            root = root[root]
        apart = root[ones] != root[others]
        ones = ones[apart]
        others = others[apart]
    return root


# What touches the rim lies within this share of the picture's side.
_RIM = 0.02
# A piece is an outer one (see _lies_beside_paper) if less than this share of it is in the middle two thirds of the
# picture.
_IN_THE_MIDDLE = 0.05
# A table at the rim has more than so many times the ink of the largest piece in the middle; a digit never has.
_TABLE = 4


def _lies_beside_paper(pieces):
    """bool [n]: which pieces are not on the sheet: frames, the edges of the sheet, the table and what lies on it.

    An outer piece is one that hardly reaches the middle of the picture.  Beside the paper lies:
    1. an outer piece that touches two sides of the picture, as a frame does.  The exception is a piece as high as the
       digits in the middle, since the picture may be cut close round a row of digits.
    2. what _lies_on_table.
    """
    height, width = pieces.labels.shape
    left, top, right, bottom = pieces.boxes.T
    middle = pieces.labels[height // 6 : height - height // 6, width // 6 : width - width // 6]
    is_outer = pieces.sum_by(middle[middle >= 0]) < _IN_THE_MIDDLE * pieces.areas
    touches = [left <= _RIM * width, top <= _RIM * height, right >= (1 - _RIM) * width, bottom >= (1 - _RIM) * height]
    is_frame = is_outer & (np.sum(touches, axis=0) >= 2) & ~_is_like_digits(pieces, ~is_outer)
    return is_frame | _lies_on_table(pieces, is_outer, touches)


def _lies_on_table(pieces, is_outer, touches):
    """bool [n]: which pieces are a strip of the table at the rim of the picture, or end within such a strip.

    A wide table counts as paper.  A strip that is narrower than the window of _measure_ink stands out like ink.  A
    piece is such a strip if it is an outer one, touches a side, has many times the ink of the largest inner piece, and
    ends within a sixth of the picture from that side.  An example: # is such a strip.  The pen, p, ends within it, so
    both lie on the table; the digit, d, does not.

        ####....................
        ####...............dd...
        #...................d...
        #.p................d....
        #.......................
        ####....................
        ####....................
        ####....................

    Args:
      pieces: all pieces, _Components.
      is_outer: bool [n], which of them are outer ones.
      touches: which of them touch the left side of the picture, the top, the right side and the bottom, four bool [n].
    """
    height, width = pieces.labels.shape
    left, top, right, bottom = pieces.boxes.T
    at_left, at_top, at_right, at_bottom = touches
    # A first or last digit touches one side, too, but has not many times the ink of the digits in the middle.  Where
    # all pieces are outer ones, they are compared with each other: none has many times the ink of the largest, so none
    # is a table.
    inner_areas = pieces.areas if is_outer.all() else pieces.areas[~is_outer]
    is_table = is_outer & np.any(touches, axis=0) & (pieces.areas > _TABLE * inner_areas.max(initial=0))
    lies_on_table = np.zeros(len(pieces.areas), bool)
    # Left and right first: the strip at the left reaches from x = 0 to the right edge of the table there.
    for near, far, length, at_near, at_far in (
        (left, right, width, at_left, at_right),
        (top, bottom, height, at_top, at_bottom),
    ):
        first_strip_end = far[is_table & at_near & (far <= length / 6)].max(initial=0)
        last_strip_start = near[is_table & at_far & (near >= length * 5 / 6)].min(initial=length)
        lies_on_table |= (far <= first_strip_end) | (near >= last_strip_start)
    return lies_on_table


# The digits of a row differ from their usual height by at most this share of it, and have at most so many times the ink
# of each other.
_LIKE_HEIGHT = 0.25
_LIKE_AREA = 3


def _is_like_digits(pieces, inner):
    """bool [n]: which pieces are as high as two or more of the `inner` ones, bool [n], and have not much more ink."""
    usual = _typical_height(pieces.heights[inner], pieces.areas[inner]) if inner.any() else 0
    is_as_high = np.abs(pieces.heights - usual) <= _LIKE_HEIGHT * usual
    if (inner & is_as_high).sum() < 2:
        return np.zeros(len(inner), bool)
    return is_as_high & (pieces.areas <= _LIKE_AREA * pieces.areas[inner].max())


def _is_sharp(pieces, contrast):
    """bool [n]: pieces at whose contour paper turns into ink within a short distance, unlike a shadow's."""
    mask = pieces.labels >= 0
    y, x = np.nonzero(mask & ~_erode(mask, 3, 3))
    on_contour = pieces.labels[y, x]
    # The step at a pixel of the contour is the range of the contrasts round it.
    side = 2 * max(3, round(_SOFT * min(mask.shape))) + 1
    step = (_dilate(contrast, side, side) - _erode(contrast, side, side))[y, x]
    mean_step = pieces.sum_by(on_contour, step) / pieces.sum_by(on_contour)
    mean_ink = pieces.sum_by(pieces.labels[mask], contrast[mask]) / pieces.areas
    return mean_step > _SHARP * mean_ink


def _typical_height(heights, areas):
    """The height of the piece in which the median pixel of ink lies; both int [n]."""
    order = np.argsort(heights)
    pixels_so_far = np.cumsum(areas[order])
    return heights[order[np.searchsorted(pixels_so_far, pixels_so_far[-1] / 2)]]


# -------- Strokes to digits

# A fragment belongs to a digit that is nearer than this share of the digits' height.
_NEAR = 0.25
# Two large pieces above each other are one digit if the gap between them is smaller than this share of that height.
_NEAR_ABOVE = 0.125


def _group_into_digits(pieces):
    """Decide which pieces together are one digit; returns a list of int arrays, the numbers of the pieces of each.

    A piece is large, or it is a fragment, such as the hat of a 5.  A fragment belongs to the nearest large piece, or is
    dropped where that piece is far.  Two large pieces close above each other, such as a broken 8, are one digit.
    """
    kept = np.flatnonzero(pieces.keep)
    widths = pieces.widths[kept]
    heights = pieces.heights[kept]
    typical = _typical_height(heights, pieces.areas[kept])
    across, down = _measure_gaps(pieces.boxes[kept])
    is_large = heights >= _FRAGMENT * typical
    # owner[i] is the large piece to which piece i belongs; a large piece belongs to itself.
    distance = np.where(is_large[None, :], _measure_distances(pieces.boxes[kept]), np.inf)
    owner = np.where(is_large, np.arange(len(kept)), distance.argmin(1))
    overlaps = -across > 0.5 * np.minimum.outer(widths, widths)
    is_above = overlaps & (down < _NEAR_ABOVE * typical) & is_large[:, None] & is_large[None, :]
    # Each pair stands there twice, and each piece with itself: that does no harm.
    owner = _merge(*np.nonzero(is_above), len(kept))[owner]
    belongs = is_large | (distance.min(1) < _NEAR * typical)
    return [kept[belongs & (owner == number)] for number in np.unique(owner)]


def _measure_gaps(boxes):
    """The gaps between each two of the boxes [m, 4]: two arrays [m, m], to the side, and up or down.

    They are negative where two boxes overlap in that direction.
    """
    left, top, right, bottom = boxes.T
    across = np.maximum.outer(left, left) - np.minimum.outer(right, right)
    down = np.maximum.outer(top, top) - np.minimum.outer(bottom, bottom)
    return across, down


def _measure_distances(boxes):
    """The distances between each two of the boxes [m, 4], to the side plus up or down, [m, m]; 0 where they touch."""
    across, down = _measure_gaps(boxes)
    return np.maximum(across, 0) + np.maximum(down, 0)


def _reading_order(boxes):
    """The order of boxes [n, 4], as a list of their numbers: rows top to bottom, left to right in each."""
    x = (boxes[:, 0] + boxes[:, 2]) / 2
    middle = (boxes[:, 1] + boxes[:, 3]) / 2 - x * math.tan(math.radians(_measure_lean(boxes)))  # as in level rows
    half = (boxes[:, 3] - boxes[:, 1]) / 2
    rows = []
    for i in np.argsort(boxes[:, 0]):
        # A row may be bent, so a digit is compared with the last one of each row.
        nearest = min(rows, key=lambda row, i=i: abs(middle[i] - middle[row[-1]]), default=None)
        if nearest and abs(middle[i] - middle[nearest[-1]]) <= max(half[i], half[nearest[-1]]):
            nearest.append(i)
        else:
            rows.append([i])
    rows.sort(key=lambda row: middle[row].mean())
    return [i for row in rows for i in row]


# From the middle of a digit to that of the next one in its row it is at most so many heights of a digit.
_NEXT_IN_ROW = 2.5


def _measure_lean(boxes):
    """By how many degrees the rows of the boxes [n, 4] lean down to the right.

    That is the median of the directions from each digit to the nearest one to the right of it; 0 where fewer than two
    digits have one, since a single direction says little.
    """
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).T
    across = x[None, :] - x[:, None]  # [n, n], from the first digit to the second one
    down = y[None, :] - y[:, None]
    distance = np.where(np.abs(down) < across, np.hypot(across, down), np.inf)
    is_near = distance.min(axis=1) <= _NEXT_IN_ROW * np.median(boxes[:, 3] - boxes[:, 1])
    if is_near.sum() < 2:
        return 0
    one = np.flatnonzero(is_near)
    other = distance[one].argmin(axis=1)
    return np.median(np.degrees(np.arctan2(down, across)[one, other]))


# -------- Touching digits

# A piece that is wider than this many of its heights is no row of digits that touch.
_WIDEST_NUMBER = 6
# A piece that is higher than so many pixels is scaled down to that before it is cut, since MNIST's form needs no more;
# but its strokes stay at least so wide.
_CUT_HEIGHT = 80
_CUT_STROKE = 2
# Two cuts side by side are this share of the piece's height apart.  At each place there is a cut for each slant: it
# goes so many pixels to the right for each pixel down.
_CUT_DISTANCE = 1 / 16
_SLANTS = (-0.5, -0.33, -0.17, 0, 0.17, 0.33, 0.5)
# A digit between two cuts is at least and at most so wide, as a share of the piece's height, and at least so high.  Of
# MNIST's training digits one in a thousand is more than 1.8 times as wide as high, mostly a 2 or a 5.
_DIGIT_WIDTHS = (0.1, 2.0)
_LEAST_DIGIT_HEIGHT = 0.5
# Each digit of a row lowers the logarithm of the row's probability by the first price, so that nothing is cut without
# need.  The second price is multiplied by how much lower the digit is than the piece, as a share of the piece's height:
# the digits of a number are about equally high, but a slice of any digit looks like a low 1.
_PRICE_OF_DIGIT = 0.5
_PRICE_OF_LOWNESS = 4.0
# Digits that overlap have ink in common.  So a digit may begin before the cut at which the one to its left ends, by
# each of these shares of the piece's height.  That is tried with only so many rows in each call of _extend, since it
# takes time.
_OVERLAPS = (0.12, 0.2)
_MOST_OVERLAPS = 4
# The search goes on with this many rows.
_BEAM = 6
# A blot can be cut in many ways, none of which is a number.  So the search goes on with those rows alone of which the
# total, less the price of the next digit, is above the first number plus so many times the second one as they have
# digits.
_LEAST_TOTAL = (-1.0, -1.5)


class _Cut(NamedTuple):
    """A straight cut through a piece of ink."""

    x: float  # where it crosses the middle of the piece's height
    slant: float  # by how many pixels it goes to the right for each pixel down


class _Row(NamedTuple):
    """Some digits that explain a piece of ink from its left edge to a cut."""

    total: float  # the logarithm of their probability, less the prices
    digits: list  # _Parts from left to right, whose boxes and cuts are in pixels of the piece
    end: _Cut
    before: "_Row" = None  # the row without its last digit


def _split(part, judge):
    """Cut a piece of ink into the digits that explain it best.

    Args:
      part: the piece, a _Part.
      judge: as for find_digits.

    Returns a list of _Parts from left to right; [part] where cuts explain nothing better.
    """
    height, width = part.ink.shape
    if part.log_odds > _LIKELY_LOG_ODDS or width > _WIDEST_NUMBER * height:
        return [part]
    shrink = max(1, min(height / _CUT_HEIGHT, _stroke_width(part.ink > 0.5) / _CUT_STROKE))
    ink = _resize(part.ink, round(height / shrink), round(width / shrink), Image.Resampling.BOX)
    digits = _find_best_digits(ink, part.log_odds, judge)
    corner = np.tile(np.maximum(part.box[:2] - 2, 0), 2)

    def place(ends):
        return None if ends is None else corner + shrink * ends

    return [digit._replace(box=place(digit.box), cut=place(digit.cut)) for digit in digits] or [part]


def _find_best_digits(ink, log_odds, judge):
    """The row of digits that explains ink [h, w] best: over-segmentation and beam search.

    There are many cuts, and which of them are right is decided by what the network recognises between them.  Rows begin
    at the left edge.  In each turn of the loop they are extended by one more digit, either to the right edge, which
    makes a whole row, or to each of the cuts.  Only the most probable rows are extended further.

    `log_odds` are those of all ink as one digit.  Returns a list of _Parts, which is empty if one digit explains the
    ink better than any row.
    """
    height, width = ink.shape
    right_edge = _Cut(width, 0)
    places = np.arange(_DIGIT_WIDTHS[0] * height, width - _DIGIT_WIDTHS[0] * height, _CUT_DISTANCE * height)
    cuts = [_Cut(x, slant) for x in places for slant in _SLANTS]
    best = _Row(_log_probability(log_odds) - _PRICE_OF_DIGIT, [], right_edge)
    rows = [_Row(0.0, [], _Cut(0, 0))]
    count = 0  # how many digits each of the rows has
    while rows:
        best = max([best, *_extend(rows, [right_edge], ink, judge, best.total)], key=lambda row: row.total)
        count += 1
        rows = _choose_best(_extend(rows, cuts, ink, judge, _find_least_total(count, best)))
    return best.digits


def _find_least_total(count, best):
    """The limit above which the total of a _Row of `count` digits must be, so that a longer one may beat the `best`."""
    hopeless = _LEAST_TOTAL[0] + _LEAST_TOTAL[1] * count
    return max(best.total, hopeless) + _PRICE_OF_DIGIT  # The next digit will have its price.


def _choose_best(rows):
    """Of the _Rows the best one to each place, and _BEAM of these."""
    best_to = {row.end.x: row for row in sorted(rows, key=lambda row: row.total)}
    return sorted(best_to.values(), key=lambda row: row.total)[-_BEAM:]


def _extend(rows, cuts, ink, judge, least):
    """The _Rows that are one digit longer than the `rows`, end at one of the `cuts`, and have a total above `least`."""
    height, width = ink.shape
    spans = []
    for row, cut in itertools.product(rows, cuts):
        distance = cut.x - row.end.x
        # Over the whole width it would be one digit, which _find_best_digits begins with.
        if distance < width and _DIGIT_WIDTHS[0] * height <= distance <= _DIGIT_WIDTHS[1] * height:
            spans.append((row, cut))
    extended = _add_digits(spans, 0, ink, judge, least)
    promising = sorted(extended, key=lambda row: row.total)[-_MOST_OVERLAPS:]
    overlapping = [(row.before, row.end) for row in promising if row.before.digits]
    for overlap in _OVERLAPS:
        extended += _add_digits(overlapping, overlap, ink, judge, least)
    return [row for row in extended if row.total > least and row.digits[-1].log_odds > _INCREDIBLE_LOG_ODDS]


def _add_digits(spans, overlap, ink, judge, least):
    """For each span, a (_Row, _Cut), the _Row with one more digit, from its end to the cut.

    A span in which that digit would be too low gives no row, and none for which even a sure digit would not bring the
    total above `least`.  The digit begins before the end of the row, by `overlap`, a share of the height of ink [h, w].
    """
    height = len(ink)
    piece_height = _count_rows(ink)  # without the margin
    digits = []
    for row, cut in spans:
        between = _between(ink, row.end._replace(x=row.end.x - overlap * height), cut)
        share_of_height = _count_rows(between) / piece_height
        most = row.total - _PRICE_OF_DIGIT - _PRICE_OF_LOWNESS * (1 - share_of_height)  # if the digit is sure
        if share_of_height >= _LEAST_DIGIT_HEIGHT and most > least:
            digits.append((row, cut, between, most))
    if not digits:
        return []
    pixels = [_to_mnist(between) for _, _, between, _ in digits]
    judgement = judge(np.stack(pixels))
    longer = []
    for i, (row, cut, between, most) in enumerate(digits):
        drawn_cut = _draw_cut(row.end, height) if row.digits else None
        digit = _Part(pixels[i], _box_of(between), cut=drawn_cut, **judgement.of(i))
        longer.append(_Row(most + _log_probability(digit.log_odds), [*row.digits, digit], cut, row))
    return longer


def _log_probability(log_odds):
    """The logarithm of the probability p with these log odds: p is 1 / (1 + exp(-log_odds))."""
    return -np.logaddexp(0, -log_odds)


def _count_rows(ink):
    """How many rows of ink [h, w] have a stroke in them."""
    return (ink > 0.5).any(axis=1).sum()


def _between(ink, left, right):
    """The ink [h, w] between two _Cuts."""
    height, width = ink.shape
    y, x = np.ogrid[:height, :width]
    down = y - height / 2
    return np.where((x >= left.x + left.slant * down) & (x < right.x + right.slant * down), ink, 0)


def _box_of(ink):
    """[left, top, right, bottom] of the strokes of ink [h, w]; raises PictureError where there is none."""
    is_stroke = ink > 0.5
    rows = np.flatnonzero(is_stroke.any(axis=1))
    columns = np.flatnonzero(is_stroke.any(axis=0))
    if not rows.size:
        raise PictureError(_NO_DIGIT)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def _draw_cut(cut, height):
    """The ends of a _Cut through a piece of that height, [x, y, x, y]."""
    lean = cut.slant * height / 2
    return np.array([cut.x - lean, 0, cut.x + lean, height])


# A pen that was pressed less leaves paler strokes.  A stroke with at least this share of the full ink is brought up to
# full ink; a paler one is a smudge and stays pale.
_PRESSURE = 0.4


def _cut_out(contrast, pieces, numbers, frame):
    """Cut one digit out of the picture.

    Args:
      contrast: the whole picture, float32 [h, w].
      pieces: its _Components.
      numbers: which of the pieces are the digit.
      frame: left, top, right, bottom of the digit.

    Returns (float32 [m, n] in 0..1, the grey levels of these pieces alone, 1 = full ink, with a margin of 2 pixels
    round the frame, less at the rim of the picture; the contrast that full ink has here).
    """
    left, top, right, bottom = frame
    window = slice(max(top - 2, 0), bottom + 2), slice(max(left - 2, 0), right + 2)
    mask = np.isin(pieces.labels[window], numbers)
    ink = contrast[window] * _dilate(mask, 3, 3)
    full = np.percentile(ink[mask], 75)
    # How hard the pen was pressed at a pixel: the darkest ink within a stroke's width.
    reach = 2 * round(_stroke_width(mask)) + 1
    pressure = _dilate(ink, reach, reach)
    # A pale stroke is divided by its own darkest ink and becomes full ink.  A smudge, whose darkest ink is less than
    # _PRESSURE * full, is divided by more than it has and stays pale.
    return np.clip(ink / np.clip(pressure, _PRESSURE * full, full), 0, 1), full


# -------- Tools

# Each takes an array [h, w].


def _resize(grey, height, width, resampling=Image.Resampling.BICUBIC):
    """float32 [h, w] scaled to [height, width], anti-aliased when it shrinks."""
    image = Image.fromarray(np.ascontiguousarray(grey, np.float32))
    return np.asarray(image.resize((width, height), resampling))


def _dilate(grey, height, width):
    """Grey dilation: the maximum over windows of `height` x `width` pixels, see _extreme_down."""
    return _extreme_down(np.maximum, _extreme_down(np.maximum, grey, height).T, width).T


def _erode(grey, height, width):
    """Grey erosion: the minimum over windows of `height` x `width` pixels, see _extreme_down."""
    return _extreme_down(np.minimum, _extreme_down(np.minimum, grey, height).T, width).T


def _extreme_down(extreme, grey, size):
    """The np.maximum or np.minimum over a window of `size` pixels in the column of each pixel, which is in its middle.

    A window of an even size reaches one pixel further up than down.
    """
    above = np.repeat(grey[:1], size // 2, axis=0)
    below = np.repeat(grey[-1:], (size - 1) // 2, axis=0)
    result = np.concatenate([above, grey, below])  # np.pad does the same, and takes many times as long.
    covered = 1
    # The maximum over a window is the maximum of two smaller windows in it.  Their size doubles with each turn, and in
    # the last turn they may overlap: 7 pixels are covered by windows of 2, 4, and two of 4 with one pixel in common.
    while covered < size:
        step = min(covered, size - covered)
        result = extreme(result[:-step], result[step:])
        covered += step
    return result


def _stroke_width(mask):
    """The mean width of the strokes of mask [h, w] in pixels: two areas divided by the length of the contour."""
    at_border = sum(map(np.count_nonzero, (mask[0], mask[-1], mask[:, 0], mask[:, -1])))
    inside = np.count_nonzero(mask[1:] != mask[:-1]) + np.count_nonzero(mask[:, 1:] != mask[:, :-1])
    # The edges of pixels make a slanting contour longer than it is, by 4 / pi on average.
    contour = (at_border + inside) * np.pi / 4
    return 2 * np.count_nonzero(mask) / max(contour, 1)


# ======== MNIST's form

_BOX_SIDE = 20  # pixels: MNIST scaled each digit to fit into a box of this side
_FINE = 4  # Strokes are measured and mended at so many times MNIST's resolution.
# Stroke widths in MNIST's pixels.  Half of MNIST's own strokes lie between 2.1 and 2.9.  Strokes thicker than _THICK
# are thinned to _THICK.  Strokes thinner than _THIN are thickened: the more they lack, the further beyond _THIN, since
# the network reads a fine pen best when its strokes are of middling width (1.9 becomes 2.3; 1.6 and less becomes 2.6).
_THIN = 2.1
_MIDDLING = 2.6
_THICK = 3.0


def _to_mnist(ink):
    """Bring ink [h, w] in 0..1 of one digit to MNIST's form, float32 [784]: its thickness, its box, its centre.

    Raises PictureError where there is no stroke.
    """
    # 1. Thicken strokes that would become finer than two pixels of the fine picture, and so fade.
    left, top, right, bottom = _box_of(ink)
    shrink = max(max(right - left, bottom - top) / (_BOX_SIDE * _FINE), 1)
    missing = 2 * shrink - _stroke_width(ink > 0.5)
    if missing > 0:
        side = round(missing) + 1
        ink = _dilate(ink, side, side)
    # 2. Scale to the box, at _FINE times MNIST's resolution, and give the strokes MNIST's thickness there.
    with_room_to_grow = np.pad(_fit_to_box(ink), 2 * _FINE)
    mended = _mend_thickness(with_room_to_grow)
    # 3. Scale to the box again, since the digit has grown or shrunk, and down to MNIST's resolution.
    fine = _fit_to_box(mended)
    ink = np.clip(_resize(fine, *(max(1, round(side / _FINE)) for side in fine.shape)), 0, 1)
    # 4. Put the centre of mass in the middle of 28x28 pixels.
    return _centre(ink)


def _fit_to_box(ink):
    """ink [h, w] cut to its strokes and scaled so that its long side is _BOX_SIDE * _FINE pixels."""
    left, top, right, bottom = _box_of(ink)
    ink = ink[top:bottom, left:right]
    scale = _BOX_SIDE * _FINE / max(ink.shape)
    return np.clip(_resize(ink, *(max(1, round(side * scale)) for side in ink.shape)), 0, 1)


def _mend_thickness(ink):
    """ink [h, w] at _FINE resolution with strokes no thinner and no thicker than MNIST's."""
    width = _stroke_width(ink > 0.5) / _FINE
    if width < _THIN:
        wanted = min(_MIDDLING, 2 * _THIN - width)
        extreme = np.maximum
    else:
        wanted = min(width, _THICK)
        extreme = np.minimum
    # Each turn of the loop lets the strokes grow or shrink by one pixel on every side, and the last turn by the part of
    # a pixel that remains.  Growing by a square and by a diamond in turn makes an octagon, which is nearly a circle.
    radius = abs(wanted - width) / 2 * _FINE
    for remaining in np.arange(radius, 0, -1):
        vertical = _extreme_down(extreme, ink, 3)
        if int(remaining) % 2:
            changed = _extreme_down(extreme, vertical.T, 3).T  # a square
        else:
            changed = extreme(vertical, _extreme_down(extreme, ink.T, 3).T)  # a diamond
        ink = ink + (changed - ink) * min(remaining, 1)
    return ink


def _centre(ink):
    """ink [h, w], at most 28x28, as float32 [784], moved by whole pixels until its centre of mass is in the middle."""
    starts = []
    for axis, length in enumerate(ink.shape):
        centre = ink.sum(axis=1 - axis) @ np.arange(length) / ink.sum()
        # MNIST's centre is that of pixel 14, half a pixel past the middle.
        start = round(IMAGE_SIDE // 2 - centre)
        starts.append(min(max(start, 0), IMAGE_SIDE - length))
    top, left = starts
    image = np.zeros([IMAGE_SIDE, IMAGE_SIDE], np.float32)
    image[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return image.ravel()


# ======== What is no digit

# The outline of a digit, in this section and in the file outlines.npz, is a thumbnail: its picture blurred and halved.

# The distance of two outlines is 1 minus their cosine similarity.  Something is strange, that is no digit, if its
# distance to the nearest training digit of its class exceeds a limit.  The limit is set so that only this share of the
# training digits exceeds it; for MNIST and the world it is 0.18.
_STRANGE_SHARE = 0.002
# The limit is at least this, also where all training pictures of each class are alike.
_LEAST_LIMIT = 0.01
# A picture is compared with so many training digits, shared equally by the classes, and with all that were added by
# --add.  However many classes there are, the share of each one is at least the second number.
_OUTLINE_SAMPLES = 20000
_OUTLINE_SAMPLES_OF_CLASS = 100


# The weights of a second network, see build_wholeness.  It was trained on whole digits against what is none: several
# that touch, parts of them, digits with a line across them, letters, drawings and blots.  tests/make_whole_digits.py
# makes it.
WHOLE_DIGITS_PATH = mnist_forward.DATA_PATH / "whole_digits.npz"
# The log odds are a sum of features with these weights, fitted by logistic regression on pictures of the same kinds,
# which that network was not trained on, and rounded.
_LOG_ODDS_WEIGHTS = {
    "wholeness": 0.8,  # that network's own log odds
    "strangeness": -1.4,  # the distance to the nearest training digit of the class, divided by the limit
    "log probability": 0.7,  # of the class
    "log improbability": -0.1,  # the logarithm of 1 minus that
    "bias": 0.1,
}
# When the weights are used, the wholeness is at least this: of the held-out pictures to which that network gives -10 to
# -5, one in a hundred is a whole digit all the same, for example a 1 whose foot is as wide as it is high.
_LEAST_WHOLENESS = -5.0
# Of other classes than digits nothing is known beforehand.
_LOG_ODDS_WEIGHTS_OF_OWN_CLASSES = {
    "strangeness": -6.2,
    "log improbability": -0.45,
    "bias": -0.1,
}


class Judgement(NamedTuple):
    """What judge_digits says of n pieces of ink, each taken for one digit."""

    log_odds: np.ndarray  # the log odds that it is one whole digit, not half a digit or two that touch, float [n]
    confidence: np.ndarray  # the network's probability of its likeliest class, float [n]
    is_refused: np.ndarray  # bool [n]: it is strange, or the network is less sure than _LEAST_CONFIDENCE

    def of(self, i):
        """What is said of piece number i, as a dictionary."""
        return {name: values[i] for name, values in self._asdict().items()}


# A digit of which the network is less sure than this is refused, even if it resembles a training digit.  Of 439 real
# digits three had a confidence below 0.6, so at 0.5 hardly one is refused.
_LEAST_CONFIDENCE = 0.5


def judge_digits(pixels, probabilities, model_dir):
    """Tell digits from letters, drawings, blots and pieces of digits, of which the network alone would be sure, too.

    Args:
      pixels: float32 [n, 784].
      probabilities: what the network says of them, float32 [n, classes].
      model_dir: the folder of the model, with its class names and the outlines of training digits.

    Returns a Judgement.
    """
    features = _measure_features(pixels, probabilities, model_dir)
    features["wholeness"] = np.maximum(features["wholeness"], _LEAST_WHOLENESS)
    is_of_digits = read_class_names(model_dir) == mnist_forward.DIGITS
    weights = _LOG_ODDS_WEIGHTS if is_of_digits else _LOG_ODDS_WEIGHTS_OF_OWN_CLASSES
    log_odds = sum(weight * features[name] for name, weight in weights.items())
    confidence = probabilities.max(axis=1)
    is_refused = (confidence < _LEAST_CONFIDENCE) | (features["strangeness"] > 1)
    return Judgement(log_odds, confidence, is_refused)


def _measure_features(pixels, probabilities, model_dir):
    """The features of _LOG_ODDS_WEIGHTS, {name: float [n]}; the arguments are as for judge_digits."""
    likeliest = np.clip(probabilities.max(axis=1), 1e-5, 1 - 1e-5)
    return {
        "wholeness": _measure_wholeness(pixels),
        "strangeness": _measure_strangeness(pixels, probabilities.argmax(axis=1), model_dir),
        "log probability": np.log(likeliest),
        "log improbability": np.log(1 - likeliest),
        "bias": np.ones(len(pixels)),
    }


def build_wholeness(x, weights):
    """Build the network that tells whole digits from what is none: two convolutions, each with max pooling, two layers.

    Args:
      x: pictures, float32 [n, 784], 0 = paper .. 1 = ink.
      weights: its weights and biases, {name: array, tensor or variable}: of the convolutions `weights1` [5, 5, 1, a]
        and `weights2` [5, 5, a, b], of the layers `weights3` [49 * b, c] and `weights4` [c, 1]; `biases1` [a] to
        `biases4` [1].

    Returns the log odds that each picture is a whole digit, float32 [n].
    """
    maps = tf.reshape(x, [-1, IMAGE_SIDE, IMAGE_SIDE, 1])
    for number in (1, 2):
        maps = tf.nn.conv2d(maps, weights[f"weights{number}"], strides=1, padding="SAME")
        maps = tf.nn.relu(maps + weights[f"biases{number}"])
        maps = tf.nn.max_pool2d(maps, ksize=2, strides=2, padding="SAME")
    hidden = tf.reshape(maps, [-1, weights["weights3"].shape[0]])
    hidden = tf.nn.relu(hidden @ weights["weights3"] + weights["biases3"])
    return tf.squeeze(hidden @ weights["weights4"] + weights["biases4"], axis=1)


@functools.cache
def _whole_digit_network():
    """(sess, x, y) of the network of WHOLE_DIGITS_PATH: pictures x [n, 784] to their log odds y [n].

    Raises UserError where the file can't be read, or holds something else.
    """
    try:
        weights = _read_whole_digits()
        with tf.Graph().as_default():
            x = tf.placeholder(tf.float32, [None, INPUT_NODE])
            y = build_wholeness(x, weights)
            return tf.Session(), x, y
    except Exception:  # numpy, zip, zlib and TensorFlow have one each.
        raise UserError(f"{WHOLE_DIGITS_PATH} is missing or damaged: take it from the repository again.") from None


def _read_whole_digits():
    """The weights in the file WHOLE_DIGITS_PATH, {name: float32 array}."""
    with np.load(WHOLE_DIGITS_PATH) as file:
        return {name: values.astype(np.float32) for name, values in file.items()}


def _measure_wholeness(pixels):
    """The log odds that pixels [n, 784] are a whole digit, float32 [n]."""
    sess, x, y = _whole_digit_network()
    return sess.run(y, {x: pixels})


def _find_refusal(found, picture, class_names):
    """Why a picture is refused: the text of a PictureError, or None where it is not refused.

    Args:
      found: the Found of the picture, whose digits were judged.
      picture: float32 [h, w, 3], as for find_digits.
      class_names: the names of the classes.
    """
    # What a written number looks like is known of digits alone: own classes may be drawings.
    is_of_digits = class_names == mnist_forward.DIGITS
    is_writing = _is_writing(found, _measure_colourfulness(picture, found.boxes))
    if is_of_digits and (not is_writing or _is_wheel(found.pixels) or _is_sign(picture, found)):
        return _NO_WRITING
    # One unclear digit does not spoil a number; a picture of which most is unclear shows something else.
    is_mostly_refused = found.is_refused.mean() > 0.5
    is_improbable = found.confidence.prod() < _LEAST_CONFIDENCE_OF_NUMBER
    if is_mostly_refused or is_improbable or (is_of_digits and not _is_number(found)):
        return _UNCLEAR
    return None


# A less probable number would be printed with a confidence of 0.0%.
_LEAST_CONFIDENCE_OF_NUMBER = 0.0005
# The digits of a picture have a score: the mean of their log odds, plus the logarithm of the network's confidence in
# the digit of which it is least sure.  Sum and limits were chosen by trial, on numbers and on letters.  The first limit
# is for one digit, the second for two, the third for three or more.  The limit for one is low, so that rare forms of a
# digit are answered.  That for two is the highest, since the strokes of a letter easily look like two digits; three
# digits in a row rarely come by chance.
_LEAST_SCORES = (-4.5, 0.1, -0.9)
# Where all digits were cut out of one piece of ink, that piece may be a letter as well.  The cuts with the best log
# odds were chosen out of many, and each stroke of a letter looks like a 1.  So there the limit is another one; what is
# as narrow as a 1 counts for nothing, however high its log odds are; the doubt (see _measure_doubt) counts against it,
# since one part of a letter often looks like a digit, and the rest like none; and each refused digit lowers the score.
# Limit and price were chosen by trial, on letters and on made pairs and triples of digits that the network had not
# learned.
_LEAST_SCORE_OF_CUT_PIECE = 0.1
_PRICE_OF_REFUSED_DIGIT = 1.0
# A digit whose width is less than this share of its height is as narrow as a 1.
_LIKE_A_ONE = 0.35


def _is_number(found):
    """Whether the digits of a Found are clear enough to be a number."""
    log_odds = found.log_odds
    least = _LEAST_SCORES[min(len(log_odds), 3) - 1]
    price = 0
    if _may_be_letter(found):
        log_odds = _discount_strokes(found)
        least = _LEAST_SCORE_OF_CUT_PIECE
        price = _measure_doubt(found) + _PRICE_OF_REFUSED_DIGIT * found.is_refused.sum()
    return log_odds.mean() + np.log(found.confidence.min()) - price >= least


# A line that is longer than so many times the height of the highest digit is a printed one, and no bar of a letter.
_LONGEST_BAR = 2.0


def _may_be_letter(found):
    """Whether the digits of a Found are of one piece of ink, or of one that a short line had joined, as in an H."""
    lengths = np.hypot(*(found.lines[:, 2:] - found.lines[:, :2]).T)
    has_bar = (lengths <= _LONGEST_BAR * found.sizes[1].max()).any()
    return _is_one_piece(found) or (bool(has_bar) and not _share_long_line(found))


def _discount_strokes(found):
    """The log odds of the digits of a Found, float [n], of which those that are as narrow as a 1 are at most 0."""
    return np.where(_is_like_a_one(found), np.minimum(found.log_odds, 0), found.log_odds)


def _measure_doubt(found):
    """By how much the log odds of the digits of a Found are below 0, or 0 where they are not: the mean."""
    return np.maximum(-found.log_odds, 0).mean()


def _is_like_a_one(found):
    """bool [n]: which digits of a Found are as narrow as a 1."""
    width, height = found.sizes
    return width < _LIKE_A_ONE * height


class _Strokes(NamedTuple):
    """What the strokes of a piece of ink are like.  Those of a pen are of one width, and not long for a digit."""

    area: int  # pixels
    width: float  # the mean, in pixels
    thick: float  # the share of the area in places that are thicker than _THICKER times the mean stroke
    length: float  # of all strokes together, in units of the longer side of the piece


_THICKER = 1.5
# Strokes are measured in a picture in which they are at most about this many pixels wide.
_COARSE_STROKE = 4


def _measure_strokes(mask):
    """The _Strokes of a piece of ink, bool [h, w]."""
    area = mask.sum()
    # Grain frays the edges of a pale stroke, which then seems thinner than it is.  In a coarser picture the edges are
    # smooth again.
    shrink = max(1, _stroke_width(mask) / _COARSE_STROKE)
    sides = [math.ceil(side / shrink) for side in mask.shape]
    mask = _resize(mask.astype(np.float32), *sides, Image.Resampling.BOX) > 0.5
    width = _stroke_width(mask)
    padded = np.pad(mask, 1)
    side = max(2, round(_THICKER * width))
    thick = _dilate(_erode(padded, side, side), side, side)
    return _Strokes(area, shrink * width, thick.sum() / mask.sum(), mask.sum() / width / max(mask.shape))


# A drawing or a photo of something is told from writing by a sum of features with these weights.  They are fitted by
# logistic regression, apart for one or two digits and for a row of more: real and made sheets of digits against
# photographs, drawings, icons, patterns and printed pages.  With these biases hardly a real sheet is below 0.  Colours
# then got less weight and thickness more, since a red pen is still a pen, and a blot is none.  The weights of
# the coverage and of the heights of two digits, and for a row also those of the doubt and of the excess length, were
# chosen by trial, and the biases after them.
_FEW_DIGITS_WEIGHTS = {
    "log odds": 0.5,  # the mean of the log odds of the digits
    "thick": -7.5,  # the mean, see _Strokes
    "length": -0.8,  # the largest one, see _Strokes
    "colourfulness": -300.0,  # of the digits, at most _MOST_COLOURFUL
    "share of ink": 11.0,  # how much of the ink is in the digits
    "coverage": -8.0,  # the ink's share of the picture: a drawing fills its sheet
    "unlike heights": -8.0,  # the standard deviation of the logarithm of the heights; 0 for one digit
    "bias": -4.25,
}
_ROW_WEIGHTS = {
    "discounted log odds": 1.3,  # their mean, see _discount_strokes
    "doubt": -2.5,  # by how much the log odds are below 0, or 0: their mean; in a printed word some are far below it
    "thick": -10.0,  # this and four others: as above
    "excess length": -1.5,  # by how much the longest strokes exceed _USUAL_LENGTH, or 0
    "colourfulness": -60.0,
    "share of ink": 14.0,
    "coverage": -4.0,
    "unlike heights": -5.0,
    "like a 1": -7.0,  # the share of the digits that are as narrow as a 1: in a pattern everything is one
    "bias": -8.6,
}
# Most digits, and most pieces of several digits, have strokes no longer than this (see _Strokes); the curves of a plot
# are longer.
_USUAL_LENGTH = 2.6
# Several colours of ink, or of printed lines, count as no more than this.
_MOST_COLOURFUL = 0.02
# Writing leaves most of its paper blank: of 94 photos of numbers and digits, the ink of none covers more than 0.26.
_MOST_COVERED = 1 / 3


def _is_writing(found, colourfulness):
    """Whether a Found is writing, and not a drawing or a photo; `colourfulness` is _measure_colourfulness's."""
    if found.coverage > _MOST_COVERED:
        return False
    length = max(strokes.length for strokes in found.strokes)
    features = {
        "log odds": found.log_odds.mean(),
        "discounted log odds": _discount_strokes(found).mean(),
        "doubt": _measure_doubt(found),
        "thick": np.mean([strokes.thick for strokes in found.strokes]),
        "length": length,
        "excess length": max(0, length - _USUAL_LENGTH),
        "colourfulness": min(colourfulness, _MOST_COLOURFUL),
        "unlike heights": np.log(found.sizes[1]).std(),
        "like a 1": _is_like_a_one(found).mean(),
        "share of ink": found.share_of_ink,
        "coverage": found.coverage,
        "bias": 1,
    }
    weights = _FEW_DIGITS_WEIGHTS if len(found.log_odds) <= 2 else _ROW_WEIGHTS
    return sum(weight * features[name] for name, weight in weights.items()) > 0


# The correlation of a picture with itself turned by a quarter is 0.93 for the roundest of the 8,081 zeros of MNIST and
# the world, and above 0.99 for drawn circles and wheels.
_ROUNDEST_ZERO = 0.95


def _is_wheel(pixels):
    """Whether most of the digits, float32 [n, 784], look the same when turned by a quarter, as rings and wheels do."""
    return np.mean([_measure_roundness(digit) > _ROUNDEST_ZERO for digit in pixels]) > 0.5


def _measure_roundness(digit):
    """The correlation of a digit, float32 [784], with itself turned by a quarter; 0 where its box is no square."""
    image = digit.reshape(IMAGE_SIDE, IMAGE_SIDE)
    left, top, right, bottom = _box_of(image)
    if right - left != bottom - top:
        return 0.0
    inside = image[top:bottom, left:right]
    return np.corrcoef(inside.ravel(), np.rot90(inside).ravel())[0, 1]


def _measure_strangeness(pixels, classes, model_dir):
    """How unlike each training digit of its class a digit is, float [n]; above 1 it is strange.

    That is its distance to the nearest training digit of its class, divided by the limit.

    Args:
      pixels: the digits, float32 [n, 784].
      classes: the class of each, int [n].
      model_dir: the folder with the outlines of training digits.
    """
    known, limit = _read_outlines(model_dir)
    outlines = _get_outlines(pixels)
    distances = np.full(len(pixels), 2.0)  # above each limit, for a class of which no digit is known
    for number in np.intersect1d(classes, list(known)):
        is_of_class = classes == number
        distances[is_of_class] = 1 - (outlines[is_of_class] @ known[number].T).max(axis=1)
    return distances / limit


# float32 [28, 14]: a row of 28 pixels times this matrix is a row of 14.  Pixel i of the 14 is a sum of the four pixels
# 2 * i - 1 to 2 * i + 2, with the weights 1/4, 3/4, 3/4, 1/4: blurred, so that two strokes side by side have a
# likeness.
_HALVE = 1 - np.abs(np.arange(IMAGE_SIDE)[:, None] - (2 * np.arange(IMAGE_SIDE // 2) + 0.5)) / 2
_HALVE = np.maximum(0, _HALVE).astype(np.float32)


def _get_outlines(pixels):
    """float32 [n, 196]: the pictures [n, 784] blurred and at half size, as vectors of length 1.

    The dot product of two is their cosine similarity, here called likeness: 1 for the same picture.
    """
    images = pixels.reshape(-1, IMAGE_SIDE, IMAGE_SIDE)
    halved = (_HALVE.T @ images @ _HALVE).reshape(len(images), -1)
    return halved / np.maximum(np.linalg.norm(halved, axis=1, keepdims=True), 1e-6)


def write_outlines(data_dir, samples, added=()):
    """Write the outlines of some training samples to the file outlines.npz of a data folder.

    Args:
      data_dir: the folder, a Path.
      samples: the training samples, [(784 bytes, class number), ...]; one that stands there many times counts once.
      added: those of them that must not be left out.

    The file holds `outlines`, float16 [m, 196], `classes`, int [m], and `strange`, the limit of the distance, 0..1.
    """
    # A sample that stood here twice would be its own neighbour.
    added = dict.fromkeys(added)
    some = [*added, *_choose_evenly([sample for sample in dict.fromkeys(samples) if sample not in added])]
    outlines = np.empty([len(some), INPUT_NODE // 4], np.float16)
    for start in range(0, len(some), 1000):  # All at once would need much memory.
        pixels = np.frombuffer(b"".join(pixels for pixels, _ in some[start : start + 1000]), np.uint8)
        outlines[start : start + 1000] = _get_outlines(pixels / np.float32(255))
    classes = np.array([number for _, number in some])
    distances = []
    for number in np.unique(classes):
        own = outlines[classes == number].astype(np.float32)
        if len(own) < 2:  # A single picture has no neighbour.
            continue
        for start in range(0, min(len(own), 1000), 200):  # All of them against all would need too much memory.
            likeness = own[start : start + 200] @ own.T
            np.fill_diagonal(likeness[:, start:], 0)
            distances.extend(1 - likeness.max(1))
    limit = max(np.quantile(distances, 1 - _STRANGE_SHARE), _LEAST_LIMIT) if distances else 1.0
    with mnist_forward.write_whole(data_dir / OUTLINES_FILE) as part, open(part, "wb") as file:
        np.savez_compressed(file, outlines=outlines, classes=classes, strange=limit)


def _choose_evenly(samples):
    """Of samples, [(784 bytes, class number), ...], the share of each class, as _OUTLINE_SAMPLES says."""
    of_class = collections.defaultdict(list)
    for sample in samples:
        of_class[sample[1]].append(sample)
    most = max(_OUTLINE_SAMPLES // max(len(of_class), 1), _OUTLINE_SAMPLES_OF_CLASS)
    chosen = []
    for own in of_class.values():
        places = np.linspace(0, len(own) - 1, min(most, len(own)))
        chosen += [own[i] for i in places.round().astype(int)]
    return chosen


@functools.cache
def _read_outlines(model_dir):
    """(the outlines of each class, {class number: float32 [m, 196]}; the limit of the distance) of a model folder.

    A model that the lecture's program trained has no such file: then nothing is strange.  Raises UserError where the
    file is damaged.
    """
    path = Path(model_dir) / OUTLINES_FILE
    try:
        with np.load(path) as file:
            classes = file["classes"]
            outlines = file["outlines"].reshape(len(classes), IMAGE_SIDE * IMAGE_SIDE // 4).astype(np.float32)
            return {number: outlines[classes == number] for number in np.unique(classes)}, float(file["strange"])
    except FileNotFoundError:
        return {}, np.inf
    except Exception:  # numpy, zip and zlib have one each.
        raise UserError(
            f"{path} is damaged: copy it anew from the data folder that the model was trained on."
        ) from None


# ======== Pictures of the answer

_CONTACT_SHEET_PICTURES = 60


class _Album:
    """A folder with a picture of each reading, and a contact sheet of every 60 of them.

    Raises UserError where the folder can't be made.
    """

    def __init__(self, look_dir, class_names):
        mnist_forward.make_dir(look_dir, "--look")
        self.look_dir = look_dir
        self.drawn_names = dict(zip(class_names, name_in_pictures(class_names), strict=True))
        self.count = 0
        self.cells = []

    def add(self, reading):
        """Save the picture of a Reading, and the contact sheet once it is full."""
        self.count += 1
        reading = reading._replace(answer=_rename_classes(reading.answer, self.drawn_names))
        save_picture(_draw_reading(reading), self.look_dir / f"{self.count:04d}-{shorten_stem(reading.path)}.png")
        caption = draw_text(f"{Path(reading.path).name[-60:]}: {reading.answer}", 200)
        self.cells.append(arrange_in_grid([draw_found(reading.path, reading.found, 200), caption], columns=1))
        if len(self.cells) == _CONTACT_SHEET_PICTURES:
            self.save_sheet()

    def save_sheet(self):
        """Save the sheet of the pictures that are on none yet."""
        if self.cells:
            first = self.count - len(self.cells) + 1
            save_picture(arrange_in_grid(self.cells, columns=6), self.look_dir / f"contact-sheet-{first:04d}.png")
        self.cells = []


def _rename_classes(answer, drawn_names):
    """An Answer with other names of the classes, {name: drawn name}."""
    if all(name == drawn for name, drawn in drawn_names.items()):
        return answer
    guesses = [tuple((drawn_names[name], probability) for name, probability in some) for some in answer.guesses]
    return answer._replace(number=" ".join(some[0][0] for some in guesses), guesses=tuple(guesses))


def shorten_stem(path):
    """The last 80 bytes of a file's name without its ending: with more added the name must stay below 255 bytes."""
    return os.fsencode(Path(path).stem)[-80:].decode(errors="ignore")


def _draw_reading(reading):
    """An RGB picture: the photo with its digits boxed, what the network saw, and the three likeliest digits of each."""
    photo = draw_found(reading.path, reading.found, 480)
    digits = []
    if reading.found:
        for pixels, guesses in zip(reading.found.pixels, reading.answer.guesses, strict=True):
            caption = ", ".join(f"{name:.20}:\xa0{probability:.1%}" for name, probability in guesses)
            digits.append(draw_digit(pixels, caption, 112))
    if digits:
        photo = arrange_in_grid([photo, arrange_in_grid(digits, columns=max(3, len(digits) // 3))], columns=2)
    title = draw_text(f"{Path(reading.path).name}: {reading.answer}", photo.width, size=18)
    return arrange_in_grid([title, photo], columns=1)


def draw_found(path, found, side):
    """The picture at `path` with what was found in it, as RGB, at most `side` pixels wide and high.

    Digits are boxed in red, cuts between touching digits are magenta, printed lines that were taken out are blue.
    `found` is a Found or None.  Where the picture can't be read there is a grey square.
    """
    try:
        photo = Image.fromarray(np.uint8(open_picture(path) * 255))
    except PictureError:
        photo = Image.new("RGB", (side, side), "lightgrey")
    scale = side / max(photo.size)
    photo = photo.resize([max(1, round(length * scale)) for length in photo.size])
    draw = ImageDraw.Draw(photo)
    if found:
        for ends in found.lines:
            draw.line((ends * scale).tolist(), "blue", width=1)
        for ends in found.cuts:
            draw.line((ends * scale).tolist(), "magenta", width=2)
        for box in found.boxes:
            draw.rectangle((box * scale).tolist(), outline="red", width=2)
    return photo


def draw_digit(pixels, caption, side=84):
    """An RGB picture of pixels, [784] in 0..1, enlarged to `side` without smoothing, above a caption."""
    image = Image.fromarray(np.uint8(pixels.reshape(IMAGE_SIDE, IMAGE_SIDE) * 255))
    enlarged = image.resize((side, side), Image.Resampling.NEAREST)
    return arrange_in_grid([enlarged, draw_text(caption, side)], columns=1)


def draw_text(text, width, size=13, ground="white"):
    """An RGB picture of the text, in lines of about `width` pixels: of that width, or of its widest line's."""
    font = _find_font(text, size)
    if not font:
        font = ImageFont.load_default(size)
        text = "".join(character if _has_glyph(font, character) else "?" for character in text)
    # A letter is about half as wide as high, a Chinese character as wide as high.
    character_width = size / 2 if max(text, default="") < "\u3000" else size
    # A space that does not break a line is drawn as any other.
    lines = textwrap.fill(text, max(1, int(width / character_width))).replace("\xa0", " ")
    right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((2, 2), lines, font)[2:]
    image = Image.new("RGB", (max(width, int(right) + 2), int(bottom) + 4), ground)
    ImageDraw.Draw(image).multiline_text((2, 2), lines, "black", font)
    return image


# Pillow's own font has only the characters of English.  The fonts in these files have Chinese ones, too; nearly every
# system comes with one of them.
_SYSTEM_FONTS = (
    # Windows
    "msyh.ttc",
    "simhei.ttf",
    "simsun.ttc",
    # macOS
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "STHeiti Medium.ttc",
    "Arial Unicode.ttf",
    # Linux; the last one has no Chinese, but Greek, Russian and accents
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "uming.ttc",
    "DejaVuSans.ttf",
)


def name_in_pictures(class_names):
    """The names that stand in pictures for the classes: a class's number where no font has its name's characters."""
    return [name if _find_font(name, 13) else str(number) for number, name in enumerate(class_names)]


def _find_font(text, size):
    """The first font that has all characters of a text, Pillow's own or one of the system's; None if no font has."""
    for name in (None, *_SYSTEM_FONTS):
        font = _load_font(name, size)
        if font and all(_has_glyph(font, character) for character in text):
            return font
    return None


@functools.cache
def _load_font(name, size):
    """The font of a file of this name in the system's folders of fonts, or None; for the name None Pillow's own."""
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except OSError:
        return None


@functools.cache
def _has_glyph(font, character):
    """Whether a font has a character.  One that a font has not is drawn as an empty box, like what is no character."""
    no_character = "\U0010ffff"
    return character.isspace() or bytes(font.getmask(character)) != bytes(font.getmask(no_character))


def arrange_in_grid(images, columns):
    """An RGB picture of the images, so many in a row, on white with a margin of 6 pixels round each."""
    widths = [max(image.width for image in images[i::columns]) + 12 for i in range(min(columns, len(images)))]
    heights = [max(image.height for image in images[i : i + columns]) + 12 for i in range(0, len(images), columns)]
    sheet = Image.new("RGB", (sum(widths), sum(heights)), "white")
    for i, image in enumerate(images):
        left = sum(widths[: i % columns]) + 6
        top = sum(heights[: i // columns]) + 6
        sheet.paste(image, (left, top))
    return sheet


def save_picture(image, path):
    """Save a Pillow image as PNG, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mnist_forward.write_whole(path) as part:
        image.save(part, format="PNG")


if __name__ == "__main__":
    mnist_forward.run(main)
