"""A whole picture drawn again from its own patches, coarse to fine, whatever is known of it only through x_t.

At the ratio r = sigma_t / alpha_t a picture made 1.6^k times smaller by area has noise of r / 1.6^k. What is under the
noise is estimated where little is left of that, and every finer size copies patches by what the coarser one shows, as
a hole is filled (`denoise`): one patch a place, so that it is as sharp as the picture. A patch's own place counts as
further away by `OWN`: where another one looks like it, it may come in its place, the more so the more noise there is.
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
"""The most noise, as sigma_t / alpha_t, that the coarsest size that is begun with may have."""

COARSER = 2
"""At least so many sizes lie below the picture's own."""


@dataclass(frozen=True, eq=False)
class Redrawn:
    """The model for one picture (3, h, w), of which nothing is known for certain."""

    picture: Tensor
    settings: Settings
    sizes: dict[int, Bound] = field(default_factory=dict)

    def denoise(self, x_t: Tensor, level: Level, lowres: Tensor | None) -> Tensor:
        """E[x | x_t], (3, h, w)."""
        ratio = level.sigma / max(level.alpha, 1e-3)
        image = x_t / max(level.alpha, 1e-3)
        made: Tensor | None = None
        for k in reversed(range(self._begin(ratio) + 1)):
            bound = self._at(k)
            there = bound.picture.shape[-2:]
            noisy = _by_area(image, there)
            at = _level(ratio / FACTOR**k)
            guide = None if made is None else resize(made[None], *there)[0]
            made = bound.denoise(at.alpha * noisy, at, guide)
        assert made is not None
        return made

    def _begin(self, ratio: float) -> int:
        """How many times the picture is made smaller first."""
        k = 0
        while (k < COARSER or ratio / FACTOR**k > CALM) and self._fits(k + 1):
            k += 1
        return k

    def _fits(self, k: int) -> bool:
        """Whether the picture is large enough to be made smaller so often."""
        return min(self.picture.shape[-2:]) / FACTOR**k >= COARSEST / 2

    def _at(self, k: int) -> Bound:
        """The model of the picture made smaller k times: all of it unknown, and learned from as from another one."""
        if k not in self.sizes:
            size = [max(self.settings.side, round(n / FACTOR**k)) for n in self.picture.shape[-2:]]
            image = _by_area(self.picture, size)
            coarser = _by_area(self.picture, [max(1, round(n / FACTOR ** (k + 1))) for n in self.picture.shape[-2:]])
            example = Example(image, resize(coarser[None], *size)[0])
            unknown = image.new_ones(*size).bool()
            self.sizes[k] = Bound.of(image * 0.0, unknown, self.settings, [example], own=True)
        return self.sizes[k]


def _level(ratio: float) -> Level:
    """Of this sigma_t / alpha_t."""
    return Ladder().level(2.0 / math.pi * math.atan(ratio))


def _by_area(image: Tensor, size: Sequence[int]) -> Tensor:
    """`image` (3, h, w) at another size."""
    return image if tuple(size) == tuple(image.shape[-2:]) else F.interpolate(image[None], tuple(size), mode="area")[0]
