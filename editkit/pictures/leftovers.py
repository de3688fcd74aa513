"""Find what a tight mask leaves of an object: specks at its rim, on a smooth background."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from editkit.pictures.raster import largest
from editkit.pictures.shapes import Mask, as_mask

if TYPE_CHECKING:
    from editkit.pictures.picture import Picture

BUSY, BLUR = 8.0, 3.0
"""The smallest difference of a speck from its blurred surroundings, in levels of 255; the blur's standard deviation."""

AROUND = 3
"""How far a speck extends beyond its clear pixels, in pixels."""

CALM = 0.1
"""Largest share of other objects in the surroundings."""


def with_leftovers(mask: Mask, picture: Picture, reach: int) -> Mask:
    """Extend `mask` (H, W) by the protruding parts of its object: those that start at the mask, end within `reach`
    pixels of it, and have a smooth background.

    In grass the texture continues, and nothing is added; a branch that extends further counts as another object.
    """
    import cv2

    hole = mask > 0
    if hole.all() or not hole.any():
        return mask
    levels = picture.visible.astype(np.float32) * np.float32(255.0 / largest(picture.pixels.dtype))
    outside = (~hole).astype(np.float32)
    weight = np.maximum(cv2.GaussianBlur(outside, (0, 0), BLUR), np.float32(1e-6))
    around = cv2.GaussianBlur(levels * outside[..., None], (0, 0), BLUR) / weight[..., None]  # of what is outside alone
    busy = (np.abs(levels - around).max(axis=2) > BUSY) & ~hole
    away = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    closed = cv2.morphologyEx(busy.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) & ~hole
    count, labels = cv2.connectedComponents(closed.astype(np.uint8), connectivity=8)
    nearest, furthest = np.full(count, np.inf), np.zeros(count)
    np.minimum.at(nearest, labels.ravel(), away.ravel())
    np.maximum.at(furthest, labels.ravel(), away.ravel())
    sticks = (nearest <= AROUND) & (furthest <= reach)
    sticks[0] = False
    found = sticks[labels]
    side = (2 * reach + 1, 2 * reach + 1)
    others, seen = (cv2.blur(z.astype(np.float32), side) for z in ((closed > 0) & ~found, ~hole))
    found &= others <= CALM * seen
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * AROUND + 1, 2 * AROUND + 1))
    flecks = cv2.dilate(found.astype(np.uint8), disc) > 0
    return as_mask(np.where(flecks & ~hole, np.float32(1.0), mask))
