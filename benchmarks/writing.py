"""PNG files as they are written here against Pillow's: processor time and size, of photographs and of drawings.

python benchmarks/writing.py --photos ../shared/photos [--every 12]
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from editkit.pictures.files.encoding import encode
from editkit.pictures.picture import Picture


def drawings() -> Iterator[tuple[str, np.ndarray]]:
    """What is no photograph: (name, (H, W, 3) uint8)."""
    y, x = np.mgrid[:768, :1024]
    yield "gradients", np.stack([(x + y) / 7 % 256, (2 * x + y) / 11 % 256, np.hypot(x, y) / 5], -1).astype(np.uint8)
    yield "squares", np.repeat(((x // 8 + y // 8) % 2 * 255).astype(np.uint8)[..., None], 3, -1)
    page = np.full((768, 1024, 3), 255, np.uint8)
    for k in range(30):
        cv2.putText(page, f"a line of text, {k}", (10, 25 * k), 0, 0.7, (0, 0, 0), 1)
    yield "text", page


def photographs(folder: Path, every: int) -> Iterator[tuple[str, np.ndarray]]:
    for file in sorted(folder.glob("*.jpg"))[::every]:
        yield file.name, np.asarray(Image.open(file).convert("RGB"))


def compared(pixels: np.ndarray) -> tuple[float, float]:
    """(processor time, size) of ours, as parts of Pillow's."""
    picture = Picture(pixels)
    began = time.process_time()
    ours = encode(picture, "PNG", []).data
    between = time.process_time()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return (between - began) / (time.process_time() - between), len(ours) / len(file.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--every", type=int, default=12, help="photograph of the folder, by name")
    given = parser.parse_args()
    rows = [(name, *compared(pixels)) for name, pixels in photographs(given.photos, given.every)]
    print(
        f"{len(rows)} photographs: time {np.mean([r[1] for r in rows]):.2f}, size {np.mean([r[2] for r in rows]):.3f}"
    )
    for name, pixels in drawings():
        print("{}: time {:.2f}, size {:.3f}".format(name, *compared(pixels)))


if __name__ == "__main__":
    main()
