"""Noise schedules: every noisy state is x_t = alpha_t * x0 + sigma_t * eps.

Variance preserving (VP: alpha_t^2 + sigma_t^2 = 1), variance exploding (VE, EDM: alpha_t = 1) and flow matching
(alpha_t = 1 - t, sigma_t = t) differ only in these two numbers. A schedule converts a number of steps into a list of
levels, with index 0 the clean level; plans, samplers and plugins work with levels only. Imports no torch, so that a
plan can be printed without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from editkit.errors import UsageError

Spacing = Literal["auto", "leading", "trailing", "linspace", "log-snr", "karras"]

FEW = 20
"""With fewer steps `auto` is `trailing`, whatever the configuration says. `leading` starts below the noisiest level but
from pure noise, which loses brightness and low frequencies; `linspace` spends its last step on a noiseless level."""

QUIET, LOUD = 0.002, 80.0
"""Range of sigma / alpha for `log-snr` and `karras`, if the schedule's range is wider (Karras et al. 2022)."""


@dataclass(frozen=True)
class Level:
    """A noise level, x_t = alpha_t * x0 + sigma_t * eps; `t` is the network's time input."""

    t: float
    alpha: float
    sigma: float
    index: int = 0

    @property
    def log_snr(self) -> float:
        """lambda_t = log(alpha_t / sigma_t), half the log signal-to-noise ratio; infinite at both ends."""
        if self.sigma == 0.0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0.0 else -math.inf


Levels = tuple[Level, ...]


@dataclass(frozen=True)
class Grid:
    """How a family of samplers spaces its levels, as the corresponding diffusers schedulers do.

    Args:
        spacing: meaning of `auto` if the model's configuration does not set it.
        real: fractional times, between two trained ones, are allowed (euler, heun).
        counts_clean: the clean level counts as one of the evenly spaced levels (dpm++, unipc).
        ends_clean: the last level is sigma = 0, whatever the model's configuration says (only ddim honours
            `set_alpha_to_one = false`).
        scaled_start: with linspace and trailing the process starts at sigma_t * noise instead of noise (euler, heun).
        finite: alpha_t = 0 becomes 2^-12, so that log-SNR is finite at zero terminal SNR (all but ddpm and ddim).
        distilled: number of levels of the distillation, from which levels are picked, if the model's configuration
            does not set it (lcm); 0: all levels.
    """

    spacing: Spacing = "leading"
    real: bool = False
    counts_clean: bool = False
    ends_clean: bool = True
    scaled_start: bool = False
    finite: bool = False
    distilled: int = 0


@runtime_checkable
class Schedule(Protocol):
    """A noise schedule (alpha_t, sigma_t)."""

    def level(self, t: float) -> Level:
        """Return the level at the model's time `t`."""
        ...

    def levels(self, steps: int, spacing: Spacing = "auto", grid: Grid = Grid()) -> Levels:
        """Return `steps + 1` levels, from clean (index 0) to noisiest (index `steps`)."""
        ...

    def prior_scale(self, level: Level, spacing: Spacing = "auto", grid: Grid = Grid()) -> float:
        """Return the standard deviation of the initial noise of a process that starts at `level`."""
        ...


def is_even(spacing: Spacing) -> bool:
    """Whether the spacing is in sigma / alpha, independent of schedule and sampler."""
    return spacing in ("log-snr", "karras")


def ratios(steps: int, low: float, high: float, spacing: Spacing, loud: float = LOUD) -> np.ndarray:
    """Return sigma / alpha of `steps` levels in ascending order, the last one `high` (infinite: pure noise).

    Levels start at `low` and are even in log-SNR, or in (sigma / alpha)^(1/7) for `karras` (Karras et al. 2022,
    arXiv:2206.00364, eq. 5). Above `loud`, where the state is all noise, there is only the last level.
    """
    top = min(high, loud)
    within = steps - (top < high)
    ramp = np.linspace(0.0, 1.0, within) if within != 1 or top < high else np.ones(1)
    if spacing == "karras":
        found = (low ** (1 / 7) + ramp * (top ** (1 / 7) - low ** (1 / 7))) ** 7
    else:
        found = low * (top / low) ** ramp
    return found if top == high else np.append(found, high)


def _ladder(levels: list[Level]) -> Levels:
    """Number `levels`, given in order from the clean end."""
    return tuple(Level(v.t, v.alpha, v.sigma, i) for i, v in enumerate(levels))


