"""Guidance by any differentiable loss: x0' = x0 - (sigma_t^2 / alpha_t) d(weight * loss)/dx_t.

The score term of classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233) and of diffusion posterior sampling
(Chung et al. 2023, arXiv:2209.14687), with a loss in place of -log p(y | x).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from editkit.errors import UsageError
from editkit.images import Picture, to_unit
from editkit.params import Code, PictureSource
from editkit.plugin import Hooks, Plugin, Run, Step, Through

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Loss = Callable[["Tensor"], "Tensor"]
READY = ("brightness", "color", "reference")


class Guide(Plugin):
    """Steer the picture down a loss: towards a brightness, a colour, a reference picture, or anything differentiable.

    In Python the loss is any callable from pixels (batch, 3, h, w) in [-1, 1] to (batch,); on the command line
    `module:function` names one (with --allow-code).
    """

    name: ClassVar[str] = "guide"
    neutral: ClassVar[Mapping[str, Any] | None] = {"weight": 0.0}

    loss: Annotated[str | Callable[..., Any], Code()] = Field(
        "brightness", description="brightness, color, reference, module:function."
    )
    weight: float = Field(100.0, description="Factor of the loss; 0 changes nothing.")
    brightness: float = Field(0.5, ge=0.0, le=1.0, description="brightness: the mean to reach, 0 black to 1 white.")
    color: str = Field("#808080", description="color: the mean colour to reach, as #rrggbb.")
    reference: PictureSource | None = Field(None, description="reference: the picture to come near to.")
    gradient: Literal["network", "x0"] = Field("network", description="Exact through the network, or cheap.")

    @field_validator("loss")
    @classmethod
    def _known(cls, loss: str | Callable[..., Any]) -> str | Callable[..., Any]:
        if isinstance(loss, str) and loss not in READY and ":" not in loss:
            near = difflib.get_close_matches(loss, READY, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"no loss is called {loss!r}{hint} (allowed: {', '.join(READY)}, module:function)")
        return loss

    @field_validator("color")
    @classmethod
    def _colour(cls, color: str) -> str:
        _rgb(color)
        return color

    def hooks(self) -> type[Hooks[Guide]]:
        return _GuideHooks

    def through(self) -> Through:
        return self.gradient


class _GuideHooks(Hooks[Guide]):
    def __init__(self, plugin: Guide, run: Run) -> None:
        super().__init__(plugin, run)
        self.loss = _make(plugin, run)

    def energy(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"] | None:
        if self.plugin.weight == 0.0:
            return None
        return self.plugin.weight * self.loss(step.decode(x0))


def _make(plugin: Guide, run: Run) -> Loss:
    """The loss that the declaration names: pixels (batch, 3, h, w) -> (batch,)."""
    import torch

    if not isinstance(plugin.loss, str):
        return plugin.loss
    if plugin.loss == "brightness":
        wanted = 2.0 * plugin.brightness - 1.0
        return lambda image: (image.flatten(1).mean(1) - wanted) ** 2
    if plugin.loss == "color":
        colour = torch.tensor(_rgb(plugin.color), device=run.device) / 127.5 - 1.0
        return lambda image: ((image.mean((2, 3)) - colour) ** 2).mean(1)
    if plugin.loss == "reference":
        if plugin.reference is None:
            raise UsageError("guide: the loss `reference` needs --reference, the picture to come near to")
        target = run.inputs.place(to_unit(Picture.read(plugin.reference).pixels).to(run.device))
        return lambda image: ((image - target) ** 2).flatten(1).mean(1)
    return _imported(plugin.loss, run.options.allow_code)


def _imported(path: str, allowed: bool) -> Loss:
    """The function that `module:function` names.

    Raises:
        UsageError: not allowed, not found, not callable.
    """
    if not allowed:
        raise UsageError(f"guide: --loss {path} would import code; add --allow-code if you trust it")
    module, _, attribute = path.partition(":")
    try:
        loss = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"guide: --loss {path} cannot be imported: {error}") from error
    if not callable(loss):
        raise UsageError(f"guide: --loss {path} is {type(loss).__name__}, not a function of pixels")
    made: Loss = loss
    return made


def _rgb(color: str) -> tuple[int, int, int]:
    digits = color.removeprefix("#")
    try:
        if len(digits) != 6:
            raise ValueError
        return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
    except ValueError:
        raise ValueError(f"color is {color!r}; write it as #rrggbb") from None
