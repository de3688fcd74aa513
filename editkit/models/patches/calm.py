"""Calm regions stay calm: skies, walls and blurred backgrounds are continued as a membrane.

Copied pieces of a smooth background join with steps of a grey level or two, and their averages mottle it. A hole's
pixels around which there is less than `FLAT` of detail get the `membrane` instead that the pixels beside them hold, and
keep their grain.

Detail has every size. A soft picture has none between neighbouring pixels and yet is not calm: its detail is coarser.
And a horizon is a line: the larger the picture, the smaller the share of pixels near it. So detail is measured at the
picture's own size and at each halving of it, over surroundings that are the same part of the picture, since a picture's
size and sharpness say nothing about what it shows.
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

SMALLEST = AROUND * (2 * REACH + 1)
"""The longer side of the smallest picture that is asked: surroundings are to be as wide as what a blur reaches."""


def calmed(x: Tensor, region: Tensor) -> Tensor:
    """`x` (c, h, w) with a membrane and its own grain over the calm pixels of `region` (h, w), bool:

        membrane + x - blur(x)                   where neither the fill nor what is known around, continued, has detail.

    The others are given back. Grain is no stronger than that of calm places that are known: where pieces copied from
    the two ends of a slope meet, x - blur(x) holds their step.
    """
    little = detail(x, region) < FLAT**2
    calm = region & little
    if not bool(calm.any()) or bool(calm.all()):
        return x
    grain, known = x - blurred(x), little & ~region
    if bool(known.any()):
        most = grain[:, known].abs().amax(1)[:, None, None]
        grain = grain.clamp(-most, most)
    return torch.where(calm, membrane(x[None], calm[None, None].to(x.dtype))[0] + grain, x)


def detail(x: Tensor, region: Tensor) -> Tensor:
    """(h, w): the most detail of any size, mean square, around each pixel of `x` (c, h, w) or of what is known around
    `region` (h, w), continued there:

        max over k of mean over surroundings of (x_k - blur(x_k))^2,  x_k of a 2^k-th of the size.
    """
    image, unknown = x[None], region[None, None].to(x.dtype)
    most = _once(image, unknown)
    while max(image.shape[-2:]) >= 2 * SMALLEST and min(image.shape[-2:]) >= 2:
        image, unknown = F.avg_pool2d(image, 2, ceil_mode=True), F.max_pool2d(unknown, 2, ceil_mode=True)
        coarser = F.interpolate(_once(image, unknown), x.shape[-2:], mode="bilinear", align_corners=False)
        most = torch.maximum(most, coarser)
    return most[0, 0]


def _once(image: Tensor, unknown: Tensor) -> Tensor:
    """(1, 1, h, w): the detail that is as small as the pixels of `image` (1, c, h, w) are."""
    own = _around((image - blurred(image[0])).square().mean(1, keepdim=True))
    wide = 2 * REACH + 1  # the blur reaches over the rim
    unclear = F.max_pool2d(F.max_pool2d(unknown, (wide, 1), 1, (REACH, 0)), (1, wide), 1, (0, REACH))
    return torch.maximum(own, smooth_fill(own, unclear))


def blurred(x: Tensor) -> Tensor:
    """`x` (c, h, w) under a Gaussian."""
    r = torch.arange(-REACH, REACH + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(r**2) / (2 * BLUR**2))
    kernel = (kernel / kernel.sum()).expand(len(x), 1, 1, -1)
    rows = F.pad(x[None], (REACH,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(rows, kernel, groups=len(x)), kernel.mT, groups=len(x))[0]


def _around(energy: Tensor) -> Tensor:
    """The mean of `energy` (1, 1, h, w) over each place's surroundings."""
    half = max(1, max(energy.shape) // AROUND // 2)
    padded = F.pad(energy, (half,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (2 * half + 1, 1), 1), (1, 2 * half + 1), 1)
