"""Guidance by any differentiable loss: x0' = x0 - (sigma_t^2 / alpha_t) d(weight * loss)/dx_t.

This is the score term of classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233) and of diffusion posterior
sampling (Chung et al. 2023, arXiv:2209.14687), with a loss in place of -log p(y | x). The built-in losses are in
`editkit_plugins.losses`.

A model that copies patches of the picture (`patches`) cannot draw other colours. With it, `color`, `brightness` and
`palette` adjust the tones of the result instead (`editkit_plugins.tones`).
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
from editkit_plugins.losses import LOSSES, TONES, Loss, palette_of, to_hex

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit.diffusion.model import ModelInfo

LEAST = 0.1
"""Strength of the process if `guide` only adjusts tones: the picture is not drawn again."""


OF_LOSS: Mapping[str, tuple[str, ...]] = {
    "brightness": ("brightness",), "color": ("color",), "palette": ("palette",), "symmetry": ("symmetry",),
    "sharpness": ("sharpness",), "reference": ("reference", "features"), "network": ("features",),
}  # fmt: skip
"""Parameter -> the losses that read it."""

IN_WORDS = {
    "palette": "the distance to the palette", "reference": "the difference from the reference",
    "features": "the difference from the reference", "symmetry": "the asymmetry", "smooth": "the roughness",
    "sharpness": "the distance to the wanted sharpness",
}  # fmt: skip
"""What each loss measures, in words."""

OF_STEPS = ("gradient", "profile", "every", "limit", "normalize", "checkpoint", "decoder", "view")
"""Parameters of single steps."""


class Guide(Guidance):
    """Steer the picture towards a low loss: a colour, a palette, a reference picture, or anything differentiable.

    In Python the loss is any callable from pixels (batch, 3, h, w) in [-1, 1] to (batch,). On the command line,
    `module:function` names such a callable (with --allow-code).
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
        "region",
        description="What the loss sees: the box around its (or the edit's) mask, or the whole picture.",
    )
    loss: Annotated[str | Callable[..., Any], Code()] = Field(
        "brightness", description=f"{', '.join(LOSSES)}, module:function."
    )
    weight: float | None = Field(
        None, description="Weight of the loss; 0 changes nothing. Default: --amount times the number of pixels seen."
    )
    amount: float = Field(1.0, ge=0.0, description="Strength, whatever the picture's size; sets --weight's default.")
    brightness: float = Field(0.5, ge=0.0, le=1.0, description="brightness: target mean, 0 black to 1 white.")
    color: str = Field("#808080", description="color: target mean colour, as #rrggbb.")
    palette: str = Field("", description="palette: the allowed colours, as #102030,#c0a060.")
    symmetry: Literal["left-right", "top-bottom", "turned"] = Field("left-right", description="symmetry: which kind.")
    sharpness: float = Field(0.2, ge=0.0, description="sharpness: target root mean square of the Laplacian.")
    reference: PictureSource | None = Field(None, description="reference, features: the target picture.")
    network: Annotated[str, Weights()] = Field(
        "", description="features: the network, as for --classifier: timm:NAME, torchvision:NAME:FILE, a folder."
    )

    @field_validator("loss")
    @classmethod
    def _check_loss(cls, loss: str | Callable[..., Any]) -> str | Callable[..., Any]:
        if isinstance(loss, str) and loss not in LOSSES and ":" not in loss:
            hint = did_you_mean(loss, LOSSES)
            raise ValueError(f"no loss is called {loss[:80]!r}{hint} (allowed: {', '.join(LOSSES)}, module:function)")
        return loss

    @field_validator("color", "palette")
    @classmethod
    def _check_colours(cls, text: str) -> str:
        for colour in filter(None, text.split(",")):
            rgb(colour)
        return text

    @field_validator("gradient")
    @classmethod
    def _check_gradient(cls, gradient: str | None) -> str | None:
        if gradient == "x_t":
            raise ValueError("is x_t, but the loss takes clean pixels; use network or x0")
        return gradient

    def hooks(self) -> type[Hooks[Guide]]:
        return _GuideHooks

    def strength(self) -> float:
        return self.amount if self.weight is None else self.weight

    def default_model(self) -> str | None:
        """Return `pocket`, or None for losses of tones, which copied texture can meet too."""
        return None if self.loss in TONES else "pocket"

    def steers(self, info: ModelInfo) -> bool:
        """Return False for tones on a model that copies: only `finish` adjusts them."""
        return not (self.loss in TONES and info.own_picture)

    def idle(self, info: ModelInfo) -> dict[str, str]:
        """Return parameters of other losses, and those of steps if only `finish` adjusts the tones."""
        idle = {name: f"it is for --loss {' and '.join(of)}" for name, of in OF_LOSS.items() if self.loss not in of}
        if self.weight is not None:
            idle["amount"] = "--weight is given, which is the strength itself"
        if not self.steers(info):
            idle |= dict.fromkeys(OF_STEPS, f"{info.name} copies texture, so the tones are adjusted once, at the end")
        return idle

    def implied_strength(self, info: ModelInfo) -> float | None:
        """Return little for tones on a model that copies: `finish` adjusts those of the original."""
        return None if self.steers(info) else LEAST


