"""Propagation of colours from user points over a grey picture: neighbours of similar luma get similar colours.

Levin, Lischinski & Weiss 2004 ("Colorization using optimization") minimise

    J(u) = sum_p (u_p - sum_q w_pq u_q)^2,   w_pq ~ exp(-(y_p - y_q)^2 / 2 s^2),   u fixed at the points.

Instead of their sparse linear system this module uses geodesic distances (Yatziv & Sapiro 2006, "Fast image and video
colorization using chrominance blending"): the distance from a point to a pixel is the length of the shortest path,
where a step costs the change of luma plus a small constant. Colours are averaged with weights that decrease with
distance. Where no point reaches, colours do not change.
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
"""Constant cost of a step by one pixel in a picture of `SIDE`; luma ranges from 0 to 1."""

SIDE = 512
"""Distances are computed on a picture with this longer side."""

NEAR, FAR = 0.3, 1.2
"""Distance up to which the points alone set the colour, and distance from which they have no effect."""

SWEEPS = 24
"""Largest number of sweeps: a path that turns back more often is overestimated."""


def reach(luma: Floats, x: int, y: int) -> Floats:
    """Return the distance of each pixel from pixel (x, y), (H, W), by sweeps over rows and columns.

    `luma`: (H, W) in [0, 1].
    """
    far = np.full(luma.shape, np.inf, np.float32)
    far[y, x] = 0.0
    step = np.float32(STEP * SIDE / max(luma.shape))
    down = np.abs(np.diff(luma, axis=0)) + step
    right = np.abs(np.diff(luma, axis=1)) + step
    for _ in range(SWEEPS):
        before = far.copy()
        _sweep(far, down)
        _sweep(far.T, right.T)
        if np.array_equal(before, far):
            break
    return far


def _sweep(far: Floats, cost: Floats) -> None:
    """Sweep down and up, in place: relax each row from the one before."""
    for k in range(1, len(far)):
        np.minimum(far[k], far[k - 1] + cost[k - 1], out=far[k])
    for k in range(len(far) - 2, -1, -1):
        np.minimum(far[k], far[k + 1] + cost[k], out=far[k])


def _smooth_texture(luma: Floats) -> Floats:
    """Remove texture from `luma` but keep edges; texture would stop colours from spreading."""
    for _ in range(3):
        luma = cv2.bilateralFilter(luma, 9, 0.12, 4.0)
    return luma


def spread(luma: Floats, points: Sequence[Point]) -> tuple[Floats, Floats]:
    """Return colour differences from luma, (H, W, 3) with white 1, and their weight, (H, W) in [0, 1].

    At a point the difference is exactly that of its colour, with weight 1. `luma`: (H, W) in [0, 1].
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
    """Luma whose result takes the colours of points within their reach.

    Args:
        size: of x, (channels, height, width).
        y: (1, 1, h, w), the observed luma in [-1, 1].
        points: colours set by the user, in pixels of `size`.
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
            for made in spread(_smooth_texture(small), moved)
        )

    def within(self, x: Tensor, y: Tensor) -> Tensor:
        """Do the same as `Luma.within`, with the points' colours within their reach and the model's elsewhere."""
        colour = x - self.forward(x)
        mixed = colour + self.share * (2.0 * self.colour - colour)
        return super().within(y + mixed - self.forward(mixed), y)
