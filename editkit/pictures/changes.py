"""What an edit changed: its mask, and the edit put back into the picture it was made of, the rest bit for bit.

Models that edit by instruction give back a whole new picture: what was not asked for has moved by pixels, has another
tint and has been through an encoder. `find` undoes the three in turn, and says them:

1. the shift, by phase correlation (Kuglin & Hines 1975) and then ECC (Evangelidis & Psarakis 2008) on what seems
   unchanged, which also finds a zoom or a shear where there is one;
2. the colours, by least trimmed squares (Rousseeuw 1984): an affine map of RGB that most of the picture obeys;
3. what is then different: the difference at several scales, in units of what re-encoding changes in places of the same
   texture, which the picture itself tells, since most of it, or at least `CALM` of each texture, is unchanged.

All arrays are (H, W, 3) float32 in [0, 1] unless it says otherwise; no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Marks = NDArray[np.bool_]

CALM = 0.3
"""The quantile of the differences at which what re-encoding changes is read off."""

OF_NORMAL = 0.3853
"""That quantile of the absolute values of N(0, 1)."""

SCALES = (0.8, 2.0, 4.0)
"""Deviations in pixels of the blurs at which pictures are compared."""

DEVIATIONS = 4.0
"""A change is so many deviations of what re-encoding does."""

FLOORS = (3.0, 2.0, 1.5)
"""And at least so many levels of 255, at each scale: pictures of equal bits have no noise at all."""

CEILINGS = (64.0, 24.0, 12.0)
"""And at most so many: an edit that changed everything has no part that tells what re-encoding does."""

SURE = 2.0
"""A piece is changed only near where the difference is so many times the bound."""

EDGE = 0.5
"""A change ends where it is this part of what it is inside: there the edge of a step lies after any blur."""

HOLE = 0.03
"""Of what changed: what looks the same within it, and is no larger, changed too."""

FEATHER = 1
"""Pixels around what changed over which the edit fades into the picture."""

NEARLY_ALL = 0.9
"""The part of a picture from which on an edit changed all of it."""

UNLIKE = 0.4
"""Of the power of two pictures' details, that of their difference: above, they show other things."""

FAINT = 2.0
"""Levels of 255: fainter details tell nothing."""

TINTS = (0.5, 2.0)
"""Of a colour map the least and the largest gain of a direction: another one is no tint."""

LARGEST = 0.12
"""Of the shorter side: a larger shift is no shift, but another picture."""

LOOSE, TIGHT = 12.0, 3.0
"""Levels of 255: colours that are off by so much are first, and at last, thought to be unchanged."""

SAME = 0.05
"""Pixels: a shift this near to whole pixels is whole, so that nothing is interpolated."""

SMALLEST = 16
"""Pixels: in a picture with a shorter side nothing can be registered."""


@dataclass(frozen=True, eq=False)
class Changes:
    """What an edit did to a picture.

    Args:
        shift: (x, y) in pixels, by which what did not change has moved, at the middle; right and down are positive.
        zoom: by how much it is larger, 1: not at all.
        tint: the largest mean change of a channel that was undone, in levels of 255.
        mask: (H, W) float32 in [0, 1], 1 where the edit is; it fades over `FEATHER` pixels, and is 0 elsewhere.
        edited: the edit with shift and colours undone.
    """

    shift: tuple[float, float]
    zoom: float
    tint: float
    mask: Values
    edited: Values

    @property
    def share(self) -> float:
        """How much of the picture is not as it was, 0 to 1."""
        return float((self.mask > 0).mean())

    def onto(self, picture: Values) -> Values:
        """`picture` with the edit in it; where the mask is 0 its very values."""
        mask = self.mask[..., None]
        blended = picture + mask * (self.edited - picture)
        return np.where(mask == 0, picture, np.where(mask == 1, self.edited, blended))


