"""Find thin objects (wires, poles, twigs) and where they may continue in a hole.

A wire is invisible in the coarse passes. In the fine passes it is copied along with a patch chosen for its colour, and
its ends then float in a field. So a patch with a lone line, one that is not part of a texture of lines, is copied only
where such a line meets the rim of the hole and along its straight continuation into the hole.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from editkit.pictures.filling import smooth_fill

ANGLES = 12
"""Number of stroke directions."""

STROKE, WIDE, BESIDE = 21, 0.6, 3
"""Length of a stroke, standard deviation of its width, and distance of the strokes beside it, in pixels."""

LEAST, ABOVE, AROUND = 0.08, 1.8, 61
"""Minimum contrast of a line: on the scale [-1, 1], and as a multiple of the mean over a square of `AROUND` pixels."""

LONG, FAINT = 40, 0.7
"""Minimum length of a line in pixels, and the fraction of the minimum contrast that its continuation needs."""

EACH = 5
"""In that mean, a pixel counts as the maximum over a square of this side: recurring lines are a texture."""

CREST = 0.85
"""A pixel is on the crest of a line if it has at least this fraction of the maximum around it."""

OPENS = 0.06
"""How far a continued line may deviate from its direction, in pixels per pixel."""


def find_lone_lines(image: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float32]]:
    """Return where `image` (h, w) has lone lines, where their crests are clear, and angles; (h, w) each.

    A line is brighter, or darker, than both of its sides.
    """
    best, angle = np.zeros_like(image), np.zeros_like(image)
    for k in range(ANGLES):
        turn = math.pi * k / ANGLES
        stroke = cv2.filter2D(image, -1, _line_kernel(turn), borderType=cv2.BORDER_REFLECT)
        y, x = round(BESIDE * math.cos(turn)), round(-BESIDE * math.sin(turn))
        wide = np.pad(stroke, BESIDE, mode="edge")
        one, other = (_crop_shifted(wide, s * y, s * x, image.shape) for s in (1, -1))
        height = np.maximum(stroke - np.maximum(one, other), np.minimum(one, other) - stroke)
        angle = np.where(height > best, np.float32(turn), angle)
        best = np.maximum(best, height)
    top = cv2.dilate(best, np.ones((EACH, EACH), np.uint8))
    usual = cv2.blur(top, (AROUND, AROUND), borderType=cv2.BORDER_REFLECT)
    clear = _keep_long((best > LEAST) & (best > ABOVE * usual))
    count, labels = cv2.connectedComponents(
        ((best > FAINT * LEAST) & (best > FAINT * ABOVE * usual)).astype(np.uint8), connectivity=8
    )
    holds = np.zeros(count, bool)
    holds[labels[clear]] = True
    return holds[labels], clear & (best > CREST * top), angle


def _keep_long(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the connected pieces of `flags` that are at least `LONG`."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(flags.astype(np.uint8), connectivity=8)
    kept = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) >= LONG
    kept[0] = False
    return np.asarray(kept[labels])


def _crop_shifted(wide: NDArray[np.float32], y: int, x: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return wide[BESIDE + y : BESIDE + y + shape[0], BESIDE + x : BESIDE + x + shape[1]]


def _line_kernel(turn: float) -> NDArray[np.float32]:
    """Return a line through the middle of a square, with a sum of 1."""
    reach = STROKE // 2 + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    on, off = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    weight = np.exp(-(off**2) / (2.0 * WIDE**2)) * (np.abs(on) <= STROKE / 2.0)
    return np.asarray(weight / weight.sum(), dtype=np.float32)


def thin_patches(seen: Tensor, region: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return patches that have a lone line and patches that may have one: (h, w), bool, by middle pixel.

    Patches are squares of `side`. Lines are found in the known part of `seen` (3, h, w), outside `region` (h, w).
    """
    unknown = region[None, None].to(seen.dtype)
    grey = smooth_fill(seen[None], unknown)[0].mean(0)
    found, crest, angle = find_lone_lines(grey.cpu().numpy().astype(np.float32))
    lines = torch.from_numpy(found).to(region.device) & ~region
    half = side // 2
    arrive = torch.from_numpy(crest).to(region.device) & _dilate(region, half) & ~region
    return _dilate(lines, half), _dilate(arrive, side) | _continuations(arrive, angle, region, half + 1)


def _dilate(flags: Tensor, reach: int) -> Tensor:
    """Return where any of `flags` (h, w) is within `reach` pixels."""
    return F.max_pool2d(flags[None, None].float(), 2 * reach + 1, 1, reach)[0, 0] > 0


def _continuations(arrive: Tensor, angle: NDArray[np.float32], region: Tensor, half: int) -> Tensor:
    """Return the straight continuations into `region` of lines that `arrive` at it: half-width `half`, widening."""
    inside = region.cpu().numpy()
    height, width = inside.shape
    canvas, far = np.zeros((height, width), np.uint8), math.hypot(height, width)
    for y, x in arrive.nonzero().tolist():
        along = np.array([math.cos(angle[y, x]), math.sin(angle[y, x])])
        across, begin = np.array([-along[1], along[0]]), np.array([x, y], float)
        for way in (along, -along):
            to = np.rint(begin + (half + 2) * way).astype(int)
            if 0 <= to[0] < width and 0 <= to[1] < height and inside[to[1], to[0]]:
                end, wide = begin + far * way, half + OPENS * far
                corners = [begin - half * across, begin + half * across, end + wide * across, end - wide * across]
                cv2.fillConvexPoly(canvas, np.rint(np.array(corners)).astype(np.int32), 1)
    return torch.from_numpy(canvas > 0).to(region.device) & region
