"""Choose the form of the model for one picture, depending on which pixels are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from editkit.diffusion.model import Example
from editkit.diffusion.schedule import Level
from editkit.models.patches.denoise import Bound, Settings, check_large_enough
from editkit.models.patches.redraw import Redrawn
from editkit.pictures.filling import membrane
from editkit.pictures.picture import Fill


@dataclass(frozen=True, eq=False)
class Smooth:
    """Replaces `Bound` if no whole patch is known: the membrane of the known pixels, independent of x_t."""

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
    """Return the model for `picture`.

    It is `Smooth` if some pixels but no whole patch are known, `Redrawn` if every pixel is known and there is no other
    source of patches, and `Bound.of` the arguments otherwise.
    """
    if unknown is None and not examples and barred is None:
        check_large_enough(picture.shape[-2], picture.shape[-1], settings.side)
        return Redrawn(picture, settings)
    if unknown is not None and not examples and not bool(unknown.all()):
        known, side = ~unknown, settings.side
        if min(known.shape) >= side and bool((F.max_pool2d((~known)[None].float(), side, 1) > 0).all()):
            return Smooth(membrane(picture[None], unknown[None, None].to(picture.dtype))[0])
    return Bound.of(picture, unknown, settings, examples, fill, barred)
