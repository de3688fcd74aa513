"""Where a change ends, to the pixel: marks that were found by rough means, made exact.

What a pixel differs by has two explanations. It did not change: then it is what re-encoding does at places of the same
texture, whose deviation the unchanged part tells. It changed: then it is like what changed around it, by mean and
variance there (local Gaussian distribution fitting; Wang, He, Mishra & Li 2009, Signal Processing 89). Which of the two
holds depends on its neighbours as well: the mean field of a Potts model. Both are Student's t, since JPEG's noise has
long tails.

What changed by less than the noise of a pixel is seen in the mean of many. Such means are taken over what is unchanged
so far alone, so that nothing leaks out of what changed, and they count beside what changed already (hysteresis).

All arrays are (H, W) or, of three planes, (H, W, 3), float32; differences in units of 255 levels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Marks = NDArray[np.bool_]

CALM = 0.3
"""The quantile of the differences at which what re-encoding changes is read off."""

OF_NORMAL = 0.3853
"""That quantile of the absolute values of N(0, 1)."""

TURNS = 10
"""How often the two explanations are weighed; the field has settled then."""

MEASURED, GROWN = (0, 1, 4), (1, 3, 5)
"""Turns at which the noise is measured anew, and at which faint changes are looked for."""

AROUND = 4.0
"""Pixels: the deviation of the window in which what changed is described."""

TAILS = 3.0
"""Degrees of freedom."""

STRONGEST = 12.0
"""A pixel says at most so much (natural logarithms of odds)."""

ALIKE = 4.0
"""And its neighbours, if they are of one mind, this."""

FAINTEST, LOUDEST = 0.5, 24.0
"""Levels of 255: the noise of a pixel is between these, since equal bits have none, and an edit that changed everything
has no part that tells it."""

MEANS = (2.0, 4.0)
"""Pixels: deviations of the windows in which the means of faint changes are taken."""

FAINT, LEVELS = 3.5, 0.7
"""A mean is a change from so many deviations on, and from so many levels of 255."""

THIN = 2
"""Pixels: what is thinner than twice this and one is no faint change but the edge of one that is not."""

GRANTED = 2.0
"""What a faint change says of its pixels, as `STRONGEST`."""


def outlined(difference: Values, texture: Values, seen: Marks, marks: Marks) -> Values:
    """(H, W) in [0, 1]: how probable it is that a pixel changed, beginning with `marks`.

    Args:
        difference: (H, W, 3), of luma and two chromas.
        texture: (H, W, 3), how much is going on there in each of them.
        seen: where there is a difference.
        marks: about where it is a change.
    """
    field = marks.astype(np.float32)
    deviation = difference
    faint = np.zeros(seen.shape, bool)
    for turn in range(TURNS):
        if turn in MEASURED:
            calm = seen & (field < 0.5)
            deviation = _deviations(difference, texture, calm if calm.mean() > 0.05 else seen)
        if turn in GROWN:
            faint |= _faint(difference, texture, seen & (field < 0.5), field >= 0.5)
            field = np.maximum(field, faint)
        odds = _blurred(_odds(difference, deviation, field), 0.5) + GRANTED * faint
        odds += ALIKE * _blurred(2.0 * field - 1.0, 1.0)
        field = np.where(seen, 1.0 / (1.0 + np.exp(-odds)), 0.0).astype(np.float32)
    return field


def noise(off: Values, texture: Values, calm: Marks) -> Values:
    """(H, W): the deviation of what re-encoding makes of `off` at places of the same `texture`, told by those that are
    `calm`.
    """
    values, kinds = off[calm], texture[calm]
    bins = int(np.clip(len(values) // 2000, 1, 16))
    edges = np.quantile(kinds, np.linspace(0.0, 1.0, bins + 1))
    at = np.clip(np.searchsorted(edges, kinds, side="right") - 1, 0, bins - 1)
    levels = np.array([np.quantile(values[at == k], CALM) if (at == k).any() else 0.0 for k in range(bins)])
    smooth = np.array([np.median(levels[max(0, k - 1) : k + 2]) for k in range(bins)])
    middles = (edges[:-1] + edges[1:]) / 2.0
    return np.interp(texture, middles, smooth / OF_NORMAL).astype(np.float32)


def _blurred(x: Values, deviation: float) -> Values:
    blurred: Values = cv2.GaussianBlur(x, (0, 0), deviation)
    return blurred


def _deviations(difference: Values, texture: Values, calm: Marks) -> Values:
    """(H, W, 3): of each pixel, if it did not change."""
    planes = [noise(np.abs(difference[..., k]), texture[..., k], calm) for k in range(3)]
    return np.clip(np.dstack(planes), FAINTEST / 255.0, LOUDEST / 255.0)


def _odds(difference: Values, deviation: Values, field: Values) -> Values:
    """(H, W): the logarithm of how much more probable a pixel is, if it changed as those around it did."""
    near = _blurred(field, AROUND) + 1e-3
    weight = near[..., None]
    mean = _blurred(field[..., None] * difference, AROUND) / weight
    square = _blurred(field[..., None] * np.square(difference), AROUND) / weight
    variance = np.maximum(square - np.square(mean), np.square(deviation))

    def said(off: Values, variance: Values) -> Values:
        logarithm: Values = -(TAILS + 1.0) / 2.0 * np.log1p(np.square(off) / (variance * TAILS)) - np.log(variance) / 2
        return logarithm

    odds = (said(difference - mean, variance) - said(difference, np.square(deviation))).sum(-1)
    odds = np.where(near < 0.02, -STRONGEST, np.clip(odds, -STRONGEST, STRONGEST))
    return odds.astype(np.float32)


def _faint(difference: Values, texture: Values, calm: Marks, changed: Marks) -> Marks:
    """Of what is `calm` so far what differs in the mean, and lies beside what `changed`."""
    found = np.zeros(calm.shape, bool)
    if not calm.any():
        return found
    for scale in MEANS:
        near = _blurred(calm.astype(np.float32), scale)
        able = calm & (near > 0.15)
        for k in range(3):
            summed = np.abs(_blurred(calm * difference[..., k], scale))
            mean = (summed / np.maximum(near, 1e-3)).astype(np.float32)
            if able.any():
                bound = np.maximum(FAINT * noise(mean, texture[..., k], able), FAINT * LEVELS / 255.0)
                found |= able & (mean > bound)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * THIN + 1, 2 * THIN + 1))
    found = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_OPEN, disc) > 0
    beside = cv2.dilate(changed.astype(np.uint8), disc) > 0
    count, pieces = cv2.connectedComponents((found | beside).astype(np.uint8), connectivity=8)
    touching = np.bincount(pieces[beside], minlength=count) > 0
    touching[0] = False
    kept: Marks = found & touching[pieces]
    return kept
