"""What the model becomes for one picture, by what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from editkit.diffusion.model import Example
from editkit.diffusion.schedule import Level
from editkit.models.patches.denoise import Bound, Settings, large_enough
from editkit.models.patches.redraw import Redrawn
from editkit.pictures.filling import membrane
from editkit.pictures.picture import Fill


@dataclass(frozen=True, eq=False)
class Smooth:
    """In the place of `Bound` where no whole patch is known: whatever x_t is, the membrane of what is."""

    picture: Tensor

    def denoise(self, x_t: Tensor, level: Level, lowres: Tensor | None) -> Tensor:
        """The picture, (3, h, w)."""
        return self.picture


def bind(
    picture: Tensor,
    unknown: Tensor | None,
    settings: Settings,
    examples: Sequence[Example] = (),
    fill: Fill | None = None,
    barred: Tensor | None = None,
) -> Bound | Smooth | Redrawn:
    """`Bound.of` these; `Smooth` where pixels are known and no whole patch is; `Redrawn` where all is known and nothing
    else is learned from.
    """
    if unknown is None and not examples and barred is None:
        large_enough(picture.shape[-2], picture.shape[-1], settings.side)
        return Redrawn(picture, settings)
    if unknown is not None and not examples and not bool(unknown.all()):
        known, side = ~unknown, settings.side
        if min(known.shape) >= side and bool((F.max_pool2d((~known)[None].float(), side, 1) > 0).all()):
            return Smooth(membrane(picture[None], unknown[None, None].to(picture.dtype))[0])
    return Bound.of(picture, unknown, settings, examples, fill, barred)
