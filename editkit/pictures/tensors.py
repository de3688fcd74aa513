"""Conversion between pixels and tensors.

Inside editkit a picture is RGB in [-1, 1]; files and arrays are uint8 or uint16. Only `to_unit` and `from_unit` convert
between them. Torch is imported only when a tensor is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from editkit.errors import PictureError
from editkit.pictures.raster import Pixels, largest

if TYPE_CHECKING:
    import torch

STRIP = 128
"""Rows converted at once."""


def to_unit(pixels: Pixels) -> torch.Tensor:
    """Convert pixels (H, W, 3), uint8 or uint16, to (1, 3, H, W) float32 in [-1, 1]; `from_unit` is the inverse."""
    import torch

    height, width, channels = pixels.shape
    unit = np.empty((1, channels, height, width), np.float32)
    for k in range(channels):  # no second copy of the whole picture
        np.multiply(pixels[..., k], np.float32(2.0 / largest(pixels.dtype)), out=unit[0, k], dtype=np.float32)
        unit[0, k] -= np.float32(1.0)
    return torch.from_numpy(unit)


def from_unit(image: torch.Tensor, dtype: DTypeLike) -> Pixels:
    """Convert (1, 3, H, W) or (3, H, W) in [-1, 1] to (H, W, 3) pixels, rounded to nearest and clipped.

    Raises:
        PictureError: the tensor contains NaN or infinity, or more than one picture.
    """
    values = image.detach()
    if values.ndim == 4:
        if values.shape[0] != 1:
            raise PictureError(f"one picture at a time, got a batch of {values.shape[0]}")
        values = values[0]
    top, (channels, height, width) = largest(dtype), values.shape
    pixels: Pixels = np.empty((height, width, channels), dtype)
    for first in range(0, height, STRIP):  # in float64, but in strips to save memory
        strip = values[:, first : first + STRIP].cpu().double().numpy()
        if not np.isfinite(strip).all():
            raise PictureError("the result contains NaN or infinity and is not turned into a picture")
        rounded = np.rint(np.clip((strip + 1.0) * (top / 2.0), 0.0, top))
        pixels[first : first + STRIP] = rounded.transpose(1, 2, 0).astype(dtype)
    return pixels
