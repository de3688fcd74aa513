"""Thin things - wires, poles, twigs - and where in a hole they may go on.

A wire is not seen in the coarse passes, and comes along in the fine ones with what was chosen for its colour: its ends
then float in a field. So a patch with a line that its surroundings are not full of is copied only where such a line
arrives at the rim of the hole, and on its way straight on from there.
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
"""Directions of strokes."""

STROKE, WIDE, BESIDE = 21, 0.6, 3
"""The length of a stroke, the deviation of its width, and how far the strokes beside it lie, in pixels."""

LEAST, ABOVE, AROUND = 0.08, 1.8, 61
"""The contrast of a line, of [-1, 1], and in means of the square of so many pixels around it, ..."""

LONG, FAINT = 40, 0.7
"""The least length of a line in pixels; where it goes on it has so much of that contrast at least."""

EACH = 5
"""... where each pixel counts as the strongest of the square of so many around it: lines that recur are a texture."""

CREST = 0.85
"""A pixel is on a line's crest that has so much of the most that is beside it."""

OPENS = 0.06
"""How far a line that goes on may leave its way, in pixels for each pixel."""


def lone(image: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float32]]:
    """(h, w): where a line of `image` (h, w) lies that its surroundings are not full of; its clear crest; angles.

    A line is brighter, or darker, than what lies on both sides of it.
    """
    best, angle = np.zeros_like(image), np.zeros_like(image)
    for k in range(ANGLES):
        turn = math.pi * k / ANGLES
        stroke = cv2.filter2D(image, -1, _stroke(turn), borderType=cv2.BORDER_REFLECT)
        y, x = round(BESIDE * math.cos(turn)), round(-BESIDE * math.sin(turn))
        wide = np.pad(stroke, BESIDE, mode="edge")
        one, other = (_part(wide, s * y, s * x, image.shape) for s in (1, -1))
        height = np.maximum(stroke - np.maximum(one, other), np.minimum(one, other) - stroke)
        angle = np.where(height > best, np.float32(turn), angle)
        best = np.maximum(best, height)
    top = cv2.dilate(best, np.ones((EACH, EACH), np.uint8))
    usual = cv2.blur(top, (AROUND, AROUND), borderType=cv2.BORDER_REFLECT)
    clear = _long((best > LEAST) & (best > ABOVE * usual))
    count, labels = cv2.connectedComponents(
        ((best > FAINT * LEAST) & (best > FAINT * ABOVE * usual)).astype(np.uint8), connectivity=8
    )
    holds = np.zeros(count, bool)
    holds[labels[clear]] = True
    return holds[labels], clear & (best > CREST * top), angle


def _long(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected pieces of `flags` that are long."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(flags.astype(np.uint8), connectivity=8)
    kept = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) >= LONG
    kept[0] = False
    return np.asarray(kept[labels])


def _part(wide: NDArray[np.float32], y: int, x: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return wide[BESIDE + y : BESIDE + y + shape[0], BESIDE + x : BESIDE + x + shape[1]]


def _stroke(turn: float) -> NDArray[np.float32]:
    """A line through the middle of a square, of weight 1."""
    reach = STROKE // 2 + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    on, off = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    weight = np.exp(-(off**2) / (2.0 * WIDE**2)) * (np.abs(on) <= STROKE / 2.0)
    return np.asarray(weight / weight.sum(), dtype=np.float32)


def thin(seen: Tensor, region: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """(h, w), bool, twice, for patches of `side` by their middle pixels: those with a lone line in what is known of
    `seen` (3, h, w), that is outside of `region` (h, w); those that may have one.
    """
    unknown = region[None, None].to(seen.dtype)
    grey = smooth_fill(seen[None], unknown)[0].mean(0)
    found, crest, angle = lone(grey.cpu().numpy().astype(np.float32))
    lines = torch.from_numpy(found).to(region.device) & ~region
    half = side // 2
    arrive = torch.from_numpy(crest).to(region.device) & _near(region, half) & ~region
    return _near(lines, half), _near(arrive, side) | _ahead(arrive, angle, region, half + 1)


def _near(flags: Tensor, reach: int) -> Tensor:
    """Where any of `flags` (h, w) is within `reach` pixels."""
    return F.max_pool2d(flags[None, None].float(), 2 * reach + 1, 1, reach)[0, 0] > 0


def _ahead(arrive: Tensor, angle: NDArray[np.float32], region: Tensor, half: int) -> Tensor:
    """The ways straight on into `region` of the lines that `arrive` at it, `half` wide and a little wider ahead."""
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
