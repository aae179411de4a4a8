"""Training digits of several sources: MNIST, writers outside the USA, and one's own, with `--add`."""

import shutil
import sys

import make_pictures
import make_world
import numpy as np
import pytest
from conftest import ROOT, TEST_RECORDS, TRAIN_RECORDS, run
from PIL import Image
from test_generateds import batches, idx_folder
from test_preparation import drawn, on_paper
from test_test import event_tags

import mnist_app
import mnist_generateds
from mnist_forward import DIGITS, tf
from mnist_generateds import ADDED_REPEATS, LabelledPicture, list_labelled_pictures

WORLD_RECORDS = "world_test.tfrecords"


def read_samples(path):
    """[(784 bytes, class), ...] of a TFRecord file, in its order."""
    samples = []
    for record in tf.python_io.tf_record_iterator(str(path)):
        feature = tf.train.Example.FromString(record).features.feature
        label = list(feature["label"].int64_list.value)
        samples.append((feature["img_raw"].bytes_list.value[0], label.index(1)))
    return samples


def as_samples(images, labels):
    return [(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]


@pytest.fixture
def sources(tmp_path, digits):
    """(a data folder with 60 digits of MNIST and 20 of the world for training, 20 of MNIST and 10 of the world for the
    test; these four as samples)."""
    ((images, labels), (test_images, test_labels)) = digits
    parts = {
        "train": (images[:60], labels[:60]),
        "world-train": (images[60:80], labels[60:80]),
        "t10k": (test_images[:20], test_labels[:20]),
        "world-t10k": (test_images[20:30], test_labels[20:30]),
    }
    folder = tmp_path / "data"
    folder.mkdir()
    for prefix, part in parts.items():
        idx_folder(folder, *part, prefixes=[prefix])
    return folder, {prefix: as_samples(*part) for prefix, part in parts.items()}


def test_the_world_is_mixed_into_the_training_set_and_has_a_test_set_of_its_own(sources):
    folder, samples = sources
    said = run("mnist_generateds.py", "--data", folder)
    assert "80 training pictures: 60 of MNIST, 20 of the world" in said
    written = read_samples(folder / TRAIN_RECORDS)
    assert sorted(written) == sorted(samples["train"] + samples["world-train"])
    places = [i for i, sample in enumerate(written) if sample in samples["world-train"]]
    assert np.mean(places) == pytest.approx(40, abs=12), "not in a block at the end"
    assert read_samples(folder / TEST_RECORDS) == samples["t10k"], "MNIST's test set stays MNIST's"
    assert read_samples(folder / WORLD_RECORDS) == samples["world-t10k"]
    with np.load(folder / "outlines.npz") as file:
        assert len(file["outlines"]) == 80, "the world's shapes are known, too"


def test_the_world_can_be_left_out(sources, write):
    folder, samples = sources
    write("--data", folder)
    said = write("--data", folder, "--mnist_only")
    assert "60 training pictures: 60 of MNIST\n" in said
    written = read_samples(folder / TRAIN_RECORDS)
    assert sorted(written) == sorted(samples["train"]) and written != samples["train"], "all, in random order"
    assert read_samples(folder / WORLD_RECORDS) == samples["world-t10k"], "mnist_test.py can still read it"


def test_a_clone_without_the_world_trains_on_mnist_and_says_so(sources, write):
    folder, samples = sources
    write("--data", folder)
    (folder / "world-train-images-idx3-ubyte.gz").unlink()
    said = write("--data", folder)
    assert f"{folder}/world-train-images-idx3-ubyte.gz is missing: the training set is without" in said
    assert sorted(read_samples(folder / TRAIN_RECORDS)) == sorted(samples["train"])
    assert not (folder / WORLD_RECORDS).exists(), "the earlier one"


def test_world_files_that_disagree_are_refused_with_both_numbers(sources, digits, write):
    folder, _ = sources
    other = folder / "other"
    other.mkdir()
    ((images, labels), _) = digits
    idx_folder(other, images[:7], labels[:7], prefixes=["world-train"])
    (other / "world-train-labels-idx1-ubyte.gz").rename(folder / "world-train-labels-idx1-ubyte.gz")
    said = write("--data", folder, fails=True)
    assert "world-train-images-idx3-ubyte.gz holds 20 pictures, " in said and "7 labels" in said
    assert not list(folder.glob("*.tfrecords"))


def test_a_network_can_be_evaluated_on_the_world(sources, model, write):
    folder, samples = sources
    write("--data", folder)
    said = run("mnist_test.py", "--data", folder, "--model", model, "--once", "--world")
    right = float(said.split("=")[1]) * len(samples["world-t10k"])
    assert right == pytest.approx(round(right), abs=1e-4), "of ten pictures"
    assert said != run("mnist_test.py", "--data", folder, "--model", model, "--once") or right == 10
    assert "accuracy" in event_tags(model / "world_test"), "not among MNIST's"
    for path in folder.glob("world*"):
        path.unlink()
    said = run("mnist_test.py", "--data", folder, "--model", model, "--once", "--world", status=1)
    assert "world_test.tfrecords is missing" in said and "needs the files world-*.gz" in said


def sheet_of(digits, count, path):
    """Save a photo of a sheet with so many MNIST test digits in rows of ten; returns their labels as a string."""
    (_, (images, labels)) = digits
    rng = np.random.default_rng(3)
    placed = []
    for i in range(count):
        strokes = make_pictures.stroke(images[i], 70)
        placed.append((strokes, 60 + 110 * (i % 10), 60 + 150 * (i // 10)))
    size = (1200, 60 + 150 * -(-count // 10) + 40)
    make_pictures.sheet(rng, size, placed, light=make_pictures.lamp(size)).save(path)
    return "".join(str(label) for label in labels[:count])


def test_a_sheet_with_a_label_of_thirty_digits_makes_thirty_samples(sources, digits, tmp_path, write):
    folder, samples = sources
    own = tmp_path / "own"
    own.mkdir()
    label = sheet_of(digits, 30, own / "my sheet 7.png")
    (tmp_path / "labels.txt").write_text(f"my sheet 7.png {label}\n")
    said = write("--data", folder, "--add", own, tmp_path / "labels.txt")
    assert f"20 of the world, {30 * ADDED_REPEATS} of {own}" in said
    written = read_samples(folder / TRAIN_RECORDS)
    added = [sample for sample in written if sample not in samples["train"] + samples["world-train"]]
    assert len(added) == 30 * ADDED_REPEATS and len(set(added)) == 30
    assert sorted(str(digit) for _, digit in set(added)) == sorted(label)
    (_, (images, labels)) = digits
    for pixels, digit in set(added):
        of_class = images[:30][labels[:30] == digit].reshape(-1, 784)
        likeness = [np.corrcoef(np.frombuffer(pixels, np.uint8), image)[0, 1] for image in of_class]
        assert max(likeness) > 0.75, "a label stays with its digit"
    # The contact sheet begins with the 0s that were added, each once, three times as large, after a margin.
    with Image.open(folder / "contact-sheet.png") as sheet:
        grey = np.asarray(sheet.convert("L"))
    shown = [grey[12:96:3, left : left + 84 : 3].tobytes() for left in range(12, 10 * 108, 108)]
    zeros = {pixels for pixels, digit in added if digit == 0}
    assert set(shown[: len(zeros)]) == zeros and len(set(shown)) == 10
    assert ADDED_REPEATS == 400, "as the README says"


def test_each_added_digit_is_known_however_many_others_there_are(sources, tmp_path, monkeypatch):
    samples = sources[1]["train"]
    monkeypatch.setattr(mnist_app, "_OUTLINE_SAMPLES", 10)
    monkeypatch.setattr(mnist_app, "_OUTLINE_SAMPLES_OF_CLASS", 1)
    mnist_app.write_outlines(tmp_path, samples + 2 * samples[:25], samples[:25])
    with np.load(tmp_path / "outlines.npz") as file:
        known = {outline.tobytes() for outline in file["outlines"]}
    pixels = np.frombuffer(b"".join(pixels for pixels, _ in samples[:25]), np.uint8).reshape(25, 784)
    added = mnist_app._get_outlines(pixels / np.float32(255)).astype(np.float16)
    assert len(known) == 35 and {outline.tobytes() for outline in added} <= known


def test_no_digit_is_its_own_neighbour(tmp_path):
    """Of digits that are all unlike each other, none is strange."""
    rng = np.random.default_rng(3)
    alike = [bytes([50 + i]) + bytes(400) + 100 * b"x" + bytes(283) for i in range(200)]
    unlike = [rng.integers(0, 256, 784, np.uint8).tobytes() for _ in range(50)]
    mnist_app.write_outlines(tmp_path, [(pixels, 0) for pixels in alike + unlike])
    with np.load(tmp_path / "outlines.npz") as file:
        assert file["strange"] > 0.02, "noise is so far from other noise"


def test_of_a_rare_class_as_many_digits_are_known_as_of_a_common_one(digits, tmp_path, monkeypatch):
    ((images, _), _) = digits
    pictures = [image.tobytes() for image in images[:230]]
    samples = [(pixels, 0) for pixels in pictures[:200]] + [(pixels, 1) for pixels in pictures[200:]]
    for most, of_class, known in ((40, 1, [20, 20]), (40, 25, [25, 25]), (100, 1, [50, 30])):
        monkeypatch.setattr(mnist_app, "_OUTLINE_SAMPLES", most)
        monkeypatch.setattr(mnist_app, "_OUTLINE_SAMPLES_OF_CLASS", of_class)
        mnist_app.write_outlines(tmp_path, samples)
        with np.load(tmp_path / "outlines.npz") as file:
            assert np.bincount(file["classes"]).tolist() == known


def test_a_class_of_pictures_that_are_all_alike_makes_no_other_strange(sources, tmp_path):
    (pixels, label), *_ = sources[1]["train"]
    nearly = bytes(max(level - 1, 0) for level in pixels)
    mnist_app.write_outlines(tmp_path, [(pixels, label), (nearly, label)])
    of_picture = np.frombuffer(pixels, np.uint8)[None] / np.float32(255)
    darker = np.maximum(of_picture - 0.02, 0)
    assert mnist_app._measure_strangeness(darker, np.array([label]), tmp_path)[0] < 1


@pytest.mark.parametrize("label", ["1", "1234"])
def test_a_sheet_whose_count_disagrees_is_refused_with_a_picture(sources, digits, tmp_path, label, write):
    folder, _ = sources
    own = tmp_path / "own"
    own.mkdir()
    sheet_of(digits, 3, own / "sheet.png")
    name = own / "sheet.png" if label == "1" else "sheet.png"  # The whole path is as good.
    (tmp_path / "labels.txt").write_text(f"{name} {label}\n")
    said = write("--data", folder, "--add", own, tmp_path / "labels.txt", fails=True)
    assert f"sheet.png shows 3 digits, its label has {len(label)}: {folder}/sheet.png-found.png shows which" in said
    with Image.open(folder / "sheet.png-found.png") as image:
        assert ((np.asarray(image.convert("RGB")) == (255, 0, 0)).all(2)).sum() > 500
    assert not list(folder.glob("*.tfrecords"))


def test_added_pictures_that_are_no_good_are_named_and_nothing_is_written(sources, tmp_path, write):
    folder, _ = sources
    own = tmp_path / "own"
    own.mkdir()
    Image.new("L", (300, 200), "white").save(own / "blank.png")
    seven = on_paper(drawn([(0.1, 0), (0.85, 0), (0.4, 1)]))
    Image.fromarray(np.uint8(seven * 255)).save(own / "seven.png")
    (tmp_path / "labels.txt").write_text("blank.png 3\nseven.png x\n")
    said = write("--data", folder, "--add", own, tmp_path / "labels.txt", fails=True)
    assert f"labels.txt:1: {own}/blank.png shows no digit" in said
    assert "labels.txt:2: 'x' is none of the 10 classes 0 .. 9" in said
    assert not list(folder.glob("*.tfrecords"))


def test_sub_folders_and_several_sources_can_be_added(sources, tmp_path, write):
    folder, _ = sources
    seven = Image.fromarray(np.uint8(on_paper(drawn([(0.1, 0), (0.85, 0), (0.4, 1)])) * 255))
    for name in ("one/7", "two/7"):
        (tmp_path / name).mkdir(parents=True)
        seven.save(tmp_path / name / "a.png")
    said = write("--data", folder, "--add", tmp_path / "one", "--add", tmp_path / "two")
    assert said.count(f"({ADDED_REPEATS} times each)") == 2
    labels = [label for _, label in read_samples(folder / TRAIN_RECORDS)]
    assert len(labels) == 80 + 2 * ADDED_REPEATS
    [(_, classes)] = batches(folder, 20, isTrain=False)
    assert classes.shape == (20, 10)


def test_added_digits_come_first_in_the_contact_sheet(sources, tmp_path, write, monkeypatch):
    folder, samples = sources
    (tmp_path / "own" / "7").mkdir(parents=True)
    Image.fromarray(np.uint8(on_paper(drawn([(0.1, 0), (0.85, 0), (0.4, 1)])) * 255)).save(tmp_path / "own/7/a.png")
    shown = []
    monkeypatch.setattr(mnist_generateds, "save_contact_sheet", lambda _, given, __: shown.extend(given))
    monkeypatch.setattr(mnist_generateds, "ADDED_REPEATS", 1)  # With 400 it would come first by chance.
    write("--data", folder, "--add", tmp_path / "own")
    assert len(shown) == 81 and shown[0] not in samples["train"] + samples["world-train"]


def test_a_line_s_labels_are_the_shortest_end_that_leaves_the_name_of_a_file(tmp_path):
    for name in ("a.png", "a 7.png", "house", "a b.png"):
        (tmp_path / name).touch()
    labels = tmp_path / "labels.txt"

    def listed(line, class_names):
        labels.write_text(line)
        [one] = list_labelled_pictures(class_names, tmp_path, labels)
        assert one.line == f"{labels}:1: "
        return LabelledPicture(one.path.name, one.labels)

    assert listed("a.png 7", DIGITS) == ("a.png", ("7",), "")
    assert listed("a.png 0 12", DIGITS) == ("a.png", ("0", "1", "2"), "")
    assert listed("a 7.png 305", DIGITS) == ("a 7.png", ("3", "0", "5"), "")
    assert listed("a b.png house wave house", ["house", "wave"]) == ("a b.png", ("house", "wave", "house"), "")
    assert listed("gone.png 12", DIGITS) == ("gone.png", ("1", "2"), "")
    assert listed("a.png 1x", DIGITS) == ("a.png", ("1x",), "")
    assert listed("a.png 12", ["1", "2", "12"]) == ("a.png", ("12",), ""), "a class of that name"
    (tmp_path / "sub").mkdir()
    assert listed("sub gone.png 7", DIGITS) == ("sub gone.png", ("7",), ""), "a folder is no picture"


# ---- the files in data/


def test_the_world_s_files_are_whole_and_no_test_digit_is_among_those_for_training():
    train = mnist_generateds.read_idx_samples(ROOT / "data", "world-train", DIGITS)
    test = mnist_generateds.read_idx_samples(ROOT / "data", "world-t10k", DIGITS)
    sets = mnist_generateds.read_idx(ROOT / "data" / "world-t10k-sets-idx1-ubyte.gz", 1)
    assert len(sets) == len(test) and sets.max() < len(make_world.SETS)
    assert {label for _, label in test} == {label for _, label in train} == set(range(10))
    assert len(set(train) & set(test)) <= 1, "but for digits of a few pixels, which may be the same by chance"
    size = sum(path.stat().st_size for path in (ROOT / "data").glob("world-*"))
    assert size <= 8 * 2**20


WORLD = """
from PIL import Image, ImageDraw
def read():
    for writer in "abcdefgh":
        for label in (1, 7):
            image = Image.new("L", (90, 90), "white")
            ImageDraw.Draw(image).line([(30, 15), (60, 15), (40, 75)] if label == 7 else [(45, 15), (45, 75)], 40, 5)
            yield "swiss", writer, label, image
            yield "pendigits", writer, label, [[[0, 0], [30, 0], [10, 60]] if label == 7 else [[0, 0], [0, 60]]]
            yield "optdigits", "opt-windep", label, image
            yield "optdigits", "opt-cv", label, image
"""


def test_make_world_splits_by_writer_and_makes_the_same_bytes_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "world.py").write_text(WORLD)
    contents = []
    for name in ("one", "two"):
        monkeypatch.setattr(sys, "argv", ["make_world.py", str(tmp_path), "--data", str(tmp_path / name)])
        make_world.main()
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    train = mnist_generateds.read_idx_samples(tmp_path / "one", "world-train", DIGITS)
    test = mnist_generateds.read_idx_samples(tmp_path / "one", "world-t10k", DIGITS)
    sets = mnist_generateds.read_idx(tmp_path / "one" / "world-t10k-sets-idx1-ubyte.gz", 1)
    # Two of eight writers of swiss and of pendigits; of optdigits one of two groups, without its 1s.
    assert np.bincount(sets, minlength=6).tolist() == [4, 0, 0, 4, 0, 8]
    assert len(train) == 12 + 12 + 8
    assert [label for _, label in test].count(1) == 4
    for pixels, label in train:
        image = np.frombuffer(pixels, np.uint8).reshape(28, 28)
        assert image.max() > 200 and np.ptp(np.flatnonzero(image.max(1) > 60)) in range(17, 21)
        assert (np.ptp(np.flatnonzero(image.max(0) > 60)) > 5) == (label == 7)
    assert "swiss" in capsys.readouterr().out


def test_two_label_files_of_one_folder_are_both_added(sources, tmp_path, write):
    folder, _ = sources
    own = tmp_path / "own"
    own.mkdir()
    seven = Image.fromarray(np.uint8(on_paper(drawn([(0.1, 0), (0.85, 0), (0.4, 1)])) * 255))
    options = []
    for name in ("a", "b"):
        seven.save(own / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"{name}.png 7\n")
        options += ["--add", own, tmp_path / f"{name}.txt"]
    write("--data", folder, *options, *options[:3])
    assert len(read_samples(folder / TRAIN_RECORDS)) == 80 + 3 * ADDED_REPEATS


def test_sheets_of_one_name_and_lines_of_many_labels_are_told_apart(write, tmp_path):
    sheets = tmp_path / "sheets"
    for folder in ("x", "y"):
        (sheets / folder).mkdir(parents=True)
        shutil.copy(ROOT / "pic" / "number.png", sheets / folder / "a.png")
    labels = tmp_path / "labels.txt"
    labels.write_text(f"x/a.png 2026\ny/a.png 202\nx/a.png {' '.join('0' * 200)}\n")
    said = write("--data", tmp_path / "data", "--train", sheets, labels, fails=True)
    assert "its label has 4" in said and "its label has 3" in said and "its label has 200" in said
    assert {path.name for path in (tmp_path / "data").glob("*-found.png")} == {"x-a.png-found.png", "y-a.png-found.png"}
