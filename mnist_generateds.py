"""Writes the TFRecords and reads them back through queues (lecture 6.2).

    python mnist_generateds.py                                # from MNIST's IDX files in data/
    python mnist_generateds.py --idx fashion/                 # from those of another folder
    python mnist_generateds.py --data my_data --train letters/  # from a folder with a sub-folder of pictures per class
    python mnist_generateds.py --train pictures/ labels.txt --test more/ more.txt

writes `mnist_train.tfrecords` (of MNIST 60,000 records, 51 MB) and `mnist_test.tfrecords` (10,000), or each in
`--shards` of them.  One record is one tf.train.Example with the lecture's two features: `img_raw`, 784 bytes,
0 = paper .. 255 = ink, and `label`, int64, one-hot.  `mnist_backward.py` and `mnist_test.py` read them with
`get_tfrecord`.
"""

import argparse
import contextlib
import functools
import gzip
import itertools
import math
import sys
import zlib
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError  # comes with tensorflow

import mnist_forward
from mnist_app import SIDE, PictureError, contact_sheet, pictures_in, pre_pic, rgb_image, save_picture, seen_by_network
from mnist_forward import DATA_PATH, INPUT_NODE, OUTPUT_NODE, UserError, class_names, tf, write_classes

TRAIN_SET, TEST_SET = "mnist_train", "mnist_test"
# Without a test set of its own every seventh picture of a class, drawn by this seed (MNIST: 10,000 of 70,000).
TEST_SHARE, SPLIT_SEED = 7, 1

# The lecture reads one record a call, which is what its training waits for; a thousand a call is ten times as fast.
READ_AT_ONCE = 1000
SHARDS_AT_ONCE = 4  # so many are read side by side, which mixes what was written together
# Records that wait to be drawn from.  Lecture: 700 of 60,000, which left a batch nearly in file order.
MIN_AFTER_DEQUEUE = 10000
# Batches are made by two threads ahead of the training step; eight in store bridge a pause of either side.
BATCH_THREADS = 2
BATCHES_IN_STORE = 8
# Pictures of a batch that share a displacement field and so are moved by one gather.  With ten instead of four
# the held-out accuracy was the same and the training no faster; one by one it is a quarter slower.
SHARING = 4
# Where each pixel is: float32 [28, 28, 2], (down, right).
PIXELS = np.stack(np.mgrid[:SIDE, :SIDE], axis=-1).astype(np.float32)


