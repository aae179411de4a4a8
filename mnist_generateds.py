"""Writes the TFRecords and reads them back through queues (lecture 6.2).

    python mnist_generateds.py                          # from the IDX files in data/
    python mnist_generateds.py --train pictures/ labels.txt --test more/ labels.txt

writes `mnist_train.tfrecords` (60,000 records, 51 MB) and `mnist_test.tfrecords` (10,000).  One record is one
tf.train.Example with the lecture's two features: `img_raw`, 784 bytes, 0 = paper .. 255 = ink, and `label`, ten
int64, one-hot.  `mnist_backward.py` and `mnist_test.py` read them with `get_tfrecord`.
"""

import argparse
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
from mnist_app import SIDE, PictureError, pre_pic, rgb_image
from mnist_forward import DATA_PATH, INPUT_NODE, OUTPUT_NODE, UserError, tf

TRAIN_RECORDS = "mnist_train.tfrecords"
TEST_RECORDS = "mnist_test.tfrecords"

# The lecture reads one record a call, which is what its training waits for; a thousand a call is ten times as fast.
READ_AT_ONCE = 1000
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


def idx_samples(data, prefix):
    """[(784 bytes, label int), ...] from the pair of IDX files of `prefix`, "train" or "t10k"."""
    images_path, labels_path = data / f"{prefix}-images-idx3-ubyte.gz", data / f"{prefix}-labels-idx1-ubyte.gz"
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise UserError(f"{images_path} holds {len(images)} pictures and {labels_path} {len(labels)} labels.")
    if labels.max(initial=0) >= OUTPUT_NODE:
        raise UserError(f"{labels_path} holds the label {labels.max()}; the largest possible is {OUTPUT_NODE - 1}.")
    return [(image.tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True)]


def labelled_samples(folder, label_file):
    """[(784 bytes, label int), ...] from the lecture's text file of `name label` lines.

    Raises:
      UserError: names the bad lines; a name may hold spaces, and no name may lead out of the folder.
    """
    folder, label_file = Path(folder), Path(label_file)
    try:
        lines = label_file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{label_file} is not a text in UTF-8 ({error}): save it as UTF-8.") from None
    samples, complaints = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        path = folder / name.strip()
        if not name or "\0" in name:
            complaint = f"{line!r} is not `name label`"
        elif label not in map(str, range(OUTPUT_NODE)):
            complaint = f"the label {label!r} is no number from 0 to {OUTPUT_NODE - 1}"
        elif not path.resolve().is_relative_to(folder.resolve()):
            complaint = f"{name!r} leads out of {folder}"
        elif not path.is_file():
            complaint = f"there is no picture {path}"
        else:
            try:
                samples.append((network_pixels(path), int(label)))
                continue
            except PictureError as error:
                complaint = f"{path} {error}"
        complaints.append(f"{label_file}:{number}: {complaint}")
    if complaints:
        more = f"\nand {len(complaints) - 10} more" if len(complaints) > 10 else ""
        raise UserError("\n".join(complaints[:10]) + more + "\nNothing was written: correct these lines.")
    if not samples:
        raise UserError(f"{label_file} names no picture: write one `name label` a line.")
    return samples


def network_pixels(path):
    """The 784 bytes, 0 = paper .. 255 = ink, that go into a record of the picture at `path`.

    A picture of 28x28 that is light on dark is taken as it is, as the lecture's are; any other goes through `pre_pic`.
    Raises PictureError.
    """
    image = rgb_image(path)
    if image.size == (SIDE, SIDE):
        grey = np.asarray(image.convert("L"))
        if grey.mean() < 128:  # digits cover less than half of their square
            return grey.tobytes()
    return np.rint(pre_pic(path) * 255).astype(np.uint8).tobytes()


def example(pixels, label):
    """The tf.train.Example of one picture: 784 bytes and its class 0..9."""
    one_hot = [int(i == label) for i in range(OUTPUT_NODE)]
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "img_raw": tf.train.Feature(bytes_list=tf.train.BytesList(value=[pixels])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=one_hot)),
            }
        )
    )


def write_tfrecord(path, samples):
    """Write [(784 bytes, label), ...] to the TFRecord file `path`, which appears only when it is whole."""
    print(f"Writing {path}")
    part = path.with_name(path.name + ".part")
    progress = tf.keras.utils.Progbar(len(samples), verbose=1 if sys.stdout.isatty() else 0, unit_name="record")
    try:
        with tf.python_io.TFRecordWriter(str(part)) as writer:
            for done, (pixels, label) in enumerate(samples, 1):
                writer.write(example(pixels, label).SerializeToString())
                if done % READ_AT_ONCE == 0 or done == len(samples):
                    progress.update(done)
        part.replace(path)
    except tf.errors.OpError as error:
        raise UserError(f"{path} can't be written ({error.message}): make room or name another --data.") from None
    finally:
        part.unlink(missing_ok=True)
    print(f"{len(samples)} records in {path}")


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
    count = size = 0
    try:
        for record in tf.python_io.tf_record_iterator(str(path)):
            count += 1
            size += len(record) + 16  # its length and two checksums
            feature = tf.train.Example.FromString(record).features.feature
            pixels, label = feature["img_raw"].bytes_list.value, feature["label"].int64_list.value
            if [len(value) for value in pixels] != [INPUT_NODE]:
                raise ValueError(f"`img_raw` is not {INPUT_NODE} bytes")
            if sorted(label) != [0] * (OUTPUT_NODE - 1) + [1]:
                raise ValueError(f"`label` is not {OUTPUT_NODE} int64, one-hot")
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


