"""Texture synthesis: a canvas of any size from the patches of one picture.

An edit in which nothing is known but another picture, the one that was given (Efros & Leung 1999; from the whole canvas
at once and coarse to fine, as Kwatra et al. 2005, "Texture optimization for example-based synthesis").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from editkit.plugin import Hooks, Notify, Picture, Plugin, Section, Slot
from editkit_plugins.restoring.memory import afford
from editkit_plugins.sizes import sides


class Texture(Plugin):
    """Fill a whole canvas of any size with the texture of the picture."""

    holds: ClassVar[frozenset[Slot]] = frozenset({"mask", "size"})
    name: ClassVar[str] = "texture"
    group: ClassVar[Section] = "grow"
    usage: ClassVar[tuple[str, ...]] = (
        "texture grass.jpg --size 1024x768",
        "texture grass.jpg --size 512x512 --seed 3 -o lawn.png",
        "texture wall.jpg --size 800x600 then upscale --scale 2",
    )
    fresh: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"examples"})
    needs_picture: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"size": "20x16"}

    size: str = Field("1024x1024", description="Width and height of the canvas in pixels, as 1024x768.")

    @field_validator("size")
    @classmethod
    def _sides(cls, size: str) -> str:
        sides(size)
        return size

    def hooks(self) -> type[Hooks[Texture]]:
        return Hooks

    def open(self, picture: Picture, notify: Notify) -> Picture:
        width, height = sides(self.size)
        afford(f"a texture of {width}x{height}", width, height)
        canvas = Picture(np.zeros((height, width, 3), picture.pixels.dtype), meta=picture.meta)
        return canvas.with_mask(np.ones((height, width), np.float32))

    def examples(self, picture: Picture) -> Sequence[Picture]:
        return (picture,)
