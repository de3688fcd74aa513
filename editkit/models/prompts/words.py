"""CLIP's text embeddings in the space of its pictures: the other tower of an image encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from editkit.common import trust
from editkit.common.process import READING
from editkit.errors import ModelError
from editkit.models.files.layout import Layout, readable_errors
from editkit.models.latent.space import to_encoder_device
from editkit.models.prompts.vision import load_tower

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TEXT, TOKENIZER = "text_encoder", "tokenizer"


@dataclass(frozen=True, eq=False)
class Words:
    """A text encoder with its tokenizer."""

    tokenizer: Any
    encoder: Any

    def embed(self, text: str) -> Tensor:
        """Return the projected embedding, (1, width), of the first 77 tokens."""
        with READING:
            ids = self.tokenizer(
                text, padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True,
                return_tensors="pt",
            ).input_ids  # fmt: skip
        made: Tensor = self.encoder(to_encoder_device(ids, self.encoder)).text_embeds
        return made


def width(layout: Layout) -> int:
    """Return the width of a text embedding, by configuration.

    Raises:
        ModelError: the folder has no text encoder with a projection.
    """
    config = layout.config(TEXT if layout.has(TEXT) else "")
    named = str((config.get("architectures") or [""])[0])
    if named not in ("CLIPModel", "CLIPTextModelWithProjection"):
        raise ModelError(
            f"{layout.name} has no text encoder in the space of pictures ({named[:60] or 'none'}); a folder of a whole "
            f"CLIP is needed, or one with a CLIPTextModelWithProjection and its tokenizer"
        )
    return int(config.get("projection_dim", 512))


def load_words(layout: Layout, device: torch.device, dtype: torch.dtype) -> Words:
    """Load the text encoder, frozen.

    Raises:
        ModelError: weights are missing or in a pickle.
    """
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    component, words = (TEXT, TOKENIZER) if layout.has(TEXT) else ("", "")
    if layout.index.get(words):
        trust.check_component(layout.name, words, layout.index[words], trust.TOKENIZERS)
    encoder = load_tower(layout, component, CLIPTextModelWithProjection, device, dtype)
    with readable_errors(layout.name):
        reader = CLIPTokenizer.from_pretrained(layout.path / words, local_files_only=True, trust_remote_code=False)
    return Words(reader, encoder)
