"""Where little happens, nothing is to happen: skies, walls and blurred backgrounds are continued as a membrane.

Copied pieces of a smooth background join with steps of a grey level or two, and their averages mottle it. A hole's
pixels around which the fill has less than `FLAT` of detail get the `membrane` instead that the pixels beside them hold.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.smooth import membrane

FLAT = 4.0 / 127.5
"""Root mean square of the detail below which a place is calm: four grey levels of 255."""

BLUR = 2.0
"""Standard deviation in pixels of what detail is measured against."""

AROUND = 8
"""Detail is averaged over a square of the picture's longer side divided by this."""


def calmed(x: Tensor, region: Tensor) -> Tensor:
    """`x` (c, h, w) with a membrane over the calm pixels of `region` (h, w), bool; the others are given back."""
    calm = region & (detail(x) < FLAT)
    if not bool(calm.any()) or bool(calm.all()):
        return x
    return membrane(x[None], calm[None, None].to(x.dtype))[0]


def detail(x: Tensor) -> Tensor:
    """Root mean square over the surroundings and channels of what `x` (c, h, w) has above its blur: (h, w)."""
    r = torch.arange(-3 * BLUR, 3 * BLUR + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(r**2) / (2 * BLUR**2))
    kernel = (kernel / kernel.sum())[None, None]
    pad = kernel.shape[-1] // 2
    rows = F.pad(x[:, None], (pad,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(rows, kernel[..., None, :]), kernel[..., None])[:, 0]
    energy = (x - blurred).square().mean(0)
    half = max(1, max(x.shape[-2:]) // AROUND // 2)
    padded = F.pad(energy[None, None], (half,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * half + 1, 1)[0, 0].clamp(min=0.0).sqrt()
