"""The records: written from both sources, read back through the queues, refused when they are no good."""

import gzip
import random
import struct

import long_writes
import numpy as np
import pytest
from conftest import TEST, TEST_RECORDS, TRAIN, TRAIN_RECORDS, run, run_with_small_disk
from PIL import Image

import mnist_backward
import mnist_generateds
from mnist_forward import UserError, tf
from mnist_generateds import count_records, get_tfrecord


def lecture_example(pixels, one_hot):
    """A record as the lecture's program writes it."""
    feature = {
        "img_raw": tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes(pixels)])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=one_hot)),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_records(path, records):
    with tf.python_io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def one_hot(label):
    return [int(i == label) for i in range(10)]


def batches(folder, num, count=None, **options):
    """`count` batches from get_tfrecord, or all until the data end: a list of (pictures, labels)."""
    with tf.Graph().as_default(), tf.Session() as sess:
        batch = get_tfrecord(num, data_dir=folder, **options)
        sess.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
        coord = tf.train.Coordinator()
        threads = tf.train.start_queue_runners(sess=sess, coord=coord)
        got = []
        try:
            while count is None or len(got) < count:
                got.append(sess.run(batch))
        except tf.errors.OutOfRangeError:
            assert count is None
        finally:
            coord.request_stop()
            coord.join(threads)
        return got


# ---- writing


def test_records_of_the_idx_files_hold_the_lecture_s_two_features(tmp_path, digits):
    for prefix, (images, labels) in zip(("train", "t10k"), digits, strict=True):
        idx_folder(tmp_path, images[:5], labels[:5], prefixes=[prefix])
    run("mnist_generateds.py", "--data", tmp_path)
    for name, (images, labels) in zip((TRAIN_RECORDS, TEST_RECORDS), digits, strict=True):
        written = []
        for record in tf.python_io.tf_record_iterator(str(tmp_path / name)):
            feature = tf.train.Example.FromString(record).features.feature
            assert sorted(feature) == ["img_raw", "label"]
            [pixels] = feature["img_raw"].bytes_list.value
            written.append((pixels, list(feature["label"].int64_list.value)))
        expected = [(image.tobytes(), one_hot(label)) for image, label in zip(images[:5], labels[:5], strict=True)]
        assert sorted(written) == sorted(expected)
        assert (written == expected) == (name == TEST_RECORDS), "only the test set keeps its order"


def idx_folder(folder, images, labels, prefixes=("train", "t10k")):
    """A data folder whose sets of these prefixes are all these pictures."""
    for prefix in prefixes:
        header = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        header = struct.pack(">4BI", 0, 0, 8, 1, len(labels))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + bytes(labels)))
    return folder


IMAGES = "train-images-idx3-ubyte.gz"
LABELS = "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("name", "damage", "sentence"),
    [
        (IMAGES, None, "is missing"),
        (IMAGES, lambda whole: b"", "no whole gzipped IDX file"),
        (IMAGES, lambda whole: whole[:-20], "no whole gzipped IDX file"),
        (IMAGES, lambda whole: whole[:40] + b"\0\1\2" + whole[43:], "no whole gzipped IDX file"),
        (IMAGES, lambda whole: b"plain text", "no whole gzipped IDX file"),
        (IMAGES, lambda whole: gzip.compress(b"\0\0\x08\x01" + gzip.decompress(whole)[4:]), "magic number is 0x801"),
        (IMAGES, lambda whole: gzip.compress(gzip.decompress(whole)[:-1]), "array of size 3919 into shape"),
        (IMAGES, lambda whole: gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 5, 7, 112) + bytes(3920)), "7, 112"),
        (LABELS, lambda whole: gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 4) + bytes(4)), "5 pictures, .* 4 labels"),
        (LABELS, lambda whole: gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 5) + bytes([9, 9, 9, 9, 10])), "label 10"),
    ],
)
def test_a_bad_idx_file_is_refused(tmp_path, digits, name, damage, sentence):
    (_, (images, labels)) = digits
    path = idx_folder(tmp_path, images[:5], labels[:5]) / name
    whole = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(damage(whole))
    with pytest.raises(UserError, match=sentence):
        mnist_generateds.read_idx_samples(tmp_path, "train", DIGITS)


