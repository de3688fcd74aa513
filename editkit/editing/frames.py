"""Filling what a frame hides from frames that show it: real removal of what passes before a still scene.

The frames around each frame are laid over it by the camera's motion, each one registered anew. What a frame was filled
from, the next one is filled from as well, place by place, as long as that shows it: two sources differ by a fraction of
a pixel, and taking turns would flicker. Beyond that the one that shows most comes first. What is hidden in all of them
is invented once and carried along from there. Huang et al. 2016 ("Temporally coherent completion of dynamic video") and
their successors do so; here without a network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from editkit.pictures.boxes import Box, bounds
from editkit.pictures.motion import (
    Grey,
    Homography,
    Where,
    grey,
    refined,
    rounded,
    warped,
    warped_nearest,
    warped_where,
)
from editkit.pictures.raster import Pixels, largest

REACH = 4.0
"""Seconds before and after a frame in which others are looked at."""

A_SECOND = 10
"""How many of a second."""

BUDGET = 400 * 2**20
"""Bytes of frames that are held at most."""

MOST = 4
"""Frames that one is filled from at most, and as many in which something was invented."""

RING = 8
"""Pixels around a hole in which frames are compared."""

WRONG = 14.0
"""Levels of 255 by which a frame may differ around the hole from the one it is laid over; above, it is not used."""

RIM = 2
"""Pixels around a mask that are not copied: lens and compression mixed them."""


Origin = NDArray[np.int32]
"""(H, W): where each pixel comes from: k + 1 for what frame k shows, -(k + 1) for what was invented in it, else 0."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A frame as another one sees it: pixels, their grey, what is not to be copied, and the camera: from the first
    frame to this one. `invented`: it is what came of the frame, with what was invented there.
    """

    index: int
    pixels: Pixels
    grey: Grey
    hidden: Where
    camera: Homography
    invented: bool = False

    @property
    def origin(self) -> int:
        """As it stands in an `Origin`."""
        return -(self.index + 1) if self.invented else self.index + 1

    def with_(self, pixels: Pixels, hidden: Where, *, invented: bool = False) -> Shown:
        """The same frame with other pixels."""
        return Shown(self.index, pixels, grey(pixels), hidden, self.camera, invented)

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


@dataclass
class Sources:
    """What the frames so far were filled from, which the next is filled from again."""

    before: tuple[Shown, Origin] | None = None
    anchors: list[Shown] = field(default_factory=list)
    """Frames in which something was invented that is still in use, `MOST` at most."""

    def fill(self, frame: Shown, others: list[Shown]) -> tuple[Pixels, Origin]:
        """(`frame` with what `others` show of what it hides, and with what was invented before; where that is from)."""
        wanted = self._wanted(frame)
        pixels, origin = uncovered(frame, others, wanted)
        rest = frame.hidden & (origin == 0)
        if not rest.any() or not self.anchors:
            return pixels, origin
        pixels, carried = uncovered(frame.with_(pixels, rest), self.anchors, wanted)
        return pixels, origin + carried

    def filled(self, frame: Shown, pixels: Pixels, origin: Origin) -> None:
        """Go on from `frame`, which became `pixels`. These are looked at only where something in it was invented."""
        origin = origin.copy()
        own = -(frame.index + 1)
        if (origin == own).any():
            if len(self.anchors) == MOST:  # what is carried is resampled once more, so that not ever more is held
                origin[origin < 0] = own
                self.anchors.clear()
            self.anchors.append(frame.with_(pixels, np.zeros_like(frame.hidden), invented=True))
        used = set(np.unique(origin).tolist())
        self.anchors = [anchor for anchor in self.anchors if anchor.origin in used] or self.anchors[-1:]
        self.before = frame, origin

    def _wanted(self, frame: Shown) -> Origin:
        """Where each pixel of `frame` was taken from in the frame before."""
        if self.before is None:
            return np.zeros(frame.hidden.shape, np.int32)
        before, origin = self.before
        return warped_nearest(origin, before.to(frame))


@dataclass(frozen=True, eq=False)
class _Laid:
    """A frame laid over another, in a `box` of that; `hidden` where it shows nothing."""

    box: Box
    pixels: Pixels
    hidden: Where


def uncovered(frame: Shown, others: Sequence[Shown], wanted: Origin) -> tuple[Pixels, Origin]:
    """(`frame` with what `others` show of what it hides, which of them; 0: none).

    Args:
        wanted: which of them is to be taken where it can be.
    """
    made, origin = frame.pixels.copy(), np.zeros(frame.hidden.shape, np.int32)
    if not frame.hidden.any():
        return made, origin
    rest, tried = {other.origin: other for other in others}, list[tuple[int, _Laid | None]]()

    def lay(key: int) -> None:
        tried.append((key, _laid(rest.pop(key), frame)))

    def take(key: int, laid: _Laid | None, where: Where) -> None:
        if laid is not None:
            part = laid.box.rows, laid.box.columns
            now = frame.hidden[part] & (origin[part] == 0) & ~laid.hidden & where[part]
            made[part][now], origin[part][now] = laid.pixels[now], key

    keys, counts = np.unique(wanted[frame.hidden], return_counts=True)
    loyal = [int(key) for key in keys[np.argsort(-counts, kind="stable")] if key in rest]
    for key in loyal[:MOST]:
        lay(key)
        take(*tried[-1], wanted == key)
    everywhere = np.ones_like(frame.hidden)
    for key, laid in tried:
        take(key, laid, everywhere)
    while len(tried) < MOST and rest:
        left = frame.hidden & (origin == 0)
        best = max(rest.values(), key=lambda other: _shows(other, frame, left))
        if not left.any() or _shows(best, frame, left) <= 0.0:
            break
        lay(best.origin)
        take(*tried[-1], everywhere)
    return made, origin


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


def _laid(other: Shown, frame: Shown) -> _Laid | None:
    """`other` laid over `frame`, around what that hides; None where it does not fit there."""
    sides = frame.pixels.shape[1::-1]
    rough = other.to(frame)
    there = warped_where(frame.hidden, np.asarray(np.linalg.inv(rough), np.float64), sides, beyond=False)
    H = refined(rough, other.grey, frame.grey, ~other.hidden & ~there)
    wide = _grown(frame.hidden, RING)
    box = bounds(wide)
    part = box.rows, box.columns
    ring = (wide & ~_grown(frame.hidden, RIM))[part]
    best: tuple[float, NDArray[np.float32], Where] | None = None
    for tried in (H, rough) if H is not rough else (H,):
        pixels = warped(other.pixels, tried, box)
        hidden = warped_where(_grown(other.hidden, RIM), tried, sides, beyond=True)
        hidden = _grown(hidden, 1)[part]  # a cubic sees farther
        told = ring & ~hidden
        if told.sum() < RING * RING:
            continue
        error = pixels[told] - frame.pixels[part][told].astype(np.float32)
        shift = np.median(error, axis=0)
        wrong = float(np.abs(error - shift).mean()) * 255.0 / float(largest(frame.pixels.dtype))
        if best is None or wrong < best[0]:
            best = wrong, pixels - shift, hidden
    if best is None or best[0] > WRONG:
        return None
    return _Laid(box, rounded(best[1], frame.pixels.dtype), best[2])


def _grown(where: Where, by: int) -> Where:
    return np.asarray(cv2.dilate(where.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0)
