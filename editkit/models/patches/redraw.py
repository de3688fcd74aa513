"""Redraw a whole picture from its own patches, coarse to fine, with x_t as the only evidence.

At the ratio r = sigma_t / alpha_t, a picture reduced by 1.6^k with area averaging has noise of r / 1.6^k. The content
under the noise is first estimated at a size at which little noise is left. Every finer size then copies patches guided
by the coarser one, as for a hole (`denoise`): one patch per place, so that the result is as sharp as the picture.
`search.OWN_PLACE_PENALTY` is added to the squared distance of a patch at its own place, so a similar patch may replace
it, more easily the more noise there is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from editkit.diffusion.model import Example
from editkit.diffusion.schedule import Level
from editkit.models.patches.denoise import Bound, Settings
from editkit.models.patches.info import COARSEST, FACTOR, Ladder
from editkit.pictures.resizing import resize

CALM = 0.1
"""Maximum noise, as sigma_t / alpha_t, at the coarsest size, where the estimate begins."""

COARSER = 2
"""Minimum number of sizes below the picture's own."""


@dataclass(frozen=True, eq=False)
class Redrawn:
    """The model for one picture (3, h, w), no pixel of which is known for certain."""

    picture: Tensor
    settings: Settings
    sizes: dict[int, Bound] = field(default_factory=dict)

    def denoise(self, x_t: Tensor, level: Level, lowres: Tensor | None) -> Tensor:
        """Return E[x | x_t], (3, h, w)."""
        ratio = level.sigma / max(level.alpha, 1e-3)
        image = x_t / max(level.alpha, 1e-3)
        made: Tensor | None = None
        for k in reversed(range(self._first_reduction(ratio) + 1)):
            bound = self._bound_at(k)
            there = bound.picture.shape[-2:]
            noisy = _resize_by_area(image, there)
            at = _level_of_ratio(ratio / FACTOR**k)
            guide = None if made is None else resize(made[None], *there)[0]
            made = bound.denoise(at.alpha * noisy, at, guide)
        assert made is not None
        return made

    def _first_reduction(self, ratio: float) -> int:
        """Return how many times the picture is reduced for the first size."""
        k = 0
        while (k < COARSER or ratio / FACTOR**k > CALM) and self._fits(k + 1):
            k += 1
        return k

    def _fits(self, k: int) -> bool:
        """Return whether the picture is large enough to be reduced k times."""
        return min(self.picture.shape[-2:]) / FACTOR**k >= COARSEST / 2

    def _bound_at(self, k: int) -> Bound:
        """Return the model of the picture reduced k times: every pixel is unknown, and the picture is an example."""
        if k not in self.sizes:
            size = [max(self.settings.side, round(n / FACTOR**k)) for n in self.picture.shape[-2:]]
            image = _resize_by_area(self.picture, size)
            coarser = _resize_by_area(
                self.picture, [max(1, round(n / FACTOR ** (k + 1))) for n in self.picture.shape[-2:]]
            )
            example = Example(image, resize(coarser[None], *size)[0])
            unknown = image.new_ones(*size).bool()
            self.sizes[k] = Bound.of(image * 0.0, unknown, self.settings, [example], own=True)
        return self.sizes[k]


def _level_of_ratio(ratio: float) -> Level:
    """Return the level with this sigma_t / alpha_t."""
    return Ladder().level(2.0 / math.pi * math.atan(ratio))


def _resize_by_area(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resize `image` (3, h, w) by area averaging."""
    return image if tuple(size) == tuple(image.shape[-2:]) else F.interpolate(image[None], tuple(size), mode="area")[0]
