"""Preconditioning around the condition: the network learns a residual of unit variance.

A condition determines much of x0, whatever the noisy state. So each pixel is modelled as x0 ~ N(c, s^2) with the
condition picture c and a deviation s, and the network only predicts the remainder (Karras et al. 2022,
arXiv:2206.00364, section 5, with a separate mean and deviation for every pixel):

    n  = (x0 - c) / s                        the standardised residual
    D  = sqrt(alpha_t^2 s^2 + sigma_t^2),    alpha = alpha_t s / D,  sigma = sigma_t / D
    z  = (x_t - alpha_t c) / D = alpha n + sigma eps      the network's input: variance 1
    F  = alpha eps - sigma n                              its prediction: variance 1, the v of n
    x0 = c + s (alpha z - sigma F),   eps = sigma z + alpha F

F = 0 gives the best linear estimate of x0 from x_t, `c + alpha_t s^2 / D^2 (x_t - alpha_t c)`; c = 0 and s = 1 give
v-prediction (Salimans & Ho 2022).

Deviations were measured on the training photographs (1,500 random windows of 64x64; root mean square of x0 - c):

| task | s | measured |
|---|---|---|
| prior | 0.53 | 0.533 |
| inpaint, d pixels inside the hole | 0.16 d^(1/3), at most 0.53 | d = 1, 3, 7, 15, 34: 0.15, 0.25, 0.31, 0.39, 0.50 |
| inpaint, refining | 0.14 | 0.138; 0.08 where c is flattest, 0.14 to 0.16 elsewhere |
| upscale; a the local activity of c | 0.02 + 0.5 sqrt(a) | a = 0.003, 0.02, 0.07: 0.03, 0.08, 0.15 |
| colorize, luma y | 0.02 + 0.24 (1 - y^2) | y = 0, 0.5, 0.7, 0.9: 0.26, 0.21, 0.16, 0.07 |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.pictures.filling import depth_in

TASKS = ("prior", "inpaint", "upscale", "colorize")
"""Task names; the position is the class label."""

KNOWN, COARSE, HOLE = 0.0, 0.5, 1.0
"""Mask values."""
LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights."""


def luma(x0: Tensor) -> Tensor:
    """Return Y' of (..., 3, H, W), repeated in three channels."""
    weights = torch.tensor(LUMA, dtype=x0.dtype, device=x0.device).view(3, 1, 1)
    return (x0 * weights).sum(dim=-3, keepdim=True).expand_as(x0)


EXACT = 1e-3
"""Deviation of a known pixel: practically none, and no division by zero."""
PRIOR, ROUGH = 0.53, 0.14


@dataclass(frozen=True, eq=False)
class Residual:
    """The map between (x0, eps, x_t) and (z, F) at one level, or at one level for each sample.

    Args:
        c: condition picture, (B, 3, H, W).
        s: deviation, (B, 1, H, W), positive.
        alpha_t, sigma_t: of the noise level; numbers, or (B, 1, 1, 1).
    """

    c: Tensor
    s: Tensor
    alpha_t: Tensor | float
    sigma_t: Tensor | float

    @property
    def spread(self) -> Tensor:
        """D, the standard deviation of x_t."""
        return ((self.alpha_t * self.s).square() + self.sigma_t**2).sqrt()

    @property
    def alpha(self) -> Tensor:
        return self.alpha_t * self.s / self.spread

    @property
    def sigma(self) -> Tensor:
        return self.sigma_t / self.spread

    def seen(self, x_t: Tensor) -> Tensor:
        """Return z."""
        return (x_t - self.alpha_t * self.c) / self.spread

    def target(self, x0: Tensor, eps: Tensor) -> Tensor:
        """Return F."""
        return self.alpha * eps - self.sigma * (x0 - self.c) / self.s

    def x0(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the clean picture x0 for z and F."""
        return self.c + self.s * (self.alpha * z - self.sigma * f)

    def eps(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the noise eps for z and F."""
        return self.sigma * z + self.alpha * f


def depth(mask: Tensor) -> Tensor:
    """Return the depth of each pixel in the hole (mask > 0), 0 for known ones: the chessboard distance to the nearest
    known pixel (`filling.depth_in`). Without known pixels it is the picture's longer side.
    """
    if mask.device.type != "cpu":
        return eroded_depth(mask)  # the same result without waiting for the device
    found = torch.stack([depth_in(hole) for hole in mask[:, 0] > 0])[:, None]
    return found.clamp(max=max(mask.shape[-2:])).to(mask.dtype)


def eroded_depth(mask: Tensor) -> Tensor:
    """Compute `depth` by repeated erosion of the hole."""
    hole = (mask > 0).to(mask.dtype)
    found = hole
    for _ in range(max(mask.shape[-2:]) - 1):
        hole = -F.max_pool2d(-hole, 3, 1, 1)  # pixels beyond the border are unknown
        found = found + hole
    return found


def activity(c: Tensor) -> Tensor:
    """Return the local root mean square of c minus its 3x3 mean, over 5x5 pixels and channels: (B, 1, H, W)."""
    fine = c - F.avg_pool2d(F.pad(c, (1, 1, 1, 1), mode="replicate"), 3, 1)
    energy = F.pad(fine.square().mean(dim=1, keepdim=True), (2, 2, 2, 2), mode="replicate")
    return F.avg_pool2d(energy, 5, 1).sqrt()


def deviation_of(name: str, condition: Tensor, mask: Tensor) -> Tensor:
    """Return s of every pixel, (B, 1, H, W), by the table above, for samples of one task."""
    if name == "inpaint":
        hole = (0.16 * depth(mask).pow(1 / 3)).clamp(EXACT, PRIOR)
        return hole.where(mask != COARSE, ROUGH)
    if name == "upscale":
        return 0.02 + 0.5 * activity(condition).sqrt()
    if name == "colorize":
        return 0.02 + 0.24 * (1 - condition[:, :1].square()).clamp_min(0)
    return torch.full_like(mask, PRIOR)


def deviation(task: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
    """Return `deviation_of` for each sample's task (B,), an index into `TASKS`."""
    s = torch.full_like(mask, PRIOR)
    for index, name in enumerate(TASKS):
        rows = task == index
        if name != "prior" and bool(rows.any()):
            s[rows] = deviation_of(name, condition[rows], mask[rows])
    return s
