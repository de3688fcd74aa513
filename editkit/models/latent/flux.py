"""FLUX.1 (Black Forest Labs 2024): one transformer for several tasks, told apart by what it is given.

As many channels as latents: a text model (dev, schnell), or Kontext, which looks at a picture (tokens behind the
noise's, the first of their three positions 1). Twice as many: Control, whose hint (edges, depth) lies in further
channels. Six times: Fill, which sees the masked picture and the mask by the pixel. Two text encoders: T5's tokens, and
CLIP's pooled output.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from editkit.common.process import READING
from editkit.diffusion.conditioning import Conditioning, Prompt, Reference
from editkit.diffusion.control import Control, Given, Residuals, Shown
from editkit.diffusion.image_prompts import Places
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Level, Schedule
from editkit.errors import ModelError
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network, load_text_encoder
from editkit.models.latent.caching import CachingTransformer
from editkit.models.latent.controls import FluxControl, flux_controlnet, on_first, whole
from editkit.models.latent.space import beside, load_vae, vae_factor
from editkit.models.latent.tokens import fitting, grid_ids, looked_at, packed, told, unpacked
from editkit.models.latent.transformer import FlowTransformer
from editkit.models.latent.xl import Reader
from editkit.models.prompts.shown import adapters, by_branch, for_flux
from editkit.models.schedules import default_sampler, make_flow

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.diffusion.noise import Stream

KNOWN = "FLUX.1 dev, schnell, Fill, Kontext and Control (FluxTransformer2DModel, AutoencoderKL)"
PATCH = 2
"""Latents a side of one token."""
WINDOW, LEAST = 1024, 512
"""Pixels a side."""
AREA = 1024 * 1024
"""Pixels of a reference, at most."""
T5_LENGTH = 512
"""Tokens of T5; the transformer sees the padding, so there are always as many."""
REFERENCE = 1
"""The first position of a reference's tokens; the noise's is 0."""

Task = Literal["text", "control", "fill"]
STEPS: dict[str, int] = {"text": 28, "control": 28, "fill": 50}
GUIDANCE: dict[str, float] = {"text": 3.5, "control": 3.5, "fill": 30.0}
"""diffusers' defaults."""


def matches(layout: Layout) -> bool:
    """A pipeline with a FluxTransformer2DModel."""
    return layout.is_of("transformer", "FluxTransformer2DModel")


