"""Any size of picture on any model: which part is worked on, at which sizes, in which passes.

A stage is one or several *passes* of the reverse process over one box of the picture. Models whose prior is the picture
itself go coarse to fine: the hole is invented small, where a patch sees the whole scene, and every finer pass starts
from the enlarged coarser one at a noise level that keeps its structure, and is told it (`lowres`, as the cascades of
Ho et al. 2022, arXiv:2106.15282); a model that does not take `lowres` is held to its low frequencies (ILVR, Choi et al.
2021, arXiv:2108.02938). Other models work in one pass. Planning is integers only; tensors are touched by `inputs`,
`resize` and `Refine`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from editkit.images import Picture, to_unit
from editkit.models.base import Conditioning, Model, ModelInfo
from editkit.options import Options
from editkit.plan import Plan
from editkit.plugin import Hooks, Inputs, Plugin, Run, Step

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.noise import Stream

CONTEXT = 2.2
"""The side of the crop, in sides of the mask's box."""

LEAST = 96
"""The least side of a crop for a model whose prior is the picture: it must see something to learn from."""

HIDDEN = 0.75
"""A pixel of a smaller picture is unknown when more than this share of it is."""

FACTOR = 1.6
"""Each pass is so many times as large as the one before."""

COARSEST = 16.0
"""The longer side of the smallest pass is at least this many pixels."""

PATCH = 7
"""What a model of patches sees at once."""


@dataclass(frozen=True)
class Box:
    """Pixels `left <= x < right`, `top <= y < bottom` of a picture."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


@dataclass(frozen=True)
class Pass:
    """One reverse process over the box, brought to `height` x `width` pixels.

    Args:
        steps: noise levels of its ladder.
        strength: the fraction of the ladder it walks; 1 starts from noise, less from the coarser pass.
        repeats: walk every move this often (`Plan.travel(1, repeats)`), unless a plugin travels itself.
        hold: while sigma_t is above this, keep the low frequencies of the coarser pass.
    """

    height: int
    width: int
    steps: int
    strength: float = 1.0
    repeats: int = 1
    hold: float = 1.0

    def plan(self) -> Plan:
        """The pass's own trajectory, before plugins change it."""
        return Plan.uniform(self.steps).start_at(self.strength)


@dataclass(frozen=True)
class Frame:
    """The box of the picture that a stage works on, and its passes, coarse to fine."""

    box: Box
    passes: tuple[Pass, ...]
    multiple: int = 1


def frame(picture: Picture, info: ModelInfo, options: Options, from_noise: bool) -> Frame:
    """What a stage works on. `from_noise`: nothing but noise is there to start from, so structure must be invented."""
    steps = options.steps or info.steps
    whole = Box(0, 0, picture.width, picture.height)
    cropped = options.canvas == "crop" or (options.canvas == "auto" and (info.window or info.own_picture))
    box = (
        whole
        if picture.mask is None or not cropped
        else around(picture.mask, CONTEXT, LEAST if info.own_picture else info.window or 0)
    )
    if info.own_picture and from_noise:
        inside = None if picture.mask is None else picture.mask[box.top : box.bottom, box.left : box.right] > 0
        return Frame(box, ladder(box, steps, info.steps, inside), info.multiple)
    height, width = box.height, box.width
    if info.window and options.canvas != "full" and max(height, width) > info.window:
        scale = info.window / max(height, width)
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
    return Frame(box, (Pass(height, width, steps),), info.multiple)


def around(mask: np.ndarray, context: float, least: int = 0) -> Box:
    """A box inside the picture, `context` times as large as the mask's own (at least `least` pixels), around it."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    side = max(round(context * max(bottom - top, right - left)), least)
    x0, x1 = _span(left, right, side, width)
    y0, y1 = _span(top, bottom, side, height)
    return Box(x0, y0, x1, y1)


def _span(low: int, high: int, side: int, limit: int) -> tuple[int, int]:
    """An interval of `side` (at most `limit`) around [low, high) and inside [0, limit)."""
    side = min(max(side, high - low), limit)
    first = min(max((low + high - side) // 2, 0), limit - side)
    return first, first + side


def ladder(box: Box, steps: int, usual: int, hole: np.ndarray | None = None) -> tuple[Pass, ...]:
    """Passes for a model whose prior is the picture: small first, then 1.6 times as large until the box's own size.

    The first pass is the smallest one (16 pixels or more) at which enough is known, or, for a hole that vanishes when
    it is made small (its pixels are averages of known ones there), the largest one at which it has: that one is a
    single step which gives back what is known. `steps` scales the number of levels of every pass against `usual`.
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
                passes = [Pass(height, width, 1)]
                continue
            if not passes and not _enough(unknown):
                continue
        if not passes:
            passes.append(Pass(height, width, max(2, round(10 * rate)), 1.0, 3))
        elif size < 60:
            passes.append(Pass(height, width, max(2, round(5 * rate)), 0.8, 3, 0.15))
        else:
            passes.append(Pass(height, width, max(2, round(4 * rate)), 0.75, 1, 0.15))
    return tuple(passes)


