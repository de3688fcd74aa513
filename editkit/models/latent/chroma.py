"""Chroma (Lodestone Rock 2025): FLUX.1 schnell's transformer pruned and trained further, with real guidance.

Its only text encoder is T5, with a mask for the end of the text: all padding tokens but the first count less. diffusers
adds this mask of 0 and 1 to the attention logits, so padding has a lower weight but is not excluded. The model was
trained that way and is called that way here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from editkit.common.process import READING
from editkit.diffusion.conditioning import Conditioning, Prompt
from editkit.diffusion.control import Residuals
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.schedule import Level, Schedule
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network, load_text_encoder
from editkit.models.latent.space import load_vae, to_encoder_device, vae_factor
from editkit.models.latent.tokens import grid_ids, packed, unpacked
from editkit.models.latent.transformer import FlowTransformer
from editkit.models.latent.xl import Reader
from editkit.models.schedules import default_sampler, make_flow

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOWN = "Chroma (ChromaTransformer2DModel, AutoencoderKL)"
PATCH = 2
WINDOW, LEAST = 1024, 512
"""In pixels per side."""
STEPS, GUIDANCE = 35, 5.0
"""diffusers' defaults."""
LENGTH = 512
"""Number of T5 tokens."""


def matches(layout: Layout) -> bool:
    """Whether the folder is a pipeline with a ChromaTransformer2DModel."""
    return layout.is_of("transformer", "ChromaTransformer2DModel")


def describe(layout: Layout) -> ModelInfo:
    """Describe the model without loading its weights."""
    layout.require("vae", "text_encoder", "tokenizer", "scheduler")
    return ModelInfo(
        layout.name, KNOWN, frozenset({"prompt"}), default_sampler(layout.config("scheduler")), STEPS, WINDOW, LEAST,
        PATCH * vae_factor(layout.config("vae")), guidance=GUIDANCE, shifts=True, rounds_up=True,
    )  # fmt: skip


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the model with its networks in `dtype`."""
    from diffusers import ChromaTransformer2DModel

    transformer = load_network(layout, "transformer", ChromaTransformer2DModel, dtype, device)
    vae = load_vae(layout, dtype, device)
    reader = Reader(*load_text_encoder(layout, "tokenizer", "text_encoder", dtype, device))
    return Chroma(info, transformer, vae, reader, make_flow(layout.config("scheduler"), PATCH))


class Chroma(FlowTransformer):
    """A ChromaTransformer2DModel behind an AutoencoderKL as a `Model`.

    Args:
        info: from `describe`.
        transformer, vae: on their device, in their dtype.
        reader: T5 with its tokenizer.
        schedule: its noise levels.
    """

    def __init__(self, info: ModelInfo, transformer: Any, vae: Any, reader: Reader, schedule: Schedule) -> None:
        super().__init__(info, transformer, vae, schedule)
        self.reader = reader

    def velocities(
        self, x_t: Tensor, level: Level, conds: Sequence[Conditioning], added: Residuals | None
    ) -> Sequence[Tensor]:
        import torch

        n, batch, device, dtype = len(conds), len(x_t), x_t.device, self.transformer.dtype
        prompts = [self.words(cond) for cond in conds]
        words = torch.cat([prompt.embeds.expand(batch, -1, -1) for prompt in prompts]).to(device, dtype)
        tokens = torch.cat([packed(x_t)] * n)
        size = [side // PATCH for side in x_t.shape[-2:]]
        masks = [prompt.mask for prompt in prompts if prompt.mask is not None]
        seen = torch.cat([mask.expand(batch, -1) for mask in masks]).to(device, dtype)
        out = self.transformer(
            hidden_states=tokens.to(dtype),
            timestep=torch.full((n * batch,), level.t, dtype=torch.float32, device=device) / 1000,
            encoder_hidden_states=words, txt_ids=torch.zeros(words.shape[1], 3, dtype=torch.int64, device=device),
            img_ids=grid_ids(size, 0, 3, device), return_dict=False,
            attention_mask=torch.cat([seen, seen.new_ones(n * batch, tokens.shape[1])], dim=1),
        )[0]  # fmt: skip
        return unpacked(out, *x_t.shape[-2:]).to(x_t.dtype).chunk(n)

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Return T5's last hidden state, (1, 512, width), and the mask: 1 for the text and the first padding token."""
        import torch

        words, encoder = self.reader.tokenizer, self.reader.encoder
        with READING:
            given = words(text, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
            whole = words(text, verbose=False).input_ids
            rest = words.decode(whole[LENGTH - 1 : -1]) if len(whole) > LENGTH else ""
        mask = given.attention_mask
        embeds = encoder(to_encoder_device(given.input_ids, encoder), attention_mask=to_encoder_device(mask, encoder))[
            0
        ]
        seen = (torch.arange(LENGTH) <= mask.sum(dim=1, keepdim=True)).to(embeds)
        return Prompt(embeds, mask=seen), rest

    def pipeline(self) -> Any:
        """Build a diffusers pipeline of these networks."""
        from diffusers import ChromaPipeline, FlowMatchEulerDiscreteScheduler

        return ChromaPipeline(
            transformer=self.transformer, vae=self.vae, text_encoder=self.reader.encoder,
            tokenizer=self.reader.tokenizer, scheduler=FlowMatchEulerDiscreteScheduler(),
        )  # fmt: skip
