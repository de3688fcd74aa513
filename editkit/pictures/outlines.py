"""Refine rough marks of a change to the exact pixels that changed.

The difference of a pixel has two explanations. If the pixel did not change, its difference is re-encoding noise, whose
deviation is estimated from the unchanged pixels with the same texture. If it changed, it resembles the changed pixels
around it, with their local mean and variance (local Gaussian distribution fitting; Wang, He, Mishra & Li 2009, Signal
Processing 89). The neighbours count as well: the labels are the mean field of a Potts model. Both densities are
Student's t, because JPEG noise has long tails. A changed pixel may also resemble nothing around it; then every scale of
the difference is equally probable (Jeffreys' prior).

An encoder with chroma subsampling stores one chroma value for four pixels, so a change spreads to its neighbours, which
would then seem changed too. The spread is estimated from the unchanged pixels, for luma and each chroma: it is the blur
that makes the original most similar to the edit. The expected share of a change at a pixel is the blurred field of the
marks.

A change below the noise of one pixel is visible in the mean of many. Such means are taken over pixels that count as
unchanged so far and that no change has spread to. They count only beside a change found before (hysteresis).

All arrays are float32, (H, W), or (H, W, 3) for three planes, in units of 255 levels.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Marks = NDArray[np.bool_]

CALM = 0.3
"""The quantile of the absolute differences from which the re-encoding noise is estimated."""

OF_NORMAL = 0.3853
"""The same quantile of |N(0, 1)|."""

TURNS = 10
"""Number of mean-field iterations; the field has converged by then."""

MEASURED, GROWN = (0, 1, 4), (1, 3, 5)
"""Iterations in which the noise is estimated again, and in which faint changes are searched for."""

CHECKED = 7
"""The iteration in which faint changes are searched for again. Before the clear changes have their outlines, their rims
count as unchanged, and the means beside them differ."""

AROUND = 3.0
"""Standard deviation of the window for the local mean and variance of a change, in pixels."""

TAILS = 3.0
"""Degrees of freedom of Student's t."""

AT_ZERO = 0.3676
"""Density of Student's t with `TAILS` degrees of freedom at 0."""

STRONGEST = 12.0
"""Largest evidence of one pixel, as natural log odds."""

ALIKE = 4.0
"""Evidence of the neighbours if all of them agree, as natural log odds."""

FAINTEST, LOUDEST = 0.5, 24.0
"""Bounds of a pixel's noise, in levels of 255. Identical pictures have no noise, and an edit that changed everything
has no unchanged part to estimate it from."""

SPREADS = (0.0, 0.35, 0.45, 0.55, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)
"""Candidate standard deviations of the encoder's blur, in pixels; 4:2:0 has 1."""

SPREADING = 2
"""The first iteration that models spreading. The first marks are too large, and their surplus would be taken for a
spread of the change."""

UNSURE = 1.0
"""Relative standard deviation of the spread at an edge: neither the shape of the blur nor the subpixel position of the
edge is known."""

REACHED = 0.02
"""Pixels that receive at least this share of a change by spreading are excluded from the means."""

SCALES = 50.0
"""A change that resembles nothing around it has the density 1 / (2 SCALES |d|); log(255) = 5.5 would normalise it over
255 levels."""

MEANS = (2.0, 4.0, 8.0)
"""Standard deviations of the windows for the means of faint changes, in pixels."""

FAINT, LEVELS = 3.5, 0.4
"""A mean counts as a change above `FAINT` standard deviations, but at least above `FAINT` * `LEVELS` levels of 255."""

THIN = 2
"""In pixels: regions thinner than 2 `THIN` + 1 are not faint changes but edges of stronger ones."""

GRANTED = 2.0
"""Evidence for the pixels of a faint change, as natural log odds."""


def change_probability(before: Values, after: Values, texture: Values, seen: Marks, marks: Marks) -> Values:
    """Return the probability that each pixel changed, (H, W) in [0, 1].

    Args:
        before: luma and two chroma planes of the original, (H, W, 3).
        after: the same of the edit.
        texture: amount of texture in each plane, (H, W, 3).
        seen: where the edit has pixels.
        marks: rough marks of the change, the initial state.
    """
    spreads = _estimate_blurs(before, after, seen, marks)
    difference = np.dstack([after[..., k] - _blur_unless_zero(before[..., k], spreads[k]) for k in range(3)])
    field = marks.astype(np.float32)
    deviation = difference
    faint = np.zeros(seen.shape, bool)
    for turn in range(TURNS):
        if turn in MEASURED:
            calm = seen & (field < 0.5)
            deviation = _deviations(difference, texture, calm if calm.mean() > 0.05 else seen)
        if turn in GROWN:
            faint |= _find_faint(difference, texture, seen & (field < 0.5), field, spreads)
            field = np.maximum(field, faint)
        seem = spreads if turn >= SPREADING else [0.0, 0.0, 0.0]
        odds = _blur(_log_odds(difference, deviation, field, seem), 0.5)
        if turn == CHECKED:
            weak = faint & (odds < 0.0)
            rest = np.where(weak, np.float32(0.0), field)
            doubtful = weak & ~_find_faint(difference, texture, seen & (rest < 0.5), rest, spreads)
            faint &= ~doubtful
            field = np.where(doubtful, np.float32(0.0), field)
        odds += GRANTED * faint
        odds += ALIKE * _blur(2.0 * field - 1.0, 1.0)
        field = np.where(seen, 1.0 / (1.0 + np.exp(-odds)), 0.0).astype(np.float32)
    return field


