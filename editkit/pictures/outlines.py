"""Where a change ends, to the pixel: marks that were found by rough means, made exact.

What a pixel differs by has two explanations. It did not change: then it is what re-encoding does at places of the same
texture, whose deviation the unchanged part tells. It changed: then it is like what changed around it, by mean and
variance there (local Gaussian distribution fitting; Wang, He, Mishra & Li 2009, Signal Processing 89). Which of the two
holds depends on its neighbours as well: the mean field of a Potts model. Both are Student's t, since JPEG's noise has
long tails. Or it is like nothing around: then each scale of difference is as probable (Jeffreys' prior).

An encoder that keeps one value of a chroma for four pixels spreads a change over its neighbours, which would seem
changed too. By how much is measured on what did not change: the blur that makes the picture most like the edit, in each
of luma and chromas. A pixel is then expected to have that part of the change around it that it has of the marks,
blurred alike.

What changed by less than the noise of a pixel is seen in the mean of many. Such means are taken over what is unchanged
so far and has nothing spread to it, and they count beside what changed already (hysteresis).

All arrays are (H, W) or, of three planes, (H, W, 3), float32; differences in units of 255 levels.
"""

from __future__ import annotations

from typing import Any

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

AROUND = 3.0
"""Pixels: the deviation of the window in which what changed is described."""

TAILS = 3.0
"""Degrees of freedom."""

AT_ZERO = 0.3676
"""Student's density of these at 0."""

STRONGEST = 12.0
"""A pixel says at most so much (natural logarithms of odds)."""

ALIKE = 4.0
"""And its neighbours, if they are of one mind, this."""

FAINTEST, LOUDEST = 0.5, 24.0
"""Levels of 255: the noise of a pixel is between these, since equal bits have none, and an edit that changed everything
has no part that tells it."""

SPREADS = (0.0, 0.35, 0.45, 0.55, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)
"""Pixels: the deviations of a blur, of which the encoder's is taken; 4:2:0's is 1."""

SPREADING = 2
"""The turn from which on changes are thought to spread: the first marks hold more than changed, which would seem to be
spread from around it."""

UNSURE = 1.0
"""Of what spreads to a pixel at an edge, the deviation: neither the blur's shape is known, nor where in a pixel the
edge lies."""

REACHED = 0.02
"""Of a change: more than this, spread to a pixel, would count as its own in a mean."""

SCALES = 50.0
"""What changed like nothing around it has the density 1 / (2 SCALES |d|): of 255 levels log(255) = 5.5 would be all."""

MEANS = (2.0, 4.0, 8.0)
"""Pixels: deviations of the windows in which the means of faint changes are taken."""

FAINT, LEVELS = 3.5, 0.4
"""A mean is a change from so many deviations on, and from so many levels of 255."""

THIN = 2
"""Pixels: what is thinner than twice this and one is no faint change but the edge of one that is not."""

GRANTED = 2.0
"""What a faint change says of its pixels, as `STRONGEST`."""


def outlined(before: Values, after: Values, texture: Values, seen: Marks, marks: Marks) -> Values:
    """(H, W) in [0, 1]: how probable it is that a pixel changed, beginning with `marks`.

    Args:
        before: (H, W, 3), luma and two chromas of the picture.
        after: of the edit.
        texture: (H, W, 3), how much is going on there in each of them.
        seen: where there is an edit.
        marks: about where it is a change.
    """
    spreads = _spreads(before, after, seen, marks)
    difference = np.dstack([after[..., k] - _spread(before[..., k], spreads[k]) for k in range(3)])
    field = marks.astype(np.float32)
    deviation = difference
    faint = np.zeros(seen.shape, bool)
    for turn in range(TURNS):
        if turn in MEASURED:
            calm = seen & (field < 0.5)
            deviation = _deviations(difference, texture, calm if calm.mean() > 0.05 else seen)
        if turn in GROWN:
            faint |= _faint(difference, texture, seen & (field < 0.5), field, spreads)
            field = np.maximum(field, faint)
        seem = spreads if turn >= SPREADING else [0.0, 0.0, 0.0]
        odds = _blurred(_odds(difference, deviation, field, seem), 0.5) + GRANTED * faint
        odds += ALIKE * _blurred(2.0 * field - 1.0, 1.0)
        field = np.where(seen, 1.0 / (1.0 + np.exp(-odds)), 0.0).astype(np.float32)
    return field


