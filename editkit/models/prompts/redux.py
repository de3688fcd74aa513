"""FLUX.1 Redux (Black Forest Labs 2024): SigLIP's states of a picture as tokens that stand behind the text's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from editkit.errors import ModelError
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network
from editkit.models.prompts.vision import Eye, kind_of, load_eye

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

EMBEDDER, ENCODER = "image_embedder", "image_encoder"


@dataclass(frozen=True, eq=False)
class Redux:
    """An image encoder and what makes tokens of its states."""

    eye: Eye
    embedder: Any

    def tokens(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(1, tokens, width) of all `pictures`, one behind the other."""
        states = self.eye.network(self.eye.pixels(pictures)).last_hidden_state
        made: Tensor = self.embedder(states).image_embeds
        return made.flatten(0, 1)[None]


def check(layout: Layout, text: int) -> None:
    """Look whether the folder is a Redux for text of width `text`, by its configuration alone.

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
    """Both networks in `dtype`, frozen.

    Raises:
        ModelError: weights missing, misshapen, or in a pickle.
    """
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    embedder = load_network(layout, EMBEDDER, ReduxImageEncoder, dtype, device)
    return Redux(load_eye(layout, ENCODER, device, dtype), embedder)
