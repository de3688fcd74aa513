"""Noise that moves with the scene: a frame's noise is the first frame's noise, moved along the optical flow.

Noise moves with objects, so that the texture of an edit does not slide over them (Chang et al. 2024, "How I warped your
noise"). Interpolated noise would have less variance and correlated neighbours. Therefore values are moved whole, and
none is used twice: if two pixels map to one value, the second gets a fresh one. The result is independent N(0, 1)
again, for any flow that does not depend on the noise.

The first frame's noise is repeated periodically over the plane, so that objects that come into view later have noise
that stays with them, and boxes that move between frames see the same field.
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
    """The position in the first frame of everything seen in a frame.

    Args:
        origin: (H, W, 2), the position (x, y) of each pixel's centre in the first frame, in pixels; it may lie outside.
    """

    origin: NDArray[np.float32]

    def move_noise(self, noise: Noise, at: Pass, multiple: int) -> Noise:
        """Return `noise`, moved for a pass of this frame, whose states are padded to `multiple` pixels."""
        return _DriftingNoise(noise, self, at, multiple)

    def sources(self, at: Pass, multiple: int, h: int, w: int) -> NDArray[np.int64]:
        """Return the index of the first frame's value for each value of a state, row by row, (h w,); -1 for none."""
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
class _DriftingNoise:
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
    of: _DriftingNoise

    @property
    def generators(self) -> tuple[Generator, ...]:
        return *self.base.generators, *self.new.generators

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw N(0, 1) of `shape`; for a state (b, c, h, w) all channels are moved alike."""
        made = self.base.normal(shape)
        if len(shape) != 4:
            return made
        sources = torch.from_numpy(self.of.drift.sources(self.of.at, self.of.multiple, *shape[-2:]))
        taken = made.flatten(2)[..., sources.clamp_min(0)]
        return torch.where(sources >= 0, taken, self.new.normal(shape).flatten(2)).reshape(made.shape)


def no_displacement(height: int, width: int) -> NDArray[np.float32]:
    """Return the displacement since the first frame, for the first frame itself: zeros, (H, W, 2)."""
    return np.zeros((height, width, 2), np.float32)


def add_displacement(displacement: NDArray[np.float32], by: NDArray[np.float32]) -> NDArray[np.float32]:
    """Update the displacement for the next frame.

    `by`, (H, W, 2), is the offset of each pixel to its position in the frame before (by `motion.optical_flow`).
    """
    from editkit.pictures.motion import warp_by_flow

    return np.asarray(by + warp_by_flow(displacement, by), np.float32)


def drift(displacement: NDArray[np.float32]) -> Drift:
    """Return the positions in the first frame, given the `displacement`."""
    h, w = displacement.shape[:2]
    centres = np.stack(np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5), -1)
    return Drift((centres + displacement).astype(np.float32))
