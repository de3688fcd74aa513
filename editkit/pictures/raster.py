"""Pixels with alpha and file metadata, as read and written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from editkit.errors import PictureError
from editkit.pictures.files.metadata import Metadata

Pixels = NDArray[Any]
"""(H, W, 3) uint8 or uint16, RGB."""


@dataclass(frozen=True, eq=False, repr=False)
class Raster:
    """The content of a picture file, upright and RGB.

    Args:
        pixels: (H, W, 3) uint8 or uint16; a greyscale file has three equal channels. Not premultiplied by alpha.
        alpha: (H, W) of the same dtype; None without alpha.
        meta: the file's metadata.

    Raises:
        PictureError: shapes or types do not match.
    """

    pixels: Pixels
    alpha: NDArray[Any] | None = None
    meta: Metadata = field(default_factory=Metadata)

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype not in (np.uint8, np.uint16):
            raise PictureError(
                f"pixels must be (height, width, 3) of uint8 or uint16, got {self.pixels.shape} of {self.pixels.dtype}"
            )
        if not self.pixels.size:
            raise PictureError(f"a picture needs at least one pixel, got {self.pixels.shape[:2]}")
        if self.alpha is not None and (
            self.alpha.shape != self.pixels.shape[:2] or self.alpha.dtype != self.pixels.dtype
        ):
            raise PictureError(
                f"alpha must be {self.pixels.shape[:2]} of {self.pixels.dtype} like the pixels, "
                f"got {self.alpha.shape} of {self.alpha.dtype}"
            )

    def __repr__(self) -> str:
        alpha = ", alpha" if self.alpha is not None else ""
        return f"<{type(self).__name__} {self.width}x{self.height}, {8 * self.pixels.itemsize} bit{alpha}>"

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.width, self.height


def largest(dtype: DTypeLike) -> int:
    """Return the largest value of a dtype: 255 or 65,535."""
    return int(np.iinfo(dtype).max)


def at_depth(values: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Convert between uint8 and uint16, with 255 <-> 65,535."""
    if values.dtype == dtype:
        return values
    converted: NDArray[Any] = (
        values.astype(np.uint16) * np.uint16(257)
        if dtype == np.uint16
        else ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    )
    return converted
