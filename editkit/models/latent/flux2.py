"""FLUX.2 (Black Forest Labs 2025): a transformer on patched latents, conditioned on text and reference pictures.

`klein` was distilled to a few steps without guidance, `klein-base` was not, `dev` has the guidance scale as an input.
References are tokens after those of the noise (in `klein-KV` before them), the k-th at time 10 k. The text embedding
concatenates three hidden layers of a language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from editkit.diffusion.conditioning import Conditioning, Prompt, Reference
from editkit.diffusion.control import Residuals
from editkit.diffusion.flows import Empirical
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.schedule import Level
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network, load_text_encoder
from editkit.models.latent.language import BesideLanguageModel, Chat, side_by_side
from editkit.models.latent.space import vae_factor
from editkit.models.latent.tokens import fit_to_area, from_rows, grid_ids, guidance_input, rows
from editkit.models.latent.vaes import PatchedSpace
from editkit.models.schedules import default_sampler, make_flow

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOWN = "FLUX.2 (Flux2Transformer2DModel, AutoencoderKLFlux2)"
WINDOW, LEAST = 1024, 512
"""Pixels a side; above 1.1 megapixels it has other noise levels (`flows.JUMP`)."""
AREA = 1024 * 1024
"""Largest area of a reference, in pixels."""
TIME = 10
"""Distance between the times of references."""
QWEN_LAYERS, MISTRAL_LAYERS = (9, 18, 27), (10, 20, 30)
SYSTEM = (
    "You are an AI that reasons about image descriptions. You give structured responses focusing on object "
    "relationships, object\nattribution and actions without speculation."
)
"""The system prompt of dev's language model, with the line break of its training."""
Row = tuple["Tensor", "Tensor"]
"""Tokens (n batch, tokens, c), and their positions (tokens, 4)."""
MANY = 10
"""Most references, as the authors state for dev."""


def matches(layout: Layout) -> bool:
    """Whether the folder is a pipeline with a Flux2Transformer2DModel."""
    return layout.is_of("transformer", "Flux2Transformer2DModel")


def describe(layout: Layout) -> ModelInfo:
    """Describe the model by the transformer's guidance and the index's `is_distilled`."""
    layout.require("vae", "text_encoder", "tokenizer", "scheduler")
    transformer = layout.config("transformer")
    tells = bool(transformer.get("guidance_embeds", True))
    distilled = bool(layout.index.get("is_distilled", keeps_keys(layout)))
    takes = {"prompt", "references"} | ({"guidance"} if tells else set())
    steps, guidance = (4, 1.0) if distilled else (50, 4.0)
    return ModelInfo(
        layout.name, KNOWN, frozenset(takes), default_sampler(layout.config("scheduler")), steps, WINDOW, LEAST,
        2 * vae_factor(layout.config("vae")), guidance=guidance, distilled=distilled and not tells, shifts=True,
        references=MANY, rounds_up=True,
    )  # fmt: skip