class _GuideHooks(GuidanceHooks[Guide]):
    def __init__(self, plugin: Guide, run: Run) -> None:
        super().__init__(plugin, run)
        self.loss_function: Loss | None = None if plugin.strength() == 0.0 else self._make_loss(plugin, run)

    def _make_loss(self, plugin: Guide, run: Run) -> Loss:
        if not isinstance(plugin.loss, str):
            return plugin.loss
        if plugin.loss in LOSSES:
            return LOSSES[plugin.loss](plugin, run, self.seen)
        return _import_loss(plugin.loss, run.options.allow_code)

    def loss(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"]:
        assert self.loss_function is not None
        image = self.pixels(step, x0)
        loss = self.loss_function(image)
        return loss if self.plugin.weight is not None else loss * float(image[0, 0].numel())

    @property
    def _adjusts_tones(self) -> bool:
        """Whether the tones of the result are adjusted at the end: the loss is one of tones, and the model copies."""
        return self.plugin.loss in TONES and self.run.model.info.own_picture

    def energy(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"] | None:
        return None if self._adjusts_tones else super().energy(step, x0)

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Adjust the tones inside the mask, if any; if nothing else edits the picture, those of the original."""
        if self.loss_function is None or not self._adjusts_tones:
            return image
        from editkit_plugins import tones

        plugin, hole, run = self.plugin, self._tone_mask(), self.run
        if hole is None and run.inputs.original is not None and run.plan.start == run.plan.start_at(LEAST).start:
            image = run.inputs.original
        pixels = image[0, 0].numel() if hole is None else int(hole.sum())
        amount = plugin.amount if plugin.weight is None else plugin.weight / max(pixels, 1)
        if plugin.loss == "brightness":
            return tones.match_brightness(image, hole, plugin.brightness, amount)
        if plugin.loss == "color":
            return tones.match_color(image, hole, rgb(plugin.color), amount)
        return tones.match_palette(image, hole, palette_of(plugin), amount)

    def _tone_mask(self) -> Tensor | None:
        """Return the mask in which tones may change, (h, w) bool; None: everywhere."""
        from editkit.plugin import resize

        own, mask = self.region, self.run.inputs.original_mask
        if own is not None:
            original = self.run.inputs.original
            own = (own if original is None else resize(own.float(), *original.shape[-2:]))[0, 0] > 0.5
        edited = None if mask is None else mask[0, 0] > 0
        if own is None or edited is None:
            return edited if own is None else own
        return own & edited

    def _seen_pixels(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the pixels of a finished picture that the loss sees."""
        hole = self._tone_mask() if self._adjusts_tones else None
        if hole is None or not bool(hole.any()):
            return self.seen(self._resize_to_pass(image))
        from editkit_plugins.tones import interior

        return image[..., interior(hole)][:, :, None]

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Figures:
        """Report the loss before and after; for losses of tones, what was reached and the target, in words."""
        plugin, run = self.plugin, self.run
        if self.loss_function is None:
            return {}
        seen = self._seen_pixels(image)
        if plugin.loss == "color":
            return {"mean_colour": to_hex(seen[0].mean((1, 2))), "wanted": plugin.color, **self._where()}
        if plugin.loss == "brightness":
            return {"brightness": (float(seen.mean()) + 1.0) / 2.0, "wanted": plugin.brightness, **self._where()}
        before = run.inputs.original
        if plugin.loss == "palette" and self._adjusts_tones:
            return self._palette_figures(seen, before)
        loss = float(self.loss_function(seen).mean())
        if before is None:
            return {"loss": loss}
        first = float(self.loss_function(self._seen_pixels(before)).mean())
        return {"loss_before": first, "loss": loss, "so": in_words(plugin.loss, first, loss)}

    def _where(self) -> Figures:
        """Report how much of the hole the figures are about; nothing if that is all of what the loss sees."""
        hole = self._tone_mask() if self._adjusts_tones else None
        if hole is None or not bool(hole.any()):
            return {}
        from editkit_plugins.tones import interior

        return {"measured": f"in the middle, {float(interior(hole).sum() / hole.sum()):.0%} of the hole"}

    def _palette_figures(self, seen: Float[Tensor, "b 3 h w"], before: Float[Tensor, "b 3 h w"] | None) -> Figures:
        """Report how much of the image has colours of the palette, in words."""
        from editkit_plugins.tones import fraction_near

        palette = palette_of(self.plugin)
        words = f"{fraction_near(seen, palette):.0%} of the pixels in colours of the palette or blends of them"
        was = "" if before is None else f" (before: {fraction_near(self._seen_pixels(before), palette):.0%})"
        return {"palette": words + was, **self._where()}

    def _resize_to_pass(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 H W"]:
        """Resize `image` to the size of this pass, at which the loss is computed."""
        from editkit.plugin import resize

        size = self.run.inputs.picture.shape[-2:] if self.run.inputs.picture is not None else image.shape[-2:]
        return image if image.shape[-2:] == size else resize(image, *size)


def in_words(loss: object, before: float, after: float) -> str:
    """Say in words what the loss of the result, relative to that of the image, means: 82 % smaller than before."""
    subject = IN_WORDS.get(loss, "the loss") if isinstance(loss, str) else "the loss"
    change = 0.0 if before <= 0.0 else after / before - 1.0
    if abs(change) < 0.005:
        return f"{subject} is as before"
    return f"{subject} is {abs(change):.0%} {'smaller' if change < 0.0 else 'larger'} than before"


def _import_loss(path: str, allowed: bool) -> Loss:
    """Import the loss that `module:function` names.

    Raises:
        UsageError: importing is not allowed, the function is not found, or it is not callable.
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
