"""FLUX.1 Redux (Black Forest Labs 2024): SigLIP's states of a picture as tokens after those of the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from editkit.errors import ModelError
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network
from editkit.models.prompts.vision import ImageEncoder, kind_of, load_image_encoder

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

EMBEDDER, ENCODER = "image_embedder", "image_encoder"


@dataclass(frozen=True, eq=False)
class Redux:
    """An image encoder and the embedder that turns its states into tokens."""

    eye: ImageEncoder
    embedder: Any

    def tokens(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Return the concatenated tokens of all `pictures`, (1, tokens, width)."""
        states = self.eye.network(self.eye.pixels(pictures)).last_hidden_state
        made: Tensor = self.embedder(states).image_embeds
        return made.flatten(0, 1)[None]


def check(layout: Layout, text: int) -> None:
    """Check whether the folder is a Redux for text of width `text`; reads only its configuration.

    Raises:
        ModelError: it is not.
    """
    if not (layout.has(EMBEDDER) and layout.has(ENCODER)):
        raise ModelError(
            f"{layout.name} is no FLUX.1 Redux: it has no {EMBEDDER} and {ENCODER}; an IP-Adapter "
            f"is one .safetensors file"
        )
    width, (kind, _) = int(layout.config(EMBEDDER).get("txt_in_features", 4096)), kind_of(layout, ENCODER)
    if width != text or not kind.startswith("Siglip"):
        raise ModelError(
            f"{layout.name} makes tokens of width {width} of what a {kind} sees; Redux for this model makes {text} of "
            f"what a SiglipVisionModel sees"
        )


def load(layout: Layout, device: torch.device, dtype: torch.dtype) -> Redux:
    """Load both networks in `dtype`, frozen.

    Raises:
        ModelError: weights are missing, have the wrong shape, or are in a pickle.
    """
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    embedder = load_network(layout, EMBEDDER, ReduxImageEncoder, dtype, device)
    return Redux(load_image_encoder(layout, ENCODER, device, dtype), embedder)
