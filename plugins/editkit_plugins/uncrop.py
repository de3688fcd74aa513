"""Outpainting: enlarge the canvas and let the process paint beyond the picture's old border.

The methods are those of inpainting (`Replacing`). The mask reaches a few pixels into the picture, over which the result
blends into the original, so that the old border does not show as a line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from editkit.pictures.masks import feather_inside
from editkit.plugin import Notify, Section, Slot, UsageError
from editkit_plugins.inpaint import Replacing
from editkit_plugins.restoring.memory import afford
from editkit_plugins.sizes import Border, Size, pixels, ratio, sides

if TYPE_CHECKING:
    from editkit.plugin import Picture


class Uncrop(Replacing):
    """Extend the picture beyond its borders, by pixels on each side or to an aspect ratio."""

    holds: ClassVar[frozenset[Slot]] = frozenset({"mask", "size"})
    name: ClassVar[str] = "uncrop"
    group: ClassVar[Section] = "grow"
    usage: ClassVar[tuple[str, ...]] = (
        "uncrop photo.png --aspect 16:9",
        "uncrop photo.png --left 10% --right 10%",
        "uncrop photo.png --size 1920x1080",
    )
    example: ClassVar[Mapping[str, Any]] = {"right": 6}

    left: Border = Field(0, description="Pixels to add on the left, or per cent of the width, as 10%.")
    right: Border = Field(0, description="Pixels to add on the right.")
    top: Border = Field(0, description="Pixels to add above.")
    bottom: Border = Field(0, description="Pixels to add below.")
    aspect: str | None = Field(None, description="Instead: extend evenly to this aspect ratio, as 16:9 or 1.777.")
    size: Size | None = Field(None, description="Instead: extend evenly to this width and height, as 1920x1080.")
    overlap: int = Field(8, ge=0, le=500, description="Pixels at the picture's edge that may change, to hide the seam.")

    @field_validator("aspect")
    @classmethod
    def _ratio(cls, aspect: str | None) -> str | None:
        if aspect is not None:
            ratio(aspect)
        return aspect

    def open(self, picture: Picture, notify: Notify) -> Picture:
        left, right, top, bottom = self._borders(picture.width, picture.height)
        if not left + right + top + bottom:
            raise UsageError(
                "uncrop has nothing to add: give --left, --right, --top, --bottom or an --aspect or --size other "
                f"than the picture's own {picture.width}:{picture.height}"
            )
        width, height = left + picture.width + right, top + picture.height + bottom
        afford(f"uncrop to {width}x{height}", width, height)
        borders = ((top, bottom), (left, right))
        grown = picture.with_pixels(np.pad(picture.pixels, (*borders, (0, 0)), mode="edge"))
        if picture.alpha is not None:
            grown = grown.with_alpha(np.pad(picture.alpha, borders, mode="edge"))
        kept = np.zeros(picture.pixels.shape[:2], np.float32)
        inset = min(self.overlap, (min(kept.shape) - 1) // 2)
        for axis, (before, after) in enumerate(borders):
            edges = [slice(None), slice(None)]
            for count, edge in ((before, slice(0, inset)), (after, slice(kept.shape[axis] - inset, None))):
                edges[axis] = edge
                if count:
                    kept[tuple(edges)] = 1.0
        mask = np.pad(kept, borders, constant_values=1.0)
        barred = self.barred(picture, notify)
        return grown.with_mask(
            feather_inside(mask, inset), self.fill, None if barred is None else np.pad(barred, borders)
        )

    def _borders(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return the pixels to add to a picture of `width` x `height`: (left, right, top, bottom)."""
        borders = self.left, self.right, self.top, self.bottom
        ways = [any(borders), self.aspect is not None, self.size is not None]
        if sum(ways) > 1:
            raise UsageError("uncrop takes borders, an --aspect or a --size; give only one of them")
        if self.size is not None:
            wide, high = sides(self.size)
            if wide < width or high < height:
                raise UsageError(f"uncrop: --size {self.size} is smaller than the picture, {width}x{height}")
            across, down = wide - width, high - height
        elif self.aspect is not None:
            wider, higher = ratio(self.aspect)
            across = max(0, round(height * wider / higher) - width)
            down = 0 if across else max(0, round(width * higher / wider) - height)
        else:
            left, right, top, bottom = borders
            return pixels(left, width), pixels(right, width), pixels(top, height), pixels(bottom, height)
        return across // 2, across - across // 2, down // 2, down - down // 2
