"""Trains the network that tells whole digits from what is none: `python tests/make_whole_digits.py`.

It has two convolutions, which find strokes wherever they are; the lecture's form errs more often here.  It learns from
pictures of MNIST's and the world's training digits, as mnist_app.py meets them when it looks for cuts between digits
that touch: digits; several digits in one piece; parts of such pieces between two cuts; digits with a printed line
across them; digits turned or mirrored, as letters look.  It also learns from shapes that nobody wrote as digits, which
are printed letters, scribbles, outlines and blots, and from whole digits with a short stroke beside them or a foot.

    python tests/make_whole_digits.py                     # writes data/whole_digits.npz, in 50 minutes
    python tests/make_whole_digits.py --model model ...   # and prints _LOG_ODDS_WEIGHTS, fitted for that digit network

The last 5,000 training digits of MNIST are not used for the training.  With them, and with other shapes, the network is
tested and the weights are fitted.
"""

import argparse
import collections
import functools
import multiprocessing
import os
from pathlib import Path
from typing import NamedTuple

# The sums are tiny and there is a process for each core: more threads would wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import long_numbers  # noqa: E402  (it imports numpy, which reads that)
import make_pictures  # noqa: E402
import numpy as np  # noqa: E402
from long_numbers import HEIGHT  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402

import mnist_app  # noqa: E402
import mnist_forward  # noqa: E402
from mnist_forward import IMAGE_SIDE, tf  # noqa: E402
from mnist_generateds import read_idx  # noqa: E402

SEED = 1
HELD_OUT = 5000  # training digits of MNIST
TRAIN_SCENES = 200000
TRAIN_EXTRAS = 60000
TEST_SCENES = 4000
TEST_EXTRAS = 1200
AT_ONCE = 100  # scenes, or extras

# The training
LAYERS = ([5, 5, 1, 16], [5, 5, 16, 32], [49 * 32, 96], [96, 1])  # as mnist_app.build_wholeness says
EPOCHS = 12
BATCH = 400
LEARNING_RATE = 0.002  # at first; it falls to 0 along a cosine
DROPPED = 0.2  # of the hidden units
AVERAGE_DECAY = 0.999

# In shares of a digit's height.
THINNER = (-0.12, 0.1)  # the pens, as make_pictures.stroke is told; below 0 they are thicker
OVERLAP = (-0.5, 5)  # in pixels of MNIST; below 0 there is a gap
LINE_WIDTH = (0.02, 0.13)
LINE_GREY = (0.6, 1.0)  # as a share of the pen's
BEYOND = (0.25, 0.9)  # a line goes on beyond a digit by so much
ENDS_THERE = (0, 0.1)  # by so much where it ends at the digit
FRAME = (-0.03, 0.25)  # from a digit to the frame round it
ERASED = (0.02, 0.07)  # the width of the line that was erased from a digit
ERASED_KEEPS = 0.8  # of the digit's ink and of its size

ERASED_SHARE = 0.25  # of the scenes
LINE_SHARE = 0.6
TURNED_SHARE = 0.4
# Turned by a quarter, or mirrored, these digits are none.
TURNED = {2, 3, 4, 5}
MIRRORED = {3, 4, 6, 7, 9}
# How much of a piece and of a digit is in both of them, as a share of what is in either: a part of a piece is a whole
# digit above the first, none below the second, and left out between them.
WHOLE_OVERLAP = 0.92
OTHER_OVERLAP = 0.78
TRIES = 30  # to find such parts
NEAR = 0.06  # Half of the cuts are about so near to where two digits meet.

