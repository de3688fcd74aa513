"""ControlNets of transformers: FLUX.1's (InstantX's form, where a union takes several kinds of hint; XLabs' form, with
its own layers for the hint), Qwen-Image's and Z-Image's, also for inpainting.

Each returns a residual for each block of the transformer. A ControlNet has fewer blocks than its transformer: each of
its residuals is used for several consecutive blocks (XLabs: they alternate).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from editkit.diffusion.control import Given, Residuals, cut_like
from editkit.errors import ModelError
from editkit.models.latent.tokens import grid_ids, packed

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenControl:
    """One ControlNet with its hint, (batch, channels, h, w): latents as large as the state, or pixels.

    Args:
        network: on its device, in its dtype.
        hint: its input picture; with windows, (windows * batch, ...).
        scale: the factor of its residuals.
        wanted_only: in guidance, it acts only on the conditional branch.
    """

    network: Any
    hint: Tensor
    scale: float
    wanted_only: bool

    def cut(self, spots: Sequence[tuple[slice, slice]], size: Sequence[int]) -> Self:
        return replace(self, hint=cut_like(self.hint, spots, size))

    def _hint(self, given: Given) -> Tensor:
        """Return the hint for every item of `given`, in the network's dtype."""
        return self.hint.to(given.x.device, self.network.dtype).repeat(len(given.x) // len(self.hint), 1, 1, 1)


@dataclass(frozen=True, eq=False)
class FluxControl(TokenControl):
    """A FluxControlNetModel for a transformer of `counts` (double, single) blocks. `kind`: a union's kind of hint."""

    counts: tuple[int, int]
    kind: int | None = None

    def __call__(self, given: Given) -> Residuals:
        import torch

        net, added, hint = self.network, given.added or {}, self._hint(given)
        words = None if given.words is None else given.words.to(net.dtype)
        device, height, width = given.x.device, *given.x.shape[-2:]
        own = net.input_hint_block is not None
        double, single = net(
            hidden_states=packed(given.x).to(net.dtype), controlnet_cond=hint if own else packed(hint),
            controlnet_mode=torch.full((len(given.x), 1), self.kind or 0, device=device) if net.union else None,
            conditioning_scale=self.scale, timestep=given.t / 1000,
            guidance=added["guidance"] if net.config.guidance_embeds else None,
            pooled_projections=added["pooled_projections"].to(net.dtype), encoder_hidden_states=words,
            txt_ids=torch.zeros(0 if words is None else words.shape[1], 3, dtype=torch.int64, device=device),
            img_ids=grid_ids((height // 2, width // 2), 0, 3, device), return_dict=False,
        )  # fmt: skip
        first = alternate_over_blocks(double, self.counts[0]) if own else spread_over_blocks(double, self.counts[0])
        return Residuals((*first, *spread_over_blocks(single, self.counts[1])))


@dataclass(frozen=True, eq=False)
class QwenControl(TokenControl):
    """A QwenImageControlNetModel for a transformer with `layers` layers."""

    layers: int

    def __call__(self, given: Given) -> Residuals:
        net = self.network
        words = None if given.words is None else given.words.to(net.dtype)
        size = (1, *(side // 2 for side in given.x.shape[-2:]))
        made = net(
            hidden_states=packed(given.x).to(net.dtype), controlnet_cond=packed(self._hint(given)),
            conditioning_scale=self.scale, encoder_hidden_states=words, timestep=given.t / 1000,
            img_shapes=[[size]] * len(given.x), return_dict=False,
        )  # fmt: skip
        return Residuals(tuple(spread_over_blocks(made, self.layers)))


@dataclass(frozen=True, eq=False)
class ZImageControl(TokenControl):
    """A ZImageControlNetModel for a transformer with `layers` layers."""

    layers: int

    def __call__(self, given: Given) -> Residuals:
        net, words = self.network, [] if given.words is None else list(given.words)
        made = net(
            to_zimage_input(given.x.to(net.dtype)), zimage_time(given.t), [text.to(net.dtype) for text in words],
            to_zimage_input(self._hint(given)), conditioning_scale=self.scale,
        )  # fmt: skip
        return Residuals(tuple(made.get(layer) for layer in range(self.layers)))


def to_zimage_input(x: Tensor) -> list[Tensor]:
    """Convert (b, c, h, w) to Z-Image's input: a list of (c, 1, h, w)."""
    return list(x[:, :, None])


def zimage_time(t: Tensor) -> Tensor:
    """Return Z-Image's time input: 1 - sigma, in float32 and in this order of operations."""
    return (1000 - t) / 1000


def spread_over_blocks(made: Sequence[Tensor] | None, blocks: int) -> list[Tensor | None]:
    """Return one tensor per block: each is used for equally many consecutive blocks."""
    if made is None:
        return [None] * blocks
    each = math.ceil(blocks / len(made))
    return [made[k // each] for k in range(blocks)]


def alternate_over_blocks(made: Sequence[Tensor] | None, blocks: int) -> list[Tensor | None]:
    """Return one tensor per block: they alternate."""
    return [None] * blocks if made is None else [made[k % len(made)] for k in range(blocks)]


def on_first(part: Tensor, tokens: int) -> Tensor:
    """Pad (b, n, width) with zeros, so that nothing is added to the tokens after those of the noise."""
    import torch.nn.functional as F

    return F.pad(part, (0, 0, 0, tokens - part.shape[1])) if part.shape[1] < tokens else part


def fill_missing(parts: Sequence[Tensor | None]) -> list[Tensor] | None:
    """Return residuals as diffusers takes them: a tensor for each block, or None."""
    import torch

    like = next((part for part in parts if part is not None), None)
    return None if like is None else [torch.zeros_like(like) if part is None else part for part in parts]


def with_tables(network: Any) -> Any:
    """Give a Qwen-Image network its table of positions, which is not a buffer and was not created with the weights."""
    place = network.pos_embed
    network.pos_embed = type(place)(theta=place.theta, axes_dim=place.axes_dim, scale_rope=place.scale_rope)
    return network


def beside_transformer(network: Any, transformer: Any) -> Any:
    """Give a Z-Image ControlNet the embedders of its transformer, which are not saved with it. The outermost module is
    a copy, so the network can be used with another transformer too.
    """
    from editkit.models.files.skeleton import meta_skeleton

    with meta_skeleton():
        own = type(network).from_config(network.config).eval()
    for name, part in network.named_children():
        setattr(own, name, part)
    own = type(network).from_transformer(own, transformer)
    own.gradient_checkpointing = False  # diffusers 0.42 reads it when gradients flow, but does not set it
    return own


def flux_controlnet(config: Mapping[str, Any], transformer: Any, model: str) -> type[Any]:
    """Return the class of a FLUX.1 ControlNet; raise ModelError if it does not fit."""
    from diffusers import FluxControlNetModel

    pairs = {"width": (_width(config, 24 * 128), _width(transformer, 24 * 128))}
    for key, usual in (("joint_attention_dim", 4096), ("pooled_projection_dim", 768)):
        pairs[key] = int(config.get(key) or usual), int(transformer.get(key) or usual)
    _fit("FluxControlNetModel", config, pairs, model)
    found: type[Any] = FluxControlNetModel
    return found


def qwen_controlnet(config: Mapping[str, Any], transformer: Any, model: str) -> type[Any]:
    """Like `flux_controlnet`, for Qwen-Image."""
    from diffusers import QwenImageControlNetModel

    pairs = {"width": (_width(config, 24 * 128), _width(transformer, 24 * 128))}
    for key, usual in (("joint_attention_dim", 3584), ("in_channels", 64)):
        pairs[key] = int(config.get(key) or usual), int(transformer.get(key) or usual)
    _fit("QwenImageControlNetModel", config, pairs, model)
    found: type[Any] = QwenImageControlNetModel
    return found


def zimage_controlnet(config: Mapping[str, Any], transformer: Any, model: str) -> type[Any]:
    """Like `flux_controlnet`, for Z-Image: 16 channels, or 33 (hint, mask and masked picture) for inpainting."""
    from diffusers import ZImageControlNetModel

    latent, shown = int(transformer.get("in_channels") or 16), int(config.get("control_in_dim") or 0)
    pairs = {"dim": (int(config.get("dim") or 3840), int(transformer.get("dim") or 3840))}
    _fit("ZImageControlNetModel", config, pairs, model)
    if shown not in (latent, 2 * latent + 1):
        raise ModelError(f"has {shown} hint channels; supported are {latent} and {2 * latent + 1}")
    found: type[Any] = ZImageControlNetModel
    return found


def _width(config: Any, usual: int) -> int:
    return int(config.get("num_attention_heads") or 0) * int(config.get("attention_head_dim") or 0) or usual


def _fit(kind: str, config: Mapping[str, Any], pairs: Mapping[str, tuple[int, int]], model: str) -> None:
    found = config.get("_class_name")
    if found != kind:
        raise ModelError(f"is a {found}; {model} needs a {kind}")
    wrong = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    if wrong:
        mine, theirs = (", ".join(f"{key} {pair[k]}" for key, pair in wrong.items()) for k in (0, 1))
        raise ModelError(f"was made for another model: it has {mine}; {model} has {theirs}")
