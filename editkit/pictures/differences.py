"""Find roughly where two pictures differ by more than re-encoding causes.

The difference is taken at several scales, relative to that of places with the same texture. `outlines` refines the
result.

All arrays are (H, W, 3) float32 in [0, 1] unless stated otherwise.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from editkit.pictures.outlines import noise_deviation

Values = NDArray[np.float32]
Marks = NDArray[np.bool_]

SCALES = (0.8, 2.0, 4.0)
"""Standard deviations of the blurs for the comparison, in pixels."""

DEVIATIONS = 4.0
"""A change exceeds this many standard deviations of the re-encoding noise."""

FLOORS = (3.0, 2.0, 1.5)
"""The smallest change at each scale, in levels of 255: identical pictures have no noise at all."""

CEILINGS = (64.0, 24.0, 12.0)
"""The largest threshold at each scale: an edit that changed everything has no unchanged part to measure."""

SURE = 2.0
"""A region counts as changed only near a difference of this many times the threshold."""

EDGE = 0.5
"""A change ends at this fraction of its inner value, which is where a blurred step has its edge."""

HOLE, SPECK = 1 / 2000, 1 / 8000
"""Shares of the picture: smaller unchanged holes inside a change count as changed, and smaller isolated changes are
discarded."""


def mark_changes(picture: Values, difference: Values, seen: Marks) -> Marks:
    """Return (H, W): where the `difference` of an edit to `picture` exceeds that of re-encoding."""
    textures = [texture(plane) for plane in planes(picture)]
    found, sure = np.zeros(seen.shape, bool), np.zeros(seen.shape, bool)
    for scale, *limits in zip(SCALES, FLOORS, CEILINGS, strict=True):
        ratio, whole = np.zeros(seen.shape, np.float32), np.zeros(seen.shape, np.float32)
        for plane, around in zip(planes(difference), textures, strict=True):
            off = np.abs(cv2.GaussianBlur(plane, (0, 0), scale))
            bound = np.clip(
                DEVIATIONS * noise_deviation(off, around, seen), *np.divide(limits, 255.0, dtype=np.float32)
            )
            ratio, whole = np.maximum(ratio, off / bound), np.maximum(whole, off)
        reach = 2 * round(3.0 * scale) + 5
        ends = whole >= EDGE * cv2.dilate(whole, np.ones((reach, reach), np.uint8))
        found |= _trim(ratio > 1.0, ends, scale) & seen
        sure |= _trim(ratio > SURE, ends, scale) & seen
    return _clean(found, sure) & seen


def _trim(marks: Marks, ends: Marks, scale: float) -> Marks:
    """Trim `marks` from the blurred change to the change itself; their inner part stays."""
    return (marks & ends) | _erode(marks, round(2.5 * scale) + 2)


def planes(picture: Values) -> list[Values]:
    """Return luma and two chroma planes, which encoders treat differently."""
    red, green, blue = (picture[..., k] for k in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return [luma, blue - luma, red - luma]


def texture(plane: Values) -> Values:
    """Return (H, W): the amount of texture around each pixel, within encoder blocks."""
    steep = np.hypot(*(cv2.Sobel(plane, cv2.CV_32F, *axis, ksize=3) for axis in ((1, 0), (0, 1))))
    around: Values = cv2.GaussianBlur(cv2.dilate(steep, np.ones((9, 9), np.uint8)), (0, 0), 3.0)
    return around


def _erode(marks: Marks, radius: int) -> Marks:
    eroded: Marks = cv2.erode(marks.astype(np.uint8), _disc(radius), borderValue=1) > 0
    return eroded


def _disc(radius: int) -> NDArray[np.uint8]:
    disc: NDArray[np.uint8] = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return disc


def _clean(marks: Marks, sure: Marks) -> Marks:
    """Keep the part of `marks` near `sure`, close it morphologically, and remove specks."""
    height, width = marks.shape
    radius = max(3, round(min(height, width) / 100))
    least = max(9, round(height * width / 4000))
    near = cv2.dilate(sure.astype(np.uint8), _disc(radius)) > 0
    padded = cv2.copyMakeBorder((marks & near).astype(np.uint8), radius, radius, radius, radius, cv2.BORDER_REPLICATE)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, _disc(radius))[radius:-radius, radius:-radius]
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, _disc(2))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    area = stats[:, cv2.CC_STAT_AREA]
    kept = (area >= least) & (np.bincount(labels[sure], minlength=count) >= 0.1 * area)
    kept[0] = False
    cleaned: Marks = kept[labels]
    return cleaned


def remove_specks_and_holes(changed: Marks) -> Marks:
    """Remove specks and small holes from `changed`."""
    filled = ~_keep_large(~changed, HOLE, connectivity=4)
    return _keep_large(filled, SPECK, connectivity=8)


def _keep_large(marks: Marks, least: float, connectivity: int) -> Marks:
    """Keep the parts of `marks` of at least this share of the picture, or 9 pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(marks.astype(np.uint8), connectivity=connectivity)
    kept = stats[:, cv2.CC_STAT_AREA] >= max(9, least * marks.size)
    kept[0] = False
    large: Marks = kept[labels]
    return large
