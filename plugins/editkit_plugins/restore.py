"""Restoration: undo a known degradation, with the model as prior.

The degradation is given by name and parameters, such as `gaussian:2` or `jpeg:30`; the picture is its output. The
solvers are in `editkit_plugins.restoring`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from editkit.diffusion.space import space_of
from editkit.plugin import (
    Inputs,
    Levels,
    MaskSource,
    Notify,
    Options,
    Picture,
    Plan,
    Run,
    Section,
    Slot,
    UsageError,
    read_mask,
    silent,
)
from editkit_plugins.restoring.base import LITTLE
from editkit_plugins.restoring.named import Named, parse
from editkit_plugins.restoring.solving import Solver
from editkit_plugins.upscale import observed_picture

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.plugin import Conditioning, ModelInfo
    from editkit_plugins.restoring.problem import Problem

Method = Literal["auto", "conditioned", "wiener", "ddnm", "ddrm", "diffpir", "dps", "pigdm", "point", "graikos", "hqs"]

BLURS = ("gaussian", "motion", "kernel")

MOST = 40.0
"""Noise up to which a blur is restored by `denoiser`, in levels of 255: hqs starts from twice as much."""

HQS_STEPS = 8
"""Steps of half-quadratic splitting, as in its paper."""

ROUNDING = 0.29
"""Standard deviation of rounding to whole levels: 1 / sqrt(12)."""


class Restore(Solver):
    """Undo a known degradation: blur, downscaling, lost pixels, JPEG, quantisation, noise, lost colour.

    Degradations: noise, mask (with --mask, white = lost), grey, average:N, bicubic:N, gaussian:SIGMA,
    motion:LENGTH,ANGLE, kernel:FILE, jpeg (with the file's own tables) or jpeg:QUALITY, quantise:LEVELS.
    """

    holds: ClassVar[frozenset[Slot]] = frozenset({"size"})
    name: ClassVar[str] = "restore"
    offers: ClassVar[frozenset[str]] = frozenset({"known", "mask"})
    group: ClassVar[Section] = "restore"
    usage: ClassVar[tuple[str, ...]] = (
        "restore blurred.png --degradation gaussian:1.5",
        "restore compressed.jpg --degradation jpeg",
        "restore holes.png --degradation mask --mask lost.png",
    )
    needs_picture: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"degradation": "gaussian:1"}

    degradation: str = Field("noise", description="The degradation to undo, as gaussian:2, jpeg, average:4.")
    sigma: float | None = Field(None, ge=0.0, le=255.0, description="Noise, in levels of 255; default 0 (blurs: 0.29).")
    mask: MaskSource | None = Field(None, description="mask: White = lost pixels; a picture or words.")
    taper: bool = Field(
        True, description="Blurs: taper the edges against ringing, since a lens also blurs in light from outside."
    )
    method: Method = Field(
        "auto",
        description="Solver; auto: ddnm; with noise wiener, or ddrm for much noise; dps on latents; hqs with "
        "denoiser; for lost pixels conditioned, if the model takes a mask.",
    )

    @field_validator("degradation")
    @classmethod
    def _known(cls, degradation: str) -> str:
        parse(degradation)
        return degradation

    @property
    def named(self) -> Named:
        """Return the parsed degradation."""
        return parse(self.degradation)

    def default_model(self) -> str | None:
        """Return a network's name, or None (patches) for noiseless blur or downscaling (docs/restoration.md)."""
        known = self.named.kind in ("jpeg", "quantise", *BLURS)
        if known and self.method in ("auto", "hqs") and self.strength is None and self.noise() <= MOST:
            return "denoiser"
        clean = self.noise() < LITTLE and self.named.kind in ("average", "bicubic", *BLURS)
        return None if clean else "pocket"

    def default_options(self, info: ModelInfo) -> Options:
        """Average samples for JPEG: a single one is further from the truth than the file (docs/restoration.md)."""
        if info.loudest is not None:
            return Options(steps=HQS_STEPS if self.named.linear else 1)
        wanted = Options(steps=1) if self.nearest(info) else super().default_options(info)
        return wanted.merged(Options(estimate="mean")) if self.named.kind == "jpeg" else wanted

    def tells(self) -> frozenset[str]:
        """Return the conditions of an inpainting model, if pixels are lost and there is no noise; else nothing."""
        return self.offers if self.named.kind == "mask" and not self.sigma else frozenset()

    def condition_on(self, run: Run, y: Tensor) -> Callable[[Conditioning], Conditioning]:
        model, place = run.model, run.inputs.place
        known, lost = place(y), place(self._lost_pixels(run))
        if not space_of(model).is_pixels:
            known = model.encode(known, run.inputs.stream)
        lost = model.encode_mask(lost)
        return lambda cond: replace(cond, known=known, mask=lost)

    def share(self) -> float:
        """Return the fraction of the process to run. Default 1, for JPEG 0.15: the file is near the truth."""
        if self.strength is None:
            return 0.15 if self.named.kind == "jpeg" else 1.0
        return self.strength

    def plan(self, plan: Plan) -> Plan:
        return plan.start_at(max(self.share(), 1.0 / plan.steps) if self.strength is None else self.strength)

    def levels(self, levels: Levels, inputs: Inputs) -> Levels:
        """Choose the levels of hqs, and of a model that only knows little noise (`restoring.denoised`)."""
        loudest, picture = inputs.model.info.loudest, inputs.picture
        if picture is None or (loudest is None and self.method != "hqs"):
            return levels
        from editkit_plugins.restoring.denoised import NOISIEST, QUIETEST, falling, quantised

        if self.named.linear or loudest is None:
            quiet = max(QUIETEST, self.noise())
            return falling(inputs.model.schedule, max(NOISIEST, 2.0 * quiet), quiet, levels)
        height, width = picture.shape[-2:]
        A = self.named.made((3, height, width), (height, width), None, inputs.file)
        level = min(quantised(A), 127.5 * loudest)
        return falling(inputs.model.schedule, level, level, levels)

    def noisy(self) -> bool:
        return self.noise() > 0.0 and self.named.linear

    def noise(self) -> float:
        """Return the noise in levels of 255. The default for blurs is 8-bit rounding, which deblurring amplifies."""
        if self.sigma is not None:
            return self.sigma
        return ROUNDING if self.named.kind in BLURS else 0.0

    def amplifies(self) -> float:
        """Return n for the mean of n^2 pixels, whose singular values are 1 / n."""
        return self.named.reduces

    def claims(self) -> frozenset[Slot]:
        """Claim the mask as well if the size changes, since masks of other plugins would no longer fit."""
        return super().claims() | ({"mask"} if self.named.reduces != 1.0 else set())

    def mend(self, info: ModelInfo) -> str:
        """Name the options against the documentation's advice first (docs/restoration.md)."""
        against = ["--model pocket"] if info.name == "pocket" and self.default_model() != "pocket" else []
        against += [] if self.taper else ["--no-taper"]
        usual = super().mend(info)
        return f"leave out {' and '.join(against)}, or {usual}" if against else usual

    def open(self, picture: Picture, notify: Notify) -> Picture:
        named = self.named
        if named.kind == "noise" and not self.sigma:
            raise UsageError("restore --degradation noise needs --sigma, the noise in levels of 255 (such as 25)")
        if (self.mask is not None) != (named.kind == "mask"):
            raise UsageError("restore: --mask goes with --degradation mask, which needs it (white = lost)")
        if self.mask is not None:
            read_mask(self.mask, picture, notify=notify)
        if self.method == "conditioned" and not self.tells():
            raise UsageError(
                f"restore: --method conditioned passes the lost pixels to a model; it is for --degradation mask "
                f"without --sigma, not for {self.degradation}"
            )
        if self.method == "graikos" and named.linear and self.noise() == 0.0:
            raise UsageError("restore: --method graikos needs the noise as a weight; give --sigma, or use point")
        if self.taper and "taper" in self.model_fields_set and named.kind not in BLURS:
            raise UsageError(f"restore: --taper is for blurs ({', '.join(BLURS)}), not for {named.kind}; leave it out")
        if self.sigma and not named.linear:
            raise UsageError(f"restore: --sigma cannot be used with {named.kind}, whose error is bounded; leave it out")
        if (side := named.side()) > min(picture.size):
            raise UsageError(
                f"restore: the kernel of {self.degradation} has {side}x{side} pixels and the picture "
                f"{picture.width}x{picture.height}; a kernel must fit into the picture"
            )
        width, height = round(picture.width * named.reduces), round(picture.height * named.reduces)
        self.afford(width, height)
        return picture if named.reduces == 1.0 else picture.resized(width, height)

    def problem(self, run: Run) -> Problem:
        from editkit_plugins.restoring.degradations import Blur
        from editkit_plugins.restoring.problem import Problem

        y, size = observed_picture(run)
        keep = None if self.mask is None else self._lost_pixels(run)[0, 0].cpu().numpy() == 0
        A = self.named.made(size, (int(y.shape[-2]), int(y.shape[-1])), keep, run.inputs.file)
        if self.named.kind in ("grey", "mask"):
            y = A.forward(y)  # the file's values at lost pixels, or its colours, are not observed
        if self.taper and isinstance(A, Blur):
            y = A.tapered(y)
        return Problem(A, y, self.noise() / 127.5)

    def _lost_pixels(self, run: Run) -> Tensor:
        """Return the lost pixels of the whole picture, (1, 1, H, W): 1 where --mask is not black."""
        import torch

        assert run.inputs.source is not None
        assert self.mask is not None
        mask = read_mask(self.mask, Picture(run.inputs.source), notify=silent)
        return torch.from_numpy((mask > 0).astype("float32"))[None, None].to(run.device)
