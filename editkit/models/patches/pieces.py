"""Fill a hole with large pieces of the picture itself: the first guide of the coarsest pass.

Each unknown pixel p gets a shift s_p from a few fitting ones (`shifts`), and with it the pixel at p + s_p. Pieces join
where they agree (Pritch et al. 2009): the sum over neighbours p, q with different shifts of

    |F(p + s_p) - F(p + s_q)|^2 + |F(q + s_p) - F(q + s_q)|^2,

where F are colours and their differences to the next pixels; plus, over pixels near the rim, the squared difference
between what is known around them and what their shift brings there; plus small costs of vertical distance (`UPRIGHT`)
and of colours other than those of a membrane across the hole (`LIKELY`). The minimum is approximated by min-sum belief
propagation in sweeps along rows and columns (Pearl 1988; Szeliski et al. 2008). All costs are integers, so that the
order of sums does not matter.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from editkit.models.patches.shifts import RIM, Features, Flags, Ints, fitting_shifts
from editkit.pictures.filling import membrane, smooth_fill

SHIFTS = 40
"""Number of shifts that are tried."""

ROUNDS = 8
"""Number of sweeps in each of the four directions."""

UPRIGHT = 4000
"""Cost of a pixel that comes from the whole height of the picture away, and in proportion: sky belongs above ground.

A squared difference, as the others: a fifth of the height costs as much as nine features that differ by nine levels.
"""

LIKELY = 20
"""The squared difference from the membrane's colour is divided by this: a hole in stone is no window to the sky."""

LONGEST = 400
"""Longest side of a picture that is filled by pieces, in pixels: every shift of the rim is compared."""

SERVES = 0.05
"""A shift must bring known pixels to at least this part of the hole."""

UNKNOWN = 1000 * 127**2
"""Cost of a pixel whose shift leads to no known pixel."""

UNSEEN = 20 * 127**2
"""Cost of a pixel near the rim around which a shift brings nothing that is known."""


def fill_by_pieces(picture: Tensor, hole: Tensor, known: Tensor) -> Tensor:
    """Fill `hole` of `picture` (3, h, w) by pieces of its `known` pixels; both (h, w), bool: (3, h, w).

    Pixels that no fitting shift reaches are continued smoothly from the others.
    """
    image = np.ascontiguousarray(picture.detach().permute(1, 2, 0).cpu().numpy(), np.float32)
    inside, features = hole.cpu().numpy(), Features.of(image, known.cpu().numpy())
    ys, xs = inside.nonzero()
    shifts = _serving(fitting_shifts(features, inside, SHIFTS), features.known, ys, xs)
    if len(shifts) == 0:
        return smooth_fill(picture[None], hole[None, None].to(picture.dtype))[0]
    chosen = shifts[_best_labels(features, inside, shifts, _membrane_levels(picture, hole))]
    rows, columns, reached = _places(features.known, ys, xs, chosen)
    made = image.copy()
    made[ys[reached], xs[reached]] = image[rows[reached], columns[reached]]
    left = np.zeros_like(inside)
    left[ys[~reached], xs[~reached]] = True
    filled = torch.from_numpy(made).permute(2, 0, 1).to(picture)
    return smooth_fill(filled[None], torch.from_numpy(left)[None, None].to(picture))[0]


def _membrane_levels(picture: Tensor, hole: Tensor) -> Ints:
    """Return the colours (n, 3), 0 to 255, of a membrane across the hole, row by row."""
    across = membrane(picture.detach()[None], hole[None, None].to(picture.dtype))[0][:, hole]
    return ((across.T + 1.0) * 127.5).round().clamp(0, 255).cpu().numpy().astype(np.int32)


def _places(known: Flags, ys: NDArray[np.intp], xs: NDArray[np.intp], shift: Ints) -> tuple[Ints, Ints, Flags]:
    """Return where `shift` (2,) or (n, 2) leads from pixels (n,), clipped to the picture, and whether that is known."""
    rows, columns = ys + shift[..., 0], xs + shift[..., 1]
    height, width = known.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    return rows, columns, inside & known[rows, columns]


