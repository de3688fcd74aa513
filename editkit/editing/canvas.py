"""The canvas: pictures of any size on any model.

Crops the part of the picture that a pass (`editkit.editing.passes`) sees, and puts its result back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from editkit.diffusion.capability import capability, with_change
from editkit.diffusion.model import Enlarges, Example, Model, ModelInfo, Pass, TakesExamples
from editkit.editing.passes import OVERLAP
from editkit.pictures.picture import Fill, Picture
from editkit.pictures.resizing import lanczos, pad, resize, resize_mask, shrink
from editkit.pictures.tensors import to_unit
from editkit.plugin.step import Inputs

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from editkit.diffusion.convention import Convention
    from editkit.diffusion.noise import Stream


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
    """Return the inputs of pass `at`: its box of `picture`, at the size of the pass and at its own resolution.

    The first is padded to the model's multiple. The model is wrapped in windows if the pass needs them, given the
    `examples`, and attached to what it sees (`Model.attach`).

    Args:
        picture: the picture to edit, with its mask.
        at: the pass.
        model: the stage's model.
        stream: noise stream for stochastic encoders.
        device: where tensors are created.
        source: the stage's input picture.
        convention: how masks are converted to the model's space.
        examples: further pictures to learn from.
        before: the pass from whose enlarged result this one starts.
        small: the sharp picture from which `picture` was enlarged.
    """
    import torch

    box, multiple = at.box, model.info.multiple
    rows, columns = box.rows, box.columns
    if at.window is not None:
        model = _wrap_in_windows(model, at.window)
    if small is not None:
        sharp, scale = to_unit(small.visible).to(device), picture.width / small.width
        model = with_change(model, Enlarges, lambda one: one.enlarging(sharp, scale))
    learned = [example(other, at, before, device) for other in examples]
    barred = _excluded_mask(picture, at, device)
    model = with_change(model, TakesExamples, lambda one: one.given(learned, picture.fill, barred))

    def place(whole: Tensor) -> Tensor:
        whole = resize(whole, picture.height, picture.width)[..., rows, columns]
        return pad(resize(whole, at.height, at.width), multiple)

    original = to_unit(picture.visible[rows, columns]).to(device)
    mask = None
    if picture.mask is not None:
        mask = torch.from_numpy(picture.mask[rows, columns].copy())[None, None].to(device)
    shown, mask_shown = _box_at_size(original, mask, at, model.info, picture.fill)
    return Inputs(
        model=model.attach(shown, mask_shown), picture=shown, mask=mask_shown, original=original, original_mask=mask,
        stream=stream, place=place, convention=convention, whole=picture.visible, source=source.visible,
        file=source.meta, fill=None if mask is None else picture.fill,
    )  # fmt: skip


def _box_at_size(
    original: Tensor, mask: Tensor | None, at: Pass, info: ModelInfo, fill: Fill | None
) -> tuple[Tensor, Tensor | None]:
    """Return the box's pixels and mask at the size of pass `at`, padded to the model's multiple."""
    size = (at.height, at.width)
    shown = pad(resize(original, *size), info.multiple)
    if mask is None:
        return shown, None
    if at.height * at.width > at.box.area:
        return pad(lanczos(original, *size), info.multiple), pad(lanczos(mask, *size), info.multiple)
    if info.own_picture and size != (at.box.height, at.box.width):
        known, small_mask = shrink(original, mask, *size)
        return (shown.where(small_mask > 0, known) if fill == "original" else known), small_mask
    return shown, pad(resize_mask(mask, *size), info.multiple)


def _excluded_mask(picture: Picture, at: Pass, device: torch.device) -> Tensor | None:
    """Return where pass `at` must not learn, (1, 1, h, w): pixels that are even partly barred or transparent."""
    import torch

    areas = [area > 0 for area in (picture.barred, picture.hidden) if area is not None and area.any()]
    if not areas:
        return None
    area = np.logical_or.reduce(areas)[at.box.rows, at.box.columns]
    within = torch.from_numpy(area.astype("float32"))[None, None].to(device)
    return resize_mask(within, at.height, at.width)


def example(other: Picture, at: Pass, before: Pass | None, device: torch.device) -> Example:
    """Return a further picture at the scale of pass `at`, and as seen by the pass `before`."""
    import torch.nn.functional as F

    image = to_unit(other.visible).to(device)

    def seen(part: Pass) -> Tensor:
        width, height = size_at_scale(part, other.size)
        return image if (height, width) == image.shape[-2:] else F.interpolate(image, (height, width), mode="area")

    here = seen(at)
    unseen = None if other.hidden is None else _shrink_mask(other.hidden, *here.shape[-2:])[0, 0].to(device) > 0
    return Example(here[0], None if before is None else resize(seen(before), *here.shape[-2:])[0], unseen)


def _shrink_mask(hidden: NDArray[np.bool_], height: int, width: int) -> Tensor:
    """Downscale a mask to (1, 1, height, width); values are above 0 where a pixel covers any hidden pixel."""
    import torch
    import torch.nn.functional as F

    return F.interpolate(torch.from_numpy(hidden.astype(np.float32))[None, None], (height, width), mode="area")


def size_at_scale(at: Pass, size: tuple[int, int]) -> tuple[int, int]:
    """Return (width, height) of a picture of this `size` at the scale of pass `at`."""
    scale = max(at.height, at.width) / max(at.box.height, at.box.width)
    width, height = size
    return max(1, round(width * scale)), max(1, round(height * scale))


def _wrap_in_windows(model: Model, window: int) -> Model:
    """Wrap `model` in windows of `window` pixels, unless it is windowed already."""
    from editkit.diffusion.windows import Windowed

    if capability(model, Windowed) is not None:
        return model
    side = model.shape(window, window)[-1]
    return Windowed(model, side, round(OVERLAP * side))


def to_native_resolution(image: Tensor, at: Pass) -> Tensor:
    """Crop the padding of a pass's result, and resize it to the box's own resolution."""
    return resize(image[..., : at.height, : at.width], at.box.height, at.box.width)
