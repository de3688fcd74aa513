"""Samplers of the score SDE (Song et al. 2021, arXiv:2011.13456): the reverse SDE, Langevin dynamics, and their
combination.

The score is grad log p_t(x_t) = -eps / sigma_t, with the network's eps at (x_t, t).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from editkit.diffusion.plan import Move
from editkit.diffusion.samplers import Memory, Normal, OneCall, Predict, Sampler, make_sampler, posterior_variance
from editkit.diffusion.schedule import Grid, Level
from editkit.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


SHORT = 0.8
"""A move with alpha_t / alpha_s above this ratio is short, so that increments approximate derivatives."""


@dataclass(frozen=True)
class SDE(OneCall):
    """The reverse SDE in Euler-Maruyama steps: dx = (f x - g^2 score) dt + g dw, time running backward.

    f dt and g^2 dt are given by the increments of the schedule over the move, r - 1 and beta, with r = alpha_t /
    alpha_s and beta = sigma_t^2 - r^2 sigma_s^2: x_s = (2 - r) x_t + beta score + sqrt(beta) z (the paper's reverse
    diffusion sampler, appendix E). Near pure noise moves are not short, and f is unbounded. There the drift is that of
    ddpm, which has the same limit as r tends to 1. The last move returns the mean of the clean sample, x0, without
    noise.
    """

    name: ClassVar[str] = "sde"

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        pred = predict(x_t, t)
        if s.sigma == 0.0:
            return s.alpha * pred.x0, None
        beta, r = posterior_variance(t, s)[1], t.alpha / s.alpha
        if r < SHORT:
            drift = (r * s.sigma**2 / t.sigma**2) * x_t + (s.alpha * beta / t.sigma**2) * pred.x0
        else:
            drift = (2.0 - r) * x_t - (beta / t.sigma) * pred.eps
        return drift + math.sqrt(beta) * normal(t, s), None


@dataclass(frozen=True)
class PredictorCorrector:
    """Predictor-corrector: `repeats` Langevin steps at the current level before every move (Algorithms 4, 5).

    x <- x + e score + sqrt(2 e) z with e = 2 a (snr sigma_t)^2 and a = alpha_t^2 / alpha_s^2, at least 0.1, so that
    steps do not vanish at pure noise. The paper's e is 2 a (snr |z| / |score|)^2 with the actual norms, where |score|
    is |eps| / sigma_t and |eps| is about |z|: the same for many values. For few values a step size that depends on the
    state does not preserve the distribution. Along an axis of p_t with variance l, a correction reduces an error of the
    variance by the factor (1 - e / l)^2, and converges to l / (1 - e / 2l), a relative error of a snr^2 sigma_t^2 / l.
    The paper's snr of 0.16 is for a thousand moves; twenty moves, which are long, need about 0.5. `norms="measured"`
    uses the paper's norms, for each item, with a = 1 on VE schedules, as in diffusers' ScoreSdeVePipeline.
    """

    name: ClassVar[str] = "pc"
    grid: ClassVar[Grid] = Grid()
    predictor: str = "sde"
    corrector: str = "langevin"
    snr: float = 0.16
    repeats: float = 1
    norms: str = "expected"

    def __post_init__(self) -> None:
        if self.corrector != "langevin":
            raise UsageError(f"sampler pc: corrector is {self.corrector!r}; allowed: langevin")
        if not self.snr > 0.0:
            raise UsageError(f"sampler pc: snr is {self.snr}; a positive number is needed")
        if self.repeats < 0 or self.repeats != int(self.repeats):
            raise UsageError(f"sampler pc: repeats is {self.repeats}; allowed: 0, 1, 2 ...")
        if self.norms not in ("expected", "measured"):
            raise UsageError(f"sampler pc: norms is {self.norms!r}; allowed: expected, measured")
        if self.predictor.partition(":")[0] == self.name:
            raise UsageError("sampler pc: predictor is pc itself; name another sampler, such as ddpm")
        _ = self._rule

    def as_diffusers(self) -> PredictorCorrector:
        """Return the variant with measured norms."""
        return replace(self, norms="measured")

    @property
    def reversible(self) -> bool:
        return False

    @property
    def _rule(self) -> Sampler:
        return make_sampler(self.predictor)

    def calls(self, move: Move) -> int:
        return int(self.repeats) + self._rule.calls(move)

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        a = max((t.alpha / s.alpha) ** 2, 0.1)
        for _ in range(int(self.repeats)):
            eps, z = predict(x_t, t).eps, normal(t, t)
            e = 2.0 * a * (self.snr * t.sigma) ** 2 * (_norms(z, eps) if self.norms == "measured" else 1.0)
            x_t = x_t - (e / t.sigma) * eps + (2.0 * e) ** 0.5 * z
        return self._rule.step(x_t, t, s, predict, normal, memory)


def _norms(z: Tensor, eps: Tensor) -> Tensor:
    """Return (|z| / |eps|)^2 of each item, (batch, 1, ...)."""
    ratio: Tensor = z.flatten(1).square().sum(1) / eps.flatten(1).square().sum(1).clamp_min(1e-12)
    return ratio.reshape(-1, *(1,) * (z.ndim - 1))


@dataclass(frozen=True)
class Langevin:
    """Annealed Langevin dynamics (Song & Ermon 2019, arXiv:1907.05600, Algorithm 1), ended by the clean mean x0.

    At every level there are `repeats` steps x <- x + a/2 score + sqrt(a) z with a = step_size sigma_t^2. Between levels
    x / alpha is kept, as with the authors' VE schedules, or x itself if the move is not short. Where p_t has variance
    l, the stationary distribution has l / (1 - a / 4l), because of the finite step size. This error decreases with
    sigma. The remaining error is the lag behind p_t, of order 1 / (levels repeats step_size).
    """

    name: ClassVar[str] = "langevin"
    grid: ClassVar[Grid] = Grid()
    step_size: float = 0.2
    repeats: float = 10

    def __post_init__(self) -> None:
        if not 0.0 < self.step_size < 4.0:
            raise UsageError(f"sampler langevin: step_size is {self.step_size}; allowed: above 0, below 4")
        if self.repeats < 1 or self.repeats != int(self.repeats):
            raise UsageError(f"sampler langevin: repeats is {self.repeats}; allowed: 1, 2, 3 ...")

    @property
    def reversible(self) -> bool:
        return False

    def calls(self, move: Move) -> int:
        return int(self.repeats) + (move.s == 0)

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        a = self.step_size * t.sigma**2
        for _ in range(int(self.repeats)):
            x_t = x_t - (a / (2.0 * t.sigma)) * predict(x_t, t).eps + math.sqrt(a) * normal(t, t)
        if s.index == 0:
            return s.alpha * predict(x_t, t).x0, None
        return ((s.alpha / t.alpha) * x_t if t.alpha > SHORT * s.alpha else x_t), None
