"""A picture, and what an edit of it measures."""

import numpy as np
from toy import Isotropic

from editkit.editing.api import stream

LUMA = np.array([0.299, 0.587, 0.114])


def photo(height: int = 24, width: int = 32) -> np.ndarray:
    """Smooth, with an edge."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([6 * x + 20, 5 * y + 60, 120 + 60 * np.sin(x / 4.0)], -1)
    picture[: height // 2, : width // 3] *= 0.6
    return picture.clip(0, 255).round().astype(np.uint8)


def measured(picture, plugin, model=None, **options):
    """(result, what was measured of it)."""
    told = []
    making = stream(picture, plugin, model=model or Isotropic(), tell=lambda *figures: told.append(figures), **options)
    while True:
        try:
            next(making)
        except StopIteration as done:
            return done.value.pixels, told
