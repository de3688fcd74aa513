"""Find the shifts by which a picture fits the rim of its own hole.

Holes of photographs are filled well with few shifts, by which whole pieces are copied (Pritch, Kav-Venaki & Peleg
2009, "Shift-map image editing"; He & Sun 2014, "Image completion approaches using the statistics of similar patches").
He & Sun take the most frequent shifts between similar patches. Here shifts are chosen by what they are needed for: the
known pixels within `RIM` pixels of the hole are divided into blocks, and shifts are added one by one, each the one that
most reduces the sum over the blocks of the smallest squared difference so far (greedy facility location: Nemhauser,
Wolsey & Fisher 1978, within 1 - 1/e of the best choice). Features are integers, so the order of sums does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Flags = NDArray[np.bool_]

RIM = 2
"""Width of the known rim that shifts must fit, in pixels."""

BLOCK = 4
"""Side of the blocks of the rim, in pixels."""

STEP = 2
"""Shifts are multiples of this many pixels."""

LEAST = 15
"""A shift is at least the longer side divided by this: nearer places always fit, and only reach the rim."""

ENOUGH = 0.7
"""Part of a block that must be known under a shift."""

UNFIT = 10_000 * 127**2
"""Cost of a block that no shift fits, above that of any other."""


@dataclass(frozen=True, eq=False)
class Features:
    """Integer features of a picture, and where they are known.

    Args:
        values: (h, w, 9), int32: three colours of 0 to 255, and their differences to the right and lower neighbours.
        known: (h, w), where a pixel may be copied.
        firm: (h, w), where the differences are known too.
    """

    values: Ints
    known: Flags
    firm: Flags

    @classmethod
    def of(cls, picture: NDArray[np.float32], known: Flags) -> Self:
        """Compute the features of `picture` (h, w, 3) in [-1, 1]; what is not known has no influence."""
        levels = np.rint((picture + 1.0) * 127.5).clip(0, 255).astype(np.int32) * known[..., None]
        across = np.diff(levels, axis=1, append=levels[:, -1:])
        down = np.diff(levels, axis=0, append=levels[-1:])
        firm = known.copy()
        firm[:, :-1] &= known[:, 1:]
        firm[:-1] &= known[1:]
        differences = np.concatenate([across, down], -1) * firm[..., None]
        return cls(np.concatenate([levels, differences], -1), known, firm)


def fitting_shifts(features: Features, hole: Flags, count: int) -> Ints:
    """Choose at most `count` shifts (k, 2), down and across in pixels, that fit the rim of `hole` (h, w)."""
    offered, costs = _cost_by_block(features, hole)
    if not offered:
        return np.zeros((0, 2), np.int32)
    table, chosen = np.stack(costs), []
    smallest = np.full(table.shape[1], UNFIT, np.int64)
    for _ in range(count):
        gain = np.maximum(smallest - table, 0).sum(1)
        best = int(gain.argmax())
        if gain[best] == 0:
            break
        chosen.append(offered[best])
        smallest = np.minimum(smallest, table[best])
    return np.array(chosen, np.int32)


def _cost_by_block(features: Features, hole: Flags) -> tuple[list[tuple[int, int]], list[NDArray[np.int64]]]:
    """Return every shift that fits some block, and its cost (blocks,): the squared difference, scaled to all pixels."""
    height, width = hole.shape
    square = np.ones((2 * RIM + 1,) * 2, np.uint8)
    band = (cv2.dilate(hole.astype(np.uint8), square) > 0) & features.firm
    ys, xs = band.nonzero()
    if len(ys) == 0:
        return [], []
    block = ys // BLOCK * (width // BLOCK + 1) + xs // BLOCK
    order = np.argsort(block, kind="stable")
    ys, xs = ys[order], xs[order]
    first = np.unique(block[order], return_index=True)[1]
    count = np.diff(np.append(first, len(ys)))
    own, least = features.values[ys, xs], max(height, width) // LEAST
    across = _multiples(width)
    offered, costs = [], []
    for down in _multiples(height).tolist():
        rows = ys + down
        here = (rows >= 0) & (rows < height)
        some = across if abs(down) >= least else across[np.abs(across) >= least]
        if not here.any():
            continue
        columns = xs[:, None] + some
        inside = here[:, None] & (columns >= 0) & (columns < width)
        rows, columns = rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)
        fits = inside & features.firm[rows, columns]
        apart = (np.square(features.values[rows, columns] - own[:, None]).sum(-1, dtype=np.int32)) * fits
        enough = np.add.reduceat(fits, first, 0, dtype=np.int64)
        total = np.add.reduceat(apart, first, 0, dtype=np.int64) * count[:, None] // np.maximum(enough, 1)
        total[enough < ENOUGH * count[:, None]] = UNFIT
        for k in np.flatnonzero((total < UNFIT).any(0)):
            offered.append((down, int(some[k])))
            costs.append(total[:, k])
    return offered, costs


def _multiples(size: int) -> NDArray[np.int64]:
    """Return the multiples of `STEP` below `size` in either direction."""
    reach = (size - 1) // STEP * STEP
    return np.arange(-reach, reach + 1, STEP)