def _enough(unknown: np.ndarray) -> bool:
    """True where there are at least 30 known patches to learn from."""
    height, width = unknown.shape
    if height < PATCH or width < PATCH:
        return False
    sums = _integral(unknown)
    within = sums[PATCH:, PATCH:] - sums[:-PATCH, PATCH:] - sums[PATCH:, :-PATCH] + sums[:-PATCH, :-PATCH]
    return int((within == 0).sum()) >= 30


def coverage(hole: np.ndarray, height: int, width: int) -> np.ndarray:
    """The share of `hole` (h, w) in each pixel of the picture at another, smaller size: (height, width)."""
    sums = _integral(hole)
    edges = []
    for n, size in ((hole.shape[0], height), (hole.shape[1], width)):
        k = np.arange(size)
        edges.append((k * n // size, -(-(k + 1) * n // size)))
    (top, bottom), (left, right) = edges
    total = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]
    share: np.ndarray = total / ((bottom - top)[:, None] * (right - left)[None, :])
    return share


def _integral(values: np.ndarray) -> np.ndarray:
    """Sums over all rectangles from the top left corner, (h + 1, w + 1)."""
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = values.astype(np.int64).cumsum(0).cumsum(1)
    return sums


def inputs(
    picture: Picture, spot: Frame, at: Pass, model: Model, stream: Stream | None, device: torch.device
) -> Inputs:
    """The box of `picture` at the size of pass `at`, padded to the model's multiple, and at its own resolution.

    The model is attached to what it sees (`Model.attach`).
    """
    import torch

    box = spot.box
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)

    def place(whole: Tensor) -> Tensor:
        whole = resize(whole, picture.height, picture.width)[..., rows, columns]
        return _pad(resize(whole, at.height, at.width), spot.multiple)

    original = to_unit(picture.pixels[rows, columns]).to(device)
    small = _pad(resize(original, at.height, at.width), spot.multiple)
    if picture.mask is None:
        return Inputs(model.attach(small, None), small, None, original, None, stream, place)
    mask = torch.from_numpy(picture.mask[rows, columns].copy())[None, None].to(device)
    if model.info.own_picture and (at.height, at.width) != (box.height, box.width):
        small, small_mask = shrink(original, mask, at.height, at.width)
    else:
        small_mask = _pad(resize_mask(mask, at.height, at.width), spot.multiple)
    return Inputs(model.attach(small, small_mask), small, small_mask, original, mask, stream, place)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """(batch, c, h, w) to another size: bicubic, antialiased when it shrinks; the same size is untouched."""
    import torch.nn.functional as F

    if image.shape[-2:] == (height, width):
        return image
    return F.interpolate(image, (height, width), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


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


def _pad(image: Tensor, multiple: int) -> Tensor:
    import torch.nn.functional as F

    height, width = image.shape[-2:]
    down, right = -height % multiple, -width % multiple
    return F.pad(image, (0, right, 0, down), mode="replicate") if down or right else image


def native(image: Tensor, spot: Frame, at: Pass) -> Tensor:
    """A pass's result without its padding, at the box's own resolution."""
    return resize(image[..., : at.height, : at.width], spot.box.height, spot.box.width)


class Refine(Plugin):
    """Start from the enlarged coarser pass, and tell it to the model, or hold its low frequencies: how passes join."""

    name: ClassVar[str] = "canvas"
    order: ClassVar[int] = -100
    hold: float = 1.0
    factor: float = 1.6

    def hooks(self) -> type[Hooks[Refine]]:
        return _RefineHooks


class _RefineHooks(Hooks[Refine]):
    coarse: Tensor

    @classmethod
    def made(cls, plugin: Refine, run: Run, coarse: Tensor) -> _RefineHooks:
        """`coarse`: (1, 3, h, w), the coarser pass's result at this pass's size, in the model's space."""
        made = cls(plugin, run)
        made.coarse = coarse
        return made

    def begin(self) -> Tensor:
        return self.run.noised(self.coarse, self.run.levels[self.run.plan.start])

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        if "lowres" not in self.run.model.info.takes or cond.lowres is not None:
            return cond
        return replace(cond, lowres=self.coarse)

    def clean(self, step: Step, x0: Tensor) -> Tensor:
        if "lowres" in self.run.model.info.takes or step.sigma_t <= self.plugin.hold:
            return x0
        return x0 + self._low(self.coarse) - self._low(x0)

    def _low(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        small = resize(x, max(1, round(height / self.plugin.factor)), max(1, round(width / self.plugin.factor)))
        return resize(small, height, width)


def refined(run: Run, coarse: Tensor, at: Pass, factor: float) -> tuple[Refine, Hooks[Refine]]:
    """The canvas's own declaration and hooks for one finer pass."""
    plugin = Refine(hold=at.hold, factor=factor)
    return plugin, _RefineHooks.made(plugin, run, coarse)
