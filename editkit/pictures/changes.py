"""Find what an edit changed, and copy only that into the original picture; all other pixels stay bit for bit.

Models that edit by instruction return a whole new picture: the unchanged parts are shifted by pixels, tinted, and
re-encoded. `find_changes` undoes these three in turn, and reports them:

1. the shift, by phase correlation (Kuglin & Hines 1975) and then ECC (Evangelidis & Psarakis 2008) on the
   seemingly unchanged parts, which also finds a zoom or a shear;
2. the colours, by least trimmed squares (Rousseeuw 1984): an affine map of RGB that fits most of the picture;
3. re-encoding: a pixel has changed if it differs by more than re-encoding causes at the same texture. This amount is
   estimated from the picture itself, since most of it, or at least `CALM` of each texture, is unchanged. The changes
   are found roughly (`differences`), then to the pixel (`outlines`).

All arrays are (H, W, 3) float32 in [0, 1] unless stated otherwise; no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from editkit.pictures.differences import mark_changes, planes, remove_specks_and_holes, texture
from editkit.pictures.outlines import CALM, change_probability

Values = NDArray[np.float32]
Marks = NDArray[np.bool_]

NEARLY_ALL = 0.9
"""The share of changed pixels above which the edit counts as changing the whole picture."""

UNLIKE = 0.4
"""The power of the difference relative to that of the pictures' details; above this they show different content."""

FAINT = 2.0
"""In levels of 255: fainter details are ignored."""

TINTS = (0.5, 2.0)
"""The smallest and largest gain of a colour map in any direction; beyond them it is not a tint."""

LARGEST = 0.12
"""The largest shift, relative to the shorter side; beyond it the pictures are unrelated."""

LOOSE, TIGHT = 12.0, 3.0
"""The first and last tolerance within which colours count as unchanged, in levels of 255."""

SAME = 0.05
"""In pixels: a shift this close to whole pixels is rounded, so that nothing is interpolated."""

SMALLEST = 16
"""The smallest side for registration, in pixels."""


@dataclass(frozen=True, eq=False)
class Changes:
    """What an edit did to a picture.

    Args:
        shift: (x, y) of the unchanged parts, in pixels, at the centre; right and down are positive.
        zoom: the scale factor; 1: none.
        tint: the largest mean change of a channel that was undone, in levels of 255.
        mask: (H, W) float32 in [0, 1], 1 inside the edit, less at uncertain edges, 0 elsewhere.
        edited: the edit with shift and colours undone.
    """

    shift: tuple[float, float]
    zoom: float
    tint: float
    mask: Values
    edited: Values

    @property
    def share(self) -> float:
        """The share of the picture that changed, 0 to 1."""
        return float((self.mask > 0).mean())

    def onto(self, picture: Values) -> Values:
        """Return `picture` with the edit; where the mask is 0, exactly its own values."""
        mask = self.mask[..., None]
        blended = picture + mask * (self.edited - picture)
        return np.where(mask == 0, picture, np.where(mask == 1, self.edited, blended))


def find_changes(picture: Values, edited: Values) -> Changes:
    """Find the parts of `picture` that changed in `edited`, which has the same size.

    An edit of more than `NEARLY_ALL` of the picture is used unchanged, because nothing is left to estimate a shift or a
    tint. Areas that the shift moved out of the frame keep the original pixels.
    """
    matrix = _register(picture, edited)
    back, seen = _unwarp(edited, matrix)
    tinted = _color_map(picture, back, seen)
    forth = np.clip(picture @ tinted[:3] + tinted[3], 0.0, 1.0).astype(np.float32)
    changed = mark_changes(picture, back - forth, seen)
    if changed.mean() > NEARLY_ALL or _is_unlike(picture, back, seen):
        return Changes((0.0, 0.0), 1.0, 0.0, np.ones(seen.shape, np.float32), edited)
    matched = np.clip((back - tinted[3]) @ np.linalg.inv(tinted[:3]), 0.0, 1.0).astype(np.float32)
    mask = _mask(picture, back, forth, seen, changed)
    alike = seen & (mask == 0)
    tint = 255.0 * float(np.abs((back - matched)[alike].mean(0)).max()) if alike.any() else 0.0
    middle = (np.array(changed.shape[::-1]) - 1) / 2.0
    shift = matrix[:, :2] @ middle + matrix[:, 2] - middle
    zoom = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    return Changes((float(shift[0]), float(shift[1])), zoom, tint, mask, matched)


