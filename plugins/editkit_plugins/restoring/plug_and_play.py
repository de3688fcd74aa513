"""Algorithm 1 of Graikos et al. 2022 ("Diffusion models as plug-and-play priors", arXiv:2206.09012).

A picture x descends along the gradient of

    F(x) = w |eps - eps_hat(alpha_t x + sigma_t eps)|^2 - log c(x, y),   -log c = |y - A x|^2 / (2 sigma_y^2),

from the noisiest level down, with one draw of eps at each level. The first term is differentiated through the network;
w is the weight of the prior (`lam`, 1 in the paper). Score distillation (`methods.Point`) omits the network's
derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from editkit.diffusion.distilling import PictureState
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
    """Gradient descent x <- x - lambda dF/dx. The first term of F is the energy, the second has a closed-form gradient.

    The paper leaves lambda open. Here it is `rate` / L with L = w / (2 s^2) + s_max^2 / sigma_y^2, where s_max is A's
    largest singular value: for Gaussian data of standard deviation s no step overshoots.
    """

    says = "graikos"
    needs_linear = True

    def __init__(self, plugin: Solving, run: Run, problem: Problem) -> None:
        super().__init__(plugin, run, problem)
        if self.sigma <= 0.0:
            raise ChainError(f"{plugin.name}: graikos needs the noise of y; give --sigma, or use --method point")
        self.operator = cast("Linear", self.A)
        prior, constraint = self.lam / (2.0 * run.model.data_std**2), float(self.operator.singular.max()) ** 2
        self.step_size = plugin.rate / (prior + constraint / self.sigma**2)
        self.eps: Tensor | None = None
        """The noise drawn for this step, on which the energy depends."""
        self.unguided: Tensor | None = None
        """The estimate before any energy moved it."""
        self.moved: Tensor | float = 0.0
        """The change of the estimate by this method's energy."""

    def warn(self) -> str | None:
        return "graikos leaves grain where y has little noise, because its steps are that short; auto restores better"

    def sampler(self) -> Sampler:
        return Descent(self)

    def energy(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"] | None:
        """Return w |eps - eps_hat(x_t)|^2, (batch,); eps is fixed for the step and does not depend on x."""
        self.unguided = x0.detach()
        if self.eps is None:
            return None
        eps_hat = (step.x_t - step.alpha_t * x0) / step.sigma_t
        return self.lam * (self.eps - eps_hat).square().flatten(1).sum(1)

    def shift(self, step: Step, dx0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """Store the change for `Descent.step`; the estimate that other plugins see stays the network's."""
        self.moved = dx0
        return dx0.new_zeros(dx0.shape)

    def towards_y(self, x: Tensor) -> Tensor:
        """Return d(-log c)/dx = A^T (A x - y) / sigma_y^2, (batch, c, h, w)."""
        return self.operator.adjoint(self.operator.forward(x) - self.y) / self.sigma**2


@dataclass(frozen=True, eq=False)
class Descent(OneCall, PictureState):
    """Lines 2 to 6 of Algorithm 1, as a sampler bound to a problem.

    For an energy E, of this method or of another plugin, the engine moves the estimate by -(sigma_t^2 / alpha_t)
    dE/dx_t. Since x_t = alpha_t x + sigma_t eps, dE/dx is -(alpha_t / sigma_t)^2 times that.
    """

    method: PlugAndPlay

    @property
    def name(self) -> str:
        return self.method.says

    def start(self, known: Tensor | None, noise: Callable[[], Tensor]) -> Tensor:
        """Line 1: x ~ N(0, 1); or A^+ y if only part of the levels is run."""
        method = self.method
        return method.run.opening.noise if method.plugin.share() == 1.0 else method.starting()

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """Make one descent step from the picture x (here `x_t`), (batch, c, h, w)."""
        x, method = x_t, self.method
        method.eps, method.moved, method.unguided = normal(t, s), 0.0, None
        x0 = predict(t.alpha * x + t.sigma * method.eps, t).x0
        gradient = method.towards_y(x)
        if method.unguided is not None:  # else outside the plugin's window, where the prior does not act
            gradient = gradient - (t.alpha / t.sigma) ** 2 * (method.moved + x0 - method.unguided)
        return x - method.step_size * gradient, None
