"""Pictures as other programs write them."""

import numpy as np


def scene(width=48, height=32):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([60 + 3 * x, 40 + 5 * y, 200 - 2 * x], -1).clip(0, 255).astype(np.uint8)


SHAPE = np.zeros((32, 48), bool)


SHAPE[8:20, 10:30] = True