def _serving(shifts: Ints, known: Flags, ys: NDArray[np.intp], xs: NDArray[np.intp]) -> Ints:
    """Keep the shifts that reach enough of the pixels (n,)."""
    return shifts[[float(_places(known, ys, xs, shift)[2].mean()) >= SERVES for shift in shifts]]


def _best_labels(features: Features, hole: Flags, shifts: Ints, likely: Ints) -> NDArray[np.intp]:
    """Return for each pixel of the hole, row by row, the index of its shift: (n,). `likely` (n, 3) are its colours."""
    ys, xs = hole.nonzero()
    unary = np.stack([_rim_cost(features, hole, shift)[hole] for shift in shifts], 1)
    unary += UPRIGHT * np.abs(shifts[:, 0]) // len(hole)
    brought = np.empty((len(ys), len(shifts), features.values.shape[-1]), np.float32)
    for k, shift in enumerate(shifts):
        rows, columns, reached = _places(features.known, ys, xs, shift)
        brought[:, k] = features.values[rows, columns]
        unary[~reached, k] = UNKNOWN
    unary += (np.square(brought[..., :3] - likely[:, None]).sum(-1) / LIKELY).astype(np.int64)
    # Sums of squares of integers below 2^24 are exact in float32, in any order.
    squares = np.square(brought).sum(-1)
    apart = squares[:, :, None] + squares[:, None] - 2.0 * brought @ brought.transpose(0, 2, 1)
    return _propagate(hole, unary.astype(np.int32), apart.astype(np.int32))


def _rim_cost(features: Features, hole: Flags, shift: Ints) -> NDArray[np.int64]:
    """Return for each pixel (h, w) half the squared differences of the known pixels within `RIM` of it.

    They are scaled from those pixels of which the shifted ones are known too to all known ones.
    """
    every = np.indices(hole.shape).reshape(2, -1)
    rows, columns, _ = _places(features.known, every[0], every[1], shift)
    inside = (every[0] + shift[0] == rows) & (every[1] + shift[1] == columns)
    both = (features.firm.reshape(-1) & features.firm[rows, columns] & inside).reshape(hole.shape)
    apart = np.square(features.values - features.values[rows, columns].reshape(features.values.shape)).sum(-1) * both
    total, compared, all_known = (_sum_around(x) for x in (apart, both, features.known))
    scaled = total * all_known // (2 * np.maximum(compared, 1))
    return np.where((all_known > 0) & (compared == 0), UNSEEN, scaled)


def _sum_around(values: NDArray[np.generic]) -> NDArray[np.int64]:
    """Return the sums (h, w) over the square within `RIM` pixels, without what is beyond the picture."""
    side = 2 * RIM + 1
    summed = cv2.boxFilter(values.astype(np.float64), -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(np.rint(summed), np.int64)


def _propagate(hole: Flags, unary: Ints, apart: Ints) -> NDArray[np.intp]:
    """Approximate the labels (n,) of least cost: `unary` (n, k), and |F(p + s) - F(p + s')|^2 in `apart` (n, k, k).

    On a chain of pixels, the labels are exact.
    """
    number = np.full(hole.shape, -1, np.int64)
    number[hole] = np.arange(len(unary))
    directions = [[(p, q, apart[p] + apart[q]) for p, q in _edges(lines)] for lines in (number, number.T)]
    received = np.zeros((4, *unary.shape), np.int32)  # from the left, the right, above, below
    for _ in range(ROUNDS):
        for direction, edges in enumerate(directions):
            for back in (False, True):
                to, opposite = 2 * direction + back, 2 * direction + (not back)
                for first, second, pair in reversed(edges) if back else edges:
                    source, target = (second, first) if back else (first, second)
                    belief = unary[source] + received[:, source].sum(0) - received[opposite, source]
                    costs = (belief[:, :, None] + pair).min(1)
                    received[to, target] = costs - costs.min(1, keepdims=True)
    return np.asarray((unary + received.sum(0)).argmin(1))


def _edges(number: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return for each two neighbouring columns the numbers of pixels on both sides where both are in the hole."""
    both = (number[:, :-1] >= 0) & (number[:, 1:] >= 0)
    pairs = []
    for column in np.flatnonzero(both.any(0)):
        rows = both[:, column].nonzero()[0]
        pairs.append((number[rows, column], number[rows, column + 1]))
    return pairs
