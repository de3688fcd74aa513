"""Kandinsky 2.2's decoder (Razzhigaev et al. 2023, arXiv:2310.03502): a UNet on the latents of a MoVQ, which is told an
image embedding alone. The prior that makes embeddings of texts is another folder; what lies here is made by `vary` and
`blend` of pictures.

It reads no text. The unconditional branch of guidance gets the image embedding of an empty picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from editkit.diffusion.conditioning import Conditioning, Embedding, Prompt
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.prediction import Prediction, PredictionType, convert
from editkit.diffusion.schedule import Level, Schedule
from editkit.errors import ModelError, UsageError
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network
from editkit.models.latent.space import LatentSpace, vae_factor
from editkit.models.prompts.shown import by_branch
from editkit.models.schedules import clip_range, default_sampler, make_schedule, prediction_type

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.diffusion.noise import Stream

KNOWN = "Kandinsky 2.2's decoder (UNet2DConditionModel that takes an image embedding, VQModel)"
GUIDANCE, STEPS = 4.0, 100
"""diffusers' defaults."""
VAE = "movq"
CLASS = "KandinskyV22"


def matches(layout: Layout) -> bool:
    """A pipeline with a UNet and a MoVQ."""
    return bool(layout.index) and layout.has("unet") and layout.has(VAE)


def describe(layout: Layout) -> ModelInfo:
    """What it is by the UNet's configuration."""
    unet, movq, scheduler = (layout.config(part) for part in ("unet", VAE, "scheduler"))
    channels = int(movq.get("latent_channels", 4))
    if unet.get("addition_embed_type") != "image" or int(unet.get("in_channels", 4)) != channels:
        raise ModelError(
            f"model {layout.name}: its UNet takes {unet.get('in_channels')} channels and "
            f"{unet.get('addition_embed_type')}; known is {KNOWN}, not 2.1, the inpainting or the ControlNet decoder"
        )
    factor, size = vae_factor(movq), unet.get("sample_size") or 64
    window = factor * int(max(size) if isinstance(size, list) else size)
    return ModelInfo(
        layout.name, KNOWN, frozenset({"prompt", "embedding"}), default_sampler(scheduler), STEPS, window,
        3 * window // 4, factor**2, guidance=GUIDANCE,
    )  # fmt: skip


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Networks in `dtype`."""
    from diffusers import UNet2DConditionModel, VQModel

    unet = load_network(layout, "unet", UNet2DConditionModel, dtype, device)
    movq = load_network(layout, VAE, VQModel, dtype, device)
    scheduler = layout.config("scheduler")
    return Kandinsky(info, unet, movq, make_schedule(scheduler), scheduler)


class Kandinsky(LatentSpace):
    """Kandinsky 2.2's UNet as a `Model`.

    Args:
        info: what `describe` said.
        unet, movq: on their device, in their dtype.
        schedule: the table it was trained with.
        scheduler: its configuration: what the output means, and whether x0 is clipped.
    """

    def __init__(self, info: ModelInfo, unet: Any, movq: Any, schedule: Schedule, scheduler: Mapping[str, Any]) -> None:
        super().__init__(movq)
        self.info, self.unet, self.schedule = info, unet, schedule
        self.kind: PredictionType = prediction_type(scheduler)
        self.clip = clip_range(scheduler)
        self.learned = str(scheduler.get("variance_type")).startswith("learned")

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        import torch

        n, batch = len(conds), len(x_t)
        told = [self._values(cond).expand(batch, -1) for cond in by_branch(conds)]
        t = torch.full((n * batch,), level.t, dtype=torch.float32, device=x_t.device)
        out = self.unet(
            torch.cat([x_t] * n).to(self.unet.dtype), t, encoder_hidden_states=None,
            added_cond_kwargs={"image_embeds": torch.cat(told).to(x_t.device, self.unet.dtype)}, return_dict=False,
        )[0]  # fmt: skip
        return tuple(self._prediction(part, x_t, level) for part in out.to(x_t.dtype).chunk(n))

    def _values(self, cond: Conditioning) -> Tensor:
        if cond.embedding is None:
            raise ModelError(
                f"model {self.info.name} makes pictures of what an image encoder says, and was told nothing; add "
                f"`with vary` or `with blend`"
            )
        return cond.embedding.values

    def _prediction(self, out: Tensor, x_t: Tensor, level: Level) -> Prediction:
        """The second half of the channels is the variance, between its bounds, where it was learned."""
        mean, rest = out[:, : self.channels], out[:, self.channels :]
        made = convert(mean, x_t, level, self.kind)
        return replace(made, variance=(rest + 1.0) / 2.0) if self.learned else made

    @property
    def embedding_width(self) -> int:
        """Of what the image encoder says."""
        return int(self.unet.config.encoder_hid_dim)

    def told(self, embedding: Tensor, none: Tensor, noise_level: int, draw: Callable[[], Tensor]) -> Embedding:
        """As it is; nothing is drawn.

        Raises:
            UsageError: a noise level, which it is not told.
        """
        if noise_level:
            raise UsageError(f"the noise level is {noise_level}; model {self.info.name} was trained without any")
        return Embedding(embedding, none)

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Nothing is read: all of `text` is left out."""
        import torch

        return Prompt(torch.zeros(1, 1, 1)), text

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        """The MoVQ's latents before they are quantised, as they are; nothing is drawn."""
        made: Tensor = self._finite(
            lambda vae: vae.encode(image.to(vae.dtype)).latents.float(), lambda made: made, "a picture"
        )
        return made

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels, of latents that are not quantised."""
        image: Tensor = self._finite(
            lambda vae: vae.decode(x0.to(vae.dtype), force_not_quantize=True).sample.float(),
            lambda made: made,
            "finite latents",
        )
        return image

    @property
    def denoiser(self) -> Any:
        return self.unet

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Kandinsky:
        return self
