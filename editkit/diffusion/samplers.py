"""Samplers: update rules x_t -> x_s, each written once for every (alpha, sigma) schedule.

A sampler has no state: the memory of a multistep sampler is a value that goes into a step and comes out of it, so
nothing needs to be reset. Each sampler equals its diffusers scheduler step for step (tests/test_samplers.py).
Deterministic samplers also run upward, from a picture to its noise (`reversible`). Imports no torch, since plans need
none to compute their cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast, runtime_checkable

from editkit.common.entries import Group, InstalledEntry
from editkit.common.spec import did_you_mean, name_of, number, values_of
from editkit.diffusion.plan import Move
from editkit.diffusion.schedule import Grid, Level
from editkit.errors import UsageError, short

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.diffusion.prediction import Prediction

Predict = Callable[["Tensor", Level], "Prediction"]
"""(x_t, level) -> the prediction, after guidance and `clean` hooks; every evaluation of the network goes through it."""

Normal = Callable[[Level, Level], "Tensor"]
"""(t, s) -> noise N(0, 1) of the state's shape for the interval from t to s, from the sampler's own stream."""

Memory = Any
"""A sampler's memory between moves; None at the start and after a noise move."""


@runtime_checkable
class DiffersFromDiffusers(Protocol):
    """A sampler that differs from diffusers' class of the same name; `--noise diffusers` uses that variant."""

    def as_diffusers(self) -> Sampler:
        """Return diffusers' variant of the sampler."""
        ...


class Sampler(Protocol):
    """An update rule x_t -> x_s."""

    @property
    def grid(self) -> Grid:
        """Spacing of its levels; a class attribute of registered samplers."""
        ...

    @property
    def name(self) -> str:
        """Name in `--sampler` and in messages."""
        ...

    @property
    def reversible(self) -> bool:
        """Whether it can also make flow moves upward, with s noisier than t."""
        ...

    def calls(self, move: Move) -> int:
        """Return the network evaluations of one flow move; for adaptive samplers the smallest number."""
        ...

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """Make one move, and return (x_s, memory).

        Args:
            x_t: the state at `t`, (batch, channels, ...), float32; must not be modified.
            t, s: the levels of the move.
            predict: returns the prediction at a state and level; called `calls` times.
            normal: returns fresh noise for an interval.
            memory: the memory that the move before returned; None at the start and after a noise move.
        """
        ...


@dataclass(frozen=True)
class OneCall:
    """Base class of samplers that call the network once a move."""

    grid: ClassVar[Grid] = Grid()

    @property
    def reversible(self) -> bool:
        return False

    def calls(self, move: Move) -> int:
        return 1


@dataclass(frozen=True)
class WrappedSampler:
    """Base class of samplers that wrap another one, `inner`, with its name, levels and directions (`Plugin.walk`)."""

    inner: Sampler

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def grid(self) -> Grid:
        return self.inner.grid

    @property
    def reversible(self) -> bool:
        return self.inner.reversible

    def calls(self, move: Move) -> int:
        return self.inner.calls(move)

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        return self.inner.step(x_t, t, s, predict, normal, memory)


def posterior_variance(t: Level, s: Level) -> tuple[float, float]:
    """Return (Var[x_s | x_t, x0], Var[x_t | x_s]), the smallest and the largest variance of a reverse step.

    beta = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2; smallest = beta sigma_s^2 / sigma_t^2.
    """
    largest = max(t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2, 0.0)
    return largest * s.sigma**2 / t.sigma**2, largest


@dataclass(frozen=True)
class DDPM(OneCall):
    """Ancestral sampling (Ho et al. 2020, arXiv:2006.11239, Algorithm 2), from any level to any lower one.

    x_s = (alpha_t sigma_s^2 / (alpha_s sigma_t^2)) x_t + (alpha_s beta / sigma_t^2) x0 + sqrt(var) z, where `var` is
    the variance of the posterior (`variance="small"`), of the forward kernel (`"large"`), or the network's learned
    variance if it has one. The forward kernel's variance is exact for data of unit deviation on VP schedules. On VE
    schedules this is the predictor of Song et al. 2021, meant for a thousand steps: with few, wide steps the state
    leaves its range.
    """

    name: ClassVar[str] = "ddpm"
    variance: str = "small"

    def __post_init__(self) -> None:
        if self.variance not in ("small", "large"):
            raise UsageError(f"sampler ddpm: variance is {self.variance!r}; allowed: small, large")

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        pred = predict(x_t, t)
        small, large = posterior_variance(t, s)
        ratio = t.alpha / s.alpha
        x_s = ((ratio * s.sigma**2 / t.sigma**2) * x_t).add_((s.alpha * large / t.sigma**2) * pred.x0)
        variance = pred.variance
        del pred  # as large as the result: free it before noise is drawn
        if s.sigma == 0.0:
            return x_s, None
        if variance is None:
            return x_s.add_(math.sqrt(small if self.variance == "small" else large) * normal(t, s)), None
        low, high = math.log(max(small, 1e-20)), math.log(large)
        return x_s.add_((0.5 * (low + variance * (high - low))).exp() * normal(t, s)), None


