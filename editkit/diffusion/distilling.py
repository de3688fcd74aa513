"""Score distillation as a sampler: the state is a clean picture at every level.

Poole et al. 2022 (DreamFusion, arXiv:2209.14988, eq. 3) move a picture x, whatever generates it, against
w(t) (eps_hat(x_t) - eps) with x_t = alpha_t x + sigma_t eps. With the network's estimate x0_hat of x_t,
eps_hat - eps = (alpha_t / sigma_t) (x - x0_hat), so a step moves x towards the guided estimate:

    x <- x + rate pull(t) (x0_hat - x),   pull(t) = w(t) alpha_t / sigma_t.

Guidance, masks and likelihoods act on x0_hat as with every sampler. Levels decrease as in the plan (annealing); the
paper draws them at random, as `editkit.distill` does. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from editkit.diffusion.samplers import Memory, Normal, OneCall, Predict
from editkit.diffusion.schedule import Grid, Level
from editkit.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


class PictureState:
    """Marks a sampler whose state is a clean picture at every level, in the model's space.

    The engine passes the clean level to `after` hooks, so that a known region is restored without noise. It starts from
    `start` instead of a plugin's noisy state, and refuses plans with noise moves.
    """

    def start(self, known: Tensor | None, noise: Callable[[], Tensor]) -> Tensor:
        """Return the edited picture, (batch, channels, ...); without one, noise of the data's standard deviation."""
        return noise() if known is None else known


WEIGHTS = ("paper", "even")


def gradient_weight(t: Level, weight: str) -> float:
    """Return w(t) alpha_t / sigma_t.

    `paper`: w = sigma^2 of the variance-preserving schedule with the same sigma / alpha, as in DreamFusion, so that all
    schedules pull equally. `even`: the result is 1, with w = sigma_t / alpha_t.
    """
    return t.alpha * t.sigma / (t.alpha**2 + t.sigma**2) if weight == "paper" else 1.0


@dataclass(frozen=True)
class SDS(OneCall, PictureState):
    """Score distillation on the picture itself: gradient descent with learning rate `rate`.

    It seeks a mode and does not sample: for Gaussian data the mean of its results is the mode, and their variance
    decreases with `rate`.
    """

    name: ClassVar[str] = "sds"
    grid: ClassVar[Grid] = Grid()
    rate: float = 0.5
    weight: str = "paper"

    def __post_init__(self) -> None:
        if not 0.0 < self.rate <= 2.0:
            raise UsageError(f"sampler sds: rate is {self.rate}; allowed: above 0, up to 2")
        if self.weight not in WEIGHTS:
            raise UsageError(f"sampler sds: weight is {self.weight!r}; allowed: {', '.join(WEIGHTS)}")
        if self.weight == "even" and self.rate > 1.0:
            raise UsageError(f"sampler sds: rate is {self.rate}; allowed with weight=even: above 0, up to 1")

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """Make one step from the picture x (here `x_t`), (batch, channels, ...)."""
        x = x_t
        x0 = predict(t.alpha * x + t.sigma * normal(t, s), t).x0
        return x + (self.rate * gradient_weight(t, self.weight)) * (x0 - x), None
