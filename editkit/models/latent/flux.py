"""FLUX.1 (Black Forest Labs 2024): one transformer architecture for several tasks, distinguished by their inputs.

As many channels as latents: a text model (dev, schnell), or Kontext, whose reference picture becomes tokens after those
of the noise (the first of their three positions is 1). Twice as many: Control, whose hint (edges, depth) is in the
further channels. Six times: Fill, with the masked picture and the full-resolution mask. Two text encoders: T5's tokens,
and CLIP's pooled output.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from editkit.common.process import READING
from editkit.diffusion.conditioning import Conditioning, Prompt
from editkit.diffusion.control import Residuals
from editkit.diffusion.image_prompts import Places
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Level, Schedule
from editkit.errors import ModelError
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network, load_text_encoder
from editkit.models.latent.caching import CachingTransformer
from editkit.models.latent.flux_steering import FluxSteering, pooled_prompt
from editkit.models.latent.flux_tokens import PATCH, FluxTokens
from editkit.models.latent.space import load_vae, to_encoder_device, vae_factor
from editkit.models.latent.tokens import guidance_input, reference_sizes, unpacked
from editkit.models.latent.xl import Reader
from editkit.models.prompts.shown import adapters, by_branch, for_flux
from editkit.models.schedules import default_sampler, make_flow

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOWN = "FLUX.1 dev, schnell, Fill, Kontext and Control (FluxTransformer2DModel, AutoencoderKL)"
WINDOW, LEAST = 1024, 512
"""In pixels per side."""
T5_LENGTH = 512
"""Number of T5 tokens, including padding, which the transformer sees."""

Task = Literal["text", "control", "fill"]
STEPS: dict[str, int] = {"text": 28, "control": 28, "fill": 50}
GUIDANCE: dict[str, float] = {"text": 3.5, "control": 3.5, "fill": 30.0}
"""diffusers' defaults."""


def matches(layout: Layout) -> bool:
    """Whether the folder is a pipeline with a FluxTransformer2DModel."""
    return layout.is_of("transformer", "FluxTransformer2DModel")


def describe(layout: Layout) -> ModelInfo:
    """Describe the model by the transformer's channels and the index's class. A network without a guidance embedding
    whose noise levels do not depend on the size is like schnell: distilled to a few steps.
    """
    layout.require("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler")
    transformer, vae, scheduler = (layout.config(part) for part in ("transformer", "vae", "scheduler"))
    task = _task(layout, int(transformer.get("in_channels", 64)), vae)
    looks = task == "text" and str(layout.index.get("_class_name")).startswith("FluxKontext")
    tells = bool(transformer.get("guidance_embeds", False))
    takes = {
        "prompt",
        "step cache",
        "image prompt",
        *(["guidance"] if tells else []),
        *(["references"] if looks else []),
    }
    takes |= {"text": {"control"}, "control": {"hint"}, "fill": {"known", "mask", "fine mask", "control"}}[task]
    few = not tells and not scheduler.get("use_dynamic_shifting")
    return ModelInfo(
        layout.name, KNOWN, frozenset(takes), default_sampler(scheduler), 4 if few else STEPS[task], WINDOW, LEAST,
        PATCH * vae_factor(vae), guidance=1.0 if few else GUIDANCE[task], distilled=few, shifts=True,
        references=1 if looks else 0, rounds_up=True,
    )  # fmt: skip


