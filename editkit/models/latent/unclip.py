"""Stable unCLIP (after Ramesh et al. 2022, arXiv:2204.06125): Stable Diffusion 2.1 conditioned on the image embedding
of a picture as well as on a text.

The embedding is noised to `noise_level` and concatenated with a sinusoidal embedding of that level; the UNet takes both
as its class embedding. Without an image embedding it is zero, as in training when the picture was dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from editkit.diffusion.conditioning import Conditioning, Embedding
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.schedule import Discrete
from editkit.errors import ModelError, UsageError
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network, load_text_encoder
from editkit.models.latent.space import load_vae
from editkit.models.latent.unet import LatentUNet, describe_unet
from editkit.models.schedules import make_schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor


KNOWN = "Stable unCLIP (UNet2DConditionModel that takes an image embedding, AutoencoderKL, CLIPTextModel)"
GUIDANCE = 10.0
"""diffusers' default."""
STEPS = 20
NORMALIZER, NOISING = "image_normalizer", "image_noising_scheduler"


def matches(layout: Layout) -> bool:
    """Whether the folder is a pipeline with a UNet, a VAE and the statistics of image embeddings."""
    return bool(layout.index) and all(layout.has(part) for part in ("unet", "vae", NORMALIZER))


def describe(layout: Layout) -> ModelInfo:
    """Describe the model like Stable Diffusion, with an image embedding."""
    needed = ("text_encoder", "tokenizer", "scheduler", "image_encoder", NOISING)
    missing = [part for part in needed if not layout.has(part)]
    if missing:
        raise ModelError(
            f"model {layout.name}: {', '.join(missing)} missing; of Stable unCLIP's folders the one for pictures is "
            f"needed (StableUnCLIPImg2ImgPipeline)"
        )
    info = describe_unet(layout, KNOWN, GUIDANCE)
    return replace(info, takes=info.takes | {"embedding"}, steps=STEPS)


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the model with its networks in `dtype`; plugins that use a picture load the image encoder."""
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

    from editkit.models.fast.blocks import load_unet

    unet, vae = load_unet(layout, dtype, device), load_vae(layout, dtype, device)
    tokenizer, encoder = load_text_encoder(layout, "tokenizer", "text_encoder", dtype, device)
    normalizer = load_network(layout, NORMALIZER, StableUnCLIPImageNormalizer, dtype, device)
    noising = make_schedule(layout.config(NOISING))
    if not isinstance(noising, Discrete):
        raise ModelError(f"model {layout.name}: {NOISING} has no noise schedule")
    return UnClip(info, unet, vae, tokenizer, encoder, layout.config("scheduler"), normalizer, noising)


class UnClip(LatentUNet):
    """Stable unCLIP's UNet as a `Model`.

    Args:
        info, unet, vae, tokenizer, text_encoder, scheduler: see `LatentUNet`.
        normalizer: `mean` and `std` of embeddings, (1, width).
        noising: the noise schedule for embeddings.
    """

    def __init__(
        self, info: ModelInfo, unet: Any, vae: Any, tokenizer: Any, text_encoder: Any, scheduler: Mapping[str, Any],
        normalizer: Any, noising: Discrete,
    ) -> None:  # fmt: skip
        super().__init__(info, unet, vae, tokenizer, text_encoder, make_schedule(scheduler), scheduler)
        self.normalizer, self.noising = normalizer, noising

    @property
    def embedding_width(self) -> int:
        """Width of the image embedding."""
        return int(self.normalizer.mean.shape[-1])

    def prepare_embedding(
        self, embedding: Tensor, none: Tensor, noise_level: int, draw: Callable[[], Tensor]
    ) -> Embedding:
        """Return `embedding` (n, width), noised with `draw()`, with its level; zeros without an embedding.

        Raises:
            UsageError: the noise level is outside the schedule.
        """
        import torch
        from diffusers.models.embeddings import get_timestep_embedding

        most = len(self.noising.alphas_cumprod)
        if not 0 <= noise_level < most:
            raise UsageError(f"the noise level is {noise_level}; model {self.info.name} has 0 to {most - 1}")
        kept = float(self.noising.alphas_cumprod[noise_level])
        mean, std = self.normalizer.mean.float(), self.normalizer.std.float()
        noised = (kept**0.5 * (embedding.float() - mean) / std + (1.0 - kept) ** 0.5 * draw()) * std + mean
        levels = torch.full((len(embedding),), noise_level, device=embedding.device)
        level_embedding = get_timestep_embedding(
            levels, embedding.shape[-1], flip_sin_to_cos=True, downscale_freq_shift=0
        )
        values = torch.cat([noised, level_embedding.to(noised)], dim=1)
        return Embedding(values, torch.zeros_like(values))

    def labels(self, conds: Sequence[Conditioning], x_t: Tensor) -> Tensor:
        import torch

        zeros = x_t.new_zeros(1, 2 * self.embedding_width)
        rows = [zeros if cond.embedding is None else cond.embedding.values for cond in conds]
        return torch.cat([row.expand(len(x_t), -1) for row in rows]).to(x_t.device, self.unet.dtype)
