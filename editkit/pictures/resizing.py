"""Pictures and masks as tensors at another size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


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


HIDDEN = 0.75
"""A pixel of a smaller picture is unknown when more than this share of it is."""
