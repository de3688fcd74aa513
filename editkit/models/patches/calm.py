"""Where little happens, nothing is to happen: skies, walls and blurred backgrounds are continued as a membrane.

Copied pieces of a smooth background join with steps of a grey level or two, and their averages mottle it. A hole's
pixels around which there is less than `FLAT` of detail get the `membrane` instead that the pixels beside them hold, and
keep their grain.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.pictures.filling import membrane, smooth_fill

FLAT = 2.0 / 127.5
"""Root mean square of the detail below which a place is calm: two grey levels of 255. A faint texture has more."""

BLUR = 2.0
"""Standard deviation in pixels of the blur that detail is measured against."""

REACH = 6
"""How far that blur sees, in pixels."""

AROUND = 8
"""Detail is averaged over a square of the picture's longer side divided by this."""


def calmed(x: Tensor, region: Tensor) -> Tensor:
    """`x` (c, h, w) with a membrane and its own grain over the calm pixels of `region` (h, w), bool:

        membrane + x - blur(x)                   where neither the fill nor what is known around, continued, has detail.

    The others are given back.
    """
    grain = x - _blurred(x)
    own = _around(grain.square().mean(0))
    wide = 2 * REACH + 1  # the blur reaches over the rim
    unclear = F.max_pool2d(region[None, None].to(x.dtype), (wide, 1), 1, (REACH, 0))
    unclear = F.max_pool2d(unclear, (1, wide), 1, (0, REACH))
    known = smooth_fill(own[None, None], unclear)[0, 0]
    calm = region & (torch.maximum(own, known) < FLAT**2)
    if not bool(calm.any()) or bool(calm.all()):
        return x
    return torch.where(calm, membrane(x[None], calm[None, None].to(x.dtype))[0] + grain, x)


def _blurred(x: Tensor) -> Tensor:
    """`x` (c, h, w) under a Gaussian."""
    r = torch.arange(-REACH, REACH + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(r**2) / (2 * BLUR**2))
    kernel = (kernel / kernel.sum()).expand(len(x), 1, 1, -1)
    rows = F.pad(x[None], (REACH,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(rows, kernel, groups=len(x)), kernel.mT, groups=len(x))[0]


def _around(energy: Tensor) -> Tensor:
    """The mean of `energy` (h, w) over each place's surroundings."""
    half = max(1, max(energy.shape) // AROUND // 2)
    padded = F.pad(energy[None, None], (half,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (2 * half + 1, 1), 1), (1, 2 * half + 1), 1)[0, 0]