def find(picture: Values, edited: Values) -> Changes:
    """What of `picture` is another in `edited`, of the same size.

    An edit of more than `NEARLY_ALL` of the picture is taken as it came: nothing is left that tells a shift or a tint.
    Nothing is lost where the edit has no counterpart: what the shift pushed out of the frame is kept as it was.
    """
    matrix = _registered(picture, edited)
    back, seen = _undone(edited, matrix)
    tinted = _colours(picture, back, seen)
    forth = np.clip(picture @ tinted[:3] + tinted[3], 0.0, 1.0).astype(np.float32)
    changed = _changed(picture, back - forth, seen)
    if changed.mean() > NEARLY_ALL or _unlike(picture, back, seen):
        return Changes((0.0, 0.0), 1.0, 0.0, np.ones(seen.shape, np.float32), edited)
    matched = np.clip((back - tinted[3]) @ np.linalg.inv(tinted[:3]), 0.0, 1.0).astype(np.float32)
    alike = seen & ~changed
    tint = 255.0 * float(np.abs((back - matched)[alike].mean(0)).max()) if alike.any() else 0.0
    middle = (np.array(changed.shape[::-1]) - 1) / 2.0
    shift = matrix[:, :2] @ middle + matrix[:, 2] - middle
    zoom = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    return Changes((float(shift[0]), float(shift[1])), zoom, tint, _feathered(changed, seen), matched)


def _grey(picture: Values) -> Values:
    grey: Values = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return grey


def _detail(grey: Values, coarsest: float = 8.0) -> Values:
    """What lies between one pixel and the `coarsest`: neither the noise of an encoder nor a tint."""
    detail: Values = cv2.GaussianBlur(grey, (0, 0), 1.0) - cv2.GaussianBlur(grey, (0, 0), coarsest)
    return detail


def _registered(picture: Values, edited: Values) -> NDArray[np.float64]:
    """The 2 x 3 matrix that takes a place (x, y) of `picture` to the same thing's place in `edited`."""
    still = np.eye(2, 3)
    height, width = picture.shape[:2]
    if min(height, width) < SMALLEST:
        return still
    before, after = _detail(_grey(picture)), _detail(_grey(edited))
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    candidates = [still]
    (x, y), _ = cv2.phaseCorrelate(before, after, window)
    if np.hypot(x, y) <= LARGEST * min(height, width):
        candidates.append(_shifted(x, y))
    best = min(candidates, key=lambda matrix: _misfit(before, after, matrix))
    for kind in (cv2.MOTION_TRANSLATION, cv2.MOTION_TRANSLATION, cv2.MOTION_AFFINE):
        found = _refined(before, after, best, kind)
        gain = 0.95 if kind == cv2.MOTION_AFFINE else 1.0
        if found is not None and _misfit(before, after, found) < gain * _misfit(before, after, best):
            best = found
    if np.array_equal(best[:, :2], np.eye(2)):
        whole = np.rint(best[:, 2])
        if np.abs(best[:, 2] - whole).max() < SAME:
            best = _shifted(*whole)
    return best


def _unlike(picture: Values, back: Values, seen: Marks) -> bool:
    """Whether not even the most similar parts of the two have the same details."""
    before, after = (_detail(_grey(one), 3.0) for one in (picture, back))
    off, both = (cv2.GaussianBlur(one, (0, 0), 2.0)[seen] for one in (np.square(after - before), before**2 + after**2))
    if not off.size:
        return False
    calm = off <= np.quantile(off, CALM)
    return bool(off[calm].mean() > max(UNLIKE * both[calm].mean(), (FAINT / 255.0) ** 2))


def _shifted(x: float, y: float) -> NDArray[np.float64]:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y]])


def _refined(before: Values, after: Values, matrix: NDArray[np.float64], kind: int) -> NDArray[np.float64] | None:
    """`matrix` made better by ECC, where the pictures seem to be the same; None: it does not converge."""
    back, seen = _undone(after, matrix)
    off = cv2.GaussianBlur(np.abs(back - before), (0, 0), 4.0)
    alike = seen & (off <= np.quantile(off[seen], 0.6)) if seen.any() else seen
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
    try:
        _, found = cv2.findTransformECC(
            before, after, matrix.astype(np.float32), kind, criteria, _masked(alike, matrix), 3
        )
    except cv2.error:
        return None
    corners = np.array([[0, 0, 1], [before.shape[1], 0, 1], [0, before.shape[0], 1], [*before.shape[::-1], 1]])
    if np.abs(corners @ (found - np.eye(2, 3)).T).max() > LARGEST * min(before.shape):
        return None
    return np.asarray(found, np.float64)


