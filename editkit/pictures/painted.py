"""Masks painted in one colour, for example pure red, on black, on white, or on transparency.

Painted pixels are regenerated. A picture is such a mask if it has only one colour c, one background b, black or white,
and mixtures of the two at the edges of strokes:

    pixel = b + t (c - b),  t in [0, 1],

and t is the mask. Most pixels must be pure background or pure paint, because the pixels of a tinted photograph are on
such a line too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from editkit.pictures.raster import Raster, largest
from editkit.pictures.shapes import Mask, as_mask

OFF = 3.0 / 255.0
"""Tolerance of the distance to the line, for rounding."""

OFF_LOSSY, SHARE_LOSSY = 32.0 / 255.0, 0.8
"""The same in a lossy file, and the share of painted pixels that must fulfil it: colours are smeared at edges."""

PLAIN = 0.75
"""The share of the picture that must be pure background or paint."""

NEAR = 0.1
"""Pixels this close to background or paint (in t) count as pure."""

SATURATED = 0.2
"""A colour's channels differ by more than this share of white; otherwise it is a grey."""


def read_painted_mask(picture: Raster) -> tuple[Mask, str] | None:
    """Return the mask and a description of how it was read; None if it was not painted in one colour."""
    red, green, blue = (picture.pixels[..., k] for k in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return None
    pixels = picture.pixels.astype(np.float32) / np.float32(largest(picture.pixels.dtype))
    alpha = None if picture.alpha is None else picture.alpha / np.float32(largest(picture.alpha.dtype))
    shown = np.ones(pixels.shape[:2], bool) if alpha is None else alpha > 0
    varies = alpha is not None and bool((alpha != alpha.flat[0]).any())
    if not shown.any():
        return None
    lossy = not picture.meta.lossless and picture.meta.format is not None
    for name, ground in (("black", 0.0), ("white", 1.0)):
        t = _color_line_position(pixels, shown, np.float32(ground), lossy)
        if t is None or (varies and ground == 1.0 and bool((t[shown] < NEAR).any())):
            continue  # white and transparency: the background is ambiguous
        on = "" if t[shown].min() > 1.0 - NEAR else f" on {name}"
        message = f"is painted in one colour{on}{' on transparency' if varies else ''}; what is painted is regenerated"
        return as_mask(t * alpha if varies else np.where(shown, t, 0.0)), message
    return None


def _color_line_position(
    pixels: NDArray[Any], shown: NDArray[np.bool_], ground: np.float32, lossy: bool
) -> NDArray[Any] | None:
    """Return t of each pixel on the line from `ground` to the colour farthest from it; None without such a line."""
    away = np.abs(pixels - ground).max(axis=2)
    far = float(away[shown].max())
    if far == 0.0:
        return None
    paint = np.median(pixels[shown & (away >= (0.8 if lossy else 1.0) * far)], axis=0)
    if np.ptp(paint) <= SATURATED:
        return None
    line = paint - ground
    t = ((pixels - ground) @ line / float(line @ line)).round(6).clip(0.0, 1.0)  # sums differ between processors
    off = np.abs(pixels - ground - t[..., None] * line).max(axis=2)
    stroke = shown & (t > NEAR)
    on_line = (off[stroke] <= OFF_LOSSY).mean() >= SHARE_LOSSY if lossy else (off[shown] <= OFF).all()
    plain = ((t < NEAR) | (t > 1.0 - NEAR))[shown].mean() >= PLAIN
    if not (on_line and plain and (not lossy or (off[shown & ~stroke] <= OFF_LOSSY).mean() >= 0.99)):
        return None
    return np.asarray(t >= 0.5, dtype=np.float32) if lossy else t
