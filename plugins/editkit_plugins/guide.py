"""Guidance by any differentiable loss: x0' = x0 - (sigma_t^2 / alpha_t) d(weight * loss)/dx_t.

The score term of classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233) and of diffusion posterior sampling
(Chung et al. 2023, arXiv:2209.14687), with a loss in place of -log p(y | x). The ready losses are in
`editkit_plugins.losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from editkit.common.spec import did_you_mean
from editkit.pictures.colors import rgb
from editkit.plugin import (
    Code,
    Figures,
    Guidance,
    GuidanceHooks,
    Hooks,
    PictureSource,
    Run,
    Section,
    Step,
    UsageError,
    Weights,
)
from editkit_plugins.losses import LOSSES, Loss, hexed

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class Guide(Guidance):
    """Steer the picture down a loss: towards a colour, a palette, a reference picture, or anything differentiable.

    In Python the loss is any callable from pixels (batch, 3, h, w) in [-1, 1] to (batch,); on the command line
    `module:function` names one (with --allow-code).
    """

    name: ClassVar[str] = "guide"
    group: ClassVar[Section] = "steer"
    usage: ClassVar[tuple[str, ...]] = (
        "guide photo.png --loss brightness --brightness 0.7",
        'inpaint photo.png --mask mask.png with guide --loss color --color "#a05030"',
        'sdedit photo.png --strength 0.6 with guide --loss palette --palette "#102030,#c0a060"',
    )
    neutral: ClassVar[Mapping[str, Any] | None] = {"weight": 0.0}

    view: Literal["whole", "region"] = Field(
        "region", description="What it looks at: the box around its (else the edit's) mask, where there is one; or all."
    )
    loss: Annotated[str | Callable[..., Any], Code()] = Field(
        "brightness", description=f"{', '.join(LOSSES)}, module:function."
    )
    weight: float | None = Field(
        None, description="Factor of the loss; 0 changes nothing. Default: --amount for every pixel that is looked at."
    )
    amount: float = Field(1.0, ge=0.0, description="How strongly, whatever the picture's size; for --weight's default.")
    brightness: float = Field(0.5, ge=0.0, le=1.0, description="brightness: the mean to reach, 0 black to 1 white.")
    color: str = Field("#808080", description="color: the mean colour to reach, as #rrggbb.")
    palette: str = Field("", description="palette: the only colours wanted, as #102030,#c0a060.")
    symmetry: Literal["left-right", "top-bottom", "turned"] = Field("left-right", description="symmetry: which one.")
    sharpness: float = Field(0.2, ge=0.0, description="sharpness: the Laplacian's root mean square to reach.")
    reference: PictureSource | None = Field(None, description="reference, features: the picture to come near to.")
    network: Annotated[str, Weights()] = Field(
        "", description="features: what sees them, as --classifier: timm:NAME, torchvision:NAME:FILE, a folder."
    )

    @field_validator("loss")
    @classmethod
    def _known(cls, loss: str | Callable[..., Any]) -> str | Callable[..., Any]:
        if isinstance(loss, str) and loss not in LOSSES and ":" not in loss:
            hint = did_you_mean(loss, LOSSES)
            raise ValueError(f"no loss is called {loss[:80]!r}{hint} (allowed: {', '.join(LOSSES)}, module:function)")
        return loss

    @field_validator("color", "palette")
    @classmethod
    def _colours(cls, text: str) -> str:
        for colour in filter(None, text.split(",")):
            rgb(colour)
        return text

    @field_validator("gradient")
    @classmethod
    def _pixels(cls, gradient: str | None) -> str | None:
        if gradient == "x_t":
            raise ValueError("is x_t; a loss of clean pixels is taken through the network or on x0")
        return gradient

    def hooks(self) -> type[Hooks[Guide]]:
        return _GuideHooks

    def strength(self) -> float:
        return self.amount if self.weight is None else self.weight

    def default_model(self) -> str:
        """A network: patches can only show what the picture has already."""
        return "pocket"


class _GuideHooks(GuidanceHooks[Guide]):
    def __init__(self, plugin: Guide, run: Run) -> None:
        super().__init__(plugin, run)
        self.of: Loss | None = None if plugin.strength() == 0.0 else self._made(plugin, run)

    def _made(self, plugin: Guide, run: Run) -> Loss:
        if not isinstance(plugin.loss, str):
            return plugin.loss
        if plugin.loss in LOSSES:
            return LOSSES[plugin.loss](plugin, run, self.seen)
        return _imported(plugin.loss, run.options.allow_code)

    def loss(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"]:
        assert self.of is not None
        image = self.pixels(step, x0)
        loss = self.of(image)
        return loss if self.plugin.weight is not None else loss * float(image[0, 0].numel())

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Figures:
        """What it came to, beside what was wanted, in words for a colour and a brightness."""
        plugin, run = self.plugin, self.run
        if self.of is None:
            return {}
        seen = self.seen(self._sized(image))
        if plugin.loss == "color":
            return {"mean_colour": hexed(seen[0].mean((1, 2))), "wanted": plugin.color}
        if plugin.loss == "brightness":
            return {"brightness": (float(seen.mean()) + 1.0) / 2.0, "wanted": plugin.brightness}
        before = run.inputs.original
        figures = {} if before is None else {"loss_before": float(self.of(self.seen(self._sized(before))).mean())}
        return {**figures, "loss": float(self.of(seen).mean())}

    def _sized(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 H W"]:
        """At the size of this pass, which is the loss's."""
        from editkit.plugin import resize

        size = self.run.inputs.picture.shape[-2:] if self.run.inputs.picture is not None else image.shape[-2:]
        return image if image.shape[-2:] == size else resize(image, *size)


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
