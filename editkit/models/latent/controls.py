"""ControlNets of transformers: FLUX.1's (InstantX's form, a union of which takes several kinds of hint; XLabs' form,
with layers of its own for the hint), Qwen-Image's and Z-Image's, for inpainting too.

Each is called in the way of its own class and gives a tensor behind each block of the transformer. A ControlNet has
fewer blocks than its transformer: one of its tensors serves several blocks in a row (XLabs: they take turns).
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
        hint: what it is shown; by windows, (windows * batch, ...).
        scale: what its residuals are multiplied by.
        wanted_only: in guidance, it acts on the wanted branch alone.
    """

    network: Any
    hint: Tensor
    scale: float
    wanted_only: bool

    def cut(self, spots: Sequence[tuple[slice, slice]], size: Sequence[int]) -> Self:
        return replace(self, hint=cut_like(self.hint, spots, size))

    def _hint(self, given: Given) -> Tensor:
        """For every item of `given`, in the network's numbers."""
        return self.hint.to(given.x.device, self.network.dtype).repeat(len(given.x) // len(self.hint), 1, 1, 1)


@dataclass(frozen=True, eq=False)
class FluxControl(TokenControl):
    """A FluxControlNetModel beside a transformer of `counts` (double, single) blocks; `kind` of the hint: a union's."""

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
        first = in_turn(double, self.counts[0]) if own else in_a_row(double, self.counts[0])
        return Residuals((*first, *in_a_row(single, self.counts[1])))


@dataclass(frozen=True, eq=False)
class QwenControl(TokenControl):
    """A QwenImageControlNetModel beside a transformer of so many `layers`."""

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
        return Residuals(tuple(in_a_row(made, self.layers)))


@dataclass(frozen=True, eq=False)
class ZImageControl(TokenControl):
    """A ZImageControlNetModel beside a transformer of so many `layers`."""

    layers: int

    def __call__(self, given: Given) -> Residuals:
        net, words = self.network, [] if given.words is None else list(given.words)
        made = net(
            listed(given.x.to(net.dtype)), told_time(given.t), [text.to(net.dtype) for text in words],
            listed(self._hint(given)), conditioning_scale=self.scale,
        )  # fmt: skip
        return Residuals(tuple(made.get(layer) for layer in range(self.layers)))


def listed(x: Tensor) -> list[Tensor]:
    """(b, c, h, w) as Z-Image is given it: an item is (c, 1, h, w)."""
    return list(x[:, :, None])


def told_time(t: Tensor) -> Tensor:
    """What Z-Image is told of the time: 1 - sigma, in float32 and in this order."""
    return (1000 - t) / 1000


def in_a_row(made: Sequence[Tensor] | None, blocks: int) -> list[Tensor | None]:
    """A tensor a block: each one serves as many blocks in a row."""
    if made is None:
        return [None] * blocks
    each = math.ceil(blocks / len(made))
    return [made[k // each] for k in range(blocks)]


def in_turn(made: Sequence[Tensor] | None, blocks: int) -> list[Tensor | None]:
    """A tensor a block: they take turns."""
    return [None] * blocks if made is None else [made[k % len(made)] for k in range(blocks)]


def on_first(part: Tensor, tokens: int) -> Tensor:
    """(b, n, width) with zeros behind: nothing is added to what stands behind the noise's tokens."""
    import torch.nn.functional as F

    return F.pad(part, (0, 0, 0, tokens - part.shape[1])) if part.shape[1] < tokens else part


def whole(parts: Sequence[Tensor | None]) -> list[Tensor] | None:
    """Residuals as diffusers takes them: a tensor for each block, or None."""
    import torch

    like = next((part for part in parts if part is not None), None)
    return None if like is None else [torch.zeros_like(like) if part is None else part for part in parts]


def with_tables(network: Any) -> Any:
    """A network of Qwen-Image with its table of positions, which is no buffer and was not made with the weights."""
    place = network.pos_embed
    network.pos_embed = type(place)(theta=place.theta, axes_dim=place.axes_dim, scale_rope=place.scale_rope)
    return network


def beside_transformer(network: Any, transformer: Any) -> Any:
    """A Z-Image ControlNet with the embedders of its transformer, which it has not saved. The outermost module is
    another one: who uses the network beside another transformer has his own.
    """
    from editkit.models.files.skeleton import without_values

    with without_values():
        own = type(network).from_config(network.config).eval()
    for name, part in network.named_children():
        setattr(own, name, part)
    own = type(network).from_transformer(own, transformer)
    own.gradient_checkpointing = False  # diffusers 0.42 asks for it where gradients flow, and does not set it
    return own


def flux_controlnet(config: Mapping[str, Any], transformer: Any, model: str) -> type[Any]:
    """The class of a FLUX.1 ControlNet that fits; raises ModelError where it does not."""
    from diffusers import FluxControlNetModel

    pairs = {"width": (_width(config, 24 * 128), _width(transformer, 24 * 128))}
    for key, usual in (("joint_attention_dim", 4096), ("pooled_projection_dim", 768)):
        pairs[key] = int(config.get(key) or usual), int(transformer.get(key) or usual)
    _fit("FluxControlNetModel", config, pairs, model)
    found: type[Any] = FluxControlNetModel
    return found


def qwen_controlnet(config: Mapping[str, Any], transformer: Any, model: str) -> type[Any]:
    """As `flux_controlnet`, of Qwen-Image."""
    from diffusers import QwenImageControlNetModel

    pairs = {"width": (_width(config, 24 * 128), _width(transformer, 24 * 128))}
    for key, usual in (("joint_attention_dim", 3584), ("in_channels", 64)):
        pairs[key] = int(config.get(key) or usual), int(transformer.get(key) or usual)
    _fit("QwenImageControlNetModel", config, pairs, model)
    found: type[Any] = QwenImageControlNetModel
    return found


def zimage_controlnet(config: Mapping[str, Any], transformer: Any, model: str) -> type[Any]:
    """As `flux_controlnet`, of Z-Image: 16 channels, or 33, which for inpainting are hint, mask and masked picture."""
    from diffusers import ZImageControlNetModel

    latent, shown = int(transformer.get("in_channels") or 16), int(config.get("control_in_dim") or 0)
    pairs = {"dim": (int(config.get("dim") or 3840), int(transformer.get("dim") or 3840))}
    _fit("ZImageControlNetModel", config, pairs, model)
    if shown not in (latent, 2 * latent + 1):
        raise ModelError(f"has {shown} channels for its hint; known are {latent} and {2 * latent + 1}")
    found: type[Any] = ZImageControlNetModel
    return found


def _width(config: Any, usual: int) -> int:
    return int(config.get("num_attention_heads") or 0) * int(config.get("attention_head_dim") or 0) or usual


def _fit(kind: str, config: Mapping[str, Any], pairs: Mapping[str, tuple[int, int]], model: str) -> None:
    found = config.get("_class_name")
    if found != kind:
        raise ModelError(f"is a {found}; for {model} a {kind} is needed")
    wrong = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    if wrong:
        mine, theirs = (", ".join(f"{key} {pair[k]}" for key, pair in wrong.items()) for k in (0, 1))
        raise ModelError(f"was made for another model: it has {mine}; {model} has {theirs}")
