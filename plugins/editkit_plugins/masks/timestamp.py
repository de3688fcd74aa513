"""`timestamp`: the date that a camera printed near a corner, in orange, red, yellow or white.

In a strip along the upper and the lower edge, find thin strokes of such a colour that are brighter than their
surroundings. A date is a row of characters of about equal height on one line. Each strip is searched for one colour at
a time. The best row is taken if it has enough characters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from editkit.pictures.picture import Picture
from editkit.pictures.raster import largest
from editkit.pictures.shapes import Mask, Shape, ShapeError, as_mask

STRIP = 0.2
"""Height of the strips, as a fraction of the picture's height."""

HIGH = (0.012, 0.07)
"""Least and largest height of a character, as fractions of the picture's height."""

CONTRAST = 30.0
"""Least contrast of a stroke with its surroundings, in levels of 255."""

OWN = 0.6
"""Least contrast of a stroke relative to the strokes around it. The glow of an LED has less, and would join
characters."""

PIECES, LEAST = 5.0, 4.0
"""Least number n of characters, and least score n / (1 + 5 * relative standard deviation of their heights)."""

MIDDLE = 0.3
"""Least horizontal distance of the date's middle from the picture's middle, in half widths of the picture."""


def timestamp(picture: Picture) -> Mask:
    """Mark the characters of a date, with a rim of a few pixels: (H, W) of 0 and 1, all 0 if none is found."""
    import cv2

    rgb = picture.pixels.astype(np.float32) * np.float32(255.0 / largest(picture.pixels.dtype))
    height = picture.height
    mask = np.zeros((height, picture.width), np.uint8)
    strip = max(1, round(STRIP * height))
    best = 0.0
    for rows in (slice(0, strip), slice(height - strip, height)):
        for strokes in _colours(rgb[rows], height):
            score, found = _row(strokes, height)
            if score > best:
                best = score
                mask[:] = 0
                mask[rows] = found
    rim = max(1, round(0.003 * height))
    return as_mask(cv2.dilate(mask, np.ones((2 * rim + 1, 2 * rim + 1), np.uint8)))


def _colours(rgb: NDArray[np.float32], height: int) -> list[NDArray[np.uint8]]:
    """Return two masks of strokes, (h, w) of 0 and 1: of an LED's colours (orange, red, yellow), and of white."""
    import cv2

    wide = max(3, round(0.02 * height)) | 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (wide, wide))
    red, green, blue = (rgb[..., k] for k in range(3))
    warm = np.minimum(red, 3.0 * (red - blue))  # as bright as it is warm
    diode = (red > 130) & (red - blue > 50) & (red >= green - 10) & (green > blue - 30)
    white = (rgb.min(axis=2) > 170) & (rgb.max(axis=2) - rgb.min(axis=2) < 40)
    made = []
    for tone, colour in ((np.ascontiguousarray(warm), diode), (np.ascontiguousarray(rgb.min(axis=2)), white)):
        hat = cv2.morphologyEx(tone, cv2.MORPH_TOPHAT, disc)
        peak = cv2.dilate(np.where(colour, hat, np.float32(0.0)), disc)
        made.append(((hat > np.maximum(CONTRAST, OWN * peak)) & colour).astype(np.uint8))
    return made


