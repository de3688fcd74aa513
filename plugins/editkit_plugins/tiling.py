"""Tileable textures: cover the seam at the wrapped edges with another piece of the same texture.

Image quilting (Efros & Freeman 2001): the best matching piece is pasted along two paths of least difference.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]


def tileable(texture: Values) -> Values:
    """Make `texture` (h, w, c), at least 8x8 pixels, tileable. The result is shifted by half its size.

    Only a cross of at most a quarter of the size in width changes, and it consists of pieces of the texture.
    """
    across = _hide_seam(texture)
    return _hide_seam(across.transpose(1, 0, 2)).transpose(1, 0, 2)


def _hide_seam(texture: Values) -> Values:
    """Hide the seam between the last and the first column, which the shift moves to the middle."""
    _, width, _ = texture.shape
    band = max(2, min(width // 8, 48))
    rolled = np.roll(texture, width // 2, axis=1)
    seam = width // 2
    there = rolled[:, seam - band : seam + band]
    starts = [*range(0, seam - 2 * band + 1), *range(seam, width - 2 * band + 1)]
    pieces = (rolled[:, x : x + 2 * band] for x in starts)
    piece = min(pieces, key=lambda one: float(np.square(one - there).sum()))
    differs = np.square(piece - there).sum(axis=2)
    left, right = cheapest_path(differs[:, :band]), band + cheapest_path(differs[:, band:])
    columns = np.arange(2 * band)[None]
    inside = (columns >= left[:, None]) & (columns <= right[:, None])
    made = rolled.copy()
    made[:, seam - band : seam + band] = np.where(inside[..., None], piece, there)
    return made


def cheapest_path(cost: Values) -> NDArray[np.int64]:
    """Return the columns, (h,), of the cheapest path from top to bottom through `cost` (h, w).

    The column changes by at most one a row. The path ends within one column of its start, so that it closes when the
    rows wrap.
    """
    height, width = cost.shape
    begin = int(np.argmin(cost[0]))
    total = np.full((height, width), np.inf)
    total[0, begin] = cost[0, begin]
    for y in range(1, height):
        before = np.pad(total[y - 1], 1, constant_values=np.inf)
        total[y] = cost[y] + np.minimum(np.minimum(before[:-2], before[1:-1]), before[2:])
    path = np.empty(height, np.int64)
    path[-1] = _least_neighbour(total[-1], begin)
    for y in range(height - 2, -1, -1):
        path[y] = _least_neighbour(total[y], int(path[y + 1]))
    return path


def _least_neighbour(row: NDArray[np.float64], near: int) -> int:
    """Return the column of the least value among `near` and its two neighbours."""
    first = max(near - 1, 0)
    return first + int(np.argmin(row[first : near + 2]))
