"""Marks in rows and columns: the lattice that found marks form, and which of its places are empty.

Two steps a and b (y, x) span a lattice {p0 + i a + j b}. They are the differences between marks that occur most often;
of those as frequent, the shortest. Rows may be shifted against each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Place = tuple[int, int]
"""(y, x) in pixels."""

NEAR = 3.0
"""Largest distance between places that count as the same, in pixels."""

FEWEST, TWICE, FIT = 4, 2, 0.8
"""Least number of marks; how often each step must occur; and the fraction of the marks that must lie on the lattice."""

ENOUGH = 48
"""Number of marks by which the steps of a lattice are found."""

SLANTED = 0.3
"""Least sine of the angle between both steps."""


def empty_places(places: list[Place], size: tuple[int, ...]) -> list[Place]:
    """Return the places of the lattice, within `size` (H, W) and the range of `places`, where there is none yet.

    The list is empty if `places` form no lattice.
    """
    if len(places) < FEWEST:
        return []
    at = np.array(places, float)
    steps = _steps(at)
    if steps is None:
        return []
    index = np.linalg.solve(np.array(steps).T, (at - at[0]).T).T
    whole = np.rint(index)
    on = np.hypot(*((index - whole) @ np.array(steps)).T) <= NEAR * np.maximum(1.0, np.abs(whole).max(axis=1))
    if on.mean() < FIT:
        return []
    design = np.column_stack([whole[on], np.ones(int(on.sum()))])
    fitted = np.linalg.lstsq(design, at[on], rcond=None)[0]
    known, made = {tuple(k) for k in whole.astype(int).tolist()}, list[Place]()
    low, high = whole[on].min(axis=0).astype(int), whole[on].max(axis=0).astype(int)
    for i in range(low[0], high[0] + 1):
        for j in range(low[1], high[1] + 1):
            y, x = (round(float(v)) for v in np.array([i, j, 1.0]) @ fitted)
            if (i, j) not in known and 0 <= y < size[0] and 0 <= x < size[1]:
                made.append((y, x))
    return made


def _steps(at: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the two steps of the lattice of `at` (N, 2); None if no two occur often enough.

    Of many marks, the first `ENOUGH` are compared: the work grows with the fourth power of their number.
    """
    at = at[:ENOUGH]
    apart = (at[None] - at[:, None]).reshape(-1, 2)
    apart = apart[(apart[:, 0] > NEAR) | ((np.abs(apart[:, 0]) <= NEAR) & (apart[:, 1] > NEAR))]
    often = (np.hypot(*(apart[:, None] - apart[None]).transpose(2, 0, 1)) <= NEAR).sum(axis=1)
    chosen = list[NDArray[np.float64]]()
    for k in np.lexsort((np.hypot(*apart.T), -often)):
        step = apart[k]
        if often[k] < TWICE:
            break
        if not chosen:
            chosen.append(step)
        elif abs(chosen[0][0] * step[1] - chosen[0][1] * step[0]) > SLANTED * np.hypot(*chosen[0]) * np.hypot(*step):
            return chosen[0], step
    return None
