"""Fill holes in a frame of a video from other frames, which show the hidden background.

The frames around each frame are aligned with it by the camera's motion; each is registered separately. Every pixel
keeps its source from the previous frame for as long as that source shows it: two sources differ by a fraction of a
pixel, and alternating between them would flicker. Otherwise the frame that shows most of the hole is used first.
Content that is hidden in all frames is generated once and propagated from there. Huang et al. 2016 ("Temporally
coherent completion of dynamic video") and their successors do the same; this module uses no network.
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
    refine_homography,
    round_to,
    warp,
    warp_labels,
    warp_mask,
)
from editkit.pictures.raster import Pixels, largest

REACH = 4.0
"""Range of frames to use, in seconds before and after a frame."""

A_SECOND = 10
"""Number of frames to use from each second."""

BUDGET = 400 * 2**20
"""Largest total size of the frames in memory, in bytes."""

MOST = 4
"""Largest number of frames from which one frame is filled, and of frames with generated content in memory."""

RING = 8
"""Width of the area around a hole in which frames are compared, in pixels."""

WRONG = 14.0
"""Largest mean difference of an aligned frame around the hole, in levels of 255; frames above it are not used."""

RIM = 2
"""Width of the rim around a mask that is not copied, in pixels; lens blur and compression have mixed it."""


Origin = NDArray[np.int32]
"""(H, W): the source of each pixel: k + 1 if frame k shows it, -(k + 1) if it was generated in frame k, else 0."""


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """A frame as a source for others: its pixels, their grey values, the pixels not to copy, and the camera's motion.

    `camera` maps the first frame to this one. `invented`: the pixels are the result and include generated content.
    """

    index: int
    pixels: Pixels
    grey: Grey
    hidden: Where
    camera: Homography
    invented: bool = False

    @property
    def origin(self) -> int:
        """The number of this frame in an `Origin`."""
        return -(self.index + 1) if self.invented else self.index + 1

    def with_pixels(self, pixels: Pixels, hidden: Where, *, invented: bool = False) -> SourceFrame:
        """Return the same frame with other pixels."""
        return SourceFrame(self.index, pixels, grey(pixels), hidden, self.camera, invented)

    def homography_to(self, other: SourceFrame) -> Homography:
        """Return the homography from this frame to the other."""
        return other.camera @ np.linalg.inv(self.camera)


@dataclass
class WithNeighbours:
    """Yield frames from `source` with their neighbours: every `stride`-th frame up to `reach` before and after."""

    source: Iterator[SourceFrame]
    reach: int
    stride: int
    held: deque[SourceFrame] = field(default_factory=deque)

    @classmethod
    def within_budget(
        cls, source: Iterator[SourceFrame], rate: float, size: tuple[int, int], deep: bool
    ) -> WithNeighbours:
        """Create an instance with the range that `REACH` and `BUDGET` allow."""
        one = size[0] * size[1] * (6 if deep else 3)
        stride = max(1, round(rate / A_SECOND))
        many = max(2, BUDGET // one)
        return cls(source, max(1, min(round(rate * REACH), many * stride // 2)), stride)

    def __iter__(self) -> Iterator[tuple[SourceFrame, list[SourceFrame]]]:
        """Yield (frame, the others around it)."""
        waiting: deque[SourceFrame] = deque()
        for shown in self.source:
            waiting.append(shown)
            self._hold(shown)
            while waiting and waiting[0].index + self.reach <= shown.index:
                yield self._next(waiting)
        while waiting:
            yield self._next(waiting)

    def _hold(self, shown: SourceFrame) -> None:
        if shown.index % self.stride == 0:
            self.held.append(shown)

    def _next(self, waiting: deque[SourceFrame]) -> tuple[SourceFrame, list[SourceFrame]]:
        frame = waiting.popleft()
        while self.held and self.held[0].index < frame.index - self.reach:
            self.held.popleft()
        return frame, [other for other in self.held if other.index != frame.index]


@dataclass
class FrameSources:
    """The sources of the previous frame's pixels, from which the next frame is filled."""

    before: tuple[SourceFrame, Origin] | None = None
    anchors: list[SourceFrame] = field(default_factory=list)
    """Frames with generated content that is still in use, at most `MOST`."""

    def fill(self, frame: SourceFrame, others: list[SourceFrame]) -> tuple[Pixels, Origin]:
        """Fill `frame` from `others` and from content generated earlier; return (pixels, their sources)."""
        wanted = self._previous_sources(frame)
        pixels, origin = fill_from_frames(frame, others, wanted)
        rest = frame.hidden & (origin == 0)
        if not rest.any() or not self.anchors:
            return pixels, origin
        pixels, carried = fill_from_frames(frame.with_pixels(pixels, rest), self.anchors, wanted)
        return pixels, origin + carried

    def advance(self, frame: SourceFrame, pixels: Pixels, origin: Origin) -> None:
        """Continue from `frame` with the result `pixels`, which are used only where content was generated."""
        origin = origin.copy()
        own = -(frame.index + 1)
        if (origin == own).any():
            if len(self.anchors) == MOST:  # resample once more, so that memory stays bounded
                origin[origin < 0] = own
                self.anchors.clear()
            self.anchors.append(frame.with_pixels(pixels, np.zeros_like(frame.hidden), invented=True))
        used = set(np.unique(origin).tolist())
        self.anchors = [anchor for anchor in self.anchors if anchor.origin in used] or self.anchors[-1:]
        self.before = frame, origin

    def _previous_sources(self, frame: SourceFrame) -> Origin:
        """Return the source of each pixel of `frame` in the frame before."""
        if self.before is None:
            return np.zeros(frame.hidden.shape, np.int32)
        before, origin = self.before
        return warp_labels(origin, before.homography_to(frame))