def test_idx_files_of_no_picture_are_refused(tmp_path, digits):
    (_, (images, labels)) = digits
    with pytest.raises(UserError, match="holds 0 pictures"):
        mnist_generateds.read_idx_samples(idx_folder(tmp_path, images[:0], labels[:0]), "train", DIGITS)


def picture_folder(folder, digits):
    """The lecture's form: a light-on-dark JPEG, a photo-like PNG, a dark-on-light GIF, and the lines that name them.

    One of the lines has a tabulator in place of the blank.
    """
    (_, (images, _)) = digits
    folder.mkdir()
    Image.fromarray(images[0]).save(folder / "0_7.jpg", quality=95)
    Image.fromarray(255 - images[2]).save(folder / "dark.gif")
    large = 255 - np.pad(np.kron(images[1], np.ones((6, 6), np.uint8)), ((40, 40), (100, 60)))
    Image.fromarray(large).save(folder / "a two.png")
    return "0_7.jpg 7\na two.png 2\ndark.gif\t1\n"


def test_the_lecture_s_form_takes_28x28_as_it_is_and_prepares_the_rest(tmp_path, digits, write):
    lines = picture_folder(tmp_path / "pictures", digits)
    labels = tmp_path / "labels.txt"
    labels.write_text("\ufeff" + lines.replace("\n", "\r\n") + "\r\n", encoding="utf-8", newline="")
    source = [tmp_path / "pictures", labels]
    said = write("--data", tmp_path / "new", "--train", *source, "--test", *source)
    assert f"3 samples of {source[0]}, 1 of them taken as they are (28x28 pixels, light on dark)" in said
    [(pictures, classes)] = batches(tmp_path / "new", 10, isTrain=False)
    assert classes.argmax(1).tolist() == [7, 2, 1]
    with Image.open(tmp_path / "pictures" / "0_7.jpg") as image:
        np.testing.assert_array_equal(np.rint(pictures[0] * 255), np.asarray(image).ravel())
    for i in (1, 2):
        ink = digits[1][0][i].ravel() / 255
        assert np.corrcoef(pictures[i], ink)[0, 1] > 0.8, "brought back to the digit that it was made from"


def test_bad_lines_are_named_and_nothing_is_written(tmp_path, digits, write):
    lines = picture_folder(tmp_path / "pictures", digits)
    Image.fromarray(digits[1][0][2]).save(tmp_path / "secret.png")  # good, but not in the folder
    (tmp_path / "pictures" / "text.png").write_text("no picture")
    bad = [
        "text.png 1",
        "missing.png 3",
        "0_7.jpg 10",
        "0_7.jpg seven",
        "0_7.jpg",
        "../secret.png 1",
        "0_7.jpg -1",
        "0_7.jpg ３",
    ]
    labels = tmp_path / "labels.txt"
    labels.write_text(lines + "\n" + "\n".join(bad), encoding="utf-8")
    source = [tmp_path / "pictures", labels]
    said = write("--data", tmp_path / "new", "--train", *source, "--test", *source, fails=True)
    for number in range(5, 5 + len(bad)):
        assert f"labels.txt:{number}: " in said
    assert "secret.png leads out of" in said and "remove these, or leave them out with --skip_bad" in said
    assert said.count("labels.txt:") == len(bad)
    assert not (tmp_path / "new").exists()


def test_killed_while_writing_leaves_nothing_half_under_a_final_name():
    assert long_writes.kills(2, seed=3) == []


def test_a_full_disk_leaves_the_earlier_records_whole(tmp_path, digits):
    (_, (images, labels)) = digits
    idx_folder(tmp_path, images[:300], labels[:300])
    run("mnist_generateds.py", "--data", tmp_path)
    said = run_with_small_disk("mnist_generateds.py", "--data", tmp_path, limit=100_000)
    assert TRAIN_RECORDS in said and "make room" in said
    assert count_records(tmp_path / TRAIN_RECORDS) == count_records(tmp_path / TEST_RECORDS) == 300
    assert not list(tmp_path.glob("*.part"))


# ---- reading


def test_the_test_set_comes_once_in_file_order(data, digits):
    (_, (images, labels)) = digits
    got = batches(data, 150, isTrain=False)
    assert [len(pictures) for pictures, _ in got] == [150, 150, 150, 50]
    pictures, classes = (np.concatenate(part) for part in zip(*got, strict=True))
    assert pictures.dtype == classes.dtype == np.float32
    np.testing.assert_allclose(pictures, images[:TEST].reshape(TEST, 784) / 255, atol=1e-6)
    np.testing.assert_array_equal(classes, np.eye(10)[labels[:TEST]])


