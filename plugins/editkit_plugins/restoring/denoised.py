"""Restoration with a denoiser that knows only little noise (`ModelInfo.loudest`), as a prior between data steps.

Such a model cannot start from noise: the process begins with the observation, which counts as noisy as the degradation
makes it, and adds no noise.

- `hqs`, for linear degradations: half-quadratic splitting (DPIR, Zhang et al. 2021, arXiv:2008.13751, Algorithm 1),

      z_k = D(x_k, rho_k),   x_(k+1) = argmin |y - A x|^2 / sigma_y^2 + lam / rho_k^2 |x - z_k|^2

  with levels rho_k evenly spaced in log from `NOISIEST` down to the observation's noise or `QUIETEST`.
- JPEG: one step at the level of the quantisation noise, projected onto the intervals of the file's coefficients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from editkit.diffusion.schedule import level_at
from editkit.pictures.quantisation import quantisation_noise
from editkit.plugin import Level, Levels, Schedule, Step
from editkit_plugins.restoring.degradations import Quantise
from editkit_plugins.restoring.jpeg import Jpeg
from editkit_plugins.restoring.methods import Ddnm
from editkit_plugins.restoring.transitions import Transition

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit_plugins.restoring.degradations import Degradation

NOISIEST, QUIETEST = 49.0, 2.55
"""Greatest and least level of the iteration, in levels of 255, as in the paper."""

LEAST = 1.6
"""An observation's noise counts as at least this, in levels of 255, since less would amplify what the denoiser leaves.
The paper has 2.55; 0.8 is best for gaussian:2, 2 for motion:13 (three photographs of assets/pocket/heldout.txt)."""


def falling(schedule: Schedule, high: float, low: float, levels: Levels) -> Levels:
    """Return as many levels as `levels`: clean, and evenly spaced in log from `low` to `high`, in levels of 255."""
    n = len(levels) - 1
    ratios = [high * (low / high) ** ((n - k) / max(n - 1, 1)) / 127.5 for k in range(1, n + 1)]
    made = [levels[0], *(level_at(schedule, ratio, levels[-1]) for ratio in ratios)]
    return tuple(Level(v.t, v.alpha, v.sigma, k) for k, v in enumerate(made))


class Hqs(Transition):
    """The iteration above: x_s = alpha_s x_(k+1), without noise."""

    says = "hqs"
    weight = 0.23

    def begin(self) -> Float[Tensor, "b c *size"] | None:
        """Return the data step from y itself, at the noisiest level."""
        start = self.run.levels[self.run.plan.start]
        y = self.y.expand(self.run.shape).float() if self.y.shape[-2:] == self.run.shape[-2:] else self.starting()
        return start.alpha * self.proximal(start, y)

    def clean(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        return self.proximal(step.t, x0)

    def moved(self, t: Level, s: Level, x_t: Tensor, x0: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return s.alpha * x0

    def proximal(self, t: Level, x0: Tensor) -> Tensor:
        """Return argmin |y - A x|^2 + q |x - x0|^2, q = lam sigma_y^2 / rho_t^2: (s_i u_i + q x0_i) / (s_i^2 + q)."""
        A = self.operator
        q = self.lam * (max(self.sigma, LEAST / 127.5) * t.alpha / t.sigma) ** 2

        def nearest(x0: Tensor, y: Tensor) -> Tensor:
            own = A.analyse(x0)
            gain = A.singular / (A.singular**2 + q) * A.kept
            return A.with_coefficients(x0, own + gain * (A.observe(y) - A.singular * own))

        return self.channelwise(nearest, x0, self.y)


class Requantised(Ddnm):
    """One step from the file as it is, projected onto the intervals of its coefficients."""

    says = "one step from the file"

    def begin(self) -> Float[Tensor, "b c *size"] | None:
        return self.run.levels[self.run.plan.start].alpha * self.starting()


def quantised(A: Degradation) -> float:
    """Return the noise of a quantisation, in levels of 255: of the luma's coefficients, or of the pixels."""
    if isinstance(A, Jpeg):
        return quantisation_noise(A.steps[0].numpy())
    return cast("Quantise", A).step * 127.5 / 12**0.5
