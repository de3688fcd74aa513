"""The passes of a stage: reverse processes over boxes of the picture, planned in integers.

Models whose prior is the picture itself go coarse to fine: the hole is invented small, where a patch sees the whole
scene, and every finer pass starts from the enlarged coarser one (`editkit.editing.cascade`). A model that was trained
at one size, its window, sees a crop around the mask; where what it must invent is larger than that, it is invented at
the window's size and refined by overlapping windows (`editkit.diffusion.windows`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from editkit.diffusion.model import ModelInfo, Pass
from editkit.errors import UsageError
from editkit.pictures.boxes import WIDE, Box, crops, padded
from editkit.pictures.picture import Picture
from editkit.plugin.options import Options

CONTEXT = 2.2
"""The side of the crop, in sides of the mask's box, for a model that learns from the crop; it must see enough."""

NEAR = 1.75
"""The same for a model that has learned pictures already."""

LEAST = 96
"""The least side of a crop for a model whose prior is the picture: it must see something to learn from."""

SLACK = 1.25
"""A model is given a picture so many times as large as its window at once, before it is cut into windows."""

OVERLAP = 0.25
"""Of neighbouring windows, in windows."""

DEEP = 0.25
"""How deep strokes may be where they are first drawn, in windows: every window then sees what lies beside them."""

REDRAW = 0.5
"""The strength of a pass by windows over an enlarged coarser one."""


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
        if info.passes is not None and invents:
            inside = None if picture.mask is None else picture.mask[box.rows, box.columns] > 0
            found.extend(info.passes(box, steps, info.steps, inside, examples))
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
    if not picture.mask.any():
        return ()  # nothing is to be made again
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
