"""The x4 upscaler (Rombach et al. 2022, arXiv:2112.10752, section 4.4): latent diffusion conditioned on a small
picture.

Its UNet takes the latents and the small picture at the same size (4 + 3 channels). Noise from a separate schedule is
added to the small picture, and its level is the class; more noise makes the result freer. A side of one latent value is
`factor` (4) pixels of the result and one pixel of the small picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.schedule import Schedule
from editkit.errors import ModelError, UsageError
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_text_encoder
from editkit.models.latent.space import load_vae, vae_factor
from editkit.models.latent.unet import STEPS, LatentUNet
from editkit.models.schedules import default_sampler, make_schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOWN = "the x4 upscaler (UNet2DConditionModel of latents and a small picture, AutoencoderKL, CLIPTextModel)"
GUIDANCE = 9.0
"""The guidance scale, diffusers' default."""
NOISE_LEVEL = 20
"""The default noise level of the small picture, as in diffusers."""

_NEEDED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "low_res_scheduler")


def matches(layout: Layout) -> bool:
    """Whether the folder is a pipeline with a scheduler for the small picture."""
    return bool(layout.index) and layout.has("unet") and layout.has("low_res_scheduler")


def describe(layout: Layout) -> ModelInfo:
    """Describe the model like Stable Diffusion, with `lowres`."""
    layout.require(*_NEEDED)
    unet, vae = layout.config("unet"), layout.config("vae")
    latent, channels = int(vae.get("latent_channels", 4)), int(unet.get("in_channels", 7))
    if channels != latent + 3 or not unet.get("num_class_embeds"):
        raise ModelError(
            f"model {layout.name}: its UNet takes {channels} channels and {unet.get('num_class_embeds') or 'no'} noise "
            f"levels; an upscaler's takes {latent + 3} and several"
        )
    sampler, factor = default_sampler(layout.config("scheduler")), vae_factor(vae)
    window = factor * int(unet.get("sample_size") or 128)
    takes = frozenset({"prompt", "lowres", "noise_level"})
    return ModelInfo(
        layout.name, KNOWN, takes, sampler, STEPS.get(sampler, 50), window, 3 * window // 4, factor, guidance=GUIDANCE
    )


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the model with its networks in `dtype`, except a VAE that needs more precision."""
    from editkit.models.fast.blocks import load_unet

    unet, vae = load_unet(layout, dtype, device), load_vae(layout, dtype, device)
    tokenizer, text_encoder = load_text_encoder(layout, "tokenizer", "text_encoder", dtype, device)
    scheduler, small = layout.config("scheduler"), make_schedule(layout.config("low_res_scheduler"))
    return LatentUpscaler(info, unet, vae, tokenizer, text_encoder, make_schedule(scheduler), scheduler, small)


class LatentUpscaler(LatentUNet):
    """The upscaler as a `Model`, with 4 latent channels and the small picture (`NoisesLowres`).

    Args:
        info, unet, vae, tokenizer, text_encoder, schedule, scheduler: see `LatentUNet`.
        small: the noise schedule for the small picture.
    """

    def __init__(
        self,
        info: ModelInfo,
        unet: Any,
        vae: Any,
        tokenizer: Any,
        text_encoder: Any,
        schedule: Schedule,
        scheduler: Mapping[str, Any],
        small: Schedule,
    ) -> None:
        super().__init__(info, unet, vae, tokenizer, text_encoder, schedule, scheduler)
        self.small = small
        self.noise_levels = int(unet.config.num_class_embeds)

    def noised(self, lowres: Tensor, noise_level: int, z: Tensor) -> Tensor:
        """Return alpha * lowres + sigma * z at `noise_level`, the value for `Conditioning.lowres`.

        Args:
            lowres: (batch, 3, h, w) in [-1, 1], at the size of the latents.
            z: noise of the same shape, the same for the whole process.

        Raises:
            UsageError: the network does not have this level.
        """
        if not 0 <= noise_level < self.noise_levels:
            raise UsageError(
                f"the noise level is {noise_level}; model {self.info.name} has levels 0 to {self.noise_levels - 1}"
            )
        level = self.small.level(float(noise_level))
        return level.alpha * lowres + level.sigma * z

    def _extra(self, cond: Conditioning, x_t: Tensor) -> tuple[Tensor, ...]:
        """Return the small picture; a larger one is resized to the latents."""
        import torch.nn.functional as F

        if cond.lowres is None:
            raise ModelError(
                f"model {self.info.name} enlarges a small picture, and none was given; use it with the plugin upscale"
            )
        lowres = cond.lowres
        if lowres.shape[-2:] != x_t.shape[-2:]:
            lowres = F.interpolate(lowres, x_t.shape[-2:], mode="area")
        return (lowres.expand(len(x_t), -1, -1, -1),)

    def labels(self, conds: Sequence[Conditioning], x_t: Tensor) -> Tensor:
        """Return the noise level of the small picture; 0 without one."""
        import torch

        levels = torch.tensor([cond.noise_level or 0 for cond in conds], device=x_t.device)
        return levels.repeat_interleave(len(x_t))
