"""Conventions on which results depend: editkit's own, or those of diffusers.

Everything that `--noise diffusers` changes is here: the source of random numbers, the spacing of levels, the conversion
of masks to the model's space, noise moves, the steps in which a ControlNet acts, and the draws before the first step.
Samplers that differ from diffusers implement `as_diffusers`. No other code depends on the choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from editkit.diffusion.noise import MersenneStreams, Noise, OneStream, OwnerOverride, Streams
from editkit.diffusion.samplers import DiffersFromDiffusers, Sampler
from editkit.diffusion.schedule import Discrete, Grid, Level, Schedule, Spacing
from editkit.diffusion.space import space_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from editkit.diffusion.model import Model


class Masked(Protocol):
    """The part of a run's inputs that a convention needs (`editkit.plugin.step.Inputs`)."""

    @property
    def model(self) -> Model: ...

    @property
    def mask(self) -> Tensor | None: ...

    @property
    def known(self) -> Tensor | None: ...

    def encode_masked(self) -> Tensor | None:
        """Encode the masked picture now."""
        ...


class Convention(Protocol):
    """The choices in which the conventions differ."""

    def noise(self, seed: int, stage: int = 0, draw: int = 0) -> Noise:
        """Return the random numbers of a stage, for sample number `draw` of a mean."""
        ...

    def of_pass(self, noise: Noise, seed: int, stage: int, draw: int, box: int, attempt: int) -> Noise:
        """Return the random numbers of a pass over part number `box` of the picture, for try number `attempt`.

        `noise` is the result of `noise` for the same sample. Passes over the same part share their streams.
        """
        ...

    def spacing(self, wanted: Spacing, schedule: Schedule, grid: Grid) -> Spacing:
        """Return the spacing of levels, given the user's choice `wanted`."""
        ...

    def walked(self, sampler: Sampler) -> Sampler:
        """Return the variant of `sampler` to use."""
        ...

    def region(self, mask: Tensor, model: Model) -> Tensor:
        """Convert a mask (b, 1, h, w), 1 = regenerate, to the model's space: (b, 1, h', w'), binary."""
        ...

    def climb(
        self, x: Tensor, t: Level, s: Level, schedule: Schedule, steps: int, normal: Callable[[], Tensor]
    ) -> Tensor:
        """Noise x from level t to the noisier level s, by the forward kernel."""
        ...

    def shares_noise(self, latent: bool) -> bool:
        """Whether the known region is noised with the initial noise, on a latent or a pixel model."""
        ...

    @property
    def advises(self) -> bool:
        """Whether to suggest better settings to the user; not if results must equal a pipeline's."""
        ...

    def steers(self, start: float, stop: float, index: int, total: int) -> bool:
        """Whether a ControlNet acts in step `index` of `total`, given that the step's middle is in its window."""
        ...

    def before_start(self, inputs: Masked) -> None:
        """Encode what must be drawn before the initial noise."""
        ...

    def before_first_step(self, inputs: Masked) -> None:
        """Encode what must be drawn between the initial noise and the first step."""
        ...


@dataclass(frozen=True)
class Own:
    """editkit's convention: a stream for every owner, so that adding a plugin does not change the others' noise."""

    def noise(self, seed: int, stage: int = 0, draw: int = 0) -> Noise:
        return Streams((seed,), stage, draw)

    def of_pass(self, noise: Noise, seed: int, stage: int, draw: int, box: int, attempt: int) -> Noise:
        return Streams((seed,), stage, draw, box, attempt) if box or attempt else noise

    def spacing(self, wanted: Spacing, schedule: Schedule, grid: Grid) -> Spacing:
        return wanted

    def walked(self, sampler: Sampler) -> Sampler:
        return sampler

    def region(self, mask: Tensor, model: Model) -> Tensor:
        """Regenerate every value that the mask touches."""
        return model.encode_mask(mask)

    def climb(
        self, x: Tensor, t: Level, s: Level, schedule: Schedule, steps: int, normal: Callable[[], Tensor]
    ) -> Tensor:
        return renoise(x, t, s, normal())

    def shares_noise(self, latent: bool) -> bool:
        return False

    @property
    def advises(self) -> bool:
        return True

    def steers(self, start: float, stop: float, index: int, total: int) -> bool:
        return True

    def before_start(self, inputs: Masked) -> None:
        """Do nothing, as in `before_first_step`."""

    def before_first_step(self, inputs: Masked) -> None:
        """Do nothing: values are encoded on first use, from a stream of their own."""


