"""Remove objects that stand alone on calm ground in a hole: they continue nothing.

A lamp or a ruin copied into a sky touches nothing that is known. So a region with detail, surrounded by ground without
detail, is kept only if it reaches the rim of the hole. If the surroundings are busy, the calm ground is the error and
the marks on it are the remains of a texture: they are kept.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from editkit.models.patches.busy import busyness
from editkit.models.patches.calm import gaussian_blur
from editkit.pictures.filling import membrane

GROUND = 4.0 / 127.5
"""Maximum detail of calm ground, root mean square: four grey levels of 255."""

AROUND = 5
"""Detail is averaged over a square of this side, in pixels."""

EDGE = 3
"""Width of an island's soft edge, in pixels."""

MOST = 0.05
"""If more than this fraction of a hole would be removed, it is a texture of separate grains: everything is kept."""


def remove_islands(x: Tensor, region: Tensor, least: Tensor, side: int) -> Tensor:
    """Replace islands of `x` (3, h, w) in `region` (h, w), bool, by the membrane of their surroundings.

    An island is removed if it is at least as busy (`busyness`) as `least` (h, w), in patches of `side`.
    """
    inside = region.cpu().numpy()
    energy = (x - gaussian_blur(x)).square().mean(0).cpu().numpy()
    has_detail = (cv2.blur(energy, (AROUND, AROUND)) > GROUND**2).astype(np.uint8)
    contours, _ = cv2.findContours(has_detail, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contours = [c for c in contours if inside[c[:, 0, 1], c[:, 0, 0]].all()]
    if not contours:
        return x
    labels = np.zeros(inside.shape, np.int32)
    for k, contour in enumerate(contours, 1):
        cv2.drawContours(labels, [contour], -1, k, cv2.FILLED)
    above = np.bincount(labels.ravel(), (busyness(x, side) - least).cpu().numpy().ravel(), len(contours) + 1)
    removed = np.isin(labels, np.flatnonzero(above[1:] > 0.0) + 1).astype(np.uint8)
    # A contour that encloses known pixels is no island.
    removed = cv2.dilate(removed, np.ones((2 * EDGE + 1,) * 2, np.uint8)) > 0
    _, labels = cv2.connectedComponents(removed.astype(np.uint8), connectivity=8)
    removed &= ~np.isin(labels, np.unique(labels[~inside]))
    if not 0 < removed.sum() <= MOST * inside.sum():
        return x
    mask = torch.from_numpy(removed).to(region.device)
    return membrane(x[None], mask[None, None].to(x.dtype))[0]
