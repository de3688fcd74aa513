"""Overlapping patches vote for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editkit.models.patches.atlas import Atlas
from editkit.models.patches.threads import run_all

NARROW = 0.5
"""Width, in pixels, of the part of a patch that votes at low noise.

It is little more than the centre, so that the result is as sharp as the patches.
"""

WIDE = 2.0
"""The same where patches agree: their mean removes mottling from skies and blurred backgrounds."""

AGREE = 0.02
"""Votes agree if their standard deviation is below about this."""


@dataclass(frozen=True, eq=False)
class Voters:
    """The patches that vote.

    Args:
        corners: (Q,), the patches' corners in the layout of `atlas`.
        atlas: the layout.
        stride: distance between neighbouring patches, in pixels.
        confidence: (Q,), weights of their votes.
    """

    corners: Tensor
    atlas: Atlas
    stride: int
    confidence: Tensor

    def vote(
        self,
        patches: Tensor,
        t: float,
        shape: Sequence[int],
        guided: bool = False,
        chosen: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return the picture (c, h, w) that `patches` (Q, side^2, c) vote for at time t.

        x = calm + v / (v + AGREE^2) (sharp - calm): `calm` is the mean over whole patches, `sharp` the mean over their
        middles, v the variance of the votes. `guided`: a coarser picture guides the patches. At high noise without a
        guide, the middles are as wide as the patches: a blurred estimate would attract flat patches in the next step,
        but unguided patches must first reach agreement. `chosen`: pixels (p,) of the layout, and their `sharp` (p, c).
        """
        side, channels = self.atlas.side, patches.shape[-1]
        # If every n-th patch votes, a patch's middle is n pixels wide, so that no pixel lies between two middles.
        r = torch.arange(side, device=patches.device) - side // 2 - (self.stride - 1) % 2 / 2
        square = (r[:, None] ** 2 + r[None, :] ** 2).reshape(-1)
        narrow = NARROW + (0.0 if guided else 4.0 * max(0.0, t - 0.2))
        sharp, calm = run_all(
            lambda: self._weighted_mean(patches, torch.exp(-square / (2.0 * narrow**2)), shape),
            lambda: self._weighted_mean(
                torch.cat([patches, patches.square()], -1), torch.exp(-square / (2.0 * WIDE**2)), shape
            ),
        )
        if chosen is not None:
            sharp = sharp + (sharp.detach().index_copy(0, *chosen) - sharp.detach())
        mean, squares = calm[:, :channels], calm[:, channels:]
        v = (squares - mean.square()).clamp(min=0.0).mean(-1, keepdim=True)
        voted = mean + (sharp - mean) * (v / (v + AGREE**2))
        return voted.T.view(channels, shape[-2], -1)[..., : shape[-1]]

    def _weighted_mean(self, patches: Tensor, kernel: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the weighted mean of the votes for each pixel of the atlas's first rows: (pixels, c)."""
        weights = (self.confidence[:, None] * kernel)[..., None]
        joined = torch.cat([patches * weights, weights], dim=-1).flatten(0, 1)
        index = (self.corners[:, None] + self.atlas.offsets).reshape(-1)
        total = joined.new_zeros(shape[-2] * self.atlas.width, joined.shape[-1]).index_add(0, index, joined)
        return total[:, :-1] / total[:, -1:].clamp(min=1e-20)