def _blur_unless_zero(plane: Values, deviation: float) -> Values:
    return plane if deviation == 0.0 else _blur(plane, deviation)


def _estimate_blurs(before: Values, after: Values, seen: Marks, marks: Marks) -> list[float]:
    """Return the encoder's blur of each plane, one of `SPREADS`, estimated away from `marks`."""
    calm = seen & (cv2.dilate(marks.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0)
    found = [0.0, 0.0, 0.0]
    for k in range(3 if calm.any() else 0):
        off = [np.square(after[..., k] - _blur_unless_zero(before[..., k], spread))[calm].mean() for spread in SPREADS]
        found[k] = SPREADS[int(np.argmin(off))]
    return found


def noise_deviation(off: Values, texture: Values, calm: Marks) -> Values:
    """Return (H, W): the standard deviation of the re-encoding noise in `off` as a function of `texture`, estimated
    from the pixels where `calm` is true.
    """
    values, kinds = off[calm], texture[calm]
    bins = int(np.clip(len(values) // 2000, 1, 16))
    edges = np.quantile(kinds, np.linspace(0.0, 1.0, bins + 1))
    at = np.clip(np.searchsorted(edges, kinds, side="right") - 1, 0, bins - 1)
    levels = np.array([np.quantile(values[at == k], CALM) if (at == k).any() else 0.0 for k in range(bins)])
    smooth = np.array([np.median(levels[max(0, k - 1) : k + 2]) for k in range(bins)])
    middles = (edges[:-1] + edges[1:]) / 2.0
    return np.interp(texture, middles, smooth / OF_NORMAL).astype(np.float32)


def _blur(x: NDArray[Any], deviation: float) -> Values:
    blurred: Values = cv2.GaussianBlur(x, (0, 0), deviation)
    return blurred


def _deviations(difference: Values, texture: Values, calm: Marks) -> Values:
    """Return (H, W, 3): the standard deviation of each pixel if it did not change."""
    planes = [noise_deviation(np.abs(difference[..., k]), texture[..., k], calm) for k in range(3)]
    return np.clip(np.dstack(planes), FAINTEST / 255.0, LOUDEST / 255.0)


def _log_odds(difference: Values, deviation: Values, field: Values, spreads: list[float]) -> Values:
    """Return (H, W): the log odds that a pixel changed, like the changes around it or unlike them, against that it did
    not change and only receives what spreads to it.
    """
    odds = np.zeros(field.shape, np.float32)
    for k, spread in enumerate(spreads):
        off, noise = difference[..., k], np.square(deviation[..., k])
        own = _centre_share(spread)
        others = _blur_unless_zero(field, spread) - own * field  # the share of a change that spreads to the pixel
        part = others + own
        mass = _blur(field * np.square(part), AROUND) + 1e-3
        mean = _blur(field * part * off, AROUND) / mass
        variance = np.maximum(_blur(field * np.square(off - part * mean), AROUND) / mass, noise)
        alike = _log_student_t(off - part * mean, np.maximum(np.square(part) * variance, noise))
        odds += np.logaddexp(alike, _log_scale_free(off, noise))
        doubt = variance + np.square(UNSURE * (1.0 - part) * mean)
        odds -= _log_student_t(off - others * mean, noise + np.square(others) * doubt)
    odds = np.where(_blur(field, AROUND) < 0.02, -STRONGEST, np.clip(odds, -STRONGEST, STRONGEST))
    return odds.astype(np.float32)


def _centre_share(spread: float) -> float:
    """Return the share of a pixel's value that the blur leaves in it."""
    point = np.zeros((31, 31), np.float32)
    point[15, 15] = 1.0
    return float(_blur_unless_zero(point, spread)[15, 15])


def _log_student_t(off: NDArray[Any], variance: Values) -> Values:
    """Return the log density of Student's t, up to a constant."""
    logarithm: Values = -(TAILS + 1.0) / 2.0 * np.log1p(np.square(off) / (variance * TAILS)) - np.log(variance) / 2
    return logarithm


def _log_scale_free(off: Values, noise: Values) -> Values:
    """Return the log density in which all scales above the noise are equally probable, up to the same constant."""
    logarithm: Values = -np.log(2.0 * SCALES * AT_ZERO * np.sqrt(np.maximum(np.square(off), noise)))
    return logarithm


def _find_faint(difference: Values, texture: Values, calm: Marks, field: Values, spreads: list[float]) -> Marks:
    """Return the `calm` pixels that differ in the mean and are connected to a change in `field`."""
    found = np.zeros(calm.shape, bool)
    if not calm.any():
        return found
    changed = field >= 0.5
    for k, spread in enumerate(spreads):
        clean = calm & (_blur_unless_zero(field, spread) < REACHED)
        for scale in MEANS:
            near = _blur(clean.astype(np.float32), scale)
            able = calm & (near > 0.15)
            summed = np.abs(_blur(clean * difference[..., k], scale))
            mean = (summed / np.maximum(near, 1e-3)).astype(np.float32)
            if able.any():
                bound = np.maximum(FAINT * noise_deviation(mean, texture[..., k], able), FAINT * LEVELS / 255.0)
                found |= able & (mean > bound)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * THIN + 1, 2 * THIN + 1))
    found = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_OPEN, disc) > 0
    beside = cv2.dilate(changed.astype(np.uint8), disc) > 0
    count, pieces = cv2.connectedComponents((found | beside).astype(np.uint8), connectivity=8)
    touching = np.bincount(pieces[beside], minlength=count) > 0
    touching[0] = False
    kept: Marks = found & touching[pieces]
    return kept
