"""Stable Diffusion 1.x, 2.x and derived models: a UNet on the latents of a VAE, with a CLIP text encoder.

One adapter for the whole family; tasks are plugins. UNets with 4 input channels and those with 9 (latents, mask,
masked picture: the inpainting models), epsilon, v and sample prediction, and latent consistency models, which take
the guidance scale as an input instead of being called twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from editkit.diffusion.conditioning import Conditioning, Prompt, residuals
from editkit.diffusion.control import Given
from editkit.diffusion.image_prompts import Places
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.prediction import Prediction, PredictionType, convert
from editkit.diffusion.schedule import Level, Schedule
from editkit.errors import ModelError
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network, load_text_encoder
from editkit.models.latent.space import LatentSpace, chunks, pad_to_longest, side_by_side, to_encoder_device, vae_factor
from editkit.models.latent.tokens import call_grouped
from editkit.models.latent.weighting import encode_weighted_text
from editkit.models.prompts.shown import adapters, by_branch, for_unet
from editkit.models.schedules import clip_range, default_sampler, make_schedule, prediction_type

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOWN = "Stable Diffusion 1.x/2.x (UNet2DConditionModel, AutoencoderKL, CLIPTextModel)"
GUIDANCE, TOLD = 7.5, 8.5
"""Guidance scales, diffusers' defaults: of ordinary models, and the input of guidance-distilled ones."""
STEPS = {"lcm": 4, "dpm++2m": 25, "dpm++2m-sde": 25, "unipc": 25}
"""Default steps by sampler; 50 for the others."""

TURBO_STEPS = 4
_NEEDED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def matches(layout: Layout) -> bool:
    """Whether the folder has a UNet2DConditionModel, a VAE and at most one text encoder; not the upscaler or unCLIP."""
    others = any(layout.has(part) for part in ("text_encoder_2", "low_res_scheduler", "image_normalizer"))
    if not layout.index or not (layout.has("unet") and layout.has("vae")) or others:
        return False
    return layout.config("unet").get("_class_name") == "UNet2DConditionModel"


def describe(layout: Layout) -> ModelInfo:
    """Describe the model by the UNet's input channels and embeddings."""
    layout.require(*_NEEDED)
    return describe_unet(layout, KNOWN)


def describe_unet(layout: Layout, family: str, guidance: float = GUIDANCE) -> ModelInfo:
    """Describe any latent UNet by its configuration: conditions, size, sampler; few steps and no guidance for a turbo
    model.
    """
    unet, vae = layout.config("unet"), layout.config("vae")
    latent, channels = int(vae.get("latent_channels", 4)), int(unet.get("in_channels", 4))
    takes = {"prompt", "control", "image prompt"}
    if channels == 2 * latent + 1:
        takes |= {"known", "mask"}
    elif channels != latent:
        raise ModelError(
            f"model {layout.name}: its UNet takes {channels} channels; known are {latent} (text to picture) and "
            f"{2 * latent + 1} (inpainting)"
        )
    if unet.get("time_cond_proj_dim"):
        takes.add("guidance")
        guidance = TOLD
    scheduler = layout.config("scheduler")
    sampler, factor = default_sampler(scheduler), vae_factor(vae)
    steps = STEPS.get(sampler, 50)
    if turbo(scheduler):
        steps, guidance = TURBO_STEPS, 1.0
    size = unet.get("sample_size") or 64
    window = factor * int(max(size) if isinstance(size, list) else size)
    return ModelInfo(
        layout.name, family, frozenset(takes), sampler, steps, window, 3 * window // 4, factor, guidance=guidance
    )


