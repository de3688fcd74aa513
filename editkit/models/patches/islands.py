"""What stands alone in a hole on calm ground goes: it continues nothing.

A lamp or a ruin that was copied into a sky touches nothing that is known there. So what has detail and is surrounded by
what has none stays only if it reaches the hole's rim.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from editkit.models.patches.calm import blurred
from editkit.pictures.filling import membrane

GROUND = 4.0 / 127.5
"""The most detail of calm ground, root mean square: four grey levels of 255."""

AROUND = 5
"""Detail is averaged over a square of so many pixels."""

EDGE = 3
"""How far an island's soft edge reaches, in pixels."""


def without_islands(x: Tensor, region: Tensor) -> Tensor:
    """`x` (3, h, w) with the membrane of its surroundings where something in `region` (h, w), bool, stands alone."""
    inside = region.cpu().numpy()
    energy = (x - blurred(x)).square().mean(0).cpu().numpy()
    stands = (cv2.blur(energy, (AROUND, AROUND)) > GROUND**2).astype(np.uint8)
    contours, _ = cv2.findContours(stands, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    gone = np.zeros_like(stands)
    for contour in contours:
        points = contour[:, 0]
        if inside[points[:, 1], points[:, 0]].all():
            cv2.drawContours(gone, [contour], -1, 1, cv2.FILLED)
    # What encloses something known is no island.
    gone = cv2.dilate(gone, np.ones((2 * EDGE + 1,) * 2, np.uint8)) > 0
    _, labels = cv2.connectedComponents(gone.astype(np.uint8), connectivity=8)
    gone &= ~np.isin(labels, np.unique(labels[~inside]))
    if not gone.any():
        return x
    away = torch.from_numpy(gone).to(region.device)
    return membrane(x[None], away[None, None].to(x.dtype))[0]
