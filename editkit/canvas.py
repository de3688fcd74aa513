"""Any size of picture on any model: which parts are worked on, at which sizes, in which passes.

A stage is one or several *passes* of the reverse process over one or several boxes of the picture. Models whose prior
is the picture itself go coarse to fine: the hole is invented small, where a patch sees the whole scene, and every finer
pass starts from the enlarged coarser one (`editkit.refine`). A model that was trained at one size, its window, sees a
crop around the mask; where what it must invent is larger than that, it is invented at the window's size and refined by
overlapping windows (`editkit.windows`). Planning is integers only; tensors are touched by `inputs` and `resize`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from editkit.boxes import Box, coverage, crops, integral, padded
from editkit.errors import UsageError
from editkit.images import Picture, to_unit
from editkit.models.base import Enlarges, Example, Model, ModelInfo, TakesExamples
from editkit.options import Options
from editkit.plan import Plan
from editkit.plugin import Inputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.noise import Stream

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

FEWEST = 30
"""The least patches to learn from in the first pass of `ladder`."""

SLACK = 1.25
"""A model is given a picture so many times as large as its window at once, before it is cut into windows."""

OVERLAP = 0.25
"""Of neighbouring windows, in windows."""

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

    def plan(self) -> Plan:
        """The pass's own trajectory, before plugins change it."""
        return Plan.uniform(self.steps).start_at(self.strength)


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
            found.extend(by_windows(box, steps, info.window, invents))
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


def by_windows(box: Box, steps: int, window: int, invents: bool) -> tuple[Pass, ...]:
    """Passes for a model that was trained at `window`: one at the box's own size, by windows if it is larger.

    What is invented is invented whole: a first pass in which the box fits into a window, then enlargements by 2 at
    most, each redrawn by windows.
    """
    longest = max(box.height, box.width)
    if longest <= SLACK * window:
        return (Pass(box, box.height, box.width, steps),)
    if not invents:
        return (Pass(box, box.height, box.width, steps, window=window),)
    finer = math.ceil(math.log2(longest / window))
    found = []
    for k in range(finer + 1):
        scale = (window / longest) ** (1.0 - k / finer)
        height, width = max(1, round(box.height * scale)), max(1, round(box.width * scale))
        found.append(
            Pass(box, height, width, steps) if k == 0 else Pass(box, height, width, steps, REDRAW, window=window)
        )
    return tuple(found)


def ladder(
    box: Box, steps: int, usual: int, hole: np.ndarray | None = None, examples: Sequence[tuple[int, int]] = ()
) -> tuple[Pass, ...]:
    """Passes for a model whose prior is the picture: small first, then 1.6 times as large until the box's own size.

    The first pass is the smallest one (`COARSEST` pixels or more) at which enough is known, or, for a hole that
    vanishes when it is made small (its pixels are averages of known ones there), the largest one at which it has: that
    one is a single step which gives back what is known. `steps` scales the number of levels of every pass against
    `usual`.
    """
    side = max(box.height, box.width)
    sizes = [float(side)]
    while sizes[0] / FACTOR >= COARSEST:
        sizes.insert(0, sizes[0] / FACTOR)
    rate = steps / usual
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
            passes.append(Pass(box, height, width, max(2, round(4 * rate)), 0.75, 1, 0.15))
    return tuple(passes)


def _enough(unknown: np.ndarray, examples: Sequence[tuple[int, int]]) -> bool:
    """True where there are at least `FEWEST` patches to learn from, known ones and those of `examples` (sizes)."""
    edge = PATCH - 1
    patches = sum(max(0, width - edge) * max(0, height - edge) for width, height in examples)
    if min(unknown.shape) >= PATCH:
        sums = integral(unknown)
        within = sums[PATCH:, PATCH:] - sums[:-PATCH, PATCH:] - sums[PATCH:, :-PATCH] + sums[:-PATCH, :-PATCH]
        patches += int((within == 0).sum())
    return patches >= FEWEST