def keeps_keys(layout: Layout) -> bool:
    """Whether it is a klein KV; only the index tells."""
    return layout.index.get("_class_name") == "Flux2KleinKVPipeline"


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the model with its networks in `dtype`."""
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    transformer = load_network(layout, "transformer", Flux2Transformer2DModel, dtype, device)
    vae = load_network(layout, "vae", AutoencoderKLFlux2, dtype, device)
    tokenizer, encoder = load_text_encoder(layout, "tokenizer", "text_encoder", dtype, device)
    schedule = make_flow(layout.config("scheduler"), patch=1, mu=Empirical())
    return (Flux2KV if keeps_keys(layout) else Flux2)(info, transformer, vae, tokenizer, encoder, schedule)


class Flux2(BesideLanguageModel, PatchedSpace):
    """A Flux2Transformer2DModel behind an AutoencoderKLFlux2 as a `Model`."""

    def velocities(
        self, x_t: Tensor, level: Level, conds: Sequence[Conditioning], added: Residuals | None
    ) -> Sequence[Tensor]:
        import torch

        n, batch, device, dtype = len(conds), len(x_t), x_t.device, self.transformer.dtype
        words = torch.cat([self.words(cond).embeds.expand(batch, -1, -1) for cond in conds]).to(device, dtype)
        own, looked = self._pictures(x_t, conds)
        text_ids = torch.zeros(words.shape[1], 4, dtype=torch.int64, device=device)
        text_ids[:, 3] = torch.arange(words.shape[1], device=device)
        out = self.transformer(
            timestep=torch.full((n * batch,), level.t, dtype=torch.float32, device=device) / 1000,
            guidance=guidance_input(conds, self.info, batch, device),
            encoder_hidden_states=words, txt_ids=text_ids.expand(n * batch, -1, -1), return_dict=False,
            **self._arrange(own, looked, dtype),
        )[0]  # fmt: skip
        height, width = x_t.shape[-2:]
        return from_rows(out[:, : height * width], height, width).to(x_t.dtype).chunk(n)

    def _pictures(self, x_t: Tensor, conds: Sequence[Conditioning]) -> tuple[Row, Row | None]:
        """Return (the noise's tokens; those of the references, if any)."""
        import torch

        batch = len(x_t)
        noise = torch.cat([rows(x_t)] * len(conds)), grid_ids(x_t.shape[-2:], 0, 4, x_t.device)
        if not conds[0].references:
            return noise, None
        own = [
            torch.cat([rows(r.latent.to(x_t)).expand(batch, -1, -1) for r in cond.references], dim=1) for cond in conds
        ]
        ids = [
            grid_ids(reference.latent.shape[-2:], TIME * (k + 1), 4, x_t.device)
            for k, reference in enumerate(conds[0].references)
        ]
        return noise, (torch.cat(own), torch.cat(ids))

    def _arrange(self, own: Row, looked: Row | None, dtype: torch.dtype) -> dict[str, Any]:
        """Arrange the transformer's input: references after the noise."""
        import torch

        parts = [own] if looked is None else [own, looked]
        return {
            "hidden_states": torch.cat([tokens for tokens, _ in parts], dim=1).to(dtype),
            "img_ids": torch.cat([ids for _, ids in parts]).expand(len(own[0]), -1, -1),
        }

    def refer(self, picture: Tensor) -> Reference:
        fitted = fit_to_area(picture, self.info.multiple, AREA)
        return Reference(self.encode(fitted), fitted)

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Return three concatenated hidden layers of the language model, (1, 512, 3 width), including padding."""
        mistral = type(self.encoder).__name__.startswith("Mistral")
        states, _, dropped = Chat(self.tokenizer, self.encoder, self._as_dev if mistral else self._as_klein).read(text)
        return Prompt(side_by_side(states, MISTRAL_LAYERS if mistral else QWEN_LAYERS)), dropped

    def _as_klein(self, text: str) -> str:
        chat_text: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return chat_text

    def _as_dev(self, text: str) -> str:
        chat = [
            {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
            {"role": "user", "content": [{"type": "text", "text": text.replace("[IMG]", "")}]},
        ]
        chat_text: str = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=False)
        return chat_text

    def pipeline(self) -> Any:
        """Build a diffusers pipeline of these networks."""
        from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Pipeline

        kind = Flux2Pipeline if "guidance" in self.info.takes else Flux2KleinPipeline
        return kind(
            transformer=self.transformer, vae=self.vae, text_encoder=self.encoder, tokenizer=self.tokenizer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )  # fmt: skip


class Flux2KV(Flux2):
    """klein KV: references come before the noise, attend only to each other, and have t = 0, so that their keys and
    values are the same at every level. diffusers' pipeline caches those of the first step; here they are computed
    again with the same result, without a cache between calls.
    """

    def __init__(self, *given: Any) -> None:
        from diffusers.models.transformers.transformer_flux2 import (
            Flux2KVAttnProcessor,
            Flux2KVParallelSelfAttnProcessor,
        )

        super().__init__(*given)
        for block in self.transformer.transformer_blocks:
            block.attn.set_processor(Flux2KVAttnProcessor())
        for block in self.transformer.single_transformer_blocks:
            block.attn.set_processor(Flux2KVParallelSelfAttnProcessor())

    def _arrange(self, own: Row, looked: Row | None, dtype: torch.dtype) -> dict[str, Any]:
        if looked is None:
            return super()._arrange(own, None, dtype)
        return {
            **super()._arrange(looked, own, dtype), "kv_cache_mode": "extract", "num_ref_tokens": looked[0].shape[1],
        }  # fmt: skip
