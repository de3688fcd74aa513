"""`torn`: a corner or a piece of an edge that is missing, so that the white or the black behind the print shows.

Behind a print lies one tone, the scanner's lid or a sheet of paper. So a missing piece is a connected area at the edge
of the scan, nearly white or nearly black, without colour, gradient or texture, whose outline is a sharp step
everywhere. A clipped sky or a night is such an area as well, so it must also be small, occur once (a sky goes on behind
branches and between roofs), and its outline must be a tear: about as long as the line round it, where a skyline is
jagged. A frame of one tone on all sides belongs to the scan, not to the damage: `has_frame` recognizes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from editkit.pictures.picture import Picture
from editkit.pictures.shapes import Mask, Shape, as_mask
from editkit_plugins.masks.scratches import HELD, eagerness, in_levels
from editkit_plugins.restoring.memory import afford

Levels = NDArray[np.float32]
"""(H, W, 3) in levels of 255."""

WHITE, BLACK = 222.0, 32.0
"""Paper is at least this bright in every channel, a dark lid at most this bright in every channel."""

SAME = 9.0
"""Largest difference from the area's median colour, in levels of 255."""

EVEN, SLOPE, COLOURED = 2.5, 2.5, 14.0
"""Most standard deviation inside the area, change across it by a plane, and chroma of its median, in levels."""

SMALLEST, LARGEST = 0.0004, 0.12
"""Range of an area, as fractions of the image."""

STEP, STEPS = 14.0, 0.8
"""Least difference to what lies beyond the outline, in levels, and the fraction of the outline that has it."""

ELSEWHERE, CLEAR = 0.35, 2.5
"""Most area of the same tone in the rest of the image, relative to this area; the same for a `Piece.is_clear`."""

JAGGED, BULK = 1.7, 0.7
"""Most length of the outline relative to that of the convex hull, and least fraction of the hull that is filled."""

ROUND = 3
"""Pixels by which an accepted area is widened: its outline is a mixture of both tones."""


MOST = 20
"""Number of areas at the edge that are measured, the largest ones: keyboards and barcodes have hundreds."""


@dataclass(frozen=True)
class Piece:
    """What decides whether an area (H, W) of one tone at the edge of a scan is a missing piece of the print."""

    area: NDArray[np.bool_]
    share: float
    spread: float
    slope: float
    chroma: float
    steps: float
    elsewhere: float
    jagged: float
    bulk: float
    sides: int

    @property
    def is_clear(self) -> bool:
        """Whether nothing but the same tone elsewhere speaks against it."""
        even = self.spread <= 2.0 and self.slope <= 1.0 and self.chroma <= 0.5 * COLOURED
        return even and self.steps >= 0.96 and self.jagged <= 1.2 and self.bulk >= 0.9

    def is_torn(self, eager: float) -> bool:
        """Whether it is one; `eager` relaxes the bounds on size, evenness and outline."""
        even = max(self.spread / EVEN, self.slope / SLOPE, self.chroma / COLOURED) <= eager
        outline = self.steps >= STEPS / eager and self.jagged <= JAGGED and self.bulk >= BULK
        once = self.elsewhere <= (CLEAR if self.is_clear else ELSEWHERE) * eager
        return even and outline and once and not self.sides and self.share <= LARGEST * eager


def torn(picture: Picture, eager: float = 1.0) -> Mask:
    """Mark missing corners and pieces of an edge: (H, W) of 0 and 1. `eager`: 2 also takes less even and larger ones.

    Raises:
        PictureError: the picture needs more memory than is free.
    """
    import cv2

    afford(f"looking for torn edges in {picture.width}x{picture.height}", picture.width, picture.height, HELD)
    found = np.zeros((picture.height, picture.width), np.uint8)
    for piece in pieces(in_levels(picture)):
        if piece.is_torn(eager):
            found |= piece.area.astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * ROUND + 1, 2 * ROUND + 1))
    return as_mask(cv2.dilate(found, disc))


def has_frame(picture: Picture) -> bool:
    """Whether an even white or black frame surrounds the image on at least three sides."""
    return any(piece.sides >= 3 and piece.spread <= EVEN for piece in pieces(in_levels(picture)))


def pieces(levels: Levels) -> list[Piece]:
    """Return the areas of nearly one tone, white or black, that touch the edge of the image (H, W, 3)."""
    import cv2

    made = []
    for near in (levels.min(axis=2) >= WHITE, levels.max(axis=2) <= BLACK):
        count, labels = cv2.connectedComponents(near.astype(np.uint8), connectivity=4)
        if count == 1:
            continue
        rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        sizes = np.bincount(labels.ravel(), minlength=count)
        found = [label for label in np.unique(rim[rim > 0]) if sizes[label] >= SMALLEST * labels.size]
        for label in sorted(found, key=lambda label: -int(sizes[label]))[:MOST]:
            made += _piece(levels, labels == label)
    return made


def _piece(levels: Levels, near: NDArray[np.bool_]) -> list[Piece]:
    """Measure the part of `near` that has about its median colour; nothing if that is too small."""
    import cv2

    colour = np.median(levels[near], axis=0)
    same = np.abs(levels - colour).max(axis=2) <= SAME
    area = _largest(near & same)
    if not (area[0].any() or area[-1].any() or area[:, 0].any() or area[:, -1].any()):
        return []
    inside = cv2.erode(area.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) > 0
    if inside.sum() < 0.5 * SMALLEST * area.size:
        return []
    y, x = np.nonzero(inside)
    away = levels[inside] - colour
    plane = np.column_stack([x - x.mean(), y - y.mean()]) / max(np.ptp(x), np.ptp(y), 1)
    slope = float(np.abs(np.linalg.lstsq(plane, away, rcond=None)[0]).max())
    ring = (cv2.dilate(area.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0) & ~area
    ring &= ~(cv2.dilate(area.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    beyond = np.abs(levels[ring] - colour).max(axis=1)
    contour = max(cv2.findContours(area.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
    hull = cv2.convexHull(contour)
    edges = [line.mean() > 0.98 for line in (area[0], area[-1], area[:, 0], area[:, -1])]
    return [
        Piece(
            area=area,
            share=float(area.mean()),
            spread=float(away.std(axis=0).max()),
            slope=slope,
            chroma=float(np.ptp(colour)),
            steps=float((beyond > STEP).mean()) if beyond.size else 0.0,
            elsewhere=float((same & ~area).sum() / area.sum()),
            jagged=float(cv2.arcLength(contour, True) / max(cv2.arcLength(hull, True), 1.0)),
            bulk=float(area.sum() / max(cv2.contourArea(hull), 1.0)),
            sides=int(np.sum(edges)),
        )
    ]


def _largest(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected part of `area`, with gaps of up to four pixels closed."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(area.astype(np.uint8), connectivity=4)
    if count == 1:
        return area
    largest = (labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
    return np.asarray(cv2.morphologyEx(largest, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0)


TORN = Shape(
    "torn", "torn:eagerness", lambda picture, values: torn(picture, eagerness("torn", values)),
    "Missing corners and pieces of an edge; torn:2 finds more.", finds=True,
)  # fmt: skip
