"""Inpainting by replacement: restore the known region, at the right noise level, after every step.

`replace` does so once a step (Song et al. 2021, "Score-Based Generative Modeling through SDEs", arXiv:2011.13456,
appendix I.2). `repaint` also jumps back to higher noise levels and resamples, so that both regions harmonise (Lugmayr
et al. 2022, "RePaint", arXiv:2201.09865, Algorithm 1). With m = 1 where the picture is known, the picture y and fresh
noise z,

    x_s <- m (alpha_s y + sigma_s z) + (1 - m) x_s.

Replacement is biased: it samples the known region from its marginal, not from its posterior. Resampling reduces the
bias but never removes it; tests/test_closed_forms.py measures it. A model that takes `known` and `mask` is conditioned
on them instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from editkit.diffusion.space import space_of
from editkit.pictures.leftovers import with_leftovers
from editkit.pictures.masks import feather_inside, grow, grow_rim, load
from editkit.plugin import (
    AreaSource,
    ChainError,
    Fill,
    Hooks,
    Mask,
    MaskSource,
    Metavar,
    Notify,
    Picture,
    PictureSource,
    Plan,
    Plugin,
    Run,
    Section,
    Slot,
    Step,
    UsageError,
    read_mask,
)

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from numpy.typing import NDArray
    from torch import Tensor

    from editkit.plugin import Conditioning, ModelInfo


Grow = Annotated[int, Field(ge=0, le=1000)] | Literal["auto"]
"""Number of pixels by which a mask is enlarged."""

AUTO = (
    "auto: a sixth of each piece's thickness, at least 2, at most 2 plus a 200th of the longer side, and parts of the "
    "object that stick out of the mask over a calm background."
)

STICKS_OUT = 32
"""A part that sticks out of the mask is at most the longer side divided by this in length."""


class Replacing(Plugin):
    """Base class of edits that regenerate a part of the picture and keep the rest."""

    holds: ClassVar[frozenset[Slot]] = frozenset({"mask"})
    order: ClassVar[int] = 100
    offers: ClassVar[frozenset[str]] = frozenset({"known", "mask"})
    fresh: ClassVar[bool] = True

    method: Literal["replace", "repaint", "repaint-diffusers"] = Field(
        "replace", description="Replacement, or RePaint's resampling (-diffusers: with diffusers' jump schedule)."
    )
    jump: int | None = Field(
        None, ge=1, description="repaint: levels of a jump back; default: one in 25 (10 of 250, as in the paper)."
    )
    repeats: int = Field(10, ge=1, le=1000, description="repaint: number of passes over each stretch of levels.")
    known_noise: Literal["fresh", "fixed"] = Field(
        "fresh", description="Noise of the known region: new at every step, or the same for all steps."
    )
    fill: Fill | None = Field(
        None,
        description="Initial content of the hole: for patches a first guide (default: pieces of the picture; "
        "noise: none), with `with sdedit` its start (default: original). Models that start from pure noise ignore it, "
        "with a notice.",
    )
    from_: tuple[PictureSource, ...] = Field(
        (), description="Another picture to take patches from (--model patches); repeatable."
    )

    not_from: AreaSource | None = Field(
        None, description="White = never copy from here (models that learn from the picture, as patches)."
    )

    mask_model: tuple[Annotated[str, Metavar("DIR")], ...] = Field(
        (),
        description="A network for mask words (text:the dog, point:x,y): the folder of SAM 3, Grounding DINO, SAM 2, "
        "CLIPSeg or ViTMatte; repeatable.",
    )

    def barred(self, picture: Picture, notify: Notify) -> NDArray[np.bool_] | None:
        """Return where nothing may be copied from `picture`, (H, W); None if everything may be copied.

        Raises:
            PictureError: `not_from` cannot be read, or its size differs.
            UsageError: it covers the whole picture, and there is no other picture to copy from.
        """
        if self.not_from is None:
            return None
        barred = load(self.not_from, picture, notify=notify, models=self.mask_model) > 0
        if not barred.any():
            notify("--not-from marks nothing, so all known pixels may be copied (white = never copy)")
        if barred.all() and not self.from_:
            raise UsageError(
                "--not-from covers the whole picture, so there is nothing to copy: mark less, or give another picture "
                "with --from"
            )
        return barred

    def hooks(self) -> type[Hooks[Any]]:
        return _ReplacingHooks

    def examples(self, picture: Picture) -> Sequence[Picture]:
        return tuple(Picture.read(source).coloured_as(picture.meta) for source in self.from_)

    def idle(self, info: ModelInfo) -> dict[str, str]:
        idle = dict.fromkeys(("jump", "repeats"), "it is for --method repaint") if self.method == "replace" else {}
        if {"known", "mask"} <= info.takes:
            idle["known_noise"] = f"{info.name} is given the known pixels, so none are put back with noise"
        return idle

    def plan(self, plan: Plan) -> Plan:
        if self.method == "replace":
            return plan
        jump = self.jump or max(1, plan.steps // 25)
        return plan.travel(jump, self.repeats, first=1 if self.method == "repaint" else 0)


class Inpaint(Replacing):
    """Regenerate what the mask marks (white) and keep every other pixel bit for bit.

    The mask can be grown and feathered. A feathered edge lies inside the mask, so known pixels never change.
    """

    name: ClassVar[str] = "inpaint"
    group: ClassVar[Section] = "repair"
    usage: ClassVar[tuple[str, ...]] = (
        "inpaint photo.png --mask mask.png",
        'inpaint photo.png --mask "color:white&box:0,80%,100%,100%" --grow 2',
        'inpaint photos/ --mask "{stem}.mask.png" -o repaired/',
    )
    example: ClassVar[Mapping[str, Any]] = {"mask": "box:40%,40%,60%,60%"}

    mask: MaskSource | None = Field(
        None,
        description="White = regenerate. A picture, or words as box:10,10,80,60 (editkit plugins lists them) joined by "
        "+ - & (in quotes: a shell ends the command at &); repeatable.",
    )
    invert_mask: bool = Field(False, description="Black = regenerate.")
    grow: Grow = Field(0, description="Enlarge the mask by this many pixels first. " + AUTO)
    feather: int = Field(0, ge=0, le=1000, description="Blend over this many pixels inside the mask's edge.")

    def open(self, picture: Picture, notify: Notify) -> Picture:
        if self.mask is None:
            raise UsageError(f"{self.name} needs --mask: a picture (white = regenerate) or words as box:10,10,80,60")
        mask = read_mask(self.mask, picture, invert=self.invert_mask, notify=notify, models=self.mask_model)
        grown = self._with_rim(mask, picture, notify) if self.grow == "auto" else grow(mask, self.grow)
        return picture.with_mask(feather_inside(grown, self.feather), self.fill, self.barred(picture, notify))

    def _with_rim(self, mask: Mask, picture: Picture, notify: Notify) -> Mask:
        """Return `mask` with a rim, and with the parts of the object that stick out of it."""
        rim = grow_rim(mask, 2 + round(max(picture.size) / 200))
        whole = with_leftovers(rim, picture, round(max(picture.size) / STICKS_OUT))
        more = int(((whole > 0) & (rim == 0)).sum())
        if more:
            notify(f"{self.name}: {more} pixels that stick out of the mask are added to it (--grow 4 leaves them)")
        return whole


class _ReplacingHooks(Hooks[Replacing]):
    def __init__(self, plugin: Replacing, run: Run) -> None:
        super().__init__(plugin, run)
        region = run.inputs.region
        if run.inputs.picture is None or region is None:
            raise ChainError(f"{plugin.name} needs a known sample and a mask; with sample(), give known= and mask=")
        self.region = region > 0
        self.conditioned = {"known", "mask"} <= run.model.info.takes
        shared = run.convention.shares_noise(not space_of(run.model).is_pixels)
        fixed = plugin.known_noise == "fixed" or (shared and plugin.method == "replace")
        if not self.conditioned:
            put_back = plugin.method == "replace" and not run.model.info.own_picture
            if put_back and run.options.sampler == "ddim" and run.convention.advises:
                run.notify(
                    f"{plugin.name}: {run.model.info.name} is not an inpainting model, so known pixels are put back "
                    "after each step; sampler ddpm blends in better than ddim"
                )
            self.known = run.inputs.known
            self.noise = run.opening.noise if fixed else None

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        if not self.conditioned:
            return cond
        inputs = self.run.inputs
        fine = "fine mask" in self.run.model.info.takes and inputs.mask is not None
        mask = (inputs.mask >= 0.5).float() if fine and inputs.mask is not None else self.region.float()
        return replace(cond, known=inputs.masked, mask=mask)

    def after(self, step: Step, x_s: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        if self.conditioned or self.known is None:
            return x_s
        z = step.randn_like(self.known) if self.noise is None else self.noise
        if step.t.index == 0:  # at the end the picture itself, even if the model's last level is not quite clean
            return x_s.where(self.region, self.known)
        return x_s.where(self.region, step.alpha_t * self.known + step.sigma_t * z)

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        original, mask = self.run.inputs.original, self.run.inputs.original_mask
        if original is None or mask is None:
            return image
        blended = original + mask * (image.clamp(-1, 1) - original)
        return original.where(mask == 0, image.where(mask == 1, blended))
