"""What transformers on tokens share: states as rows of tokens, references after them, branches batched into few calls,
and pictures resized for a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, TypeVar

from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import ModelInfo

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Asked = TypeVar("Asked")


def rows(x: Tensor) -> Tensor:
    """Convert (b, c, h, w) to (b, h w, c): one token per value, row by row."""
    return x.flatten(2).transpose(1, 2)


def from_rows(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `rows`."""
    b, _, channels = tokens.shape
    return tokens.transpose(1, 2).reshape(b, channels, height, width)


def packed(x: Tensor, patch: int = 2) -> Tensor:
    """Convert (b, c, h, w) to tokens of patch x patch values, (b, h w / patch^2, patch^2 c): channel, row, column."""
    import torch.nn.functional as F

    return rows(F.pixel_unshuffle(x, patch))


def unpacked(tokens: Tensor, height: int, width: int, patch: int = 2) -> Tensor:
    """The inverse of `packed` for a state of `height` x `width`; drops further tokens."""
    import torch.nn.functional as F

    down, along = height // patch, width // patch
    return F.pixel_shuffle(from_rows(tokens[:, : down * along], down, along), patch)


def guidance_input(conds: Sequence[Conditioning], info: ModelInfo, batch: int, device: torch.device) -> Tensor | None:
    """Return the guidance scale input for each item, (conds * batch,); None if the network takes none."""
    import torch

    if "guidance" not in info.takes:
        return None
    scales = [info.guidance if cond.guidance is None else cond.guidance for cond in conds]
    return torch.tensor(scales, dtype=torch.float32, device=device).repeat_interleave(batch)


def grid_ids(size: Sequence[int], first: int, axes: int, device: torch.device) -> Tensor:
    """Return the token positions of a picture of `size` (h, w): (h w, axes), int64, (first, row, column, 0 ...)."""
    import torch

    height, width = size
    ids = torch.zeros(height, width, axes, dtype=torch.int64, device=device)
    ids[..., 0] = first
    ids[..., 1] = torch.arange(height, device=device)[:, None]
    ids[..., 2] = torch.arange(width, device=device)
    return ids.reshape(-1, axes)


def call_grouped(
    conds: Sequence[Asked], key: Callable[[Asked], Hashable], ask: Callable[[Sequence[Asked]], Sequence[Tensor]]
) -> list[Tensor]:
    """Return the network's output for each of `conds`, in order; those with the same `key` share one call."""
    groups: dict[Hashable, list[int]] = {}
    for k, cond in enumerate(conds):
        groups.setdefault(key(cond), []).append(k)
    found: dict[int, Tensor] = {}
    for members in groups.values():
        found.update(zip(members, ask([conds[k] for k in members]), strict=True))
    return [found[k] for k in range(len(conds))]


def reference_sizes(cond: Conditioning) -> Hashable:
    """Return the sizes of the references; conditions with equal ones fit into one call."""
    return tuple(tuple(reference.latent.shape[-3:]) for reference in cond.references)


def fit_to_area(picture: Tensor, multiple: int, area: int) -> Tensor:
    """Resize `picture` (b, 3, h, w) to sides that are multiples of `multiple` and at most `area` pixels, with the
    nearest possible size and shape; unchanged if it fits already. Never crops.
    """
    from editkit.pictures.resizing import resize

    height, width = picture.shape[-2:]
    scale = min(1.0, math.sqrt(area / (height * width)))
    wanted = [max(multiple, round(side * scale / multiple) * multiple) for side in (height, width)]
    while wanted[0] * wanted[1] > area and max(wanted) > multiple:
        longer = 0 if wanted[0] >= wanted[1] else 1
        wanted[longer] -= multiple
    if wanted == [height, width]:
        return picture
    return resize(picture, *wanted)
