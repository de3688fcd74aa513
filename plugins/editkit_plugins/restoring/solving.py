"""Base classes of declarations that are solved by a method: `restore`, `upscale`, `colorize`, and `inverse`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from editkit.plugin import Hooks, Run
from editkit_plugins.restoring.base import Solving

if TYPE_CHECKING:
    from editkit_plugins.restoring.problem import Problem


class Solver(Solving):
    """A `Solving` with the methods of `editkit_plugins.restoring.methods`."""

    def hooks(self) -> type[Any]:
        from editkit_plugins.restoring.choosing import hooks_for

        return hooks_for(self.chosen(), self.noisy())

    def bind(self, run: Run) -> Hooks[Any]:
        from editkit_plugins.restoring.choosing import bind_solver

        return bind_solver(self, run)


class Inverse(Solver):
    """Any inverse problem, for `editkit.sample`: operator, observation and noise are given as objects.

    Args:
        degradation: a `Degradation`.
        y: the observation, (batch or 1, *degradation.observed), in the model's range.
        sigma: standard deviation of the observation's noise, in the model's range.
        covariance: covariance of the data, (d, d), for pigdm.
    """

    name: ClassVar[str] = "inverse"

    method: str = "auto"
    lam: float | None = 1.0  # exact for isotropic Gaussians
    degradation: Any
    y: Any
    sigma: float = 0.0
    covariance: Any = None

    def problem(self, run: Run) -> Problem:
        from editkit_plugins.restoring.problem import Problem

        return Problem(self.degradation, self.y, self.sigma, self.covariance)

    def noise(self) -> float:
        return 0.0  # `MUCH` was measured on photographs, with a network trained on them

    def noisy(self) -> bool:
        return self.sigma > 0.0 and bool(self.degradation.linear)

    def hooks(self) -> type[Any]:
        from editkit_plugins.restoring.choosing import hooks_for

        return hooks_for(self.chosen(), self.noisy(), covariance=self.covariance is not None)
