"""Place the patches: those that are compared, and, between them, those of single pixels.

In a large hole only every second or third patch is compared, and its middle is two or three pixels wide. Where two
copied pieces meet, their border would follow these squares. Instead, each pixel near such a border is the middle of a
patch of its own, which takes the nearest of the sources of the four compared patches around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.models.patches.atlas import Atlas

PIECE = 64
"""If nothing is known, pieces of an example grow from points this many pixels apart."""

GOLDEN = 0.618
"""Its multiples modulo 1 are well spread."""

APART = 0.04
"""Sources differ at a pixel if a channel differs by more than this: five grey levels of 255."""


@dataclass(frozen=True, eq=False)
class PixelsBetween:
    """The pixels of a hole and the compared patches around them.

    Args:
        corners: (P,), corners of the patches whose middles are the pixels.
        around: (P, 4), the numbers of the compared patches around each one.
    """

    corners: Tensor
    around: Tensor

    @classmethod
    def of(cls, corners: Tensor, region: Tensor, width: int, side: int, stride: int) -> PixelsBetween:
        """Build it for the compared patches at `corners` (Q,), every `stride`-th one, in an atlas of this `width`.

        Pixels of `region` (h, w), bool, are left out if the patch around them is not inside the picture.
        """
        half = side // 2
        at = region[half : region.shape[0] - half, half : region.shape[1] - half].nonzero()
        rows, columns = (n - side + 1 for n in region.shape)
        number = torch.full((rows + stride, columns + stride), -1, device=region.device)
        number[corners // width, corners % width] = torch.arange(len(corners), device=region.device)
        low = at // stride * stride
        around = torch.stack([number[low[:, 0] + y, low[:, 1] + x] for y in (0, stride) for x in (0, stride)], 1)
        first = around.amax(1, keepdim=True)
        return cls((at[:, 0] * width + at[:, 1])[first[:, 0] >= 0], around.where(around >= 0, first)[first[:, 0] >= 0])

    def choices(self, sources: Tensor, compared: Tensor, atlas: Atlas) -> tuple[Tensor, Tensor]:
        """Return corners (p,) of the patches that have a choice, and their candidates (p, 4).

        `sources` (Q,) are those of the patches at `compared` (Q,). There is a choice if the candidates' middles differ.
        """
        complete, middle = atlas.complete, atlas.offsets[atlas.side**2 // 2]
        found = sources[self.around] - compared[self.around] + self.corners[:, None]
        allowed = (found >= 0) & (found < len(complete))
        allowed &= complete[found.clamp(0, len(complete) - 1)]
        best = allowed.float().argmax(1, keepdim=True)
        found = found.where(allowed, found.gather(1, best))
        colours = atlas.pixels[(found + middle).clamp(0, len(atlas.pixels) - 1)]
        apart = (colours.amax(1) - colours.amin(1)).amax(-1) > APART
        rows = apart & allowed.any(1)
        return self.corners[rows], found[rows]


def compared_patches(region: Tensor, side: int, width: int, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return corners (Q,) of every `stride`-th patch that touches the region, their neighbours (Q, 8) and steps (8,).

    `width` is that of the atlas. The last row and column are always included, so that every pixel is covered.
    """
    touching = F.max_pool2d(region[None].float(), side, 1)[0] > 0
    rows, columns = touching.shape
    on = [torch.zeros(n, dtype=torch.bool, device=region.device) for n in (rows, columns)]
    for flags in on:
        flags[::stride] = True
        flags[-1] = True
    at = (touching & on[0][:, None] & on[1][None, :]).nonzero()
    own = torch.arange(len(at), device=region.device)
    number = torch.full((rows + 2 * stride, columns + 2 * stride), -1, device=region.device)
    number[stride + at[:, 0], stride + at[:, 1]] = own
    neighbours, steps = [], []
    for dy in (-stride, 0, stride):
        for dx in (-stride, 0, stride):
            if dy or dx:
                found = number[stride + at[:, 0] + dy, stride + at[:, 1] + dx]
                neighbours.append(torch.where(found < 0, own, found))
                steps.append(-(dy * width + dx))
    return at[:, 0] * width + at[:, 1], torch.stack(neighbours, 1), torch.tensor(steps, device=region.device)


def all_but_seeds(height: int, width: int) -> Tensor:
    """Return (height, width): False at one point per `PIECE` x `PIECE` square, shifted differently in each row."""
    unknown = torch.ones(height, width, dtype=torch.bool)
    for k, y in enumerate(range(0, height, PIECE)):
        unknown[y, round(k * GOLDEN * PIECE) % min(PIECE, width) :: PIECE] = False
    return unknown


def sample_offsets(offsets: Tensor) -> Tensor:
    """Return the first, middle and last of each row and column of a patch's `offsets` (side, side)."""
    step = max(1, len(offsets) // 2)
    return offsets[::step, ::step].reshape(-1)
