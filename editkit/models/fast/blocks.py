"""diffusers' blocks of a latent UNet with the same mathematics and fewer passes over memory.

For Stable Diffusion 1.5 on two AMX cores, they save about a seventh of the time of a call (docs/diffusers.md).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from editkit.diffusion.image_prompts import Places
from editkit.models.fast.packing import PackedGate, has_onednn, needs_plain_weights, swap
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network
from editkit.models.files.quantised import is_quantised
from editkit.models.prompts.shown import BranchPrompts

CACHE_LINE = 64
"""Size of a cache line, in bytes."""


class Attend(AttnProcessor2_0):  # type: ignore[misc]
    """Self-attention, or cross-attention to a text; layers with masks or norms of their own use diffusers' processor.

    If called with `shown` (`editkit.models.prompts.shown.BranchPrompts`), cross-attention to a text also attends to
    image prompts, by diffusers' processor for them.

    Args:
        name: the layer's name in the UNet. No text has entered before the layer `FIRST`. If that layer is called with
            `copies` (`cross_attention_kwargs`), its batch is that many equal copies, one after the other, and one copy
            is computed for all: guidance evaluates one x_t with several texts.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name
        self.first = name == FIRST

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *args: Any,
        copies: int = 1, shown: BranchPrompts | None = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        look = None if shown is None or encoder_hidden_states is None else shown.layers.get(self.name)
        if shown is not None and look is not None:
            texts = (encoder_hidden_states, shown.tokens)
            seen: Tensor = look(attn, hidden_states, texts, *args, ip_adapter_masks=shown.masks, **kwargs)
            return seen
        copies = copies if self.first and encoder_hidden_states is None else 1
        batch = len(hidden_states) // copies
        x = hidden_states[:batch]
        if _is_plain_call(attn, x, args, kwargs):
            out = _attention(attn, x, x if encoder_hidden_states is None else encoder_hidden_states)
        else:
            out = super().__call__(attn, x, encoder_hidden_states, *args, **kwargs)
        return out if batch == len(hidden_states) else torch.cat([out] * copies)


def _is_plain_call(attn: Attention, x: Tensor, args: Any, kwargs: Any) -> bool:
    odd = (attn.group_norm, attn.spatial_norm, attn.norm_cross, attn.norm_q, attn.norm_k)
    given = any(value is not None for value in (*args, *kwargs.values()))
    whole = not attn.residual_connection and attn.rescale_output_factor == 1
    return x.ndim == 3 and whole and not given and not any(odd)


def _attention(attn: Attention, x: Tensor, context: Tensor) -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) v for every head, from (B, N, C) and (B, M, C') to (B, N, C)."""
    q, k, v = (
        z.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for z in (attn.to_q(x), attn.to_k(context), attn.to_v(context))
    )
    if x.device.type == "cpu" and q.shape[-1] * q.element_size() % CACHE_LINE:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()  # else a head's rows straddle cache lines
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    done: Tensor = attn.to_out[1](attn.to_out[0](out))
    return done


class FusedGEGLU(GEGLU):  # type: ignore[misc]
    """diffusers' GEGLU, computed by `PackedGate.gated`."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if isinstance(self.proj, PackedGate) and not needs_plain_weights(hidden_states):
            return self.proj.gated(hidden_states)
        out: Tensor = super().forward(hidden_states, *args, **kwargs)
        return out


class ChannelsLast(Transformer2DModel):  # type: ignore[misc]
    """A block that returns pictures in the memory layout of its input."""

    def _get_output_for_continuous_inputs(
        self, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
    ) -> Tensor:
        def picture(rows: Tensor) -> Tensor:
            made = rows.reshape(batch_size, height, width, inner_dim).permute(0, 3, 1, 2)
            return made if residual.is_contiguous(memory_format=torch.channels_last) else made.contiguous()

        if self.use_linear_projection:
            return picture(self.proj_out(hidden_states)) + residual
        out: Tensor = self.proj_out(picture(hidden_states)) + residual
        return out


def load_unet(layout: Layout, dtype: torch.dtype, device: torch.device) -> Any:
    """Load a model's UNet2DConditionModel with `load_network` and replace its blocks by these."""
    return replace_blocks(load_network(layout, "unet", UNet2DConditionModel, dtype, device))


def replace_blocks(unet: Any) -> Any:
    """Replace the blocks of `unet` (frozen), or of a ControlNet for one, by these, and return it."""
    unet.set_attn_processor(
        {name: _fast_processor(name, processor) for name, processor in unet.attn_processors.items()}
    )
    for module in unet.modules():
        if type(module) is Transformer2DModel and hasattr(module, "_get_output_for_continuous_inputs"):
            module.__class__ = ChannelsLast
    return fuse_gates(unet) if unet.device.type == "cpu" else unet


def fuse_gates(network: Any) -> Any:
    """Fuse the gates of the feed-forward layers of `network` (frozen, on the CPU) if torch can, and return it."""
    for module in network.modules() if has_onednn() and not is_quantised(network) else ():
        if type(module) is GEGLU and type(module.proj) is nn.Linear:
            module.__class__ = FusedGEGLU
            swap(module.proj, PackedGate)
    return network


FIRST = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor"
"""The attention before which no text enters, in a UNet that begins with one."""


def _fast_processor(name: str, processor: Any) -> Any:
    return Attend(name) if type(processor) is AttnProcessor2_0 else processor


def places(unet: Any) -> Places:
    """Return the cross-attention layers of a UNet after `replace_blocks`, where an IP-Adapter acts."""
    names = [name for name in unet.attn_processors if not name.endswith("attn1.processor")]
    widths = [unet.get_submodule(name.removesuffix(".processor")).inner_dim for name in names]
    text = int(unet.config.cross_attention_dim)
    return Places(type(unet).__name__, tuple(zip(names, widths, strict=True)), text)


def attends_once(unet: Any) -> bool:
    """Return whether a UNet after `replace_blocks` begins with an attention that no text precedes (`Attend.first`)."""
    processors = unet.attn_processors
    return FIRST in processors and all(isinstance(processor, Attend) for processor in processors.values())
