"""Decides whether a detected line lies on top of the picture, as a scratch does, or belongs to it, as an eave does.

A line on top of the picture has the same background on both sides, and the background continues under it. With opacity
a and its own tone t, its colour is

    v = (1 - a) b + a t,

so along the line and between the channels v varies less than the background b beside it. An eave, a rib or the edge of
a shadow has different colours on its two sides, or its colour is a darker version of its surroundings.

Lines that pass these rules are judged once more by a logistic model over `FEATURES`, fitted by benchmarks/fit_lines.py:
a line of the picture is one of many parallel ones, has colour, or does not stand out from the texture around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from editkit_plugins.masks.line_model import BIAS, CENTRES, SPREADS, WEIGHTS

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

TEXTURE = 61
"""Side of the square in which the texture around a line is measured, in pixels."""

ODDS = -0.5
"""Least log odds of a line that lies on top."""

FEATURES = (
    "length", "difference of the sides", "slope", "slope of the chroma", "height", "unevenness", "steadiness",
    "roughness beside", "tone", "bend", "parallel ones", "colour", "clear part", "width", "above the texture",
)  # fmt: skip
"""Names of a line's features, in the order of the model's coefficients."""


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
    laid, undecided = np.zeros(lines.size, np.uint8), np.zeros(lines.size, np.uint8)
    for piece in line_pieces(lines, angle, picture, tone):
        answer = _is_overlaid(piece.crest, piece.left, piece.right, eager) if len(piece.at) >= LONG else None
        if answer:
            answer = log_odds(piece.features()) > ODDS - float(np.log(eager))
        laid[piece.at], undecided[piece.at] = answer is True, answer is None
    kept, unsure = laid.reshape(lines.shape), undecided.reshape(lines.shape)
    return kept | unsure & _join_pieces(unsure | kept, kept)


@dataclass(frozen=True)
class LinePiece:
    """A connected piece of one direction.

    `at` (M,): its pixels, as indices into the flat picture. Of N of them: `points` (N, 2) as x, y; `crest`, `left` and
    `right` (N, 4), the colour and tone on it and beside it; `usual` (N,), the texture around. `parallel`: the pixels of
    the other pieces of its direction. `side`: the longer side of the picture.
    """

    at: NDArray[np.int64]
    points: NDArray[np.float64]
    crest: NDArray[np.float32]
    left: NDArray[np.float32]
    right: NDArray[np.float32]
    usual: NDArray[np.float32]
    parallel: float
    side: float

    def features(self) -> NDArray[np.float64]:
        """Return the features of the model, in the order of `FEATURES`."""
        height = self.crest[:, 3] - np.maximum(self.left[:, 3], self.right[:, 3])
        usual, clear = max(float(np.median(height)), 1.0), height > CLEAR
        v, b = self.crest[clear, :3], (self.left[clear, :3] + self.right[clear, :3]) / 2.0
        grey_v, grey_b = (z.mean(axis=1, keepdims=True) for z in (v, b))
        points = self.points - self.points.mean(axis=0)
        along = np.linalg.svd(points, full_matrices=False)[2]
        t, d = points @ along[0], points @ along[1]
        extent = float(np.ptp(t))
        t = t / (extent + 1.0)
        beside = ((self.left[:, 3] + self.right[:, 3]) / 2.0).std()
        return np.array([
            np.log(extent / self.side),
            np.log(np.median(np.abs(self.left - self.right)[:, :3].mean(axis=1)) / usual + 0.05),
            np.clip(_fit_slope(b - b.mean(), v - v.mean()), -1.0, 2.0),
            np.clip(_fit_slope(b - grey_b, v - grey_v), -1.0, 2.0),
            np.log(usual),
            np.median(np.abs(height - usual)) / usual,
            np.log((self.crest[:, 3].std() + 2.0) / (beside + 4.0)),
            np.log(beside + 2.0),
            np.median(self.crest[:, 3]) / 255.0,
            np.log(0.5 + (d - np.polyval(np.polyfit(t, d, 2), t)).std()),
            np.log(1.0 + self.parallel / 4.0 / max(extent, 1.0)),
            np.median(np.ptp(self.crest[:, :3], axis=1)) / 255.0,
            clear.mean(),
            np.log(len(self.at) / max(extent, 1.0)),
            np.log(usual / (np.median(self.usual) + 1.0)),
        ], np.float64)  # fmt: skip


def log_odds(features: NDArray[np.float64]) -> float:
    """Return the log odds that a line with these features lies on top of the picture."""
    return float(BIAS + np.dot(WEIGHTS, np.clip((features - CENTRES) / SPREADS, -4.0, 4.0)))


def line_pieces(
    lines: NDArray[np.uint8], angle: NDArray[np.float32], picture: NDArray[np.float32], tone: NDArray[np.float32]
) -> Iterator[LinePiece]:
    """Yield the connected pieces of `lines` (H, W) that have one direction; see `find_overlaid_lines`."""
    import cv2

    seen = np.dstack([picture, tone])
    rough = np.abs(tone - cv2.GaussianBlur(tone, (0, 0), 4.0))
    usual = cv2.blur(rough, (TEXTURE, TEXTURE), borderType=cv2.BORDER_REFLECT)
    for way in range(WAYS):
        one = lines * (np.floor(angle / np.pi * WAYS).astype(int) % WAYS == way)
        count, labels = cv2.connectedComponents(np.asarray(one, np.uint8), connectivity=8)
        at = np.flatnonzero(labels)
        order = at[np.argsort(labels.ravel()[at], kind="stable")]
        ends = np.searchsorted(labels.ravel()[order], np.arange(1, count + 1))
        sizes = np.diff(ends)
        all_ = float(sizes[sizes >= LONG].sum())
        for label in range(1, count):
            whole = order[ends[label - 1] : ends[label]]
            some = whole[np.linspace(0, len(whole) - 1, min(len(whole), ASKED)).astype(int)]
            y, x = np.divmod(some, lines.shape[1])
            profile = _profile_across(seen, y, x, angle[y, x])
            points = np.stack([x, y], axis=1).astype(np.float64)
            yield LinePiece(whole, points, *profile, usual[y, x], all_ - len(whole), float(max(tone.shape)))


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
