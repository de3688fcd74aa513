"""What a stage works on: passes of the reverse process over boxes of the picture, planned in integers.

Models whose prior is the picture itself go coarse to fine: the hole is invented small, where a patch sees the whole
scene, and every finer pass starts from the enlarged coarser one (`editkit.refine`). A model that was trained at one
size, its window, sees a crop around the mask; where what it must invent is larger than that, it is invented at the
window's size and refined by overlapping windows (`editkit.windows`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from editkit.boxes import Box, coverage, crops, integral, padded
from editkit.errors import UsageError
from editkit.images import Picture
from editkit.models.base import ModelInfo
from editkit.options import Options
from editkit.plan import Plan

CONTEXT = 2.2
"""The side of the crop, in sides of the mask's box, for a model that learns from the crop; it must see enough."""

NEAR = 1.75
"""The same for a model that has learned pictures already."""

LEAST = 96
"""The least side of a crop for a model whose prior is the picture: it must see something to learn from."""

HIDDEN = 0.75
"""A pixel of a smaller picture is unknown when more than this share of it is."""

FACTOR = 1.6
"""Each pass of `ladder` is so many times as large as the one before."""

COARSEST = 42.0
"""The longer side of the smallest pass is at least this many pixels."""

PATCH = 7
"""What a model of patches sees at once."""

WIDE = 1 / 16
"""A hole is wide where a disc of this radius, in sides of the crop, fits into it; strokes are not."""

FEWEST = 30
"""The least patches to learn from in the first pass of `ladder`."""

SLACK = 1.25
"""A model is given a picture so many times as large as its window at once, before it is cut into windows."""

OVERLAP = 0.25
"""Of neighbouring windows, in windows."""

DEEP = 0.25
"""How deep strokes may be where they are first drawn, in windows: every window then sees what lies beside them."""

REDRAW = 0.5
"""The strength of a pass by windows over an enlarged coarser one."""


@dataclass(frozen=True)
class Pass:
    """One reverse process over `box` of the picture, brought to `height` x `width` pixels.

    Args:
        steps: noise levels of its ladder.
        strength: the fraction of the ladder it walks; 1 starts from noise, less from the coarser pass over this box.
        repeats: walk every move this often (`Plan.travel(1, repeats)`), unless a plugin travels itself.
        hold: while sigma_t is above this, keep the low frequencies of the coarser pass.
        window: the side in pixels of the windows it is computed by; None: all at once.
    """

    box: Box
    height: int
    width: int
    steps: int
    strength: float = 1.0
    repeats: int = 1
    hold: float = 1.0
    window: int | None = None

    def plan(self, rounds_up: bool = False) -> Plan:
        """The pass's own trajectory, before plugins change it."""
        return Plan.uniform(self.steps, rounds_up).start_at(self.strength)


def passes(
    picture: Picture, info: ModelInfo, options: Options, invents: bool, examples: Sequence[tuple[int, int]] = ()
) -> tuple[Pass, ...]:
    """What a stage works on, box by box, each coarse to fine.

    `invents`: there is nothing but noise to start from and nothing that tells the structure, so that it is invented.
    `examples`: (width, height) of other pictures that are learned from.
    """
    steps = options.steps or info.steps
    if options.crop_padding is not None and picture.mask is not None:
        return (_enlarged(picture.mask, info, options, steps),)
    found: list[Pass] = []
    for box in _boxes(picture, info, options):
        if info.own_picture and invents:
            inside = None if picture.mask is None else picture.mask[box.rows, box.columns] > 0
            found.extend(ladder(box, steps, info.steps, inside, examples))
        elif info.window is None or options.canvas == "full":
            found.append(Pass(box, box.height, box.width, steps))
        else:
            hole = None if picture.mask is None else picture.mask[box.rows, box.columns] > 0
            found.extend(by_windows(box, steps, info.window, invents, hole))
    return tuple(found)


def _enlarged(mask: np.ndarray, info: ModelInfo, options: Options, steps: int) -> Pass:
    """One pass over the mask's surroundings at the size that the model was trained at (`--crop-padding`)."""
    if info.window is None or options.canvas == "full":
        why = "with --canvas full" if info.window else f"with model {info.name}, which has no size of its own"
        raise UsageError(f"--crop-padding enlarges a crop to the model's size; it means nothing {why}")
    box = padded(mask, options.crop_padding or 0)
    scale = info.window / max(box.height, box.width)
    return Pass(box, max(1, round(scale * box.height)), max(1, round(scale * box.width)), steps)


def _boxes(picture: Picture, info: ModelInfo, options: Options) -> tuple[Box, ...]:
    """Where a stage works: around what the mask marks, or everywhere."""
    cropped = options.canvas == "crop" or (options.canvas == "auto" and (info.window or info.own_picture))
    if picture.mask is None or not cropped:
        return (Box(0, 0, picture.width, picture.height),)
    if info.own_picture:
        return crops(picture.mask, CONTEXT, LEAST)
    return crops(picture.mask, NEAR, info.least or info.window or 0)


