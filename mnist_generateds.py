"""Writes the TFRecords and reads them back through queues (lecture 6.2).

    python mnist_generateds.py                                  # from the IDX files in data/: MNIST and the world
    python mnist_generateds.py --data my_data --train letters/  # from a folder with a sub-folder of pictures per class
    python mnist_generateds.py --data my_data --train pictures/ labels.txt --test more/ more.txt
    python mnist_generateds.py --add my_digits/ labels.txt      # and one's own digits beside MNIST and the world

writes `mnist_train.tfrecords` (by default 81,235 records, 69 MB), `mnist_test.tfrecords` (MNIST's 10,000),
`world_test.tfrecords`, `contact-sheet.png`, `outlines.npz` and the names of the classes.  A record is one
tf.train.Example with the lecture's two features: `img_raw`, 784 bytes, 0 = paper .. 255 = ink, and `label`, int64,
one-hot.

In this file a sample is a pair: the 784 bytes of a digit, and the number of its class.
"""

import argparse
import collections
import contextlib
import functools
import gzip
import itertools
import os
import re
import sys
import threading
import unicodedata
import zlib
from pathlib import Path
from typing import NamedTuple

import mnist_forward  # Before numpy, since it says with how many threads numpy starts.
import numpy as np
from google.protobuf.message import DecodeError  # It comes with tensorflow.

import mnist_app
from mnist_app import PictureError
from mnist_forward import DATA_PATH, IMAGE_SIDE, INPUT_NODE, UserError, read_class_names, tf

TRAIN_SET = "mnist_train"
TEST_SET = "mnist_test"
WORLD_TEST_SET = "world_test"  # writers outside the USA, of whom the training set has none

# ======== Reading the records through queues

READ_AT_ONCE = 500  # records a call; lecture: one, which makes reading its bottleneck
SHARDS_AT_ONCE = 4  # files that are read side by side, which mixes what was written together
MIN_AFTER_DEQUEUE = 10000  # records to draw from; lecture: 700 of 60,000, which left a batch nearly in file order
# Training pictures are parsed and distorted in portions of several batches: every operation has a cost of its own,
# which one portion pays once.  A batch that is larger than this is a portion by itself.
PORTION = 200  # pictures


def get_tfrecord(num, isTrain=True, data_dir=DATA_PATH, distort=None, task=0, tasks=1, test_set=TEST_SET):
    """Build the queues that deliver batches: training samples shuffled and without end, test samples in order, once.

    First it looks at every record of the set.  It adds QueueRunners to the graph: start them with
    tf.train.start_queue_runners, after initialising the local variables, in one of which string_input_producer counts
    its epochs.  There are two queues, of file names and of records; for training a third one, of batches that are
    ready.

    Args:
      num: pictures in a batch; only the last batch of the test set may be smaller.
      isTrain: which set.
      data_dir: folder of the records.
      distort: for training batches, what the queue's thread does to the pictures of one batch or several, a function of
        float32 [n, 784] that returns the same; None leaves them as they are.
      task: the number of this machine, from 0, where several train together.
      tasks: how many machines; each reads its own shards, or all of them where there are too few.
      test_set: which test set, TEST_SET or WORLD_TEST_SET.

    Returns img_batch, float32 [num, 784], 0 = paper .. 1 = ink, and label_batch, float32 [num, classes], one-hot.
    Raises UserError where records are missing, damaged or foreign, before a queue is built.
    """
    files = _share_files(data_dir, TRAIN_SET, task, tasks) if isTrain else _share_files(data_dir, test_set)
    # File names: again and again in random order for training, once for the test.
    filename_queue = tf.train.string_input_producer(files, num_epochs=None if isTrain else 1, shuffle=isTrain)
    # Reading: many serialized records a call.
    readers = min(SHARDS_AT_ONCE, len(files)) if isTrain else 1
    serialized = [tf.TFRecordReader().read_up_to(filename_queue, READ_AT_ONCE)[1] for _ in range(readers)]
    classes = len(read_class_names(data_dir))
    if not isTrain:
        [records] = serialized  # One reader and one thread keep the order of the file.
        capacity = 2 * max(num, READ_AT_ONCE)
        batch = tf.train.batch([records], num, 1, capacity, enqueue_many=True, allow_smaller_final_batch=True)
        return _parse(batch, classes)
    return _shuffle_into_batches(serialized, num, classes, distort)


