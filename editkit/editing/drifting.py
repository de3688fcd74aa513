"""Noise that moves with what is seen: a frame's noise is the first frame's, carried along the optical flow.

Where a thing goes, its noise goes along, so that what an edit makes of it does not swim over it (Chang et al. 2024,
"How I warped your noise"). Averages of noise would be no noise any more: they have less variance, and neighbours are
alike. So values are moved whole, none is used twice, and where two pixels ask for one, the second gets one of its own.
What comes out is independent N(0, 1) again, for any flow that does not look at the noise.

The first frame's noise is laid over its whole plane again and again, so that what comes into view later has noise that
stays with it too, and boxes that move from frame to frame see one field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from editkit.diffusion.model import Pass
from editkit.diffusion.noise import Generator, Noise, Stream


@dataclass(frozen=True, eq=False)
class Drift:
    """Where what is seen in a frame was in the first one.

    Args:
        origin: (H, W, 2), for each pixel's centre its place (x, y) there, in pixels; beyond the edges too.
    """

    origin: NDArray[np.float32]

    def over(self, noise: Noise, at: Pass, multiple: int) -> Noise:
        """`noise` for a pass of this frame, whose states are padded to a multiple of so many pixels."""
        return _Drifting(noise, self, at, multiple)

    def sources(self, at: Pass, multiple: int, h: int, w: int) -> NDArray[np.int64]:
        """(h w,): of each value of a state the one of the first frame's state that it gets, row by row; -1 for none."""
        down, across = (-(-side // multiple) * multiple / n for side, n in ((at.height, h), (at.width, w)))
        scale_y, scale_x = down * at.box.height / at.height, across * at.box.width / at.width  # in the frame's pixels
        y = at.box.top + (np.arange(h) + 0.5) * scale_y
        x = at.box.left + (np.arange(w) + 0.5) * scale_x
        rows = np.clip(y.astype(int), 0, self.origin.shape[0] - 1)
        columns = np.clip(x.astype(int), 0, self.origin.shape[1] - 1)
        stands = self.origin[rows[:, None], columns[None]].astype(np.float64)
        stands[..., 0] += (x - columns - 0.5)[None]  # the rest of the way from the pixel's centre
        stands[..., 1] += (y - rows - 0.5)[:, None]
        j = np.floor(stands[..., 0] / scale_x).astype(np.int64) % w
        i = np.floor(stands[..., 1] / scale_y).astype(np.int64) % h
        wanted = (i * w + j).reshape(-1)
        found = np.full(h * w, -1, np.int64)
        first = np.unique(wanted, return_index=True)[1]
        found[first] = wanted[first]
        return found


@dataclass(frozen=True)
class _Drifting:
    noise: Noise
    drift: Drift
    at: Pass
    multiple: int

    def stream(self, owner: str) -> Stream:
        return _DriftingStream(self.noise.stream(owner), self.noise.stream(f"{owner}, come into view"), self)


@dataclass(frozen=True)
class _DriftingStream:
    base: Stream
    new: Stream
    of: _Drifting

    @property
    def generators(self) -> tuple[Generator, ...]:
        return *self.base.generators, *self.new.generators

    def normal(self, shape: Sequence[int]) -> Tensor:
        """As the stream's own; of a state (b, c, h, w) every channel is moved alike."""
        made = self.base.normal(shape)
        if len(shape) != 4:
            return made
        sources = torch.from_numpy(self.of.drift.sources(self.of.at, self.of.multiple, *shape[-2:]))
        taken = made.flatten(2)[..., sources.clamp_min(0)]
        return torch.where(sources >= 0, taken, self.new.normal(shape).flatten(2)).reshape(made.shape)


def first(height: int, width: int) -> NDArray[np.float32]:
    """How far what is seen has come since the first frame, (H, W, 2): in that frame nothing has."""
    return np.zeros((height, width, 2), np.float32)


def further(come: NDArray[np.float32], by: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same one frame later: `by` says where each pixel was in the frame before, as an offset
    (`editkit.pictures.motion.flow`).
    """
    from editkit.pictures.motion import carried

    return np.asarray(by + carried(come, by), np.float32)


def drift(come: NDArray[np.float32]) -> Drift:
    """Where everything was, from how far it has come."""
    h, w = come.shape[:2]
    centres = np.stack(np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5), -1)
    return Drift((centres + come).astype(np.float32))