def test_training_batches_are_shuffled_pictures_with_their_own_labels(data, digits):
    ((images, labels), _) = digits
    label_of = {images[i].tobytes(): labels[i] for i in range(TRAIN)}
    got = batches(data, 200, 20)
    seen = []
    for pictures, classes in got:
        assert pictures.shape == (200, 784)
        for picture, one in zip(np.rint(pictures * 255).astype(np.uint8), classes, strict=True):
            assert label_of[picture.tobytes()] == one.argmax()
            seen.append(picture.tobytes())
    first = [image.tobytes() for image in images[:200]]
    assert len(set(seen[:200]) & set(first)) < 100, "not in file order"
    assert len(set(seen)) > 0.5 * TRAIN


def test_records_written_by_hand_are_read(tmp_path):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (3, 784), np.uint8)
    write_records(tmp_path / TEST_RECORDS, [lecture_example(p, one_hot(i)) for i, p in enumerate(pixels)])
    [(pictures, classes)] = batches(tmp_path, 3, isTrain=False)
    np.testing.assert_allclose(pictures, pixels / 255, atol=1e-6)
    np.testing.assert_array_equal(classes, np.eye(10)[:3])


DIGITS = [str(digit) for digit in range(10)]
GOOD = [lecture_example(bytes(784), one_hot(3))] * 3


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (lecture_example(bytes(783), one_hot(3)), "record 4, .img_raw. is not 784 bytes"),
        (lecture_example(bytes(784), [1] * 10), "record 4, .label. is not 10 int64, one-hot"),
        (lecture_example(bytes(784), [0] * 10), "record 4, .label."),
        (lecture_example(bytes(784), one_hot(3) + [0]), "record 4, .label."),
        (tf.train.Example().SerializeToString(), "record 4, .img_raw."),
        (b"no tf.train.Example", "record 4"),
    ],
)
def test_a_foreign_record_is_refused_by_number(tmp_path, bad, sentence):
    write_records(tmp_path / TRAIN_RECORDS, [*GOOD, bad])
    with pytest.raises(UserError, match=sentence + ".*write it again with `python mnist_generateds.py`"):
        get_tfrecord(2, data_dir=tmp_path)


def test_a_damaged_file_is_refused_before_a_queue_is_built(tmp_path):
    path = tmp_path / TRAIN_RECORDS
    write_records(path, GOOD)
    whole = path.read_bytes()
    one = len(whole) // 3
    rng = random.Random(1)
    places = [place for place in rng.sample(range(1, len(whole)), 200) if place % one]
    cases = [whole[:place] for place in places]
    cases += [whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :] for place in places]
    for case in [b"", b"a text file\n" * 20, *cases]:
        path.write_bytes(case)
        with (
            tf.Graph().as_default() as graph,
            pytest.raises(UserError, match=r"is no good at record [1-4], "),
        ):
            get_tfrecord(2, data_dir=tmp_path)
        assert not graph.get_operations()


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_missing_file_and_a_folder_are_refused_with_the_cure(tmp_path, make):
    make(tmp_path / TEST_RECORDS)
    with pytest.raises(UserError, match=f"{TEST_RECORDS} is missing: .*python mnist_generateds.py"):
        get_tfrecord(2, isTrain=False, data_dir=tmp_path)


# ---- distortions

STRENGTH = {"rotation": 10, "shear": 0.2, "scale": 0.1, "shift": 1.5, "elastic": 0.7}
NONE = dict.fromkeys(STRENGTH, 0.0)


def by(strength):
    """A function that distorts batches, each picture by a field of its own."""
    return lambda img: mnist_backward.warp(img, mnist_backward.random_field(img.shape[0], **strength))


