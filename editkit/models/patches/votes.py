"""Overlapping patches vote for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editkit.models.patches.atlas import Atlas
from editkit.models.patches.crew import together

NARROW = 0.5
"""Width in pixels, at low noise, of the part of a patch that votes: little more than its centre, so that what comes out
is as sharp as what was put in."""

WIDE = 2.0
"""The same where patches agree: their mean takes mottling out of skies and blurred backgrounds."""

AGREE = 0.02
"""Standard deviation of the votes below which they say the same."""


@dataclass(frozen=True, eq=False)
class Voters:
    """The patches that vote.

    Args:
        corners: (Q,), where they lie, in the atlas's layout.
        stride: between neighbouring ones.
        confidence: (Q,), weights of their votes.
    """

    corners: Tensor
    atlas: Atlas
    stride: int
    confidence: Tensor

    def mean(self, patches: Tensor, t: float, shape: Sequence[int], guided: bool = False) -> Tensor:
        """A picture (c, h, w) from what the `patches` (Q, side^2, c) say at time t; `guided`: by a coarser picture.

        x = calm + v / (v + AGREE^2) (sharp - calm): `calm` is the mean over whole patches, `sharp` that over their
        middles, v the variance of the votes. While noise is high and nothing guides, middles are as wide as patches: a
        blurred estimate would attract flat patches in the next step, but an unguided one must first agree on something.
        """
        side, channels = self.atlas.side, patches.shape[-1]
        # With every n-th patch, a patch's own middle is n pixels wide: no pixel then lies between two of them.
        r = torch.arange(side, device=patches.device) - side // 2 - (self.stride - 1) % 2 / 2
        square = (r[:, None] ** 2 + r[None, :] ** 2).reshape(-1)
        narrow = NARROW + (0.0 if guided else 4.0 * max(0.0, t - 0.2))
        sharp, calm = together(
            lambda: self._sums(patches, torch.exp(-square / (2.0 * narrow**2)), shape),
            lambda: self._sums(torch.cat([patches, patches.square()], -1), torch.exp(-square / (2.0 * WIDE**2)), shape),
        )
        mean, squares = calm[:, :channels], calm[:, channels:]
        v = (squares - mean.square()).clamp(min=0.0).mean(-1, keepdim=True)
        voted = mean + (sharp - mean) * (v / (v + AGREE**2))
        return voted.T.view(channels, shape[-2], -1)[..., : shape[-1]]

    def _sums(self, patches: Tensor, kernel: Tensor, shape: Sequence[int]) -> Tensor:
        """The weighted mean of the votes for each pixel of the atlas's first columns: (pixels, c)."""
        weights = (self.confidence[:, None] * kernel)[..., None]
        joined = torch.cat([patches * weights, weights], dim=-1).flatten(0, 1)
        index = (self.corners[:, None] + self.atlas.offsets).reshape(-1)
        total = joined.new_zeros(shape[-2] * self.atlas.width, joined.shape[-1]).index_add(0, index, joined)
        return total[:, :-1] / total[:, -1:].clamp(min=1e-20)
