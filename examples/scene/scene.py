"""A scene made of voxels, and the views of a known object as a prior that is told from where it looks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editkit.plugin import Conditioning, Cosine, Level, ModelInfo, PixelSpace, Prediction

BACKGROUND = 0.8
"""Of every view, in [0, 1]."""


class Scene(nn.Module):
    """Density and colour on a grid of n^3, seen in parallel rays from all round.

    Args:
        density: (1, 1, n, n, n), logits; softplus of it absorbs per unit of length. colour: (1, 3, n, n, n), logits.
            Axes z, y, x; y points up. The grid fills the cube from -1 to 1.
        side: of a view, in pixels. depths: points along a ray.
    """

    def __init__(self, density: Tensor, colour: Tensor, side: int = 48, depths: int = 36) -> None:
        super().__init__()
        self.density, self.colour = nn.Parameter(density), nn.Parameter(colour)
        self.side, self.depths = side, depths

    def view(self, angle: float) -> Tensor:
        """(1, 3, side, side) in [-1, 1], from `angle` (radians) round the y axis: emission and absorption."""
        at = (torch.arange(self.side) + 0.5) / self.side * 2.0 - 1.0
        along = (torch.arange(self.depths) + 0.5) / self.depths * 2.0 - 1.0
        s, v, u = torch.meshgrid(1.3 * along, -at, at, indexing="ij")
        x, z = u * math.cos(angle) - s * math.sin(angle), u * math.sin(angle) + s * math.cos(angle)
        grid = torch.cat([self.density, self.colour], 1)
        met = F.grid_sample(grid, torch.stack([x, v, z], -1)[None], align_corners=False)[0]  # (4, depths, side, side)
        inside = (torch.stack([x, v, z]).abs() < 1.0).all(0)
        absorbed = F.softplus(met[0]) * inside * (2.6 / self.depths)
        through = torch.exp(-(absorbed.cumsum(0) - absorbed))  # of the light, as far as this point
        weight = through * (1.0 - torch.exp(-absorbed))
        seen = (weight * met[1:].sigmoid()).sum(1) + (1.0 - weight.sum(0)) * BACKGROUND
        return 2.0 * seen[None] - 1.0


def empty(n: int, side: int, seed: int) -> Scene:
    """A faint grey fog in the middle, as DreamFusion begins, with a little chance in it."""
    at = (torch.arange(n) + 0.5) / n * 2.0 - 1.0
    radius = torch.stack(torch.meshgrid(at, at, at, indexing="ij")).square().sum(0).sqrt()
    g = torch.Generator().manual_seed(seed)
    density = 2.0 - 5.0 * radius + 0.3 * torch.randn(n, n, n, generator=g)
    return Scene(density[None, None], 0.3 * torch.randn(1, 3, n, n, n, generator=g), side)


def snowman(n: int = 64, side: int = 48) -> Scene:
    """The known object, finer than what is to find it: a snowman with a hat, a nose, buttons, a broom; no symmetry."""
    at = (torch.arange(n) + 0.5) / n * 2.0 - 1.0
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")
    density, colour = torch.full((n, n, n), -9.0), torch.zeros(3, n, n, n)

    def add(where: Tensor, rgb: Sequence[float]) -> None:
        density[where] = 30.0
        for k, value in enumerate(rgb):
            colour[k][where] = math.log(value / (1.0 - value))

    def ball(cx: float, cy: float, cz: float, r: float) -> Tensor:
        return (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < r * r

    add(ball(0, -0.45, 0, 0.42), (0.93, 0.95, 0.98))
    add(ball(0, 0.15, 0, 0.28), (0.93, 0.95, 0.98))
    add((x**2 + z**2 < 0.11) & ((y - 0.38).abs() < 0.04), (0.15, 0.12, 0.3))
    add((x**2 + z**2 < 0.045) & ((y - 0.57).abs() < 0.2), (0.15, 0.12, 0.3))
    add((x**2 + z**2 < 0.05) & ((y - 0.46).abs() < 0.05), (0.85, 0.1, 0.1))
    add((x**2 + (y - 0.15) ** 2 < (0.09 * (-z - 0.2) / 0.4 - 0.09) ** 2) & (z < -0.2) & (z > -0.6), (0.95, 0.5, 0.05))
    for height, depth in ((-0.2, -0.33), (-0.4, -0.42), (-0.6, -0.39)):
        add(ball(0, height, depth, 0.07), (0.1, 0.1, 0.1))
    add(((x - 0.62) ** 2 + z**2 < 0.004) & (y.abs() < 0.75), (0.45, 0.25, 0.08))
    add(((x - 0.62) ** 2 + z**2 < 0.03) & ((y + 0.7).abs() < 0.18), (0.9, 0.75, 0.1))
    add(((x + 0.6).abs() < 0.14) & ((y + 0.72).abs() < 0.14) & ((z - 0.3).abs() < 0.14), (0.1, 0.6, 0.2))
    return Scene(density[None, None], colour[None], side, depths=96).requires_grad_(False)


class Views(PixelSpace):
    """p(x | looking from v) = sum_k w_k(v) N(view_k, std^2 I): a mixture round the known views, exact.

    w_k is proportional to exp(kappa cos(v - v_k)): those near v, as a network that is told "side view" knows them.
    E[x0 | x_t] = sum_k r_k (m_k + alpha std^2 / (alpha^2 std^2 + sigma^2) (x_t - alpha m_k)), r_k the responsibilities.

    Args:
        views: (K, 3, h, w) in [-1, 1]. angles: of each, radians. `Conditioning.label` says from which it looks.
    """

    clip = None

    def __init__(self, views: Tensor, angles: Sequence[float], std: float = 0.02, kappa: float = 50.0) -> None:
        self.info = ModelInfo("views", "exact mixture of views")
        self.schedule = Cosine()
        self.views, self.angles, self.std, self.kappa = views, torch.tensor(angles), std, kappa

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        return tuple(self._of(x_t, level, cond) for cond in conds)

    def _of(self, x_t: Tensor, level: Level, cond: Conditioning) -> Prediction:
        told = torch.zeros(len(self.views))
        if cond.label is not None:
            told = self.kappa * torch.cos(self.angles[cond.label[0]] - self.angles)
        variance = level.alpha**2 * self.std**2 + level.sigma**2
        apart = (x_t[:, None] - level.alpha * self.views).flatten(2).square().sum(2)  # (batch, K)
        share = (told - 0.5 * apart / variance).softmax(1)
        mean = torch.einsum("bk,k...->b...", share, self.views)
        x0 = mean + level.alpha * self.std**2 / variance * (x_t - level.alpha * mean)
        return Prediction(x0, (x_t - level.alpha * x0) / max(level.sigma, 1e-12))

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Views:
        return self
