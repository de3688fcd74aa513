"""The passes of a stage: reverse processes over boxes of the picture, planned in integers.

Models whose prior is the picture itself go from coarse to fine: the hole is generated at a small size, where a patch
sees the whole scene, and every finer pass starts from the enlarged coarser result (`editkit.editing.cascade`). A model
that was trained at one size, its window, sees a crop around the mask. Larger content is generated at the window's size
and refined in overlapping windows (`editkit.diffusion.windows`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from editkit.diffusion.model import ModelInfo, Pass
from editkit.errors import UsageError
from editkit.pictures.boxes import WIDE, Box, crops, padded_bounds
from editkit.pictures.picture import Picture
from editkit.plugin.options import Options

CONTEXT = 2.2
"""Side of the crop, relative to the mask's box, for a model that learns from the crop and needs enough to see."""

NEAR = 1.75
"""The same for a pretrained model."""

LEAST = 96
"""Least side of a crop for a model whose prior is the picture, in pixels."""

SLACK = 1.25
"""A picture up to this many times as large as the window is processed at once, not in windows."""

OVERLAP = 0.25
"""Overlap of neighbouring windows, as a fraction of a window."""

DEEP = 0.25
"""Largest depth of a hole in the first pass, as a fraction of a window, so that every window sees known pixels."""

REDRAW = 0.5
"""Strength of a windowed pass over an enlarged coarser result."""


def passes(
    picture: Picture, info: ModelInfo, options: Options, invents: bool, examples: Sequence[tuple[int, int]] = ()
) -> tuple[Pass, ...]:
    """Plan the passes of a stage, box by box, each from coarse to fine.

    Args:
        picture: the opened picture.
        info: the stage's model.
        options: the stage's options.
        invents: the process starts from noise, and nothing determines the structure, so it must be generated.
        examples: (width, height) of further pictures to learn from.
    """
    steps = options.steps or info.steps
    if options.crop_padding is not None and picture.mask is not None:
        return (_crop_pass(picture.mask, info, options, steps),)
    found: list[Pass] = []
    for box in _boxes(picture, info, options):
        if info.passes is not None and invents:
            inside = None if picture.mask is None else picture.mask[box.rows, box.columns] > 0
            found.extend(info.passes(box, steps, info.steps, inside, examples, picture.fill))
        elif info.window is None or options.canvas == "full":
            found.append(Pass(box, box.height, box.width, steps))
        else:
            hole = None if picture.mask is None else picture.mask[box.rows, box.columns] > 0
            found.extend(by_windows(box, steps, info.window, invents, hole))
    return tuple(found)


def _crop_pass(mask: np.ndarray, info: ModelInfo, options: Options, steps: int) -> Pass:
    """Plan a single pass over the mask's surroundings, at the model's training size (`--crop-padding`)."""
    if info.window is None or options.canvas == "full":
        why = "with --canvas full" if info.window else f"with model {info.name}, which has no training size"
        raise UsageError(f"--crop-padding enlarges a crop to the model's training size; it has no meaning {why}")
    box = padded_bounds(mask, options.crop_padding or 0)
    scale = info.window / max(box.height, box.width)
    return Pass(box, max(1, round(scale * box.height)), max(1, round(scale * box.width)), steps)


def _boxes(picture: Picture, info: ModelInfo, options: Options) -> tuple[Box, ...]:
    """Return the boxes in which a stage works: around the mask, or the whole picture."""
    cropped = options.canvas == "crop" or (options.canvas == "auto" and (info.window or info.own_picture))
    if picture.mask is None or not cropped:
        return (Box(0, 0, picture.width, picture.height),)
    if not picture.mask.any():
        return ()  # nothing to regenerate
    if info.own_picture:
        return crops(picture.mask, CONTEXT, LEAST)
    return crops(picture.mask, NEAR, info.least or info.window or 0)


def by_windows(box: Box, steps: int, window: int, invents: bool, hole: np.ndarray | None = None) -> tuple[Pass, ...]:
    """Plan passes for a model that was trained at `window`: one at the box's own size, in windows if it is larger.

    New content is first generated as a whole, in a pass in which the box fits into a window; then it is enlarged by at
    most 2 and redrawn in windows, repeatedly. Thin strokes, with known pixels nearby everywhere, would vanish at a
    small size. They start at the largest size at which no point of `hole` is deeper than `DEEP`, mostly the final one.
    """
    longest = max(box.height, box.width)
    if longest <= SLACK * window:
        return (Pass(box, box.height, box.width, steps),)
    first = _first_scale(longest, window, hole) if invents else 1.0
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


def _first_scale(longest: int, window: int, hole: np.ndarray | None) -> float:
    """Return the scale of the first pass over a crop of `longest` pixels (see `by_windows`)."""
    whole = window / longest
    depth = math.inf if hole is None else _hole_depth(hole)
    return whole if depth >= WIDE * longest else max(whole, DEEP * window / depth)


def _hole_depth(hole: np.ndarray) -> float:
    """Return the radius in pixels of the largest disc without a known pixel; infinite if nothing is known."""
    import cv2

    if hole.all():
        return math.inf
    return float(cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max(initial=1.0))
