"""Texture synthesis: fill a canvas of any size with patches of one picture.

The canvas is entirely unknown, and the input picture is the example (Efros & Leung 1999). The whole canvas is optimised
at once, coarse to fine, as in Kwatra et al. 2005, "Texture optimization for example-based synthesis".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from editkit.plugin import Hooks, Notify, Picture, Plugin, Section, Slot, UsageError
from editkit_plugins.restoring.memory import afford
from editkit_plugins.sizes import Size, sides
from editkit_plugins.tiling import tileable

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

SMALLEST = 16
"""Shortest side of a tileable canvas, in pixels."""


class Texture(Plugin):
    """Fill a whole canvas of any size with the texture of the picture."""

    holds: ClassVar[frozenset[Slot]] = frozenset({"mask", "size"})
    name: ClassVar[str] = "texture"
    group: ClassVar[Section] = "grow"
    usage: ClassVar[tuple[str, ...]] = (
        "texture grass.jpg --size 1024x768",
        "texture grass.jpg --size 512x512 --tile -o lawn.png",
        "texture wall.jpg --size 800x600 then upscale --scale 2",
    )
    fresh: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"examples"})
    needs_picture: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"size": "20x16"}

    size: Size = Field("1024x1024", description="Width and height of the canvas in pixels, as 1024x768.")
    tile: bool = Field(False, description="Make the texture tileable: copies side by side show no seam.")

    def hooks(self) -> type[Hooks[Texture]]:
        return _TileHooks if self.tile else Hooks

    def open(self, picture: Picture, notify: Notify) -> Picture:
        width, height = sides(self.size)
        if self.tile and min(width, height) < SMALLEST:
            raise UsageError(f"texture --tile needs at least {SMALLEST}x{SMALLEST} pixels, got {self.size}")
        afford(f"a texture of {width}x{height}", width, height)
        canvas = Picture(np.zeros((height, width, 3), picture.pixels.dtype), meta=picture.meta)
        return canvas.with_mask(np.ones((height, width), np.float32))

    def examples(self, picture: Picture) -> Sequence[Picture]:
        return (picture,)


class _TileHooks(Hooks[Texture]):
    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        import torch

        texture = image[0].permute(1, 2, 0).cpu().numpy()
        return torch.from_numpy(tileable(texture).copy()).permute(2, 0, 1)[None].to(image)
