"""Denoising: treat a noisy picture as a state of the diffusion process at the matching noise level.

y = x + s n equals x_t / alpha_t at the level with sigma_t / alpha_t = s. The network's estimate there, E[x | y], is the
minimum mean-square error estimate, in one step. `sampled` runs the process from that level to the clean end instead:
the result is sharper, and on average further from the truth.

The true E[x | y] is equivariant: E[x | g y] = g E[x | y] for the eight rotations and reflections g of the square, since
pictures are about equally likely in each orientation. A network's estimate is only approximately so. The mean over the
orientations, 1/8 sum_g g^-1 E[x | g y], is closer to the truth (compare cycle spinning, Coifman & Donoho 1995).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from editkit.diffusion.schedule import level_at
from editkit.plugin import (
    Conditioning,
    Hooks,
    Inputs,
    Level,
    Levels,
    Notify,
    Options,
    Picture,
    Plan,
    Plugin,
    Run,
    Schedule,
    Section,
    Step,
)
from editkit_plugins.noise_level import coarse_noise, picture_noise
from editkit_plugins.restoring.memory import afford

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit.plugin import ModelInfo

COARSE = 1.5
"""Report coarse noise if it is at least this many times the fine noise."""

LOUDEST = 80.0
"""Noise above this is left to `pocket`, in levels of 255; `denoiser` knows less (`ModelInfo.loudest`)."""

LEAST = 0.25
"""Noise below this counts as none, in levels of 255."""


def ladder_from(schedule: Schedule, ratio: float, levels: Levels) -> Levels:
    """Return as many levels as `levels`, evenly spaced in time, from clean up to sigma / alpha = `ratio`.

    `ratio` is clamped to the range from the schedule's least noise to the noisiest of `levels`.
    """
    high, n = level_at(schedule, ratio, levels[-1]).t, len(levels) - 1
    made = [levels[0], *(schedule.level(high * k / n) for k in range(1, n + 1))]
    return tuple(Level(v.t, v.alpha, v.sigma, k) for k, v in enumerate(made))


class Denoise(Plugin):
    """Remove noise, starting the process at the picture's own noise level (estimated unless --sigma is given).

    By default one step, the model's mean estimate of the clean picture; --sampled draws one plausible picture instead.
    """

    name: ClassVar[str] = "denoise"
    group: ClassVar[Section] = "restore"
    usage: ClassVar[tuple[str, ...]] = (
        "denoise grainy.png",
        "denoise grainy.png --sigma 15",
        "denoise grainy.png then upscale --scale 2",
    )
    needs_picture: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"sigma": 25}

    sigma: float | None = Field(None, ge=0.0, le=255.0, description="The noise in levels of 255; default: estimated.")
    sampled: bool = Field(False, description="Run all levels below the picture's own instead of one step.")
    views: int = Field(
        8, ge=1, le=8, description="One step: average over this many rotated and mirrored copies (pixel models)."
    )

    def default_model(self) -> str:
        """Return a network's name: the picture's own patches are as noisy as the picture."""
        return "denoiser" if self.sigma is None or self.sigma <= LOUDEST else "pocket"

    def default_options(self, info: ModelInfo) -> Options:
        """Choose ddpm for `sampled` on models whose sampler is ddim, so that results depend on the seed."""
        return Options(sampler="ddpm") if self.sampled and info.sampler == "ddim" else Options()

    def hooks(self) -> type[Hooks[Denoise]]:
        return _DenoiseHooks

    def noise(self, pixels: np.ndarray) -> float:
        """Return the standard deviation of the noise in levels of 255, as given or estimated."""
        return picture_noise(pixels) if self.sigma is None else self.sigma

    def open(self, picture: Picture, notify: Notify) -> Picture:
        afford(f"denoise of {picture.width}x{picture.height}", *picture.size)
        if self.sigma is None:
            fine, coarse = self.noise(picture.visible), coarse_noise(picture.visible)
            notify(f"denoise: noise of {fine:.1f} levels of 255 (estimated; --sigma sets it)")
            if coarse > COARSE * max(fine, LEAST):
                notify(
                    f"denoise: the picture also has grain or texture coarser than a pixel; if blotches remain, --sigma "
                    f"{coarse:.0f} removes them, with some of the finest detail"
                )
        return picture

    def plan(self, plan: Plan) -> Plan:
        return plan if self.sampled else Plan.uniform(1)

    def beside(self) -> int:
        return 0 if self.sampled else self.views - 1

    def levels(self, levels: Levels, inputs: Inputs) -> Levels:
        assert inputs.source is not None
        sigma = max(self.noise(inputs.source), LEAST)
        if self.sigma is None and inputs.model.info.loudest is not None:
            sigma = min(sigma, 127.5 * inputs.model.info.loudest)
        return ladder_from(inputs.model.schedule, sigma / 127.5, levels)


def apply_view(x: Tensor, view: int, back: bool = False) -> Tensor:
    """Mirror (..., h, w) for an odd `view`, then rotate it by view // 2 quarter turns; `back` undoes both."""
    quarters = view // 2
    if back:
        x = x.rot90(-quarters, (-2, -1))
        return x.flip(-1) if view % 2 else x
    return (x.flip(-1) if view % 2 else x).rot90(quarters, (-2, -1))


class _DenoiseHooks(Hooks[Denoise]):
    def __init__(self, plugin: Denoise, run: Run) -> None:
        super().__init__(plugin, run)
        self.conditioning = Conditioning()
        pixels = run.inputs.picture is not None and run.shape == tuple(run.inputs.picture.shape)
        self.views = plugin.views if pixels and not plugin.sampled else 1

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        self.conditioning = cond
        return cond

    def clean(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """Average over the views. A model conditioned on a picture gets one view: its condition is not rotated."""
        cond = self.conditioning
        if self.views == 1 or cond.control or cond.known is not None or cond.lowres is not None:
            return x0
        mean = x0 / self.views
        for view in range(1, self.views):
            mean.add_(self.seen(step, view), alpha=1.0 / self.views)
        return mean

    def seen(self, step: Step, view: int) -> Tensor:
        """Return the estimate from one view, rotated back. Nothing else is kept: pictures may be large."""
        made = step.predict(apply_view(step.x_t.detach(), view), step.t, self.conditioning)
        return apply_view(made.x0, view, back=True)

    def begin(self) -> Float[Tensor, "b c *size"] | None:
        known = self.run.inputs.known
        return None if known is None else self.run.levels[self.run.plan.start].alpha * known

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Mapping[str, float]:
        """Report the root mean square of what was removed: about the noise's, if the result is right."""
        original = self.run.inputs.original
        assert original is not None
        return {"removed_levels": 127.5 * float((image - original).square().mean().sqrt())}