# Further digits, and shapes that are no digits.  TICK, TICK_WIDTH, FOOT, PEN and GRAIN are in shares of HEIGHT.
SHAPE_SHARE = 0.65  # the shapes' share of both together
TICK = (0.1, 0.3)
TICK_WIDTH = (0.04, 0.12)
FOOT = (0.1, 0.4)  # to either side
LETTERS = "AEFGHKLMNPQRTVWXYadhkmnprtvwx%&#@*=+"  # Others may be taken for digits, as are O, S and Z.
LEAN = 0.3  # of a letter: pixels to either side for each pixel down, at most
NARROWER = (1.0, 1.8)  # The width of a letter is divided by this.
PEN = (0.05, 0.25)
SCRIBBLE_POINTS = (5, 10)
OUTLINE_POINTS = (3, 8)
GRAIN = (0.2, 0.7)  # how wide the bays in the edge of a blot are
RAGGED = 0.7  # how deep they are, where the blot reaches from -1 to 1


class Source(NamedTuple):
    """Digits that scenes are made of."""

    images: np.ndarray  # uint8 [n, 28, 28]
    labels: np.ndarray  # uint8 [n]


# ======== Making the pictures


@functools.cache
def read_sources(part):
    """The Sources of "train" or "test", as a list."""
    data = mnist_forward.DATA_PATH
    images, labels = (
        read_idx(data / f"train-{name}-ubyte.gz", n) for name, n in (("images-idx3", 3), ("labels-idx1", 1))
    )
    if part == "test":
        return [Source(images[-HELD_OUT:], labels[-HELD_OUT:])]
    world = (read_idx(data / f"world-train-{name}-ubyte.gz", n) for name, n in (("images-idx3", 3), ("labels-idx1", 1)))
    return [Source(images[:-HELD_OUT], labels[:-HELD_OUT]), Source(*world)]


def choose_digits(rng, sources, count):
    """Draw `count` digits of any of the Sources: ([float32 [h, w] in 0..1, ...], their labels)."""
    digits = []
    labels = []
    for _ in range(count):
        source = sources[rng.integers(len(sources))]
        (i,) = long_numbers.choose_digits(rng, source.labels, 1)
        strokes = long_numbers.draw_digit(rng, source.images[i], rng.uniform(*THINNER))
        digits.append(strokes)
        labels.append(int(source.labels[i]))
    return digits, labels


def make_scene(rng, sources):
    """Yield some pieces of ink, each as (float32 [h, w] in 0..1; whether it is one whole digit)."""
    digits, labels = choose_digits(rng, sources, rng.choice([2, 2, 2, 3]))
    first = digits[0]
    yield first, True
    row = long_numbers.set_in_row(rng, digits, -rng.uniform(*OVERLAP, len(digits) - 1) / 20)
    left, top = row.boxes[:, :2].min(axis=0)
    right, bottom = row.boxes[:, 2:].max(axis=0)
    ink = row.ink[top:bottom, left:right]
    yield ink, False
    masks = []
    for strokes, box in zip(digits, row.boxes, strict=True):
        mask = np.zeros(row.ink.shape, bool)
        mask[box[1] : box[3], box[0] : box[2]] = strokes > 0.5
        masks.append(mask[top:bottom, left:right])
    meetings = (row.boxes[:-1, 2] + row.boxes[1:, 0]) / 2 - left
    yield from cut_parts(rng, ink, masks, meetings)
    if rng.random() < LINE_SHARE:
        yield draw_line(rng, first), False
    if rng.random() < ERASED_SHARE:
        erased = erase_line(rng, first)
        if keeps_its_size(erased, first):
            yield erased, True
    if rng.random() < TURNED_SHARE:
        if labels[0] in MIRRORED:
            yield first[:, ::-1], False
        if labels[0] in TURNED:
            yield np.rot90(first, rng.choice([1, 3])), False


def cut_parts(rng, ink, masks, meetings):
    """Yield at most one part between two cuts that is a whole digit, and one that is none, as make_scene does.

    Args:
      ink: digits in one piece, float32 [h, w].
      masks: of each digit where its strokes are, bool [h, w].
      meetings: where neighbours meet, float [n - 1].
    """
    wanted = {True, False}
    for _ in range(TRIES):
        part = cut_part(rng, ink, meetings)
        if part is None or not wanted:
            continue
        is_ink = part > 0.5
        overlap = max((is_ink & mask).sum() / (is_ink | mask).sum() for mask in masks)
        is_whole = overlap > WHOLE_OVERLAP
        if is_whole in wanted and (is_whole or overlap < OTHER_OVERLAP):
            wanted.remove(is_whole)
            yield part, is_whole


