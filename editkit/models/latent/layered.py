"""Qwen-Image-Layered: splits a picture into layers with transparency (Qwen-Image's transformer and a VAE of RGBA).

A state holds the latents of layers + 1 pictures, the first of which is the whole picture again. Their tokens follow one
another, each picture with a position of its own, and then those of the picture to split, at position -1. The shift of
the noise levels is the square root of the number of tokens of one picture, by that of 256 x 256 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from editkit.diffusion.conditioning import Conditioning, Reference
from editkit.diffusion.control import Residuals
from editkit.diffusion.model import Model, ModelInfo, Pass
from editkit.diffusion.schedule import Level
from editkit.errors import ModelError
from editkit.models.files.layout import Layout
from editkit.models.latent import qwen
from editkit.models.latent.tokens import fit_to_area
from editkit.models.latent.vaes import film_factor
from editkit.models.schedules import default_sampler, make_flow

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from editkit.diffusion.noise import Stream
    from editkit.pictures.boxes import Box
    from editkit.pictures.picture import Fill

KNOWN = "Qwen-Image-Layered (QwenImageTransformer2DModel with positions for layers, AutoencoderKLQwenImage of RGBA)"
AREA = 640 * 640
"""Largest area in pixels at which a picture is split; diffusers' default for every picture."""
LAYERS, STEPS = 4, 50
"""diffusers' defaults."""
MULTIPLE = 16
"""Of the sides of a picture that is scaled down."""


@runtime_checkable
class SplitsLayers(Protocol):
    """A model that takes `layers`: its states hold the layers of a picture."""

    def split(self, x0: Tensor) -> Tensor:
        """Decode the layers, the lowest first: (batch, layers, 4, h, w), colours in [-1, 1], opacity in [0, 1]."""
        ...


@dataclass(frozen=True)
class Root:
    """mu = sqrt(tokens / few): the shift depends on the side of the picture."""

    few: int = 256

    def __call__(self, tokens: int, steps: int) -> float:
        return float((tokens / self.few) ** 0.5)


def matches(layout: Layout) -> bool:
    """Whether the folder is a pipeline with Qwen-Image's transformer that has positions for layers."""
    own = layout.is_of("transformer", "QwenImageTransformer2DModel")
    return own and bool(layout.config("transformer").get("use_layer3d_rope"))


def describe(layout: Layout) -> ModelInfo:
    """Describe the model, which only splits pictures."""
    layout.require("vae", "text_encoder", "tokenizer", "scheduler")
    channels = layout.config("vae").get("input_channels", 3)
    if channels != 4:
        raise ModelError(f"model {layout.name}: its VAE takes {channels} channels, but layers have 4; known: {KNOWN}")
    return ModelInfo(
        layout.name, KNOWN, frozenset({"prompt", "layers"}), default_sampler(layout.config("scheduler")), STEPS,
        multiple=qwen.PATCH * film_factor(layout.config("vae")), guidance=qwen.GUIDANCE, shifts=True, rounds_up=True,
        passes=at_once,
    )  # fmt: skip


def at_once(
    box: Box,
    steps: int,
    usual: int,
    hole: np.ndarray | None,
    examples: Sequence[tuple[int, int]],
    fill: Fill | None,
) -> tuple[Pass, ...]:
    """Plan one pass: at the picture's own size, or, if that is larger, scaled down to AREA."""
    if box.area <= AREA:
        return (Pass(box, box.height, box.width, steps),)
    scale = math.sqrt(AREA / box.area)
    height, width = (max(MULTIPLE, int(side * scale) // MULTIPLE * MULTIPLE) for side in (box.height, box.width))
    return (Pass(box, height, width, steps),)


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the model with its networks in `dtype`."""
    transformer, vae, reader, encoder = qwen.networks(layout, "tokenizer", device, dtype)
    schedule = make_flow(layout.config("scheduler"), qwen.PATCH, Root())
    return Layered(info, transformer, vae, reader, encoder, schedule)


class Layered(qwen.Qwen):
    """Qwen-Image-Layered as a `Model`."""

    frames: int = LAYERS + 1

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        channels, *size = super().shape(height, width)
        return (self.frames * channels, *size)

    def velocities(
        self, x_t: Tensor, level: Level, conds: Sequence[Conditioning], added: Residuals | None
    ) -> Sequence[Tensor]:
        if not all(len(cond.references) == 1 for cond in conds):
            raise ModelError(
                f"model {self.info.name} splits one picture into layers, and got none, or several; use it with the "
                f"plugin layers"
            )
        return super().velocities(x_t, level, conds, added)

    def kind_of(self, tokens: Tensor) -> Tensor | None:
        """Return 0, as the pipeline does: the picture has an opacity."""
        return tokens.new_zeros(len(tokens)).long()

    def refer(self, picture: Tensor) -> Reference:
        """Prepare the picture (b, 3, h, w) in [-1, 1] to split, opaque."""
        fitted = fit_to_area(picture, self.info.multiple, 2 * AREA)  # `at_once` keeps to AREA, and padding adds to it
        return Reference(super().encode(_opaque(fitted)), fitted)

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        """Return the state in which every layer is `image` (b, 3, h, w)."""
        return super().encode(_opaque(image), stream).repeat(1, self.frames, 1, 1)

    def decode(self, x0: Tensor) -> Tensor:
        """Decode the first picture of the state, the whole one, without its opacity."""
        return super().decode(x0[:, : self.channels])[:, :3]

    def split(self, x0: Tensor) -> Tensor:
        import torch

        width = self.channels
        parts = [x0[:, k * width : (k + 1) * width] for k in range(1, self.frames)]
        made = torch.stack([super(Layered, self).decode(part) for part in parts], dim=1).clamp(-1.0, 1.0)
        return torch.cat([made[:, :, :3], (made[:, :, 3:] + 1.0) / 2.0], dim=2)


def _opaque(image: Tensor) -> Tensor:
    import torch

    return torch.cat([image, torch.ones_like(image[:, :1])], dim=1)
