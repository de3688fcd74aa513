"""Random holes for a batch: boxes, ellipses, strokes, half-planes, borders and smooth blobs.

The canvas gives the network crops in which the hole takes 25-60 % of the window's side, so that is what boxes
and blobs are drawn from. All masks are (B, 1, H, W) floats, 1 = hole, 0 = known, drawn for the whole batch at
once; each sample then keeps one kind.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

KINDS = {"box": 0.30, "ellipse": 0.18, "blob": 0.14, "strokes": 0.14, "half": 0.12, "border": 0.12}
"""Share of each kind."""


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _grid(size: int) -> tuple[Tensor, Tensor]:
    axis = (torch.arange(size) + 0.5) / size
    return axis.view(1, 1, 1, size), axis.view(1, 1, size, 1)


def _boxes(batch: int, size: int, generator: Generator, low: float, high: float) -> tuple[Tensor, ...]:
    half_w, half_h = _uniform(low / 2, high / 2, (2, batch, 1, 1, 1), generator).unbind(0)
    u, v = torch.rand((2, batch, 1, 1, 1), generator=generator).unbind(0)
    # Centres reach a little beyond the window, so that a tenth of the holes touch its border.
    cx = -0.05 + half_w + u * (1.1 - 2 * half_w)
    cy = -0.05 + half_h + v * (1.1 - 2 * half_h)
    return cx, cy, half_w, half_h


def box(batch: int, size: int, generator: Generator) -> Tensor:
    """A rectangle whose sides are 20-65 % of the window's."""
    x, y = _grid(size)
    cx, cy, w, h = _boxes(batch, size, generator, 0.20, 0.65)
    return (((x - cx).abs() < w) & ((y - cy).abs() < h)).float()


def ellipse(batch: int, size: int, generator: Generator) -> Tensor:
    """An upright ellipse, diameters 25-70 %."""
    x, y = _grid(size)
    cx, cy, w, h = _boxes(batch, size, generator, 0.25, 0.70)
    return ((((x - cx) / w) ** 2 + ((y - cy) / h) ** 2) < 1).float()


def blob(batch: int, size: int, generator: Generator) -> Tensor:
    """Where smooth noise lies above a level: one or several shapes with soft outlines, 10-50 % of the
    area.
    """
    noise = torch.randn((batch, 1, 6, 6), generator=generator)
    smooth = F.interpolate(noise, size=(size, size), mode="bicubic", align_corners=False)
    share = _uniform(0.10, 0.50, (batch,), generator)
    ordered = smooth.flatten(1).sort(dim=1, descending=True).values
    level = ordered.gather(1, (share * (size * size - 1)).long().view(batch, 1))
    return (smooth > level.view(batch, 1, 1, 1)).float()


def strokes(batch: int, size: int, generator: Generator, segments: int = 6) -> Tensor:
    """A brush's walk: a chain of thick segments, thickness 3-14 % of the window."""
    start = torch.rand((batch, 1, 2), generator=generator)
    turns = _uniform(-1.2, 1.2, (batch, segments), generator).cumsum(1) + _uniform(0, 6.2832, (batch, 1), generator)
    length = _uniform(0.05, 0.35, (batch, segments), generator)
    moves = torch.stack([turns.cos() * length, turns.sin() * length], dim=-1)
    points = torch.cat([start, start + moves.cumsum(1)], dim=1)
    radius = _uniform(0.015, 0.07, (batch, 1, 1), generator)
    x, y = _grid(size)
    pixels = torch.stack([x.expand(1, 1, size, size), y.expand(1, 1, size, size)], -1).view(1, 1, -1, 2)
    a, d = points[:, :-1].unsqueeze(2), moves.unsqueeze(2)
    along = ((pixels - a) * d).sum(-1) / d.square().sum(-1).clamp_min(1e-8)
    distance = (pixels - a - along.clamp(0, 1).unsqueeze(-1) * d).square().sum(-1).sqrt()
    touched: Tensor = (distance < radius).any(dim=1).float()
    return touched.view(batch, 1, size, size)


def half(batch: int, size: int, generator: Generator) -> Tensor:
    """One side of a line: three times in four an upright or level one, as tiles and uncropped borders have
    it.
    """
    x, y = _grid(size)
    angle = torch.randint(0, 4, (batch, 1, 1, 1), generator=generator) * (torch.pi / 2)
    tilted = torch.rand((batch, 1, 1, 1), generator=generator) < 0.25
    angle = torch.where(tilted, _uniform(0, 6.2832, (batch, 1, 1, 1), generator), angle)
    offset = _uniform(-0.25, 0.25, (batch, 1, 1, 1), generator)
    return ((x - 0.5) * angle.cos() + (y - 0.5) * angle.sin() > offset).float()


def border(batch: int, size: int, generator: Generator) -> Tensor:
    """Everything but a rectangle: what uncropping asks for."""
    x, y = _grid(size)
    cx, cy, w, h = _boxes(batch, size, generator, 0.40, 0.90)
    return (((x - cx).abs() >= w) | ((y - cy).abs() >= h)).float()


def random_masks(batch: int, size: int, generator: Generator) -> Tensor:
    """One hole a sample, (B, 1, H, W), kinds in the shares of `KINDS`; none is empty."""
    kinds = (box, ellipse, blob, strokes, half, border)
    kind = torch.multinomial(torch.tensor(list(KINDS.values())), batch, replacement=True, generator=generator)
    mask = torch.empty((batch, 1, size, size))
    for index, function in enumerate(kinds):
        chosen = kind == index
        if bool(chosen.any()):
            mask[chosen] = function(int(chosen.sum()), size, generator)
    empty = mask.amax(dim=(1, 2, 3)) == 0
    if bool(empty.any()):
        middle = torch.zeros_like(mask[:1])
        middle[..., size // 3 : 2 * size // 3, size // 3 : 2 * size // 3] = 1
        mask = torch.where(empty.view(-1, 1, 1, 1), middle, mask)
    return mask
