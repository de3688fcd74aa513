"""Denoising: a noisy picture is a state of the process, at the level whose noise it has.

y = x + s n is x_t / alpha_t at the level with sigma_t / alpha_t = s, so the network's estimate there, E[x | y], is the
best one in the mean square, in one step. `sampled` walks from that level to the clean end instead: sharper, and on
average further from the truth.

The true E[x | y] turns with the picture: E[x | g y] = g E[x | y] for the eight turns and mirrorings g of the square, as
pictures are about as likely one way as the other. A network's does not quite, so its mean over them, 1/8 sum_g g^-1
E[x | g y], is nearer (as cycle spinning does with shifts, Coifman & Donoho 1995).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

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
    largest,
)
from editkit_plugins.restoring.memory import afford

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit.plugin import ModelInfo

COARSE = 1.5
"""How many times as large coarse noise must be as fine, to be told."""

LEAST = 0.25
"""Noise below this is none, in levels of 255."""

LEAST_COLOUR, CORRELATED, BESIDE_FINE = 3.0, 1.5, 0.6
"""The coarse noise of colours that is a camera's, at least: in levels of 255, in their fine noise, in fine noise."""

SHARE = 1.6
"""A camera's noise in coarse noise of its colours, which a JPEG's chroma blurs."""


def ladder_from(schedule: Schedule, ratio: float, levels: Levels) -> Levels:
    """As many levels as `levels`, even in the schedule's time, from clean up to the one with sigma / alpha = `ratio`.

    What is noisier than the noisiest of `levels`, or quieter than the schedule can say, becomes that.
    """
    low, high = 0.0, levels[-1].t
    for _ in range(60):
        middle = (low + high) / 2.0
        at = schedule.level(middle)
        low, high = (middle, high) if at.sigma < ratio * at.alpha else (low, middle)
    n = len(levels) - 1
    made = [levels[0], *(schedule.level(high * k / n) for k in range(1, n + 1))]
    return tuple(Level(v.t, v.alpha, v.sigma, k) for k, v in enumerate(made))


