"""Measure how busy a place is and estimate how busy a hole should be: a prior on sources.

If only blurred patches are compared, flat patches and busy ones look alike: grass is filled with its flattest patches,
and every pass makes it flatter. So the distance of a source grows as its detail departs from the detail of the hole's
surroundings, continued into the hole (`search.BUSYNESS_PENALTY`). Detail is the logarithm of its energy; the departure
is measured in standard deviations.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.models.patches.calm import gaussian_blur
from editkit.pictures.filling import smooth_fill

LEAST = 1.0 / 127.5
"""Detail below one grey level of 255 is negligible."""

SPREAD = 0.5
"""Minimum standard deviation of the logarithm of energy: patches of a single texture differ by this much."""

AROUND = 4
"""Means are taken over a square whose side is the picture's longer side divided by this."""

REACH = 4
"""Effective radius, in pixels, of the blur against which detail is measured."""


def busyness(x: Tensor, side: int) -> Tensor:
    """Return (h, w): the logarithm of the detail's energy in the patch of `side` around each pixel of `x` (c, h, w)."""
    energy = (x - gaussian_blur(x)).square().mean(0)[None, None]
    half = side // 2
    return torch.log(F.avg_pool2d(F.pad(energy, (half,) * 4, mode="replicate"), side, 1) + LEAST**2)[0, 0]


def expected_busyness(known: Tensor, region: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, (h, w) each, of the `busyness` outside `region` (h, w), continued into it."""
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
