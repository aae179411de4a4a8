"""Whatever is handed in as a picture: every mode and format that Pillow writes, and what is no picture at all."""

import resource
import struct
import time
import zlib

import long_pictures
import numpy as np
import pytest
from conftest import ROOT
from PIL import EpsImagePlugin, Image, ImageOps

from mnist_app import PictureError, open_picture, open_with_scale, pre_pic


@pytest.fixture(scope="module")
def seven():
    """(a photo of a 7 as a Pillow image, what the network is shown of it)."""
    with Image.open(ROOT / "pic" / "7.png") as image:
        return image.convert("RGB"), pre_pic(ROOT / "pic" / "7.png")


def alike(path, expected):
    [pixels] = pre_pic(path)
    return np.corrcoef(pixels, expected.ravel())[0, 1]


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F"]
)
def test_every_mode_is_read(seven, tmp_path, mode):
    image, expected = seven
    grey = image.convert("L")
    if mode == "1":
        converted = grey.point(lambda value: 255 if value > 128 else 0).convert("1")
    elif mode in ("I;16", "I", "F"):
        converted = Image.fromarray((np.asarray(grey) * 200.0).astype({"I;16": "u2", "I": "i4", "F": "f4"}[mode]))
    elif mode in ("LA", "PA"):
        converted = grey.convert(mode)
    else:
        converted = image.convert(mode)
    if mode in ("HSV", "PA"):  # no format takes these: opened, they are RGB and P
        converted = converted.convert({"HSV": "RGB", "PA": "P"}[mode])
    # Older Pillows can't read a file of YCbCr that they wrote without compression.
    converted.save(tmp_path / "picture.tiff", compression="tiff_lzw" if mode == "YCbCr" else None)
    assert alike(tmp_path / "picture.tiff", expected) > 0.85


def test_a_large_picture_is_read_at_a_thousand_pixels_and_a_small_one_as_it_is(tmp_path):
    for size, shape in (((3000, 1500), (500, 1000, 3)), ((40, 3000), (1000, 13, 3)), ((70, 50), (50, 70, 3))):
        Image.new("L", size, 128).save(tmp_path / "grey.png")
        picture = open_picture(tmp_path / "grey.png")
        assert picture.shape == shape and picture.dtype == np.float32
        np.testing.assert_allclose(picture, 128 / 255)


def test_pixels_that_are_no_numbers_are_passed_over(seven, tmp_path):
    image, expected = seven
    values = np.asarray(image.convert("L"), np.float32)
    values[5, 5:30] = np.nan
    Image.fromarray(values).save(tmp_path / "picture.tiff")
    assert alike(tmp_path / "picture.tiff", expected) > 0.85


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.tiff", "a.bmp", "a.webp", "a.ppm", "a.ico", "a.tga"])
def test_every_format_is_read(seven, tmp_path, name):
    image, expected = seven
    if name == "a.ico":
        image = ImageOps.contain(image, (256, 256))  # the format takes no more
    image.save(tmp_path / name)
    assert alike(tmp_path / name, expected) > 0.9


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_set_upright_by_its_exif_orientation(seven, tmp_path, orientation):
    image, expected = seven
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpose that the orientation undoes
    turned = image.transpose(Image.Transpose(back[orientation])) if orientation > 1 else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert alike(tmp_path / "turned.jpg", expected) > 0.9


def test_of_several_frames_the_first_is_read(seven, tmp_path):
    image, expected = seven
    other = Image.new("RGB", image.size, "white")
    for name in ("animated.gif", "pages.tiff", "animated.webp"):
        image.save(tmp_path / name, save_all=True, append_images=[other, other])
        assert alike(tmp_path / name, expected) > 0.9


@pytest.mark.parametrize(("ink", "hidden"), [((20, 20, 40), (20, 20, 40)), ((255, 255, 255), (255, 255, 255))])
def test_transparent_paper_contrasts_with_the_ink(seven, tmp_path, ink, hidden):
    image, expected = seven
    cover = 255 - np.asarray(image.convert("L").point(lambda value: 255 if value > 128 else 0))
    pixels = np.empty((*cover.shape, 4), np.uint8)
    pixels[..., :3] = np.where(cover[..., None] > 0, ink, hidden)
    pixels[..., 3] = cover
    Image.fromarray(pixels).save(tmp_path / "transparent.png")
    assert alike(tmp_path / "transparent.png", expected) > 0.85


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 2), (300, 200)])
@pytest.mark.parametrize("colour", ["black", "white", "red"])
def test_a_picture_of_one_colour_is_refused_whatever_its_size(tmp_path, size, colour):
    Image.new("RGB", size, colour).save(tmp_path / "plain.png")
    with pytest.raises(PictureError):
        pre_pic(tmp_path / "plain.png")


def refused(path):
    with pytest.raises(PictureError) as error:
        open_picture(path)
    return str(error.value)


def test_what_is_no_picture_is_refused_with_the_cure(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("A picture of a seven.")
    whole = (ROOT / "pic" / "7.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    for name in ("empty.png", "text.png", "half.png"):
        assert "save it again" in refused(tmp_path / name)
    assert "is a folder and no picture" in refused(tmp_path)
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    assert "save it as JPEG; an iPhone does so by Settings" in refused(tmp_path / "IMG_1.HEIC")
    for path in (tmp_path / "gone.png", "https://example.org/7.png"):
        assert "No such file or directory" in refused(path) and "check the path" in refused(path)
    assert "null" in refused("a\0b.png")


def bomb(path, side=50_000):
    """A PNG of a few bytes that claims side x side pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)
    content = zlib.compress(bytes(1_000_000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b""))


def test_a_postscript_file_is_not_run(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **options: ran.append(arguments))
    (tmp_path / "x.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    assert "save it again" in refused(tmp_path / "x.png")
    assert not ran


def test_a_decompression_bomb_is_refused_at_once(tmp_path):
    bomb(tmp_path / "bomb.png")
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert refused(tmp_path / "bomb.png") == "has more than 100000000 pixels: scale it down."
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    bomb(tmp_path / "small.png", side=10_001)  # Pillow alone would decode it
    assert refused(tmp_path / "small.png") == "has more than 100000000 pixels: scale it down."


def test_a_jpeg_of_more_pixels_is_opened_at_a_fraction_of_its_size(seven, tmp_path):
    image, expected = seven
    image.convert("L").resize((10_400, 10_400), Image.Resampling.NEAREST).save(tmp_path / "large.jpg")
    assert alike(tmp_path / "large.jpg", expected) > 0.8
    assert open_with_scale(tmp_path / "large.jpg")[1] == 10.4, "a pixel of it is so many of the file"


def test_mutated_pictures_raise_nothing_but_the_app_s_own_error():
    _, refused_count, complaints = long_pictures.fuzz(300, seed=2)
    assert complaints == []
    assert refused_count > 50