def cut_part(rng, ink, meetings):
    """A part of ink [h, w] between two cuts, or a cut and an edge; None where mnist_app.py would not try it."""
    height, width = ink.shape

    def cut():
        x = rng.choice(meetings) + rng.normal(0, NEAR) * height if rng.random() < 0.5 else rng.uniform(0, width)
        return mnist_app._Cut(x, rng.choice(mnist_app._SLANTS))

    start = mnist_app._Cut(0, 0)
    end = mnist_app._Cut(width, 0)
    which = rng.integers(3)
    if which != 0:
        start = cut()
    if which != 1:
        end = cut()
    narrowest, widest = mnist_app._DIGIT_WIDTHS
    if not narrowest * height <= end.x - start.x <= min(widest * height, width - 1):
        return None
    part = mnist_app._between(ink, start, end)
    is_high_enough = mnist_app._count_rows(part) >= mnist_app._LEAST_DIGIT_HEIGHT * height
    return part if is_high_enough else None


def draw_line(rng, digit):
    """A digit, float32 [h, w], with a printed line, two that cross, or a frame round it, in a larger array."""
    ink = np.pad(digit, HEIGHT)
    height, width = digit.shape
    style = {"width": rng.uniform(*LINE_WIDTH) * HEIGHT, "grey": rng.uniform(*LINE_GREY)}

    def draw_across(area, start, length, middle):
        """Draw an upright line through `middle`, beyond a digit that begins at `start` and is so long."""
        beyond = rng.uniform(*BEYOND, 2) * HEIGHT
        if rng.random() < 0.4:
            beyond[rng.integers(2)] = rng.uniform(*ENDS_THERE) * HEIGHT
        long_numbers.draw_upright(area, middle, start - beyond[0], start + length + beyond[1], **style)

    which = rng.choice(["level", "upright", "both", "frame"])
    if which in ("level", "both"):
        share = rng.choice([rng.uniform(0, 1), rng.normal(1, NEAR)])  # Half of them are baselines.
        draw_across(ink.T, HEIGHT, width, HEIGHT + share * height)
    if which in ("upright", "both"):
        draw_across(ink, HEIGHT, height, HEIGHT + rng.uniform(0, 1) * width)
    if which == "frame":
        left, top, right, bottom = rng.uniform(*FRAME, 4) * HEIGHT * [-1, -1, 1, 1] + [0, 0, width, height] + HEIGHT
        for y in (top, bottom):
            long_numbers.draw_level(ink, y, left, right, **style)
        for x in (left, right):
            long_numbers.draw_upright(ink, x, top, bottom, **style)
    return ink


def erase_line(rng, digit):
    """A digit, float32 [h, w], without what lies on a level or an upright line."""
    erased = digit.copy()
    area = erased if rng.random() < 0.6 else erased.T
    start = rng.integers(len(area))
    area[start : start + max(1, round(rng.uniform(*ERASED) * HEIGHT))] = 0
    return erased


def make_extra(rng, sources):
    """A further digit, or a shape that nobody wrote as one: (float32 [h, w] in 0..1; whether it is a whole digit)."""
    if rng.random() < SHAPE_SHARE:
        draw = rng.choice([draw_letter, draw_scribble, draw_outline, draw_blot])
        return draw(rng), False
    draw = rng.choice([draw_digit_with_tick, draw_one_with_foot])
    return draw(rng, sources), True


