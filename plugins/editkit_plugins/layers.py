"""Split a picture into layers with transparency, with a model that was trained to (Qwen-Image-Layered).

The model sees the picture and generates several pictures at once: the whole one again, and its layers from the
background up. What lies behind an object is invented, and so is the transparency. The result is the layers on top of
one another, on white; `--save-layers` writes the layers themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from editkit.models.latent.layered import SplitsLayers
from editkit.plugin import (
    ChainError,
    Figures,
    Hooks,
    Metavar,
    ModelError,
    ModelInfo,
    Options,
    Output,
    Picture,
    Plugin,
    Run,
    Section,
    Slot,
    Step,
    TakesReferences,
    capability,
    from_unit,
    resize,
)
from editkit_plugins.layer_files import Layer, free, save

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit.plugin import Conditioning


class Layers(Plugin):
    """Split the picture into layers with transparency, to edit them one by one in another program.

    --prompt describes the whole picture. There are four layers, the authors' default.
    """

    name: ClassVar[str] = "layers"
    group: ClassVar[Section] = "steer"
    usage: ClassVar[tuple[str, ...]] = (
        'layers photo.png --model DIR --prompt "a cat on a sofa" --save-layers cat.ora',
        "layers poster.png --model DIR --save-layers poster.ora --steps 20",
        "layers photo.png --model DIR --save-layers a.ora --seed 2",
    )
    order: ClassVar[int] = -60
    holds: ClassVar[frozenset[Slot]] = frozenset({"mask"})
    offers: ClassVar[frozenset[str]] = frozenset({"layers"})
    needs: ClassVar[frozenset[str]] = frozenset({"layers"})
    able: ClassVar[str] = "Qwen-Image-Layered does"
    fresh: ClassVar[bool] = True

    save_layers: Annotated[str | None, Metavar("FILE"), Output()] = Field(
        None, description="Save the layers in one file that painting programs open (.ora, OpenRaster)."
    )

    def hooks(self) -> type[Hooks[Layers]]:
        return _LayersHooks

    def default_options(self, info: ModelInfo) -> Options:
        """Check the file's name, before weights load."""
        if self.save_layers is not None:
            free(self.save_layers)
        return Options()


class _LayersHooks(Hooks[Layers]):
    state: Tensor | None = None
    covers: Sequence[float] = ()

    def __init__(self, plugin: Layers, run: Run) -> None:
        super().__init__(plugin, run)
        model, splits, picture = capability(run.model, TakesReferences), _splits(run), run.inputs.picture
        if model is None or splits is None:
            raise ModelError(f"layers: model {run.model.info.name} says that it takes layers, but has no `split`")
        if picture is None:
            raise ChainError("layers splits a picture, and there is none; with sample(), give known=")
        if run.plan.start != run.plan.steps:
            raise ChainError("layers generates all layers from noise, from the first level on; leave the others out")
        if plugin.save_layers is None:
            run.notify("layers: only the layers on top of one another are written; --save-layers FILE.ora keeps each")
        if run.options.prompt is None:
            run.notify("layers has no --prompt; a description of the whole picture helps the model")
        self.reference = model.refer(picture)

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        return cond.plus_reference(self.reference)

    def after(self, step: Step, x_s: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        self.state = x_s
        return x_s

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        import torch

        splits = _splits(self.run)
        if self.state is None or splits is None:
            return image
        layers = [self._native(layer[None], image) for layer in splits.split(self.state)[0]]
        whole = torch.ones_like(image)
        for layer in layers:
            opacity = layer[:, 3:]
            whole = whole + opacity * (layer[:, :3] - whole)
        if self.plugin.save_layers is not None:
            seen = torch.cat([whole, torch.ones_like(whole[:, :1])], dim=1)
            save(self.plugin.save_layers, [self._levels(layer) for layer in layers], self._levels(seen))
        self.covers = [float(layer[:, 3].mean()) for layer in layers]
        return whole

    def _native(self, layer: Tensor, image: Tensor) -> Tensor:
        """Bring a layer (1, 4, h, w) to the picture's own size: padding is cropped, another size is resized."""
        (height, width), (h, w), multiple = layer.shape[-2:], image.shape[-2:], self.run.model.info.multiple
        if (height, width) == (h + -h % multiple, w + -w % multiple):
            return layer[..., :h, :w]
        return resize(layer, h, w).clamp(-1.0, 1.0)

    def _levels(self, layer: Tensor) -> Layer:
        """Return a layer (1, 4, h, w) with colours in sRGB, (h, w, 4)."""
        colours, meta = from_unit(layer[:, :3].cpu(), np.uint8), self.run.inputs.file
        if meta is not None:
            colours = Picture(colours, meta=meta).coloured_as(None).pixels
        opacity = np.rint(255.0 * layer[0, 3].clamp(0.0, 1.0).cpu().numpy()).astype(np.uint8)
        return np.dstack([colours.astype(np.uint8), opacity])

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Figures:
        """Return the share of the picture that each layer covers, the lowest first."""
        return {f"layer_{k + 1}_covers": round(share, 4) for k, share in enumerate(self.covers)}


def _splits(run: Run) -> SplitsLayers | None:
    return capability(run.model, SplitsLayers)
