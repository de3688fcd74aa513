"""Filling what a frame hides from frames that show it: real removal of what passes before a still scene.

The frames around each frame are laid over it by the camera's motion, each one registered anew, the one that shows most
first. What is hidden in all of them is invented once and carried along from there. Huang et al. 2016 ("Temporally
coherent completion of dynamic video") and their successors do so; here without a network.
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
"""Seconds before and after a frame in which others are looked at."""

A_SECOND = 10
"""How many of a second."""

BUDGET = 400 * 2**20
"""Bytes of frames that are held at most."""

MOST = 4
"""Frames that one is filled from at most."""

RING = 8
"""Pixels around a hole in which frames are compared."""

WRONG = 14.0
"""Levels of 255 by which a frame may differ around the hole from the one it is laid over; above, it is not used."""

RIM = 2
"""Pixels around a mask that are not copied: lens and compression mixed them."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A frame as another one sees it: pixels, their grey, what is not to be copied, and the camera: from the first
    frame to this one.
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
        """From this frame to the other."""
        return other.camera @ np.linalg.inv(self.camera)


@dataclass
class Around:
    """Frames with those around them, `reach` before and after, every `stride`-th; a frame at a time from `source`."""

    source: Iterator[Shown]
    reach: int
    stride: int
    held: deque[Shown] = field(default_factory=deque)

    @classmethod
    def over(cls, source: Iterator[Shown], rate: float, size: tuple[int, int], deep: bool) -> Around:
        """As far as `REACH` and `BUDGET` allow."""
        one = size[0] * size[1] * (6 if deep else 3)
        stride = max(1, round(rate / A_SECOND))
        many = max(2, BUDGET // one)
        return cls(source, max(1, min(round(rate * REACH), many * stride // 2)), stride)

    def __iter__(self) -> Iterator[tuple[Shown, list[Shown]]]:
        """(the frame, the others around it)."""
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
"""How much more another frame must show than one that the frame before was filled from: two fit differently."""


def uncovered(
    frame: Shown, others: list[Shown], hole: Where, before: Sequence[int] = ()
) -> tuple[Pixels, Where, list[int]]:
    """(`frame` with what `others` show of `hole`, what of it they do not show, which were used).

    Args:
        before: which the frame before was filled from.
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
"""How much smaller frames are where it is only asked what they show."""


def _shows(other: Shown, frame: Shown, left: Where) -> float:
    """How much of `left` another frame shows, less a little the farther away it is: pixels of the small size."""
    H = _scaled(other.to(frame))
    small = left[::COARSE, ::COARSE]
    hidden = warped_where(_grown(other.hidden, RIM)[::COARSE, ::COARSE], H, small.shape[::-1], beyond=True)
    seen = float((small & ~hidden).sum()) if small.any() else float(left.any())
    return seen * (1.0 - 0.001 * min(abs(other.index - frame.index), 500))


def _scaled(H: Homography) -> Homography:
    down = np.diag([1.0 / COARSE, 1.0 / COARSE, 1.0])
    return np.asarray(down @ H @ np.linalg.inv(down), np.float64)


def _laid(other: Shown, frame: Shown, hole: Where) -> tuple[Pixels, Where] | None:
    """(`other` laid over `frame`, where it shows nothing); None where it does not fit around the hole."""
    sides = frame.pixels.shape[1::-1]
    rough = other.to(frame)
    seen = ~other.hidden & ~warped_where(hole, np.asarray(np.linalg.inv(rough), np.float64), sides, beyond=False)
    H = refined(rough, other.grey, frame.grey, seen)
    best: tuple[float, NDArray[np.float32], Where] | None = None
    ring = _grown(hole, RING) & ~_grown(hole, RIM)
    for tried in (H, rough) if H is not rough else (H,):
        pixels = warped(other.pixels.astype(np.float32), tried, sides)
        hidden = _grown(warped_where(_grown(other.hidden, RIM), tried, sides, beyond=True), 1)  # bicubic sees farther
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
