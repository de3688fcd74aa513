"""What a hole is filled with when nothing is known but its surroundings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from editkit.images import Fill
    from editkit.noise import Stream


def smooth_fill(x0: Tensor, mask: Tensor) -> Tensor:
    """The known pixels, and in the hole their masked pyramid average (push-pull: Gortler et al. 1996, section
    3.4).

    Going down, level k holds `sum(w x) / sum(w)` over 2x2 blocks with weight `w = min(1, sum w)`; coming
    back, a pixel of weight w is `w x + (1 - w) up(coarser)`. Where mask = 0 the result is x0 exactly; what x0
    holds in the hole has no influence. A picture without known pixels becomes 0.
    """
    known = (mask < 0.5).to(x0.dtype)
    levels = [(x0 * known, known)]
    while max(levels[-1][0].shape[-2:]) > 1:
        block = tuple(min(2, n) for n in levels[-1][0].shape[-2:])
        value, weight = (F.avg_pool2d(z, block, ceil_mode=True) * (block[0] * block[1]) for z in levels[-1])
        grown = weight.clamp(max=1)
        levels.append((value / weight.clamp_min(1e-8) * grown, grown))
    fill = levels[-1][0]
    for value, weight in reversed(levels[:-1]):
        up = F.interpolate(fill, size=value.shape[-2:], mode="bilinear", align_corners=False)
        fill = value + (1 - weight) * up
    return torch.where(known > 0, x0, fill)


def filled(image: Tensor, mask: Tensor, fill: Fill, stream: Stream | None = None) -> Tensor:
    """`image` (b, c, h, w) with what `fill` says where mask (b or 1, 1, h, w) > 0.

    smooth: `smooth_fill`. mean: the mean colour of the known pixels. noise: N(0, 1/4) around that, a picture's own
    spread. original: what lies there.
    """
    hole = (mask > 0).to(image.dtype)
    if fill == "original":
        return image
    if fill == "smooth":
        return smooth_fill(image, hole)
    known = 1.0 - hole
    mean = (image * known).sum((-2, -1), keepdim=True) / known.sum((-2, -1), keepdim=True).clamp(min=1.0)
    if fill == "noise":
        if stream is None:
            raise ValueError("a hole is filled with noise from a stream, and there is none")
        mean = mean + 0.5 * stream.normal(image.shape).to(image)
    return image.where(hole == 0, mean)
