"""Writes the TFRecords and reads them back through queues (lecture 6.2).

    python mnist_generateds.py                                  # from MNIST's IDX files in data/
    python mnist_generateds.py --data my_data --train letters/  # from a folder with a sub-folder of pictures per class
    python mnist_generateds.py --train pictures/ labels.txt --test more/ more.txt

writes `mnist_train.tfrecords` (of MNIST 60,000 records, 51 MB), `mnist_test.tfrecords` (10,000), `contact-sheet.png`,
`outlines.npz` and the names of the classes.  A record is one tf.train.Example with the lecture's two features:
`img_raw`, 784 bytes, 0 = paper .. 255 = ink, and `label`, int64, one-hot.
"""

import argparse
import contextlib
import functools
import gzip
import itertools
import math
import re
import sys
import zlib
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError  # comes with tensorflow

import mnist_app
import mnist_forward
from mnist_app import SIDE, PictureError
from mnist_forward import DATA_PATH, INPUT_NODE, UserError, class_names, tf, whole

TRAIN_SET, TEST_SET = "mnist_train", "mnist_test"
TEST_SHARE = 7  # every so manyth picture of a class, where no test set is given (MNIST: 10,000 of 70,000)
SEED = 1  # of the order in which the pictures of --train are written
READ_AT_ONCE = 1000  # records a call; lecture: one, which is what its training waits for
SHARDS_AT_ONCE = 4  # so many are read side by side, which mixes what was written together
MIN_AFTER_DEQUEUE = 10000  # records to draw from; lecture: 700 of 60,000, which left a batch nearly in file order
BATCH_THREADS, BATCHES_IN_STORE = 2, 8  # made ahead of the training step, to bridge a pause of either side
SHARING = 4  # pictures of a batch that share a field and so are moved by one gather: one by one it is a quarter slower
PIXELS = np.stack(np.mgrid[:SIDE, :SIDE], axis=-1).astype(np.float32)  # where each is: [28, 28, 2], (down, right)


