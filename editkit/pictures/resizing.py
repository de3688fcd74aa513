"""Resize pictures and masks as tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize (batch, c, h, w): bicubic, antialiased when shrinking; unchanged at the same size."""
    import torch.nn.functional as F

    if image.shape[-2:] == (height, width):
        return image
    return F.interpolate(image, (height, width), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def lanczos(image: Tensor, height: int, width: int) -> Tensor:
    """Enlarge (1, c, h, w) by Pillow's Lanczos filter, each channel in 8 bits, like diffusers' pipelines."""
    import torch
    from PIL import Image

    low = -1.0 if image.shape[1] == 3 else 0.0  # pictures are in [-1, 1], masks in [0, 1]
    levels = ((image[0] - low) / (1.0 - low) * 255.0).round().byte().cpu().numpy()
    made = [Image.fromarray(channel).resize((width, height), Image.Resampling.LANCZOS) for channel in levels]
    values = torch.from_numpy(np.stack([np.asarray(channel) for channel in made])).to(image)
    return values[None] / 255.0 * (1.0 - low) + low


def shrink(image: Tensor, mask: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Shrink a picture and its mask, using only known pixels, so that masked content does not leak.

    A pixel is the mean of its known pixels, and is unknown if more than the share `HIDDEN` of it is unknown.
    """
    import torch.nn.functional as F

    known = (mask == 0).to(image.dtype)
    share = F.interpolate(known, (height, width), mode="area")
    mean = F.interpolate(image * known, (height, width), mode="area") / share.clamp(min=1e-6)
    return mean, (share < 1.0 - HIDDEN).to(mask.dtype)


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """Resize a mask: a partly masked pixel becomes masked."""
    import torch.nn.functional as F

    if mask.shape[-2:] == (height, width):
        return mask
    if height < mask.shape[-2]:
        return (F.adaptive_max_pool2d(mask, (height, width)) > 0).to(mask.dtype)
    return F.interpolate(mask, (height, width), mode="nearest")


def pad(image: Tensor, multiple: int) -> Tensor:
    """Pad the picture at the right and the bottom until its sides are multiples of `multiple`."""
    import torch.nn.functional as F

    height, width = image.shape[-2:]
    down, right = -height % multiple, -width % multiple
    return F.pad(image, (0, right, 0, down), mode="replicate") if down or right else image


HIDDEN = 0.75
"""A pixel of the smaller picture is unknown if more than this share of it is unknown."""
