"""Filling of holes from other frames of a video, which show the background that is hidden in one frame.

The frames around each frame are aligned with it by the camera's motion; each is registered separately, and the frame
that shows most is used first. What is hidden in all frames is generated once and propagated from there. Huang et al.
2016 ("Temporally coherent completion of dynamic video") and successors do the same; here without a network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from editkit.pictures.motion import Grey, Homography, Where, grey, refined, rounded, warped, warped_where
from editkit.pictures.raster import Pixels, largest

REACH = 4.0
"""Range of frames to use, in seconds before and after a frame."""

A_SECOND = 10
"""Number of frames to use from each second."""

BUDGET = 400 * 2**20
"""Largest size of frames in memory, in bytes."""

MOST = 4
"""Largest number of frames from which one frame is filled."""

RING = 8
"""Width of the area around a hole in which frames are compared, in pixels."""

WRONG = 14.0
"""Largest difference of an aligned frame around the hole, in levels of 255; above it is not used."""

RIM = 2
"""Width of the rim around a mask that is not copied, in pixels: lens and compression have mixed it."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A frame as a source for others: its pixels, their grey values, the pixels not to copy, and the camera's motion.

    `camera` maps the first frame to this one.
    """

    index: int
    pixels: Pixels
    grey: Grey
    hidden: Where
    camera: Homography

    @classmethod
    def of(cls, index: int, pixels: Pixels, mask: Where, camera: Homography) -> Shown:
        return cls(index, pixels, grey(pixels), mask, camera)

    def to(self, other: Shown) -> Homography:
        """Return the homography from this frame to the other."""
        return other.camera @ np.linalg.inv(self.camera)


@dataclass
class Around:
    """Yields frames from `source` together with their neighbours: `reach` before and after, every `stride`-th."""

    source: Iterator[Shown]
    reach: int
    stride: int
    held: deque[Shown] = field(default_factory=deque)

    @classmethod
    def over(cls, source: Iterator[Shown], rate: float, size: tuple[int, int], deep: bool) -> Around:
        """Create it with the range that `REACH` and `BUDGET` allow."""
        one = size[0] * size[1] * (6 if deep else 3)
        stride = max(1, round(rate / A_SECOND))
        many = max(2, BUDGET // one)
        return cls(source, max(1, min(round(rate * REACH), many * stride // 2)), stride)

    def __iter__(self) -> Iterator[tuple[Shown, list[Shown]]]:
        """Yield (frame, the others around it)."""
        waiting: deque[Shown] = deque()
        for shown in self.source:
            waiting.append(shown)
            self._hold(shown)
            while waiting and waiting[0].index + self.reach <= shown.index:
                yield self._next(waiting)
        while waiting:
            yield self._next(waiting)

    def _hold(self, shown: Shown) -> None:
        if shown.index % self.stride == 0:
            self.held.append(shown)

    def _next(self, waiting: deque[Shown]) -> tuple[Shown, list[Shown]]:
        frame = waiting.popleft()
        while self.held and self.held[0].index < frame.index - self.reach:
            self.held.popleft()
        return frame, [other for other in self.held if other.index != frame.index]


LOYAL = 1.3
"""Factor by which a frame must show more to replace a frame that was used before, since two never fit equally."""


def uncovered(
    frame: Shown, others: list[Shown], hole: Where, before: Sequence[int] = ()
) -> tuple[Pixels, Where, list[int]]:
    """Fill `hole` of `frame` from `others`.

    Args:
        frame: the frame to fill.
        others: the frames around it.
        hole: (H, W), True where to fill.
        before: indices of the frames from which the frame before was filled.

    Returns:
        The pixels, the part of the hole that no frame shows, and the indices of the frames that were used.
    """
    left, made, used = hole.copy(), frame.pixels.copy(), list[int]()
    rest = list(others)
    for _ in range(MOST):
        if not left.any() or not rest:
            break
        best = max(rest, key=lambda other: _shows(other, frame, left) * (LOYAL if other.index in before else 1.0))
        rest.remove(best)
        if _shows(best, frame, left) <= 0.0:
            break
        laid = _laid(best, frame, hole)
        if laid is None:
            continue
        pixels, hidden = laid
        take = left & ~hidden
        made[take] = pixels[take]
        left &= ~take
        used.append(best.index)
    return made, left, used


COARSE = 8
"""Factor by which frames are downscaled to determine what they show."""


def _shows(other: Shown, frame: Shown, left: Where) -> float:
    """Return how much of `left` another frame shows, in pixels of the small size, with a small penalty for distance."""
    H = _scaled(other.to(frame))
    small = left[::COARSE, ::COARSE]
    hidden = warped_where(_grown(other.hidden, RIM)[::COARSE, ::COARSE], H, small.shape[::-1], beyond=True)
    seen = float((small & ~hidden).sum()) if small.any() else float(left.any())
    return seen * (1.0 - 0.001 * min(abs(other.index - frame.index), 500))


def _scaled(H: Homography) -> Homography:
    down = np.diag([1.0 / COARSE, 1.0 / COARSE, 1.0])
    return np.asarray(down @ H @ np.linalg.inv(down), np.float64)


def _laid(other: Shown, frame: Shown, hole: Where) -> tuple[Pixels, Where] | None:
    """Align `other` with `frame`: its pixels, and where it shows nothing. None if it does not fit around the hole."""
    sides = frame.pixels.shape[1::-1]
    rough = other.to(frame)
    seen = ~other.hidden & ~warped_where(hole, np.asarray(np.linalg.inv(rough), np.float64), sides, beyond=False)
    H = refined(rough, other.grey, frame.grey, seen)
    best: tuple[float, NDArray[np.float32], Where] | None = None
    ring = _grown(hole, RING) & ~_grown(hole, RIM)
    for tried in (H, rough) if H is not rough else (H,):
        pixels = warped(other.pixels.astype(np.float32), tried, sides)
        hidden = _grown(warped_where(_grown(other.hidden, RIM), tried, sides, beyond=True), 1)  # bicubic reach
        told = ring & ~hidden & ~frame.hidden
        if told.sum() < RING * RING:
            continue
        error = pixels[told] - frame.pixels[told].astype(np.float32)
        shift = np.median(error, axis=0)
        wrong = float(np.abs(error - shift).mean()) * 255.0 / float(largest(frame.pixels.dtype))
        if best is None or wrong < best[0]:
            best = wrong, pixels - shift, hidden
    if best is None or best[0] > WRONG:
        return None
    return rounded(best[1], frame.pixels.dtype), best[2]


def _grown(where: Where, by: int) -> Where:
    return np.asarray(cv2.dilate(where.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0)