def _row(strokes: NDArray[np.uint8], height: int) -> tuple[float, NDArray[np.uint8]]:
    """Find the best row of characters: its score (0: there is none) and its pixels, (h, w) of 0 and 1."""
    import cv2

    nothing = 0.0, np.zeros_like(strokes)
    low, high = (share * height for share in HIGH)
    # join the pieces of a character (segments of a digit); if characters join as well, a piece counts by its width
    down, across = (max(1, round(share * height)) for share in (0.006, 0.002))
    wide = np.pad(strokes, ((2 * down,) * 2, (2 * across,) * 2))  # else closing would join characters with the border
    wide = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, np.ones((2 * down + 1, 2 * across + 1), np.uint8))
    signs = np.ascontiguousarray(wide[2 * down : -2 * down, 2 * across : -2 * across])
    count, labels, stats, centres = cv2.connectedComponentsWithStats(signs, connectivity=8)
    tall = stats[:, cv2.CC_STAT_HEIGHT]
    filled = stats[:, cv2.CC_STAT_AREA] / np.maximum(tall * stats[:, cv2.CC_STAT_WIDTH], 1)
    signlike = (stats[:, cv2.CC_STAT_WIDTH] <= 1.2 * tall) | ((filled > 0.2) & (filled < 0.75))
    kept = np.flatnonzero((tall >= low) & (tall <= high) & signlike & (np.arange(count) > 0))
    counted = np.maximum(1.0, stats[:, cv2.CC_STAT_WIDTH] / (0.8 * tall))
    best: tuple[float, list[int]] = 0.0, []
    for first in kept:
        row = _on_line(int(first), kept, stats, centres)
        number = float(counted[row].sum())
        score = number / (1.0 + 5.0 * float(np.std(tall[row]) / np.mean(tall[row])))
        if number >= PIECES and score > max(LEAST, best[0]):
            best = score, row
    if not best[1]:
        return nothing
    left = stats[best[1], cv2.CC_STAT_LEFT].min()
    right = (stats[best[1], cv2.CC_STAT_LEFT] + stats[best[1], cv2.CC_STAT_WIDTH]).max()
    half = strokes.shape[1] / 2.0
    if abs((left + right) / 2.0 - half) < MIDDLE * half:
        return nothing
    return best[0], _inside_row(signs, labels, stats, best[1])


def _on_line(first: int, kept: NDArray[np.intp], stats: NDArray[np.int32], centres: NDArray[np.float64]) -> list[int]:
    """Return the characters on the line of `first`, of about its height, without large gaps between them."""
    import cv2

    tall = stats[first, cv2.CC_STAT_HEIGHT]
    alike = [
        int(k)
        for k in kept
        if 0.7 * tall <= stats[k, cv2.CC_STAT_HEIGHT] <= 1.4 * tall
        and abs(centres[k, 1] - centres[first, 1]) < 0.3 * tall
    ]
    alike.sort(key=lambda k: int(stats[k, cv2.CC_STAT_LEFT]))
    runs: list[list[int]] = [[]]
    for k in alike:
        if runs[-1]:
            last = runs[-1][-1]
            gap = stats[k, cv2.CC_STAT_LEFT] - stats[last, cv2.CC_STAT_LEFT] - stats[last, cv2.CC_STAT_WIDTH]
            if gap > 2.5 * tall:
                runs.append([])
        runs[-1].append(k)
    return next(run for run in runs if first in run)


def _inside_row(
    signs: NDArray[np.uint8], labels: NDArray[np.int32], stats: NDArray[np.int32], row: list[int]
) -> NDArray[np.uint8]:
    """Return the pixels of the row's characters and of whatever lies mostly between them, such as dots and dashes.

    A character that touches something else is not detected by itself, and a half-removed date is worse than a whole
    one.
    """
    import cv2

    tall = float(np.mean(stats[row, cv2.CC_STAT_HEIGHT]))
    top = stats[row, cv2.CC_STAT_TOP].min() - 0.15 * tall
    bottom = (stats[row, cv2.CC_STAT_TOP] + stats[row, cv2.CC_STAT_HEIGHT]).max() + 0.15 * tall
    left = stats[row, cv2.CC_STAT_LEFT].min() - 1.5 * tall
    right = (stats[row, cv2.CC_STAT_LEFT] + stats[row, cv2.CC_STAT_WIDTH]).max() + 1.5 * tall
    there = np.zeros(signs.shape, bool)
    there[max(round(top), 0) : round(bottom) + 1, max(round(left), 0) : round(right) + 1] = True
    inside = np.bincount(labels[there], minlength=len(stats)) > 0.5 * stats[:, cv2.CC_STAT_AREA]
    inside[0] = False
    return np.asarray(signs & (inside[labels] & there), dtype=np.uint8)


def _draw(picture: Picture, values: str) -> Mask:
    if values:
        raise ShapeError(f"'timestamp:{values}': timestamp takes nothing after a colon")
    return timestamp(picture)


TIMESTAMP = Shape("timestamp", "timestamp", _draw, "A date printed by a camera near a corner.", finds=True)