def turbo(scheduler: Mapping[str, Any]) -> bool:
    """Whether the model was distilled to one to four steps without guidance (Sauer et al. 2023, arXiv:2311.17042), by
    its scheduler's configuration: euler from the noisiest level, epsilon prediction, ordinary noise schedule.
    """
    euler = str(scheduler.get("_class_name", "")).startswith("Euler")
    plain = scheduler.get("prediction_type", "epsilon") == "epsilon" and not scheduler.get("rescale_betas_zero_snr")
    return euler and plain and scheduler.get("timestep_spacing") == "trailing"


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the model with UNet, VAE and text encoder in `dtype`."""
    from diffusers import AutoencoderKL

    from editkit.models.fast.blocks import load_unet

    unet = load_unet(layout, dtype, device)
    vae = load_network(layout, "vae", AutoencoderKL, dtype, device)
    tokenizer, text_encoder = load_text_encoder(layout, "tokenizer", "text_encoder", dtype, device)
    scheduler = layout.config("scheduler")
    return LatentUNet(info, unet, vae, tokenizer, text_encoder, make_schedule(scheduler), scheduler)


class LatentUNet(LatentSpace):
    """A UNet2DConditionModel behind an AutoencoderKL as a `Model`.

    Args:
        info: from `describe`.
        unet, vae, tokenizer, text_encoder: on their device, in their dtype.
        schedule: its noise schedule of training.
        scheduler: its configuration, with the prediction type and the clipping of x0.
    """

    def __init__(
        self,
        info: ModelInfo,
        unet: Any,
        vae: Any,
        tokenizer: Any,
        text_encoder: Any,
        schedule: Schedule,
        scheduler: Mapping[str, Any],
    ) -> None:
        from editkit.models.fast.blocks import attends_once

        super().__init__(vae)
        self.looks_once = attends_once(unet)
        self.info, self.unet, self.schedule = info, unet, schedule
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.kind: PredictionType = prediction_type(scheduler)
        self.clip = clip_range(scheduler)

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        def ask(conds: Sequence[Conditioning]) -> Sequence[Tensor]:
            return self._outputs(x_t, level, conds)

        outputs = call_grouped(by_branch(conds), adapters, ask)
        return tuple(convert(out, x_t, level, self.kind) for out in outputs)

    def _outputs(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> Sequence[Tensor]:
        """Call the network once for all `conds`, whose image prompts use the same adapters."""
        import torch

        n, batch, dtype = len(conds), len(x_t), self.unet.dtype
        t = torch.full((n * batch,), level.t, dtype=torch.float32, device=x_t.device)
        x = torch.cat([torch.cat([x_t, *self._extra(cond, x_t)], dim=1) for cond in conds])
        texts = pad_to_longest([self.words(cond).embeds for cond in conds], lambda: self.empty)
        words = torch.cat([text.expand(batch, -1, -1) for text in texts]).to(x_t.device)
        added, labels = self.added(conds, x_t), self.labels(conds, x_t)
        guidance = self._guidance(conds, batch, x_t)
        is_conditioned = added is not None or labels is not None or guidance is not None
        same = self.looks_once and not is_conditioned and all(torch.equal(part, x[:batch]) for part in x.chunk(n))
        shown = for_unet(conds, batch, x_t.device, dtype)
        attention: dict[str, Any] = {"copies": n} if same and n > 1 else {}
        control = residuals(conds, Given(torch.cat([x_t] * n), t, words, added, labels))
        out = self.unet(
            x.to(dtype),
            t,
            encoder_hidden_states=words,
            class_labels=labels,
            timestep_cond=guidance,
            added_cond_kwargs=added,
            cross_attention_kwargs=(attention if shown is None else {**attention, "shown": shown}) or None,
            down_block_additional_residuals=None if control is None else [part.to(dtype) for part in control.tensors],
            mid_block_additional_residual=None if control is None or control.mid is None else control.mid.to(dtype),
            return_dict=False,
        )[0]
        answers: Sequence[Tensor] = out.to(x_t.dtype).chunk(n)
        return answers

    def places(self) -> Places:
        """Return the cross-attention layers, where an IP-Adapter can act."""
        from editkit.models.fast.blocks import places

        return places(self.unet)

    def words(self, cond: Conditioning) -> Prompt:
        """Return the encoded text of a conditioning; without one, the model's own "no text"."""
        return self.no_words if cond.prompt is None else cond.prompt

    @cached_property
    def no_words(self) -> Prompt:
        """Return what replaced dropped texts in training."""
        return self.encode_text("")[0]

    @cached_property
    def empty(self) -> Tensor:
        """Return the encoded empty text, which pads the shorter of two texts."""
        return self.encode_text("")[0].embeds

    def added(self, conds: Sequence[Conditioning], x_t: Tensor) -> dict[str, Tensor] | None:
        """Return further embeddings for the UNet by diffusers' names; None for SD 1.x and 2.x."""
        return None

    def labels(self, conds: Sequence[Conditioning], x_t: Tensor) -> Tensor | None:
        """Return class numbers for the UNet, (conds * batch,); None for one without classes."""
        return None

    def _extra(self, cond: Conditioning, x_t: Tensor) -> tuple[Tensor, ...]:
        """Return (mask, masked picture) for an inpainting model."""
        return self.mask_and_known(cond, x_t) if "mask" in self.info.takes else ()

    def _guidance(self, conds: Sequence[Conditioning], batch: int, x_t: Tensor) -> Tensor | None:
        """Return the embedding of (scale - 1) * 1000 for latent consistency models (Luo et al. 2023)."""
        width = self.unet.config.time_cond_proj_dim
        if width is None:
            return None
        import torch
        from diffusers.models.embeddings import get_timestep_embedding

        scales = torch.tensor([TOLD if c.guidance is None else c.guidance for c in conds]).repeat_interleave(batch)
        made: Tensor = get_timestep_embedding((scales - 1.0) * 1000.0, width, downscale_freq_shift=1)
        return made.to(x_t.device, self.unet.dtype)

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Return CLIP's last hidden state, (1, 77 n, width); no text is dropped."""
        ids = chunks(self.tokenizer, text)
        attention = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = to_encoder_device(ids["attention_mask"], self.text_encoder) if attention else None
        embeds = self.text_encoder(to_encoder_device(ids["input_ids"], self.text_encoder), attention_mask=mask)[0]
        return Prompt(side_by_side(embeds)), ""

    def encode_weighted(self, text: str) -> Prompt:
        """Like `encode_text`, with weights in compel's syntax: `(words)1.3`, `word++`, `word-`."""
        return Prompt(encode_weighted_text(text, self.tokenizer, self.text_encoder))

    @property
    def denoiser(self) -> Any:
        return self.unet

    def pipeline(self) -> Any:
        """Build a diffusers pipeline of these networks."""
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        return StableDiffusionPipeline(
            vae=self.vae, text_encoder=self.text_encoder, tokenizer=self.tokenizer, unet=self.unet,
            scheduler=DDIMScheduler(steps_offset=1, clip_sample=False), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> LatentUNet:
        return self
