"""A data set of one's own, from sub-folders of pictures to an answer by name, and in shards."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from conftest import ROOT, run
from PIL import Image
from test_generateds import batches, lecture_example, one_hot, write_records
from test_preparation import drawn, on_paper

import mnist_forward
import mnist_generateds
import mnist_test
from mnist_forward import UserError, tf

SHAPES = {
    "cross": [[(0, 0), (1, 1)], [(1, 0), (0, 1)]],
    "house": [[(0, 0.45), (0.5, 0), (1, 0.45), (1, 1), (0, 1), (0, 0.45)]],
    "wave": [[(0, 0.5), (0.25, 0), (0.5, 1), (0.75, 0), (1, 0.5)]],
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with a sub-folder of fourteen drawings for each of the shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    for name, strokes in SHAPES.items():
        (folder / name).mkdir()
        for i in range(14):
            left, top = rng.integers(60, 120, 2)
            wide, high = rng.integers(100, 140, 2)
            picture = on_paper(drawn(*strokes, box=(left, top, left + wide, top + high)))
            Image.fromarray(np.uint8(picture * 255)).save(folder / name / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory, pictures):
    """(data folder, model folder, what the writer said) of the shapes, by the README's commands."""
    folder = tmp_path_factory.mktemp("shapes")
    said = run("mnist_generateds.py", "--data", folder / "data", "--train", pictures)
    given = ["--data", folder / "data", "--model", folder / "model", "--steps", 300, "--save_every", 300]
    said_by_trainer = run("mnist_backward.py", *given)
    assert "test accuracy = 1\n" in said_by_trainer
    return folder / "data", folder / "model", said


def test_sub_folders_become_classes_with_a_test_set_split_off(shapes):
    data, _, said = shapes
    assert (data / "classes.txt").read_text().split() == ["cross", "house", "wave"]
    assert said.count("cross: 12, house: 12, wave: 12") == said.count("cross: 2, house: 2, wave: 2") == 1
    [(pixels, labels)] = batches(data, 10, isTrain=False)
    assert pixels.shape == (6, 784) and labels.shape == (6, 3)
    assert sorted(labels.argmax(1)) == [0, 0, 1, 1, 2, 2]
    with Image.open(data / "contact-sheet.png") as sheet:
        assert sheet.size[0] == 10 * 108, "ten of each class in a row, with a margin round each"


def test_the_app_answers_with_the_name_of_the_class(shapes, pictures):
    _, model, _ = shapes
    given = [pictures / "house" / "03.png", pictures / "wave" / "05.png"]
    said = run("mnist_app.py", "--model", model, "--json", *given)
    assert [json.loads(line)["digits"] for line in said.splitlines()] == ["house", "wave"]


def test_other_classes_are_refused_with_both_numbers(shapes, model):
    data, own_model, _ = shapes
    said = run("mnist_backward.py", "--data", data, "--model", model, "--steps", 700, status=1)
    assert "was trained for 10 classes" in said and "holds 3 classes (cross, house, wave)" in said
    with pytest.raises(UserError, match="was trained for 10 classes"):
        mnist_test.test(model, data, once=True)
    copy = shutil.copytree(own_model, own_model.with_name("nameless"))
    (copy / "classes.txt").unlink()
    said = run("mnist_app.py", "--model", copy, ROOT / "pic" / "1.png", status=1)
    assert "is another network" in said and "[500, 3] there and [500, 10] here" in said


def test_a_sub_folder_that_is_no_class_and_a_bad_picture_are_named(pictures, tmp_path):
    more = shutil.copytree(pictures, tmp_path / "more")
    (more / "wave").rename(more / "flag")
    (more / "house" / "text.png").write_text("no picture")
    data = tmp_path / "data"
    said = run("mnist_generateds.py", "--data", data, "--train", pictures, "--test", more, status=1)
    assert (
        said.count("'flag' is none of the 3 classes cross .. wave") == 1
        and "text.png can't be read (cannot identify image)" in said
    )
    assert not data.exists()


@pytest.mark.parametrize("name", [b" house", b"a\nhouse", b"h\xe4user"])
def test_a_sub_folder_whose_name_is_no_line_is_refused_and_the_records_stay(tmp_path, monkeypatch, name):
    mnist_generateds.write_tfrecords(tmp_path, mnist_generateds.TRAIN_SET, [(bytes(784), 0)], ["a", "b"])
    for folder in (b"wave", name):
        os.makedirs(os.path.join(os.fsencode(tmp_path), b"pictures", folder))
    monkeypatch.setattr(
        sys, "argv", ["mnist_generateds.py", "--data", str(tmp_path), "--train", str(tmp_path / "pictures")]
    )
    with pytest.raises(UserError, match=r"can't be a line of classes\.txt: rename it"):
        mnist_generateds.main()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mnist_train.tfrecords", "pictures"]


def test_every_seventh_of_a_class_is_for_the_test_and_one_of_a_small_class():
    samples = [(bytes([i]), label) for label, count in enumerate((14, 2, 8)) for i in range(count)]
    train, test = mnist_generateds.split(samples, ["a", "b", "c"])
    assert sorted(train + test) == sorted(samples)
    assert np.bincount([label for _, label in test]).tolist() == [2, 1, 2]
    with pytest.raises(UserError, match="Class d has 0 pictures"):
        mnist_generateds.split(samples, ["a", "b", "c", "d"])


def test_a_list_of_classes_in_another_code_is_refused(tmp_path):
    (tmp_path / "classes.txt").write_text("Äpfel\nBirnen\n", encoding="latin-1")
    with pytest.raises(UserError, match="save it as UTF-8"):
        mnist_forward.read_class_names(tmp_path)


@pytest.mark.parametrize("text", ["", "one\n", "a\nb\na\n"])
def test_a_list_of_classes_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=r"classes\.txt must hold two or more names, each once"):
        mnist_forward.read_class_names(tmp_path)


def test_shards_hold_every_record_once_and_training_mixes_them(tmp_path):
    samples = [(bytes([i]) * 784, i % 10) for i in range(100)]
    names = [str(digit) for digit in range(10)]
    (tmp_path / "mnist_train-old.tfrecords").touch()  # somebody else's
    for shards in (1, 4, 3):  # each in place of those before
        for name in (mnist_generateds.TRAIN_SET, mnist_generateds.TEST_SET):
            mnist_generateds.write_tfrecords(tmp_path, name, samples, names, shards)
        assert len(list(tmp_path.glob("*.tfrecords"))) == 2 * shards + 1
        got = batches(tmp_path, 30, isTrain=False)
        values = np.concatenate([np.rint(pixels[:, 0] * 255) for pixels, _ in got])
        assert sorted(values) == list(range(100))
    assert mnist_generateds.find_records(tmp_path, mnist_generateds.TRAIN_SET)[1] == 100
    for task in (0, 1, 2):
        got = batches(tmp_path, 30, 5, task=task, tasks=3)
        values = {int(value) % 3 for pixels, _ in got for value in np.rint(pixels[:, 0] * 255)}
        assert values == {task}, "each machine reads its own shards"


@pytest.mark.parametrize("names", [("-00000-of-00003", "-00002-of-00003"), ("-00000-of-00002", "")])
def test_a_missing_shard_and_files_of_two_sets_are_refused(tmp_path, names):
    for name in names:
        write_records(tmp_path / f"mnist_train{name}.tfrecords", [lecture_example(bytes(784), one_hot(1))])
    with tf.Graph().as_default(), pytest.raises(UserError, match="2 files of mnist_train, no whole set"):
        mnist_generateds.get_tfrecord(2, data_dir=tmp_path)
