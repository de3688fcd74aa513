"""The network's conditions: condition picture and mask for the four tasks.

| task | condition picture | mask |
|---|---|---|
| prior | 0 | 1 |
| inpaint | the known pixels; in the hole a smooth fill | 0 known, 1 hole |
| inpaint, refining | the known pixels; in the hole a coarser picture, enlarged | 0 known, 0.5 hole |
| upscale | the small picture, enlarged bicubically | 1 |
| colorize | the luma Y' = 0.299 R + 0.587 G + 0.114 B in all three channels | 1 |

Pictures are (B, 3, H, W) in [-1, 1], masks (B, 1, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.models.pocket.residual import COARSE, HOLE, TASKS, deviation_of, luma
from editkit.pictures.filling import smooth_fill
from editkit.training.draws import Source, uniform_between
from editkit.training.masks import random_masks

SHARES = (0.24, 0.48, 0.14, 0.14)
"""Share of each task in a batch."""


@lru_cache(maxsize=4)
def _blur_matrices(size: int, device: torch.device) -> Tensor:
    """Return M (2, size + 1, size, size): shrinking a column of `size` pixels to n and enlarging it again is
    multiplying by M[., n], for antialiased bicubic and area reduction. Enlarging is bicubic. n below 4 is not used.
    """
    table, unit = torch.zeros(2, size + 1, size, size), torch.eye(size).view(1, 1, size, size)
    for n in range(4, size + 1):
        bicubic = F.interpolate(unit, size=(n, size), mode="bicubic", antialias=True, align_corners=False)
        for kind, low in enumerate((bicubic, F.interpolate(unit, size=(n, size), mode="area"))):
            table[kind, n] = F.interpolate(low, size=(size, size), mode="bicubic", align_corners=False)[0, 0]
    return table.to(device)


def blur(x0: Tensor, factors: Tensor, area: Tensor | None = None) -> Tensor:
    """Shrink each sample by `factor` (B,) (antialiased bicubic, or by area where `area` (B,) is set), and enlarge it
    again (bicubic).
    """
    size = x0.shape[-1]
    small = (size / factors).round().long().clamp(4, size)
    kind = torch.zeros_like(small) if area is None else area.long()
    m = _blur_matrices(size, x0.device)[kind, small].unsqueeze(1)
    return (m @ x0 @ m.transpose(-1, -2)).clamp(-1, 1)


def _random_flags(share: float, batch: int, source: Source) -> Tensor:
    return source.uniform(batch, 1, 1, 1) < share


def _between(low: float, high: float, batch: int, source: Source) -> Tensor:
    return uniform_between(low, high, source, batch, 1, 1, 1)


def simulate_coarse_estimate(x0: Tensor, source: Source) -> Tensor:
    """Simulate a coarser level's estimate of x0: blurred 1.5 to 8 times, often with wrong tones (smooth noise) and
    slight noise. Samples of a little-trained network are too soft, so the blur exceeds the distance of two levels, and
    the tone of the rim is to prevail over it.
    """
    batch, channels, *size = x0.shape
    factors = torch.exp(_between(0.405, 2.079, batch, source)).flatten()
    small = source.normal(batch, channels, 5, 5)
    tone = F.interpolate(small, size=size, mode="bicubic", align_corners=False)
    grain = source.normal(*x0.shape)
    tone = tone * _between(0, 0.15, batch, source) * _random_flags(0.6, batch, source)
    grain = grain * _between(0, 0.08, batch, source) * _random_flags(0.5, batch, source)
    return blur(x0, factors) + tone + grain


def inpaint_condition(x0: Tensor, source: Source) -> tuple[Tensor, Tensor]:
    """Make a random hole with a smooth fill, or (half of them, mask 0.5) with a `rough` version of its content.

    The second teaches the finer levels of a coarse-to-fine edit to refine the enlarged coarser result to the sharpness
    of its surroundings. A quarter of those are rough everywhere, like a window entirely inside the hole.
    """
    batch, _, size, _ = x0.shape
    hole = random_masks(batch, size, source)
    refine = _random_flags(0.5, batch, source)
    hole = torch.where(refine & _random_flags(0.25, batch, source), torch.ones_like(hole), hole)
    filled = torch.where(refine, simulate_coarse_estimate(x0, source), smooth_fill(x0, hole))
    condition = torch.where(hole > 0, filled, x0)
    return condition, hole * torch.where(refine, COARSE, HOLE)


def upscale_condition(x0: Tensor, source: Source) -> tuple[Tensor, Tensor]:
    """Shrink 2 (60 %) or 2-4 times, by area or bicubically, half of them with slight noise, and enlarge
    bicubically.
    """
    batch = x0.shape[0]
    twice = _random_flags(0.6, batch, source)
    factors = torch.where(twice, 2.0, torch.exp(_between(0.693, 1.386, batch, source))).flatten()
    area = _random_flags(0.4, batch, source).flatten()
    low = blur(x0, factors, area)
    noise = source.normal(*x0.shape) * _between(0, 0.04, batch, source) * _random_flags(0.4, batch, source)
    return low + noise, torch.ones_like(x0[:, :1])


def condition_of(name: str, x0: Tensor, source: Source) -> tuple[Tensor, Tensor]:
    """Return condition picture (B, 3, H, W) and mask (B, 1, H, W) of one task's samples."""
    if name == "inpaint":
        return inpaint_condition(x0, source)
    if name == "upscale":
        return upscale_condition(x0, source)
    return (luma(x0) if name == "colorize" else torch.zeros_like(x0)), torch.ones_like(x0[:, :1])


def draw_conditions(x0: Tensor, counts: Sequence[int], source: Source) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (task (B,), condition, mask, deviation (B, 1, H, W)) of a batch: the first counts[0] samples are of the
    first of `TASKS`, and so on. The host knows the rows of each task, so that nothing waits for the device.
    """
    rows = zip(TASKS, counts, accumulate(counts), strict=True)
    parts = []
    for label, (name, count, end) in enumerate(rows):
        if count:
            condition, mask = condition_of(name, x0[end - count : end], source)
            task = torch.full((count,), label, device=x0.device)
            parts.append((task, condition, mask, deviation_of(name, condition, mask)))
    task, condition, mask, s = (torch.cat(values) for values in zip(*parts, strict=True))
    return task, condition, mask, s