def draw_digit_with_tick(rng, sources):
    """A digit and a short stroke beside it or on it, as a slip of the pen or dirt leaves it: float32 [h, w] in 0..1.

    A level stroke often misses the picture; then the digit is as it was.
    """
    [digit], _ = choose_digits(rng, sources, 1)
    ink = np.pad(digit, HEIGHT // 5)
    tick = rng.uniform(*TICK) * HEIGHT
    x, y = rng.uniform(0, ink.shape[::-1])
    area = ink if rng.random() < 0.5 else ink.T
    long_numbers.draw_upright(area, x, y, y + tick, width=rng.uniform(*TICK_WIDTH) * HEIGHT, grey=1)
    return ink


def draw_one_with_foot(rng, sources):
    """A 1 with a short level stroke under it, as many write it and MNIST's Americans do not: float32 [h, w] in 0..1."""
    source = sources[rng.integers(len(sources))]
    image = source.images[rng.choice(np.flatnonzero(source.labels == 1))]
    ink = np.pad(long_numbers.draw_digit(rng, image, rng.uniform(*THINNER)), HEIGHT // 2)
    _, _, _, bottom = mnist_app._box_of(ink)
    stem = np.flatnonzero(ink[bottom - 5] > 0.5).mean()  # The lowest rows are those of its round end.
    width = mnist_app._stroke_width(ink > 0.5)
    to_left, to_right = rng.uniform(*FOOT, 2) * HEIGHT
    long_numbers.draw_level(ink, bottom - width / 2, stem - to_left, stem + to_right, width, grey=1)
    return ink


def draw_letter(rng):
    """A printed letter or sign, more or less bold, narrow and leaning, float32 [h, w] in 0..1."""
    letter = rng.choice(list(LETTERS))
    image = Image.new("L", (3 * HEIGHT, 3 * HEIGHT))
    font = ImageFont.load_default(HEIGHT)
    ImageDraw.Draw(image).text((HEIGHT, HEIGHT), letter, 255, font, stroke_width=rng.integers(0, HEIGHT // 10))
    lean = rng.uniform(-LEAN, LEAN)
    narrower = rng.uniform(*NARROWER)
    # Pixel (x, y) of the new image is pixel (narrower * x + lean * (y - 1.5 * HEIGHT), y) of the old one.
    columns = (narrower, lean, -lean * 1.5 * HEIGHT)
    leaning = image.transform(image.size, Image.Transform.AFFINE, (*columns, 0, 1, 0), Image.Resampling.BILINEAR)
    return np.asarray(leaning, np.float32) / 255


def draw_scribble(rng):
    """A curve through points at random, float32 [h, w] in 0..1."""
    points = choose_points(rng, rng.integers(*SCRIBBLE_POINTS))
    middles = (points[:-1] + points[1:]) / 2
    t = np.linspace(0, 1, 12)[:, None]
    curve = [points[:1]]
    # From the middle of one line to that of the next, bent towards the point between them (a Bezier curve).
    for before, point, after in zip(middles[:-1], points[1:-1], middles[1:], strict=True):
        curve.append((1 - t) ** 2 * before + 2 * t * (1 - t) * point + t**2 * after)
    return draw_strokes(rng, [np.concatenate([*curve, points[-1:]])])


def draw_outline(rng):
    """A closed outline with straight sides, often with more lines through it, float32 [h, w] in 0..1."""
    count = rng.integers(*OUTLINE_POINTS)
    angles = 2 * np.pi * (np.arange(count) + rng.uniform(0, 0.8, count) + rng.random()) / count
    distances = rng.uniform(0.25, 0.5, [count, 1]) * HEIGHT
    corners = HEIGHT + distances * np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.7, 1, 2)
    strokes = [np.concatenate([corners, corners[:1]])]
    if rng.random() < 0.6:
        strokes.append(choose_points(rng, rng.integers(2, 4)))
    return draw_strokes(rng, strokes)


def choose_points(rng, count):
    """Points at random within a square, float [count, 2], in pixels."""
    return rng.uniform(0.5, 1.5, [count, 2]) * HEIGHT


def draw_strokes(rng, strokes):
    """Strokes, each float [n, 2] (x, y) in pixels, as a round pen draws them: float32 [h, w] in 0..1."""
    image = Image.new("L", (2 * HEIGHT, 2 * HEIGHT))
    draw = ImageDraw.Draw(image)
    pen = rng.uniform(*PEN) * HEIGHT
    for points in strokes:
        draw.line(points.ravel().tolist(), 255, round(pen), joint="curve")
        for x, y in points[[0, -1]]:
            draw.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), 255)
    return np.asarray(image, np.float32) / 255


def draw_blot(rng):
    """A blot with a ragged edge, as a stain or a piece of a photo has it; float32 [h, w] in 0..1."""
    height, width = shape = rng.integers(HEIGHT // 2, HEIGHT, 2)
    grain = make_pictures.grain(rng, shape, rng.uniform(*GRAIN) * HEIGHT, RAGGED)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return (x**2 + y**2 + grain < 0.8).astype(np.float32)


def keeps_its_size(erased, digit):
    """Whether a digit that a line was erased from is still whole enough to be read."""
    shares = [(erased > 0.5).sum() / (digit > 0.5).sum()]
    for axis in (0, 1):
        shares.append((erased > 0.5).any(axis).sum() / digit.shape[1 - axis])
    return min(shares) > ERASED_KEEPS


def make_samples_of_scenes(job):
    """Samples of AT_ONCE scenes, [(uint8 [784], is_whole), ...]; `job` is (part, number)."""
    part, number = job
    rng = np.random.default_rng([SEED, part == "test", number])
    sources = read_sources(part)
    return make_samples(piece for _ in range(AT_ONCE) for piece in make_scene(rng, sources))


def make_samples_of_extras(job):
    """Samples of AT_ONCE further digits and shapes, as make_samples_of_scenes returns them."""
    part, number = job
    rng = np.random.default_rng([SEED, part == "test", number, 1])
    sources = read_sources(part)
    return make_samples(make_extra(rng, sources) for _ in range(AT_ONCE))


def make_samples(pieces):
    """Pieces (ink, is_whole) as mnist_app.py brings them to the network: [(uint8 [784], is_whole), ...].

    Pieces without ink are left out.
    """
    samples = []
    for ink, is_whole in pieces:
        if (ink > 0.5).any():
            pixels = np.rint(mnist_app._to_mnist(np.pad(ink, 2)) * 255).astype(np.uint8)
            samples.append((pixels, is_whole))
    return samples


def make_all_samples(part, scenes, extras):
    """The samples of so many scenes and extras, made by all cores: (uint8 [n, 784]; bool [n], which are whole)."""
    samples = []
    with multiprocessing.Pool() as pool:
        for make, count in ((make_samples_of_scenes, scenes), (make_samples_of_extras, extras)):
            jobs = [(part, number) for number in range(count // AT_ONCE)]
            for some in pool.map(make, jobs, chunksize=1):
                samples.extend(some)
    return np.stack([pixels for pixels, _ in samples]), np.array([is_whole for _, is_whole in samples])


# ======== Training and fitting


def train(pixels, is_whole):
    """Train the network on samples as make_all_samples returns them.

    Returns the running averages of its weights, {name: float32 array}, as mnist_app.build_wholeness takes them.
    """
    rng = np.random.default_rng(SEED)
    steps = EPOCHS * (len(pixels) // BATCH)
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.set_random_seed(SEED)
        x = tf.placeholder(tf.float32, [BATCH, IMAGE_SIDE**2])
        labels = tf.placeholder(tf.float32, [BATCH])
        weights = create_weights()
        # Without some of its rows, the last layer does without some of the hidden units.
        thinned = weights | {"weights4": tf.nn.dropout(weights["weights4"], rate=DROPPED)}
        scores = mnist_app.build_wholeness(x, thinned)
        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, scores))
        global_step = tf.train.get_or_create_global_step()
        rate = tf.train.cosine_decay(LEARNING_RATE, global_step, steps)
        step = tf.train.AdamOptimizer(rate).minimize(loss, global_step)
        average = tf.train.ExponentialMovingAverage(AVERAGE_DECAY)
        with tf.control_dependencies([step]):
            train_step = average.apply(weights.values())
        sess.run(tf.global_variables_initializer())
        for epoch in range(EPOCHS):
            order = rng.permutation(len(pixels))[: len(pixels) // BATCH * BATCH]
            losses = []
            for chosen in order.reshape(-1, BATCH):
                batch = move(rng, pixels[chosen]) / np.float32(255)
                losses.append(sess.run([loss, train_step], {x: batch, labels: is_whole[chosen]})[0])
            print(f"epoch {epoch + 1} of {EPOCHS}: the mean loss is {np.mean(losses):.4f}", flush=True)
        return sess.run({name: average.average(variable) for name, variable in weights.items()})


def create_weights():
    """Variables for mnist_app.build_wholeness, at random as suits layers of ReLUs (He et al., 2015)."""
    weights = {}
    for number, shape in enumerate(LAYERS, 1):
        deviation = np.sqrt(2 / np.prod(shape[:-1]))
        weights[f"weights{number}"] = tf.Variable(tf.truncated_normal(shape, stddev=deviation))
        weights[f"biases{number}"] = tf.Variable(tf.zeros(shape[-1]))
    return weights


def move(rng, pixels):
    """Pictures, uint8 [n, 784], all moved alike by at most a pixel; what goes out on one side comes in on the other."""
    images = pixels.reshape(-1, IMAGE_SIDE, IMAGE_SIDE)
    return np.roll(images, rng.integers(-1, 2, 2), axis=(1, 2)).reshape(pixels.shape)


def fit_weights(features, is_whole):
    """Logistic regression by Newton's method on features, {name: float [n]}; returns {name: weight}."""
    columns = np.stack(list(features.values()), axis=1)
    weights = np.zeros(columns.shape[1])
    for _ in range(30):
        probability = 1 / (1 + np.exp(-columns @ weights))
        slope = columns.T @ (probability - is_whole)
        curvature = (columns * (probability * (1 - probability))[:, None]).T @ columns
        weights -= np.linalg.solve(curvature, slope)
    return dict(zip(features, weights, strict=True))


def split(pixels):
    """Yield the pictures, uint8 [n, 784], in portions that fit into memory, float32 [m, 784] in 0..1."""
    for portion in np.array_split(pixels, max(1, len(pixels) // 1000)):
        yield portion / np.float32(255)


def print_weights(pixels, is_whole, model):
    """Print what _LOG_ODDS_WEIGHTS should be for the digit network of a model folder."""
    sess, x, y = mnist_app._restored_network(model)
    features = collections.defaultdict(list)
    for portion in split(pixels):
        probabilities = sess.run(y, {x: portion})
        for name, values in mnist_app._measure_features(portion, probabilities, model).items():
            features[name].extend(values)
    weights = fit_weights(features, is_whole)
    print(f"{model}:", ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="digit networks to fit weights for")
    args = parser.parse_args()
    weights = train(*make_all_samples("train", TRAIN_SCENES, TRAIN_EXTRAS))
    path = mnist_app.WHOLE_DIGITS_PATH
    np.savez_compressed(path, **{name: values.astype(np.float16) for name, values in weights.items()})
    print(f"{path}: {path.stat().st_size} bytes")
    for name, *counts in (("scenes", TEST_SCENES, 0), ("further digits and shapes", 0, TEST_EXTRAS)):
        pixels, is_whole = make_all_samples("test", *counts)
        scores = np.concatenate([mnist_app._measure_wholeness(portion) for portion in split(pixels)])
        share = ((scores > 0) == is_whole).mean()
        print(f"It is right for {share:.1%} of {len(pixels)} pictures of {name} that it was not trained on.")
    pixels, is_whole = make_all_samples("test", TEST_SCENES, TEST_EXTRAS)
    for model in args.model:
        print_weights(pixels, is_whole, model)


if __name__ == "__main__":
    main()