def inputs(
    picture: Picture,
    at: Pass,
    model: Model,
    stream: Stream | None,
    device: torch.device,
    examples: Sequence[Picture] = (),
    before: Pass | None = None,
    source: Picture | None = None,
) -> Inputs:
    """The box of `picture` at the size of pass `at`, padded to the model's multiple, and at its own resolution.

    The model is cut into windows where the pass asks for it, told the `examples`, and attached to what it sees
    (`Model.attach`). `before`: the pass whose enlarged result this one starts from. `source`: what the picture was
    enlarged from, sharp.
    """
    import torch

    box, multiple = at.box, model.info.multiple
    rows, columns = box.rows, box.columns
    if at.window is not None:
        model = _windowed(model, at.window)
    if source is not None and isinstance(model, Enlarges):
        model = model.enlarging(to_unit(source.pixels).to(device), picture.width / source.width)
    if isinstance(model, TakesExamples):
        model = model.given([example(other, at, before, device) for other in examples], picture.fill)

    def place(whole: Tensor) -> Tensor:
        whole = resize(whole, picture.height, picture.width)[..., rows, columns]
        return pad(resize(whole, at.height, at.width), multiple)

    original = to_unit(picture.pixels[rows, columns]).to(device)
    small = pad(resize(original, at.height, at.width), multiple)
    if picture.mask is None:
        return Inputs(model.attach(small, None), small, None, original, None, stream, place)
    mask = torch.from_numpy(picture.mask[rows, columns].copy())[None, None].to(device)
    if (at.height, at.width) > (box.height, box.width):
        small, small_mask = (pad(lanczos(values, at.height, at.width), multiple) for values in (original, mask))
    elif model.info.own_picture and (at.height, at.width) != (box.height, box.width):
        known, small_mask = shrink(original, mask, at.height, at.width)
        small = small.where(small_mask > 0, known) if picture.fill == "original" else known
    else:
        small_mask = pad(resize_mask(mask, at.height, at.width), multiple)
    return Inputs(
        model.attach(small, small_mask), small, small_mask, original, mask, stream, place, fill=picture.fill
    )


def example(other: Picture, at: Pass, before: Pass | None, device: torch.device) -> Example:
    """Another picture as large beside pass `at` as it is beside the whole one, and as the pass `before` shows it."""
    import torch.nn.functional as F

    image = to_unit(other.pixels).to(device)

    def seen(part: Pass) -> Tensor:
        width, height = beside(part, other.size)
        return image if (height, width) == image.shape[-2:] else F.interpolate(image, (height, width), mode="area")

    here = seen(at)
    return Example(here[0], None if before is None else resize(seen(before), *here.shape[-2:])[0])


def beside(at: Pass, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a picture of this `size` at the scale of pass `at`."""
    scale = max(at.height, at.width) / max(at.box.height, at.box.width)
    width, height = size
    return max(1, round(width * scale)), max(1, round(height * scale))


def _windowed(model: Model, window: int) -> Model:
    """`model` by windows of `window` pixels, unless it comes in windows of its own."""
    from editkit.windows import Windowed

    if isinstance(model, Windowed):
        return model
    side = model.shape(window, window)[-1]
    return Windowed(model, side, round(OVERLAP * side))


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """(batch, c, h, w) to another size: bicubic, antialiased when it shrinks; the same size is untouched."""
    import torch.nn.functional as F

    if image.shape[-2:] == (height, width):
        return image
    return F.interpolate(image, (height, width), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def lanczos(image: Tensor, height: int, width: int) -> Tensor:
    """(1, c, h, w) enlarged by Pillow's Lanczos filter, each channel in 8 bits: what diffusers' pipelines see."""
    import torch
    from PIL import Image

    low = -1.0 if image.shape[1] == 3 else 0.0  # pictures lie in [-1, 1], masks in [0, 1]
    levels = ((image[0] - low) / (1.0 - low) * 255.0).round().byte().cpu().numpy()
    made = [Image.fromarray(channel).resize((width, height), Image.Resampling.LANCZOS) for channel in levels]
    values = torch.from_numpy(np.stack([np.asarray(channel) for channel in made])).to(image)
    return values[None] / 255.0 * (1.0 - low) + low


def shrink(image: Tensor, mask: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """A picture and its mask at a smaller size, from known pixels only: nothing of what is masked leaks.

    A pixel is the mean of the known ones within it, and is unknown if more than `HIDDEN` of it is.
    """
    import torch.nn.functional as F

    known = (mask == 0).to(image.dtype)
    share = F.interpolate(known, (height, width), mode="area")
    mean = F.interpolate(image * known, (height, width), mode="area") / share.clamp(min=1e-6)
    return mean, (share < 1.0 - HIDDEN).to(mask.dtype)


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask at another size: a pixel that is partly to be regenerated is regenerated."""
    import torch.nn.functional as F

    if mask.shape[-2:] == (height, width):
        return mask
    if height < mask.shape[-2]:
        return (F.adaptive_max_pool2d(mask, (height, width)) > 0).to(mask.dtype)
    return F.interpolate(mask, (height, width), mode="nearest")


def pad(image: Tensor, multiple: int) -> Tensor:
    """The picture continued to the right and below until its sides are multiples."""
    import torch.nn.functional as F

    height, width = image.shape[-2:]
    down, right = -height % multiple, -width % multiple
    return F.pad(image, (0, right, 0, down), mode="replicate") if down or right else image


def native(image: Tensor, at: Pass) -> Tensor:
    """A pass's result without its padding, at the box's own resolution."""
    return resize(image[..., : at.height, : at.width], at.box.height, at.box.width)
