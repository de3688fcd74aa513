"""What the network is told: the four tasks' condition picture and mask.

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

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from editkit.models.pocket.residual import COARSE, HOLE, TASKS, luma
from editkit.pictures.filling import smooth_fill
from editkit.training.masks import random_masks

SHARES = (0.24, 0.48, 0.14, 0.14)
"""Share of each task in a batch."""


def blurred(x0: Tensor, factors: Tensor, area: bool = False) -> Tensor:
    """Each sample made `factor` times smaller (antialiased bicubic, or area) and enlarged again (bicubic).
    factors: (B,).
    """
    size = x0.shape[-1]
    rows = []
    for i, factor in enumerate(factors.tolist()):
        picture = x0[i : i + 1]
        small = max(4, round(size / factor))
        if area:
            low = F.interpolate(picture, size=(small, small), mode="area")
        else:
            low = F.interpolate(picture, size=(small, small), mode="bicubic", antialias=True, align_corners=False)
        rows.append(F.interpolate(low, size=(size, size), mode="bicubic", align_corners=False))
    return torch.cat(rows).clamp(-1, 1)


def _some(share: float, batch: int, generator: Generator) -> Tensor:
    return torch.rand((batch, 1, 1, 1), generator=generator) < share


def _between(low: float, high: float, batch: int, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand((batch, 1, 1, 1), generator=generator)


def rough(x0: Tensor, generator: Generator) -> Tensor:
    """A coarser level's idea of x0: blurred 1.5 to 8 times, often with tones that are off (smooth noise) and lightly
    noised. A young network's samples are softer than their size allows, so it is blurred by more than two levels lie
    apart, and what the rim says about the tone is to win over it.
    """
    batch, channels, *size = x0.shape
    factors = torch.exp(_between(0.405, 2.079, batch, generator)).flatten()
    small = torch.randn((batch, channels, 5, 5), generator=generator)
    tone = F.interpolate(small, size=size, mode="bicubic", align_corners=False)
    grain = torch.randn(x0.shape, generator=generator)
    tone = tone * _between(0, 0.15, batch, generator) * _some(0.6, batch, generator)
    grain = grain * _between(0, 0.08, batch, generator) * _some(0.5, batch, generator)
    return blurred(x0, factors) + tone + grain


def inpaint_condition(x0: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """A random hole with a smooth fill, or (half of them, mask 0.5) with a `rough` idea of what was there.

    The second teaches the finer levels of a coarse-to-fine edit: draw what the enlarged coarser result means, as sharp
    as its surroundings. Of those, a quarter are rough everywhere: a window that lies wholly inside the hole.
    """
    batch, _, size, _ = x0.shape
    hole = random_masks(batch, size, generator)
    refine = _some(0.5, batch, generator)
    hole = torch.where(refine & _some(0.25, batch, generator), torch.ones_like(hole), hole)
    filled = torch.where(refine, rough(x0, generator), smooth_fill(x0, hole))
    condition = torch.where(hole > 0, filled, x0)
    return condition, hole * torch.where(refine, COARSE, HOLE)


def upscale_condition(x0: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Made 2 (60 %) or 2-4 times smaller, by area or bicubically, half of them with slight noise, and
    enlarged bicubically.
    """
    batch = x0.shape[0]
    twice = _some(0.6, batch, generator)
    factors = torch.where(twice, 2.0, torch.exp(_between(0.693, 1.386, batch, generator))).flatten()
    area = _some(0.4, batch, generator).flatten()
    low = torch.empty_like(x0)
    for kind in (True, False):
        if bool((area == kind).any()):
            low[area == kind] = blurred(x0[area == kind], factors[area == kind], area=kind)
    noise = (
        torch.randn(x0.shape, generator=generator) * _between(0, 0.04, batch, generator) * _some(0.4, batch, generator)
    )
    return low + noise, torch.ones_like(x0[:, :1])


def conditions(x0: Tensor, task: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Condition picture (B, 3, H, W) and mask (B, 1, H, W) of each sample's task (B,), an index into
    `TASKS`.
    """
    condition, mask = torch.zeros_like(x0), torch.ones_like(x0[:, :1])
    for index, name in enumerate(TASKS):
        chosen = task == index
        if name == "prior" or not bool(chosen.any()):
            continue
        if name == "inpaint":
            condition[chosen], mask[chosen] = inpaint_condition(x0[chosen], generator)
        elif name == "upscale":
            condition[chosen], mask[chosen] = upscale_condition(x0[chosen], generator)
        else:
            condition[chosen] = luma(x0[chosen])
    return condition, mask


def deal_tasks(batch: int, generator: Generator, shares: Sequence[float]) -> Tensor:
    """Task of each sample, in the given shares as exactly as the batch allows (the rest by lot), shuffled."""
    exact = torch.tensor(shares) * batch
    counts = exact.floor().long()
    rest = batch - int(counts.sum())
    if rest:
        lots = torch.multinomial((exact - counts).clamp_min(1e-6), rest, replacement=True, generator=generator)
        counts += torch.bincount(lots, minlength=len(shares))
    tasks = torch.repeat_interleave(torch.arange(len(shares)), counts)
    return tasks[torch.randperm(batch, generator=generator)]