def read_idx(path, dimensions):
    """The array of a gzipped IDX file, uint8, [n] or [n, 28, 28]; UserError unless magic, counts and size agree."""
    cure = "copy it again from a clone of this project, or use --train and --test"
    try:
        with gzip.open(path) as file:
            content = file.read()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {cure}.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}): {cure}.") from None
    magic = bytes([0, 0, 8, dimensions])  # 8: the values are unsigned bytes
    header = 4 + 4 * dimensions
    if content[:4] != magic or len(content) < header:
        raise UserError(f"{path} is no IDX file, it starts with {content[:4].hex()}, not {magic.hex()}: {cure}.")
    shape = [int(n) for n in np.frombuffer(content, ">u4", dimensions, offset=4)]
    if len(content) - header != math.prod(shape):
        raise UserError(f"{path} announces {math.prod(shape)} values and holds {len(content) - header}: {cure}.")
    if dimensions == 3 and shape[1:] != [SIDE, SIDE]:
        raise UserError(f"{path} holds pictures of {shape[1]}x{shape[2]} pixels, not {SIDE}x{SIDE}: {cure}.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def idx_samples(folder, prefix, names):
    """[(784 bytes, class int), ...] from the pair of IDX files of `prefix`, "train" or "t10k"."""
    images_path, labels_path = folder / f"{prefix}-images-idx3-ubyte.gz", folder / f"{prefix}-labels-idx1-ubyte.gz"
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise UserError(f"{images_path} holds {len(images)} pictures and {labels_path} {len(labels)} labels.")
    if labels.max(initial=0) >= len(names):
        raise UserError(
            f"{labels_path} holds the label {labels.max()}, the largest of {len(names)} classes is {len(names) - 1}: "
            f"correct or delete the file {mnist_forward.CLASSES} in the --data folder."
        )
    return [(image.tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True)]


def listed_pictures(folder, label_file, names):
    """Yield (place, path, class, complaint) for each line of the lecture's text file of `name label` lines.

    A label is a class's name or its number; a picture's name may hold spaces, and none may lead out of the folder.
    """
    try:
        lines = label_file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{label_file} is not a text in UTF-8 ({error}): save it as UTF-8.") from None
    classes = {str(i): i for i in range(len(names))} | {name: i for i, name in enumerate(names)}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        path, complaint = folder / name.strip(), None
        if not name or "\0" in name:
            complaint = f"{line!r} is not `name label`"
        elif label not in classes:
            complaint = f"the label {label!r} is none of the {len(names)} classes {names[0]} .. {names[-1]}"
        elif not path.resolve().is_relative_to(folder.resolve()):
            complaint = f"{name!r} leads out of {folder}"
        elif not path.is_file():
            complaint = f"there is no picture {path}"
        yield f"{label_file}:{number}: ", path, classes.get(label), complaint


def sub_folders(folder):
    """The names of the sub-folders of `folder`, sorted: its classes."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def foldered_pictures(folder, names):
    """Yield (place, path, class, complaint) for each picture in the sub-folders of `folder`, one a class."""
    for name in sub_folders(folder):
        if name not in names:
            yield "", folder / name, None, f"{folder / name} is none of the {len(names)} classes"
            continue
        for path in map(Path, pictures_in([str(folder / name)])):
            inside = path.resolve().is_relative_to(folder.resolve())
            yield "", path, names.index(name), None if inside else f"{path} leads out of {folder}"


def progress_bar(total, unit):
    """TensorFlow's progress bar, on a terminal only."""
    return tf.keras.utils.Progbar(total, verbose=1 if sys.stdout.isatty() else 0, unit_name=unit)


def picture_samples(names, folder, label_file=None):
    """[(784 bytes, class int), ...], in random order, of the pictures of a folder; UserError names all that are bad."""
    listed = list(listed_pictures(folder, label_file, names) if label_file else foldered_pictures(folder, names))
    progress = progress_bar(len(listed), "picture")
    samples, complaints = [], []
    for done, (place, path, label, complaint) in enumerate(listed, 1):
        try:
            if not complaint:
                samples.append((network_pixels(path), label))
        except PictureError as error:
            complaint = f"{path} {error}"
        if complaint:
            complaints.append(place + complaint)
        progress.update(done)
    if complaints:
        more = f"\nand {len(complaints) - 10} more" if len(complaints) > 10 else ""
        raise UserError("\n".join(complaints[:10]) + more + "\nNothing was written: correct or remove these.")
    if not samples:
        raise UserError(f"{label_file or folder} names no picture.")
    return mixed(samples)


def split(samples, names):
    """(training samples, test samples): every TEST_SHARE-th of each class, at least one, is for the test."""
    train, test = [], []
    for i, name in enumerate(names):
        own = [sample for sample in samples if sample[1] == i]
        if len(own) < 2:
            raise UserError(f"The class {name} has {len(own)} pictures: add some, or give --test PICTURES.")
        train += [sample for place, sample in enumerate(own) if place % TEST_SHARE]
        test += own[::TEST_SHARE]
    return mixed(train), mixed(test)


def mixed(samples):
    """The samples in a random order, always the same."""
    return [samples[i] for i in np.random.default_rng(SPLIT_SEED).permutation(len(samples))]


def network_pixels(path):
    """The 784 bytes, 0 = paper .. 255 = ink, that go into a record of the picture at `path`.

    A picture of 28x28 that is light on dark is taken as it is, as the lecture's are; any other goes through `pre_pic`.
    Raises PictureError.
    """
    image = rgb_image(path)
    if image.size == (SIDE, SIDE):
        grey = np.asarray(image.convert("L"))
        if 0 < grey.mean() < 128:  # digits cover less than half of their square
            return grey.tobytes()
    return np.rint(pre_pic(path) * 255).astype(np.uint8).tobytes()


def example(pixels, label, classes=OUTPUT_NODE):
    """The tf.train.Example of one picture: 784 bytes and its class, one-hot."""
    one_hot = [int(i == label) for i in range(classes)]
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "img_raw": tf.train.Feature(bytes_list=tf.train.BytesList(value=[pixels])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=one_hot)),
            }
        )
    )


def shard_paths(data, name, shards):
    """[data/mnist_train.tfrecords], or for two and more data/mnist_train-00000-of-00002.tfrecords, ..."""
    if shards == 1:
        return [Path(data) / f"{name}.tfrecords"]
    return [Path(data) / f"{name}-{i:05d}-of-{shards:05d}.tfrecords" for i in range(shards)]