@dataclass(frozen=True)
class DDIM(OneCall):
    """DDIM: x_s = alpha_s x0 + sqrt(sigma_s^2 - w^2) eps + w z, w = eta sqrt(var) (Song et al. 2021, eq. 12).

    arXiv:2010.02502. `eta` 0 is deterministic and also runs upward (section 5.4); 1 has the variance of ddpm. On the
    way up the network gets the time of the level that it leaves, or, with `told="to"`, of the level that it goes to, as
    in diffusers' DDIMInverseScheduler.
    """

    name: ClassVar[str] = "ddim"
    grid: ClassVar[Grid] = Grid(ends_clean=False)
    eta: float = 0.0
    told: str = "from"

    @property
    def reversible(self) -> bool:
        return self.eta == 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise UsageError(f"sampler ddim: eta is {self.eta}; allowed: 0 to 1")
        if self.told not in ("from", "to"):
            raise UsageError(f"sampler ddim: told is {self.told!r}; allowed: from, to")

    def as_diffusers(self) -> DDIM:
        """Return the variant with `told="to"`."""
        return replace(self, told="to") if self.reversible else self

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        ahead = self.told == "to" and s.index > t.index
        pred = predict(x_t, replace(t, t=s.t) if ahead else t)
        if self.eta == 0.0:
            return (s.alpha * pred.x0).add_(s.sigma * pred.eps), None  # in place, to save memory; the same rounding
        w = self.eta * math.sqrt(posterior_variance(t, s)[0])
        return s.alpha * pred.x0 + math.sqrt(max(s.sigma**2 - w**2, 0.0)) * pred.eps + w * normal(t, s), None


KARRAS = Grid(spacing="linspace", real=True, scaled_start=True, finite=True)
"""The spacing of levels for the samplers that diffusers writes in u = x / alpha, r = sigma / alpha."""


def slope(x_t: Tensor, t: Level, pred: Prediction) -> Tensor:
    """Return du/dr = (x_t - alpha_t x0) / sigma_t, the noise implied by x0, also if x0 was clipped.

    At the clean level, where the way up begins, it is the predicted eps.
    """
    return pred.eps if t.sigma == 0.0 else (x_t - t.alpha * pred.x0) / t.sigma


@dataclass(frozen=True)
class Euler(OneCall):
    """Euler steps of the probability flow du/dr = eps, with u = x / alpha and r = sigma / alpha (Karras et al. 2022).

    x_s = alpha_s x0 + sigma_s (x_t - alpha_t x0) / sigma_t. This is ddim with eta 0, except for the levels (which may
    lie between trained times) and for clipping, after which the noise is recomputed.
    """

    name: ClassVar[str] = "euler"
    grid: ClassVar[Grid] = KARRAS

    @property
    def reversible(self) -> bool:
        return True

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        pred = predict(x_t, t)
        return s.alpha * pred.x0 + s.sigma * slope(x_t, t, pred), None


@dataclass(frozen=True)
class EulerAncestral(OneCall):
    """Euler step to r_down = r_s^2 / r_t, then noise r_up = sqrt(r_s^2 - r_down^2) (k-diffusion's `euler_a`).

    With r = sigma / alpha, x_s = alpha_s (x0 + r_down eps + r_up z): the variance of ddim with eta 1.
    """

    name: ClassVar[str] = "euler-ancestral"
    grid: ClassVar[Grid] = KARRAS

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        pred = predict(x_t, t)
        if s.sigma == 0.0:
            return s.alpha * pred.x0, None
        up = math.sqrt(posterior_variance(t, s)[0])
        down = math.sqrt(max(s.sigma**2 - up**2, 0.0))
        return s.alpha * pred.x0 + down * slope(x_t, t, pred) + up * normal(t, s), None


WIDE = 10.0
"""A move is wide if it starts from mostly noise and reduces sigma / alpha by more than this factor."""


def is_wide(t: Level, s: Level) -> bool:
    """Whether a move down is wide: from mostly noise, r_t > 1, with r_t > `WIDE` r_s."""
    return t.sigma > t.alpha and t.sigma * s.alpha > WIDE * t.alpha * s.sigma