def some_samples(path, most):
    """At most about `most` records, evenly spread over a file that count_records has looked at.

    Returns:
      pictures, float32 [n, 784], 0 = paper .. 1 = ink; classes, int [n].
    """
    records = itertools.islice(tf.python_io.tf_record_iterator(str(path)), 0, None, -(-count_records(path) // most))
    features = [tf.train.Example.FromString(record).features.feature for record in records]
    pixels = b"".join(feature["img_raw"].bytes_list.value[0] for feature in features)
    classes = np.argmax([feature["label"].int64_list.value for feature in features], axis=1)
    return np.frombuffer(pixels, np.uint8).reshape(-1, INPUT_NODE) / np.float32(255), classes


def read_tfrecord(serialized):
    """Parse records, string [n], into float32 pictures [n, 784], 0 = paper .. 1 = ink, and labels [n, 10]."""
    features = tf.parse_example(
        serialized,
        features={
            "img_raw": tf.FixedLenFeature([], tf.string),
            "label": tf.FixedLenFeature([OUTPUT_NODE], tf.int64),
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


def train_batches(path, num, distortions, strength):
    """Endless shuffled, distorted batches of exactly `num`, made ahead of the training step by queue threads."""
    filename_queue = tf.train.string_input_producer([str(path)])
    _, records = tf.TFRecordReader().read_up_to(filename_queue, READ_AT_ONCE)
    serialized = tf.train.shuffle_batch(
        [records],
        batch_size=num,
        capacity=MIN_AFTER_DEQUEUE + 2 * max(num, READ_AT_ONCE),
        min_after_dequeue=MIN_AFTER_DEQUEUE,
        enqueue_many=True,
    )
    img, label = read_tfrecord(serialized)
    img.set_shape([num, INPUT_NODE])
    if distortions:
        img = distort(img, strength, **distortions)
    queue = tf.FIFOQueue(BATCHES_IN_STORE, [tf.float32, tf.float32], [[num, INPUT_NODE], [num, OUTPUT_NODE]])
    tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue([img, label])] * BATCH_THREADS))
    tf.add_to_collection("queue_fill", queue.size() / BATCHES_IN_STORE)
    return queue.dequeue()


def test_batches(path, num):
    """Every record once, in file order, in batches of `num` (the last one smaller); then tf.errors.OutOfRangeError."""
    filename_queue = tf.train.string_input_producer([str(path)], num_epochs=1, shuffle=False)
    _, records = tf.TFRecordReader().read_up_to(filename_queue, READ_AT_ONCE)
    serialized = tf.train.batch(
        [records],
        batch_size=num,
        capacity=2 * max(num, READ_AT_ONCE),
        enqueue_many=True,
        allow_smaller_final_batch=True,
    )
    return read_tfrecord(serialized)


def get_tfrecord(num, isTrain=True, data=DATA_PATH, distortions=None, strength=1.0):
    """Batches of the training or of the test set, through queues.

    Adds QueueRunners: start them with tf.train.start_queue_runners, after initialising the local variables.

    Args:
      num: pictures in a batch.
      isTrain: the training set, shuffled, without end; or the test set, in file order, once.
      data: folder of the TFRecords.
      distortions: for training batches, the arguments of affine_field and elastic_field; None leaves them as they are.
      strength: what the distortions are multiplied by, a float or a scalar tensor.

    Returns:
      img_batch, float32 [num, 784], 0 = paper .. 1 = ink; label_batch, float32 [num, 10], one-hot.

    Raises:
      UserError: the records are missing, damaged or foreign.
    """
    path = Path(data) / (TRAIN_RECORDS if isTrain else TEST_RECORDS)
    count_records(path)
    return train_batches(path, num, distortions, strength) if isTrain else test_batches(path, num)


def main():
    parser = argparse.ArgumentParser(description="Write mnist_train.tfrecords and mnist_test.tfrecords.")
    parser.add_argument(
        "--data", type=Path, default=DATA_PATH, help="folder of the IDX files and the records (%(default)s)"
    )
    for which in ("train", "test"):
        parser.add_argument(
            f"--{which}",
            nargs=2,
            metavar=("PICTURES", "LABELS"),
            help=f"make the {which} set of a folder of pictures and a text file of `name label` lines instead",
        )
    args = parser.parse_args()
    if bool(args.train) != bool(args.test):
        parser.error("--train and --test go together")
    if args.train:
        train, test = labelled_samples(*args.train), labelled_samples(*args.test)
    else:
        train, test = idx_samples(args.data, "train"), idx_samples(args.data, "t10k")
    args.data.mkdir(parents=True, exist_ok=True)
    write_tfrecord(args.data / TRAIN_RECORDS, train)
    write_tfrecord(args.data / TEST_RECORDS, test)


if __name__ == "__main__":
    mnist_forward.run(main)
