"""A texture that repeats without a seam: what lies over its wrapped edges is exchanged for another piece of itself.

Image quilting (Efros & Freeman 2001): the piece that fits best, cut in along two paths of least difference.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]


def tileable(texture: Values) -> Values:
    """`texture` (h, w, c), of at least 8x8 pixels, moved by half its size: copies of it side by side show no seam.

    At most a cross as wide as a quarter of it is another than before, and that is of pieces of the texture.
    """
    across = _joined(texture)
    return _joined(across.transpose(1, 0, 2)).transpose(1, 0, 2)


def _joined(texture: Values) -> Values:
    """Without a seam between its last and its first column, which lie in the middle now."""
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
    """The column in each row of the path from top to bottom over the least `cost` (h, w), a step aside a row at most.

    It ends, to a step, in the column it begins in, so that it closes where the rows are wrapped.
    """
    height, width = cost.shape
    begin = int(np.argmin(cost[0]))
    total = np.full((height, width), np.inf)
    total[0, begin] = cost[0, begin]
    for y in range(1, height):
        before = np.pad(total[y - 1], 1, constant_values=np.inf)
        total[y] = cost[y] + np.minimum(np.minimum(before[:-2], before[1:-1]), before[2:])
    path = np.empty(height, np.int64)
    path[-1] = _least(total[-1], begin)
    for y in range(height - 2, -1, -1):
        path[y] = _least(total[y], int(path[y + 1]))
    return path


def _least(row: NDArray[np.float64], near: int) -> int:
    """The column of the least value beside `near`, or in it."""
    first = max(near - 1, 0)
    return first + int(np.argmin(row[first : near + 2]))
