"""Keep calm regions calm: continue skies, walls and blurred backgrounds as a membrane.

Copied pieces of a smooth background join with steps of one or two grey levels, and their averages look mottled. Where
the detail around a pixel of the hole is below `FLAT`, the pixel instead takes the value of a `membrane` through the
adjacent pixels, and keeps its grain.

Detail occurs at every scale. A soft picture has none between neighbouring pixels and yet is not calm: its detail is
coarser. A horizon is a line: the larger the picture, the smaller the share of pixels near it. So detail is measured at
the picture's own size and at each halving of it, over surroundings that are a fixed fraction of the picture, because a
picture's size and sharpness do not determine its content.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.pictures.filling import membrane, smooth_fill

FLAT = 2.0 / 127.5
"""A place is calm if the RMS of its detail is below this: two grey levels of 255. Even a faint texture has more."""

BLUR = 2.0
"""Standard deviation, in pixels, of the blur against which detail is measured."""

REACH = 6
"""Radius of that blur's kernel, in pixels."""

AROUND = 8
"""Detail is averaged over a square whose side is the picture's longer side divided by this."""

SMALLEST = AROUND * (2 * REACH + 1)
"""Longer side of the smallest reduced size: there the surroundings are as wide as the blur's kernel."""


def smooth_calm_regions(x: Tensor, region: Tensor) -> Tensor:
    """Replace the calm pixels of `region` (h, w), bool, in `x` (c, h, w) by a membrane plus their own grain:

        membrane + x - blur(x)     where neither the fill nor the known surroundings, continued, have detail.

    Other pixels are unchanged. Grain is limited to the strongest grain of known calm places: where pieces copied from
    the two ends of a slope meet, x - blur(x) contains the step between them.
    """
    little = detail(x, region) < FLAT**2
    calm = region & little
    if not bool(calm.any()) or bool(calm.all()):
        return x
    grain, known = x - gaussian_blur(x), little & ~region
    if bool(known.any()):
        most = grain[:, known].abs().amax(1)[:, None, None]
        grain = grain.clamp(-most, most)
    return torch.where(calm, membrane(x[None], calm[None, None].to(x.dtype))[0] + grain, x)


def detail(x: Tensor, region: Tensor) -> Tensor:
    """Return (h, w): the greatest mean square detail at any scale around each pixel of `x` (c, h, w).

    In `region` (h, w), it is at least the detail of the known surroundings, continued:

        max over k of the mean over the surroundings of (x_k - blur(x_k))^2,  x_k reduced by 2^k.
    """
    image, unknown = x[None], region[None, None].to(x.dtype)
    most = _detail_at_one_scale(image, unknown)
    while max(image.shape[-2:]) >= 2 * SMALLEST and min(image.shape[-2:]) >= 2:
        image, unknown = F.avg_pool2d(image, 2, ceil_mode=True), F.max_pool2d(unknown, 2, ceil_mode=True)
        coarser = F.interpolate(
            _detail_at_one_scale(image, unknown), x.shape[-2:], mode="bilinear", align_corners=False
        )
        most = torch.maximum(most, coarser)
    return most[0, 0]


def _detail_at_one_scale(image: Tensor, unknown: Tensor) -> Tensor:
    """Return (1, 1, h, w): the detail at the pixel scale of `image` (1, c, h, w)."""
    own = _local_mean((image - gaussian_blur(image[0])).square().mean(1, keepdim=True))
    wide = 2 * REACH + 1  # the blur reaches across the rim
    unclear = F.max_pool2d(F.max_pool2d(unknown, (wide, 1), 1, (REACH, 0)), (1, wide), 1, (0, REACH))
    return torch.maximum(own, smooth_fill(own, unclear))


def gaussian_blur(x: Tensor) -> Tensor:
    """Blur `x` (c, h, w) with a Gaussian."""
    r = torch.arange(-REACH, REACH + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(r**2) / (2 * BLUR**2))
    kernel = (kernel / kernel.sum()).expand(len(x), 1, 1, -1)
    rows = F.pad(x[None], (REACH,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(rows, kernel, groups=len(x)), kernel.mT, groups=len(x))[0]


def _local_mean(energy: Tensor) -> Tensor:
    """Average `energy` (1, 1, h, w) over the surroundings of each pixel."""
    half = max(1, max(energy.shape) // AROUND // 2)
    padded = F.pad(energy, (half,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (2 * half + 1, 1), 1), (1, 2 * half + 1), 1)
