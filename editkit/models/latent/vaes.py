"""The spaces of newer VAEs, as `LatentSpace` has that of AutoencoderKL: FLUX.2's, whose latents come in patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from editkit.models.latent.space import LatentSpace

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.diffusion.noise import Stream


class PatchedSpace(LatentSpace):
    """The space of AutoencoderKLFlux2 (FLUX.2): 2 x 2 latents are the channels of one value, 16 pixels a side, and they
    are standardised by the statistics of a batch norm that the VAE brings.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__(vae)
        self.channels, self.factor = 4 * self.channels, 2 * self.factor

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        """The posterior's mode: nothing is drawn, as in diffusers' pipelines."""
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
