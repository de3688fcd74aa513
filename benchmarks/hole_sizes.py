"""The same hole in the same picture at several sizes, enlarged, and enlarged with grain: part of benchmarks/holes.py.

A photograph is scaled to a longest side of `side`, then to so many times of that, and given Gaussian grain of `GRAIN`
grey levels or none. The hole is scaled with it. What a filler makes of it, and the truth, are brought back to `side`
before they are compared: a filler for which only the picture counts has one distance at all sizes.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = (0.5, 1, 2, 4, 6)
GRAIN = 4.0
SLOW = frozenset({"telea", "ns", "biharmonic", "criminisi"})
"""Fillers that are left out: hours at the largest size, or nothing but smooth anyway."""


def enlarged(truth: np.ndarray, hole: np.ndarray, scale: float, grain: float) -> tuple[np.ndarray, np.ndarray]:
    """Picture and hole `scale` times as large; grain of so many levels is added after that."""
    size = (round(truth.shape[1] * scale), round(truth.shape[0] * scale))
    image = Image.fromarray(truth).resize(size, Image.Resampling.BICUBIC)
    marked = np.asarray(Image.fromarray(hole.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)) >= 128
    noisy = np.asarray(image) + np.random.default_rng(0).normal(0.0, grain, (size[1], size[0], 3))
    return np.rint(noisy.clip(0, 255)).astype(np.uint8), marked


def back(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """At the size of `shape` (h, w, ...) again: means of pixels, or bicubic from a smaller one."""
    how = Image.Resampling.BOX if image.shape[0] >= shape[0] else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((shape[1], shape[0]), how))


def run(photos: Path, names: list[str], fillers: list[str], side: int, keep: Path | None) -> str:
    """A table: mean distance of each filler by size, without and with grain; its spread over the sizes."""
    import holes
    from fillers import FILLERS
    from measure import FeatureDistance, psnr

    distance = FeatureDistance()
    lines = [f"{'filler':12s}{'grain':>6s}{'size':>6s}{'distance':>10s}{'PSNR':>8s}{'seconds':>9s}"]
    for filler in (f for f in fillers if f not in SLOW):
        for grain in (0.0, GRAIN):
            for scale in SIZES:
                rows = []
                for case in holes.cases(names, side, full=False):
                    if case.percent != 15:
                        continue
                    base = holes.load(photos / case.photo, side)
                    small_hole = holes.make_hole(case, *base.shape[:2])
                    truth, hole = enlarged(base, small_hole, scale, grain)
                    hidden = truth.copy()
                    hidden[hole] = 128
                    start = time.perf_counter()
                    filled = FILLERS[filler](hidden, hole)
                    seconds = time.perf_counter() - start
                    made, wanted = back(filled, base.shape), back(truth, base.shape)
                    far = distance(distance.features(made), distance.features(wanted), small_hole)
                    rows.append((far, psnr(made, wanted, small_hole), seconds))
                    if keep is not None:
                        keep.mkdir(parents=True, exist_ok=True)
                        Image.fromarray(filled).save(keep / f"{case.key}-{scale:g}-{grain:g}-{filler}.png")
                far, level, seconds = np.mean(rows, axis=0)
                lines.append(f"{filler:12s}{grain:6g}{scale:6g}{far:10.4f}{level:8.2f}{seconds:9.2f}")
    return "\n".join(lines)