def test_fields_are_as_strong_as_set():
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.set_random_seed(1)

        def drawn(**strength):
            return sess.run(mnist_backward.random_field(4000, **{**NONE, **strength}))

        shifts = drawn(shift=2.0)
        assert shifts.shape == (4000, 2, 28, 28)
        np.testing.assert_allclose(shifts, np.broadcast_to(shifts[:, :, :1, :1], shifts.shape), atol=1e-4)
        assert np.abs(shifts).mean() == pytest.approx(1.0, rel=0.03), "evenly from -2 to 2"
        assert np.abs(shifts.mean(axis=(0, 2, 3))).max() < 0.1, "to both sides, and up and down"

        rotation = drawn(rotation=10)
        corner = np.linalg.norm(rotation[:, :, 0, 0], axis=1)  # 13.5 pixels to the left of and above the centre
        expected = 2 * np.sin(np.radians(np.linspace(0, 10, 1001)) / 2).mean() * 13.5 * 2**0.5
        assert corner.mean() == pytest.approx(expected, rel=0.03)

        places = rotation + np.mgrid[:28, :28]
        right = places[:, :, 0, 27] - places[:, :, 0, 0]
        down = places[:, :, 27, 0] - places[:, :, 0, 0]
        for side in (right, down, (right + down) / 2**0.5):  # A rotation keeps all distances.
            np.testing.assert_allclose(np.linalg.norm(side, axis=1), 27, rtol=1e-4)
        angle = np.degrees(np.arctan2(right[:, 0], right[:, 1]))
        assert abs(angle.mean()) < 0.5 and angle.min() < -9.5 and angle.max() > 9.5, "to both sides"

        shear = drawn(shear=0.2)
        assert np.abs(shear).max() == pytest.approx(0.2 * 13.5, rel=0.01)
        at_corner = shear[:, 1, 0, 0]
        assert abs(at_corner.mean()) < 0.15 and at_corner.min() < -2 and at_corner.max() > 2
        assert np.abs(drawn(scale=0.1)).max() == pytest.approx(13.5 / 0.9 - 13.5, rel=0.01)

        bent = drawn(elastic=0.7)
        assert bent[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].std() == pytest.approx(0.7, rel=0.03), "on the grid's points"
        step = np.abs(np.diff(bent, axis=2)).mean()
        assert step < 0.5 * np.abs(bent).mean(), "smooth"


def test_warp_samples_bilinearly_and_every_third_picture_shares_one_of_three_fields():
    rng = np.random.default_rng(4)
    img = rng.random([6, 28, 28], np.float32)
    field = rng.normal(0, 3, [3, 2, 28, 28]).astype("f")
    with tf.Graph().as_default(), tf.Session() as sess:
        got = sess.run(mnist_backward.warp(tf.constant(img.reshape(6, 784)), tf.constant(field)))
    for i in range(6):
        y, x = np.clip(np.mgrid[:28, :28] + field[i % 3], 0, 27 - 1e-3)
        top, left = y.astype(int), x.astype(int)
        down, right = y - top, x - left
        expected = (1 - down) * ((1 - right) * img[i, top, left] + right * img[i, top, left + 1]) + down * (
            (1 - right) * img[i, top + 1, left] + right * img[i, top + 1, left + 1]
        )
        np.testing.assert_allclose(got[i].reshape(28, 28), expected, atol=1e-3)


def test_distortions_of_no_strength_change_nothing(data, digits):
    ((images, _), _) = digits
    known = {image.tobytes() for image in images[:TRAIN]}
    [(pictures, _)] = batches(data, 200, 1, distort=by(NONE))
    # 1e-3 of a pixel short of the last row, so that each pixel has a neighbour: half a grey level at the most
    assert all(np.rint(picture * 255).astype(np.uint8).tobytes() in known for picture in pictures)


def test_distorted_batches_keep_shape_range_and_labels(data, digits):
    ((images, labels), _) = digits
    [(pictures, classes)] = batches(data, 40, 1, distort=by({name: 0.3 * most for name, most in STRENGTH.items()}))
    assert pictures.shape == (40, 784)
    assert pictures.min() >= 0 and pictures.max() <= 1
    known = images[:TRAIN].reshape(TRAIN, 784).astype("f") / 255
    nearest = ((pictures[:, None] - known[None]) ** 2).sum(2).argmin(1)
    assert (labels[nearest] == classes.argmax(1)).mean() > 0.9, "a label stays with its picture"
    assert not (pictures == known[nearest]).all(1).any(), "every picture was moved"


def test_test_batches_are_never_distorted(data, digits):
    (_, (images, _)) = digits
    got = batches(data, TEST, isTrain=False, distort=by(STRENGTH))
    np.testing.assert_allclose(got[0][0], images[:TEST].reshape(TEST, 784) / 255, atol=1e-6)
