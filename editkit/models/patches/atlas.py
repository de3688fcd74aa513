"""The source of patches: the known parts of one or more pictures, side by side in one array.

A patch is identified by the flat index of its top left corner in the atlas. "The patch one pixel further right" is
therefore the next index in every picture, and a match propagates from neighbour to neighbour by plain addition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


def join_side_by_side(pictures: Sequence[Tensor]) -> Tensor:
    """Join pictures (channels, h, w) in one row, padded to the greatest height: (channels, height, width)."""
    height = max(p.shape[-2] for p in pictures)
    return torch.cat([F.pad(p, (0, 0, 0, height - p.shape[-2])) for p in pictures], dim=-1)


@dataclass(frozen=True, eq=False)
class Atlas:
    """Pictures side by side.

    Args:
        pixels: (height * width, channels), in [-1, 1].
        width: width of the whole atlas.
        side: side of a patch.
        complete: (height * width,), True where every pixel of the patch with this top left corner is known.
    """

    pixels: Tensor
    width: int
    side: int
    complete: Tensor

    @classmethod
    def of(cls, pictures: Sequence[Tensor], known: Sequence[Tensor], side: int) -> Atlas:
        """Build an atlas from pictures (channels, h, w) and masks of their known pixels (h, w), bool."""
        joined = join_side_by_side(pictures)
        flags = []
        for mask in known:
            inside = torch.zeros(joined.shape[-2], mask.shape[1], dtype=torch.bool, device=mask.device)
            if min(mask.shape) >= side:
                unknown = F.max_pool2d((~mask)[None].float(), side, 1)[0] > 0
                inside[: unknown.shape[0], : unknown.shape[1]] = ~unknown
            flags.append(inside)
        return cls(
            joined.permute(1, 2, 0).reshape(-1, joined.shape[0]).contiguous(),
            joined.shape[-1],
            side,
            torch.cat(flags, dim=-1).reshape(-1),
        )

    @cached_property
    def offsets(self) -> Tensor:
        """Offsets (side^2,) from a corner's index to each pixel of its patch, row by row."""
        steps = torch.arange(self.side, device=self.pixels.device)
        return (steps[:, None] * self.width + steps[None, :]).reshape(-1)

    @cached_property
    def rows(self) -> Tensor:
        """Every patch as one row of side^2 * channels values, so that reading a patch is one copy."""
        last, channels = max(len(self.pixels) - int(self.offsets[-1]), 0), self.pixels.shape[1]
        row = (last, self.side, self.side * channels)
        return self.pixels.as_strided(row, (channels, self.width * channels, 1)).flatten(1)

    @cached_property
    def corners(self) -> Tensor:
        """Indices of all known patches, ascending."""
        return self.complete.nonzero()[:, 0]

    def sample_corners(self, most: int) -> Tensor:
        """Return at most `most` known patches, evenly spread: every n-th in both directions, or nearly so."""
        corners = self.corners
        stride = 1
        while len(corners) > most:
            stride += 1
            rows, columns = self.corners // self.width, self.corners % self.width
            # Offset the rows against each other, so that the columns of a grid or a wall are not all skipped.
            shift = (rows // stride) * (stride // 2 + 1)
            corners = self.corners[(rows % stride == 0) & ((columns + shift) % stride == 0)]
            if len(corners) == 0:
                return self.corners[:: max(1, len(self.corners) // most)][:most]
        return corners

    def patches(self, corners: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Return the patches at `corners` (...): (..., side^2, channels), or only their pixels at `offsets`."""
        channels = self.pixels.shape[1]
        if offsets is None:
            return self.rows.index_select(0, corners.reshape(-1)).view(*corners.shape, -1, channels)
        index = corners[..., None] + offsets
        found = self.pixels.index_select(0, index.reshape(-1))
        return found.view(*index.shape, channels)


def views(pictures: Sequence[Tensor], mirror: bool, scales: Sequence[float]) -> list[Tensor]:
    """Return the views of pictures or masks (..., h, w) that patches come from: unchanged, mirrored if `mirror`, and
    scaled down by each of the `scales`.
    """
    turned = [view for one in pictures for view in ((one, one.flip(-1)) if mirror else (one,))]
    return [*turned, *(_scale_down(view, scale) for scale in scales for view in turned)]


def _scale_down(one: Tensor, scale: float) -> Tensor:
    """Scale a picture (..., h, w) down by area averaging; a flag is True if all flags of its area are."""
    height, width = (max(1, round(scale * n)) for n in one.shape[-2:])
    made = F.interpolate(one.reshape(1, -1, *one.shape[-2:]).float(), (height, width), mode="area")
    made = made.reshape(*one.shape[:-2], height, width)
    return made > 1.0 - 1e-6 if one.dtype == torch.bool else made.to(one.dtype)
