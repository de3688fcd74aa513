"""`spots`: dust and blots, small areas that are brighter or darker than everything around them.

The mean over a small disc is compared with the means at eight positions around it: a spot exceeds all eight, an edge or
a line does not. Its contrast must also be well above the usual deviation between the eight, so that gravel and leaves
do not count. The mask takes the pixels around the disc that have a good part of its contrast.

Dust and lost emulsion are nearly black or white, and isolated. Candidates outside the outer half of the picture's
tones, in a crowd of similar ones, or much larger than their disc belong to the picture. This rule removes half of the
false positives and a tenth of the spots (23 development photographs; benchmarks/masks.py has others).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from editkit.pictures.picture import Picture
from editkit.pictures.shapes import Mask, Shape, as_mask
from editkit_plugins.masks.scratches import HELD, eagerness, out_of_place, tones
from editkit_plugins.restoring.memory import afford

Grey = NDArray[np.float32]

RADII = (1.5, 2.5, 4.5)
"""Radii of spots in pixels, for a longer side of 1024; they scale with larger pictures."""

LEAST, ABOVE = 20.0, 3.5
"""Least contrast of a spot: in levels of 255, and relative to the mean deviation of the eight positions nearby."""

WEAK = 0.35
"""Least contrast of a spot's pixel, as a fraction of the spot's contrast."""

OUT = 1.5
"""Least distance of a spot from the mean of its surroundings, in their standard deviations."""

OUTER = 0.5
"""Least brightness of a bright spot, from the picture's darkest tone, 0, to its brightest, 1."""

CROWD, CROWDED = 40.0, 0.05
"""Side of the square in which crowding is measured, in radii, and the largest fraction of it that may be marked."""

LARGEST = 9.0
"""Largest area of a spot, in discs."""

AROUND = 20.0
"""Side of the surroundings, in radii."""


def spots(picture: Picture, eager: float = 1.0) -> Mask:
    """Mark spots: (H, W) of 0 and 1. `eager`: 2 finds spots with half the contrast, and more false ones.

    Raises:
        PictureError: the picture needs more memory than is free.
    """
    import cv2

    afford(f"looking for spots in {picture.width}x{picture.height}", picture.width, picture.height, HELD)
    found = np.zeros((picture.height, picture.width), bool)
    scale = max(1.0, max(picture.size) / 1024.0)
    for radius in (RADII[0], *(r * scale for r in RADII)) if scale > 1.5 else RADII:
        for tone in tones(picture):
            found |= _blobs(tone, radius, eager)
    return as_mask(cv2.dilate(found.astype(np.uint8), np.ones((3, 3), np.uint8)))


def _blobs(grey: Grey, radius: float, eager: float) -> NDArray[np.bool_]:
    """Return where bright spots of about this radius lie, (H, W)."""
    import cv2

    mean = cv2.GaussianBlur(grey, (0, 0), 0.6 * radius)
    away = 2.0 * radius + 1.0
    turns = np.pi * np.arange(8) / 4
    sides = np.stack([_shift(mean, away * np.cos(a), away * np.sin(a)) for a in turns])
    contrast = mean - sides.max(axis=0)
    wide = round(AROUND * radius) | 1
    usual = cv2.blur(sides.std(axis=0), (wide, wide), borderType=cv2.BORDER_REFLECT)
    reach = round(away)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    dark, bright = np.quantile(mean[::4, ::4], (0.001, 0.999))
    stands_out = (contrast > np.maximum(LEAST, ABOVE * usual) / eager) & out_of_place(mean, wide, OUT / eager)
    seeds = np.where(stands_out, contrast, np.float32(0.0))
    peak = cv2.dilate(seeds, disc)
    hat = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, disc)
    joined = ((peak > 0) & (hat > WEAK * peak)).astype(np.uint8)
    crowd = cv2.blur(joined.astype(np.float32), (round(CROWD * radius) | 1,) * 2, borderType=cv2.BORDER_REFLECT)
    apart = (seeds > 0) & (mean >= dark + OUTER / eager * (bright - dark)) & (crowd <= CROWDED * eager)
    count, labels = cv2.connectedComponents(joined, connectivity=8)
    kept = np.bincount(labels[apart], minlength=count) > 0
    kept &= np.bincount(labels.ravel(), minlength=count) <= LARGEST * eager * np.pi * radius**2
    kept[0] = False
    return np.asarray(kept[labels])


def _shift(values: Grey, x: float, y: float) -> Grey:
    """Return values(p + (x, y)), bilinearly interpolated."""
    import cv2

    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix = np.array([[1.0, 0.0, x], [0.0, 1.0, y]])
    made: Grey = cv2.warpAffine(values, matrix, values.shape[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT)
    return made


SPOTS = Shape(
    "spots", "spots:eagerness", lambda picture, values: spots(picture, eagerness("spots", values)),
    "Dust and blots; spots:2 finds more.", finds=True,
)  # fmt: skip