def _task(layout: Layout, channels: int, vae: Any) -> Task:
    latent = PATCH**2 * int(vae.get("latent_channels", 16))
    mask = (PATCH * vae_factor(vae)) ** 2
    known: dict[int, Task] = {latent: "text", 2 * latent: "control", 2 * latent + mask: "fill"}
    if channels not in known:
        raise ModelError(
            f"model {layout.name}: its transformer takes {channels} channels; known are {', '.join(map(str, known))}"
        )
    return known[channels]


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the model with its networks in `dtype`."""
    from diffusers import FluxTransformer2DModel

    transformer = load_network(layout, "transformer", FluxTransformer2DModel, dtype, device)
    vae = load_vae(layout, dtype, device)
    clip, t5 = (
        Reader(*load_text_encoder(layout, f"tokenizer{part}", f"text_encoder{part}", dtype, device))
        for part in ("", "_2")
    )
    return Flux(info, transformer, vae, clip, t5, make_flow(layout.config("scheduler"), PATCH))


class Flux(CachingTransformer, FluxSteering, FluxTokens):
    """A FluxTransformer2DModel behind an AutoencoderKL as a `Model`: its text, its call, its layers for image prompts.
    The base classes implement the step cache, ControlNets, and the inputs beside the noise.

    Args:
        info: from `describe`.
        transformer, vae: on their device, in their dtype.
        pooled, reader: CLIP and T5 with their tokenizers.
        schedule: its noise levels.
    """

    def __init__(
        self, info: ModelInfo, transformer: Any, vae: Any, pooled: Reader, reader: Reader, schedule: Schedule
    ) -> None:
        from editkit.models.prompts.flux import use_attend

        super().__init__(info, use_attend(transformer), vae, schedule)
        self.pooled, self.reader = pooled, reader

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        return super().__call__(x_t, level, by_branch(conds))

    def fits(self, cond: Conditioning, steered: bool) -> Hashable:
        """Return the key for batching: references, adapters, and text tokens."""
        return reference_sizes(cond), adapters(cond), self.words(cond).embeds.shape[1]

    def velocities(
        self, x_t: Tensor, level: Level, conds: Sequence[Conditioning], added: Residuals | None
    ) -> Sequence[Tensor]:
        import torch

        n, batch, device, dtype = len(conds), len(x_t), x_t.device, self.transformer.dtype
        prompts = [self.words(cond) for cond in conds]
        words = torch.cat([prompt.embeds.expand(batch, -1, -1) for prompt in prompts]).to(device, dtype)
        pooled = torch.cat([pooled_prompt(prompt, self.info.name).expand(batch, -1) for prompt in prompts])
        tokens = torch.cat([self.tokens(x_t, cond) for cond in conds])
        size = [side // PATCH for side in x_t.shape[-2:]]
        shown = for_flux(conds, batch, device, dtype, size, tokens.shape[1] - size[0] * size[1])
        out = self.transformer(
            hidden_states=tokens.to(dtype),
            timestep=torch.full((n * batch,), level.t, dtype=torch.float32, device=device) / 1000,
            guidance=guidance_input(conds, self.info, batch, device),
            pooled_projections=pooled.to(device, dtype),
            encoder_hidden_states=words, txt_ids=torch.zeros(words.shape[1], 3, dtype=torch.int64, device=device),
            img_ids=self.ids(x_t, conds[0]), return_dict=False,
            joint_attention_kwargs=None if shown is None else {"shown": shown},
            **self.steering(added, tokens.shape[1], dtype),
        )[0]  # fmt: skip
        return unpacked(out, *x_t.shape[-2:]).to(x_t.dtype).chunk(n)

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Return (T5's last hidden state, (1, 512, width), with CLIP's pooled output of its first 77 tokens; the text
        beyond T5's limit).
        """
        clip, t5 = self.pooled, self.reader
        with READING:
            short = clip.tokenizer(
                text, padding="max_length", max_length=clip.tokenizer.model_max_length, truncation=True,
                return_tensors="pt",
            ).input_ids  # fmt: skip
            ids = t5.tokenizer(
                text, padding="max_length", max_length=T5_LENGTH, truncation=True, return_tensors="pt"
            ).input_ids
            whole = t5.tokenizer(text, verbose=False).input_ids
            rest = t5.tokenizer.decode(whole[T5_LENGTH - 1 : -1]) if len(whole) > T5_LENGTH else ""
        pooled = clip.encoder(to_encoder_device(short, clip.encoder)).pooler_output
        return Prompt(t5.encoder(to_encoder_device(ids, t5.encoder))[0], pooled), rest

    def places(self) -> Places:
        """Return the attention layers where an IP-Adapter can act."""
        from editkit.models.prompts.flux import places

        return places(self.transformer)

    def pipeline(self) -> Any:
        """Build a diffusers pipeline of these networks."""
        import diffusers

        takes = self.info.takes
        kinds = {"mask": "Fill", "hint": "Control", "references": "Kontext"}
        name = next((kind for condition, kind in kinds.items() if condition in takes), "")
        return getattr(diffusers, f"Flux{name}Pipeline")(
            transformer=self.transformer, vae=self.vae, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
            text_encoder=self.pooled.encoder, tokenizer=self.pooled.tokenizer,
            text_encoder_2=self.reader.encoder, tokenizer_2=self.reader.tokenizer,
        )  # fmt: skip
