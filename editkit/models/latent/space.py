"""What all latent models share: the VAE's space, and texts split by a tokenizer's length."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from editkit.common.notify import Notify, silent
from editkit.errors import ModelError
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.diffusion.conditioning import Conditioning
    from editkit.diffusion.noise import Stream


def vae_factor(vae: Mapping[str, Any]) -> int:
    """Return the side of one latent value, in pixels."""
    return int(2 ** (len(vae.get("block_out_channels", (1, 2, 3, 4))) - 1))


def load_vae(layout: Layout, dtype: torch.dtype, device: torch.device) -> Any:
    """Load a model's AutoencoderKL, in float32 if it is known to overflow in float16 (`force_upcast`)."""
    import torch
    from diffusers import AutoencoderKL

    overflows = dtype == torch.float16 and bool(layout.config("vae").get("force_upcast", True))
    return load_network(layout, "vae", AutoencoderKL, torch.float32 if overflows else dtype, device)


LONGEST = 4096
"""Most tokens per row of a text encoder (CLIP: 77). Tokenizers without a configuration report 10^30."""


class LatentSpace:
    """The parts of `Model` that an AutoencoderKL determines.

    Args:
        vae: on its device, in its dtype.
        channels, factor: latent channels, and pixels per latent side, if its configuration has them under other keys.
    """

    data_std: float = 1.0

    def __init__(self, vae: Any, channels: int | None = None, factor: int | None = None) -> None:
        scale = getattr(vae.config, "scaling_factor", 1.0)
        if not isinstance(scale, (int, float)) or not 0.0 < abs(scale) < math.inf:
            raise ModelError(f"the VAE's configuration has the scaling_factor {str(scale)[:40]}; it must be a number")
        self.vae = vae
        self.chosen: Sequence[str] = ()
        self.notify: Notify = silent
        self.channels = int(vae.config.latent_channels) if channels is None else channels
        self.factor = vae_factor(vae.config) if factor is None else factor

    def leased(self) -> Self:
        """Return a copy for one edit, with its own notices, tiles and VAE; the networks are shared."""
        return copy.copy(self)

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return (self.channels, height // self.factor, width // self.factor)

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        """Return a scaled draw from the VAE's posterior, or its mode without a stream. For overflows see `decode`."""
        posterior = self._finite(
            lambda vae: vae.encode(image.to(vae.dtype)).latent_dist, lambda made: made.mean, "a picture"
        )
        mean = posterior.mean.float()
        if stream is not None:
            mean = mean + posterior.std.float() * stream.normal(mean.shape).to(mean.device)
        return self.normalised(mean)

    def normalised(self, latent: Tensor) -> Tensor:
        """Convert the VAE's latents to those of the network."""
        shift, scale = self._shift_and_scale(latent)
        return (latent - shift) * scale

    def denormalised(self, x0: Tensor) -> Tensor:
        """Convert the network's latents to those of the VAE."""
        shift, scale = self._shift_and_scale(x0)
        return x0 / scale + shift

    def _shift_and_scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return shift and scale: latents for the UNet are (VAE's - shift) * scale, by channel if the VAE says so."""
        config = self.vae.config
        scale = like.new_tensor(config.scaling_factor)
        if getattr(config, "latents_mean", None) is not None and getattr(config, "latents_std", None) is not None:
            mean, std = (
                like.new_tensor(values).reshape(1, -1, 1, 1) for values in (config.latents_mean, config.latents_std)
            )
            return mean, scale / std
        return like.new_tensor(getattr(config, "shift_factor", None) or 0.0), scale

    def encode_mask(self, mask: Tensor) -> Tensor:
        """A latent value is regenerated when any of its pixels is."""
        import torch.nn.functional as F

        return (F.max_pool2d(mask, self.factor) > 0).to(mask.dtype)

    def mask_and_known(self, cond: Conditioning, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mask, masked picture) for the batch; without a plugin that sets them, everything is regenerated."""
        batch, _, height, width = x_t.shape
        mask, known = cond.mask, cond.known
        if mask is None or known is None:
            mask = x_t.new_ones(1, 1, height, width)
            known = self.encode(x_t.new_zeros(1, 3, self.factor * height, self.factor * width))
        return mask.expand(batch, -1, -1, -1), known.expand(batch, -1, -1, -1)

    def decode(self, x0: Tensor) -> Tensor:
        """Decode to pixels; if the VAE overflows in half precision, decode again in float32 and stay in float32.

        Raises:
            ModelError: the result contains NaN or infinity even so.
        """
        latents = self.denormalised(x0)
        image: Tensor = self._finite(
            lambda vae: vae.decode(latents.to(vae.dtype)).sample.float(), lambda made: made, "finite latents"
        )
        return image

    def _finite(self, run: Callable[[Any], Any], values: Callable[[Any], Tensor], of: str) -> Any:
        """Call `run` with the VAE; if its `values` overflow, call it again with the VAE in float32."""
        import torch

        made = run(self.vae)
        if self.vae.dtype != torch.float32 and not bool(torch.isfinite(values(made).float().sum())):
            self.notify("the VAE overflowed in half precision; it was run again in float32")
            self.vae = in_float32(self.vae, values(made).device)
            made = run(self.vae)
        if not bool(torch.isfinite(values(made).float().sum())):
            raise ModelError(f"the VAE made NaN or infinity of {of}; no picture was written")
        return made

    @property
    def tile_side(self) -> int | None:
        """Side of a decoded VAE tile, in pixels. None: diffusers has no tiling for this VAE."""
        side = getattr(self.vae, "tile_sample_min_size", None)
        return None if side is None else int(side)

    def tile(self) -> None:
        """Encode and decode large pictures in tiles from now on (diffusers' tiling)."""
        self.vae = copy.copy(self.vae)  # only the outermost module: other edits are not tiled
        self.vae.enable_tiling()


def in_float32(vae: Any, device: torch.device) -> Any:
    """Return a copy of `vae` on `device` with float32 weights."""
    import torch

    from editkit.models.files.skeleton import meta_skeleton

    with meta_skeleton():
        made = type(vae).from_config(vae.config)
    if any(weight.is_meta for weight in vae.parameters()):  # accelerate loads them on demand and removes them again
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        weights = get_state_dict_offloaded_model(vae)
    else:
        weights = vae.state_dict()
    wide = {name: torch.float32 if weight.is_floating_point() else weight.dtype for name, weight in weights.items()}
    made.load_state_dict({name: weight.to(device, wide[name]) for name, weight in weights.items()}, assign=True)
    for option in ("use_tiling", "use_slicing"):
        if hasattr(vae, option):  # a VQModel has neither
            setattr(made, option, getattr(vae, option))
    return made.eval().requires_grad_(False)


def chunks(tokenizer: Any, text: str, least: int = 1) -> Any:
    """Split `text` into padded rows of the tokenizer's length, each with its start and end tokens.

    A text that fits is one row, exactly as in the pipelines. Longer ones are split every 75 tokens, as is usual: the
    rows are encoded separately and concatenated. Empty rows are added up to `least`.
    """
    from editkit.common.process import READING

    most = int(tokenizer.model_max_length)
    if not 3 <= most <= LONGEST:
        raise ModelError(
            f"the tokenizer takes texts of {most:.3g} tokens; is its tokenizer_config.json there, and of this model? "
            f"3 to {LONGEST} are known"
        )
    with READING:
        whole = tokenizer(text, verbose=False).input_ids
        first, inner, last = whole[0], whole[1:-1], whole[-1]
        rows = [inner[k : k + most - 2] for k in range(0, max(len(inner), 1), most - 2)]
        rows += [[]] * (least - len(rows))
        given = {"input_ids": [[first, *row, last] for row in rows]}
        return tokenizer.pad(given, padding="max_length", max_length=most, return_tensors="pt")


def token_count(tokenizer: Any, text: str) -> int:
    """Return the number of tokens of `text`, including those at both ends."""
    from editkit.common.process import READING

    with READING:
        return len(tokenizer(text, verbose=False).input_ids)


def tokenize_padded(tokenizer: Any, text: str, length: int) -> Any:
    """Tokenise `text` into one row, padded to `length`."""
    from editkit.common.process import READING

    with READING:
        return tokenizer(text, padding="max_length", max_length=length, return_tensors="pt")


def to_encoder_device(ids: Tensor, encoder: Any) -> Tensor:
    """Move tokens to their encoder's device; an encoder with offloaded weights moves them itself."""
    return ids if encoder.device.type == "meta" else ids.to(encoder.device)


def side_by_side(states: Tensor) -> Tensor:
    """Join the rows (n, tokens, width) of one text: (1, n * tokens, width)."""
    return states.reshape(1, -1, states.shape[-1])


def pad_to_longest(embeds: Sequence[Tensor], empty: Callable[[], Tensor]) -> list[Tensor]:
    """Pad texts to the length of the longest with rows of the empty text."""
    import torch

    longest = max(e.shape[1] for e in embeds)
    if all(e.shape[1] == longest for e in embeds):
        return list(embeds)
    row = empty()
    missing = [(longest - e.shape[1]) // row.shape[1] for e in embeds]
    return [torch.cat([e, *[row.expand(len(e), -1, -1)] * n], dim=1) for e, n in zip(embeds, missing, strict=True)]