def record_files(data, name):
    """The TFRecord files of a set, TRAIN_SET or TEST_SET, in the folder `data`; UserError where a shard is missing."""
    shards = sorted(Path(data).glob(f"{name}-?????-of-?????.tfrecords"))
    expected = shard_paths(data, name, int(shards[0].stem[-5:])) if shards else shard_paths(data, name, 1)
    if shards and (shards != expected or shard_paths(data, name, 1)[0].exists()):
        raise UserError(
            f"{data} holds {len(shards)} shards of {name} where {len(expected)} belong together, or two sets of them: "
            "write them again with `python mnist_generateds.py`."
        )
    return expected


def write_tfrecords(paths, samples, classes=OUTPUT_NODE):
    """Write [(784 bytes, class), ...] to TFRecord files in turn, which appear only when all of them are whole."""
    where = f"{paths[0]}" + (f" .. {paths[-1].name}" if len(paths) > 1 else "")
    print(f"Writing {where}")
    parts = [path.with_name(path.name + ".part") for path in paths]
    progress = progress_bar(len(samples), "record")
    try:
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(tf.python_io.TFRecordWriter(str(part))) for part in parts]
            for done, (pixels, label) in enumerate(samples, 1):
                writers[done % len(writers)].write(example(pixels, label, classes).SerializeToString())
                if done % READ_AT_ONCE == 0 or done == len(samples):
                    progress.update(done)
        for part, path in zip(parts, paths, strict=True):
            part.replace(path)
    except tf.errors.OpError as error:
        raise UserError(f"{paths[0]} can't be written ({error.message}): make room or name another --data.") from None
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    print(f"{len(samples)} records in {where}")


@functools.cache
def count_records(path):
    """How many records the TFRecord file `path` holds, after a look at every one of them.

    A queue that is fed from a missing or foreign file only says "insufficient elements", or nothing at all.

    Raises:
      UserError: names the file, the record and the command that makes a good file.
    """
    cure = "write it again with `python mnist_generateds.py`, --data as here"
    if not path.is_file():
        raise UserError(f"{path} is missing: {cure}.")
    classes = len(class_names(path.parent))
    count = size = 0
    try:
        for record in tf.python_io.tf_record_iterator(str(path)):
            count += 1
            size += len(record) + 16  # its length and two checksums
            feature = tf.train.Example.FromString(record).features.feature
            pixels, label = feature["img_raw"].bytes_list.value, feature["label"].int64_list.value
            if [len(value) for value in pixels] != [INPUT_NODE]:
                raise ValueError(f"`img_raw` is not {INPUT_NODE} bytes")
            if sorted(label) != [0] * (classes - 1) + [1]:
                raise ValueError(f"`label` is not {classes} int64, one-hot, but {len(label)}: {list(label)[:10]}")
    except tf.errors.PermissionDeniedError:
        raise UserError(f"{path} may not be read: change its permissions.") from None
    except tf.errors.OpError:
        raise UserError(f"{path} is damaged or no TFRecord file, at record {count + 1}: {cure}.") from None
    except (ValueError, DecodeError) as error:
        raise UserError(f"{path}, record {count}: {error}: {cure}.") from None
    if size != path.stat().st_size:  # the iterator takes a file that ends within a record's length for ended
        raise UserError(f"{path} is cut short at record {count + 1}: {cure}.")
    if not count:
        raise UserError(f"{path} is empty: {cure}.")
    return count


def count_examples(data, name):
    """How many records a set, TRAIN_SET or TEST_SET, holds, after a look at every one; UserError as count_records."""
    return sum(count_records(path) for path in record_files(data, name))