def describe(layout: Layout) -> ModelInfo:
    """What it is by the transformer's channels and the index's class; a network without a guidance embedding whose
    levels do not depend on the size is schnell's kind, distilled to a few steps.
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
    """Networks in `dtype`."""
    from diffusers import FluxTransformer2DModel

    transformer = load_network(layout, "transformer", FluxTransformer2DModel, dtype, device)
    vae = load_vae(layout, dtype, device)
    clip, t5 = (
        Reader(*load_text_encoder(layout, f"tokenizer{part}", f"text_encoder{part}", dtype, device))
        for part in ("", "_2")
    )
    return Flux(info, transformer, vae, clip, t5, make_flow(layout.config("scheduler"), PATCH))


class Flux(CachingTransformer, FlowTransformer):
    """A FluxTransformer2DModel behind an AutoencoderKL as a `Model`.

    Args:
        info: what `describe` said.
        transformer, vae: on their device, in their dtype.
        pooled, reader: CLIP and T5 with their tokenizers.
        schedule: its ladder.
    """

    def __init__(
        self, info: ModelInfo, transformer: Any, vae: Any, pooled: Reader, reader: Reader, schedule: Schedule
    ) -> None:
        from editkit.models.prompts.flux import looking

        super().__init__(info, looking(transformer), vae, schedule)
        self.pooled, self.reader = pooled, reader

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        return super().__call__(x_t, level, by_branch(conds))

    def fits(self, cond: Conditioning, steered: bool) -> Hashable:
        """By references, adapters, and tokens of the text."""
        return looked_at(cond), adapters(cond), self.words(cond).embeds.shape[1]

    def velocities(
        self, x_t: Tensor, level: Level, conds: Sequence[Conditioning], added: Residuals | None
    ) -> Sequence[Tensor]:
        import torch

        n, batch, device, dtype = len(conds), len(x_t), x_t.device, self.transformer.dtype
        prompts = [self.words(cond) for cond in conds]
        words = torch.cat([prompt.embeds.expand(batch, -1, -1) for prompt in prompts]).to(device, dtype)
        tokens = torch.cat([self._tokens(x_t, cond) for cond in conds])
        size = [side // PATCH for side in x_t.shape[-2:]]
        shown = for_flux(conds, batch, device, dtype, size, tokens.shape[1] - size[0] * size[1])
        out = self.transformer(
            hidden_states=tokens.to(dtype),
            timestep=torch.full((n * batch,), level.t, dtype=torch.float32, device=device) / 1000,
            guidance=told(conds, self.info, batch, device),
            pooled_projections=torch.cat([self._pooled(p).expand(batch, -1) for p in prompts]).to(device, dtype),
            encoder_hidden_states=words, txt_ids=torch.zeros(words.shape[1], 3, dtype=torch.int64, device=device),
            img_ids=self._ids(x_t, conds[0]), return_dict=False,
            joint_attention_kwargs=None if shown is None else {"shown": shown},
            **self._steering(added, tokens.shape[1], dtype),
        )[0]  # fmt: skip
        return unpacked(out, *x_t.shape[-2:]).to(x_t.dtype).chunk(n)

    def _steering(self, added: Residuals | None, tokens: int, dtype: torch.dtype) -> dict[str, list[Tensor] | None]:
        """Residuals by the transformer's names; references, behind the noise's tokens, are left as they are."""
        if added is None:
            return {}
        double = len(self.transformer.transformer_blocks)
        parts = [None if part is None else on_first(part, tokens).to(dtype) for part in added.down]
        return {
            "controlnet_block_samples": whole(parts[:double]), "controlnet_single_block_samples": whole(parts[double:])
        }  # fmt: skip

    def given(self, x_t: Tensor, level: Level, cond: Conditioning) -> Given:
        import torch

        batch, device, dtype, prompt = len(x_t), x_t.device, self.transformer.dtype, self.words(cond)
        scale = self.info.guidance if cond.guidance is None else cond.guidance
        told = scale if "guidance" in self.info.takes else GUIDANCE["text"]  # schnell's is none; ControlNets are dev's
        return Given(
            x_t, torch.full((batch,), level.t, dtype=torch.float32, device=device),
            prompt.embeds.expand(batch, -1, -1).to(device, dtype),
            {
                "pooled_projections": self._pooled(prompt).expand(batch, -1).to(device, dtype),
                "guidance": torch.full((batch,), told, dtype=torch.float32, device=device),
            },
        )  # fmt: skip

    def controlnet(self, config: Mapping[str, Any]) -> type[Any]:
        return flux_controlnet(config, self.transformer.config, self.info.name)

    def steered(self, network: Any, shown: Shown, scale: float, wanted_only: bool, stream: Stream | None) -> Control:
        """A hint is drawn from its posterior, as in diffusers' pipelines; a network with layers of its own for it is
        shown the picture.
        """
        hint = shown.hint if network.input_hint_block is not None else self.encode(shown.hint, stream)
        counts = len(self.transformer.transformer_blocks), len(self.transformer.single_transformer_blocks)
        return FluxControl(network, hint, scale, wanted_only, counts, shown.kind)

    def _tokens(self, x_t: Tensor, cond: Conditioning) -> Tensor:
        """(batch, tokens, channels): the noise, what lies beside it in channels, and behind it in tokens."""
        import torch

        batch = len(x_t)
        tokens = torch.cat([packed(x_t), *(packed(part).expand(batch, -1, -1) for part in self._beside(x_t, cond))], 2)
        if "references" not in self.info.takes or not cond.references:
            return tokens
        if len(cond.references) > 1:
            raise ModelError(f"model {self.info.name} looks at one picture, and was given {len(cond.references)}")
        return torch.cat([tokens, packed(cond.references[0].latent.to(x_t)).expand(batch, -1, -1)], dim=1)

    def _beside(self, x_t: Tensor, cond: Conditioning) -> Sequence[Tensor]:
        """Further channels for Control (the hint) and Fill (the masked picture, then the mask's pixels)."""
        import torch.nn.functional as F

        if "hint" in self.info.takes:
            return [cond.references[0].latent.to(x_t) if cond.references else x_t.new_zeros(x_t.shape)]
        if "fine mask" not in self.info.takes:
            return []
        mask, known = cond.mask, cond.known
        if mask is None or known is None:  # everything is to be made
            size = [self.factor * side for side in x_t.shape[-2:]]
            mask, known = x_t.new_ones(1, 1, *size), self.encode(x_t.new_zeros(1, 3, *size))
        return [known.to(x_t), F.pixel_unshuffle(mask.to(x_t), self.factor)]

    def _ids(self, x_t: Tensor, cond: Conditioning) -> Tensor:
        """Positions of the tokens, the same for the whole batch."""
        import torch

        def of(like: Tensor, first: int) -> Tensor:
            return grid_ids([side // PATCH for side in like.shape[-2:]], first, 3, x_t.device)

        looked = [r.latent for r in cond.references] if "references" in self.info.takes else []
        return torch.cat([of(x_t, 0), *(of(latent, REFERENCE) for latent in looked)])

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        """A draw from the posterior; of Kontext, whose references are pictures as they are, its mode."""
        return super().encode(image, None if "references" in self.info.takes else stream)

    def refer(self, picture: Tensor) -> Reference:
        fitted = fitting(picture, self.info.multiple, AREA)
        return Reference(self.encode(fitted), fitted)

    def _pooled(self, prompt: Prompt) -> Tensor:
        if prompt.pooled is None:
            raise ModelError(f"model {self.info.name} needs the pooled text beside the encoded one")
        return prompt.pooled

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """T5's last hidden state, (1, 512, width), and CLIP's pooled output of its first 77 tokens. What T5 does not
        read is left out.
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
        pooled = clip.encoder(beside(short, clip.encoder)).pooler_output
        return Prompt(t5.encoder(beside(ids, t5.encoder))[0], pooled), rest

    def places(self) -> Places:
        """The attentions where an IP-Adapter can act."""
        from editkit.models.prompts.flux import places

        return places(self.transformer)

    def pipeline(self) -> Any:
        """A diffusers pipeline of these networks."""
        import diffusers

        takes = self.info.takes
        kinds = {"mask": "Fill", "hint": "Control", "references": "Kontext"}
        name = next((kind for condition, kind in kinds.items() if condition in takes), "")
        return getattr(diffusers, f"Flux{name}Pipeline")(
            transformer=self.transformer, vae=self.vae, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
            text_encoder=self.pooled.encoder, tokenizer=self.pooled.tokenizer,
            text_encoder_2=self.reader.encoder, tokenizer_2=self.reader.tokenizer,
        )  # fmt: skip
