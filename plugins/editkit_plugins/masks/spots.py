"""`spots`: dust and blots, small areas that are brighter or darker than everything around them.

Candidates are the local maxima of a small disc's mean over the means at eight positions around it: an edge or a line
has no such maximum. A candidate's area is what is connected to it above `LEVEL` of its height. Whether it is dust or
belongs to the picture (gravel, a window, a leaf) is decided by a logistic model over `FEATURES`: dust is bright or dark
in the picture's range, without colour, even inside, sharp at its outline, round, and alone among its like:

    log odds = BIAS + sum_k WEIGHTS_k (f_k - CENTRES_k) / SPREADS_k.

`benchmarks/fit_specks.py` fits it to synthetic scans of photographs that are not held out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from editkit.pictures.picture import Picture
from editkit.pictures.shapes import Mask, Shape, as_mask
from editkit_plugins.masks.scratches import HELD, eagerness, in_levels, tones
from editkit_plugins.masks.speck_model import BIAS, CENTRES, SPREADS, WEIGHTS
from editkit_plugins.restoring.memory import afford

Grey = NDArray[np.float32]
Flags = NDArray[np.bool_]

RADII = (1.5, 2.5, 4.5)
"""Radii of spots in pixels, for a longer side of 1024; they scale with larger pictures."""

LEAST, ABOVE, HIGH = 12.0, 1.0, 14.0
"""Least contrast of a candidate: in levels of 255, relative to the usual deviation of the eight positions, and of the
centre over the ring around it, in levels."""

LEVEL = 0.45
"""Fraction of the height above which a pixel belongs to the spot."""

AROUND, LIKE = 20.0, 40.0
"""Side of the surroundings, in radii; and distance at which similar candidates count, in pixels."""

MOST = 20000
"""Largest number of candidates of one radius that are judged, the clearest ones."""

ODDS = -0.3
"""Least log odds of a spot."""

FEATURES = (
    "contrast", "ring", "usual", "tone", "place in the range", "unevenness", "edge", "length", "fullness", "area",
    "colour", "crowd", "margin", "range of the ring", "out of place",
)  # fmt: skip
"""Names of a candidate's features, in the order of the model's coefficients."""


@dataclass(frozen=True)
class Speck:
    """A candidate: its area (h, w) with the upper left pixel (y, x), its height, and its features."""

    y: int
    x: int
    area: Flags
    height: float
    features: NDArray[np.float64]


def spots(picture: Picture, eager: float = 1.0) -> Mask:
    """Mark spots: (H, W) of 0 and 1. `eager`: 2 finds spots with half the contrast, and more false ones.

    Raises:
        PictureError: the picture needs more memory than is free.
    """
    import cv2

    afford(f"looking for spots in {picture.width}x{picture.height}", picture.width, picture.height, HELD)
    found = np.zeros((picture.height, picture.width), np.uint8)
    for speck in specks(picture, eager):
        there = found[speck.y : speck.y + speck.area.shape[0], speck.x : speck.x + speck.area.shape[1]]
        if log_odds(speck.features, eager) > ODDS:
            there |= speck.area
    return as_mask(cv2.dilate(found, np.ones((5, 5), np.uint8)))


def log_odds(features: NDArray[np.float64], eager: float = 1.0) -> float:
    """Return the log odds that a candidate with these features is dust, seen with `eager` times its contrast."""
    seen = features.copy()
    seen[0] += np.log(eager)
    return float(BIAS + np.dot(WEIGHTS, np.clip((seen - CENTRES) / SPREADS, -4.0, 4.0)))


def specks(picture: Picture, eager: float = 1.0) -> Iterator[Speck]:
    """Yield the candidates of all radii, bright and dark."""
    scale, levels = max(1.0, max(picture.size) / 1024.0), in_levels(picture)
    for radius in (RADII[0], *(r * scale for r in RADII)) if scale > 1.5 else RADII:
        for tone in tones(picture):
            yield from _candidates(levels, tone, radius, eager)


def _candidates(levels: Grey, tone: Grey, radius: float, eager: float) -> list[Speck]:
    """Return the candidates of one radius that are bright in `tone` (H, W); `levels` (H, W, 3) are the colours."""
    import cv2

    mean = cv2.GaussianBlur(tone, (0, 0), 0.6 * radius)
    away, wide = 2.0 * radius + 1.0, round(AROUND * radius) | 1
    turns = np.pi * np.arange(8) / 4
    sides = np.stack([_shift(mean, away * np.cos(a), away * np.sin(a)) for a in turns])
    contrast, usual = mean - sides.max(axis=0), _mean(sides.std(axis=0), wide)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(away) + 1,) * 2)
    top = (contrast >= cv2.dilate(contrast, disc)) & (contrast > np.maximum(LEAST, ABOVE * usual) / eager)
    ys, xs = np.nonzero(top)
    if len(ys) > MOST:
        best = np.sort(np.argsort(-(contrast[ys, xs] / (usual[ys, xs] + 1.0)), kind="stable")[:MOST])
        ys, xs = ys[best], xs[best]
    local = _mean(tone, wide)
    deviation = np.sqrt(np.maximum(_mean(tone * tone, wide) - local * local, 0.0))
    dark, bright = np.quantile(mean[::4, ::4], (0.001, 0.999))
    slopes = np.hypot(cv2.Sobel(tone, cv2.CV_32F, 1, 0), cv2.Sobel(tone, cv2.CV_32F, 0, 1)) / 8.0
    reach = 2 * round(away) + 2
    stack = cv2.copyMakeBorder(np.dstack([tone, slopes, levels[..., :3]]), *(reach,) * 4, cv2.BORDER_REFLECT)
    made = []
    for y, x in zip(ys.tolist(), xs.tolist(), strict=True):
        window = stack[y : y + 2 * reach + 1, x : x + 2 * reach + 1]
        cut = _cut(window[..., 0], away, eager)
        if cut is not None:
            area, height = cut
            shape = _measured(window, area)
            inside = float(shape[2])
            placed = ((inside - dark) / max(bright - dark, 1.0), (inside - local[y, x]) / (deviation[y, x] + 2.0))
            features = [*shape[:2], np.log(usual[y, x] + 1.0), inside / 255.0, placed[0], *shape[3:9], 0.0, *shape[9:]]
            made.append(_clipped(y - reach, x - reach, area, height, np.array([*features, placed[1]]), tone.shape))
    return _with_crowds(made)


def _mean(values: Grey, side: int) -> Grey:
    import cv2

    return np.asarray(cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT))


def _cut(tone: Grey, away: float, eager: float) -> tuple[Flags, float] | None:
    """Return the area of the spot in the middle of a square window, and its height; None if it is none."""
    import cv2

    reach = tone.shape[0] // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    far = np.hypot(y, x)
    ground = float(np.median(tone[(far > away) & (far <= away + 3.0)]))
    height = float(np.median(tone[reach - 1 : reach + 2, reach - 1 : reach + 2])) - ground
    if height < HIGH / eager:
        return None
    high = (tone > ground + LEVEL * height).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(high, connectivity=4)
    label = int(labels[reach, reach])
    left, top, wide, tall = stats[label, :4]
    if not label or min(left, top) == 0 or max(left + wide, top + tall) == tone.shape[0]:
        return None
    return labels == label, height


def _measured(window: Grey, area: Flags) -> list[float]:
    """Return features of an area in its window (h, w, 5): tone, slope of the tone, colours."""
    import cv2

    tone, on = window[..., 0], area.astype(np.uint8)
    wider, core = cv2.dilate(on, np.ones((3, 3), np.uint8)) > 0, cv2.erode(on, np.ones((3, 3), np.uint8)) > 0
    ring = tone[(cv2.dilate(on, np.ones((7, 7), np.uint8)) > 0) & ~wider]
    inner = core if core.sum() >= 3 else area
    inside = float(tone[inner].mean())
    height = max(inside - float(np.median(ring)), 1.0)
    at = np.stack(np.nonzero(area)).astype(np.float64)
    moments = np.linalg.eigvalsh((np.cov(at) if area.sum() > 2 else np.zeros((2, 2))) + np.eye(2) / 12.0)
    return [
        float(np.log(height)),
        float(np.log(ring.std() + 1.0)),
        inside,
        float(np.log(tone[inner].std() + 1.0)),
        float(window[..., 1][wider & ~core].mean()) / height,
        float(0.5 * np.log(moments[1] / moments[0])),
        float(area.sum() / (4.0 * np.pi * np.sqrt(moments[0] * moments[1]))),
        float(np.log(area.sum())),
        float(np.ptp(np.median(window[..., 2:][inner], axis=0))) / 255.0,
        (inside - float(ring.max())) / height,
        float(np.log(np.quantile(ring, 0.9) - np.quantile(ring, 0.1) + 1.0)),
    ]


def _clipped(y: int, x: int, area: Flags, height: float, features: NDArray[np.float64], size: tuple[int, ...]) -> Speck:
    """Return the speck without the part of its window that lies outside the picture of `size`."""
    top, left = max(-y, 0), max(-x, 0)
    part = area[top : size[0] - y, left : size[1] - x]
    return Speck(y + top, x + left, part, height, features)


def _with_crowds(found: list[Speck]) -> list[Speck]:
    """Set the crowd of each speck: the log of how many, itself included, are near and at least 0.6 as high."""
    found = sorted(found, key=lambda speck: speck.y + speck.area.shape[0] / 2)
    middles = np.array([(s.y + s.area.shape[0] / 2, s.x + s.area.shape[1] / 2) for s in found]).reshape(-1, 2)
    heights = np.array([s.height for s in found])
    first, last = (np.searchsorted(middles[:, 0], middles[:, 0] + by) for by in (-LIKE, LIKE))
    for k, speck in enumerate(found):
        near = np.hypot(*(middles[first[k] : last[k]] - middles[k]).T) < LIKE
        alike = near & (heights[first[k] : last[k]] > 0.6 * speck.height)
        speck.features[FEATURES.index("crowd")] = np.log(alike.sum())
    return found


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