def some_samples(data, name, most):
    """At most about `most` records, evenly spread over a set, TRAIN_SET or TEST_SET.

    Returns:
      pictures, float32 [n, 784], 0 = paper .. 1 = ink; classes, int [n].
    """
    every = -(-count_examples(data, name) // most)
    records = itertools.chain.from_iterable(
        tf.python_io.tf_record_iterator(str(path)) for path in record_files(data, name)
    )
    features = [tf.train.Example.FromString(r).features.feature for r in itertools.islice(records, 0, None, every)]
    pixels = b"".join(feature["img_raw"].bytes_list.value[0] for feature in features)
    classes = np.argmax([feature["label"].int64_list.value for feature in features], axis=1)
    return np.frombuffer(pixels, np.uint8).reshape(-1, INPUT_NODE) / np.float32(255), classes


def read_tfrecord(serialized, classes):
    """Parse records, string [n], into float32 pictures [n, 784], 0 = paper .. 1 = ink, and labels [n, classes]."""
    features = tf.parse_example(
        serialized,
        features={
            "img_raw": tf.FixedLenFeature([], tf.string),
            "label": tf.FixedLenFeature([classes], tf.int64),
        },
    )
    img = tf.decode_raw(features["img_raw"], tf.uint8)
    img.set_shape([None, INPUT_NODE])
    return tf.cast(img, tf.float32) * (1.0 / 255), tf.cast(features["label"], tf.float32)


def affine_field(n, *, rotation, shear, scale, shift):
    """Displacements of n random affine maps about the centre: float32 [n, 28, 28, 2], (down, right) in pixels.

    Each is drawn evenly from -x..x: rotation in degrees, shear as a slope, scale as a share, shift in pixels.
    """
    angle, slope, taller, wider = (tf.random_uniform([n], -x, x) for x in (math.radians(rotation), shear, scale, scale))
    sin, cos = tf.sin(angle), tf.cos(angle)
    down = tf.stack([cos + slope * sin, sin], axis=1) / (1 + taller)[:, None]
    right = tf.stack([slope * cos - sin, cos], axis=1) / (1 + wider)[:, None]
    change = tf.stack([down, right], axis=1) - tf.eye(2)
    moved = tf.tensordot(change, tf.constant(PIXELS - (SIDE - 1) / 2), [[2], [2]])  # [n, 2, 28, 28]
    return tf.transpose(moved, [0, 2, 3, 1]) + tf.random_uniform([n, 1, 1, 2], -shift, shift)


def elastic_field(n, *, elastic):
    """Smooth random displacements (Simard 2003): float32 [n, 28, 28, 2], (down, right) in pixels.

    `elastic` is the standard deviation, in pixels, of the normal noise on a grid of 7x7 points across the picture,
    between which the displacement is bicubic.
    """
    return tf.image.resize_bicubic(tf.random_normal([n, 7, 7, 2], stddev=elastic), [SIDE, SIDE], align_corners=True)


def warp(img, field):
    """Take every pixel from where the field points, bilinearly; beyond the edge the picture goes on as its edge.

    Args:
      img: float32 [k * n, 784].
      field: float32 [n, 28, 28, 2], (down, right) in pixels; k pictures in a row share one.

    Returns:
      float32 [k * n, 784], in the range of `img`.
    """
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


def distort(img, strength, *, elastic, **affine):
    """Move the pixels of a training batch, float32 [num, 784], by random fields; same shape and range.

    `strength`, a float or a scalar tensor, multiplies the fields: at 0 the pictures stay as they are.
    """
    n = img.shape[0] // math.gcd(img.shape[0], SHARING)
    return warp(img, strength * (affine_field(n, **affine) + elastic_field(n, elastic=elastic)))


def train_batches(files, num, classes, distortions, strength):
    """Endless shuffled, distorted batches of exactly `num`, made ahead of the training step by queue threads."""
    filename_queue = tf.train.string_input_producer([str(path) for path in files])
    readers = [tf.TFRecordReader() for _ in files[:SHARDS_AT_ONCE]]
    serialized = tf.train.shuffle_batch_join(
        [[reader.read_up_to(filename_queue, READ_AT_ONCE)[1]] for reader in readers],
        batch_size=num,
        capacity=MIN_AFTER_DEQUEUE + 2 * max(num, READ_AT_ONCE),
        min_after_dequeue=MIN_AFTER_DEQUEUE,
        enqueue_many=True,
    )
    img, label = read_tfrecord(serialized, classes)
    img.set_shape([num, INPUT_NODE])
    if distortions:
        img = distort(img, strength, **distortions)
    queue = tf.FIFOQueue(BATCHES_IN_STORE, [tf.float32, tf.float32], [[num, INPUT_NODE], [num, classes]])
    tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue([img, label])] * BATCH_THREADS))
    tf.add_to_collection("queue_fill", queue.size() / BATCHES_IN_STORE)
    return queue.dequeue()


def test_batches(files, num, classes):
    """Every record once, in file order, in batches of `num` (the last one smaller); then tf.errors.OutOfRangeError."""
    filename_queue = tf.train.string_input_producer([str(path) for path in files], num_epochs=1, shuffle=False)
    _, records = tf.TFRecordReader().read_up_to(filename_queue, READ_AT_ONCE)
    serialized = tf.train.batch(
        [records],
        batch_size=num,
        capacity=2 * max(num, READ_AT_ONCE),
        enqueue_many=True,
        allow_smaller_final_batch=True,
    )
    return read_tfrecord(serialized, classes)


