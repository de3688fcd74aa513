"""The network of `denoiser`: a bias-free residual UNet, (y, level) -> clean picture.

A UNet of residual blocks with the noise level as a fourth channel follows DRUNet (Zhang et al. 2021, arXiv:2008.13751);
without any bias or normalisation (Mohan et al. 2020, arXiv:1906.05478) it is homogeneous of degree 1,
D(c y, c level) = c D(y, level) for c > 0, and generalises to levels beyond those of its training. Four pixels are
folded into channels first (FFDNet, Zhang et al. 2018, arXiv:1710.04026), which makes it about four times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mirrored(y: Tensor, below: int, beside: int) -> Tensor:
    """Extend (B, C, H, W) by that many rows and columns, mirrored; repeated at the edge if it is smaller."""
    mode = "reflect" if below < y.shape[-2] and beside < y.shape[-1] else "replicate"
    return F.pad(y, (0, beside, 0, below), mode=mode)


def _conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, bias=False)


class Block(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _conv(channels, channels), _conv(channels, channels)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + self.second(F.relu(self.first(x)))
        return made


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Block(channels) for _ in range(count)))


class DenoiserNet(nn.Module):
    """(B, 3, H, W) in [-1, 1] and the noise's standard deviation (B, 1, H, W) in the same unit -> the noise.

    Args:
        channels: features of each level; every level has half the side of the one before.
        layers: residual blocks of a level, on the way down and on the way up.
        unshuffle: pixels per side folded into channels before the first level.
    """

    def __init__(self, channels: Sequence[int], layers: int, unshuffle: int) -> None:
        super().__init__()
        self.unshuffle, self.multiple = unshuffle, unshuffle * 2 ** (len(channels) - 1)
        self.conv_in = _conv(4 * unshuffle**2, channels[0])
        self.before = nn.ModuleList(_blocks(c, layers) for c in channels)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, 2, bias=False) for a, b in pairwise(channels))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2, bias=False) for a, b in pairwise(channels))
        self.after = nn.ModuleList(_blocks(c, layers) for c in channels[:-1])
        self.conv_out = _conv(channels[0], 3 * unshuffle**2)

    @property
    def dtype(self) -> torch.dtype:
        return self.conv_in.weight.dtype

    def forward(self, y: Tensor, level: Tensor) -> Tensor:
        """Return the estimate of the noise, y minus the clean picture; H and W are divisible by `multiple`."""
        x = F.pixel_unshuffle(torch.cat([y, level], 1), self.unshuffle)
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        kept = []
        for blocks, down in zip(self.before, self.down, strict=False):
            kept.append(blocks(x))
            x = down(kept[-1])
        x = self.before[-1](x)
        for blocks, up in zip(reversed(self.after), reversed(self.up), strict=True):
            x = blocks(up(x) + kept.pop())
        return F.pixel_shuffle(self.conv_out(x), self.unshuffle)