@dataclass(frozen=True, eq=False)
class _Aligned:
    """A frame aligned with another one, within a `box` of that frame; `hidden`: the pixels that it does not show."""

    box: Box
    pixels: Pixels
    hidden: Where


def fill_from_frames(frame: SourceFrame, others: Sequence[SourceFrame], wanted: Origin) -> tuple[Pixels, Origin]:
    """Fill the hole of `frame` from `others`.

    Args:
        frame: the frame to fill.
        others: the frames around it.
        wanted: the preferred source of each pixel.

    Returns:
        The pixels, and the source of each; 0: none.
    """
    made, origin = frame.pixels.copy(), np.zeros(frame.hidden.shape, np.int32)
    if not frame.hidden.any():
        return made, origin
    rest, tried = {other.origin: other for other in others}, list[tuple[int, _Aligned | None]]()

    def align(key: int) -> None:
        tried.append((key, _align(rest.pop(key), frame)))

    def take(key: int, aligned: _Aligned | None, where: Where) -> None:
        if aligned is not None:
            part = aligned.box.rows, aligned.box.columns
            now = frame.hidden[part] & (origin[part] == 0) & ~aligned.hidden & where[part]
            made[part][now], origin[part][now] = aligned.pixels[now], key

    keys, counts = np.unique(wanted[frame.hidden], return_counts=True)
    preferred = [int(key) for key in keys[np.argsort(-counts, kind="stable")] if key in rest]
    for key in preferred[:MOST]:
        align(key)
        take(*tried[-1], wanted == key)
    everywhere = np.ones_like(frame.hidden)
    for key, aligned in tried:
        take(key, aligned, everywhere)
    while len(tried) < MOST and rest:
        left = frame.hidden & (origin == 0)
        best = max(rest.values(), key=lambda other: _visible_amount(other, frame, left))
        if not left.any() or _visible_amount(best, frame, left) <= 0.0:
            break
        align(best.origin)
        take(*tried[-1], everywhere)
    return made, origin


COARSE = 8
"""Downscaling factor for determining what a frame shows."""


def _visible_amount(other: SourceFrame, frame: SourceFrame, left: Where) -> float:
    """Return how much of `left` another frame shows, in downscaled pixels, minus a small penalty for distance."""
    H = _coarse_homography(other.homography_to(frame))
    small = left[::COARSE, ::COARSE]
    hidden = warp_mask(_dilate(other.hidden, RIM)[::COARSE, ::COARSE], H, small.shape[::-1], beyond=True)
    seen = float((small & ~hidden).sum()) if small.any() else float(left.any())
    return seen * (1.0 - 0.001 * min(abs(other.index - frame.index), 500))


def _coarse_homography(H: Homography) -> Homography:
    down = np.diag([1.0 / COARSE, 1.0 / COARSE, 1.0])
    return np.asarray(down @ H @ np.linalg.inv(down), np.float64)


def _align(other: SourceFrame, frame: SourceFrame) -> _Aligned | None:
    """Align `other` with `frame`, around the hole of `frame`; None if it does not fit there."""
    sides = frame.pixels.shape[1::-1]
    rough = other.homography_to(frame)
    there = warp_mask(frame.hidden, np.asarray(np.linalg.inv(rough), np.float64), sides, beyond=False)
    H = refine_homography(rough, other.grey, frame.grey, ~other.hidden & ~there)
    wide = _dilate(frame.hidden, RING)
    box = bounds(wide)
    part = box.rows, box.columns
    ring = (wide & ~_dilate(frame.hidden, RIM))[part]
    best: tuple[float, NDArray[np.float32], Where] | None = None
    for homography in (H, rough) if H is not rough else (H,):
        pixels = warp(other.pixels, homography, box)
        hidden = warp_mask(_dilate(other.hidden, RIM), homography, sides, beyond=True)
        hidden = _dilate(hidden, 1)[part]  # support of the cubic kernel
        compared = ring & ~hidden
        if compared.sum() < RING * RING:
            continue
        error = pixels[compared] - frame.pixels[part][compared].astype(np.float32)
        shift = np.median(error, axis=0)
        wrong = float(np.abs(error - shift).mean()) * 255.0 / float(largest(frame.pixels.dtype))
        if best is None or wrong < best[0]:
            best = wrong, pixels - shift, hidden
    if best is None or best[0] > WRONG:
        return None
    return _Aligned(box, round_to(best[1], frame.pixels.dtype), best[2])


def _dilate(where: Where, by: int) -> Where:
    return np.asarray(cv2.dilate(where.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0)