def _grey(picture: Values) -> Values:
    grey: Values = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return grey


def _detail(grey: Values, coarsest: float = 8.0) -> Values:
    """Return the detail between one pixel and the `coarsest` scale: neither encoder noise nor a tint."""
    detail: Values = cv2.GaussianBlur(grey, (0, 0), 1.0) - cv2.GaussianBlur(grey, (0, 0), coarsest)
    return detail


def _register(picture: Values, edited: Values) -> NDArray[np.float64]:
    """Return the 2 x 3 matrix that maps (x, y) of `picture` to the corresponding point of `edited`."""
    still = np.eye(2, 3)
    height, width = picture.shape[:2]
    if min(height, width) < SMALLEST:
        return still
    before, after = _detail(_grey(picture)), _detail(_grey(edited))
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    candidates = [still]
    (x, y), _ = cv2.phaseCorrelate(before, after, window)
    if np.hypot(x, y) <= LARGEST * min(height, width):
        candidates.append(_translation(x, y))
    best = min(candidates, key=lambda matrix: _misfit(before, after, matrix))
    for kind in (cv2.MOTION_TRANSLATION, cv2.MOTION_TRANSLATION, cv2.MOTION_AFFINE):
        found = _refine(before, after, best, kind)
        gain = 0.95 if kind == cv2.MOTION_AFFINE else 1.0
        if found is not None and _misfit(before, after, found) < gain * _misfit(before, after, best):
            best = found
    if np.array_equal(best[:, :2], np.eye(2)):
        whole = np.rint(best[:, 2])
        if np.abs(best[:, 2] - whole).max() < SAME:
            best = _translation(*whole)
    return best


def _is_unlike(picture: Values, back: Values, seen: Marks) -> bool:
    """Return whether even the most similar parts of the two have different details."""
    before, after = (_detail(_grey(one), 3.0) for one in (picture, back))
    off, both = (cv2.GaussianBlur(one, (0, 0), 2.0)[seen] for one in (np.square(after - before), before**2 + after**2))
    if not off.size:
        return False
    calm = off <= np.quantile(off, CALM)
    return bool(off[calm].mean() > max(UNLIKE * both[calm].mean(), (FAINT / 255.0) ** 2))


def _translation(x: float, y: float) -> NDArray[np.float64]:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y]])


def _refine(before: Values, after: Values, matrix: NDArray[np.float64], kind: int) -> NDArray[np.float64] | None:
    """Refine `matrix` by ECC on the parts that seem unchanged; None: it does not converge."""
    back, seen = _unwarp(after, matrix)
    off = cv2.GaussianBlur(np.abs(back - before), (0, 0), 4.0)
    alike = seen & (off <= np.quantile(off[seen], 0.6)) if seen.any() else seen
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
    try:
        _, found = cv2.findTransformECC(
            before, after, matrix.astype(np.float32), kind, criteria, _warp_mask(alike, matrix), 3
        )
    except cv2.error:
        return None
    corners = np.array([[0, 0, 1], [before.shape[1], 0, 1], [0, before.shape[0], 1], [*before.shape[::-1], 1]])
    if np.abs(corners @ (found - np.eye(2, 3)).T).max() > LARGEST * min(before.shape):
        return None
    return np.asarray(found, np.float64)


