"""Stable Diffusion XL and its refiner (Podell et al. 2023, arXiv:2307.01952): the latent UNet, two text encoders.

The UNet also takes the pooled text and sizes of the picture: original height and width, crop corner, target height and
width; the refiner takes an aesthetic score instead of the last two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from editkit.diffusion.conditioning import Conditioning, Prompt
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.schedule import Schedule
from editkit.errors import ModelError
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_text_encoder
from editkit.models.latent.space import chunks, load_vae, side_by_side, to_encoder_device
from editkit.models.latent.unet import LatentUNet, describe_unet
from editkit.models.latent.weighting import encode_weighted_text
from editkit.models.schedules import make_schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOWN = "Stable Diffusion XL (UNet2DConditionModel, AutoencoderKL, two text encoders) and its refiner"

GUIDANCE = 5.0
"""The guidance scale, diffusers' default."""

SCORE, UNWANTED_SCORE = 6.0, 2.5
"""The refiner's aesthetic scores with the prompt and with the negative prompt, diffusers' defaults."""


def matches(layout: Layout) -> bool:
    """Whether the folder is a pipeline with a UNet2DConditionModel, a VAE and a second text encoder."""
    if not layout.index or not (layout.has("unet") and layout.has("vae") and layout.has("text_encoder_2")):
        return False
    return layout.config("unet").get("_class_name") == "UNet2DConditionModel"


def describe(layout: Layout) -> ModelInfo:
    """Describe the model like Stable Diffusion; the refiner has only the second text encoder."""
    layout.require("tokenizer_2", "scheduler")
    if layout.config("unet").get("addition_embed_type") != "text_time":
        raise ModelError(f"model {layout.name}: two text encoders, but a UNet that takes no pooled text; not supported")
    return describe_unet(layout, KNOWN, GUIDANCE)


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the model with its networks in `dtype`, except a VAE that needs more precision."""
    from editkit.models.fast.blocks import load_unet

    unet, vae = load_unet(layout, dtype, device), load_vae(layout, dtype, device)
    readers = tuple(
        Reader(*load_text_encoder(layout, f"tokenizer{part}", f"text_encoder{part}", dtype, device))
        for part in ("", "_2")
        if layout.has(f"text_encoder{part}")
    )
    scheduler = layout.config("scheduler")
    return LatentXL(
        info, unet, vae, readers, make_schedule(scheduler), scheduler,
        zeros=bool(layout.index.get("force_zeros_for_empty_prompt", True)),
        scored=bool(layout.index.get("requires_aesthetics_score", False)),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Reader:
    """A tokenizer with its text encoder."""

    tokenizer: Any
    encoder: Any


class LatentXL(LatentUNet):
    """SDXL's UNet as a `Model`.

    Args:
        info, unet, vae, schedule, scheduler: see `LatentUNet`.
        readers: the text encoders, the one with the pooled output last.
        zeros: without a negative prompt, use zeros instead of the empty text.
        scored: the UNet takes an aesthetic score (the refiner).
    """

    def __init__(
        self,
        info: ModelInfo,
        unet: Any,
        vae: Any,
        readers: Sequence[Reader],
        schedule: Schedule,
        scheduler: Mapping[str, Any],
        *,
        zeros: bool = True,
        scored: bool = False,
    ) -> None:
        super().__init__(info, unet, vae, readers[-1].tokenizer, readers[-1].encoder, schedule, scheduler)
        self.readers, self.zeros, self.scored = readers, zeros, scored

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Return the encoders' last but one hidden states, (1, 77 n, widths), and the first row's pooled output."""
        import torch

        states, pooled = [], None
        for reader in self.readers:
            ids = chunks(reader.tokenizer, text)
            out = reader.encoder(to_encoder_device(ids["input_ids"], reader.encoder), output_hidden_states=True)
            states.append(side_by_side(out.hidden_states[-2]))
            if out[0].ndim == 2:
                pooled = out[0][:1]
        return Prompt(torch.cat(states, dim=-1), pooled), ""

    def encode_weighted(self, text: str) -> Prompt:
        """Like `encode_text`, with weights in compel's syntax."""
        from compel import ReturnedEmbeddingsType

        kind = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
        pooled = [False] * (len(self.readers) - 1) + [True]
        tokenizers, encoders = [r.tokenizer for r in self.readers], [r.encoder for r in self.readers]
        return Prompt(*encode_weighted_text(text, tokenizers, encoders, kind, pooled))

    @cached_property
    def no_words(self) -> Prompt:
        """Return zeros, or the encoded empty text."""
        import torch

        empty = self.encode_text("")[0]
        if not self.zeros or empty.pooled is None:
            return empty
        return Prompt(torch.zeros_like(empty.embeds), torch.zeros_like(empty.pooled))

    def added(self, conds: Sequence[Conditioning], x_t: Tensor) -> dict[str, Tensor]:
        """Return pooled text and sizes, (conds * batch, ...)."""
        import torch

        batch, size = len(x_t), [self.factor * side for side in x_t.shape[-2:]]
        texts, rows = [], []
        for cond in conds:
            pooled = self.words(cond).pooled
            if pooled is None:
                raise ModelError(f"model {self.info.name} needs the pooled text embedding in addition")
            last = [UNWANTED_SCORE if cond.unwanted else SCORE] if self.scored else size
            rows.append(x_t.new_tensor([*size, 0, 0, *last], dtype=pooled.dtype).expand(batch, -1))
            texts.append(pooled.expand(batch, -1))
        return {"text_embeds": torch.cat(texts).to(x_t.device), "time_ids": torch.cat(rows)}

    def pipeline(self) -> Any:
        """Build a diffusers pipeline of these networks; the refiner's has only the second text encoder."""
        from diffusers import DDIMScheduler, StableDiffusionXLPipeline

        first = self.readers[0] if len(self.readers) > 1 else None
        return StableDiffusionXLPipeline(
            vae=self.vae, text_encoder=first and first.encoder, text_encoder_2=self.readers[-1].encoder,
            tokenizer=first and first.tokenizer, tokenizer_2=self.readers[-1].tokenizer, unet=self.unet,
            scheduler=DDIMScheduler(), add_watermarker=False,
        )  # fmt: skip
