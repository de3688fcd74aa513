"""Fill holes from their surroundings alone, and compute the depth of a pixel in a hole."""

from __future__ import annotations

from types import EllipsisType
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from editkit.pictures.picture import Fill


def depth_in(unknown: Tensor) -> Tensor:
    """Return the chessboard distance of each pixel to the nearest known one, in pixels; 0 for known pixels."""
    import cv2

    distance = cv2.distanceTransform(unknown.byte().cpu().numpy(), cv2.DIST_C, 3)
    return torch.from_numpy(distance).to(unknown.device)


CYCLES = 6
SWEEPS = 4
"""V-cycles, and Jacobi sweeps before and after each coarser level."""

TINY = 1e-30
"""Replaces a divisor of 0."""

DAMPING = 0.8
"""Damping of the Jacobi sweeps; undamped sweeps do not reduce a checkerboard."""


class Normals(Protocol):
    """Anything that draws noise, such as `editkit.diffusion.noise.Stream`."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw N(0, 1) of `shape`."""
        ...


def smooth_fill(x0: Tensor, mask: Tensor) -> Tensor:
    """Fill the hole with the masked pyramid average of the known pixels (push-pull: Gortler et al. 1996, section 3.4).

    Going down, level k holds `sum(w x) / sum(w)` over 2x2 blocks with weight `w = min(1, sum w)`; coming
    back, a pixel of weight w is `w x + (1 - w) up(coarser)`. Where mask = 0 the result is x0 exactly; the
    values of x0 in the hole have no influence. A picture without known pixels becomes 0.
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


def membrane(x0: Tensor, mask: Tensor) -> Tensor:
    """Fill x0 (b, c, h, w) where mask (b or 1, 1, h, w) is 1 with the harmonic function determined by the known pixels:

        x_p = mean of x_q over the four neighbours q of p,

    with the border pixels repeated beyond the picture. Solved by flexible conjugate gradients (Notay 2000) starting
    from `smooth_fill`, preconditioned by multigrid (Briggs, Henson & McCormick 2000, "A multigrid tutorial"): the time
    is proportional to the number of pixels around the hole, and the residual never grows. Without known pixels it is 0.
    """
    free = (mask >= 0.5).to(x0.dtype)
    if not bool(free.any()):
        return x0
    part = _window_with_rim(free)
    image, free = x0[part], free[part]
    fill = smooth_fill(image, free)
    residual = (_neighbour_mean(fill) - fill) * free
    along, slope = torch.zeros_like(residual), 1.0 + torch.zeros_like(residual[..., :1, :1])
    before = residual
    for _ in range(CYCLES):
        step = _correction(residual, free)
        along = step + along * (_dot(step, residual - before) / slope).clamp(min=0.0)
        change = (along - _neighbour_mean(along)) * free
        slope, before = _dot(step, residual).clamp(min=TINY), residual
        rate = _dot(along, residual) / _dot(along, change).clamp(min=TINY)
        fill, residual = fill + rate * along, residual - rate * change
    made = x0.clone()
    made[part] = torch.where(free > 0, fill, image)
    return made


def blend_seamlessly(image: Tensor, known: Tensor, mask: Tensor) -> Tensor:
    """Blend `image` into `known` (b, c, h, w) where mask (b or 1, 1, h, w) > 0, with tones that match at the rim:
    image + membrane(known - image), which has the Laplacian of `image` (Perez et al. 2003, "Poisson image editing").
    """
    hole = (mask > 0).to(image.dtype)
    return known.where(hole == 0, image + membrane((known - image) * (1.0 - hole), hole))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product for each channel of each picture: (b, c, 1, 1)."""
    return (a * b).sum((-2, -1), keepdim=True)


def _window_with_rim(free: Tensor) -> tuple[EllipsisType, slice, slice]:
    """Return the rows and columns of the marked pixels of (b, 1, h, w), with one pixel around them."""
    spans = []
    for axis in (-1, -2):
        at = free.flatten(0, 1).amax((0, axis)).nonzero()[:, 0]
        spans.append(slice(max(int(at[0]) - 1, 0), int(at[-1]) + 2))
    return (..., spans[0], spans[1])


def _correction(residual: Tensor, free: Tensor) -> Tensor:
    """Approximate by a V-cycle: e - mean(e) = `residual` where `free` (b or 1, 1, h, w) is 1, e = 0 elsewhere."""
    e = _smooth(torch.zeros_like(residual), residual, free)
    height, width = e.shape[-2:]
    if max(height, width) > 2:
        block = (min(2, height), min(2, width))
        left = (residual - e + _neighbour_mean(e)) * free
        # A coarse pixel half beyond the border has half the weight, otherwise the correction would be too large.
        coarse = F.avg_pool2d(left, block, ceil_mode=True, divisor_override=block[0] * block[1])
        inside = F.avg_pool2d(free, block, ceil_mode=True)
        # The operator is the Laplacian times -h^2 / 4, so it is four times as large on pixels of twice the size.
        coarse = _correction(4.0 * coarse, (inside == 1).to(free))
        finer = F.interpolate(
            coarse, scale_factor=(float(block[0]), float(block[1])), mode="bilinear", align_corners=False
        )
        e = e + finer[..., : e.shape[-2], : e.shape[-1]] * free
        e = _smooth(e, residual, free)
    return e


def _smooth(e: Tensor, residual: Tensor, free: Tensor) -> Tensor:
    """Apply a few damped Jacobi sweeps."""
    for _ in range(SWEEPS):
        e = e + DAMPING * (residual - e + _neighbour_mean(e)) * free
    return e


def _neighbour_mean(x: Tensor) -> Tensor:
    """Return the mean of the four neighbours of each pixel; border pixels are repeated."""
    padded = F.pad(x, (1,) * 4, mode="replicate")
    return (padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1] + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]) / 4


def fill_hole(image: Tensor, mask: Tensor, fill: Fill, stream: Normals | None = None) -> Tensor:
    """Fill `image` (b, c, h, w) by the method `fill` where mask (b or 1, 1, h, w) > 0.

    smooth: a `membrane`. mean: the mean colour of the known pixels. noise: N(0, 1/4) around that mean, the spread of a
    typical picture. original: unchanged.
    """
    hole = (mask > 0).to(image.dtype)
    if fill == "original":
        return image
    if fill == "smooth":
        return membrane(image, hole)
    known = 1.0 - hole
    mean = (image * known).sum((-2, -1), keepdim=True) / known.sum((-2, -1), keepdim=True).clamp(min=1.0)
    if fill == "noise":
        if stream is None:
            raise ValueError("filling a hole with noise needs a random stream, and there is none")
        mean = mean + 0.5 * stream.normal(image.shape).to(image)
    return image.where(hole == 0, mean)
