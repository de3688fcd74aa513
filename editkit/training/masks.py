"""Random holes for a batch: boxes, ellipses, strokes, half-planes, borders and smooth blobs.

In the crops of a real edit, the hole has 25-60 % of the window's side, so boxes and blobs are drawn from that range.
All masks are (B, 1, H, W) floats, 1 = hole, 0 = known, drawn for the whole batch at once; each sample then keeps one
kind.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.training.draws import Source, split_count, uniform_between

KINDS = {"box": 0.30, "ellipse": 0.18, "blob": 0.14, "strokes": 0.14, "half": 0.12, "border": 0.12}
"""Share of each kind."""


def _grid(size: int, source: Source) -> tuple[Tensor, Tensor]:
    axis = (torch.arange(size, device=source.device) + 0.5) / size
    return axis.view(1, 1, 1, size), axis.view(1, 1, size, 1)


def _boxes(batch: int, source: Source, low: float, high: float) -> tuple[Tensor, ...]:
    half_w, half_h = uniform_between(low / 2, high / 2, source, 2, batch, 1, 1, 1).unbind(0)
    u, v = source.uniform(2, batch, 1, 1, 1).unbind(0)
    # Centres reach a little beyond the window, so that a tenth of the holes touch its border.
    cx = -0.05 + half_w + u * (1.1 - 2 * half_w)
    cy = -0.05 + half_h + v * (1.1 - 2 * half_h)
    return cx, cy, half_w, half_h


def box(batch: int, size: int, source: Source) -> Tensor:
    """A rectangle whose sides are 20-65 % of the window's."""
    x, y = _grid(size, source)
    cx, cy, w, h = _boxes(batch, source, 0.20, 0.65)
    return (((x - cx).abs() < w) & ((y - cy).abs() < h)).float()


def ellipse(batch: int, size: int, source: Source) -> Tensor:
    """An upright ellipse, diameters 25-70 %."""
    x, y = _grid(size, source)
    cx, cy, w, h = _boxes(batch, source, 0.25, 0.70)
    return ((((x - cx) / w) ** 2 + ((y - cy) / h) ** 2) < 1).float()


def blob(batch: int, size: int, source: Source) -> Tensor:
    """Threshold smooth noise: one or several shapes with smooth outlines, 10-50 % of the area."""
    noise = source.normal(batch, 1, 6, 6)
    smooth = F.interpolate(noise, size=(size, size), mode="bicubic", align_corners=False)
    share = uniform_between(0.10, 0.50, source, batch)
    ordered = smooth.flatten(1).sort(dim=1, descending=True).values
    level = ordered.gather(1, (share * (size * size - 1)).long().view(batch, 1))
    return (smooth > level.view(batch, 1, 1, 1)).float()


def strokes(batch: int, size: int, source: Source, segments: int = 6) -> Tensor:
    """A brush stroke: a chain of thick segments, thickness 3-14 % of the window."""
    start = source.uniform(batch, 1, 2)
    turns = uniform_between(-1.2, 1.2, source, batch, segments).cumsum(1) + uniform_between(0, 6.2832, source, batch, 1)
    length = uniform_between(0.05, 0.35, source, batch, segments)
    moves = torch.stack([turns.cos() * length, turns.sin() * length], dim=-1)
    points = torch.cat([start, start + moves.cumsum(1)], dim=1)
    radius = uniform_between(0.015, 0.07, source, batch, 1, 1)
    x, y = _grid(size, source)
    pixels = torch.stack([x.expand(1, 1, size, size), y.expand(1, 1, size, size)], -1).view(1, 1, -1, 2)
    a, d = points[:, :-1].unsqueeze(2), moves.unsqueeze(2)
    along = ((pixels - a) * d).sum(-1) / d.square().sum(-1).clamp_min(1e-8)
    distance = (pixels - a - along.clamp(0, 1).unsqueeze(-1) * d).square().sum(-1).sqrt()
    touched: Tensor = (distance < radius).any(dim=1).float()
    return touched.view(batch, 1, size, size)


def half(batch: int, size: int, source: Source) -> Tensor:
    """One side of a line: three times in four vertical or horizontal, as in tiles and uncropped borders."""
    x, y = _grid(size, source)
    angle = (4 * source.uniform(batch, 1, 1, 1)).floor() * (torch.pi / 2)
    tilted = source.uniform(batch, 1, 1, 1) < 0.25
    angle = torch.where(tilted, uniform_between(0, 6.2832, source, batch, 1, 1, 1), angle)
    offset = uniform_between(-0.25, 0.25, source, batch, 1, 1, 1)
    return ((x - 0.5) * angle.cos() + (y - 0.5) * angle.sin() > offset).float()


def border(batch: int, size: int, source: Source) -> Tensor:
    """Everything but a rectangle, as in uncropping."""
    x, y = _grid(size, source)
    cx, cy, w, h = _boxes(batch, source, 0.40, 0.90)
    return (((x - cx).abs() >= w) | ((y - cy).abs() >= h)).float()


def random_masks(batch: int, size: int, source: Source) -> Tensor:
    """Draw one hole per sample, (B, 1, H, W), with the shares and order of `KINDS`; none is empty."""
    kinds = (box, ellipse, blob, strokes, half, border)
    counts = split_count(batch, list(KINDS.values()), source)
    mask = torch.cat([kind(count, size, source) for kind, count in zip(kinds, counts, strict=True) if count])
    middle = torch.zeros_like(mask[:1])
    middle[..., size // 3 : 2 * size // 3, size // 3 : 2 * size // 3] = 1
    return torch.where(mask.amax(dim=(1, 2, 3), keepdim=True) == 0, middle, mask)
