"""The border between pixels and tensors.

Inside editkit a picture is RGB in [-1, 1]; at the border it is uint8 or uint16. The two meet in `to_unit` and
`from_unit` and nowhere else. No torch is imported before a tensor is asked for.
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
"""Rows that are converted at once."""


def to_unit(pixels: Pixels) -> torch.Tensor:
    """Pixels (H, W, 3), uint8 or uint16, as (1, 3, H, W) float32 in [-1, 1]; `from_unit` gives them back exactly."""
    import torch

    height, width, channels = pixels.shape
    unit = np.empty((1, channels, height, width), np.float32)
    for k in range(channels):  # no copy of the whole beside the result
        np.multiply(pixels[..., k], np.float32(2.0 / largest(pixels.dtype)), out=unit[0, k], dtype=np.float32)
        unit[0, k] -= np.float32(1.0)
    return torch.from_numpy(unit)


def from_unit(image: torch.Tensor, dtype: DTypeLike) -> Pixels:
    """(1, 3, H, W) or (3, H, W) in [-1, 1] as (H, W, 3) pixels, rounded to the nearest; out of range is clipped.

    Raises:
        PictureError: NaN or infinity: such a picture is never written.
    """
    values = image.detach()
    if values.ndim == 4:
        if values.shape[0] != 1:
            raise PictureError(f"one picture at a time, got a batch of {values.shape[0]}")
        values = values[0]
    top, (channels, height, width) = largest(dtype), values.shape
    pixels: Pixels = np.empty((height, width, channels), dtype)
    for first in range(0, height, STRIP):  # in float64, but not of the whole picture at once
        strip = values[:, first : first + STRIP].cpu().double().numpy()
        if not np.isfinite(strip).all():
            raise PictureError("the result holds NaN or infinity and is not made into a picture")
        rounded = np.rint(np.clip((strip + 1.0) * (top / 2.0), 0.0, top))
        pixels[first : first + STRIP] = rounded.transpose(1, 2, 0).astype(dtype)
    return pixels