def _warp_mask(alike: Marks, matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return `alike` in the coordinates of the edited picture, for OpenCV."""
    height, width = alike.shape
    moved: NDArray[np.uint8] = cv2.warpAffine(
        alike.astype(np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=0
    )
    return moved


def _misfit(before: Values, after: Values, matrix: NDArray[np.float64]) -> float:
    """Return the mean difference per pixel of the more similar half, with `matrix` undone."""
    back, seen = _unwarp(after, matrix)
    if seen.mean() < 0.5:
        return np.inf
    off = cv2.GaussianBlur(np.square(back - before), (0, 0), 3.0)[seen]
    return float(np.sort(off)[: len(off) // 2].mean())


def _unwarp(edited: Values, matrix: NDArray[np.float64]) -> tuple[Values, Marks]:
    """Return `edited` with `matrix` undone, and the mask (H, W) of the pixels inside its frame."""
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


def _color_map(picture: Values, edited: Values, seen: Marks) -> NDArray[np.float64]:
    """Return the affine map of RGB, (4, 3), linear part above the offset, that maps most of `picture` to `edited`."""
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
        found = _fit_color_map(rows, wanted, (off <= np.quantile(off, 0.5)).astype(np.float64))
    rare = _rarity_weights(rows[:, :3])
    for within in np.geomspace(LOOSE, TIGHT, 10) / 255.0:  # rare colours differ little, changed ones much
        off = np.square(rows @ found - wanted).sum(1)
        found = _fit_color_map(rows, wanted, rare * np.square(within**2 / (within**2 + off)))
    gains = np.linalg.svd(found[:3], compute_uv=False)
    return found if TINTS[0] < gains[-1] and gains[0] < TINTS[1] and np.trace(found[:3]) > 0.0 else still


def _fit_color_map(
    rows: NDArray[np.float64], wanted: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Fit the (4, 3) map of `rows` (n, 4) to `wanted` (n, 3), regularised towards the identity."""
    weak = 1e-4 * weights.sum() * np.eye(4)
    still = np.vstack([np.eye(3), np.zeros(3)])
    given = rows * weights[:, None]
    fitted: NDArray[np.float64] = np.linalg.solve(given.T @ rows + weak, given.T @ wanted + weak @ still)
    return fitted


def _rarity_weights(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights (n,): one over the square root of the number of similar colours among (n, 3)."""
    places = (np.clip(colours, 0.0, 0.999) * 10).astype(int) @ np.array([100, 10, 1])
    rarity: NDArray[np.float64] = 1.0 / np.sqrt(np.bincount(places, minlength=1000)[places])
    return rarity


def _mask(picture: Values, back: Values, forth: Values, seen: Marks, marks: Marks) -> Values:
    """Return the mask of the edit, (H, W).

    It is 1 where `back`, the edit, differs from `forth`, the picture in the edit's colours, and 0 elsewhere. At edges
    it is the probability of a change, so that the edit fades where it is uncertain. Only pixels near `marks` are
    examined.
    """
    mask = np.zeros(seen.shape, np.float32)
    if not marks.any():
        return mask
    margin = max(32, min(marks.shape) // 4)
    sides = (np.flatnonzero(marks.any(axis)) for axis in (1, 0))
    at = tuple(slice(max(0, int(side[0]) - margin), int(side[-1]) + margin + 1) for side in sides)
    around = [np.maximum(texture(a), texture(b)) for a, b in zip(planes(picture), planes(back), strict=True)]
    before, after = (np.dstack(planes(one))[at] for one in (forth, back))
    likely = change_probability(before, after, np.dstack(around)[at], seen[at], marks[at])
    changed = remove_specks_and_holes(likely > 0.5)
    edge = changed & (cv2.erode(changed.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) == 0)
    fading = np.where(likely > 0.5, likely, 1.0)  # filled-in pixels resemble the picture anyway
    mask[at] = np.where(edge, fading, 1.0) * (changed & seen[at])
    return mask