@dataclass(frozen=True)
class Heun:
    """The second-order sampler of Karras et al. 2022 (arXiv:2206.00364, Algorithm 1 without churn).

    In u = x / alpha and r = sigma / alpha the probability flow is du/dr = eps. An Euler step to s is followed by the
    mean of both slopes, written as a correction of the Euler step: x_s += alpha_s (r_s - r_t) (eps_s - eps_t) / 2. The
    last move is of first order.

    In a wide move r falls from thousands to a few, and the correction amplifies the difference of the slopes by that
    factor. There the same method in log-SNR, with e^-h = r_s / r_t, is bounded: x_s = (sigma_s / sigma_t) x_t +
    alpha_s (1 - e^-h) (x0_t + x0_s) / 2 (Lu et al. 2022, arXiv:2211.01095, eq. 3.7). `wide="karras"` uses the plain
    correction there, as diffusers does, and leaves the valid range; except at alpha_t = 0, where u is infinite.
    """

    name: ClassVar[str] = "heun"
    grid: ClassVar[Grid] = KARRAS
    wide: str = "bounded"

    def __post_init__(self) -> None:
        if self.wide not in ("bounded", "karras"):
            raise UsageError(f"sampler heun: wide is {self.wide!r}; allowed: bounded, karras")

    def as_diffusers(self) -> Heun:
        """Return the variant that uses the plain correction in wide moves as well."""
        return replace(self, wide="karras")

    @property
    def reversible(self) -> bool:
        return True

    def calls(self, move: Move) -> int:
        return 1 if move.s == 0 else 2

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        pred = predict(x_t, t)
        first = slope(x_t, t, pred)
        euler = s.alpha * pred.x0 + s.sigma * first
        if s.index == 0:
            return euler, None
        there = predict(euler, s)
        if self.wide == "bounded" and is_wide(t, s):
            gone = 1.0 - t.alpha * s.sigma / (t.sigma * s.alpha)  # 1 - e^-h
            return euler + (0.5 * s.alpha * gone) * (there.x0 - pred.x0), None
        if t.alpha == 0.0:
            return euler, None
        half = 0.5 * (s.sigma - s.alpha * t.sigma / t.alpha)
        return euler + half * (slope(euler, s, there) - first), None


@dataclass(frozen=True)
class LCM(OneCall):
    """Multistep consistency sampling of a latent consistency model (Luo et al. 2023, arXiv:2310.04378, Algorithm 3).

    f = c_skip x_t + c_out x0 with c_skip = d^2 / (k^2 + d^2), c_out = k / sqrt(k^2 + d^2), k = 10 t, d = 0.5. Then
    x_s = alpha_s f + sigma_s z, or f itself in the last move.
    """

    name: ClassVar[str] = "lcm"
    grid: ClassVar[Grid] = Grid(distilled=50)

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        x0 = predict(x_t, t).x0
        k2, d2 = (10.0 * t.t) ** 2, 0.25
        f = (d2 / (k2 + d2)) * x_t + math.sqrt(k2 / (k2 + d2)) * x0
        return (f if s.index == 0 else s.alpha * f + s.sigma * normal(t, s)), None


API = 1
"""Version of this protocol."""

GROUP = "editkit.samplers"
SAMPLERS = Group(GROUP, "sampler", "editkit plugins")


def load(name: str) -> type[Sampler]:
    """Load the sampler called `name`, a dataclass whose fields are its parameters.

    Raises:
        UsageError: there is none. The message suggests the closest name.
        PluginError: it cannot be imported, or violates the protocol.
    """
    return cast(
        "type[Sampler]",
        SAMPLERS.check_attributes(SAMPLERS.load(name), name, ("name", "grid", "reversible", "calls", "step"), API),
    )


def list_installed() -> list[InstalledEntry[type[Sampler]]]:
    """Return every installed sampler; broken ones carry the reason."""
    return SAMPLERS.list_installed(load)


def make_sampler(spec: str) -> Sampler:
    """Create a sampler from `name` or `name:parameter=value,...`, such as `ddim:eta=1`.

    Raises:
        UsageError: the name, a parameter or a value is invalid.
    """
    name = name_of(spec)
    there = SAMPLERS.names()
    if name not in there:
        hint = did_you_mean(name, there)
        raise UsageError(f"no sampler is called {short(name)}{hint} (there are: {', '.join(there)})")
    kind = load(name)
    known: dict[str, Field[Any]] = {f.name: f for f in fields(kind) if f.init} if is_dataclass(kind) else {}
    values: dict[str, float | str] = {}
    for key, value in values_of(spec, f"sampler {name}", known).items():
        is_text = isinstance(known[key].default, str)
        values[key] = value if is_text else number(value, f"sampler {name}: {key}")
    return kind(**values)
