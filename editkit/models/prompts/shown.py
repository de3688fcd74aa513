"""The tokens of image prompts that attention uses in addition to the text in one network call, with diffusers' own
attention processors for them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from editkit.diffusion.conditioning import Conditioning

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.diffusion.image_prompts import ImageTokens


@dataclass(frozen=True, eq=False)
class BranchPrompts:
    """Image prompts for all branches in one batch.

    Args:
        layers: diffusers' processor of each layer, which attends to the text and all image prompts.
        tokens: for each prompt, (conds * batch, pictures, tokens, width) for a UNet, without `pictures` for FLUX.
        masks: for each prompt, (conds * batch, 1, h, w), or None; None if no prompt has one.
    """

    layers: Mapping[str, Any]
    tokens: tuple[Tensor, ...]
    masks: list[Tensor | None] | None = None


def by_branch(conds: Sequence[Conditioning]) -> list[Conditioning]:
    """Return `conds` with the image prompts and embeddings of each branch of guidance."""
    return [_unconditional(cond) if len(conds) > 1 and cond.unwanted else cond for cond in conds]


def _unconditional(cond: Conditioning) -> Conditioning:
    prompts = tuple(replace(one, tokens=one.unwanted) for one in cond.image_prompts)
    embedding = None if cond.embedding is None else replace(cond.embedding, values=cond.embedding.unwanted)
    return replace(cond, image_prompts=prompts, embedding=embedding)


def adapters(cond: Conditioning) -> Hashable:
    """Return the adapters and their scales; conditions with equal ones fit into one call."""
    return tuple((id(one.layers), one.scale, one.mask is None) for one in cond.image_prompts)


def for_unet(
    conds: Sequence[Conditioning], batch: int, device: torch.device, dtype: torch.dtype
) -> BranchPrompts | None:
    """Combine the image prompts of `conds`, which have the same adapters; None: they have none."""
    prompts = [cond.image_prompts for cond in conds]
    if not prompts[0]:
        return None
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    masks = [_stacked([one.mask for one in same], batch, device) for same in zip(*prompts, strict=True)]
    return BranchPrompts(
        _join_processors(IPAdapterAttnProcessor2_0, prompts[0], [one.scale for one in prompts[0]]),
        tuple(tokens.unsqueeze(1) for tokens in _tokens(prompts, batch, device, dtype)),
        masks if any(mask is not None for mask in masks) else None,
    )


def for_flux(
    conds: Sequence[Conditioning],
    batch: int,
    device: torch.device,
    dtype: torch.dtype,
    size: Sequence[int],
    behind: int,
) -> BranchPrompts | None:
    """Like `for_unet`, for a transformer whose state has `size` (rows, columns) tokens, followed by `behind` reference
    tokens. diffusers has no masks there; here a mask is a scale for each token, and 0 for references.
    """
    prompts = [cond.image_prompts for cond in conds]
    if not prompts[0]:
        return None
    import torch.nn.functional as F
    from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor

    scales: list[Any] = []
    for same in zip(*prompts, strict=True):
        mask = _stacked([one.mask for one in same], batch, device)
        if mask is None:
            scales.append(same[0].scale)
            continue
        of_tokens = F.interpolate(mask.float(), tuple(size), mode="area").flatten(1)
        scales.append(same[0].scale * F.pad(of_tokens, (0, behind))[..., None].to(dtype))
    layers = _join_processors(FluxIPAdapterAttnProcessor, prompts[0], scales)
    return BranchPrompts(layers, tuple(_tokens(prompts, batch, device, dtype)))


def _tokens(
    prompts: Sequence[Sequence[ImageTokens]], batch: int, device: torch.device, dtype: torch.dtype
) -> list[Tensor]:
    import torch

    return [
        torch.cat([one.tokens.expand(batch, -1, -1) for one in same]).to(device, dtype)
        for same in zip(*prompts, strict=True)
    ]


def _stacked(masks: Sequence[Tensor | None], batch: int, device: torch.device) -> Tensor | None:
    import torch

    there = [mask.expand(batch, -1, -1, -1) for mask in masks if mask is not None]
    return torch.cat(there).to(device) if there else None


def _join_processors(kind: Any, prompts: Sequence[ImageTokens], scales: Sequence[Any]) -> dict[str, Any]:
    """Make a processor of `kind` for each layer with the modules of all adapters, each with its scale. The modules are
    shared with the adapters.
    """
    made = {}
    for name, part in prompts[0].layers.items():
        processor = kind(part.hidden_size, part.cross_attention_dim, num_tokens=(), scale=[])
        processor.scale = list(scales)
        for one in prompts:
            processor.to_k_ip.append(one.layers[name].to_k_ip[0])
            processor.to_v_ip.append(one.layers[name].to_v_ip[0])
        made[name] = processor
    return made
