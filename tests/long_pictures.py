"""Mutated pictures through the app's preparation: `python tests/long_pictures.py` (10,000 pictures, some minutes).

Nothing but the app's own PictureError may come of them, none may take two seconds, and memory may not grow.
"""

import argparse
import io
import random
import tempfile
import time
from pathlib import Path

import numpy as np
from conftest import ROOT
from PIL import Image

from mnist_app import PictureError, pre_pic

FORMATS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "ICO", "PPM"]
MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"]


def drawn(rng):
    """A picture of a few strokes in a random size, mode and format, as bytes."""
    width, height = (rng.choice([1, 2, 9, 28, 60, 200, 500]) for _ in range(2))
    grey = np.full((height, width), rng.randrange(256), np.uint8)
    for _ in range(rng.randrange(6)):
        y, x = rng.randrange(height), rng.randrange(width)
        grey[y : y + rng.randrange(1, 40), x : x + rng.randrange(1, 40)] = rng.randrange(256)
    image = Image.fromarray(grey).convert(rng.choice(MODES)) if rng.random() < 0.5 else Image.fromarray(grey)
    file = io.BytesIO()
    try:
        image.save(file, rng.choice(FORMATS))
    except (OSError, KeyError, ValueError):  # not every format takes every mode and size
        Image.fromarray(grey).save(file, "PNG")
    return file.getvalue()


def mutated(content, rng):
    """The same bytes cut, flipped, doubled or overwritten in a few places; sometimes as they are."""
    content = bytearray(content)
    for _ in range(rng.randrange(5)):
        place = rng.randrange(len(content))
        how = rng.randrange(5)
        if how == 0:
            del content[place + 1 :]
        elif how == 1:
            content[place] ^= 1 << rng.randrange(8)
        elif how == 2:
            content[place : place + 4] = rng.randbytes(4)
        elif how == 3:
            content[place:place] = content[place : place + 50]
        else:
            del content[place + 1 : place + 1 + rng.randrange(20)]
    return bytes(content)


def resident():
    """Memory in use now, in pages."""
    return int(Path("/proc/self/statm").read_text().split()[1])


def fuzz(count, seed):
    """Returns (pictures read, refused, complaints)."""
    rng = random.Random(seed)
    originals = [path.read_bytes() for path in sorted((ROOT / "pic").glob("*.png"))]
    read = refused = 0
    complaints = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture"
        for i in range(count):
            content = rng.choice(originals) if rng.random() < 0.05 else drawn(rng)
            path.write_bytes(mutated(content, rng))
            start = time.process_time()
            try:
                pixels = pre_pic(path)
                read += 1
                if (
                    pixels.ndim != 2
                    or pixels.shape[1] != 784
                    or not (np.isfinite(pixels).all() and 0 <= pixels.min() <= pixels.max() <= 1)
                ):
                    complaints.append(f"picture {i}: {pixels.shape}, {pixels.min()} to {pixels.max()}")
            except PictureError:
                refused += 1
            except Exception as error:
                complaints.append(f"picture {i}: {error!r}")
            if time.process_time() - start > 2:
                complaints.append(f"picture {i}: took {time.process_time() - start:.1f} s")
            if i == count // 4:
                memory = resident()
    grown = resident() / memory - 1
    if grown > 0.1:
        complaints.append(f"memory grew by {grown:.0%} after the first quarter")
    return read, refused, complaints


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    read, refused, complaints = fuzz(args.pictures, args.seed)
    print(
        f"{args.pictures} pictures: {read} read, {refused} refused, {len(complaints)} failed",
        *complaints[:20],
        sep="\n",
    )
    return bool(complaints)


if __name__ == "__main__":
    raise SystemExit(main())
