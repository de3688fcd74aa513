"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv:2403.03206): a transformer on latents, trained by flow matching.

Three text encoders: two CLIPs, whose hidden states are concatenated, and T5 as further tokens after them; without T5
its tokens are zeros, as in diffusers. The model consists of `LatentSpace` with the VAE, a `Flow` schedule, and a call
that passes the network its conditions by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from editkit.diffusion.conditioning import Conditioning, Prompt
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.prediction import Prediction, convert
from editkit.diffusion.schedule import Level, Schedule
from editkit.errors import ModelError
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network, load_text_encoder
from editkit.models.latent.space import (
    LatentSpace,
    chunks,
    pad_to_longest,
    side_by_side,
    to_encoder_device,
    token_count,
    tokenize_padded,
    vae_factor,
)
from editkit.models.latent.xl import Reader
from editkit.models.schedules import default_sampler, make_schedule, prediction_type

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOWN = "Stable Diffusion 3 (SD3Transformer2DModel, AutoencoderKL)"
STEPS, GUIDANCE = 28, 7.0
"""diffusers' defaults."""
T5_LENGTH = 256
"""Number of T5 tokens in diffusers' pipelines; a longer text uses a multiple of it."""


def matches(layout: Layout) -> bool:
    """Whether the folder is a pipeline with an SD3Transformer2DModel."""
    return layout.is_of("transformer", "SD3Transformer2DModel")


def describe(layout: Layout) -> ModelInfo:
    """Describe the model; the transformer's input channels tell the task."""
    layout.require("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler")
    transformer, vae = layout.config("transformer"), layout.config("vae")
    latent, channels = int(vae.get("latent_channels", 16)), int(transformer.get("in_channels", 16))
    if channels not in (latent, 2 * latent + 1):
        raise ModelError(
            f"model {layout.name}: its transformer takes {channels} channels; known are {latent} and {2 * latent + 1}"
        )
    takes = {"prompt"} | ({"known", "mask"} if channels != latent else set())
    factor, patch = vae_factor(vae), int(transformer.get("patch_size", 2))
    window = factor * int(transformer.get("sample_size", 128))
    sampler = default_sampler(layout.config("scheduler"))
    return ModelInfo(
        layout.name, KNOWN, frozenset(takes), sampler, STEPS, window, 3 * window // 4, factor * patch,
        guidance=GUIDANCE, rounds_up=True, shifts=True,
    )  # fmt: skip


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the model with its networks in `dtype`."""
    from diffusers import AutoencoderKL, SD3Transformer2DModel

    transformer = load_network(layout, "transformer", SD3Transformer2DModel, dtype, device)
    vae = load_network(layout, "vae", AutoencoderKL, dtype, device)
    readers = [
        Reader(*load_text_encoder(layout, f"tokenizer{part}", f"text_encoder{part}", dtype, device))
        for part in ("", "_2", "_3")
        if layout.has(f"text_encoder{part}")
    ]
    scheduler = layout.config("scheduler")
    return LatentTransformer(info, transformer, vae, readers, make_schedule(scheduler), scheduler)


class LatentTransformer(LatentSpace):
    """An SD3Transformer2DModel behind an AutoencoderKL as a `Model`.

    Args:
        info: from `describe`.
        transformer, vae: on their device, in their dtype.
        readers: two CLIPs with their tokenizers, and T5 with its own or not.
        schedule, scheduler: the noise schedule and its configuration.
    """

    clip: float | None = None

    def __init__(
        self,
        info: ModelInfo,
        transformer: Any,
        vae: Any,
        readers: Sequence[Reader],
        schedule: Schedule,
        scheduler: Mapping[str, Any],
    ) -> None:
        super().__init__(vae)
        self.info, self.transformer, self.readers, self.schedule = info, transformer, readers, schedule
        self.kind = prediction_type(scheduler)

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        import torch

        n, batch, dtype = len(conds), len(x_t), self.transformer.dtype
        prompts = [self._no_words if cond.prompt is None else cond.prompt for cond in conds]
        words = pad_to_longest([prompt.embeds for prompt in prompts], lambda: self._no_words.embeds)
        out = self.transformer(
            hidden_states=torch.cat([torch.cat([x_t, *self._extra(cond, x_t)], dim=1) for cond in conds]).to(dtype),
            timestep=torch.full((n * batch,), level.t, dtype=torch.float32, device=x_t.device),
            encoder_hidden_states=torch.cat([text.expand(batch, -1, -1) for text in words]).to(x_t.device),
            pooled_projections=torch.cat([self._pooled(prompt).expand(batch, -1) for prompt in prompts]).to(x_t.device),
            return_dict=False,
        )[0]
        return tuple(convert(part, x_t, level, self.kind) for part in out.to(x_t.dtype).chunk(n))

    def _extra(self, cond: Conditioning, x_t: Tensor) -> tuple[Tensor, ...]:
        """Return (mask, masked picture) for an inpainting transformer; without a plugin, nothing is known."""
        return self.mask_and_known(cond, x_t) if "mask" in self.info.takes else ()

    def _pooled(self, prompt: Prompt) -> Tensor:
        if prompt.pooled is None:
            raise ModelError(f"model {self.info.name} needs the pooled text embedding in addition")
        return prompt.pooled

    @cached_property
    def _no_words(self) -> Prompt:
        return self.encode_text("")[0]

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Return both CLIPs' last but one hidden states, zero-padded to T5's width, then T5's; and both pooled outputs.

        The shape is (1, (77 + 256) n, width), with n as large as the text needs: n rows of 75 tokens for the CLIPs,
        256 n tokens for T5. The transformer has no order among them, so the empty text's rows can pad a shorter text.
        """
        import torch
        import torch.nn.functional as F

        states, pooled = [], []
        n = max(len(chunks(reader.tokenizer, text)["input_ids"]) for reader in self.readers[:2])
        if len(self.readers) > 2:
            n = max(n, math.ceil(token_count(self.readers[2].tokenizer, text) / T5_LENGTH))
        for reader in self.readers[:2]:
            ids = chunks(reader.tokenizer, text, n)["input_ids"]
            out = reader.encoder(to_encoder_device(ids, reader.encoder), output_hidden_states=True)
            states.append(side_by_side(out.hidden_states[-2]))
            pooled.append(out[0][:1])
        clip = torch.cat(states, dim=-1)
        width = int(self.transformer.config.joint_attention_dim)
        if len(self.readers) > 2:
            three = self.readers[2]
            ids = tokenize_padded(three.tokenizer, text, n * T5_LENGTH)["input_ids"]
            long = three.encoder(to_encoder_device(ids, three.encoder))[0]
        else:
            long = clip.new_zeros(1, n * T5_LENGTH, width)
        embeds = torch.cat([F.pad(clip, (0, width - clip.shape[-1])), long], dim=1)
        return Prompt(embeds, torch.cat(pooled, dim=-1)), ""

    @property
    def denoiser(self) -> Any:
        return self.transformer

    def pipeline(self) -> Any:
        """Build a diffusers pipeline of these networks."""
        from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

        one, two, three = (*self.readers, None, None, None)[:3]
        return StableDiffusion3Pipeline(
            transformer=self.transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=self.vae,
            text_encoder=one and one.encoder, tokenizer=one and one.tokenizer,
            text_encoder_2=two and two.encoder, tokenizer_2=two and two.tokenizer,
            text_encoder_3=three and three.encoder, tokenizer_3=three and three.tokenizer,
        )  # fmt: skip

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> LatentTransformer:
        return self
