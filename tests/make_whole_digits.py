"""Trains the network that tells whole digits from what is none: `python tests/make_whole_digits.py`.

It has two convolutions, which find strokes wherever they are; the lecture's form errs more often here.  It learns from
pictures of MNIST's and the world's training digits, as mnist_app.py meets them when it looks for cuts between digits
that touch: digits; several digits in one piece; parts of such pieces between two cuts; digits with a printed line
across them; digits turned or mirrored, as letters look.

    python tests/make_whole_digits.py                     # writes data/whole_digits.npz, in about an hour
    python tests/make_whole_digits.py --model model ...   # and prints _LOG_ODDS_WEIGHTS, fitted for that digit network

The last 5,000 training digits of MNIST are not used for the training, but for its test and for the weights.
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
import numpy as np  # noqa: E402
from long_numbers import HEIGHT  # noqa: E402

import mnist_app  # noqa: E402
import mnist_forward  # noqa: E402
from mnist_forward import IMAGE_SIDE, tf  # noqa: E402
from mnist_generateds import read_idx  # noqa: E402

SEED = 1
HELD_OUT = 5000  # training digits of MNIST
TRAIN_SCENES = 200000
TEST_SCENES = 4000
SCENES_AT_ONCE = 100

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
    """Yield (ink, float32 [h, w] in 0..1, whether it is one whole digit) of some pieces of ink."""
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


def keeps_its_size(erased, digit):
    """Whether a digit that a line was erased from is still whole enough to be read."""
    shares = [(erased > 0.5).sum() / (digit > 0.5).sum()]
    for axis in (0, 1):
        shares.append((erased > 0.5).any(axis).sum() / digit.shape[1 - axis])
    return min(shares) > ERASED_KEEPS


def make_samples(job):
    """Samples of SCENES_AT_ONCE scenes, [(uint8 [784], is_whole), ...]; `job` is (part, number)."""
    part, number = job
    rng = np.random.default_rng([SEED, part == "test", number])
    sources = read_sources(part)
    samples = []
    for _ in range(SCENES_AT_ONCE):
        for ink, is_whole in make_scene(rng, sources):
            if (ink > 0.5).any():
                pixels = np.rint(mnist_app._to_mnist(np.pad(ink, 2)) * 255).astype(np.uint8)
                samples.append((pixels, is_whole))
    return samples


def make_all_samples(part, scenes):
    """The samples of so many scenes, made by all cores: (uint8 [n, 784]; bool [n], which are whole digits)."""
    jobs = [(part, number) for number in range(scenes // SCENES_AT_ONCE)]
    with multiprocessing.Pool() as pool:
        samples = [sample for some in pool.map(make_samples, jobs, chunksize=1) for sample in some]
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
    """Logistic regression by Newton's method: a weight for each of the features, {name: float [n]}."""
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
    pixels, is_whole = make_all_samples("test", TEST_SCENES)
    weights = train(*make_all_samples("train", TRAIN_SCENES))
    path = mnist_app.WHOLE_DIGITS_PATH
    np.savez_compressed(path, **{name: values.astype(np.float16) for name, values in weights.items()})
    print(f"{path}: {path.stat().st_size} bytes")
    scores = np.concatenate([mnist_app._measure_wholeness(portion) for portion in split(pixels)])
    print(f"It is right for {((scores > 0) == is_whole).mean():.1%} of {len(pixels)} pictures of digits held out.")
    for model in args.model:
        print_weights(pixels, is_whole, model)


if __name__ == "__main__":
    main()
