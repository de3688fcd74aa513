"""Continue contours into a hole: near one, patches are copied from the same contour, at the same distance from it.

A patch whose middle is u pixels to the left of the joining curve may only be copied from places u pixels to the left
of one of the two traces of that contour (Sun et al. 2005, section 4.1), and patches beside a contour are copied to no
other place. So a ridge meets itself. A line one pixel wide keeps small steps, because places are whole pixels. In the
coarsest pass the contours divide the first guide: the colours of both sides are known along them ("diffusion curves",
Orzan et al. 2008), and the membrane does not flow across.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from editkit.models.patches.atlas import Atlas
from editkit.models.patches.contours import Contour, Floats, find_contours
from editkit.models.patches.search import Queries, Sources
from editkit.pictures.filling import membrane, smooth_fill

CANDIDATES = 48
"""Number of places on the traces that are compared with a patch near a contour."""

AROUND = 24
"""Width, in pixels, of the surroundings of a contour."""

NEARBY = 0.5
"""Distance, in pixels, along a path within which a pixel belongs to one of its points."""

SIDES = 1.5
"""The first guide has a known colour up to this far from a contour, in pixels, on each side."""

FROM, TO = 3, 7
"""The part of a profile, in pixels from the contour, whose mean is the colour of that side."""


@dataclass(frozen=True, eq=False)
class Continuations:
    """Where patches continue a contour.

    Args:
        number: (h, w), the contour that the patch with this middle continues, from 1 on; 0: none.
        across: (h, w), its signed distance from the contour, in pixels; 0 elsewhere.
        around: (h, w), bool, the surroundings of contours: no other lone line is copied to them.
        corners: for each contour, the patches (n,) of the atlas with their middles near its two traces, shuffled.
        beside: for each contour, the signed distances (n,) of these middles.
        shown: for every corner of the atlas, the number of the contour beside which its patch is; 0: none.
        apart: its signed distance.
    """

    number: Tensor
    across: Tensor
    around: Tensor
    corners: tuple[Tensor, ...]
    beside: tuple[Tensor, ...]
    shown: Tensor
    apart: Tensor

    @classmethod
    def of(cls, contours: list[Contour], region: Tensor, half: int, atlas: Atlas) -> Self | None:
        """Prepare `contours` through `region` (h, w), up to `half` pixels to each side; None if there are none."""
        numbers, across = np.zeros(region.numel(), np.int64), np.zeros(region.numel(), np.float32)
        shown, apart = np.zeros(len(atlas.pixels), np.int64), np.zeros(len(atlas.pixels), np.float32)
        inside, complete = region.cpu().numpy().reshape(-1), atlas.complete.cpu().numpy()
        middle = int(atlas.offsets[atlas.side**2 // 2])
        corners, beside = [], []
        for k, contour in enumerate(contours, 1):
            at, u = _signed_distances(contour.path(), half, region.shape)
            better = inside[at] & ((numbers[at] == 0) | (np.abs(u) < np.abs(across[at])))
            numbers[at[better]], across[at[better]] = k, u[better]
            traces = (contour.first.trace[::-1], contour.second.trace)  # both in the direction of the path
            found = [_signed_distances(_halfway(trace), half, region.shape) for trace in traces]
            at, u = (np.concatenate(parts) for parts in zip(*found, strict=True))
            at = at // region.shape[1] * atlas.width + at % region.shape[1] - middle
            order = np.random.default_rng(0).permutation(len(at))
            order = order[(at[order] >= 0) & complete[at[order].clip(0)]]
            shown[at[order]], apart[at[order]] = k, u[order]
            corners.append(torch.from_numpy(at[order]).to(region.device))
            beside.append(torch.from_numpy(u[order]).to(region.device))
        if not corners:
            return None
        around = _dilate(numbers.reshape(region.shape) > 0)
        near = torch.from_numpy(around & (numbers.reshape(region.shape) == 0)).to(region.device)
        number, signed = (torch.from_numpy(one).view(region.shape).to(region.device) for one in (numbers, across))
        maps = (torch.from_numpy(one).to(region.device) for one in (shown, apart))
        return cls(number, signed, near, tuple(corners), tuple(beside), *maps)

    def candidates(self, number: int, across: Tensor) -> Tensor:
        """Return patches (q, k) beside contour `number`, about as far from it as `across` (q,)."""
        corners, beside = self.corners[number - 1], self.beside[number - 1]
        apart = (across[:, None] - beside).abs() + 1e-4 * torch.arange(len(beside), device=across.device)
        return corners[apart.topk(min(CANDIDATES, len(corners)), dim=1, largest=False).indices]


def offer_contours(queries: Queries, sources: Sources, short: Tensor, lines: Continuations) -> Tensor:
    """Return the shortlist `short` (Q, k) with, for every query beside a contour, the best places of that contour."""
    if queries.contour is None or queries.across is None:
        return short
    short = short.clone()
    for number in range(1, len(lines.corners) + 1):
        rows = (queries.contour == number).nonzero()[:, 0]
        if len(rows) == 0 or len(lines.corners[number - 1]) == 0:
            continue
        found = lines.candidates(number, queries.across[rows])
        best = sources.distance(queries.subset(rows), found).argsort(stable=True, dim=1)[:, : short.shape[1]]
        short[rows, : best.shape[1]] = found.gather(1, best)
    return short


def _dilate(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where any of `flags` (h, w) is within `AROUND` pixels."""
    square = np.ones((2 * AROUND + 1,) * 2, np.uint8)
    return np.asarray(cv2.dilate(flags.astype(np.uint8), square) > 0)