def _masked(alike: Marks, matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """`alike` as OpenCV wants it: of the edited picture."""
    height, width = alike.shape
    moved: NDArray[np.uint8] = cv2.warpAffine(
        alike.astype(np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=0
    )
    return moved


def _misfit(before: Values, after: Values, matrix: NDArray[np.float64]) -> float:
    """How different the half is that differs least, per pixel, with `matrix` undone."""
    back, seen = _undone(after, matrix)
    if seen.mean() < 0.5:
        return np.inf
    off = cv2.GaussianBlur(np.square(back - before), (0, 0), 3.0)[seen]
    return float(np.sort(off)[: len(off) // 2].mean())


def _undone(edited: Values, matrix: NDArray[np.float64]) -> tuple[Values, Marks]:
    """`edited` with everything back in its place, and (H, W) where there is something of it."""
    height, width = edited.shape[:2]
    linear, offset = matrix[:, :2], matrix[:, 2]
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    x = linear[0, 0] * xs + linear[0, 1] * ys + offset[0]
    y = linear[1, 0] * xs + linear[1, 1] * ys + offset[1]
    seen = (x >= -0.01) & (x <= width - 0.99) & (y >= -0.01) & (y <= height - 0.99)
    if np.array_equal(linear, np.eye(2)) and np.array_equal(offset, np.rint(offset)):
        back = edited[np.clip(y, 0, height - 1).astype(int), np.clip(x, 0, width - 1).astype(int)]
        return back, seen
    back = cv2.warpAffine(
        edited, matrix, (width, height), flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )
    return back, seen


def _colours(picture: Values, edited: Values, seen: Marks) -> NDArray[np.float64]:
    """(4, 3): the affine map of RGB, linear part above the offset, that takes most of `picture` to `edited`."""
    height, width = seen.shape
    step = max(1, round(np.sqrt(height * width / 40_000)))
    size = (max(1, width // step), max(1, height // step))
    small = [
        cv2.resize(cv2.GaussianBlur(one, (0, 0), 1.5), size, interpolation=cv2.INTER_AREA) for one in (picture, edited)
    ]
    inside = cv2.resize(seen.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99
    given, wanted = (one[inside].astype(np.float64) for one in small)
    unclipped = ((given > 0.01) & (given < 0.99) & (wanted > 0.01) & (wanted < 0.99)).all(1)
    still = np.vstack([np.eye(3), np.zeros(3)])
    if unclipped.sum() < 50:
        return still
    wanted, rows = wanted[unclipped], np.hstack([given[unclipped], np.ones((int(unclipped.sum()), 1))])
    found = still.copy()
    found[3] = np.median(wanted - rows[:, :3], axis=0)
    for _ in range(12):
        off = np.square(rows @ found - wanted).sum(1)
        found = _fitted(rows, wanted, (off <= np.quantile(off, 0.5)).astype(np.float64))
    rare = _rarity(rows[:, :3])
    for within in np.geomspace(LOOSE, TIGHT, 10) / 255.0:  # rare colours are off by little, what changed by much
        off = np.square(rows @ found - wanted).sum(1)
        found = _fitted(rows, wanted, rare * np.square(within**2 / (within**2 + off)))
    gains = np.linalg.svd(found[:3], compute_uv=False)
    return found if TINTS[0] < gains[-1] and gains[0] < TINTS[1] and np.trace(found[:3]) > 0.0 else still


def _fitted(
    rows: NDArray[np.float64], wanted: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The (4, 3) map of `rows` (n, 4) to `wanted` (n, 3), which is the identity where nothing speaks against it."""
    weak = 1e-4 * weights.sum() * np.eye(4)
    still = np.vstack([np.eye(3), np.zeros(3)])
    given = rows * weights[:, None]
    fitted: NDArray[np.float64] = np.linalg.solve(given.T @ rows + weak, given.T @ wanted + weak @ still)
    return fitted


def _rarity(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,): one over the root of how many of (n, 3) colours are alike."""
    places = (np.clip(colours, 0.0, 0.999) * 10).astype(int) @ np.array([100, 10, 1])
    rarity: NDArray[np.float64] = 1.0 / np.sqrt(np.bincount(places, minlength=1000)[places])
    return rarity


def _changed(picture: Values, difference: Values, seen: Marks) -> Marks:
    """(H, W): where the `difference` of an edit to `picture` is more than re-encoding makes there."""
    textures = [_texture(plane) for plane in _planes(picture)]
    marked, sure = np.zeros(seen.shape, bool), np.zeros(seen.shape, bool)
    for scale, *limits in zip(SCALES, FLOORS, CEILINGS, strict=True):
        ratio, whole = np.zeros(seen.shape, np.float32), np.zeros(seen.shape, np.float32)
        for plane, texture in zip(_planes(difference), textures, strict=True):
            off = np.abs(cv2.GaussianBlur(plane, (0, 0), scale))
            bound = np.clip(DEVIATIONS * _noise(off, texture, seen), *np.divide(limits, 255.0, dtype=np.float32))
            ratio, whole = np.maximum(ratio, off / bound), np.maximum(whole, off)
        reach = 2 * round(3.0 * scale) + 5
        ends = whole >= EDGE * cv2.dilate(whole, np.ones((reach, reach), np.uint8))
        marked |= _ending(ratio > 1.0, ends, scale) & seen
        sure |= _ending(ratio > SURE, ends, scale) & seen
    return _cleaned(marked, sure) & seen


def _ending(marks: Marks, ends: Marks, scale: float) -> Marks:
    """`marks` that end where a change does, not where its blur does; what lies deep in them stays."""
    return (marks & ends) | _eroded(marks, round(2.5 * scale) + 2)


def _planes(picture: Values) -> list[Values]:
    """Luma and two chromas: encoders treat them differently."""
    red, green, blue = (picture[..., k] for k in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return [luma, blue - luma, red - luma]


def _texture(plane: Values) -> Values:
    """(H, W): how much is going on around a pixel, within the blocks of an encoder."""
    steep = np.hypot(*(cv2.Sobel(plane, cv2.CV_32F, *axis, ksize=3) for axis in ((1, 0), (0, 1))))
    texture: Values = cv2.GaussianBlur(cv2.dilate(steep, np.ones((9, 9), np.uint8)), (0, 0), 3.0)
    return texture


def _noise(off: Values, texture: Values, seen: Marks) -> Values:
    """(H, W): the deviation of what re-encoding makes of `off` at places of the same texture."""
    values, kinds = off[seen], texture[seen]
    bins = int(np.clip(len(values) // 2000, 1, 16))
    edges = np.quantile(kinds, np.linspace(0.0, 1.0, bins + 1))
    at = np.clip(np.searchsorted(edges, kinds, side="right") - 1, 0, bins - 1)
    levels = np.array([np.quantile(values[at == k], CALM) if (at == k).any() else 0.0 for k in range(bins)])
    smooth = np.array([np.median(levels[max(0, k - 1) : k + 2]) for k in range(bins)])
    middles = (edges[:-1] + edges[1:]) / 2.0
    return np.interp(texture, middles, smooth / OF_NORMAL).astype(np.float32)


def _eroded(marks: Marks, radius: int) -> Marks:
    eroded: Marks = cv2.erode(marks.astype(np.uint8), _disc(radius), borderValue=1) > 0
    return eroded


def _disc(radius: int) -> NDArray[np.uint8]:
    disc: NDArray[np.uint8] = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return disc


def _cleaned(marked: Marks, sure: Marks) -> Marks:
    """Of `marked` what lies near something `sure`, closed, without holes and specks."""
    height, width = marked.shape
    radius = max(3, round(min(height, width) / 100))
    least = max(9, round(height * width / 4000))
    near = cv2.dilate(sure.astype(np.uint8), _disc(radius)) > 0
    padded = cv2.copyMakeBorder((marked & near).astype(np.uint8), radius, radius, radius, radius, cv2.BORDER_REPLICATE)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, _disc(radius))[radius:-radius, radius:-radius]
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, _disc(2))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    area = stats[:, cv2.CC_STAT_AREA]
    kept = (area >= least) & (np.bincount(labels[sure], minlength=count) >= 0.1 * area)
    kept[0] = False
    return _without_holes(kept[labels])


def _without_holes(pieces: Marks) -> Marks:
    """`pieces`, and what they enclose where it is small beside them."""
    height, width = pieces.shape
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~pieces).astype(np.uint8), connectivity=4)
    x, y, across, down, area = stats.T
    enclosed = (x > 0) & (y > 0) & (x + across < width) & (y + down < height) & (area < HOLE * pieces.sum())
    enclosed[0] = False
    filled: Marks = pieces | enclosed[labels]
    return filled


def _feathered(changed: Marks, seen: Marks) -> Values:
    """1 where it changed, fading to 0 over `FEATHER` pixels around it, and 0 where nothing is known of the edit."""
    away = cv2.distanceTransform((~changed).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if not changed.any():
        return np.zeros(changed.shape, np.float32)
    faded: Values = (np.clip(1.0 - away / (FEATHER + 1.0), 0.0, 1.0) * seen).astype(np.float32)
    return faded