def estimated_noise(pixels: np.ndarray, top: float | None = None) -> float:
    """The standard deviation of a picture's noise in levels of 255, from its finest diagonal details.

    median |d| / 0.6745 of the diagonal Haar coefficients (Donoho & Johnstone 1994): half of them are smaller than what
    edges make. Texture as fine as noise is counted as noise. `top`: white; else the largest value of the type.
    """
    height, width = (n // 2 * 2 for n in pixels.shape[:2])
    x = pixels[:height, :width].astype(np.float64) * (255.0 / (top or largest(pixels.dtype)))
    d = (x[::2, ::2] - x[1::2, ::2] - x[::2, 1::2] + x[1::2, 1::2]) / 2.0
    return float(np.median(np.abs(d)) / 0.6745) if d.size else 0.0


def coarse_noise(pixels: np.ndarray) -> float:
    """The noise of the picture at half its size, times 2: as `estimated_noise` where noise is white.

    A camera's noise, demosaicked, smoothed and compressed, is correlated over some pixels: it hides from the finest
    details, and halving the size lowers it by less than half.
    """
    height, width = (n // 2 * 2 for n in pixels.shape[:2])
    halves = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, -1).mean((1, 3))
    return 2.0 * estimated_noise(halves * (255.0 / largest(pixels.dtype)), 255.0)


def colour_noise(pixels: np.ndarray) -> tuple[float, float]:
    """The noise of the differences between channels, over sqrt 2: the finest, and that of the picture at half its size,
    times 2. Texture is for the most part a change of light, alike in all channels; a sensor's noise is not.
    """
    x = pixels[..., :3].astype(np.float64) * (255.0 / largest(pixels.dtype))
    if x.shape[-1] < 3:
        return 0.0, 0.0
    apart = (x - np.roll(x, 1, axis=-1)) / np.sqrt(2.0)
    height, width = (n // 2 * 2 for n in x.shape[:2])
    halves = apart[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    return estimated_noise(apart, 255.0), 2.0 * estimated_noise(halves, 255.0)


def camera_noise(pixels: np.ndarray) -> float:
    """The standard deviation of a picture's noise in levels of 255, coarse noise counted as far as colours have it.

    A camera's noise hides from the finest details (`coarse_noise`), and so does texture. Where the differences of the
    channels are noisier at half the size than at the full one, it is a camera's, max(fine, min(coarse, `SHARE` *
    colour)).
    """
    fine, (sharp, colour) = estimated_noise(pixels), colour_noise(pixels)
    if colour < max(LEAST_COLOUR, CORRELATED * sharp, BESIDE_FINE * fine):
        return fine
    return max(fine, min(coarse_noise(pixels), SHARE * colour))


class Denoise(Plugin):
    """Take the noise out of a picture, starting at the noise level that it has (estimated where --sigma is not given).

    One step by default, the model's mean of all clean pictures; --sampled walks on to one of them.
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
    sampled: bool = Field(False, description="Walk all levels below the picture's instead of one step.")
    views: int = Field(
        8, ge=1, le=8, description="One step: the mean over this many turned and mirrored copies (models of pixels)."
    )

    def default_model(self) -> str:
        """A network: the picture's own patches are as noisy as it is."""
        return "pocket"

    def default_options(self, info: ModelInfo) -> Options:
        """`sampled`: the stochastic process, on models that walk by ddim, by which seeds differ."""
        return Options(sampler="ddpm") if self.sampled and info.sampler == "ddim" else Options()

    def hooks(self) -> type[Hooks[Denoise]]:
        return _DenoiseHooks

    def noise(self, pixels: np.ndarray) -> float:
        """The size of the noise, given or estimated."""
        return camera_noise(pixels) if self.sigma is None else self.sigma

    def open(self, picture: Picture, notify: Notify) -> Picture:
        afford(f"denoise of {picture.width}x{picture.height}", *picture.size)
        if self.sigma is None:
            fine, coarse = self.noise(picture.visible), coarse_noise(picture.visible)
            notify(f"denoise: noise of {fine:.1f} levels of 255 (estimated; --sigma sets it)")
            if coarse > COARSE * max(fine, LEAST):
                notify(
                    f"denoise: grain or texture coarser than a pixel is there too; if blotches are left, --sigma "
                    f"{coarse:.0f} takes them out, with some of the finest detail"
                )
        return picture

    def plan(self, plan: Plan) -> Plan:
        return plan if self.sampled else Plan.uniform(1)

    def beside(self) -> int:
        return 0 if self.sampled else self.views - 1

    def levels(self, levels: Levels, inputs: Inputs) -> Levels:
        assert inputs.source is not None
        sigma = max(self.noise(inputs.source), LEAST)
        return ladder_from(inputs.model.schedule, sigma / 127.5, levels)


def turned(x: Tensor, view: int, back: bool = False) -> Tensor:
    """(..., h, w) mirrored for an odd `view`, then turned by view // 2 quarters; `back` undoes it."""
    quarters = view // 2
    if back:
        x = x.rot90(-quarters, (-2, -1))
        return x.flip(-1) if view % 2 else x
    return (x.flip(-1) if view % 2 else x).rot90(quarters, (-2, -1))


class _DenoiseHooks(Hooks[Denoise]):
    def __init__(self, plugin: Denoise, run: Run) -> None:
        super().__init__(plugin, run)
        self.told = Conditioning()
        pixels = run.inputs.picture is not None and run.shape == tuple(run.inputs.picture.shape)
        self.views = plugin.views if pixels and not plugin.sampled else 1

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        self.told = cond
        return cond

    def clean(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """The mean over views; where the model is told a picture, that view alone (it would have to be turned too)."""
        told = self.told
        if self.views == 1 or told.control or told.known is not None or told.lowres is not None:
            return x0
        mean = x0 / self.views
        for view in range(1, self.views):
            mean.add_(self.seen(step, view), alpha=1.0 / self.views)
        return mean

    def seen(self, step: Step, view: int) -> Tensor:
        """The estimate from one view, turned back; nothing else of it is kept, since pictures may be large."""
        made = step.predict(turned(step.x_t.detach(), view), step.t, self.told)
        return turned(made.x0, view, back=True)

    def begin(self) -> Float[Tensor, "b c *size"] | None:
        known = self.run.inputs.known
        return None if known is None else self.run.levels[self.run.plan.start].alpha * known

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Mapping[str, float]:
        """The size of what was taken out: about the noise's, where the result is right."""
        original = self.run.inputs.original
        assert original is not None
        return {"removed_levels": 127.5 * float((image - original).square().mean().sqrt())}
