"""Attention of FLUX.1's transformer with support for image prompts; diffusers' own without any."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from torch import Tensor

from editkit.diffusion.image_prompts import Places
from editkit.models.prompts.shown import BranchPrompts


class FluxAttend(FluxAttnProcessor):  # type: ignore[misc]
    """Like `editkit.models.fast.blocks.Attend` for a UNet: called with `shown` (`joint_attention_kwargs`), it uses
    diffusers' processor for image prompts.

    Args:
        name: the layer's name in the transformer.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, image_rotary_emb: Any = None, shown: BranchPrompts | None = None,
    ) -> Any:  # fmt: skip
        look = None if shown is None else shown.layers.get(self.name)
        given = (attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        if shown is None or look is None:
            return super().__call__(*given)
        return look(*given, ip_hidden_states=shown.tokens)


def use_attend(transformer: Any) -> Any:
    """Replace diffusers' own processors in `transformer` by these."""
    own = {
        name: FluxAttend(name) if type(processor) is FluxAttnProcessor else processor
        for name, processor in transformer.attn_processors.items()
    }
    transformer.set_attn_processor(own)
    return transformer


def places(transformer: Any) -> Places:
    """Return the blocks with separate weights for text and picture, where an IP-Adapter acts."""
    names = [name for name in transformer.attn_processors if not name.startswith("single_")]
    config = transformer.config
    inner = config.num_attention_heads * config.attention_head_dim
    return Places(type(transformer).__name__, tuple((name, inner) for name in names), config.joint_attention_dim)
