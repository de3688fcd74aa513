"""Graikos et al. 2022 ("Diffusion models as plug-and-play priors", arXiv:2206.09012), Algorithm 1, as it stands.

A picture x descends, level by level from the noisiest, one draw of eps at each, along the gradient of

    F(x) = w |eps - eps_hat(alpha_t x + sigma_t eps)|^2 - log c(x, y),   -log c = |y - A x|^2 / (2 sigma_y^2),

the first part differentiated through the network; w is the prior's weight (`lam`, 1 in the paper). Score distillation
(`methods.Point`) leaves the network's derivative out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from editkit.diffusion.distilling import OfPictures
from editkit.diffusion.samplers import Memory, OneCall
from editkit.plugin import ChainError, Run, Sampler, Step
from editkit_plugins.restoring.methods import SolvingHooks

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit.diffusion.samplers import Normal, Predict
    from editkit.plugin import Level
    from editkit_plugins.restoring.base import Solving
    from editkit_plugins.restoring.degradations import Linear
    from editkit_plugins.restoring.problem import Problem


class PlugAndPlay(SolvingHooks):
    """x <- x - lambda dF/dx. The first part of F is this method's energy, the second has a gradient in closed form.

    The paper leaves lambda open. Here it is `rate` / L, L = w / (2 s^2) + s_max^2 / sigma_y^2: no step of Gaussian data
    of deviation s overshoots, s_max being A's largest singular value.
    """

    says = "graikos"
    needs_linear = True

    def __init__(self, plugin: Solving, run: Run, problem: Problem) -> None:
        super().__init__(plugin, run, problem)
        if self.sigma <= 0.0:
            raise ChainError(f"{plugin.name}: graikos weighs y by its noise; give --sigma, or use --method point")
        self.operator = cast("Linear", self.A)
        prior, constraint = self.lam / (2.0 * run.model.data_std**2), float(self.operator.singular.max()) ** 2
        self.step_size = plugin.rate / (prior + constraint / self.sigma**2)
        self.eps: Tensor | None = None
        """The draw of this step, which the energy is of."""
        self.unguided: Tensor | None = None
        """The estimate before anybody's energy moved it."""
        self.moved: Tensor | float = 0.0
        """What the energy of this method would move it by."""

    def warn(self) -> str | None:
        return "graikos leaves grain where y has little noise, which its steps are as short for; auto restores better"

    def sampler(self) -> Sampler:
        return Descent(self)

    def energy(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"] | None:
        """w |eps - eps_hat(x_t)|^2 of each item; eps belongs to the step and does not depend on x."""
        self.unguided = x0.detach()
        if self.eps is None:
            return None
        eps_hat = (step.x_t - step.alpha_t * x0) / step.sigma_t
        return self.lam * (self.eps - eps_hat).square().flatten(1).sum(1)

    def shift(self, step: Step, dx0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """Kept for the step; the estimate itself, which other plugins act on, stays the network's."""
        self.moved = dx0
        return dx0.new_zeros(dx0.shape)

    def towards_y(self, x: Tensor) -> Tensor:
        """d(-log c)/dx = A^T (A x - y) / sigma_y^2."""
        return self.operator.adjoint(self.operator.forward(x) - self.y) / self.sigma**2


@dataclass(frozen=True, eq=False)
class Descent(OneCall, OfPictures):
    """Lines 2 to 6 of Algorithm 1, bound to a method's problem.

    The engine moves an estimate by -(sigma_t^2 / alpha_t) dE/dx_t for an energy E, the method's or another plugin's.
    x_t = alpha_t x + sigma_t eps, so dE/dx = -(alpha_t / sigma_t)^2 times that.
    """

    method: PlugAndPlay

    @property
    def name(self) -> str:
        return self.method.says

    def start(self, known: Tensor | None, noise: Callable[[], Tensor]) -> Tensor:
        """Line 1: x ~ N(0, 1); from A^+ y where not all levels are walked."""
        method = self.method
        return method.run.opening.noise if method.plugin.share() == 1.0 else method.starting()

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """From the picture x (here `x_t`) to the next one."""
        x, method = x_t, self.method
        method.eps, method.moved, method.unguided = normal(t, s), 0.0, None
        x0 = predict(t.alpha * x + t.sigma * method.eps, t).x0
        gradient = method.towards_y(x)
        if method.unguided is not None:  # else out of the plugin's window, where the prior has no say
            gradient = gradient - (t.alpha / t.sigma) ** 2 * (method.moved + x0 - method.unguided)
        return x - method.step_size * gradient, None