@dataclass(frozen=True)
class V1Streams(Own):
    """editkit's convention with the streams of recipes that say `editkit: 1`."""

    def noise(self, seed: int, stage: int = 0, draw: int = 0) -> Noise:
        return MersenneStreams((seed + draw,), stage)

    def of_pass(self, noise: Noise, seed: int, stage: int, draw: int, box: int, attempt: int) -> Noise:
        if not attempt:
            return noise
        return OwnerOverride(noise, MersenneStreams((seed + draw,), stage, attempt), "encode")


@dataclass(frozen=True)
class Diffusers:
    """The convention of diffusers' pipelines: one generator, used in their order of draws."""

    def noise(self, seed: int, stage: int = 0, draw: int = 0) -> Noise:
        """Seed the generator with `seed + draw`: a mean is that of the pipeline's results for consecutive seeds."""
        return OneStream.seeded(seed + draw)

    def of_pass(self, noise: Noise, seed: int, stage: int, draw: int, box: int, attempt: int) -> Noise:
        return noise

    def spacing(self, wanted: Spacing, schedule: Schedule, grid: Grid) -> Spacing:
        """Resolve `auto` to the configuration's spacing, since editkit's `auto` may use a fractional stride."""
        return schedule.resolve(wanted, grid) if isinstance(schedule, Discrete) else wanted

    def walked(self, sampler: Sampler) -> Sampler:
        """Return the variant that equals diffusers' class, if the sampler defines one."""
        return sampler.as_diffusers() if isinstance(sampler, DiffersFromDiffusers) else sampler

    def region(self, mask: Tensor, model: Model) -> Tensor:
        """Binarise at 0.5 and resize by nearest neighbour."""
        import torch.nn.functional as F

        return F.interpolate((mask >= 0.5).to(mask.dtype), model.shape(*mask.shape[-2:])[1:])

    def climb(
        self, x: Tensor, t: Level, s: Level, schedule: Schedule, steps: int, normal: Callable[[], Tensor]
    ) -> Tensor:
        """Add noise by single trained steps, as RePaintScheduler does."""
        if not isinstance(schedule, Discrete):
            return renoise(x, t, s, normal())
        for beta in schedule.repaint_betas(s, steps):
            x = (1.0 - beta) ** 0.5 * x + beta**0.5 * normal()
        return x

    def shares_noise(self, latent: bool) -> bool:
        return latent

    @property
    def advises(self) -> bool:
        return False

    def steers(self, start: float, stop: float, index: int, total: int) -> bool:
        """Act only in steps that lie completely within the window."""
        return index / total >= start and (index + 1) / total <= stop

    def before_start(self, inputs: Masked) -> None:
        """Encode the picture first for FLUX.1 Fill, whose pipeline does so even if it is not needed at strength 1."""
        if inputs.mask is not None and "fine mask" in inputs.model.info.takes:
            _ = inputs.known

    def before_first_step(self, inputs: Masked) -> None:
        """Encode the masked picture on latent models, whose pipelines do so even if the network does not take it."""
        if inputs.mask is not None and not space_of(inputs.model).is_pixels:
            inputs.encode_masked()


NoiseName = Literal["streams", "streams-1", "diffusers"]

CONVENTIONS: dict[NoiseName, Convention] = {"streams": Own(), "streams-1": V1Streams(), "diffusers": Diffusers()}
"""Value of `--noise` -> convention."""


def renoise(x: Tensor, t: Level, s: Level, z: Tensor) -> Tensor:
    """Noise x_t to the noisier level s by the exact forward kernel, with z ~ N(0, 1).

    x_s = (alpha_s / alpha_t) x_t + sqrt(sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2) z.
    """
    ratio = s.alpha / t.alpha
    return ratio * x + math.sqrt(max(s.sigma**2 - ratio**2 * t.sigma**2, 0.0)) * z