def contours_through(seen: Tensor, region: Tensor) -> list[Contour]:
    """Return the contours of `seen` (3, h, w) through `region` (h, w), bool."""
    filled = smooth_fill(seen[None], region[None, None].to(seen.dtype))[0].permute(1, 2, 0)
    return find_contours(np.ascontiguousarray(filled.cpu().numpy(), np.float32), region.cpu().numpy())


def divided_membrane(seen: Tensor, region: Tensor, contours: list[Contour]) -> Tensor:
    """Fill `region` (h, w) of `seen` (3, h, w) by a membrane that the `contours` divide: (3, h, w)."""
    values, free = seen.clone(), region.clone()
    flat, open_pixels = values.view(len(seen), -1), free.view(-1)
    for contour in contours:
        at, u = _signed_distances(contour.path(), 2, region.shape)
        on = np.abs(u) <= SIDES
        at, side = at[on], (u[on] > 0).astype(np.int64)
        part = _progress(contour, at, region.shape[1])[:, None]
        first, second = (_both_sides(one) for one in (contour.first.profile, contour.second.profile[::-1]))
        colours = torch.from_numpy(first[side] * (1.0 - part) + second[side] * part).to(seen)
        pixels = torch.from_numpy(at).to(seen.device)
        used = open_pixels[pixels]
        flat[:, pixels[used]] = colours[used].T
        open_pixels[pixels[used]] = False
    return membrane(values[None], free[None, None].to(seen.dtype))[0]


def _both_sides(profile: Floats) -> Floats:
    """Return the mean colours (2, 3) on the negative and positive side of a contour."""
    middle = len(profile) // 2
    sides = (profile[middle - TO : middle - FROM + 1], profile[middle + FROM : middle + TO + 1])
    return np.stack([part.mean(0) for part in sides]).astype(np.float32)


def _progress(contour: Contour, at: NDArray[np.int64], width: int) -> Floats:
    """Return how far along the contour the pixels `at` are, from 0 to 1."""
    begin, gap = contour.first.point, contour.second.point - contour.first.point
    points = np.stack([at % width, at // width], 1)
    return np.asarray(((points - begin) @ gap / max(float(gap @ gap), 1e-6)).clip(0.0, 1.0), np.float32)


def _halfway(trace: Floats) -> Floats:
    """Return a trace with a point between each two."""
    doubled = np.empty((2 * len(trace) - 1, 2), np.float32)
    doubled[::2], doubled[1::2] = trace, (trace[1:] + trace[:-1]) / 2.0
    return doubled


def _signed_distances(path: Floats, half: int, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], Floats]:
    """Return the pixels (n,) within `half` of a `path` (m, 2), points half a pixel apart, and their distances from it.

    Distances are positive to the right of the path, as y points down; each pixel occurs once.
    """
    ahead = np.gradient(_smoothed(path), axis=0)
    ahead /= np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-6)
    normal = np.stack([-ahead[:, 1], ahead[:, 0]], 1)
    offsets = np.arange(-half - 0.5, half + 0.51, 0.5)
    pixels = np.rint(path[:, None] + offsets[:, None] * normal[:, None])
    apart = pixels - path[:, None]
    along, u = (apart * ahead[:, None]).sum(-1), (apart * normal[:, None]).sum(-1)
    x, y = pixels[..., 0], pixels[..., 1]
    near = (np.abs(along) <= NEARBY) & (np.abs(u) <= half + 0.5)
    near &= (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])
    at = (y * shape[1] + x)[near].astype(np.int64)
    along, u = np.abs(along[near]), u[near].astype(np.float32)
    order = np.lexsort((along, at))
    first = np.unique(at[order], return_index=True)[1]
    return at[order][first], u[order][first]


def _smoothed(path: Floats) -> Floats:
    """Return a path whose direction does not follow the noise of single points."""
    reach = min(8, (len(path) - 1) // 2)
    if reach < 1:
        return path
    padded = np.concatenate([2 * path[:1] - path[reach:0:-1], path, 2 * path[-1:] - path[-2 : -reach - 2 : -1]])
    sums = np.cumsum(np.concatenate([np.zeros((1, 2)), padded]), 0)
    return np.asarray((sums[2 * reach + 1 :] - sums[: -2 * reach - 1]) / (2 * reach + 1), np.float32)
