"""How busy a place is, and how busy a hole may be: a prior on sources.

Compared blurred with blurred, flat patches and busy ones are alike: grass is filled with its flattest patches, and
every pass makes it flatter. So a source counts as further away the less its own detail is what the surroundings of the
hole, continued, have (`search.ODD`): the logarithm of its energy, in deviations.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.models.patches.calm import blurred
from editkit.pictures.filling import smooth_fill

LEAST = 1.0 / 127.5
"""Detail below a grey level of 255 is as good as none."""

SPREAD = 0.5
"""The least standard deviation of the logarithm of energy: patches of one texture differ by as much."""

AROUND = 4
"""Means are taken over a square of the picture's longer side divided by this."""

REACH = 4
"""How far the blur that detail is measured against counts, in pixels."""


def busy(x: Tensor, side: int) -> Tensor:
    """(h, w): the logarithm of the detail's energy in the patch of `side` around each pixel of `x` (c, h, w)."""
    energy = (x - blurred(x)).square().mean(0)[None, None]
    half = side // 2
    return torch.log(F.avg_pool2d(F.pad(energy, (half,) * 4, mode="replicate"), side, 1) + LEAST**2)[0, 0]


def expected(known: Tensor, region: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """(h, w) twice: mean and standard deviation of `busy` outside of `region` (h, w), bool, continued into it."""
    reach = 2 * (REACH + side // 2) + 1
    hidden = region.cpu().numpy().astype(np.uint8)
    unclear = cv2.dilate(hidden, np.ones((reach, reach), np.uint8))
    if unclear.all():
        unclear = hidden
    mask = torch.from_numpy(unclear)[None, None].to(known)
    both = smooth_fill(torch.stack([known, known.square()])[None], mask)[0]
    wide = 2 * max(2 * side, max(known.shape) // AROUND // 2) + 1
    means = [cv2.blur(one.cpu().numpy(), (wide, wide), borderType=cv2.BORDER_REPLICATE) for one in both]
    mean, square = torch.from_numpy(np.stack(means)).to(known)
    return mean, (square - mean.square()).clamp(min=SPREAD**2).sqrt()
