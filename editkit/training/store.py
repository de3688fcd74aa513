"""All photographs in the memory of one device, and batches of random windows cut from them there.

A window is what `pictures.crop` cuts, for a whole batch at once: the pixels are gathered from one flat array, and the
resize with antialiasing is a product with a matrix for each sample and direction. Nothing in it waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from editkit.training.draws import Source
from editkit.training.pictures import Photograph

STRETCH = 1.1
"""Greatest change of the aspect ratio, each way."""


class Store:
    """The photographs' levels on `device`, for windows of one size.

    Attributes:
        pixels: all levels of all photographs one after the other, uint8.
        begins, heights, widths: (photographs, levels) int64, where a level lies and its size.
    """

    def __init__(self, photographs: Sequence[Photograph], window: int, device: torch.device) -> None:
        self.window, self.device = window, device
        self.channels = photographs[0].levels[0].shape[0]
        self.pixels = torch.cat([level.flatten() for p in photographs for level in p.levels]).to(device)
        deepest = max(len(p.levels) for p in photographs)
        begins, sizes, at = [], [], 0
        for photograph in photographs:
            row = []
            for level in photograph.levels:
                row.append((at, *level.shape[1:]))
                at += level.numel()
            begins.append(row + [row[-1]] * (deepest - len(row)))
            sizes.append((len(row) - 1, min(photograph.size), math.sqrt(math.prod(photograph.size))))
        self.begins, self.heights, self.widths = torch.tensor(begins, device=device).unbind(-1)
        last, shorter, roots = torch.tensor(sizes, dtype=torch.float64, device=device).unbind(-1)
        self.last, self.shorter = last.long(), shorter
        self.chances = (roots / roots.sum()).cumsum(0)

    def cut(self, which: Tensor, u: Tensor) -> Tensor:
        """Windows (B, C, window, window) in [-1, 1] of the photographs `which` (B,); u (5, B) says scale, aspect ratio,
        place and mirror as in `pictures.crop`.
        """
        u, window = u.double(), self.window
        side = window * (self.shorter[which] / window) ** u[0]  # fp64: what is rounded is the same on every device
        level = ((side / window).clamp_min(1.0).log2() + 1e-6).long().minimum(self.last[which])
        height, width = self.heights[which, level], self.widths[which, level]
        stretch, side = STRETCH ** (2 * u[1] - 1), side / 2.0**level
        h = (side * stretch).round().long().clamp_min(window).minimum(height)
        w = (side / stretch).round().long().clamp_min(window).minimum(width)
        top, left = (u[2] * (height - h + 1)).long(), (u[3] * (width - w + 1)).long()
        reach = torch.arange(math.ceil(2 * STRETCH * window) + 1, device=self.device)
        rows = top.unsqueeze(1) + reach.minimum(h.unsqueeze(1) - 1)
        columns = left.unsqueeze(1) + reach.minimum(w.unsqueeze(1) - 1)
        channel = torch.arange(self.channels, device=self.device) * (height * width).unsqueeze(1)
        first = (self.begins[which, level].unsqueeze(1) + channel)[:, :, None, None]
        found = self.pixels[first + (rows * width.unsqueeze(1))[:, None, :, None] + columns[:, None, None, :]].float()
        down, across = _resizing(h, window, reach), _resizing(w, window, reach)
        across = torch.where((u[4] < 0.5).view(-1, 1, 1), across.flip(1), across)
        return (down.unsqueeze(1) @ found @ across.unsqueeze(1).transpose(-1, -2)) / 127.5 - 1

    def draw(self, batch: int, source: Source) -> Tensor:
        """Random windows (B, C, window, window); a photograph is chosen in proportion to the root of its area.

        Half of the windows get another exposure (gamma 0.8-1.25) and contrast (0.85-1.15), the same for all
        colours; a hint's channels stay as they are.
        """
        which = torch.searchsorted(self.chances, source.uniform(batch).double(), right=True)
        x0 = self.cut(which.clamp_max(len(self.last) - 1), source.uniform(5, batch))
        u = source.uniform(3, batch, 1, 1, 1)
        x0, hint = x0[:, :3], x0[:, 3:]
        bright = ((x0 + 1) / 2).clamp_min(1e-4) ** (1.25 ** (2 * u[0] - 1)) * 2 - 1
        changed = (bright * (0.85 + 0.3 * u[1])).clamp(-1, 1)
        return torch.cat([torch.where(u[2] < 0.5, changed, x0), hint], dim=1)


def _resizing(length: Tensor, window: int, reach: Tensor) -> Tensor:
    """(B, window, reach): the first `length` (B,) of `reach` pixels resized to `window` by a triangle as wide as the
    reduction.
    """
    scale = (length.double() / window).view(-1, 1, 1)
    centre = (torch.arange(window, device=length.device).view(1, -1, 1) + 0.5) * scale
    weight = (1 - ((reach + 0.5) - centre).abs() / scale.clamp_min(1.0)).clamp_min(0)
    weight = weight * (reach < length.view(-1, 1, 1))
    return (weight / weight.sum(-1, keepdim=True)).float()
