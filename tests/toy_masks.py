"""A picture and half a mask."""

from __future__ import annotations

import numpy as np

from editkit.pictures.picture import Picture


def blank(width: int = 60, height: int = 40) -> Picture:
    return Picture(np.zeros((height, width, 3), np.uint8))
