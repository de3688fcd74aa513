"""`spots`: dust and blots, small things that are brighter or darker than all around them.

The mean over a small disc is compared with those at eight places around it: a spot exceeds all eight, an edge or a line
does not. It must stand well above how far the eight differ from one another around there, so that gravel and leaves
are no spots. Its pixels are those of the disc's neighbourhood that have a good part of its contrast.

Dust and lost emulsion are near black or white and lie apart: what is not in the outer half of the picture's tones, what
lies in a crowd of its like, and what is much larger than its disc is the picture's own. That leaves out half of what
was marked and was none, and a tenth of the spots (23 development photographs; benchmarks/masks.py has others).
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
"""Of spots, in pixels of a picture of 1024; larger ones are larger on larger pictures."""

LEAST, ABOVE = 20.0, 3.5
"""The contrast of a spot: in levels of 255, and in deviations of the eight places, a mean over the surroundings."""

WEAK = 0.35
"""What of its contrast a pixel of a spot has at least."""

OUT = 1.5
"""How far beyond the mean of the surroundings it lies, in their deviations."""

OUTER = 0.5
"""How bright a bright spot is, from the picture's darkest, 0, to its brightest, 1."""

CROWD, CROWDED = 40.0, 0.05
"""The side of a crowd's square, in radii, and the share of it that is marked."""

LARGEST = 9.0
"""The area of a spot, in discs."""

AROUND = 20.0
"""The side of the surroundings, in radii."""


def spots(picture: Picture, eager: float = 1.0) -> Mask:
    """(H, W) of 0 and 1: 1 where a spot lies. `eager`: as that of scratches."""
    import cv2

    afford(f"looking for spots in {picture.width}x{picture.height}", picture.width, picture.height, HELD)
    found = np.zeros((picture.height, picture.width), bool)
    scale = max(1.0, max(picture.size) / 1024.0)
    for radius in (RADII[0], *(r * scale for r in RADII)) if scale > 1.5 else RADII:
        for tone in tones(picture):
            found |= _blobs(tone, radius, eager)
    return as_mask(cv2.dilate(found.astype(np.uint8), np.ones((3, 3), np.uint8)))


def _blobs(grey: Grey, radius: float, eager: float) -> NDArray[np.bool_]:
    """True where a bright spot of about this radius lies."""
    import cv2

    mean = cv2.GaussianBlur(grey, (0, 0), 0.6 * radius)
    away = 2.0 * radius + 1.0
    turns = np.pi * np.arange(8) / 4
    sides = np.stack([_moved(mean, away * np.cos(a), away * np.sin(a)) for a in turns])
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


def _moved(values: Grey, x: float, y: float) -> Grey:
    """values(p + (x, y)), bilinear."""
    import cv2

    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix = np.array([[1.0, 0.0, x], [0.0, 1.0, y]])
    made: Grey = cv2.warpAffine(values, matrix, values.shape[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT)
    return made


SPOTS = Shape(
    "spots", "spots:eagerness", lambda picture, values: spots(picture, eagerness("spots", values)),
    "Dust and blots that are found; spots:2 finds more.", finds=True,
)  # fmt: skip
