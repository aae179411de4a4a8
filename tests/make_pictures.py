"""Makes the pictures in pic/ from MNIST test digits: `python tests/make_pictures.py`.

Ten digits and a few harder sheets, as a person would hand them in: pen on paper, taken with a camera.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import mnist_generateds  # noqa: E402

# The first test digit of each class that is written as most people write it.
DIGITS = {0: 3, 1: 2, 2: 1, 3: 18, 4: 4, 5: 15, 6: 11, 7: 0, 8: 61, 9: 7}
BLUE, BLACK, WHITE_CHALK = (32, 48, 128), (38, 36, 42), (232, 232, 224)
PAPER, BOARD = (238, 234, 224), (44, 62, 54)


def stroke(digit, height, thinner=0.0):
    """Pen strokes, float32 [h, w] 0..1, from a uint8 [28, 28] digit enlarged until it is about `height` pixels high."""
    rows, columns = np.flatnonzero(digit.any(1)), np.flatnonzero(digit.any(0))
    digit = np.pad(digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 3)
    scale = float(height / (rows[-1] - rows[0] + 1))
    size = [round(side * scale) for side in digit.shape[::-1]]
    smooth = Image.fromarray(digit).resize(size, Image.Resampling.BICUBIC)
    smooth = np.asarray(smooth.filter(ImageFilter.GaussianBlur(0.55 * scale)), np.float32) / 255
    # A steep slope about the middle grey is the edge of a pen's stroke; a higher grey, a thinner pen.
    return np.clip((smooth - 0.42 - thinner) * 12 + 0.5, 0, 1)


def grain(rng, shape, size, depth):
    """Smooth noise, float32 [h, w], of spots about `size` pixels wide and `depth` strong."""
    coarse = rng.normal(0, depth, [max(2, round(side / size)) for side in shape]).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC))


def sheet(rng, size, placed, ink=BLACK, paper=PAPER, light=None):
    """An RGB picture of `size` (width, height): strokes on paper.

    `placed` holds (strokes, left, top); `light` is float32 [h, w], the share of the light that falls on each pixel.
    """
    width, height = size
    cover = np.zeros((height, width), np.float32)
    for strokes, left, top in placed:
        h, w = strokes.shape
        area = cover[top : top + h, left : left + w]
        np.maximum(area, strokes[: area.shape[0], : area.shape[1]], out=area)
    cover *= np.clip(0.9 + grain(rng, cover.shape, 9, 0.08), 0, 1)  # a pen does not ink evenly
    colours = np.array(paper) + cover[..., None] * (np.array(ink, float) - paper)
    colours += grain(rng, cover.shape, 3, 2.5)[..., None] + rng.normal(0, 1.5, (height, width, 1))
    if light is not None:
        colours *= light[..., None]
    picture = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))
    return picture.filter(ImageFilter.GaussianBlur(0.8))


def lamp(size, corner=0.75):
    """Light that falls from the upper left, 1 there and `corner` in the far corner: float32 [h, w]."""
    across, down = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    return (1 - (1 - corner) * (across + down) / 2).astype(np.float32)


def shadow(size):
    """The soft-edged shadow of a hand across the sheet: float32 [h, w]."""
    across, down = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    edge = across + 0.45 * down - 0.75 + 0.04 * np.sin(9 * down)
    return (1 - 0.55 / (1 + np.exp(-edge * 40))).astype(np.float32)


def main():
    images = mnist_generateds.read_idx(ROOT / "data" / "t10k-images-idx3-ubyte.gz", 3)
    rng = np.random.default_rng(1)
    folder = ROOT / "pic"

    def save(name, picture):
        picture.save(folder / name, optimize=True)
        print(folder / name)

    for digit, index in DIGITS.items():
        size = (int(rng.integers(420, 640)), int(rng.integers(420, 640)))
        height = int(rng.uniform(0.45, 0.7) * min(size))
        strokes = stroke(images[index], height, rng.uniform(0.0, 0.2))
        left, top = (
            (side - piece) // 2 + int(rng.integers(-40, 40))
            for side, piece in zip(size, strokes.shape[::-1], strict=True)
        )
        ink = BLUE if digit % 2 else BLACK
        save(f"{digit}.png", sheet(rng, size, [(strokes, max(left, 0), max(top, 0))], ink, light=lamp(size)))

    size = (640, 480)
    save("shadow.png", sheet(rng, size, [(stroke(images[84], 260), 210, 100)], BLUE, light=shadow(size)))
    save("chalk.png", sheet(rng, (560, 420), [(stroke(images[30], 230), 170, 80)], WHITE_CHALK, BOARD))
    size, placed, left = (1200, 340), [], 60
    for index in (1, 3, 35, 11, 7):
        strokes = stroke(images[index], int(rng.integers(150, 180)), 0.1)
        placed.append((strokes, left, int(rng.integers(70, 110))))
        left += strokes.shape[1] + int(rng.integers(5, 25))
    save("number.png", sheet(rng, size, placed, BLACK, light=lamp(size)))


if __name__ == "__main__":
    main()
