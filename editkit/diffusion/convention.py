"""The conventions that a run follows where pictures depend on them: editkit's own, or those of diffusers.

Everything in which `--noise diffusers` differs is asked here: where random numbers come from, how levels are spaced,
how a mask comes to the model's space, how a noise move is drawn, in which steps a ControlNet acts, what is drawn before
the first step; and a sampler that diffusers walks otherwise knows how (`as_diffusers`). Nobody else asks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from editkit.diffusion.noise import Apart, MersenneStreams, Noise, OneStream, Streams
from editkit.diffusion.samplers import DiffersFromDiffusers, Sampler
from editkit.diffusion.schedule import Discrete, Grid, Level, Schedule, Spacing
from editkit.diffusion.space import space_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from editkit.diffusion.model import Model


class Masked(Protocol):
    """What a convention needs of a run's inputs (`editkit.plugin.step.Inputs`)."""

    @property
    def model(self) -> Model: ...

    @property
    def mask(self) -> Tensor | None: ...

    @property
    def known(self) -> Tensor | None: ...

    def encode_masked(self) -> Tensor | None:
        """The masked picture in the model's space, encoded now."""
        ...


class Convention(Protocol):
    """What a run asks where the two differ."""

    def noise(self, seed: int, stage: int = 0, draw: int = 0) -> Noise:
        """Where the random numbers of a stage come from: of the sample `draw` where a mean is taken."""
        ...

    def of_pass(self, noise: Noise, seed: int, stage: int, draw: int, box: int, attempt: int) -> Noise:
        """Those of a pass over the part `box` of the picture, and of another start (`attempt`) of it.

        `noise`: what `noise` gave for the same sample. Passes over one part share their streams.
        """
        ...

    def spacing(self, wanted: Spacing, schedule: Schedule, grid: Grid) -> Spacing:
        """How levels are laid, where the user wanted `wanted`."""
        ...

    def walked(self, sampler: Sampler) -> Sampler:
        """The rule by which a stage walks that wants `sampler`."""
        ...

    def region(self, mask: Tensor, model: Model) -> Tensor:
        """A mask (b, 1, h, w), 1 = regenerate, in the model's space: (b, 1, h', w'), binary."""
        ...

    def climb(
        self, x: Tensor, t: Level, s: Level, schedule: Schedule, steps: int, normal: Callable[[], Tensor]
    ) -> Tensor:
        """x at the noisier level s, by the forward kernel."""
        ...

    def shares_noise(self, latent: bool) -> bool:
        """The known part is noised by what the process started from, on a model of latents or of pixels."""
        ...

    @property
    def advises(self) -> bool:
        """Whether a user is told of settings that serve better: not where a pipeline is to be equalled."""
        ...

    def steers(self, start: float, stop: float, index: int, total: int) -> bool:
        """Whether a ControlNet acts in step `index` of `total`, whose middle is in its window."""
        ...

    def before_start(self, inputs: Masked) -> None:
        """What is encoded, and drawn for, before the noise that a process starts from."""
        ...

    def before_first_step(self, inputs: Masked) -> None:
        """What is encoded, and drawn for, between the start and the first step."""
        ...


@dataclass(frozen=True)
class Own:
    """editkit's: a stream for every owner, so that adding a plugin changes nobody's noise."""

    def noise(self, seed: int, stage: int = 0, draw: int = 0) -> Noise:
        return Streams((seed,), stage, draw)

    def of_pass(self, noise: Noise, seed: int, stage: int, draw: int, box: int, attempt: int) -> Noise:
        return Streams((seed,), stage, draw, box, attempt) if box or attempt else noise

    def spacing(self, wanted: Spacing, schedule: Schedule, grid: Grid) -> Spacing:
        return wanted

    def walked(self, sampler: Sampler) -> Sampler:
        return sampler

    def region(self, mask: Tensor, model: Model) -> Tensor:
        """Whatever a mask touches is regenerated."""
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
        """Nothing, as for `before_first_step`."""

    def before_first_step(self, inputs: Masked) -> None:
        """Nothing: what somebody needs is encoded when it is asked for, from a stream of its own."""


@dataclass(frozen=True)
class Before(Own):
    """editkit's own with the streams of recipes that say `editkit: 1`."""

    def noise(self, seed: int, stage: int = 0, draw: int = 0) -> Noise:
        return MersenneStreams((seed + draw,), stage)

    def of_pass(self, noise: Noise, seed: int, stage: int, draw: int, box: int, attempt: int) -> Noise:
        if not attempt:
            return noise
        return Apart(noise, MersenneStreams((seed + draw,), stage, attempt), "encode")


@dataclass(frozen=True)
class Diffusers:
    """Its pipelines': one generator that all draw from in turn, in their order."""

    def noise(self, seed: int, stage: int = 0, draw: int = 0) -> Noise:
        """A mean is that of the pictures which its pipelines give for the seeds from `seed` on."""
        return OneStream.seeded(seed + draw)

    def of_pass(self, noise: Noise, seed: int, stage: int, draw: int, box: int, attempt: int) -> Noise:
        return noise

    def spacing(self, wanted: Spacing, schedule: Schedule, grid: Grid) -> Spacing:
        """The configuration's by its name, since `auto` keeps a real stride here."""
        return schedule.resolve(wanted, grid) if isinstance(schedule, Discrete) else wanted

    def walked(self, sampler: Sampler) -> Sampler:
        """As the class walks that it has of the rule, where the rule knows of a difference."""
        return sampler.as_diffusers() if isinstance(sampler, DiffersFromDiffusers) else sampler

    def region(self, mask: Tensor, model: Model) -> Tensor:
        """Binarised at a half, the nearest pixel taken."""
        import torch.nn.functional as F

        return F.interpolate((mask >= 0.5).to(mask.dtype), model.shape(*mask.shape[-2:])[1:])

    def climb(
        self, x: Tensor, t: Level, s: Level, schedule: Schedule, steps: int, normal: Callable[[], Tensor]
    ) -> Tensor:
        """By the trained steps that its RePaintScheduler walks one by one."""
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
        """In whole steps within the window only."""
        return index / total >= start and (index + 1) / total <= stop

    def before_start(self, inputs: Masked) -> None:
        """FLUX.1 Fill's pipeline encodes the picture first, and needs it at strengths below 1 alone."""
        if inputs.mask is not None and "fine mask" in inputs.model.info.takes:
            _ = inputs.known

    def before_first_step(self, inputs: Masked) -> None:
        """Its pipelines of latents encode the masked picture, whether the network is told it or not."""
        if inputs.mask is not None and not space_of(inputs.model).is_pixels:
            inputs.encode_masked()


NoiseName = Literal["streams", "streams-1", "diffusers"]

CONVENTIONS: dict[NoiseName, Convention] = {"streams": Own(), "streams-1": Before(), "diffusers": Diffusers()}
"""By the values of `--noise`."""


def renoise(x: Tensor, t: Level, s: Level, z: Tensor) -> Tensor:
    """The exact forward kernel x_s | x_t to a noisier level s.

    x_s = (alpha_s / alpha_t) x_t + sqrt(sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2) z.
    """
    ratio = s.alpha / t.alpha
    return ratio * x + math.sqrt(max(s.sigma**2 - ratio**2 * t.sigma**2, 0.0)) * z
