"""Pixel-space diffusers folders: UNet2DModel with a DDPM, DDIM or score (VE) scheduler.

Either a pipeline's folder (model_index.json, unet/, scheduler/) or the folder of a bare network (config.json) with a
scheduler_config.json in it. The network may predict epsilon, v, the sample or the score, may have learned its variance
(twice the output channels) and may take a class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import Model, ModelInfo, PixelSpace
from editkit.diffusion.prediction import Prediction, PredictionType, convert
from editkit.diffusion.schedule import Level, Schedule
from editkit.errors import ModelError
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network
from editkit.models.schedules import clip_range, default_sampler, make_schedule, prediction_type

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.diffusion.noise import Stream

KNOWN = "pixel-space diffusion (UNet2DModel)"
_STEPS = {"ddpm": 250, "ddpm:variance=large": 250}


def matches(layout: Layout) -> bool:
    """Whether the folder is a pipeline whose only network is a UNet2DModel, or a bare UNet2DModel."""
    if layout.index.get("_class_name") == "EditkitPocket":
        return False
    if layout.index:
        networks = {key for key in layout.index if not key.startswith("_")} - {"unet", "scheduler"}
        return not networks and _class_name(layout.config("unet")) == "UNet2DModel"
    return (layout.path / "config.json").is_file() and _class_name(layout.config()) == "UNet2DModel"


def describe(layout: Layout) -> ModelInfo:
    """Describe sampler and size by the configuration; `takes` has `class` if the network needs one."""
    unet, scheduler = layout.config(_unet(layout)), _scheduler(layout)
    channels, out = unet.get("in_channels", 3), unet.get("out_channels", 3)
    if channels not in (1, 3) or out not in (channels, 2 * channels):
        raise ModelError(
            f"model {layout.name}: its UNet takes {channels} channels and gives {out}; a picture in pixels has 1 or 3, "
            f"and the output as many, or twice as many with a learned variance"
        )
    sampler = default_sampler(scheduler)
    return ModelInfo(
        layout.name,
        KNOWN,
        takes=frozenset({"class"} if _is_class_conditional(unet) else ()),
        sampler=sampler,
        steps=_STEPS.get(sampler, 50),
        window=_side(unet.get("sample_size")),
        multiple=2 ** (len(unet.get("block_out_channels", "1234")) - 1),
    )


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the network in `dtype`; x_t and the schedule stay float32."""
    from diffusers import UNet2DModel

    scheduler = _scheduler(layout)
    network = load_network(layout, _unet(layout), UNet2DModel, dtype, device)
    return PixelUNet(info, network, make_schedule(scheduler), scheduler)


class PixelUNet(PixelSpace):
    """A UNet2DModel as a `Model`.

    Args:
        info: from `describe`.
        network: on its device, in its dtype.
        schedule: its noise schedule of training.
        scheduler: its configuration, with the prediction type and the clipping of x0.
    """

    def __init__(self, info: ModelInfo, network: Any, schedule: Schedule, scheduler: Mapping[str, Any]) -> None:
        self.info, self.network, self.schedule = info, network, schedule
        self.score = scheduler.get("_class_name") == "ScoreSdeVeScheduler"
        self.kind: PredictionType = prediction_type(scheduler)
        self.clip = None if self.score else clip_range(scheduler)
        self.channels = int(network.config.in_channels)
        self.learned = network.config.out_channels == 2 * self.channels
        # score-sde's networks use pixels in [0, 1]
        self.data_std = 0.25 if self.score else 0.5

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        import torch

        n = len(conds)
        t = torch.full((n * len(x_t),), level.t, dtype=torch.float32, device=x_t.device)
        labels = torch.cat([self._label(cond, len(x_t)) for cond in conds]) if "class" in self.info.takes else None
        x = torch.cat([x_t] * n).to(self.network.dtype)
        out = self.network(x, t, class_labels=labels, return_dict=False)[0].float()
        return tuple(self._prediction(part, x_t, level) for part in out.chunk(n))

    def _prediction(self, out: Tensor, x_t: Tensor, level: Level) -> Prediction:
        variance = None
        if self.learned:
            variance = (out[:, self.channels :] + 1.0) / 2.0
            out = out[:, : self.channels]
        if self.score:  # eps = -sigma_t * grad log p(x_t)
            out = -level.sigma * out
        made = convert(out, x_t, level, self.kind)
        return Prediction(made.x0, made.eps, variance)

    def _label(self, cond: Conditioning, batch: int) -> Tensor:
        if cond.label is None:
            raise ModelError(f"model {self.info.name} was trained with classes and needs one")
        return cond.label.expand(batch)

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return (self.channels, height, width)

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        if self.channels == 1:
            image = image.mean(1, keepdim=True)
        return (image + 1.0) / 2.0 if self.score else image

    def decode(self, x0: Tensor) -> Tensor:
        image = 2.0 * x0 - 1.0 if self.score else x0
        return image.expand(-1, 3, -1, -1) if self.channels == 1 else image

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> PixelUNet:
        return self


def _unet(layout: Layout) -> str:
    return "unet" if layout.index else ""


def _scheduler(layout: Layout) -> Mapping[str, Any]:
    if layout.index:
        return layout.config("scheduler")
    for file in ("scheduler_config.json", "scheduler/scheduler_config.json"):
        if (layout.path / file).is_file():
            return layout.json(file)
    raise ModelError(
        f"model {layout.name}: a network without a scheduler_config.json beside it; its noise schedule is not known"
    )


def _class_name(config: Mapping[str, Any]) -> str:
    return str(config.get("_class_name", ""))


def _is_class_conditional(unet: Mapping[str, Any]) -> bool:
    return unet.get("num_class_embeds") is not None or unet.get("class_embed_type") is not None


def _side(size: Any) -> int | None:
    side = max(size) if isinstance(size, list) else size
    return None if side is None else int(side)
