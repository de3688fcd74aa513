"""Z-Image (Alibaba 2025): a transformer on FLUX.1's latents and a text in one sequence of tokens.

The network takes 1 - sigma and predicts x0 - eps, the negative of the usual velocity. Turbo was distilled to a few
steps without guidance, the base model was not; both have the same class, and the scheduler's shift distinguishes them.
Guidance scales are editkit's: the scale g of diffusers' pipelines, which count from 0, is g + 1 here.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editkit.diffusion.conditioning import Conditioning, Prompt, with_own_words
from editkit.diffusion.control import Control, ControlInputs, Given, Residuals
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.schedule import Level
from editkit.errors import ModelError
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network, load_text_encoder
from editkit.models.latent.controls import (
    ZImageControl,
    beside_transformer,
    to_zimage_input,
    zimage_controlnet,
    zimage_time,
)
from editkit.models.latent.language import BesideLanguageModel, Chat
from editkit.models.latent.space import load_vae, vae_factor
from editkit.models.schedules import default_sampler, make_flow

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.diffusion.noise import Stream

KNOWN = "Z-Image and Z-Image-Turbo (ZImageTransformer2DModel, AutoencoderKL)"
PATCH = 2
WINDOW, LEAST = 1024, 512
"""In pixels per side."""
TURBO = 3.0
"""The shift of Turbo's scheduler; a larger one is the base model's."""


def matches(layout: Layout) -> bool:
    """Whether the folder is a pipeline with a ZImageTransformer2DModel."""
    return layout.is_of("transformer", "ZImageTransformer2DModel")


def describe(layout: Layout) -> ModelInfo:
    """Describe the model: Turbo's steps and guidance if the scheduler has Turbo's shift, else the base model's."""
    layout.require("vae", "text_encoder", "tokenizer", "scheduler")
    if layout.has("siglip"):
        raise ModelError(
            f"model {layout.name}: is a Z-Image-Omni, which takes reference pictures through SigLIP; known are Z-Image "
            "and Z-Image-Turbo"
        )
    scheduler = layout.config("scheduler")
    steps, guidance = (9, 1.0) if float(scheduler.get("shift", 1.0)) <= TURBO else (50, 5.0)
    return ModelInfo(
        layout.name, KNOWN, frozenset({"prompt", "control"}), default_sampler(scheduler), steps, WINDOW, LEAST,
        PATCH * vae_factor(layout.config("vae")), guidance=guidance, shifts=True, rounds_up=True,
    )  # fmt: skip


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the model with its networks in `dtype`."""
    from diffusers import ZImageTransformer2DModel

    transformer = load_network(layout, "transformer", ZImageTransformer2DModel, dtype, device)
    vae = load_vae(layout, dtype, device)
    tokenizer, encoder = load_text_encoder(layout, "tokenizer", "text_encoder", dtype, device)
    return ZImage(info, transformer, vae, tokenizer, encoder, make_flow(layout.config("scheduler"), PATCH))


class ZImage(BesideLanguageModel):
    """A ZImageTransformer2DModel behind an AutoencoderKL as a `Model`."""

    def fits(self, cond: Conditioning, steered: bool) -> Hashable:
        """Return the key for batching. The network pads texts itself; ControlNets need texts of equal length."""
        return self.words(cond).embeds.shape[1] if steered else None

    def velocities(
        self, x_t: Tensor, level: Level, conds: Sequence[Conditioning], added: Residuals | None
    ) -> Sequence[Tensor]:
        import torch

        n, batch, dtype = len(conds), len(x_t), self.transformer.dtype
        prompts = [self.words(cond) for cond in conds]
        words = [text for prompt in prompts for text in prompt.embeds.to(x_t.device, dtype).expand(batch, -1, -1)]
        t = torch.full((n * batch,), level.t, dtype=torch.float32, device=x_t.device)
        steering = None if added is None else {k: p.to(dtype) for k, p in enumerate(added.down) if p is not None}
        out = self.transformer(
            to_zimage_input(x_t.to(dtype)) * n,
            zimage_time(t),
            words,
            return_dict=False,
            controlnet_block_samples=steering,
        )[0]
        velocities = -torch.stack([part.to(x_t.dtype) for part in out])[:, :, 0]
        return velocities.chunk(n)

    def given(self, x_t: Tensor, level: Level, cond: Conditioning) -> Given:
        import torch

        words = self.words(cond).embeds.to(x_t.device, self.transformer.dtype).expand(len(x_t), -1, -1)
        return Given(x_t, torch.full((len(x_t),), level.t, dtype=torch.float32, device=x_t.device), words)

    def control_words(self, conds: Sequence[Conditioning]) -> Sequence[Conditioning]:
        return with_own_words(conds)

    def controlnet(self, config: Mapping[str, Any]) -> type[Any]:
        return zimage_controlnet(config, self.transformer.config, self.info.name)

    def steered(
        self, network: Any, shown: ControlInputs, scale: float, wanted_only: bool, stream: Stream | None
    ) -> Control:
        """Return the ControlNet with its hint, the posterior's mode; with further channels, also the mask (1 = known)
        and the masked picture, or zeros without one.
        """
        import torch

        parts, more = [self.encode(shown.hint)], int(network.config.control_in_dim) - self.channels
        like = parts[0]
        if more and shown.picture is not None and shown.mask is not None and shown.region is not None:
            known = self.encode(shown.picture * (shown.mask < 0.5))
            parts += [1.0 - shown.region.to(like).expand(len(like), -1, -1, -1), known.expand(len(like), -1, -1, -1)]
        elif more:
            parts.append(like.new_zeros(len(like), more, *like.shape[2:]))
        layers = len(self.transformer.layers)
        return ZImageControl(
            beside_transformer(network, self.transformer), torch.cat(parts, 1), scale, wanted_only, layers
        )

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Return the language model's last but one hidden state, (1, tokens, width), of at most 512 tokens."""
        states, _, dropped = Chat(self.tokenizer, self.encoder, self._chat_text, padded=False).read(text)
        return Prompt(states[-2]), dropped

    def _chat_text(self, text: str) -> str:
        chat_text: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        return chat_text

    def pipeline(self) -> Any:
        """Build a diffusers pipeline of these networks."""
        from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

        return ZImagePipeline(
            transformer=self.transformer, vae=self.vae, text_encoder=self.encoder, tokenizer=self.tokenizer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )  # fmt: skip