def read_idx(path, dimensions):
    """The array of a gzipped IDX file, uint8, [n] or [n, 28, 28]; UserError unless magic, counts and size agree."""
    try:
        with gzip.open(path) as file:
            content = file.read()
        magic, *shape = np.frombuffer(content, ">u4", 1 + dimensions).tolist()
        if magic != 0x800 + dimensions or shape[1:] != [SIDE, SIDE][: dimensions - 1]:  # 8: of unsigned bytes
            raise ValueError(f"its magic number is {magic:#x}, its sizes are {shape}")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: copy it from a clone of this project, or use --train.") from None
    except (gzip.BadGzipFile, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is no whole gzipped IDX file of this kind ({error}): copy it again.") from None


def idx_samples(folder, prefix, names):
    """[(784 bytes, class int), ...] from the pair of IDX files of `prefix`, "train" or "t10k"."""
    files = [folder / f"{prefix}-images-idx3-ubyte.gz", folder / f"{prefix}-labels-idx1-ubyte.gz"]
    images, labels = read_idx(files[0], 3), read_idx(files[1], 1)
    if len(images) != len(labels) or not len(labels):
        raise UserError(f"{files[0]} holds {len(images)} pictures, {files[1]} {len(labels)} labels: copy both.")
    if labels.max(initial=0) >= len(names):
        most = f"the label {labels.max()}, the largest of {len(names)} classes is {len(names) - 1}"
        raise UserError(f"{files[1]} holds {most}: correct or delete {folder / mnist_forward.CLASSES}.")
    return [(image.tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True)]


def listed_pictures(folder, label_file=None):
    """[(place, path, class name), ...], by the lecture's text file of `name label` lines or by sub-folders so named."""
    if not label_file:
        classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [("", Path(path), one.name) for one in classes for path in mnist_app.pictures_in([str(one)])]
    lines = enumerate(mnist_forward.read_lines(label_file), 1)
    named = [(f"{label_file}:{number}: ", *line.strip().rpartition(" ")) for number, line in lines if line.strip()]
    return [(place, folder / name.strip(), label) for place, name, _, label in named]


def picture_samples(names, folder, label_file=None):
    """[(784 bytes, class int), ...], in random order, of the pictures of a folder; UserError names all that are bad.
    A picture of 28x28 that is light on dark is taken as it is, like the lecture's; any other goes through `pre_pic`."""
    listed, samples = listed_pictures(folder, label_file), []
    known, none = [one for one in listed if one[2] in names], f"is none of the {len(names)} classes"
    unknown = [f"{place}{label!r} {none} {names[0]} .. {names[-1]}" for place, _, label in listed if label not in names]
    complaints = list(dict.fromkeys(unknown))
    progress = tf.keras.utils.Progbar(len(known), verbose=sys.stdout.isatty(), unit_name="picture")
    for place, path, label in known:
        try:
            if not path.resolve().is_relative_to(folder.resolve()):
                raise PictureError(f"leads out of {folder}")
            grey = mnist_app.open_picture(path).mean(axis=2)
            if grey.shape != (SIDE, SIDE) or not 0 < grey.mean() < 0.5:  # digits cover less than half of their square
                grey = mnist_app.pre_pic(path)
            samples.append((np.rint(grey * 255).astype(np.uint8).tobytes(), names.index(label)))
        except (PictureError, RuntimeError, ValueError) as error:  # a link to itself, a name that cannot be one
            complaints.append(f"{place}{path} {error}")
        progress.add(1)
    if complaints or not samples:
        more = f"\nand {len(complaints) - 10} more" if len(complaints) > 10 else ""
        said = "\n".join(complaints[:10]) + more or f"{label_file or folder} names no picture."
        raise UserError(f"{said}\nNothing was written: correct or remove these.")
    return [samples[i] for i in np.random.default_rng(SEED).permutation(len(samples))]


def split(samples, names):
    """(training samples, test samples): every TEST_SHARE-th of each class, at least one, is for the test."""
    sets, seen = ([], []), [0] * len(names)
    for sample in samples:
        sets[seen[sample[1]] % TEST_SHARE == 0].append(sample)
        seen[sample[1]] += 1
    if min(seen) < 2:
        raise UserError(f"Class {names[np.argmin(seen)]} has {min(seen)} pictures: add some, or give --test PICTURES.")
    return sets


def present_files(data, name):
    """The paths of the TFRecord files of a set that are there, sorted."""
    numbered = re.compile(name + r"(-\d{5}-of-\d{5})?\.tfrecords")
    return sorted(path for path in Path(data).glob(f"{name}*") if numbered.fullmatch(path.name))


def write_tfrecords(data, name, samples, names, shards=1):
    """Write [(784 bytes, class), ...] as the TFRecord files of a set, in place of those that were there, all of them
    whole or none; UserError where the disk takes no more."""
    shards = max(1, min(shards, len(samples)))
    numbers = [f"-{i:05d}-of-{shards:05d}" for i in range(shards)] if shards > 1 else [""]
    paths = [data / f"{name}{number}.tfrecords" for number in numbers]
    where = f"{paths[0]}" + (f" .. {paths[-1].name}" if shards > 1 else "")
    print(f"Writing {where}")
    progress = tf.keras.utils.Progbar(len(samples), verbose=sys.stdout.isatty(), unit_name="record")
    try:
        with contextlib.ExitStack() as files:  # all are closed before the first gets its name
            parts = [files.enter_context(whole(path)) for path in paths]
            writers = [files.enter_context(tf.python_io.TFRecordWriter(str(part))) for part in parts]
            for writer, (pixels, label) in zip(itertools.cycle(writers), samples):
                img_raw = tf.train.Feature(bytes_list=tf.train.BytesList(value=[pixels]))
                one_hot = tf.train.Int64List(value=[int(i == label) for i in range(len(names))])
                feature = {"img_raw": img_raw, "label": tf.train.Feature(int64_list=one_hot)}
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
                progress.add(1)
    except tf.errors.OpError as error:
        raise UserError(f"{paths[0]} can't be written ({error.message}): make room or name another --data.") from None
    for stale in {*present_files(data, name)} - {*paths}:
        stale.unlink()
    counts = np.bincount([label for _, label in samples], minlength=len(names))
    per_class = ", ".join(f"{name}: {count}" for name, count in zip(names, counts, strict=True))
    print(f"{len(samples)} records in {where}\n  {per_class}")


@functools.cache
def count_records(path):
    """How many records the TFRecord file `path` holds, after a look at every one of them: a queue that is fed from a
    missing or foreign file only says "insufficient elements".  UserError names file, record and cure."""
    cure = "write it again with `python mnist_generateds.py`, --data as here"
    if not path.is_file():
        raise UserError(f"{path} is missing: {cure}.")
    classes = len(class_names(path.parent))
    number, size = 1, 0
    try:
        for record in tf.python_io.tf_record_iterator(str(path)):
            feature = tf.train.Example.FromString(record).features.feature
            pixels, label = feature["img_raw"].bytes_list.value, feature["label"].int64_list.value
            if [len(value) for value in pixels] != [INPUT_NODE]:
                raise ValueError(f"`img_raw` is not {INPUT_NODE} bytes")
            if sorted(label) != [0] * (classes - 1) + [1]:
                raise ValueError(f"`label` is not {classes} int64, one-hot, but {len(label)}: {list(label)[:10]}")
            number, size = number + 1, size + len(record) + 16  # its length and two checksums
        if number == 1 or size != path.stat().st_size:  # the iterator takes a file cut within a length for ended
            raise ValueError("the file ends there")
    except (ValueError, DecodeError, tf.errors.OpError) as error:
        raise UserError(f"{path} is no good at record {number}, {mnist_forward.cause(error)}: {cure}.") from None
    return number - 1


def record_files(data, name):
    """(paths, number of records) of the TFRecord files of a set; UserError if one is missing, or as count_records."""
    paths = present_files(data, name) or [Path(data) / f"{name}.tfrecords"]
    together = int(paths[0].stem[-5:]) if "-of-" in paths[0].stem else 1
    if len(paths) != together or len({path.stem[-9:] for path in paths}) > 1:
        raise UserError(f"{data} holds {len(paths)} files of {name}, no whole set: run mnist_generateds.py again.")
    return paths, sum(map(count_records, paths))


def random_field(n, *, rotation, shear, scale, shift, elastic):
    """Displacements of n random maps: float32 [n, 28, 28, 2], (down, right) in pixels.
    Each is affine about the centre, drawn evenly from -x..x: rotation in degrees, shear as a slope, scale as a share,
    shift in pixels; and elastic (Simard 2003): bicubic between 7x7 points of normal noise, in pixels."""
    most = (math.radians(1) * rotation, shear, scale, scale)  # which may be tensors
    angle, slope, taller, wider = (x * tf.random_uniform([n], -1, 1) for x in most)
    sin, cos = tf.sin(angle), tf.cos(angle)
    down = tf.stack([cos + slope * sin, sin], axis=1) / (1 + taller)[:, None]
    right = tf.stack([slope * cos - sin, cos], axis=1) / (1 + wider)[:, None]
    change = tf.stack([down, right], axis=1) - tf.eye(2)
    moved = tf.tensordot(change, tf.constant(PIXELS - (SIDE - 1) / 2), [[2], [2]])  # [n, 2, 28, 28]
    affine = tf.transpose(moved, [0, 2, 3, 1]) + shift * tf.random_uniform([n, 1, 1, 2], -1, 1)
    return affine + elastic * tf.image.resize_bicubic(tf.random_normal([n, 7, 7, 2]), [SIDE, SIDE], align_corners=True)


def warp(img, field):
    """img, float32 [k * n, 784], with every pixel taken from where the field, float32 [n, 28, 28, 2], (down, right) in
    pixels, points, bilinearly; k pictures in a row share one.  Beyond the edge a picture goes on as its edge."""
    n, k = field.shape[0], img.shape[0] // field.shape[0]
    source = tf.clip_by_value(PIXELS + field, 0, SIDE - 1 - 1e-3)
    corner = tf.floor(source)
    down, right = tf.split(tf.reshape(source - corner, [n * INPUT_NODE, 2]), 2, axis=1)
    corner = tf.cast(corner, tf.int32)
    first_pixel = INPUT_NODE * tf.range(n)[:, None, None]
    index = tf.reshape(first_pixel + SIDE * corner[..., 0] + corner[..., 1], [-1])
    # A row for each pixel, with its value in the k pictures: what belongs together is then moved in one piece.
    rows = tf.reshape(tf.transpose(tf.reshape(img, [n, k, INPUT_NODE]), [0, 2, 1]), [n * INPUT_NODE, k])
    upper = tf.gather(rows, index) * (1 - right) + tf.gather(rows, index + 1) * right
    lower = tf.gather(rows, index + SIDE) * (1 - right) + tf.gather(rows, index + SIDE + 1) * right
    moved = tf.reshape(upper * (1 - down) + lower * down, [n, INPUT_NODE, k])
    return tf.reshape(tf.transpose(moved, [0, 2, 1]), [n * k, INPUT_NODE])


def get_tfrecord(num, isTrain=True, data=DATA_PATH, distortions=None, task=0, tasks=1):
    """Batches of the training set, shuffled, without end, or of the test set, in file order, once, through queues.
    Adds QueueRunners: start them with tf.train.start_queue_runners, after initialising the local variables.

    Args:
      num: pictures in a batch; only the last one of the test set may be smaller.
      distortions: for training batches, the arguments of random_field, floats or scalar tensors; None: none.
      task, tasks: of so many machines this one, from 0; each reads its own shards, or all where there are too few.

    Returns img_batch, float32 [num, 784], 0 = paper .. 1 = ink, and label_batch, float32 [num, classes], one-hot.
    Raises UserError where records are missing, damaged or foreign, before a queue is built.
    """
    files, classes = record_files(data, TRAIN_SET if isTrain else TEST_SET)[0], len(class_names(data))
    files = [str(path) for path in (files[task::tasks] if isTrain and len(files) >= tasks else files)]
    filename_queue = tf.train.string_input_producer(files, num_epochs=None if isTrain else 1, shuffle=isTrain)
    readers = [tf.TFRecordReader() for _ in files[: SHARDS_AT_ONCE if isTrain else 1]]
    records = [[reader.read_up_to(filename_queue, READ_AT_ONCE)[1]] for reader in readers]
    room = MIN_AFTER_DEQUEUE * isTrain + 2 * max(num, READ_AT_ONCE)
    if isTrain:
        serialized = tf.train.shuffle_batch_join(records, num, room, MIN_AFTER_DEQUEUE, enqueue_many=True)
    else:
        serialized = tf.train.batch(records[0], num, 1, room, enqueue_many=True, allow_smaller_final_batch=True)
    wanted = {"img_raw": tf.FixedLenFeature([], tf.string), "label": tf.FixedLenFeature([classes], tf.int64)}
    features = tf.parse_example(serialized, features=wanted)
    img, label = tf.decode_raw(features["img_raw"], tf.uint8), tf.cast(features["label"], tf.float32)
    img.set_shape([num if isTrain else None, INPUT_NODE])
    img = tf.cast(img, tf.float32) * (1.0 / 255)
    if not isTrain:
        return img, label
    if distortions:
        img = warp(img, random_field(num // math.gcd(num, SHARING), **distortions))
    queue = tf.FIFOQueue(BATCHES_IN_STORE, [tf.float32, tf.float32], [[num, INPUT_NODE], [num, classes]])
    tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue([img, label])] * BATCH_THREADS))
    tf.add_to_collection("queue_fill", queue.size() / BATCHES_IN_STORE)
    return queue.dequeue()


