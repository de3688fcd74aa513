"""Outpainting: grow the canvas and let the process paint what lies beyond the picture's old border.

The methods are inpainting's (`Replacing`); only the mask is another. It reaches a few pixels into the picture, and the
result fades into the original over them, so that the old border does not show as a line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from editkit.pictures.masks import feather_inside
from editkit.plugin import Notify, Slot, UsageError
from editkit_plugins.inpaint import Replacing
from editkit_plugins.restoring.memory import afford

if TYPE_CHECKING:
    from editkit.plugin import Picture


class Uncrop(Replacing):
    """Grow the picture beyond its borders, by pixels on each side or to an aspect ratio."""

    holds: ClassVar[frozenset[Slot]] = frozenset({"mask", "size"})
    name: ClassVar[str] = "uncrop"
    example: ClassVar[Mapping[str, Any]] = {"right": 6}

    left: int = Field(0, ge=0, le=20_000, description="Pixels to add on the left.")
    right: int = Field(0, ge=0, le=20_000, description="Pixels to add on the right.")
    top: int = Field(0, ge=0, le=20_000, description="Pixels to add above.")
    bottom: int = Field(0, ge=0, le=20_000, description="Pixels to add below.")
    aspect: str | None = Field(None, description="Instead: grow evenly to this ratio of width to height, as 16:9.")
    overlap: int = Field(8, ge=0, le=500, description="Pixels of the picture's edge that may change, to hide the seam.")

    @field_validator("aspect")
    @classmethod
    def _ratio(cls, aspect: str | None) -> str | None:
        if aspect is not None:
            _parse(aspect)
        return aspect

    def open(self, picture: Picture, notify: Notify) -> Picture:
        left, right, top, bottom = self._borders(picture.width, picture.height)
        if not left + right + top + bottom:
            raise UsageError(
                "uncrop has nothing to add: give --left, --right, --top, --bottom or an --aspect other than the "
                f"picture's own {picture.width}:{picture.height}"
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
        """Pixels to add (left, right, top, bottom) to a picture of `width` x `height`."""
        if self.aspect is None:
            return self.left, self.right, self.top, self.bottom
        if self.left or self.right or self.top or self.bottom:
            raise UsageError("uncrop takes --aspect or borders in pixels, not both")
        wide, high = _parse(self.aspect)
        across = max(0, round(height * wide / high) - width)
        down = 0 if across else max(0, round(width * high / wide) - height)
        return across // 2, across - across // 2, down // 2, down - down // 2


def _parse(aspect: str) -> tuple[float, float]:
    """Width and height of an aspect ratio."""
    wide, _, high = aspect.partition(":")
    try:
        ratio = float(wide), float(high)
        if min(ratio) <= 0.0 or max(ratio) / min(ratio) > 100.0:
            raise ValueError
    except ValueError:
        raise ValueError(f"aspect is {aspect!r}; write width:height, as 16:9") from None
    return ratio