def by_windows(box: Box, steps: int, window: int, invents: bool, hole: np.ndarray | None = None) -> tuple[Pass, ...]:
    """Passes for a model that was trained at `window`: one at the box's own size, by windows if it is larger.

    What is invented is invented whole: a first pass in which the box fits into a window, then enlargements by 2 at
    most, each redrawn by windows. Strokes, beside which something is known everywhere, vanish where they are made
    small: they are drawn first at the largest size at which no point of `hole` lies deeper than `DEEP`, mostly at once.
    """
    longest = max(box.height, box.width)
    if longest <= SLACK * window:
        return (Pass(box, box.height, box.width, steps),)
    first = _first(longest, window, hole) if invents else 1.0
    if first * SLACK >= 1.0:
        return (Pass(box, box.height, box.width, steps, window=window),)
    finer = math.ceil(-math.log2(first))
    found = []
    for k in range(finer + 1):
        scale = first ** (1.0 - k / finer)
        height, width = max(1, round(box.height * scale)), max(1, round(box.width * scale))
        cut = window if max(height, width) > window else None
        found.append(Pass(box, height, width, steps, 1.0 if k == 0 else REDRAW, window=cut))
    return tuple(found)


def ladder(
    box: Box, steps: int, usual: int, hole: np.ndarray | None = None, examples: Sequence[tuple[int, int]] = ()
) -> tuple[Pass, ...]:
    """Passes for a model whose prior is the picture: small first, then 1.6 times as large until the box's own size.

    The first pass is the smallest one (`COARSEST` pixels or more) at which enough is known, or, for a hole that
    vanishes when it is made small (its pixels are averages of known ones there), the largest one at which it has: that
    one is a single step which gives back what is known. `steps` scales the number of levels of every pass against
    `usual`. What the large passes add to a wide hole is found in fewer levels than what they add to strokes.
    """
    side = max(box.height, box.width)
    sizes = [float(side)]
    while sizes[0] / FACTOR >= COARSEST:
        sizes.insert(0, sizes[0] / FACTOR)
    rate = steps / usual
    finer = 3 if hole is not None and _wide(hole) else 4
    passes: list[Pass] = []
    for size in sizes:
        scale = size / side
        height, width = max(PATCH, round(box.height * scale)), max(PATCH, round(box.width * scale))
        if hole is not None and not (passes and passes[-1].steps > 1) and size != sizes[-1]:
            unknown = coverage(hole, height, width) > HIDDEN
            if not unknown.any():
                passes = [Pass(box, height, width, 1)]
                continue
            sizes_there = [(round(w * scale), round(h * scale)) for w, h in examples]
            if not passes and not _enough(unknown, sizes_there):
                continue
        if not passes:
            passes.append(Pass(box, height, width, max(2, round(10 * rate)), 1.0, 3))
        elif size < 60:
            passes.append(Pass(box, height, width, max(2, round(5 * rate)), 0.8, 3, 0.15))
        else:
            passes.append(Pass(box, height, width, max(2, round(finer * rate)), 0.75, 1, 0.15))
    return tuple(passes)


def _first(longest: int, window: int, hole: np.ndarray | None) -> float:
    """The scale at which what is invented in a crop of `longest` pixels is first drawn (`by_windows`)."""
    whole = window / longest
    depth = math.inf if hole is None else _depth(hole)
    return whole if depth >= WIDE * longest else max(whole, DEEP * window / depth)


def _depth(hole: np.ndarray) -> float:
    """The radius in pixels of the largest disc without a known pixel; infinite where nothing is known."""
    import cv2

    if hole.all():
        return math.inf
    return float(cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max(initial=1.0))


def _wide(hole: np.ndarray) -> bool:
    """True where a disc with a radius of `WIDE` of the longer side fits into `hole`."""
    import cv2

    depth = cv2.distanceTransform(np.pad(hole, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return bool(depth.max() >= WIDE * max(hole.shape))


def _enough(unknown: np.ndarray, examples: Sequence[tuple[int, int]]) -> bool:
    """True where there are at least `FEWEST` patches to learn from, known ones and those of `examples` (sizes)."""
    edge = PATCH - 1
    patches = sum(max(0, width - edge) * max(0, height - edge) for width, height in examples)
    if min(unknown.shape) >= PATCH:
        sums = integral(unknown)
        within = sums[PATCH:, PATCH:] - sums[:-PATCH, PATCH:] - sums[PATCH:, :-PATCH] + sums[:-PATCH, :-PATCH]
        patches += int((within == 0).sum())
    return patches >= FEWEST