def show(data, samples, names):
    """Save contact-sheet.png in the folder `data`: ten pictures of each class, as the network is given them."""
    cells = []
    for i, name in enumerate(names):
        first = itertools.islice((pixels for pixels, label in samples if label == i), 10)
        cells += [mnist_app.seen_by_network(np.frombuffer(pixels, np.uint8) / 255, name) for pixels in first]
    mnist_app.save_picture(mnist_app.grid(cells, across=10), data / "contact-sheet.png")
    print(f"{data / 'contact-sheet.png'} shows the first pictures of each class as the network is given them")


def main():
    parser = argparse.ArgumentParser(description="Write the TFRecords of a training and a test set.")
    parser.add_argument("--data", type=Path, default=DATA_PATH, help="folder of the records (%(default)s)")
    parser.add_argument("--shards", type=int, default=1, help="files for each set (%(default)s)")
    given = {"nargs": "+", "type": Path, "default": [], "metavar": ("PICTURES", "LABELS")}
    of = "set of a folder of pictures and a text file of `name label` lines, or of sub-folders, one a class"
    parser.add_argument("--train", **given, help=f"make the training {of}")
    parser.add_argument("--test", **given, help=f"make the test {of}; without it every {TEST_SHARE}th of --train")
    args = parser.parse_args()
    if max(len(args.train), len(args.test)) > 2 or (args.test and not args.train):
        parser.error("give --train PICTURES [LABELS], and perhaps --test PICTURES [LABELS]")
    names = sorted({n for *_, n in listed_pictures(*args.train)}) if len(args.train) == 1 else class_names(args.data)
    if len(names) < 2:
        raise UserError(f"{args.train[0]} holds {len(names)} sub-folders: give one to each class, two or more.")
    for name in names:
        if [name] != name.strip().splitlines() or not name.isprintable():
            raise UserError(f"The sub-folder {name!r} can't be a line of {mnist_forward.CLASSES}: rename it.")
    if args.train:
        train = picture_samples(names, *args.train)
        train, test = (train, picture_samples(names, *args.test)) if args.test else split(train, names)
    else:
        train, test = (idx_samples(args.data, prefix, names) for prefix in ("train", "t10k"))
    args.data.mkdir(parents=True, exist_ok=True)
    if names != class_names(args.data):
        for path in present_files(args.data, TRAIN_SET) + present_files(args.data, TEST_SET):
            path.unlink()  # or those of the old classes would stand under the new names
        with whole(args.data / mnist_forward.CLASSES) as part:
            part.write_text("\n".join([*names, ""]), encoding="utf-8")
    mnist_app.write_familiar(args.data, train)
    write_tfrecords(args.data, TRAIN_SET, train, names, args.shards)
    write_tfrecords(args.data, TEST_SET, test, names, args.shards)
    show(args.data, train, names)


if __name__ == "__main__":
    mnist_forward.run(main)
