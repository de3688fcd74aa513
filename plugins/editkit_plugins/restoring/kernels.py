"""Blur kernels, and the weights of luma. torch is imported only when a kernel is created."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601: Y' = 0.299 R + 0.587 G + 0.114 B."""


def gaussian_radius(sigma: float) -> int:
    """Return three sigma, rounded up to whole pixels."""
    return max(1, math.ceil(3.0 * sigma))


def motion_radius(length: float) -> int:
    """Return half the length, rounded up to whole pixels."""
    return max(1, math.ceil(length / 2.0))


def gaussian(sigma: float) -> Tensor:
    """Return the kernel exp(-r^2 / 2 sigma^2), truncated at three sigma, with sum 1: (n, n), n odd."""
    import torch

    radius = gaussian_radius(sigma)
    r = torch.arange(-radius, radius + 1, dtype=torch.float64)
    line = torch.exp(-(r**2) / (2.0 * sigma**2))
    kernel: Tensor = line[:, None] * line[None, :]
    return kernel / kernel.sum()


def motion(length: float, angle: float) -> Tensor:
    """Return a line of `length` pixels at `angle` degrees (0: right, 90: up), with sum 1: (n, n), n odd.

    Points on the line distribute their weight to the four pixels around them (bilinear).
    """
    import torch

    radius = motion_radius(length)
    n = 2 * radius + 1
    count = 16 * n
    along = (torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5
    x = radius + along * max(length - 1.0, 0.0) * math.cos(math.radians(angle))
    y = radius - along * max(length - 1.0, 0.0) * math.sin(math.radians(angle))
    kernel = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    left, top = x.floor().long(), y.floor().long()
    for dx in (0, 1):
        for dy in (0, 1):
            weight = (1.0 - (x - left - dx).abs()) * (1.0 - (y - top - dy).abs())
            kernel.index_put_((top + dy, left + dx), weight.clamp_min(0.0), accumulate=True)
    kernel = kernel[:n, :n]
    return kernel / kernel.sum()
