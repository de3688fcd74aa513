"""What models of latents share, whatever their network: the VAE's space, and text cut to a tokenizer's length."""

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
    """Pixels a side of one latent value."""
    return int(2 ** (len(vae.get("block_out_channels", (1, 2, 3, 4))) - 1))


def load_vae(layout: Layout, dtype: torch.dtype, device: torch.device) -> Any:
    """A model's AutoencoderKL: in float32 where it is known to overflow in float16 (`force_upcast`)."""
    import torch
    from diffusers import AutoencoderKL

    overflows = dtype == torch.float16 and bool(layout.config("vae").get("force_upcast", True))
    return load_network(layout, "vae", AutoencoderKL, torch.float32 if overflows else dtype, device)


LONGEST = 4096
"""Tokens of a row that a text encoder reads: CLIP's are 77. Tokenizers without a configuration say 10^30."""


class LatentSpace:
    """The parts of `Model` that an AutoencoderKL decides.

    Args:
        vae: on its device, in its dtype.
        channels, factor: of its latents, and pixels a side of one, where its configuration says them in another way.
    """

    data_std: float = 1.0

    def __init__(self, vae: Any, channels: int | None = None, factor: int | None = None) -> None:
        scale = getattr(vae.config, "scaling_factor", 1.0)
        if not isinstance(scale, (int, float)) or not 0.0 < abs(scale) < math.inf:
            raise ModelError(f"the VAE's configuration has the scaling_factor {str(scale)[:40]}; a number is needed")
        self.vae = vae
        self.chosen: Sequence[str] = ()
        self.notify: Notify = silent
        self.channels = int(vae.config.latent_channels) if channels is None else channels
        self.factor = vae_factor(vae.config) if factor is None else factor

    def leased(self) -> Self:
        """A copy for one edit: whom it tells, its tiles and its VAE are its own, the networks everybody's."""
        return copy.copy(self)

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return (self.channels, height // self.factor, width // self.factor)

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        """A draw from the VAE's posterior, or its mode without a stream, scaled. Overflows are as for `decode`."""
        posterior = self._finite(
            lambda vae: vae.encode(image.to(vae.dtype)).latent_dist, lambda made: made.mean, "a picture"
        )
        mean = posterior.mean.float()
        if stream is not None:
            mean = mean + posterior.std.float() * stream.normal(mean.shape).to(mean.device)
        return self.normalised(mean)

    def normalised(self, latent: Tensor) -> Tensor:
        """What the network works on, of the VAE's latents."""
        shift, scale = self._shift_and_scale(latent)
        return (latent - shift) * scale

    def denormalised(self, x0: Tensor) -> Tensor:
        """The VAE's latents, of what the network works on."""
        shift, scale = self._shift_and_scale(x0)
        return x0 / scale + shift

    def _shift_and_scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Latents for the UNet are (VAE's - shift) * scale; by channel where the VAE says so."""
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
        """(mask, masked picture) for the batch; where no plugin gives them, everything is to be made."""
        batch, _, height, width = x_t.shape
        mask, known = cond.mask, cond.known
        if mask is None or known is None:
            mask = x_t.new_ones(1, 1, height, width)
            known = self.encode(x_t.new_zeros(1, 3, self.factor * height, self.factor * width))
        return mask.expand(batch, -1, -1, -1), known.expand(batch, -1, -1, -1)

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels; where the VAE overflows in half precision, once more in float32, which it then stays in.

        Raises:
            ModelError: there is NaN or infinity in them all the same.
        """
        latents = self.denormalised(x0)
        image: Tensor = self._finite(
            lambda vae: vae.decode(latents.to(vae.dtype)).sample.float(), lambda made: made, "finite latents"
        )
        return image

    def _finite(self, run: Callable[[Any], Any], values: Callable[[Any], Tensor], of: str) -> Any:
        """What `run` makes with the VAE; where its `values` overflow, once more with the VAE in float32."""
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
    def tile_side(self) -> int:
        """Pixels a side of what the VAE decodes at once when it works in tiles."""
        return int(self.vae.tile_sample_min_size)

    def tile(self) -> None:
        """Encode and decode large pictures tile by tile from now on (diffusers' tiling)."""
        self.vae = copy.copy(self.vae)  # the outermost module alone: others see no tiles
        self.vae.enable_tiling()


def in_float32(vae: Any, device: torch.device) -> Any:
    """A copy of `vae` on `device`, its weights in float32."""
    import torch

    from editkit.models.files.skeleton import without_values

    with without_values():
        made = type(vae).from_config(vae.config)
    if any(weight.is_meta for weight in vae.parameters()):  # they are brought when they are needed, and taken away
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        weights = get_state_dict_offloaded_model(vae)
    else:
        weights = vae.state_dict()
    wide = {name: torch.float32 if weight.is_floating_point() else weight.dtype for name, weight in weights.items()}
    made.load_state_dict({name: weight.to(device, wide[name]) for name, weight in weights.items()}, assign=True)
    made.use_tiling, made.use_slicing = vae.use_tiling, vae.use_slicing
    return made.eval().requires_grad_(False)


def chunks(tokenizer: Any, text: str, least: int = 1) -> Any:
    """`text` as so many rows of the tokenizer's length as it takes, each with its beginning and end, padded.

    A text that fits is one row, exactly as the pipelines read it. Longer ones are cut every 75 tokens, as is usual: the
    rows are encoded apart and stand side by side. Fewer rows than `least` are followed by empty ones.
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


def length(tokenizer: Any, text: str) -> int:
    """How many tokens `text` is, with those at both ends."""
    from editkit.common.process import READING

    with READING:
        return len(tokenizer(text, verbose=False).input_ids)


def padded(tokenizer: Any, text: str, length: int) -> Any:
    """`text` as one row of tokens, filled up to `length`."""
    from editkit.common.process import READING

    with READING:
        return tokenizer(text, padding="max_length", max_length=length, return_tensors="pt")


def beside(ids: Tensor, encoder: Any) -> Tensor:
    """Tokens where their encoder computes; one whose weights are elsewhere until it is called moves them itself."""
    return ids if encoder.device.type == "meta" else ids.to(encoder.device)


def side_by_side(states: Tensor) -> Tensor:
    """Rows (n, tokens, width) of one text as one, (1, n * tokens, width)."""
    return states.reshape(1, -1, states.shape[-1])


def evened(embeds: Sequence[Tensor], empty: Callable[[], Tensor]) -> list[Tensor]:
    """Texts of different length at the length of the longest: further rows are those of the empty text."""
    import torch

    longest = max(e.shape[1] for e in embeds)
    if all(e.shape[1] == longest for e in embeds):
        return list(embeds)
    row = empty()
    missing = [(longest - e.shape[1]) // row.shape[1] for e in embeds]
    return [torch.cat([e, *[row.expand(len(e), -1, -1)] * n], dim=1) for e, n in zip(embeds, missing, strict=True)]
