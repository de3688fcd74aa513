"""The parts of `patches` that do not need torch: its description, noise levels and passes, coarse to fine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from editkit.diffusion.model import ModelInfo, Pass
from editkit.diffusion.schedule import Grid, Level, Levels, Spacing
from editkit.pictures.boxes import Box, coverage, integral, is_wide
from editkit.pictures.resizing import HIDDEN

if TYPE_CHECKING:
    from editkit.pictures.picture import Fill

ANY_GRID = Grid()


@dataclass(frozen=True)
class Ladder:
    """alpha_t = cos(pi t / 2), sigma_t = sin(pi t / 2), with sigma_t / alpha_t in equal ratios from `high` to `low`.

    The last step must have little noise: any noise left selects between patches of a smooth sky, and mottles it.
    """

    high: float = 6.3
    low: float = 0.05

    def level(self, t: float) -> Level:
        if t >= 1.0:
            return Level(1.0, 0.0, 1.0)
        return Level(t, math.cos(math.pi * t / 2), math.sin(math.pi * t / 2))

    def levels(self, steps: int, spacing: Spacing = "auto", grid: Grid = ANY_GRID) -> Levels:
        rise = (self.high / self.low) ** (1.0 / max(steps - 1, 1))
        ratios = [self.high / rise ** (steps - k) for k in range(1, steps + 1)]
        rungs = [self.level(0.0), *(self.level(math.atan(ratio) * 2.0 / math.pi) for ratio in ratios)]
        return tuple(Level(v.t, v.alpha, v.sigma, k) for k, v in enumerate(rungs))

    def prior_scale(self, level: Level, spacing: Spacing = "auto", grid: Grid = ANY_GRID) -> float:
        return 1.0


LARGEST = 10_000
"""Largest number of unknown pixels that are filled by pieces; the time is proportional to it."""

FACTOR = 1.6
"""Each pass of `ladder` is this many times as large as the previous one."""

COARSEST = 42.0
"""The longer side of the smallest pass is at least this many pixels."""

PIECES = 128.0
"""Its longer side is at most this where pieces of the picture are its guide: they need no smaller pass."""

PATCH = 7
"""Side, in pixels, of the squares that a model of patches sees at once."""

FEWEST = 30
"""Minimum number of patches to learn from in the first pass of `ladder`."""


def ladder(
    box: Box,
    steps: int,
    usual: int,
    hole: np.ndarray | None = None,
    examples: Sequence[tuple[int, int]] = (),
    fill: Fill | None = None,
) -> tuple[Pass, ...]:
    """Return passes for a model whose prior is the picture: small first, then 1.6 times as large up to the box's size.

    The first pass is the smallest one (at least `COARSEST` pixels) at which enough is known; at most `PIECES` is small
    enough where pieces guide it (no `fill`, no `examples`, all but `LARGEST` pixels are known, not none). A hole may
    vanish at small sizes, because its pixels become averages of known ones; then the first pass is the largest one at
    which it has vanished, a single step that returns the known pixels. `steps` relative to `usual` scales the number of
    levels of every pass. Large passes need fewer levels for a wide hole than for strokes.
    """
    side = max(box.height, box.width)
    sizes = [float(side)]
    pieces = fill is None and not examples and hole is not None and not hole.all()
    unknown_pixels = float(hole.mean()) * box.area if pieces and hole is not None else math.inf
    while sizes[0] / FACTOR >= COARSEST:
        if len(sizes) > 1 and sizes[0] <= PIECES and unknown_pixels * (sizes[0] / side) ** 2 <= LARGEST:
            break
        sizes.insert(0, sizes[0] / FACTOR)
    rate = steps / usual
    finer = 3 if hole is not None and is_wide(hole) else 4
    passes: list[Pass] = []
    for size in sizes:
        scale = size / side
        height, width = max(PATCH, round(box.height * scale)), max(PATCH, round(box.width * scale))
        if hole is not None and not (passes and passes[-1].steps > 1) and size != sizes[-1]:
            unknown = coverage(hole, height, width) > HIDDEN
            if not unknown.any():
                passes = [Pass(box, height, width, 1)]
                continue
            sizes_there = [(round(w * scale), round(h * scale)) for w, h in examples]
            if not passes and not _has_enough_patches(unknown, sizes_there):
                continue
        if not passes:
            passes.append(Pass(box, height, width, max(2, round(10 * rate)), 1.0, 3))
        elif size < 60:
            passes.append(Pass(box, height, width, max(2, round(5 * rate)), 0.8, 3, 0.15))
        else:
            passes.append(Pass(box, height, width, max(2, round(finer * rate)), 0.75, 1, 0.15))
    return tuple(passes)


def _has_enough_patches(unknown: np.ndarray, examples: Sequence[tuple[int, int]]) -> bool:
    """Return whether there are at least `FEWEST` patches to learn from, known or in `examples` (width, height)."""
    edge = PATCH - 1
    patches = sum(max(0, width - edge) * max(0, height - edge) for width, height in examples)
    if min(unknown.shape) >= PATCH:
        sums = integral(unknown)
        within = sums[PATCH:, PATCH:] - sums[:-PATCH, PATCH:] - sums[PATCH:, :-PATCH] + sums[:-PATCH, :-PATCH]
        patches += int((within == 0).sum())
    return patches >= FEWEST


PATCHES = ModelInfo(
    "patches", "the picture's own patches", takes=frozenset({"lowres", "examples"}), sampler="ddim", steps=22,
    own_picture=True, passes=ladder,
)  # fmt: skip
