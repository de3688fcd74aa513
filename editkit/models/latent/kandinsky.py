"""Kandinsky 2.2's decoder (Razzhigaev et al. 2023, arXiv:2310.03502): a UNet on the latents of a MoVQ, conditioned on
an image embedding alone. The prior, which makes embeddings from texts, is another folder; here `vary` and `blend` make
them from pictures.

It takes no text. The unconditional branch of guidance has the image embedding of an empty picture.
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
    """Whether the folder is a pipeline with a UNet and a MoVQ."""
    return bool(layout.index) and layout.has("unet") and layout.has(VAE)


def describe(layout: Layout) -> ModelInfo:
    """Describe the model by the UNet's configuration."""
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
    """Load the model with its networks in `dtype`."""
    from diffusers import UNet2DConditionModel, VQModel

    unet = load_network(layout, "unet", UNet2DConditionModel, dtype, device)
    movq = load_network(layout, VAE, VQModel, dtype, device)
    scheduler = layout.config("scheduler")
    return Kandinsky(info, unet, movq, make_schedule(scheduler), scheduler)


class Kandinsky(LatentSpace):
    """Kandinsky 2.2's UNet as a `Model`.

    Args:
        info: from `describe`.
        unet, movq: on their device, in their dtype.
        schedule: its noise schedule of training.
        scheduler: its configuration, with the prediction type and the clipping of x0.
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
        embeds = [self._values(cond).expand(batch, -1) for cond in by_branch(conds)]
        t = torch.full((n * batch,), level.t, dtype=torch.float32, device=x_t.device)
        out = self.unet(
            torch.cat([x_t] * n).to(self.unet.dtype), t, encoder_hidden_states=None,
            added_cond_kwargs={"image_embeds": torch.cat(embeds).to(x_t.device, self.unet.dtype)}, return_dict=False,
        )[0]  # fmt: skip
        return tuple(self._prediction(part, x_t, level) for part in out.to(x_t.dtype).chunk(n))

    def _values(self, cond: Conditioning) -> Tensor:
        if cond.embedding is None:
            raise ModelError(
                f"model {self.info.name} generates from an image embedding, and none was given; add "
                f"`with vary` or `with blend`"
            )
        return cond.embedding.values

    def _prediction(self, out: Tensor, x_t: Tensor, level: Level) -> Prediction:
        """Split the output: if the variance was learned, the second half of the channels interpolates its bounds."""
        mean, rest = out[:, : self.channels], out[:, self.channels :]
        made = convert(mean, x_t, level, self.kind)
        return replace(made, variance=(rest + 1.0) / 2.0) if self.learned else made

    @property
    def embedding_width(self) -> int:
        """Width of the image embedding."""
        return int(self.unet.config.encoder_hid_dim)

    def prepare_embedding(
        self, embedding: Tensor, none: Tensor, noise_level: int, draw: Callable[[], Tensor]
    ) -> Embedding:
        """Return the embedding unchanged; nothing is drawn.

        Raises:
            UsageError: a noise level, which the model does not take.
        """
        if noise_level:
            raise UsageError(f"the noise level is {noise_level}, but model {self.info.name} takes none")
        return Embedding(embedding, none)

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Read nothing: all of `text` is dropped."""
        import torch

        return Prompt(torch.zeros(1, 1, 1)), text

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        """Return the MoVQ's latents before quantisation; nothing is drawn."""
        made: Tensor = self._finite(
            lambda vae: vae.encode(image.to(vae.dtype)).latents.float(), lambda made: made, "a picture"
        )
        return made

    def decode(self, x0: Tensor) -> Tensor:
        """Decode latents that are not quantised to pixels."""
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
