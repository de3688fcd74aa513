"""Decides whether a detected line lies on top of the picture, as a scratch does, or belongs to it, as an eave does.

A line on top of the picture has the same background on both sides, and the background continues under it. With opacity
a and its own tone t, its colour is

    v = (1 - a) b + a t,

so along the line and between the channels v varies less than the background b beside it. An eave, a rib or the edge of
a shadow has different colours on its two sides, or its colour is a darker version of its surroundings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALIKE = 0.9
"""Largest difference between the two sides of a scratch, relative to its contrast; a median along the line."""

SLOPE, COLOURS = 0.8, 0.9
"""Largest slope of a scratch's colour against the background's: of all of the colour, and of its chroma alone."""

ASIDE, REACH = (5.0, 6.0), (-1.0, 0.0, 1.0)
"""Offsets across the line at which its sides, and its crest, are sampled, in pixels."""

CLEAR, FEWEST = 4.0, 20
"""Least contrast of a sampled pixel, in levels of 255, and the least number of such pixels."""

WAYS = 8
"""Number of angle bins in a half turn; they separate lines that cross."""

LONG = 70
"""Least length of a piece that is judged by itself, in pixels. A shorter piece follows the piece it touches."""

ASKED = 500
"""Largest number of pixels sampled from a line, evenly spaced."""


def find_overlaid_lines(
    lines: NDArray[np.uint8], angle: NDArray[np.float32], picture: NDArray[np.float32], tone: NDArray[np.float32],
    eager: float = 1.0,
) -> NDArray[np.uint8]:  # fmt: skip
    """Return the pieces of `lines` (H, W) that lie on top of `picture` (H, W, 3), in levels of 255.

    A piece is connected and has one direction. A short piece is kept if it touches one that is kept.

    Args:
        angle: (H, W), angle of the line through each pixel, in radians.
        tone: (H, W), the channel in which the line is bright.
        eager: factor by which the thresholds are relaxed.
    """
    import cv2

    seen = np.dstack([picture, tone])
    laid, undecided = np.zeros_like(lines), np.zeros_like(lines)
    for way in range(WAYS):
        one = lines * (np.floor(angle / np.pi * WAYS).astype(int) % WAYS == way)
        count, labels = cv2.connectedComponents(np.asarray(one, np.uint8), connectivity=8)
        at = np.flatnonzero(labels)
        order = at[np.argsort(labels.ravel()[at], kind="stable")]
        ends = np.searchsorted(labels.ravel()[order], np.arange(1, count + 1))
        kept, unsure = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
        for label in range(1, count):
            whole = order[ends[label - 1] : ends[label]]
            some = whole[np.linspace(0, len(whole) - 1, min(len(whole), ASKED)).astype(int)]
            y, x = np.divmod(some, lines.shape[1])
            answer = _is_overlaid(*_profile_across(seen, y, x, angle[y, x]), eager) if len(whole) >= LONG else None
            kept[label], unsure[label] = answer is True, answer is None
        laid |= kept[labels]
        undecided |= unsure[labels]
    return laid | undecided & _join_pieces(undecided | laid, laid)


def _join_pieces(pieces: NDArray[np.uint8], seeds: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the connected pieces that contain one of `seeds`."""
    import cv2

    count, labels = cv2.connectedComponents(pieces, connectivity=8)
    kept = np.zeros(count, np.uint8)
    kept[labels[seeds > 0]] = 1
    return np.asarray(kept[labels] & pieces, dtype=np.uint8)


def _profile_across(
    seen: NDArray[np.float32], y: NDArray[np.int64], x: NDArray[np.int64], angle: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Sample the line's crest (maximum of the tone, the last channel) and both sides at N pixels: (N, 4) each."""
    import cv2

    def at(steps: tuple[float, ...]) -> NDArray[np.float32]:
        by = np.array(steps)[:, None]
        xs, ys = (x - by * np.sin(angle)).astype(np.float32), (y + by * np.cos(angle)).astype(np.float32)
        return np.asarray(cv2.remap(seen, xs, ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

    crest = at(REACH)
    top = crest[..., -1].argmax(axis=0)
    sides = (at(ASIDE).mean(axis=0), at(tuple(-d for d in ASIDE)).mean(axis=0))
    return crest[top, np.arange(len(x))], sides[0], sides[1]


def _is_overlaid(
    crest: NDArray[np.float32], left: NDArray[np.float32], right: NDArray[np.float32], eager: float
) -> bool | None:  # fmt: skip
    """Whether a line with this crest and these sides lies on top; None if too few pixels are clear."""
    height = crest[:, -1] - np.maximum(left[:, -1], right[:, -1])
    apart = np.abs(left - right)[:, :3].mean(axis=1)
    if np.median(apart) > ALIKE * eager * max(float(np.median(height)), 1.0):
        return False
    clear = height > CLEAR / eager
    if int(clear.sum()) < FEWEST:
        return None
    v, b = crest[clear, :3], (left[clear, :3] + right[clear, :3]) / 2.0
    grey_v, grey_b = (z.mean(axis=1, keepdims=True) for z in (v, b))
    paler = _fit_slope(b - b.mean(), v - v.mean()) < SLOPE * eager
    return paler and _fit_slope(b - grey_b, v - grey_v) < COLOURS * eager


def _fit_slope(b: NDArray[np.float32], v: NDArray[np.float32]) -> float:
    """Return the least-squares slope of v = slope * b."""
    return float((b * v).sum() / max(float((b * b).sum()), 1.0))
