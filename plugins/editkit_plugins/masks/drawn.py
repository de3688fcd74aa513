"""Masks drawn by hand, in words: `flood:x,y~tolerance` and `brush:x,y,x,y...:radius`.

Coordinates may be in per cent, as those of boxes.
"""

from __future__ import annotations

import re

import numpy as np

from editkit.pictures.picture import Picture
from editkit.pictures.shapes import TOLERANCE, Mask, Shape, ShapeError, as_mask, coordinates, visible_mask

ROWS = 256
"""Rows drawn at a time, to bound memory."""


def flood(picture: Picture, x: float, y: float, tolerance: float = TOLERANCE) -> Mask:
    """Flood fill: mark the pixels that are 4-connected to (x, y) through pixels of similar colour.

    Similar: no channel differs by more than `tolerance`, in levels of 255. The result is (H, W) of 0 and 1.

    Raises:
        ShapeError: (x, y) lies outside the picture.
    """
    import cv2

    column, row = int(np.floor(x)), int(np.floor(y))
    if not (0 <= column < picture.width and 0 <= row < picture.height):
        raise ShapeError(f"flood:{x:g},{y:g}: lies outside the picture of {picture.width}x{picture.height}")
    shown = np.broadcast_to(visible_mask(picture), (picture.height, picture.width))
    near = np.abs(picture.pixels.astype(np.int32) - picture.pixels[row, column]).max(axis=2)
    within = near <= tolerance * float(np.iinfo(picture.pixels.dtype).max) / 255.0
    # fully transparent pixels have no colour: they connect only to each other
    within = within & shown if shown[row, column] else ~shown
    _, labels = cv2.connectedComponents(within.astype(np.uint8), connectivity=4)
    return as_mask(labels == labels[row, column])


def brush(picture: Picture, points: list[tuple[float, float]], radius: float) -> Mask:
    """Mark the pixels whose centre is within `radius` of the line through `points`; one point makes a disc.

    The result is (H, W) of 0 and 1; points and radius are in pixels.
    """
    made = np.zeros((picture.height, picture.width), bool)
    for (xa, ya), (xb, yb) in dict.fromkeys(zip(points, points[1:] or points, strict=False)):
        left, right = (int(np.clip(v, 0, picture.width)) for v in (min(xa, xb) - radius, max(xa, xb) + radius + 1))
        top, bottom = (int(np.clip(v, 0, picture.height)) for v in (min(ya, yb) - radius, max(ya, yb) + radius + 1))
        x = np.arange(left, right)[None, :] + 0.5
        dx, dy = xb - xa, yb - ya
        for first in range(top, bottom, ROWS):
            part = made[first : min(first + ROWS, bottom), left:right]
            if part.all():  # a wide brush covers the same pixels many times
                continue
            y = np.arange(first, first + len(part))[:, None] + 0.5
            t = np.clip(((x - xa) * dx + (y - ya) * dy) / max(dx * dx + dy * dy, 1e-12), 0.0, 1.0)
            part |= np.hypot(x - xa - t * dx, y - ya - t * dy) <= radius
    return as_mask(made)


def _flood(picture: Picture, values: str) -> Mask:
    at, tilde, tolerance = values.partition("~")
    numbers = coordinates("flood", at, picture)
    if len(numbers) != 2 or (tilde and not re.fullmatch(r"\d+(\.\d+)?", tolerance)):
        raise ShapeError(f"'flood:{values}': write flood:x,y or flood:x,y~20 with a tolerance of 0 to 255")
    return flood(picture, numbers[0], numbers[1], float(tolerance or TOLERANCE))


def _brush(picture: Picture, values: str) -> Mask:
    along, _, wide = values.rpartition(":")
    numbers = coordinates("brush", along, picture) if along else []
    if not numbers or len(numbers) % 2 or not re.fullmatch(r"\d*\.?\d+%?", wide):
        raise ShapeError(f"'brush:{values}': write brush:x,y,x,y...:radius, as in brush:10,10,80,40:6")
    radius = float(wide[:-1]) * picture.width / 100.0 if wide.endswith("%") else float(wide)
    mask = brush(picture, list(zip(numbers[::2], numbers[1::2], strict=True)), radius)
    if not mask.any():
        raise ShapeError(f"'brush:{values}': marks no pixel of the picture of {picture.width}x{picture.height}")
    return mask


FLOOD = Shape("flood", "flood:x,y~tolerance", _flood, "The area of similar colour around a point.", "20,20~40")
BRUSH = Shape("brush", "brush:x,y,x,y...:radius", _brush, "A stroke of a brush.", "10,10,40,30:4")
