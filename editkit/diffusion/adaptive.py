"""The probability flow ODE with an adaptive solver: the Dormand-Prince method of orders 5 and 4, from scipy.

With theta = atan(sigma / alpha) and z = x / sqrt(alpha^2 + sigma^2) = cos(theta) x0 + sin(theta) eps, the flow of every
schedule is

    dz / dtheta = cos(theta) eps - sin(theta) x0,

the velocity of v-prediction (Salimans & Ho 2022, arXiv:2202.00512). It is bounded from pure noise to the picture, so an
adaptive solver needs no special case at either end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from editkit.common.extras import explained
from editkit.diffusion.plan import Move
from editkit.diffusion.samplers import Memory, Normal, Predict, Sampler, slope
from editkit.diffusion.schedule import QUIET, Grid, Level, Schedule
from editkit.errors import EditkitError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

STAGES = 6
"""Network calls in one solver step; the seventh stage is the first of the next step."""

Between = Callable[[float], Level]
"""theta -> the level there."""


@runtime_checkable
class Adaptive(Protocol):
    """A sampler whose number of network calls depends on its tolerances. `calls` is the smallest number.

    It also evaluates the network at levels between those of the ladder.
    """

    def on(self, schedule: Schedule) -> Sampler:
        """Return the sampler for this schedule, which gives the times of intermediate levels."""
        ...


@dataclass(frozen=True)
class ODE:
    """Probability flow ODE (Song et al. 2021, arXiv:2011.13456), solved to the tolerances `rtol` and `atol`.

    A solver step is accepted if the root mean square of its error over (atol + rtol |z|) is at most 1. The step size is
    kept between levels, so a ladder of few levels costs little. The flow ends at sigma / alpha = 0.002, or at the
    schedule's own least noisy level, with the clean mean x0. `most` bounds the network calls of one move.
    """

    name: ClassVar[str] = "ode"
    grid: ClassVar[Grid] = Grid(spacing="trailing", real=True)
    rtol: float = 1e-4
    atol: float = 1e-4
    most: float = 1000

    def __post_init__(self) -> None:
        for key in ("rtol", "atol"):
            if not 0.0 < getattr(self, key) < 1.0:
                raise UsageError(f"sampler ode: {key} is {getattr(self, key)}; allowed: above 0, below 1")
        if self.most < 1 + STAGES or self.most != int(self.most):
            raise UsageError(f"sampler ode: most is {self.most}; {1 + STAGES} calls or more are needed, a whole number")

    @property
    def reversible(self) -> bool:
        return True

    def calls(self, move: Move) -> int:
        """Return the fewest network calls: one solver step, and one call at the clean level."""
        return 1 + STAGES + (0 in (move.t, move.s))

    def on(self, schedule: Schedule) -> Sampler:
        """Return the sampler for `schedule`.

        Raises:
            ExtraError: scipy is not installed.
        """
        with explained():
            import scipy.integrate  # noqa: F401
        return _ScheduledODE(self, schedule)

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """Make a move without a schedule: times between the two levels are linear in the angle."""
        between = _interpolate_levels(t, s)
        return self.walk(x_t, t, s, predict, memory, between, between(math.atan(QUIET)))

    def walk(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, memory: Memory, between: Between, quiet: Level
    ) -> tuple[Tensor, Memory]:
        """Return (x_s, the solver's next step size). The flow ends at `quiet`, or starts there on the way up."""
        if t.sigma == 0.0:
            scaled = (quiet.alpha / t.alpha) * x_t
            x_t, t = scaled + quiet.sigma * predict(scaled, quiet).eps, quiet
        end = s if s.sigma > 0.0 else min(quiet, t, key=_angle)
        x, width = self._solve(x_t, t, end, predict, memory, between)
        return (x if s.sigma > 0.0 else s.alpha * predict(x, end).x0), width

    def _solve(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, width: float | None, between: Between
    ) -> tuple[Tensor, float | None]:
        from scipy.integrate import RK45

        ends = {_angle(t): t, _angle(s): s}
        theta, end = ends if len(ends) == 2 else (_angle(t), _angle(t))
        if theta == end:
            return x_t, width
        calls = 0

        def velocity(theta: float, z: np.ndarray) -> np.ndarray:
            nonlocal calls
            calls += 1
            if calls > self.most:
                raise _tolerance_error(self, t, s, theta)
            level = ends.get(theta) or between(theta)
            x = x_t.new_tensor(z).reshape(x_t.shape) * math.hypot(level.alpha, level.sigma)
            pred = predict(x, level)
            made = math.cos(theta) * slope(x, level, pred) - math.sin(theta) * pred.x0
            return _flat_float64(made)

        first = min(width or math.inf, abs(end - theta))
        solver = RK45(
            velocity, theta, _flat_float64(x_t) / math.hypot(t.alpha, t.sigma), end, rtol=self.rtol, atol=self.atol,
            first_step=first,
        )  # fmt: skip
        while solver.status == "running":
            solver.step()
        if solver.status == "failed":
            raise _tolerance_error(self, t, s, solver.t)
        return x_t.new_tensor(solver.y).reshape(x_t.shape) * math.hypot(s.alpha, s.sigma), float(solver.h_abs)


def _tolerance_error(rule: ODE, t: Level, s: Level, theta: float) -> EditkitError:
    return EditkitError(
        f"sampler ode: rtol={rule.rtol:g},atol={rule.atol:g} is not reached from level {t.index} to {s.index} in "
        f"{rule.most:g} network calls: it got to sigma / alpha = {math.tan(theta):.4g}; give larger tolerances, or a "
        "larger most="
    )


def _flat_float64(x: Tensor) -> np.ndarray:
    """Return all values as float64, (n,)."""
    values: np.ndarray = x.detach().double().flatten().cpu().numpy()
    return values


def _angle(level: Level) -> float:
    return math.atan2(level.sigma, level.alpha)


def _interpolate_levels(t: Level, s: Level) -> Between:
    """Interpolate times linearly in the angle, with alpha^2 + sigma^2 = 1."""
    a, b = _angle(t), _angle(s)

    def level(theta: float) -> Level:
        share = 0.0 if a == b else (theta - a) / (b - a)
        return Level(t.t + share * (s.t - t.t), math.cos(theta), math.sin(theta))

    return level


@dataclass(frozen=True)
class _ScheduledODE:
    """`rule`, with the times of a schedule."""

    rule: ODE
    table: Schedule

    @property
    def name(self) -> str:
        return self.rule.name

    @property
    def grid(self) -> Grid:
        return self.rule.grid

    @property
    def reversible(self) -> bool:
        return True

    def calls(self, move: Move) -> int:
        return self.rule.calls(move)

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        quiet = replace(self.table.levels(2, "log-snr", self.grid)[1], index=0)  # takes the place of the clean level
        return self.rule.walk(x_t, t, s, predict, memory, self._level_at_angle(t, s), quiet)

    def _level_at_angle(self, t: Level, s: Level) -> Between:
        """Find the schedule's level at an angle by bisection; sigma / alpha increases with time in every schedule."""
        low, high = sorted((t.t, s.t))

        def level(theta: float) -> Level:
            a, b = low, high
            for _ in range(50):
                middle = 0.5 * (a + b)
                a, b = (middle, b) if _angle(self.table.level(middle)) < theta else (a, middle)
            return self.table.level(0.5 * (a + b))

        return level
