"""Colours that a user names at points, spread over a grey picture (Levin, Lischinski & Weiss 2004, "Colorization using
optimization"): neighbours of about equal luma have about equal colours.

    J(u) = sum_p (u_p - sum_q w_pq u_q)^2,   w_pq ~ exp(-(y_p - y_q)^2 / 2 s^2),   u fixed at the points.

Its sparse system is not solved here but what it says is done directly: each point's reach over the grid is the length
of the shortest way to a pixel, where a step costs what luma changes on it, and a little for its length; colours are
averaged with weights that fall with that reach (as Yatziv & Sapiro 2006, "Fast image and video colorization using
chrominance blending", do). Where no point reaches, what was there stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from editkit_plugins.restoring.degradations import Luma
from editkit_plugins.restoring.points import Point

Floats = NDArray[np.float32]

STEP = 0.0015
"""What a step of a pixel costs, of a picture of `SIDE`; luma goes from 0 to 1."""

SIDE = 512
"""Ways are measured on a picture of this size."""

NEAR, FAR = 0.3, 1.2
"""The way up to which a point alone decides, and at which it no longer counts."""

SWEEPS = 24
"""Rounds of sweeping at most: a way that turns back more often is found too long."""


def reach(luma: Floats, x: int, y: int) -> Floats:
    """(H, W): the cost of the cheapest way from pixel (x, y), by sweeps over rows and columns until nothing changes."""
    far = np.full(luma.shape, np.inf, np.float32)
    far[y, x] = 0.0
    step = np.float32(STEP * SIDE / max(luma.shape))
    down = np.abs(np.diff(luma, axis=0)) + step
    right = np.abs(np.diff(luma, axis=1)) + step
    for _ in range(SWEEPS):
        before = far.copy()
        _swept(far, down)
        _swept(far.T, right.T)
        if np.array_equal(before, far):
            break
    return far


def _swept(far: Floats, cost: Floats) -> None:
    """Down and up again, in place: each row from the one before."""
    for k in range(1, len(far)):
        np.minimum(far[k], far[k - 1] + cost[k - 1], out=far[k])
    for k in range(len(far) - 2, -1, -1):
        np.minimum(far[k], far[k + 1] + cost[k], out=far[k])


def _calm(luma: Floats) -> Floats:
    """`luma` with its edges and without its texture, in which no colour would get far."""
    for _ in range(3):
        luma = cv2.bilateralFilter(luma, 9, 0.12, 4.0)
    return luma


def spread(luma: Floats, points: Sequence[Point]) -> tuple[Floats, Floats]:
    """Colour differences from luma, (H, W, 3), white is 1; and how much they count, (H, W) in [0, 1].

    At a point they are the colour's own, and count wholly. `luma`: (H, W) in [0, 1].
    """
    ways = [reach(luma, point.x, point.y) for point in points]
    total, mean = np.zeros(luma.shape, np.float32), np.zeros((*luma.shape, 3), np.float32)
    for way, point in zip(ways, points, strict=True):
        colour = np.array(point.rgb, dtype=np.float32) / 255.0
        weight = 1.0 / (np.square(way) + np.float32(1e-6))
        mean += weight[..., None] * (colour - float(np.dot(colour, (0.299, 0.587, 0.114)))).astype(np.float32)
        total += weight
    share = np.clip((FAR - np.min(ways, axis=0)) / (FAR - NEAR), 0.0, 1.0)
    return np.asarray(mean / total[..., None], dtype=np.float32), np.asarray(share, dtype=np.float32)


class HintedLuma(Luma):
    """Luma whose result takes the colours of points where they reach.

    Args:
        y: (1, 1, h, w), the observed luma in [-1, 1].
    """

    def __init__(self, size: tuple[int, int, int], y: Tensor, points: Sequence[Point]) -> None:
        super().__init__(size)
        grey = (y[0, 0].float().cpu().numpy() + 1.0) / 2.0
        high, wide = grey.shape
        scale = min(1.0, SIDE / max(grey.shape))
        small = cv2.resize(
            grey, (max(1, round(wide * scale)), max(1, round(high * scale))), interpolation=cv2.INTER_AREA
        )
        moved = [
            point._replace(
                x=min(int(point.x * scale), small.shape[1] - 1), y=min(int(point.y * scale), small.shape[0] - 1)
            )
            for point in points
        ]
        self.colour, self.share = (
            torch.from_numpy(
                cv2.resize(made, (wide, high), interpolation=cv2.INTER_LINEAR).reshape(high, wide, -1).copy()
            )
            .permute(2, 0, 1)[None]
            .to(y)
            for made in spread(_calm(small), moved)
        )

    def within(self, x: Tensor, y: Tensor) -> Tensor:
        """As `Luma.within`, of the model's colours where no point reaches and of the points' where one does."""
        colour = x - self.forward(x)
        mixed = colour + self.share * (2.0 * self.colour - colour)
        return super().within(y + mixed - self.forward(mixed), y)
