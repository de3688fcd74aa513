"""What a hole is filled with when nothing is known but its surroundings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
