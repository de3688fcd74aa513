"""Update rules x_t -> x_s, written once for every (alpha, sigma) table.

A sampler is a pure rule plus, for multistep ones, a short memory that the engine clears after a move upward. Each
equals its diffusers scheduler step for step (tests/test_samplers.py). No torch at import: plans are priced without it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar, Protocol

from editkit.errors import UsageError
from editkit.plan import Move
from editkit.schedule import Grid, Level

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.models.base import Prediction

Predict = Callable[["Tensor", Level], "Prediction"]
"""The guided, cleaned prediction at (x_t, level): every evaluation of the network passes there."""

Normal = Callable[[], "Tensor"]
"""N(0, 1) of the state's shape, from the sampler's own stream."""


class Sampler(Protocol):
    """`grid`: how its levels are laid. `starts_at_sigma`: as in diffusers, the process starts at sigma_t * noise."""

    name: ClassVar[str]
    grid: ClassVar[Grid]
    starts_at_sigma: ClassVar[bool]

    def calls(self, move: Move) -> int:
        """Network evaluations of one downward move."""
        ...

    def reset(self) -> None:
        """Forget the history: the last move went upward."""
        ...

    def __call__(self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal) -> Tensor:
        """x_s from x_t."""
        ...


@dataclass
class _OneCall:
    """A rule without memory that calls the network once a move."""

    grid: ClassVar[Grid] = Grid()
    starts_at_sigma: ClassVar[bool] = False

    def calls(self, move: Move) -> int:
        return 1

    def reset(self) -> None:
        pass


def posterior_variance(t: Level, s: Level) -> tuple[float, float]:
    """(Var[x_s | x_t, x0], Var[x_t | x_s]): the smallest and the largest variance of a reverse step.

    beta = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2; smallest = beta sigma_s^2 / sigma_t^2.
    """
    largest = max(t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2, 0.0)
    return largest * s.sigma**2 / t.sigma**2, largest


@dataclass
class DDPM(_OneCall):
    """Ancestral sampling (Ho et al. 2020, arXiv:2006.11239, Algorithm 2), from any level to any lower one.

    x_s = (alpha_t sigma_s^2 / (alpha_s sigma_t^2)) x_t + (alpha_s beta / sigma_t^2) x0 + sqrt(var) z, with `var` the
    posterior's (`variance="small"`), the forward kernel's (`"large"`), or what the network has learned, if it has.
    """

    name: ClassVar[str] = "ddpm"
    variance: str = "small"

    def __post_init__(self) -> None:
        if self.variance not in ("small", "large"):
            raise UsageError(f"sampler ddpm: variance is {self.variance!r}; allowed: small, large")

    def __call__(self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal) -> Tensor:
        pred = predict(x_t, t)
        small, large = posterior_variance(t, s)
        ratio = t.alpha / s.alpha
        x_s = (ratio * s.sigma**2 / t.sigma**2) * x_t + (s.alpha * large / t.sigma**2) * pred.x0
        if s.sigma == 0.0:
            return x_s
        if pred.variance is None:
            return x_s + math.sqrt(small if self.variance == "small" else large) * normal()
        low, high = math.log(max(small, 1e-20)), math.log(large)
        return x_s + (0.5 * (low + pred.variance * (high - low))).exp() * normal()


@dataclass
class DDIM(_OneCall):
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - w^2) eps + w z, w = eta sqrt(var) (Song et al. 2021, arXiv:2010.02502, eq. 12).

    `eta` 0 is deterministic, 1 has the variance of ddpm.
    """

    name: ClassVar[str] = "ddim"
    grid: ClassVar[Grid] = Grid(ends_clean=False)
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise UsageError(f"sampler ddim: eta is {self.eta}; allowed: 0 to 1")

    def __call__(self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal) -> Tensor:
        pred = predict(x_t, t)
        if self.eta == 0.0:
            return s.alpha * pred.x0 + s.sigma * pred.eps
        w = self.eta * math.sqrt(posterior_variance(t, s)[0])
        return s.alpha * pred.x0 + math.sqrt(max(s.sigma**2 - w**2, 0.0)) * pred.eps + w * normal()


@dataclass
class Heun:
    """The second-order rule of Karras et al. 2022 (arXiv:2206.00364, Algorithm 1 without churn).

    In u = x / alpha and r = sigma / alpha the probability flow is du/dr = eps. One Euler step to s, then the mean of
    both slopes; first order in the last move, and where alpha_t = 0 (u is infinite there).
    """

    name: ClassVar[str] = "heun"
    grid: ClassVar[Grid] = Grid(real=True)
    starts_at_sigma: ClassVar[bool] = True

    def calls(self, move: Move) -> int:
        return 1 if move.s == 0 else 2

    def reset(self) -> None:
        pass

    def __call__(self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal) -> Tensor:
        pred = predict(x_t, t)
        euler = s.alpha * pred.x0 + s.sigma * pred.eps
        if s.index == 0:
            return euler
        second = predict(euler, s)
        if t.alpha == 0.0:
            return euler
        slope = 0.5 * (pred.eps + second.eps)
        return s.alpha * (x_t / t.alpha + (s.sigma / s.alpha - t.sigma / t.alpha) * slope)


@dataclass
class DPMpp2M(_OneCall):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, Algorithm 2).

    With lambda = log(alpha / sigma), h = lambda_s - lambda_t and r = (lambda_t - lambda_before) / h,
    x_s = (sigma_s / sigma_t) x_t - alpha_s (e^-h - 1) [x0 + (x0 - x0_before) / 2r]. First order where there is no
    history, where it is infinitely far, and in the last move.
    """

    name: ClassVar[str] = "dpm++2m"
    grid: ClassVar[Grid] = Grid(counts_clean=True)
    _before: tuple[Level, Tensor] | None = field(default=None, init=False, repr=False)

    def reset(self) -> None:
        self._before = None

    def __call__(self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal) -> Tensor:
        x0 = predict(x_t, t).x0
        h = s.log_snr - t.log_snr
        estimate = x0
        if self._before is not None and math.isfinite(h):
            before, x0_before = self._before
            estimate = x0 + (h / (2.0 * (t.log_snr - before.log_snr))) * (x0 - x0_before)
        self._before = (t, x0)
        return (s.sigma / t.sigma) * x_t - s.alpha * math.expm1(-h) * estimate


SAMPLERS: dict[str, Callable[..., Sampler]] = {c.name: c for c in (DDPM, DDIM, Heun, DPMpp2M)}


def make_sampler(spec: str) -> Sampler:
    """A fresh sampler from `name` or `name:parameter=value,...`, as `ddim:eta=1`.

    Raises:
        UsageError: unknown name (the nearest is named), parameter or value.
    """
    name, _, words = spec.partition(":")
    if name not in SAMPLERS:
        near = difflib.get_close_matches(name, SAMPLERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"no sampler is called {name!r}{hint} (there are: {', '.join(SAMPLERS)})")
    kind = SAMPLERS[name]
    known = {f.name: f for f in fields(kind) if f.init}  # type: ignore[arg-type]
    values: dict[str, float | str] = {}
    for word in filter(None, words.split(",")):
        key, equals, value = word.partition("=")
        if key not in known or not equals:
            allowed = ", ".join(f"{k}=..." for k in known) or "none"
            raise UsageError(f"sampler {name} has no parameter {word!r} (it has: {allowed})")
        try:
            values[key] = value if isinstance(known[key].default, str) else float(value)
        except ValueError:
            raise UsageError(f"sampler {name}: {key} is {value!r}; a number is needed") from None
    return kind(**values)
