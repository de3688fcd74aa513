"""Whether a line that was found is laid over the picture, as a scratch is, or is the picture's own, as an eave is.

What is laid over a picture lies over one ground: on both sides of it there is the same, and goes on under it. With the
share a of it that covers, and its own tone t,

    v = (1 - a) b + a t,

so that between the places along the line, and between the channels, v changes less than the ground b beside it does. An
eave, a rib or a shadow's edge has different colours at its sides, or its colour is that of its surroundings, darker.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALIKE = 0.9
"""How far the sides of a scratch are apart, at most, in its heights over them; a median along it."""

SLOPE, COLOURS = 0.8, 0.9
"""By how much a scratch's colours change where those of the ground change by 1: in all, and what of them is no grey."""

ASIDE, REACH = (5.0, 6.0), (-1.0, 0.0, 1.0)
"""Where the sides are looked at, and where a line's crest, in pixels across."""

CLEAR, FEWEST = 4.0, 20
"""The height in levels of a pixel that is asked, and how many there are at least."""

WAYS = 8
"""Lines that cross are told apart by their angles, in so many parts of a half turn."""

LONG = 70
"""Pixels of a piece that can be judged by itself; a shorter one goes with what it is joined to."""

ASKED = 500
"""Pixels of a line that are asked, evenly from all of them."""


def laid_over(
    lines: NDArray[np.uint8], angle: NDArray[np.float32], picture: NDArray[np.float32], tone: NDArray[np.float32],
    eager: float = 1.0,
) -> NDArray[np.uint8]:  # fmt: skip
    """The pieces of `lines` (H, W) that are laid over `picture` (H, W, 3), in levels of 255. A piece is connected and
    of one direction; a short one is kept where it joins one that is.

    `angle`: of the line through each pixel; `tone` (H, W): what it is bright in. `eager`: what is asked is so many
    times as lenient.
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
            answer = _is_laid(*_across(seen, y, x, angle[y, x]), eager) if len(whole) >= LONG else None
            kept[label], unsure[label] = answer is True, answer is None
        laid |= kept[labels]
        undecided |= unsure[labels]
    return laid | undecided & _joined(undecided | laid, laid)


def _joined(pieces: NDArray[np.uint8], seeds: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The connected pieces that hold one of `seeds`."""
    import cv2

    count, labels = cv2.connectedComponents(pieces, connectivity=8)
    kept = np.zeros(count, np.uint8)
    kept[labels[seeds > 0]] = 1
    return np.asarray(kept[labels] & pieces, dtype=np.uint8)


def _across(
    seen: NDArray[np.float32], y: NDArray[np.int64], x: NDArray[np.int64], angle: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """(N, 4) each: a line's crest at these pixels, where its tone, the last channel, is highest; both of its sides."""
    import cv2

    def at(steps: tuple[float, ...]) -> NDArray[np.float32]:
        by = np.array(steps)[:, None]
        xs, ys = (x - by * np.sin(angle)).astype(np.float32), (y + by * np.cos(angle)).astype(np.float32)
        return np.asarray(cv2.remap(seen, xs, ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

    crest = at(REACH)
    top = crest[..., -1].argmax(axis=0)
    sides = (at(ASIDE).mean(axis=0), at(tuple(-d for d in ASIDE)).mean(axis=0))
    return crest[top, np.arange(len(x))], sides[0], sides[1]


def _is_laid(
    crest: NDArray[np.float32], left: NDArray[np.float32], right: NDArray[np.float32], eager: float
) -> bool | None:  # fmt: skip
    """Whether a line with this crest and these sides is; None: too little of it is clear."""
    height = crest[:, -1] - np.maximum(left[:, -1], right[:, -1])
    apart = np.abs(left - right)[:, :3].mean(axis=1)
    if np.median(apart) > ALIKE * eager * max(float(np.median(height)), 1.0):
        return False
    clear = height > CLEAR / eager
    if int(clear.sum()) < FEWEST:
        return None
    v, b = crest[clear, :3], (left[clear, :3] + right[clear, :3]) / 2.0
    grey_v, grey_b = (z.mean(axis=1, keepdims=True) for z in (v, b))
    paler = _slope(b - b.mean(), v - v.mean()) < SLOPE * eager
    return paler and _slope(b - grey_b, v - grey_v) < COLOURS * eager


def _slope(b: NDArray[np.float32], v: NDArray[np.float32]) -> float:
    """That of v = slope b, by least squares."""
    return float((b * v).sum() / max(float((b * b).sum()), 1.0))
