"""Fit the logistic model of `spots` to synthetic scans, and write editkit_plugins/masks/speck_model.py.

    python benchmarks/fit_specks.py --photos ../shared/photos

Photographs of at least 512 pixels that are not in assets/pocket/heldout.txt, damaged as in benchmarks/scans.py with
other seeds. A candidate is dust if it covers more than half of a blot and is mostly on it, and is not if less than 2 %
of it is damaged; the others are left out. The fit is a ridge regression by Newton's method.
"""

from __future__ import annotations

import cv2
import numpy as np
from fitting import Array, command
from scans import scan

from editkit.pictures.picture import Picture
from editkit_plugins.masks import spots

SEEDS = 500


def samples(pixels: Array, k: int) -> tuple[list[Array], list[bool]]:
    """Features of the candidates of scan k, and whether each is dust."""
    spoiled, truth = scan(pixels, SEEDS + k)
    every = np.any(list(truth.values()), axis=0)
    _, labels = cv2.connectedComponents(truth["spots"].astype(np.uint8))
    sizes = np.bincount(labels.ravel())
    features, dust = [], []
    for speck in spots.specks(Picture(spoiled)):
        at = np.s_[speck.y : speck.y + speck.area.shape[0], speck.x : speck.x + speck.area.shape[1]]
        blots = np.bincount(labels[at][speck.area], minlength=len(sizes))
        blots[0] = 0
        best, area = int(blots.argmax()), int(speck.area.sum())
        is_dust = blots[best] > max(0.5 * sizes[best], 0.3 * area) and best > 0
        if is_dust or every[at][speck.area].mean() < 0.02:
            features.append(speck.features)
            dust.append(bool(is_dust))
    return features, dust


if __name__ == "__main__":
    command(__doc__, samples, "speck_model.py", "spots", spots.FEATURES, 180)
