"""The inputs of FLUX.1 beside the noise: further channels of its tokens, or tokens after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from editkit.diffusion.conditioning import Conditioning, Reference
from editkit.errors import ModelError
from editkit.models.latent.tokens import fit_to_area, grid_ids, packed
from editkit.models.latent.transformer import FlowTransformer

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.diffusion.noise import Stream

PATCH = 2
"""Side of a token, in latents."""
AREA = 1024 * 1024
"""Largest area of a reference, in pixels."""
REFERENCE = 1
"""The first position of a reference's tokens; the noise's is 0."""


class FluxTokens(FlowTransformer):
    """The tokens of a FLUX.1 and their positions: with the hint for Control, the masked picture and the mask
    for Fill, and the reference picture for Kontext.
    """

    def tokens(self, x_t: Tensor, cond: Conditioning) -> Tensor:
        """Return (batch, tokens, channels): the noise with its further channels, then further tokens."""
        import torch

        batch = len(x_t)
        tokens = torch.cat([packed(x_t), *(packed(part).expand(batch, -1, -1) for part in self._beside(x_t, cond))], 2)
        if "references" not in self.info.takes or not cond.references:
            return tokens
        if len(cond.references) > 1:
            raise ModelError(f"model {self.info.name} takes one reference picture, got {len(cond.references)}")
        return torch.cat([tokens, packed(cond.references[0].latent.to(x_t)).expand(batch, -1, -1)], dim=1)

    def _beside(self, x_t: Tensor, cond: Conditioning) -> Sequence[Tensor]:
        """Return the further channels for Control (the hint) and Fill (the masked picture, then the mask's pixels)."""
        import torch.nn.functional as F

        if "hint" in self.info.takes:
            return [cond.references[0].latent.to(x_t) if cond.references else x_t.new_zeros(x_t.shape)]
        if "fine mask" not in self.info.takes:
            return []
        mask, known = cond.mask, cond.known
        if mask is None or known is None:  # everything is generated
            size = [self.factor * side for side in x_t.shape[-2:]]
            mask, known = x_t.new_ones(1, 1, *size), self.encode(x_t.new_zeros(1, 3, *size))
        return [known.to(x_t), F.pixel_unshuffle(mask.to(x_t), self.factor)]

    def ids(self, x_t: Tensor, cond: Conditioning) -> Tensor:
        """Return the positions of the tokens, the same for the whole batch."""
        import torch

        def of(like: Tensor, first: int) -> Tensor:
            return grid_ids([side // PATCH for side in like.shape[-2:]], first, 3, x_t.device)

        looked = [r.latent for r in cond.references] if "references" in self.info.takes else []
        return torch.cat([of(x_t, 0), *(of(latent, REFERENCE) for latent in looked)])

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        """Encode by a draw from the posterior; for Kontext, whose references are whole pictures, by its mode."""
        return super().encode(image, None if "references" in self.info.takes else stream)

    def refer(self, picture: Tensor) -> Reference:
        fitted = fit_to_area(picture, self.info.multiple, AREA)
        return Reference(self.encode(fitted), fitted)
