"""Krea 2 (Krea 2026), Raw and Turbo: a transformer on Qwen-Image's latents, conditioned on several hidden layers of a
language model.

Guidance scales are editkit's: the scale g of diffusers' pipeline, which counts from 0, is g + 1 here. Turbo, distilled
to a few steps without guidance, has the same shift for all sizes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from editkit.common.process import READING
from editkit.diffusion.conditioning import Conditioning, Prompt
from editkit.diffusion.control import Residuals
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.schedule import Level, Schedule
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network, load_text_encoder
from editkit.models.latent.language import BesideLanguageModel
from editkit.models.latent.qwen import CUT, DESCRIBE, format_chat
from editkit.models.latent.space import to_encoder_device
from editkit.models.latent.tokens import grid_ids, packed, unpacked
from editkit.models.latent.vaes import FilmSpace, film_factor
from editkit.models.schedules import default_sampler, make_flow

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOWN = "Krea 2 Raw and Turbo (Krea2Transformer2DModel, AutoencoderKLQwenImage)"
PATCH = 2
WINDOW, LEAST = 1024, 512
"""In pixels per side."""
LAYERS = (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35)
"""Default layers of the language model."""
LENGTH = 507
"""Most tokens of the prompt."""
MANY = 6400
"""Tokens at the upper end of the shift, if the scheduler's configuration has none."""


@dataclass(frozen=True)
class ConstantShift:
    """A shift that does not depend on size or steps."""

    mu: float = 1.15

    def __call__(self, tokens: int, steps: int) -> float:
        return self.mu


def matches(layout: Layout) -> bool:
    """Whether the folder is a pipeline with a Krea2Transformer2DModel."""
    return layout.is_of("transformer", "Krea2Transformer2DModel")


def describe(layout: Layout) -> ModelInfo:
    """Describe the model; the index's `is_distilled` marks Turbo."""
    layout.require("vae", "text_encoder", "tokenizer", "scheduler")
    turbo = bool(layout.index.get("is_distilled", False))
    steps, guidance = (8, 1.0) if turbo else (28, 5.5)
    return ModelInfo(
        layout.name, KNOWN, frozenset({"prompt"}), default_sampler(layout.config("scheduler")), steps, WINDOW, LEAST,
        PATCH * film_factor(layout.config("vae")), guidance=guidance, distilled=turbo, shifts=True, rounds_up=True,
    )  # fmt: skip


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the model with its networks in `dtype`."""
    from diffusers import AutoencoderKLQwenImage, Krea2Transformer2DModel

    transformer = load_network(layout, "transformer", Krea2Transformer2DModel, dtype, device)
    vae = load_network(layout, "vae", AutoencoderKLQwenImage, dtype, device)
    tokenizer, encoder = load_text_encoder(layout, "tokenizer", "text_encoder", dtype, device)
    config = {"max_image_seq_len": MANY, **layout.config("scheduler")}
    schedule = make_flow(config, PATCH, ConstantShift() if info.distilled else None)
    named = layout.index.get("text_encoder_select_layers") or LAYERS
    return Krea2(info, transformer, vae, tokenizer, encoder, schedule, tuple(int(layer) for layer in named))


class Krea2(BesideLanguageModel, FilmSpace):
    """A Krea2Transformer2DModel behind an AutoencoderKLQwenImage as a `Model`.

    Args:
        layers: layers of the language model that the transformer reads.
    """

    def __init__(
        self, info: ModelInfo, transformer: Any, vae: Any, reader: Any, encoder: Any, schedule: Schedule,
        layers: tuple[int, ...],
    ) -> None:  # fmt: skip
        super().__init__(info, transformer, vae, reader, encoder, schedule)
        self.layers = layers

    def fits(self, cond: Conditioning, steered: bool) -> Hashable:
        """Return the key for batching. Texts of different length are not padded; the pipeline masks padding."""
        return self.words(cond).embeds.shape[1]

    def velocities(
        self, x_t: Tensor, level: Level, conds: Sequence[Conditioning], added: Residuals | None
    ) -> Sequence[Tensor]:
        import torch

        n, batch, device, dtype = len(conds), len(x_t), x_t.device, self.transformer.dtype
        words = torch.cat([self.words(cond).embeds.expand(batch, -1, -1, -1) for cond in conds]).to(device, dtype)
        grid = grid_ids([side // PATCH for side in x_t.shape[-2:]], 0, 3, device)
        places = torch.cat([grid.new_zeros(words.shape[1], 3), grid]).float()
        out = self.transformer(
            hidden_states=torch.cat([packed(x_t)] * n).to(dtype), encoder_hidden_states=words,
            timestep=torch.full((n * batch,), level.t, dtype=torch.float32, device=device) / 1000,
            position_ids=places, return_dict=False,
        )[0]  # fmt: skip
        return unpacked(out, *x_t.shape[-2:]).to(x_t.dtype).chunk(n)

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Return hidden layers of the language model, (1, tokens, layers, width), for at most 507 tokens of `text` and
        the end of the chat.
        """
        import torch

        before, after = format_chat(DESCRIBE, "\0").split("\0")
        cut = CUT[DESCRIBE]
        with READING:
            head = self.tokenizer(before + text, verbose=False).input_ids
            tail = self.tokenizer(after, verbose=False).input_ids
            rest = self.tokenizer.decode(head[LENGTH + cut :])
        ids = to_encoder_device(torch.tensor([[*head[: LENGTH + cut], *tail]]), self.encoder)
        states = self.encoder(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        return Prompt(torch.stack([states[layer] for layer in self.layers], dim=2)[:, cut:]), rest

    def pipeline(self) -> Any:
        """Build a diffusers pipeline of these networks."""
        from diffusers import FlowMatchEulerDiscreteScheduler, Krea2Pipeline

        return Krea2Pipeline(
            transformer=self.transformer, vae=self.vae, text_encoder=self.encoder, tokenizer=self.tokenizer,
            scheduler=FlowMatchEulerDiscreteScheduler(), text_encoder_select_layers=self.layers,
            is_distilled=self.info.distilled,
        )  # fmt: skip
