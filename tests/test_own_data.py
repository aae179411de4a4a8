"""A data set of one's own, from sub-folders of pictures to an answer by name, and in shards."""

import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
from conftest import ROOT, run
from PIL import Image
from test_generateds import batches, lecture_example, one_hot, write_records
from test_preparation import drawn, on_paper

import mnist_app
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


def test_as_many_classes_of_other_names_are_other_classes(tmp_path):
    for name, classes in (("model", "cat\ndog\n"), ("data", "cat\ncow\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "classes.txt").write_text(classes)
    with pytest.raises(UserError, match=r"2 classes \(cat, dog\).*2 classes \(cat, cow\)"):
        mnist_forward.require_same_classes(tmp_path / "model", tmp_path / "data")


def test_a_sub_folder_that_is_no_class_and_a_bad_picture_are_named(pictures, tmp_path, write):
    more = shutil.copytree(pictures, tmp_path / "more")
    (more / "wave").rename(more / "flag")
    (more / "house" / "text.png").write_text("no picture")
    data = tmp_path / "data"
    said = write("--data", data, "--train", pictures, "--test", more, fails=True)
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
    with pytest.raises(UserError, match="Class d has 1 pictures"):
        mnist_generateds.split([*samples, (bytes(1), 3)], ["a", "b", "c", "d"])


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


def test_files_of_two_writings_are_never_taken_for_one_set(tmp_path, monkeypatch):
    samples = [(bytes([i]) * 784, i % 10) for i in range(100)]
    names = [str(digit) for digit in range(10)]
    mnist_generateds.write_tfrecords(tmp_path, mnist_generateds.TRAIN_SET, samples, names, 4)
    renamed = []

    def replace(part, path):
        if len(renamed) == 2:
            raise KeyboardInterrupt  # the program is killed between two files
        renamed.append(path)
        os.replace(part, path)

    monkeypatch.setattr("pathlib.Path.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        mnist_generateds.write_tfrecords(tmp_path, mnist_generateds.TRAIN_SET, samples[::-1], names, 4)
    with pytest.raises(UserError, match="2 files of mnist_train, no whole set"):
        mnist_generateds.find_records(tmp_path, mnist_generateds.TRAIN_SET)


def test_the_contact_sheet_shows_ten_samples_of_each_class_under_its_name(tmp_path, monkeypatch):
    drawn_cells = []

    def draw_digit(pixels, caption):
        drawn_cells.append((round(float(pixels[0]) * 255), caption))
        return Image.new("RGB", (84, 100))

    monkeypatch.setattr(mnist_app, "draw_digit", draw_digit)
    samples = [(bytes([i]) * 784, i % 3) for i in range(40)]
    mnist_generateds.save_contact_sheet(tmp_path, samples, ["a", "b", "c"])
    assert drawn_cells == [(i, name) for number, name in enumerate("abc") for i in range(number, 30, 3)]


def save_picture(path, *strokes, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(on_paper(drawn(*strokes, **options)) * 255)).save(path)


def test_bad_pictures_are_left_out_and_listed_on_request(tmp_path, write):
    for i in range(3):
        save_picture(tmp_path / "all" / "cross" / f"{i}.png", *SHAPES["cross"])
        save_picture(tmp_path / "all" / "wave" / f"{i}.png", *SHAPES["wave"])
    (tmp_path / "all" / "wave" / "text.png").write_text("no picture")
    Image.new("L", (300, 200), "white").save(tmp_path / "all" / "cross" / "blank.png")
    given = ["--data", tmp_path / "data", "--train", tmp_path / "all"]
    said = write(*given, fails=True)
    assert re.search(r"blank\.png shows no digit.*\n.*text\.png can't be read.*\nNothing was written", said)
    assert not (tmp_path / "data").exists()
    said = write(*given, "--skip_bad")
    assert [line.rpartition("/")[2].split()[0] for line in said.splitlines() if line.startswith("Left out: ")] == [
        "blank.png",
        "text.png",
    ]
    assert "cross: 2, wave: 2" in said and "cross: 1, wave: 1" in said


def test_what_lies_among_the_pictures_is_counted_and_photos_that_can_t_be_read_are_named(tmp_path, write):
    for name in ("cross", "wave"):
        for i in range(2):
            save_picture(tmp_path / "all" / name / f"{i}.png", *SHAPES[name])
    save_picture(tmp_path / "all" / "beside.png", *SHAPES["wave"])
    (tmp_path / "all" / "cross" / "notes.txt").write_text("not a picture")
    (tmp_path / "all" / "cross" / "inner").mkdir()
    (tmp_path / "all" / ".hidden").mkdir()
    data = tmp_path / "all" / "data"
    for _ in range(2):  # The second time the data folder lies among the sub-folders.
        said = write("--data", data, "--train", tmp_path / "all")
    assert mnist_forward.read_class_names(data) == ["cross", "wave"]
    assert f"Passed over in {tmp_path / 'all'}, since they are no pictures in the sub-folder of a class: " in said
    assert "1 .png, 1 .txt, 2 folder\n" in said

    (tmp_path / "all" / "wave" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "all" / "zigzag").mkdir()
    said = write("--data", data, "--train", tmp_path / "all", fails=True)
    assert "IMG_1.HEIC can't be read (Pillow does not know .heic): save it as JPEG" in said
    assert f"{tmp_path / 'all' / 'zigzag'} is a folder and no picture: " in said


def test_the_rim_tells_whether_28x28_pixels_are_light_on_dark(tmp_path):
    down, across = np.mgrid[-13.5:14, -13.5:14]
    disc = np.uint8(255 * (down**2 + across**2 < 12.5**2))
    assert disc.mean() > 0.55 * 255
    for name, image, expected in (("light", disc, True), ("dark", 255 - disc, False), ("half", disc // 2, True)):
        path = tmp_path / f"{name}.png"
        Image.fromarray(image).save(path)
        one = mnist_generateds.LabelledPicture(path, ("o",))
        [pixels], is_as_it_was = mnist_generateds.read_digits(one, tmp_path, tmp_path)
        assert is_as_it_was == expected
        if expected:
            assert pixels == image.tobytes()


def test_of_a_class_s_picture_the_largest_digit_is_taken_and_a_label_file_is_held_to(tmp_path):
    small = drawn(*SHAPES["wave"], box=(20, 60, 90, 170))
    large = drawn(*SHAPES["cross"], box=(150, 60, 300, 220))
    Image.fromarray(np.uint8(on_paper(np.maximum(small, large)) * 255)).save(tmp_path / "two.png")
    of_folder = mnist_generateds.LabelledPicture(tmp_path / "two.png", ("cross",))
    [pixels], _ = mnist_generateds.read_digits(of_folder, tmp_path, tmp_path)
    expected = mnist_app.find_digits(on_paper(large)).pixels[0]
    assert np.corrcoef(np.frombuffer(pixels, np.uint8), expected)[0, 1] > 0.99
    with pytest.raises(mnist_app.PictureError, match="shows 2 digits, its label has 1: .*two.png-found.png"):
        mnist_generateds.read_digits(of_folder._replace(line="labels.txt:1: "), tmp_path, tmp_path)
    both = np.maximum(drawn(*SHAPES["cross"], box=(20, 60, 130, 220)), drawn(*SHAPES["cross"], box=(180, 60, 300, 220)))
    Image.fromarray(np.uint8(on_paper(both) * 255)).save(tmp_path / "two.png")
    with pytest.raises(mnist_app.PictureError, match="shows 2 digits, its label has 1"):
        mnist_generateds.read_digits(of_folder, tmp_path, tmp_path)


def test_pictures_are_prepared_only_a_little_ahead():
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i

    for count, result in enumerate(mnist_app.map_in_threads(lambda i: 2 * i, items()), 1):
        assert result == 2 * (count - 1)
        assert len(taken) - count <= 2 * mnist_app.count_processors()


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    for is_terminal, expected in ((True, "\r100 of 150 pictures\r150 of 150 pictures\n"), (False, "")):
        monkeypatch.setattr(sys.stdout, "isatty", lambda answer=is_terminal: answer)
        assert list(mnist_generateds._show_progress(range(150), 150, "pictures")) == list(range(150))
        assert capsys.readouterr().out == expected


def test_of_many_bad_pictures_ten_are_named(tmp_path, write):
    for i in range(13):
        (tmp_path / "all" / "cross").mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / "cross" / f"{i:02d}.png").write_text("no picture")
    save_picture(tmp_path / "all" / "wave" / "0.png", *SHAPES["wave"])
    lines = write("--data", tmp_path / "data", "--train", tmp_path / "all", fails=True).splitlines()
    assert len(lines) == 12 and "09.png" in lines[9] and lines[10] == "and 3 more"


def test_records_of_other_classes_are_removed_and_no_sheet_grows_without_end(tmp_path, monkeypatch):
    names = [f"class {number}" for number in range(150)]
    mnist_generateds.write_tfrecords(tmp_path, mnist_generateds.WORLD_TEST_SET, [(bytes(784), 0)], ["a", "b"])
    mnist_generateds.change_classes(tmp_path, names)
    assert not list(tmp_path.glob("*.tfrecords")) and mnist_forward.read_class_names(tmp_path) == names
    mnist_generateds.write_tfrecords(tmp_path, mnist_generateds.TEST_SET, [(bytes(784), 0)], names)
    mnist_generateds.change_classes(tmp_path, names)
    assert [path.name for path in tmp_path.glob("*.tfrecords")] == ["mnist_test.tfrecords"], "of the same classes"
    drawn_cells = []
    monkeypatch.setattr(mnist_app, "draw_digit", lambda _, name: drawn_cells.append(name) or Image.new("L", (9, 9)))
    mnist_generateds.save_contact_sheet(tmp_path, [(bytes(784), i) for i in range(150)], names)
    assert drawn_cells == names[:100]


@pytest.mark.parametrize(
    "arguments",
    [["--test", "a"], ["--train", "a", "b", "c"], ["--add", "a", "b", "c"], ["--train", "a", "--test", "a", "b", "c"]],
)
def test_a_command_line_that_can_t_be_meant_is_refused(write, capsys, arguments):
    with pytest.raises(SystemExit) as end:
        write(*arguments)
    assert end.value.code == 2 and "give --train PICTURES [LABELS]" in capsys.readouterr().err


def test_the_world_can_t_be_left_out_of_a_set_without_it(write, capsys):
    with pytest.raises(SystemExit) as end:
        write("--train", "a", "--mnist_only")
    assert end.value.code == 2 and "give it without --train" in capsys.readouterr().err
