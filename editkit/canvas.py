"""Any size of picture on any model: what a pass (`editkit.passes`) sees of the picture, and its result at its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from editkit.images import Picture, to_unit
from editkit.models.base import Enlarges, Example, Model, TakesExamples
from editkit.models.capability import capability, changed
from editkit.passes import HIDDEN, OVERLAP, Pass
from editkit.plugin import Inputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.convention import Convention
    from editkit.noise import Stream


def inputs(
    picture: Picture,
    at: Pass,
    model: Model,
    stream: Stream | None,
    device: torch.device,
    source: Picture,
    convention: Convention,
    examples: Sequence[Picture] = (),
    before: Pass | None = None,
    small: Picture | None = None,
) -> Inputs:
    """The box of `picture` at the size of pass `at`, padded to the model's multiple, and at its own resolution.

    The model is cut into windows where the pass asks for it, told the `examples`, and attached to what it sees
    (`Model.attach`). `source`: the stage's picture as it came. `before`: the pass whose enlarged result this one starts
    from. `small`: what the picture was enlarged from, sharp.
    """
    import torch

    box, multiple = at.box, model.info.multiple
    rows, columns = box.rows, box.columns
    if at.window is not None:
        model = _windowed(model, at.window)
    if small is not None:
        sharp, scale = to_unit(small.pixels).to(device), picture.width / small.width
        model = changed(model, Enlarges, lambda one: one.enlarging(sharp, scale))
    learned = [example(other, at, before, device) for other in examples]
    model = changed(model, TakesExamples, lambda one: one.given(learned, picture.fill))

    def place(whole: Tensor) -> Tensor:
        whole = resize(whole, picture.height, picture.width)[..., rows, columns]
        return pad(resize(whole, at.height, at.width), multiple)

    original = to_unit(picture.pixels[rows, columns]).to(device)
    shown = pad(resize(original, at.height, at.width), multiple)
    mask = mask_shown = None
    if picture.mask is not None:
        mask = torch.from_numpy(picture.mask[rows, columns].copy())[None, None].to(device)
        if at.height * at.width > box.area:
            shown, mask_shown = (pad(lanczos(values, at.height, at.width), multiple) for values in (original, mask))
        elif model.info.own_picture and (at.height, at.width) != (box.height, box.width):
            known, mask_shown = shrink(original, mask, at.height, at.width)
            shown = shown.where(mask_shown > 0, known) if picture.fill == "original" else known
        else:
            mask_shown = pad(resize_mask(mask, at.height, at.width), multiple)
    return Inputs(
        model=model.attach(shown, mask_shown), picture=shown, mask=mask_shown, original=original, original_mask=mask,
        stream=stream, place=place, convention=convention, whole=picture.pixels, source=source.pixels,
        fill=None if mask is None else picture.fill,
    )  # fmt: skip


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

    if capability(model, Windowed) is not None:
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
