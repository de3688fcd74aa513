"""The crops that an edit works on: boxes around the masked area.

Integers only, no torch, so that a plan can be printed without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CELL = 16
"""Masked pixels closer than this belong to the same hole, in pixels."""

GAIN = 2.0
"""Holes get separate boxes if that makes the total area smaller by this factor."""


@dataclass(frozen=True)
class Box:
    """Pixels `left <= x < right`, `top <= y < bottom` of a picture."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def area(self) -> int:
        return self.width * self.height

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)

    def overlaps(self, other: Box) -> bool:
        """Whether they share a pixel."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def united(self, other: Box) -> Box:
        """Return the smallest box around both."""
        return Box(
            min(self.left, other.left), min(self.top, other.top),
            max(self.right, other.right), max(self.bottom, other.bottom),
        )  # fmt: skip


def around(mask: np.ndarray, context: float, least: int = 0) -> Box:
    """Return a box inside the picture around the mask, `context` times the mask's size and at least `least` pixels."""
    return expand_box(bounds(mask), mask.shape, context, least)


def crops(mask: np.ndarray, context: float, least: int = 0) -> tuple[Box, ...]:
    """Like `around`, but distant holes get separate boxes if that reduces the work by a factor of `GAIN`.

    The boxes do not overlap, and every masked pixel is in one of them.
    """
    whole = around(mask, context, least)
    holes = [(hole, expand_box(hole, mask.shape, context, least)) for hole in _holes(mask)]
    merged = True
    while merged:
        merged = False
        for i, (hole, box) in enumerate(holes):
            near = next((j for j in range(i + 1, len(holes)) if box.overlaps(holes[j][1])), None)
            if near is not None:
                both = hole.united(holes.pop(near)[0])
                holes[i] = (both, expand_box(both, mask.shape, context, least))
                merged = True
                break
    boxes = tuple(box for _, box in holes)
    return boxes if GAIN * sum(box.area for box in boxes) <= whole.area else (whole,)


def bounds(mask: np.ndarray) -> Box:
    """Return the smallest box around the masked pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def expand_box(hole: Box, shape: tuple[int, ...], context: float, least: int = 0) -> Box:
    """Return a box around `hole`, `context` times as large (at least `least` pixels), inside a picture of `shape`."""
    side = max(round(context * max(hole.height, hole.width)), least)
    x0, x1 = _span(hole.left, hole.right, side, shape[1])
    y0, y1 = _span(hole.top, hole.bottom, side, shape[0])
    return Box(x0, y0, x1, y1)


def padded_bounds(mask: np.ndarray, padding: int) -> Box:
    """Return the mask's bounds with `padding` pixels around, square if the picture allows: diffusers' crop."""
    hole, (height, width) = bounds(mask), mask.shape
    left, right = max(hole.left - padding, 0), min(hole.right + padding, width)
    top, bottom = max(hole.top - padding, 0), min(hole.bottom + padding, height)
    side = max(right - left, bottom - top)

    def span(low: int, high: int, limit: int) -> tuple[int, int]:
        first = low - (side - (high - low)) // 2
        first = max(min(first, limit - side), 0)
        return first, min(first + side, limit)

    (left, right), (top, bottom) = span(left, right, width), span(top, bottom, height)
    return Box(left, top, right, bottom)


def _holes(mask: np.ndarray) -> list[Box]:
    """Return the bounds of every connected part of the mask, in cells of `CELL` pixels."""
    import cv2

    height, width = mask.shape
    marked = coverage(mask > 0, -(-height // CELL), -(-width // CELL)) > 0
    count, _, found, _ = cv2.connectedComponentsWithStats(marked.astype(np.uint8), connectivity=8)
    parts = []
    for left, top, across, down, _ in found[1:count]:
        y, x = int(top) * height // marked.shape[0], int(left) * width // marked.shape[1]
        bottom = -(-int(top + down) * height // marked.shape[0])
        right = -(-int(left + across) * width // marked.shape[1])
        inner = bounds(mask[y:bottom, x:right])
        parts.append(Box(x + inner.left, y + inner.top, x + inner.right, y + inner.bottom))
    return parts


def _span(low: int, high: int, side: int, limit: int) -> tuple[int, int]:
    """Return an interval of `side` (at most `limit`) around [low, high) and inside [0, limit)."""
    side = min(max(side, high - low), limit)
    first = min(max((low + high - side) // 2, 0), limit - side)
    return first, first + side


def coverage(hole: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the share of `hole` (h, w) in each pixel at a smaller size: (height, width)."""
    sums = integral(hole)
    edges = []
    for n, size in ((hole.shape[0], height), (hole.shape[1], width)):
        k = np.arange(size)
        edges.append((k * n // size, -(-(k + 1) * n // size)))
    (top, bottom), (left, right) = edges
    total = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]
    share: np.ndarray = total / ((bottom - top)[:, None] * (right - left)[None, :])
    return share


def integral(flags: np.ndarray) -> np.ndarray:
    """Return the integral image of `flags` (h, w), bool: (h + 1, w + 1)."""
    import cv2

    return np.asarray(cv2.integral(flags.astype(np.uint8)))  # 32 bits: up to 46,340 x 46,340 pixels


WIDE = 1 / 16
"""A hole is wide if a disc of this radius, relative to the crop's longer side, fits into it; strokes are not."""


def is_wide(hole: np.ndarray) -> bool:
    """Whether a disc with a radius of `WIDE` of the longer side fits into `hole`."""
    import cv2

    depth = cv2.distanceTransform(np.pad(hole, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return bool(depth.max() >= WIDE * max(hole.shape))