@dataclass(frozen=True, eq=False)
class Discrete:
    """The VP schedule of a model trained at T discrete times (Ho et al. 2020, arXiv:2006.11239).

    Args:
        alphas_cumprod: alpha_t^2 at t = 0 .. T-1, shape (T,).
        spacing: meaning of `auto`, from the model's configuration; `auto`: the sampler's default.
        steps_offset, set_alpha_to_one: as in diffusers' scheduler configurations.
        karras: samplers written in sigma / alpha or log-SNR use the spacing of Karras et al. 2022 (eq. 5, rho 7).
        distilled: number of levels of a distillation (diffusers' `original_inference_steps`).
        betas: 1 - alpha_t^2 / alpha_(t-1)^2 as trained, shape (T,); computed from float32 quotients they would have
            only 3 digits.
    """

    alphas_cumprod: np.ndarray
    spacing: Spacing = "auto"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    karras: bool = False
    distilled: int | None = None
    betas: np.ndarray | None = None

    def level(self, t: float) -> Level:
        """Return the level at `t`; between two trained times sigma_t / alpha_t is interpolated linearly."""
        low = math.floor(t)
        if low == t:
            alpha_bar = float(self.alphas_cumprod[low])
            return Level(float(t), math.sqrt(alpha_bar), math.sqrt(1.0 - alpha_bar))
        ratio = [math.sqrt(1.0 / float(self.alphas_cumprod[k]) - 1.0) for k in (low, low + 1)]
        sigma_over_alpha = ratio[0] + (t - low) * (ratio[1] - ratio[0])
        alpha = 1.0 / math.sqrt(1.0 + sigma_over_alpha**2)
        return Level(float(t), alpha, sigma_over_alpha * alpha)

    def levels(self, steps: int, spacing: Spacing = "auto", grid: Grid = Grid()) -> Levels:
        if is_even(spacing):
            return self._even(steps, spacing, grid)
        times = [self.level(float(t)) for t in self._times(steps, spacing, grid)]
        if grid.finite:
            times = [Level(v.t, 2.0**-12, math.sqrt(1.0 - 2.0**-24)) if v.alpha == 0.0 else v for v in times]
        if self.karras and grid.finite:
            times = self._karras(steps, times, grid)
        if grid.ends_clean or self.set_alpha_to_one:
            clean = Level(0.0, 1.0, 0.0)
        else:
            clean = self.level(0)
        return _ladder([clean, *times])

    def _even(self, steps: int, spacing: Spacing, grid: Grid) -> Levels:
        """Space levels over the whole schedule by sigma / alpha, and add sigma = 0.

        Raises:
            UsageError: the model is distilled, and only knows its trained times.
        """
        if grid.distilled:
            raise UsageError(f"--spacing {spacing} makes levels that a distilled model does not know; leave it out")
        r = ratios(steps, float(self._ratio(0)), float(self._ratio(len(self.alphas_cumprod) - 1)), spacing)
        if grid.finite:
            r = np.where(np.isinf(r), math.sqrt(2.0**24 - 1.0), r)
        return _ladder([Level(0.0, 1.0, 0.0), *self._at(r, grid.real)])

    def _ratio(self, index: int) -> float:
        """Return sigma / alpha at a trained time."""
        bar = float(self.alphas_cumprod[index])
        return math.sqrt(1.0 / bar - 1.0) if bar > 0.0 else math.inf

    def _at(self, r: np.ndarray, real: bool) -> list[Level]:
        """Return the levels with these sigma / alpha; `real`: with fractional times for the network."""
        table = np.sqrt((1.0 - self.alphas_cumprod) / np.maximum(self.alphas_cumprod, 2.0**-24))
        t = np.interp(np.log(np.minimum(r, table[-1])), np.log(table), np.arange(len(table)))
        times = t if real else t.round()
        alpha = 1.0 / np.sqrt(1.0 + r**2)
        sigma = np.where(np.isinf(r), 1.0, np.where(np.isinf(r), 0.0, r) * alpha)
        return [Level(float(a), float(b), float(c)) for a, b, c in zip(times, alpha, sigma, strict=True)]

    def _karras(self, steps: int, times: list[Level], grid: Grid) -> list[Level]:
        """Space r = sigma / alpha evenly in r^(1/7), ascending, as diffusers' `use_karras_sigmas`.

        r ranges over that of `times` (euler, heun), or over the whole schedule with times rounded to trained ones
        (dpm++, unipc).
        """
        table = np.sqrt((1.0 - self.alphas_cumprod) / np.maximum(self.alphas_cumprod, 2.0**-24))
        low, high = (table[0], table[-1]) if grid.counts_clean else (v.sigma / v.alpha for v in (times[0], times[-1]))
        r = np.linspace(low ** (1 / 7), high ** (1 / 7), steps) ** 7 if steps > 1 else np.array([high])
        return self._at(r, not grid.counts_clean)

    def resolve(self, spacing: Spacing, grid: Grid) -> Spacing:
        """Resolve `auto`: to the model's configuration, else to the sampler's default."""
        wanted = (spacing, self.spacing, grid.spacing)
        return next(name for name in wanted if name != "auto")

    def _times(self, steps: int, spacing: Spacing, grid: Grid) -> np.ndarray:
        """Return ascending times, (steps,)."""
        T = len(self.alphas_cumprod)
        distilled = grid.distilled and (self.distilled or grid.distilled)
        most = distilled or T
        if steps > most:
            raise UsageError(f"--steps is {steps}; this model and sampler have {most} noise levels")
        times: np.ndarray
        if distilled:
            trained = (np.arange(distilled) + 1) * (T // distilled) - 1
            picked = np.floor(np.linspace(0, distilled, steps, endpoint=False)).astype(int)
            times = trained[::-1][picked][::-1]
            return times
        auto, name = spacing == "auto", self.resolve(spacing, grid)
        if auto and steps < FEW:
            name = "trailing"
        if name == "trailing":
            times = np.arange(T, 0, -T / steps).round()[:steps][::-1] - 1
            return times
        if name == "linspace":
            if grid.counts_clean and steps < T:
                times = np.linspace(0, T - 1, steps + 1).round()[1:]
                return times
            times = np.linspace(0, T - 1, steps)
            return times if grid.real else times.round()
        stride = T // (steps + grid.counts_clean)
        if stride == 0 or (auto and T % steps):
            # A fractional stride: with diffusers' integer one, 300 of 1000 steps start at t = 897, not at the noisiest
            times = np.floor(np.arange(steps) * T / steps)
        else:
            times = (np.arange(steps) + grid.counts_clean) * stride
        return np.minimum(times + self.steps_offset, T - 1)

    def repaint_betas(self, s: Level, steps: int) -> list[float]:
        """Return the variances of the trained steps in which diffusers' RePaintScheduler goes up to level s.

        These are T // steps variances, starting at the time of s. With steps = T this is the forward kernel from the
        level below; with fewer steps it adds T // steps - 1 trained steps of noise too many. For `--noise diffusers`.
        """
        first, n = int(s.t), len(self.alphas_cumprod) // steps
        betas = self.betas
        if betas is None:
            bars = np.concatenate([[1.0], self.alphas_cumprod])
            betas = 1.0 - bars[1:] / bars[:-1]
        return [float(beta) for beta in betas[first : first + n]]

    def prior_scale(self, level: Level, spacing: Spacing = "auto", grid: Grid = Grid()) -> float:
        """Return 1 (the data's variance is taken as 1), or sigma_t where diffusers starts with it."""
        return level.sigma if grid.scaled_start and self.resolve(spacing, grid) != "leading" else 1.0


@dataclass(frozen=True)
class Cosine:
    """The cosine schedule alpha_t = cos(pi t / 2), sigma_t = sin(pi t / 2), t in [0, 1].

    Nichol & Dhariwal 2021, arXiv:2102.09672. It is continuous and exact at both ends: t = 1 is pure noise.
    """

    def level(self, t: float) -> Level:
        if t >= 1.0:
            return Level(1.0, 0.0, 1.0)
        return Level(t, math.cos(math.pi * t / 2), math.sin(math.pi * t / 2))

    def levels(self, steps: int, spacing: Spacing = "auto", grid: Grid = Grid()) -> Levels:
        if is_even(spacing):
            found = ratios(steps, QUIET, math.inf, spacing)
            return _ladder([self.level(0.0), *(self.level(2.0 / math.pi * math.atan(r)) for r in found)])
        return _ladder([self.level(k / steps) for k in range(steps + 1)])

    def prior_scale(self, level: Level, spacing: Spacing = "auto", grid: Grid = Grid()) -> float:
        return 1.0


@dataclass(frozen=True)
class VE:
    """The variance exploding schedule: alpha_t = 1, sigma_t from `sigma_max` down to `sigma_min`, then 0.

    Karras et al. 2022, arXiv:2206.00364, eq. 5. `rho` 0 stands for its limit, the geometric sequence of Song et al.
    2021 (arXiv:2011.13456). The network's time is sigma.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def level(self, t: float) -> Level:
        return Level(t, 1.0, t)

    def levels(self, steps: int, spacing: Spacing = "auto", grid: Grid = Grid()) -> Levels:
        ramp = np.linspace(0.0, 1.0, steps) if steps > 1 else np.ones(1)
        if is_even(spacing):
            sigmas = ratios(steps, self.sigma_min, self.sigma_max, spacing, self.sigma_max)
        elif self.rho == 0.0:
            sigmas = self.sigma_min * (self.sigma_max / self.sigma_min) ** ramp
        else:
            low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
            sigmas = (low + ramp * (high - low)) ** self.rho
        return _ladder([self.level(0.0), *(self.level(float(sigma)) for sigma in sigmas)])

    def prior_scale(self, level: Level, spacing: Spacing = "auto", grid: Grid = Grid()) -> float:
        return level.sigma


@dataclass(frozen=True)
class Flow:
    """The flow-matching schedule alpha_t = 1 - t, sigma_t = t (Lipman et al. 2023, arXiv:2210.02747).

    With the resolution shift of SD 3, t' = shift * t / (1 + (shift - 1) t) (Esser et al. 2024, arXiv:2403.03206). The
    network's time is `scale * t'`.

    Args:
        shift, scale: see above.
        spacing: meaning of `auto`. `trailing` spaces steps + 1 levels evenly, including the clean one (FLUX);
            `linspace` is diffusers' default scheduler (SD 3): `steps` levels from 1 down to 1 / scale, and then 0.
    """

    shift: float = 1.0
    scale: float = 1000.0
    spacing: Spacing = "trailing"

    def level(self, t: float) -> Level:
        sigma = t / self.scale
        return Level(t, 1.0 - sigma, sigma)

    def levels(self, steps: int, spacing: Spacing = "auto", grid: Grid = Grid()) -> Levels:
        if is_even(spacing):
            found = ratios(steps, QUIET, math.inf, spacing)
            return _ladder([self.level(0.0), *(self.level(self.scale * _flow_sigma(r)) for r in found)])
        plain = np.arange(steps + 1) / steps
        if (self.spacing if spacing == "auto" else spacing) == "linspace":
            plain[1:] = np.linspace(1.0, self._shifted(1.0 / self.scale), steps)[::-1]
        return _ladder([self.level(float(self._shifted(t)) * self.scale) for t in plain])

    def _shifted(self, t: float) -> float:
        return self.shift * t / (1.0 + (self.shift - 1.0) * t)

    def prior_scale(self, level: Level, spacing: Spacing = "auto", grid: Grid = Grid()) -> float:
        return 1.0


def _flow_sigma(r: float) -> float:
    """Return sigma of the flow level with sigma / alpha = r."""
    return r / (1.0 + r) if math.isfinite(r) else 1.0


def level_at(schedule: Schedule, ratio: float, top: Level) -> Level:
    """Return the level with sigma / alpha = `ratio` by bisection in time, between the clean end and `top`."""
    low, high = 0.0, top.t
    for _ in range(60):
        middle = (low + high) / 2.0
        at = schedule.level(middle)
        low, high = (middle, high) if at.sigma < ratio * at.alpha else (low, middle)
    return schedule.level(high)


def progress(level: Level, levels: Levels) -> float:
    """Return the progress of a process at `level`: 0 at the noisiest level, 1 at the cleanest, linear in log-SNR.

    It is clipped at both ends, where log-SNR may be infinite.
    """
    finite = [v.log_snr for v in levels if math.isfinite(v.log_snr)]
    if len(finite) < 2 or not math.isfinite(level.log_snr):
        return 1.0 if level.sigma == 0.0 else 0.0
    low, high = min(finite), max(finite)
    return min(1.0, max(0.0, (level.log_snr - low) / (high - low)))
