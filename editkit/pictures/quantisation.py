"""How much a photograph errs after its DCT coefficients were quantised, as JPEG does."""

from __future__ import annotations

import numpy as np

SPREAD = 6_000.0
"""Variance of a photograph's DCT coefficient (u, v) of 8x8 pixels is about this over u^2 + v^2, in levels of 255."""


def quantisation_noise(steps: np.ndarray) -> float:
    """Return the standard deviation in a photograph of the noise that quantisation by `steps` makes, in levels of 255.

    A coefficient of variance v, quantised in steps q, errs by q^2 / 12, but hardly by more than v; `steps` has 64
    values, row by row.
    """
    k = np.arange(8.0)
    radius = (k[:, None] ** 2 + k[None, :] ** 2).ravel()
    variance = SPREAD / np.maximum(radius, 0.1)
    error = np.asarray(steps, float).ravel() ** 2 / 12
    return float(np.sqrt((error * variance / (error + variance)).mean()))
