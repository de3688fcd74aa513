"""A model with a refiner (Podell et al. 2023, arXiv:2307.01952, section 2.5): two experts, one process.

Both work on the latents of the same VAE. While the training time t is at least (1 - start) T the model itself is
called, below that the refiner: the switch is a fraction of training time, whatever the number of steps. Diffusers does
the same with two pipelines, `denoising_end` and `denoising_start`; here samplers and plugins do not see the switch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from editkit.diffusion.capability import capability, copy_for_edit
from editkit.diffusion.conditioning import Conditioning, Prompt
from editkit.diffusion.model import Model, ModelInfo, ReadsText
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Discrete, Level, Schedule
from editkit.errors import ModelError
from editkit.models.families import describe_folder, load_folder
from editkit.models.files.quantising import Quantize

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.common.notify import Notify
    from editkit.diffusion.noise import Stream


@dataclass(frozen=True, eq=False)
class Twice(Prompt):
    """A text encoded for the model and for the refiner."""

    refined: Prompt | None = None


@dataclass(eq=False)
class Refined:
    """Uses `model` down to the time `until`, and `refiner` below."""

    model: Any
    refiner: Any
    until: float

    @property
    def wrapped(self) -> Model:
        """The model that encodes, decodes and takes ControlNets."""
        base: Model = self.model
        return base

    def leased(self) -> Refined:
        return replace(self, model=copy_for_edit(self.model), refiner=copy_for_edit(self.refiner))

    @property
    def info(self) -> ModelInfo:
        found: ModelInfo = self.model.info
        return found

    @property
    def schedule(self) -> Schedule:
        found: Schedule = self.model.schedule
        return found

    @property
    def data_std(self) -> float:
        return float(self.model.data_std)

    @property
    def clip(self) -> float | None:
        bound: float | None = self.model.clip
        return bound

    @property
    def chosen(self) -> Sequence[str]:
        """The choices made at loading, for the report."""
        return tuple(dict.fromkeys([*self.model.chosen, *self.refiner.chosen]))

    @property
    def notify(self) -> Notify:
        callback: Notify = self.model.notify
        return callback

    @notify.setter
    def notify(self, notify: Notify) -> None:
        self.model.notify = self.refiner.notify = notify

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        if level.t >= self.until:
            made: tuple[Prediction, ...] = self.model(x_t, level, conds)
            return made
        made = self.refiner(x_t, level, [_for_refiner(cond) for cond in conds])
        return made

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        prompt, dropped = self.model.encode_text(text)
        return Twice(prompt.embeds, prompt.pooled, self.refiner.encode_text(text)[0]), dropped

    def encode_weighted(self, text: str) -> Prompt:
        prompt = self.model.encode_weighted(text)
        return Twice(prompt.embeds, prompt.pooled, self.refiner.encode_weighted(text))

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        size: tuple[int, ...] = self.model.shape(height, width)
        return size

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        latents: Tensor = self.model.encode(image, stream)
        return latents

    def encode_mask(self, mask: Tensor) -> Tensor:
        region: Tensor = self.model.encode_mask(mask)
        return region

    def decode(self, x0: Tensor) -> Tensor:
        image: Tensor = self.model.decode(x0)
        return image

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Refined:
        return replace(self, model=self.model.attach(picture, mask), refiner=self.refiner.attach(picture, mask))


def _for_refiner(cond: Conditioning) -> Conditioning:
    """Return `cond` with the texts encoded for the refiner, without ControlNets and image prompts, which were made for
    the model.
    """
    negative = _refiner_prompt(cond.negative)
    prompt = negative if cond.unwanted else _refiner_prompt(cond.prompt)
    return replace(cond, prompt=prompt, negative=negative, control=(), image_prompts=())


def _refiner_prompt(prompt: Prompt | None) -> Prompt | None:
    return prompt.refined if isinstance(prompt, Twice) else None


def check(info: ModelInfo, name: str, offline: bool) -> ModelInfo:
    """Describe the refiner called `name`, without its weights, and check that it fits the model of `info`.

    Raises:
        ModelError: it does not fit.
    """
    refiner = describe_folder(name, offline=offline)
    if "prompt" not in info.takes or refiner.family != info.family or {"known", "mask"} & (refiner.takes ^ info.takes):
        raise ModelError(f"--refiner {name} ({refiner.family}) is not a refiner for {info.name} ({info.family})")
    return refiner


def with_refiner(
    model: Model,
    name: str,
    start: float,
    device: torch.device,
    dtype: torch.dtype,
    offline: bool,
    quantize: Quantize = "none",
) -> Refined:
    """Join `model` and the refiner called `name`, with the switch at the fraction `start` of training time; `quantize`:
    quantise the refiner's linear layers as well.

    Raises:
        ModelError: they do not work on the same latents and times.
    """
    described = check(model.info, name, offline)
    refiner = load_folder(name, described, device, dtype, offline=offline, quantize=quantize)
    first, second = model.schedule, refiner.schedule
    if capability(model, ReadsText) is None or not isinstance(first, Discrete) or not isinstance(second, Discrete):
        raise ModelError(f"--refiner is for Stable Diffusion XL; {model.info.name} ({model.info.family}) takes none")
    same = len(first.alphas_cumprod) == len(second.alphas_cumprod)
    if not same or model.shape(512, 512) != refiner.shape(512, 512):
        raise ModelError(f"--refiner {name} works on other latents or noise levels than {model.info.name}")
    return Refined(model, refiner, round((1.0 - start) * len(first.alphas_cumprod)))
