"""Score distillation as a sampler: its state is a clean picture at every level.

Poole et al. 2022 (DreamFusion, arXiv:2209.14988, eq. 3) move a picture x, whatever generates it, against
w(t) (eps_hat(x_t) - eps) with x_t = alpha_t x + sigma_t eps. What the network says of x_t, x0_hat, gives
eps_hat - eps = (alpha_t / sigma_t) (x - x0_hat), so that a step moves x towards the guided estimate:

    x <- x + rate pull(t) (x0_hat - x),   pull(t) = w(t) alpha_t / sigma_t.

Guidance, masks and likelihoods act on x0_hat as on every sampler's. Levels fall as the plan lays them (annealed), where
the paper draws them at random, as `editkit.distill` does. No torch at import.
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


class OfPictures:
    """Marks a rule whose state is a clean picture at every level, in the model's space.

    The engine gives `after` hooks the clean level with it, so that a known region comes back without noise. It starts
    from `start` instead of from a plugin's noisy state, and refuses plans with moves that add noise.
    """

    def start(self, known: Tensor | None, noise: Callable[[], Tensor]) -> Tensor:
        """The picture that is edited, (batch, channels, ...); without one, noise of the data's deviation."""
        return noise() if known is None else known


WEIGHTS = ("paper", "even")


def pull(t: Level, weight: str) -> float:
    """w(t) alpha_t / sigma_t. `paper`: w = sigma^2 of the variance-preserving table with the same sigma / alpha, as in
    DreamFusion, so that every table pulls alike; `even`: 1, w = sigma_t / alpha_t.
    """
    return t.alpha * t.sigma / (t.alpha**2 + t.sigma**2) if weight == "paper" else 1.0


@dataclass(frozen=True)
class SDS(OneCall, OfPictures):
    """Score distillation on the picture itself: gradient descent with learning rate `rate`.

    It looks for a mode and does not sample: of Gaussian data the mean of its results is the mode, and their variance
    falls with `rate`.
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
        """From the picture x (here `x_t`) to the next one."""
        x = x_t
        x0 = predict(t.alpha * x + t.sigma * normal(t, s), t).x0
        return x + (self.rate * pull(t, self.weight)) * (x0 - x), None