def _shuffle_into_batches(serialized, num, classes, distort):
    """Training batches, as get_tfrecord returns them, of the records of several readers, a string tensor [k] each."""
    # Shuffling (the lecture's shuffle_batch): before the parsing, since a record is smaller than its pixels as floats.
    batches_a_portion = max(1, PORTION // num)
    portion_size = batches_a_portion * num
    capacity = MIN_AFTER_DEQUEUE + max(portion_size, READ_AT_ONCE)
    # shuffle_batch_join is shuffle_batch with several sources, each in a thread of its own.  A source is the list of
    # the tensors that are put into the queue together: img and label in the lecture, the serialized records alone here.
    sources = [[records] for records in serialized]
    portion = tf.train.shuffle_batch_join(sources, portion_size, capacity, MIN_AFTER_DEQUEUE, enqueue_many=True)
    img, label = _parse(portion, classes)
    img.set_shape([portion_size, INPUT_NODE])
    return _keep_ready(distort(img) if distort else img, label, batches_a_portion)


def _share_files(data_dir, set_name, task=0, tasks=1):
    """The names of a set's files that machine `task` of `tasks` reads, as in get_tfrecord."""
    paths, _ = find_records(data_dir, set_name)
    files = [str(path) for path in paths]
    return files[task::tasks] if len(files) >= tasks else files


def _parse(serialized, classes):
    """The pictures, float32 [n, 784] in 0..1, and labels, float32 [n, classes], of serialized records, string [n]."""
    wanted = {"img_raw": tf.FixedLenFeature([], tf.string), "label": tf.FixedLenFeature([classes], tf.int64)}
    features = tf.parse_example(serialized, features=wanted)
    img = tf.decode_raw(features["img_raw"], tf.uint8)
    img.set_shape([None, INPUT_NODE])
    img = tf.cast(img, tf.float32) * (1.0 / 255)
    label = tf.cast(features["label"], tf.float32)
    return img, label


def _keep_ready(img, label, batches_a_portion):
    """Cut a portion into its batches, and return a batch out of a queue, which its own thread keeps full.

    No training step waits for its batch then.  One element of the queue is a whole batch.  The queue holds one portion,
    while its thread prepares the next one: enqueue_many puts all batches of a portion into it, and dequeue takes one
    batch out.  Adds to the collection `queue_fill` how full that queue is, a scalar in 0..1.
    """
    img_batches = tf.reshape(img, [batches_a_portion, -1, INPUT_NODE])
    label_batches = tf.reshape(label, [batches_a_portion, -1, label.shape[1]])
    queue = tf.FIFOQueue(batches_a_portion, [tf.float32, tf.float32], [img_batches.shape[1:], label_batches.shape[1:]])
    enqueue_op = queue.enqueue_many([img_batches, label_batches])
    tf.train.add_queue_runner(tf.train.QueueRunner(queue, [enqueue_op]))
    tf.add_to_collection("queue_fill", queue.size() / batches_a_portion)
    return queue.dequeue()


def find_records(data_dir, set_name):
    """Find the TFRecord files of a set, by its name, and look at every record in them.

    Returns (the paths of the files, how many records they hold together).  Raises UserError where a file is missing,
    damaged or foreign.
    """
    paths = _list_record_files(data_dir, set_name) or [Path(data_dir) / f"{set_name}.tfrecords"]
    # Where a set lies in eight files, the name of each says "-of-00008"; the name of a single file says nothing.
    promised = {int(path.stem.partition("-of-")[2] or 1) for path in paths}
    # All names must promise the same number of files, and that many files must be there.
    if promised != {len(paths)}:
        raise UserError(
            f"{data_dir} holds {len(paths)} files of {set_name}, no whole set: run mnist_generateds.py again."
        )
    return paths, sum(count_records(path) for path in paths)


def _list_record_files(data_dir, set_name):
    """List the paths of those TFRecord files of a set that exist, sorted."""
    pattern = re.compile(set_name + r"(-\d{5}-of-\d{5})?\.tfrecords")
    return sorted(path for path in Path(data_dir).glob(f"{set_name}*") if pattern.fullmatch(path.name))


_WRITE_AGAIN = "write it again with `python mnist_generateds.py`, --data as here"


def count_records(path):
    """Count the records of a TFRecord file, and look at every one of them.

    A queue that is fed from a missing or foreign file would only say "insufficient elements".  A file that has not
    changed since the last call is not looked at again.  Raises UserError, which names file, record and cure.
    """
    if not path.is_file():
        needs = ", and needs the files world-*.gz there" if path.stem.startswith(WORLD_TEST_SET) else ""
        raise UserError(f"{path} is missing: {_WRITE_AGAIN}{needs}.")
    state = path.stat()
    return _count_records(path, tuple(read_class_names(path.parent)), state.st_size, state.st_mtime_ns)


@functools.cache
def _count_records(path, class_names, file_size, _last_change):
    """Count the records of a file of `file_size` bytes, as count_records does.

    The count is kept, and given again when the same arguments come again.  `_last_change`, the time when the file was
    last changed, is an argument for that reason alone: a file that was written anew is counted anew.
    """
    count = 0
    size = 0
    try:
        for record in tf.python_io.tf_record_iterator(str(path)):
            _check_record(record, len(class_names))
            count += 1
            size += len(record) + 16  # The file holds a length and two checksums with each record.
        # Before each record the file holds its length.  Where a file ends inside such a length, the iterator ends as if
        # all were well, so the sizes are compared.
        if count == 0 or size != file_size:
            raise ValueError("the file ends there")
    except (ValueError, DecodeError, tf.errors.OpError) as error:
        why = mnist_forward.explain(error)
        raise UserError(f"{path} is no good at record {count + 1}, {why}: {_WRITE_AGAIN}.") from None
    return count


def _check_record(record, classes):
    """Raise ValueError unless a serialized record has the lecture's two features."""
    feature = tf.train.Example.FromString(record).features.feature
    pixels = feature["img_raw"].bytes_list.value
    label = feature["label"].int64_list.value
    if [len(value) for value in pixels] != [INPUT_NODE]:
        raise ValueError(f"`img_raw` is not {INPUT_NODE} bytes")
    if sorted(label) != [0] * (classes - 1) + [1]:
        raise ValueError(f"`label` is not {classes} int64, one-hot, but {len(label)}: {list(label)[:10]}")


# ======== Writing the records


def write_tfrecords(data_dir, set_name, samples, class_names, shards=1):
    """Write samples as the TFRecord files of a set (lecture 6.2), in place of its earlier files.

    Args:
      data_dir: the folder of the records, a Path.
      set_name: TRAIN_SET, TEST_SET or WORLD_TEST_SET.
      samples: [(784 bytes, class number), ...].
      class_names: the names of the classes: how many there are makes the one-hot labels, and the names are printed.
      shards: into how many files the samples go in turn.

    Raises UserError where the disk is full; the earlier files then stay as they are.
    """
    paths = _name_shards(data_dir, set_name, min(shards, len(samples)))
    where = f"{paths[0]}" if len(paths) == 1 else f"{paths[0]} .. {paths[-1].name}"
    print(f"Writing {where}")
    try:
        # Two stacks, since the new files must be closed before they are renamed.  What happens at the ends of the
        # blocks: 1. The stack `writers` ends, and all new files are closed; their names still end in .part.  2. Old
        # files are removed.  3. The stack `parts` ends, and the new files get their own names, one after the other.
        with contextlib.ExitStack() as parts:
            with contextlib.ExitStack() as writers:
                part_paths = [parts.enter_context(mnist_forward.write_whole(path)) for path in paths]
                opened = [writers.enter_context(tf.python_io.TFRecordWriter(str(path))) for path in part_paths]
                shown = _show_progress(samples, len(samples), "records")
                # The lecture's loop: each sample becomes a tf.train.Example, which is serialized and written.
                for writer, sample in zip(itertools.cycle(opened), shown):
                    writer.write(_make_example(*sample, len(class_names)).SerializeToString())
            # If the program is killed during step 3, some files are missing, which find_records notices.  Without step
            # 2 old and new files would stand side by side like one whole set.  A single new file needs no step 2: it
            # takes its name in one moment, and what else is left of the old set is removed at the end.
            if len(paths) > 1:
                remove_records(data_dir, [set_name])
    except tf.errors.OpError as error:
        raise UserError(f"{paths[0]} can't be written ({error.message}): make room or name another --data.") from None
    for stale in set(_list_record_files(data_dir, set_name)) - set(paths):
        stale.unlink()
    counts = np.bincount([label for _, label in samples], minlength=len(class_names))
    per_class = ", ".join(f"{name}: {count}" for name, count in zip(class_names, counts, strict=True))
    print(f"{len(samples)} records in {where}\n  {per_class}")


MOST_SHARDS = 200  # All are written at once, and some systems let a program open no more than 256 files.


def _name_shards(data_dir, set_name, shards):
    """The paths of the files of a set."""
    if shards == 1:
        return [data_dir / f"{set_name}.tfrecords"]
    return [data_dir / f"{set_name}-{i:05d}-of-{shards:05d}.tfrecords" for i in range(shards)]


def _make_example(pixels, label, classes):
    """A sample as the lecture's tf.train.Example."""
    one_hot = [0] * classes
    one_hot[label] = 1
    # The lecture makes Feature, Features and Example in turn.  To fill an Example takes a third of the time.
    example = tf.train.Example()
    feature = example.features.feature
    feature["img_raw"].bytes_list.value.append(pixels)
    feature["label"].int64_list.value.extend(one_hot)
    return example


def _show_progress(items, total, noun):
    """Yield the items, and on a terminal show how many of the `total` there were."""
    shown = sys.stdout.isatty()
    for count, item in enumerate(items, 1):
        yield item
        if shown and (count % 100 == 0 or count == total):
            print(f"\r{count} of {total} {noun}", end="\n" if count == total else "", flush=True)


MOST_CLASSES_SHOWN = 100  # on the contact sheet; that of thousands of classes would fill the memory


def save_contact_sheet(data_dir, samples, class_names):
    """Save contact-sheet.png in a data folder: the first ten samples of each class, as the network is given them."""
    cells = []
    for number, name in enumerate(mnist_app.name_in_pictures(class_names[:MOST_CLASSES_SHOWN])):
        of_class = (pixels for pixels, label in samples if label == number)
        for pixels in itertools.islice(of_class, 10):
            cells.append(mnist_app.draw_digit(np.frombuffer(pixels, np.uint8) / 255, name))
    path = data_dir / "contact-sheet.png"
    mnist_app.save_picture(mnist_app.arrange_in_grid(cells, columns=10), path)
    print(f"{path} shows the first pictures of each class as the network is given them")


# ======== Samples of IDX files


def read_idx(path, dimensions):
    """Read a gzipped IDX file, the format of MNIST's own files (http://yann.lecun.com/exdb/mnist/).

    Args:
      path: the file, a Path.
      dimensions: 1 for labels, 3 for pictures.

    Returns uint8 [n] or [n, 28, 28].  Raises UserError where the file is missing, or its magic number, its sizes and
    its length do not agree.
    """
    try:
        with gzip.open(path) as file:
            content = file.read()
        # The file begins with numbers of four bytes: the magic number, whose third byte is 8 for unsigned bytes and
        # whose last byte is the number of dimensions, and the size of each dimension.
        magic, *shape = np.frombuffer(content, ">u4", 1 + dimensions).tolist()
        picture_shape = [IMAGE_SIDE, IMAGE_SIDE] if dimensions == 3 else []  # A label has no further sizes.
        if magic != 0x800 + dimensions or shape[1:] != picture_shape:
            raise ValueError(f"its magic number is {magic:#x}, its sizes are {shape}")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: copy it from a clone of this project, or use --train.") from None
    except (gzip.BadGzipFile, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is no whole gzipped IDX file of this kind ({error}): copy it again.") from None


def read_idx_samples(data_dir, prefix, class_names):
    """Read the samples of a pair of IDX files, pictures and labels; `prefix` is "train", "t10k" or the like.

    Raises UserError as read_idx does, and where pictures, labels and classes do not fit together.
    """
    image_file = data_dir / f"{prefix}-images-idx3-ubyte.gz"
    label_file = data_dir / f"{prefix}-labels-idx1-ubyte.gz"
    images = read_idx(image_file, 3)
    labels = read_idx(label_file, 1)
    if len(images) != len(labels) or not len(labels):
        raise UserError(f"{image_file} holds {len(images)} pictures, {label_file} {len(labels)} labels: copy both.")
    if labels.max() >= len(class_names):
        most = f"the label {labels.max()}, the largest of {len(class_names)} classes is {len(class_names) - 1}"
        cure = f"correct or delete {data_dir / mnist_forward.CLASSES_FILE}"
        raise UserError(f"{label_file} holds {most}: {cure}.")
    return [(image.tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True)]


# ======== Samples of pictures


class LabelledPicture(NamedTuple):
    """A picture file, and which digits it shows."""

    path: Path
    labels: tuple  # the names of the digits' classes, in reading order
    line: str = ""  # the line of the label file, `labels.txt:3: `, to begin a complaint with; empty without such a file


def list_labelled_pictures(class_names, picture_dir, label_file=None):
    """List the LabelledPictures of a folder, by its sub-folders or by the lecture's text file of `name label` lines."""
    pictures = []
    if not label_file:
        for class_dir in list_class_dirs(picture_dir):
            for path in mnist_app.list_pictures([str(class_dir)]):
                pictures.append(LabelledPicture(Path(path), (normalize(class_dir.name),)))
        return pictures
    for number, line in enumerate(mnist_forward.read_lines(label_file), 1):
        if line.strip():
            path, labels = _split_line(line.strip(), class_names, picture_dir)
            pictures.append(LabelledPicture(path, labels, f"{label_file}:{number}: "))
    return pictures


def list_class_dirs(picture_dir):
    """List the sub-folders of a folder of pictures, sorted; each has the name of a class.

    Sub-folders that hold records are left out: a data folder may lie beside the pictures that it was made from.
    """
    sub_dirs = [path for path in picture_dir.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(path for path in sub_dirs if not any(path.glob("*.tfrecords")))


def normalize(name):
    """The name of a class with accents joined to their letters, as read_lines does it."""
    return unicodedata.normalize("NFC", name)


def _split_line(line, class_names, picture_dir):
    """Split a line of a label file into the picture's path and its labels, the names of classes.

    The lecture's line has one label, `seven.png 7`.  The line of a sheet has several, `sheet.png 0123` or
    `sheet.png house wave`.  The name of a picture may have blanks, and may even end like a label, `my sheet 7.png 7`.
    So the line is tried from its end: one word is taken for labels, then two, then three, until what stands before them
    is the name of a file.  If there is no such file, the last word alone is taken for labels.
    """
    words = line.replace("\t", " ").split(" ")
    for count in range(1, len(words)):
        name = " ".join(words[:-count]).strip()
        for form in ("NFC", "NFD"):  # The file's name may have its accents joined to their letters, or apart.
            path = picture_dir / unicodedata.normalize(form, name)
            if os.path.isfile(path):  # Unlike Path.is_file, it takes a name that is too long for a name of no file.
                return path, _expand(words[-count:], class_names)
    return picture_dir / " ".join(words[:-1]).strip(), _expand(words[-1:], class_names)


def _expand(words, class_names):
    """The labels in some words; a word that is no class but made of one-letter classes, such as `0123`, is several."""
    labels = []
    for word in filter(None, words):
        is_several = word not in class_names and all(letter in class_names for letter in word)
        labels.extend(word if is_several else [word])
    return tuple(labels)


class PreparedPicture(NamedTuple):
    """What became of a LabelledPicture: its samples, or the complaints that say why there are none."""

    samples: tuple = ()
    complaints: tuple = ()
    is_as_it_was: bool = False  # whether its pixels were taken as they are


def read_picture_samples(data_dir, class_names, skip_bad, picture_dir, label_file=None):
    """Read the samples of the pictures of a folder, in the order of the label file or of the sub-folders.

    Args:
      data_dir: the folder for pictures that show which digits were found, where these are not as many as the labels.
      class_names: the names of the classes.
      skip_bad: True leaves bad pictures out and lists them; False refuses all pictures because of one bad one.
      picture_dir: the folder of the pictures, a Path.
      label_file: the lecture's text file of `name label` lines, a Path; None where each sub-folder is a class.

    Returns [(784 bytes, class number), ...].  Raises UserError, which names the bad pictures, unless `skip_bad`, and
    where no picture is good.
    """
    pictures = list_labelled_pictures(class_names, picture_dir, label_file)
    if not label_file:
        _report_passed_over(picture_dir)
    prepare_one = functools.partial(prepare, class_names=class_names, picture_dir=picture_dir, found_dir=data_dir)
    prepared = _show_progress(mnist_app.map_in_threads(prepare_one, pictures), len(pictures), "pictures")
    samples = []
    complaints = {}  # They are the keys, so that each is said once, in order.
    as_they_were = 0
    for one in prepared:
        samples += one.samples
        complaints.update(dict.fromkeys(one.complaints))
        as_they_were += one.is_as_it_was
    _report_complaints(list(complaints), skip_bad)
    if not samples:
        raise UserError(f"{label_file or picture_dir} names no picture that is good.\nNothing was written: add some.")
    as_it_was = f"{IMAGE_SIDE}x{IMAGE_SIDE} pixels, light on dark"
    print(f"{len(samples)} samples of {picture_dir}, {as_they_were} of them taken as they are ({as_it_was})")
    return samples


def _report_passed_over(picture_dir):
    """Print how many files and folders, of which kind, lie in a folder of pictures but are no pictures of a class."""
    class_dirs = list_class_dirs(picture_dir)
    pictures = {path for class_dir in class_dirs for path in mnist_app.list_pictures([str(class_dir)])}
    inside = [path for class_dir in class_dirs for path in class_dir.glob("[!.]*") if str(path) not in pictures]
    beside = [path for path in picture_dir.glob("[!.]*") if path not in class_dirs]
    kinds = collections.Counter("folder" if path.is_dir() else path.suffix or "file" for path in [*inside, *beside])
    if kinds:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        print(f"Passed over in {picture_dir}, since they are no pictures in the sub-folder of a class: {counts}")


def _report_complaints(complaints, skip_bad):
    """Print the complaints about bad pictures, or raise UserError with the first ten of them."""
    if skip_bad:
        print("".join(f"Left out: {complaint}\n" for complaint in complaints), end="")
    elif complaints:
        shown = complaints[:10]
        if len(complaints) > 10:
            shown.append(f"and {len(complaints) - 10} more")
        cure = "Nothing was written: correct or remove these, or leave them out with --skip_bad."
        raise UserError("\n".join([*shown, cure]))


def prepare(one, class_names, picture_dir, found_dir):
    """Prepare a LabelledPicture: returns a PreparedPicture.  The other arguments are as in read_digits."""
    unknown = [label for label in one.labels if label not in class_names]
    if unknown:
        classes = f"the {len(class_names)} classes {class_names[0]} .. {class_names[-1]}"
        return PreparedPicture(complaints=tuple(f"{one.line}{label!r} is none of {classes}" for label in unknown))
    try:
        digits, is_as_it_was = read_digits(one, picture_dir, found_dir)
    except (PictureError, RuntimeError, ValueError) as error:  # also a link to itself, or a null byte in a name
        return PreparedPicture(complaints=(f"{one.line}{one.path} {error}",))
    numbers = map(class_names.index, one.labels)
    return PreparedPicture(tuple(zip(digits, numbers, strict=True)), is_as_it_was=is_as_it_was)


# What lies beside the digit in the picture of a class, and is smaller than this share of it, is no second digit.
_BESIDE = 0.5


def read_digits(one, picture_dir, found_dir):
    """Read the digits of a LabelledPicture.

    A picture of 28x28 pixels that is light on dark is one digit and taken as it is, like the lecture's.  In any other
    the digits are found and prepared as the app does it, but without what needs a trained network (see find_digits).
    There must be as many digits as labels.  A picture in the sub-folder of a class has one label, but something small
    may lie beside its digit; that is left out.

    Args:
      one: the LabelledPicture.
      picture_dir: the folder that the picture must lie in.
      found_dir: the folder for a picture that shows which digits were found, where they are not as many as the labels.

    Returns (a list of 784 bytes for each digit, in reading order; whether the picture was taken as it is).  Raises
    PictureError where the picture lies outside `picture_dir`, can't be read, or shows too few or too many digits.
    """
    path_inside = one.path.resolve()
    if not path_inside.is_relative_to(picture_dir.resolve()):
        raise PictureError(f"leads out of {picture_dir}")
    picture = mnist_app.open_picture(one.path)
    grey = picture.mean(axis=2)
    is_taken_as_it_is = _is_mnist_like(grey)
    if is_taken_as_it_is:
        pixels = grey.reshape(1, INPUT_NODE)
    else:
        found = mnist_app.find_digits(picture)
        pixels = found.pixels
        sizes = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1)
        is_largest = sizes == sizes.max()
        if not one.line and (is_largest | (sizes < _BESIDE * sizes.max())).all():
            pixels = pixels[is_largest][:1]
    if len(pixels) != len(one.labels):
        difference = f"shows {len(pixels)} digits, its label has {len(one.labels)}"
        if is_taken_as_it_is:
            raise PictureError(difference)
        # The whole path gives the name, since pictures in two folders, or of two formats, may have one name.
        name = "-".join(path_inside.relative_to(picture_dir.resolve()).parts)
        raise PictureError(f"{difference}: {_save_found(one.path, found, name, found_dir)} shows which were found")
    return [digit.tobytes() for digit in np.rint(pixels * 255).astype(np.uint8)], is_taken_as_it_is


# A label file may name one picture twice, and two threads must not write the same file at the same time.
_saving = threading.Lock()


def _save_found(path, found, name, found_dir):
    """Save a picture that shows which digits were found in the picture at `path`; returns where it was saved."""
    shown = found_dir / f"{mnist_app.shorten_stem(f'{name}.png')}-found.png"
    with _saving:
        mnist_app.save_picture(mnist_app.draw_found(path, found, 1000), shown)
    return shown


def _is_mnist_like(grey):
    """Whether a picture, float32 [h, w] in 0..1, is like MNIST's: 28x28 pixels, and the ink light on dark.

    The rim decides: the paper is seen there even where the ink covers more than half of the picture.
    """
    rim = [*grey[0], *grey[-1], *grey[:, 0], *grey[:, -1]]
    return grey.shape == (IMAGE_SIDE, IMAGE_SIDE) and grey.max() > 0 and np.median(rim) < 0.5


# ======== The program

SHUFFLE_SEED = 1  # of the order in which training samples are written
TEST_EVERY = 7  # Where no test set is given, every 7th picture of a class is for the test (MNIST: 10,000 of 70,000).
# Each added picture is written this many times, since a few pictures would hardly count beside 80,000.  Chosen with
# training writers who were held out, and with 5,000 of MNIST's training digits: with 200 the network learned less of a
# writer, with 800 hardly more.
ADDED_REPEATS = 400


def split(samples, class_names):
    """Split samples into (training samples, test samples): every TEST_EVERY-th of each class is for the test."""
    train = []
    test = []
    counts = [0] * len(class_names)
    for sample in samples:
        label = sample[1]
        if counts[label] % TEST_EVERY == 0:
            test.append(sample)
        else:
            train.append(sample)
        counts[label] += 1
    if min(counts) < 2:
        rarest = class_names[np.argmin(counts)]
        raise UserError(f"Class {rarest} has {min(counts)} pictures: add some, or give --test PICTURES.")
    return train, test


def shuffle(samples):
    """The samples in random order, the same in every run."""
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(samples))
    return [samples[i] for i in order]


def find_class_names(args):
    """Find the names of the classes.

    Where --train names a folder without a label file, they are the names of its sub-folders.  In any other case they
    are those of the data folder: the names in its classes.txt, or the ten digits.
    """
    if len(args.train) != 1:
        path = args.data / mnist_forward.CLASSES_FILE
        if path.exists():
            print(f"The classes are those of {path}")
        return read_class_names(args.data)
    names = [normalize(path.name) for path in list_class_dirs(args.train[0])]
    if len(names) < 2:
        raise UserError(f"{args.train[0]} holds {len(names)} sub-folders: give one to each class, two or more.")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{args.train[0]} holds two sub-folders that are both named {name}: join them.")
        # A name with a blank at an end, or with a line break in it, would be read back as another name.
        if name != name.strip() or not name.isprintable():
            raise UserError(f"The sub-folder {name!r} can't be a line of {mnist_forward.CLASSES_FILE}: rename it.")
    return names


def read_sources(args, class_names):
    """Read the samples of all sources that the command line names.

    Returns the training samples of each source, {source: samples}; those of --add, each once; and the test samples of
    each test set, {set name: samples}.
    """
    read_pictures = functools.partial(read_picture_samples, args.data, class_names, args.skip_bad)
    if args.train:
        train = read_pictures(*args.train)
        if args.test:
            test = read_pictures(*args.test)
        else:
            train, test = split(shuffle(train), class_names)
        sources = {args.train[0]: train}
        test_sets = {TEST_SET: test}
    else:
        sources = {"MNIST": read_idx_samples(args.data, "train", class_names)}
        test_sets = {TEST_SET: read_idx_samples(args.data, "t10k", class_names)}
        if has_world(args, class_names):
            if not args.mnist_only:
                sources["the world"] = read_idx_samples(args.data, "world-train", class_names)
            test_sets[WORLD_TEST_SET] = read_idx_samples(args.data, "world-t10k", class_names)
    added = []
    for pictures in args.add:
        samples = read_pictures(*pictures)
        added += samples
        source = f"{' '.join(map(str, pictures))} ({ADDED_REPEATS} times each)"
        sources[source] = sources.get(source, []) + ADDED_REPEATS * samples  # The same may be given twice.
    return sources, added, test_sets


def has_world(args, class_names):
    """Whether the data folder has the digits of writers outside the USA; prints a sentence where they are missing."""
    if class_names != mnist_forward.DIGITS:
        return False
    path = args.data / "world-train-images-idx3-ubyte.gz"
    if not path.exists():
        print(f"{path} is missing: the training set is without the digits of writers outside the USA.")
    return path.exists()


def join(sources):
    """Join the training samples of all sources in random order, and print how many come from where."""
    samples = [sample for some in sources.values() for sample in some]
    counts = ", ".join(f"{len(some)} of {source}" for source, some in sources.items())
    print(f"{len(samples)} training pictures: {counts}")
    # The training queue mixes only samples that lie near each other in a file.  Sources that follow each other, or
    # classes that do so in a source, would stay apart.
    return shuffle(samples)


def change_classes(data_dir, class_names):
    """Write the names to classes.txt and remove the records of other classes, unless the names are the same already."""
    if class_names == read_class_names(data_dir):
        return
    remove_records(data_dir, [TRAIN_SET, TEST_SET, WORLD_TEST_SET])
    with mnist_forward.write_whole(data_dir / mnist_forward.CLASSES_FILE) as part:
        part.write_text("\n".join([*class_names, ""]), encoding="utf-8")


def remove_records(data_dir, set_names):
    """Remove the TFRecord files of these sets."""
    for set_name in set_names:
        for path in _list_record_files(data_dir, set_name):
            path.unlink()


def parse_arguments():
    parser = argparse.ArgumentParser(description="Write the TFRecords of a training and a test set.")
    parser.add_argument("--data", type=Path, default=DATA_PATH, help="folder of the records (%(default)s)")
    parser.add_argument("--shards", type=int, default=1, help="files for each set (%(default)s)")
    given = {"nargs": "+", "type": Path, "default": [], "metavar": ("PICTURES", "LABELS")}
    of = "set of a folder of pictures and a text file of `name label` lines, or of sub-folders, one a class"
    parser.add_argument("--train", **given, help=f"make the training {of}")
    parser.add_argument("--test", **given, help=f"make the test {of}; without it every {TEST_EVERY}th of --train")
    parser.add_argument("--add", **given, action="append", help="add such pictures to the training set; repeatable")
    parser.add_argument("--skip_bad", action="store_true", help="leave out bad pictures, and list them")
    parser.add_argument("--mnist_only", action="store_true", help="leave out the digits of writers outside the USA")
    args = parser.parse_args()
    if not 1 <= args.shards <= MOST_SHARDS:
        parser.error(f"--shards must be from 1 to {MOST_SHARDS}")
    if args.mnist_only and args.train:
        parser.error("--mnist_only leaves the world out of the default set: give it without --train")
    if max(len(some) for some in (args.train, args.test, *args.add)) > 2 or (args.test and not args.train):
        parser.error("give --train PICTURES [LABELS], perhaps --test PICTURES [LABELS], and --add PICTURES [LABELS]")
    return args


def require_all_classes(data_dir, samples, class_names):
    """Raise UserError where a class that classes.txt names has no training sample."""
    present = {label for _, label in samples}
    missing = [name for number, name in enumerate(class_names) if number not in present]
    path = data_dir / mnist_forward.CLASSES_FILE
    if missing and path.exists():
        cure = "delete that file if its classes are of another data set, or add pictures"
        raise UserError(f"{path} names {len(class_names)} classes, {missing[0]} has no training picture: {cure}.")


def main():
    args = parse_arguments()
    class_names = find_class_names(args)
    sources, added, test_sets = read_sources(args, class_names)
    train = join(sources)
    if not args.train:
        require_all_classes(args.data, train, class_names)
    with mnist_forward.hold_alone(args.data, "--data", "another writer"):
        change_classes(args.data, class_names)
        mnist_app.write_outlines(args.data, train, added)
        write_tfrecords(args.data, TRAIN_SET, train, class_names, args.shards)
        for set_name, samples in test_sets.items():
            write_tfrecords(args.data, set_name, samples, class_names, args.shards)
        remove_records(args.data, {WORLD_TEST_SET} - test_sets.keys())
        # The contact sheet shows the first samples of each class.  So the digits that were added come first, and each
        # once.
        save_contact_sheet(args.data, list(dict.fromkeys(added + train)), class_names)


if __name__ == "__main__":
    mnist_forward.run(main)