def get_tfrecord(num, isTrain=True, data=DATA_PATH, distortions=None, strength=1.0, task=0, tasks=1):
    """Batches of the training or of the test set, through queues.

    Adds QueueRunners: start them with tf.train.start_queue_runners, after initialising the local variables.

    Args:
      num: pictures in a batch.
      isTrain: the training set, shuffled, without end; or the test set, in file order, once.
      data: folder of the TFRecords.
      distortions: for training batches, the arguments of affine_field and elastic_field; None leaves them as they are.
      strength: what the distortions are multiplied by, a float or a scalar tensor.
      task, tasks: of so many machines this one, from 0; each reads its own shards, or all where there are too few.

    Returns:
      img_batch, float32 [num, 784], 0 = paper .. 1 = ink; label_batch, float32 [num, classes], one-hot.

    Raises:
      UserError: the records are missing, damaged or foreign.
    """
    name, classes = TRAIN_SET if isTrain else TEST_SET, len(class_names(data))
    count_examples(data, name)
    files = record_files(data, name)
    if not isTrain:
        return test_batches(files, num, classes)
    return train_batches(files[task::tasks] if len(files) >= tasks else files, num, classes, distortions, strength)


def write_set(data, name, samples, names, shards):
    """Write the records of a set in place of those that were there, and say how many each class has."""
    paths = shard_paths(data, name, min(shards, len(samples)))
    write_tfrecords(paths, samples, len(names))
    for stale in {*data.glob(f"{name}-?????-of-?????.tfrecords"), *shard_paths(data, name, 1)} - set(paths):
        stale.unlink(missing_ok=True)
    counts = np.bincount([label for _, label in samples], minlength=len(names))
    print("  " + ", ".join(f"{name}: {count}" for name, count in zip(names, counts, strict=True)))


def show(data, samples, names):
    """Save contact-sheet.png in the folder `data`: ten pictures of each class, as the network is given them."""
    first = [[pixels for pixels, label in samples if label == i][:10] for i in range(len(names))]
    images = [seen_by_network(np.frombuffer(pixels, np.uint8) / 255, 84) for row in first for pixels in row]
    captions = [name for name, row in zip(names, first, strict=True) for _ in row]
    save_picture(contact_sheet(images, captions, across=10, width=96, height=120), data / "contact-sheet.png")
    print(f"{data / 'contact-sheet.png'} shows the first pictures of each class as the network is given them")


def given_samples(args):
    """(names of the classes, training samples, test samples) that the command line asks for."""
    names = class_names(args.data)
    if not args.train:
        return names, *(idx_samples(args.idx or args.data, prefix, names) for prefix in ("train", "t10k"))
    if len(args.train) == 1:
        names = sub_folders(args.train[0])
        if len(names) < 2:
            raise UserError(f"{args.train[0]} holds {len(names)} sub-folders: give one to each class, two or more.")
        for name in names:
            if [name] != name.strip().splitlines() or not name.isprintable():
                raise UserError(
                    f"{args.train[0] / name} can't be a line of {mnist_forward.CLASSES}: rename the folder."
                )
    train = picture_samples(names, *args.train)
    return names, *((train, picture_samples(names, *args.test)) if args.test else split(train, names))


def main():
    parser = argparse.ArgumentParser(description="Write the TFRecords of a training and a test set.")
    parser.add_argument("--data", type=Path, default=DATA_PATH, help="folder of the records (%(default)s)")
    parser.add_argument("--idx", type=Path, help="folder of the IDX files, when they are not in the --data folder")
    parser.add_argument("--shards", type=int, default=1, help="files for each set (%(default)s)")
    for which, without in (("train", ""), ("test", f"; without it every {TEST_SHARE}th of --train")):
        parser.add_argument(
            f"--{which}",
            nargs="+",
            type=Path,
            metavar=("PICTURES", "LABELS"),
            help=f"make the {which} set of a folder of pictures and a text file of `name label` lines, or of a folder "
            f"with a sub-folder of pictures per class{without}",
        )
    args = parser.parse_args()
    if any(len(given) > 2 for given in (args.train or [], args.test or [])) or (args.test and not args.train):
        parser.error("give --train PICTURES [LABELS], and perhaps --test PICTURES [LABELS]")
    if not 1 <= args.shards <= 500:  # all of them are open at once
        parser.error("--shards must be from 1 to 500")
    if args.idx and args.train:
        parser.error("give --idx or --train")

    names, train, test = given_samples(args)
    args.data.mkdir(parents=True, exist_ok=True)
    if names != class_names(args.data):
        for path in args.data.glob("mnist_*.tfrecords"):  # or those of the old classes would stand under the new names
            path.unlink()
        write_classes(args.data, names)
    write_set(args.data, TRAIN_SET, train, names, args.shards)
    write_set(args.data, TEST_SET, test, names, args.shards)
    if args.train:
        show(args.data, train, names)


if __name__ == "__main__":
    mnist_forward.run(main)