def _spread(plane: Values, deviation: float) -> Values:
    return plane if deviation == 0.0 else _blurred(plane, deviation)


def _spreads(before: Values, after: Values, seen: Marks, marks: Marks) -> list[float]:
    """Of each plane the blur, one of `SPREADS`, that an encoder has given to what is away from `marks`."""
    calm = seen & (cv2.dilate(marks.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0)
    found = [0.0, 0.0, 0.0]
    for k in range(3 if calm.any() else 0):
        off = [np.square(after[..., k] - _spread(before[..., k], spread))[calm].mean() for spread in SPREADS]
        found[k] = SPREADS[int(np.argmin(off))]
    return found


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


def _blurred(x: NDArray[Any], deviation: float) -> Values:
    blurred: Values = cv2.GaussianBlur(x, (0, 0), deviation)
    return blurred


def _deviations(difference: Values, texture: Values, calm: Marks) -> Values:
    """(H, W, 3): of each pixel, if it did not change."""
    planes = [noise(np.abs(difference[..., k]), texture[..., k], calm) for k in range(3)]
    return np.clip(np.dstack(planes), FAINTEST / 255.0, LOUDEST / 255.0)


def _odds(difference: Values, deviation: Values, field: Values, spreads: list[float]) -> Values:
    """(H, W): the logarithm of how much more probable a pixel is, if it changed as those around it did, or as nothing
    around, than if it did not, and has what spreads to it.
    """
    odds = np.zeros(field.shape, np.float32)
    for k, spread in enumerate(spreads):
        off, noise = difference[..., k], np.square(deviation[..., k])
        own = _own(spread)
        others = _spread(field, spread) - own * field  # what of a change comes to the pixel from elsewhere
        part = others + own
        mass = _blurred(field * np.square(part), AROUND) + 1e-3
        mean = _blurred(field * part * off, AROUND) / mass
        variance = np.maximum(_blurred(field * np.square(off - part * mean), AROUND) / mass, noise)
        alike = _said(off - part * mean, np.maximum(np.square(part) * variance, noise))
        odds += np.logaddexp(alike, _alone(off, noise))
        doubt = variance + np.square(UNSURE * (1.0 - part) * mean)
        odds -= _said(off - others * mean, noise + np.square(others) * doubt)
    odds = np.where(_blurred(field, AROUND) < 0.02, -STRONGEST, np.clip(odds, -STRONGEST, STRONGEST))
    return odds.astype(np.float32)


def _own(spread: float) -> float:
    """The part of a pixel that stays in it."""
    point = np.zeros((31, 31), np.float32)
    point[15, 15] = 1.0
    return float(_spread(point, spread)[15, 15])


def _said(off: NDArray[Any], variance: Values) -> Values:
    """The logarithm of Student's density, but for a constant."""
    logarithm: Values = -(TAILS + 1.0) / 2.0 * np.log1p(np.square(off) / (variance * TAILS)) - np.log(variance) / 2
    return logarithm


def _alone(off: Values, noise: Values) -> Values:
    """The logarithm of a density in which each scale from the noise on is as probable, but for the same constant."""
    logarithm: Values = -np.log(2.0 * SCALES * AT_ZERO * np.sqrt(np.maximum(np.square(off), noise)))
    return logarithm


def _faint(difference: Values, texture: Values, calm: Marks, field: Values, spreads: list[float]) -> Marks:
    """Of what is `calm` so far what differs in the mean, and lies beside what changed, `field`."""
    found = np.zeros(calm.shape, bool)
    if not calm.any():
        return found
    changed = field >= 0.5
    for k, spread in enumerate(spreads):
        clean = calm & (_spread(field, spread) < REACHED)
        for scale in MEANS:
            near = _blurred(clean.astype(np.float32), scale)
            able = calm & (near > 0.15)
            summed = np.abs(_blurred(clean * difference[..., k], scale))
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
