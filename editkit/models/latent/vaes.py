"""The latent spaces of newer VAEs, like `LatentSpace` for AutoencoderKL: FLUX.2's, with patched latents, and
Qwen-Image's, a video VAE used with one frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from editkit.models.latent.space import LatentSpace, vae_factor

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.diffusion.noise import Stream


class PatchedSpace(LatentSpace):
    """The space of AutoencoderKLFlux2 (FLUX.2): 2 x 2 latents form the channels of one value, 16 pixels a side,
    standardised by the statistics of the VAE's batch norm.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__(vae, 4 * int(vae.config.latent_channels), 2 * vae_factor(vae.config))

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        """Return the posterior's mode; nothing is drawn, as in diffusers' pipelines."""
        return super().encode(image)

    def normalised(self, latent: Tensor) -> Tensor:
        import torch.nn.functional as F

        patches = F.pixel_unshuffle(latent, 2)
        mean, std = self._statistics(patches)
        return (patches - mean) / std

    def denormalised(self, x0: Tensor) -> Tensor:
        import torch.nn.functional as F

        mean, std = self._statistics(x0)
        return F.pixel_shuffle(x0 * std + mean, 2)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.vae.bn
        mean, variance = (
            s.reshape(1, -1, 1, 1).to(like.device, like.dtype) for s in (norm.running_mean, norm.running_var)
        )
        return mean, (variance + self.vae.config.batch_norm_eps).sqrt()


def film_factor(vae: Mapping[str, Any]) -> int:
    """Return the side of one latent value of an AutoencoderKLQwenImage, in pixels."""
    return int(2 ** len(vae.get("temperal_downsample", (False, True, True))))


class FilmSpace(LatentSpace):
    """The space of AutoencoderKLQwenImage: one frame, standardised channel by channel."""

    def __init__(self, vae: Any) -> None:
        super().__init__(vae, int(vae.config.z_dim), film_factor(vae.config))

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        posterior = self._finite(
            lambda vae: vae.encode(image[:, :, None].to(vae.dtype)).latent_dist, lambda made: made.mean, "a picture"
        )
        mean = posterior.mean[:, :, 0].float()
        if stream is not None:
            mean = mean + posterior.std[:, :, 0].float() * stream.normal(mean.shape).to(mean.device)
        return self.normalised(mean)

    def normalised(self, latent: Tensor) -> Tensor:
        mean, std = self._statistics(latent)
        return (latent - mean) * (1.0 / std)

    def denormalised(self, x0: Tensor) -> Tensor:
        mean, std = self._statistics(x0)
        return x0 / (1.0 / std) + mean

    def decode(self, x0: Tensor) -> Tensor:
        latents = self.denormalised(x0)[:, :, None]
        image: Tensor = self._finite(
            lambda vae: vae.decode(latents.to(vae.dtype)).sample[:, :, 0].float(), lambda made: made, "finite latents"
        )
        return image

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        mean, std = (like.new_tensor(v).reshape(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
        return mean, std

    @property
    def tile_side(self) -> int:
        return int(self.vae.tile_sample_min_height)
