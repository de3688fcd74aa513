"""Pictures grown to 16:9, where there is no truth: part of benchmarks/holes.py.

What is added beside a border is to have the border's colours: sky beside sky, ground beside ground. `drift` is the mean
absolute difference in grey levels between the picture's outermost 2 % and what was added there, along the border, both
averaged across it and over a 16th of its length (so that a horizon may move a little); `worst` is the 95th percentile.
Real scenes drift too. A wash of one border's colour over another's is 50 levels and more.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

PICTURES = (
    "monument-egypt__redPyramid.jpg",  # of a user, who got sand for a sky
    "monument-germany__berlinCathedral.jpg", "monument-usa__canyondeChelly.jpg", "sea__sea2.jpg",
    "cat-monuments__operaHouse.jpg", "world__giraffe.jpg", "farm__cow.jpg", "world__kangaroo.jpg",
)  # fmt: skip


def _along(strip: np.ndarray) -> np.ndarray:
    """(length, 3): means across a strip (length, width, 3), over a 16th of its length."""
    line = strip.astype(np.float64).mean(1)
    half = max(1, len(line) // 32)
    padded = np.pad(line, ((half, half), (0, 0)), mode="edge")
    return np.stack([padded[k : k + len(line)] for k in range(2 * half + 1)]).mean(0)


def drift(grown: np.ndarray, size: tuple[int, int]) -> tuple[float, float]:
    """(mean, 95th percentile) in grey levels; `size` (h, w) is that of the picture in the middle of `grown`."""
    if grown.shape[0] > size[0]:
        return drift(grown.transpose(1, 0, 2), (size[1], size[0]))
    left = (grown.shape[1] - size[1]) // 2
    right, rim = left + size[1], max(4, size[1] // 50)
    pairs = [(grown[:, :left], grown[:, left : left + rim]), (grown[:, right:], grown[:, right - rim : right])]
    off = np.concatenate([np.abs(_along(new) - _along(old)) for new, old in pairs if new.shape[1]])
    return float(off.mean()), float(np.percentile(off, 95))


def run(photos: Path, side: int, sheet: Path | None) -> str:
    """A table of the pictures at a longest side of `side`; `sheet`: where a contact sheet goes."""
    import holes

    from editkit import edit
    from editkit.plugins import Uncrop

    lines = [f"{'picture':40s}{'drift':>8s}{'worst':>8s}{'seconds':>9s}"]
    shown = []
    for name in PICTURES:
        picture = holes.load(photos / name, side)
        start = time.perf_counter()
        grown = edit(picture, Uncrop(aspect="16:9"), model="patches").pixels
        seconds = time.perf_counter() - start
        mean, worst = drift(grown, picture.shape[:2])
        lines.append(f"{name:40s}{mean:8.1f}{worst:8.1f}{seconds:9.2f}")
        shown.append(ImageOps.pad(Image.fromarray(grown), (480, 270)))
    if sheet is not None:
        out = Image.new("RGB", (2 * 484, -(-len(shown) // 2) * 274), "white")
        for k, one in enumerate(shown):
            out.paste(one, (k % 2 * 484, k // 2 * 274))
        sheet.mkdir(parents=True, exist_ok=True)
        out.save(sheet / "uncrops.png")
    return "\n".join(lines)
