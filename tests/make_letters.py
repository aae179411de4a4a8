"""Draws the capital letters in every font of a folder, as a data set of one's own to try: one sub-folder a letter.

    apt-get install fonts-dejavu
    python tests/make_letters.py /usr/share/fonts/truetype/dejavu letters

writes letters/train/A/... to Z, in seven sizes, and letters/test/ in an eighth between them.
"""

import argparse
import string
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

TRAIN_SIZES, TEST_SIZES = (24, 30, 36, 48, 56, 64, 80), (42,)  # of the font, pixels


def letter(font_path, size, text):
    """One letter, black on white, as a Pillow image of mode L."""
    font = ImageFont.truetype(str(font_path), size)
    image = Image.new("L", (2 * size, 2 * size), "white")
    ImageDraw.Draw(image).text((size, size), text, "black", font, anchor="mm")
    return image


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fonts", type=Path, help="folder of .ttf files")
    parser.add_argument("letters", type=Path, help="folder to write")
    args = parser.parse_args()
    fonts = sorted(args.fonts.rglob("*.ttf"))
    for part, sizes in (("train", TRAIN_SIZES), ("test", TEST_SIZES)):
        for text in string.ascii_uppercase:
            folder = args.letters / part / text
            folder.mkdir(parents=True, exist_ok=True)
            for font in fonts:
                for size in sizes:
                    letter(font, size, text).save(folder / f"{font.stem}-{size}.png")
    print(f"{len(fonts)} fonts, {len(string.ascii_uppercase)} letters, {len(TRAIN_SIZES)} + {len(TEST_SIZES)} sizes")


if __name__ == "__main__":
    main()
