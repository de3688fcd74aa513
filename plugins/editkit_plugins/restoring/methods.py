"""Methods that solve y = A(x) + sigma_y n with a diffusion model as prior, as hooks of one step.

Every method sees x_t = alpha_t x + sigma_t eps and the network's x0 = E[x | x_t], and differs in what it makes of them:

- `ddnm` (Wang et al. 2022, arXiv:2212.00490): x0 <- x0 + A^+(y - A x0), the nearest picture that explains y; with any
  sampler. With noise (DDNM+) only as much of y is taken as its noise allows, and the step adds that much less.
- `ddrm` (Kawar et al. 2022, arXiv:2201.11793): the same in the singular vectors of A, y and x0 mixed by their noise.
- `diffpir` (Zhu et al. 2023, arXiv:2305.08995): x0 <- argmin |y - A x|^2 / sigma_y^2 + lam (alpha_t^2 / sigma_t^2
  + 1 / s^2) |x - x0|^2, s the data's standard deviation.
- `dps` (Chung et al. 2023, arXiv:2209.14687): x_s <- x_s - 2 zeta d|y - A x0|/dx_t, backward through the network.
- `pigdm` (Song et al. 2023, "Pseudoinverse-guided diffusion models"): E = 1/2 r^T (r_t^2 A A^T + sigma_y^2)^-1 r with
  r = y - A x0 and r_t^2 = s^2 sigma_t^2 / (s^2 alpha_t^2 + sigma_t^2), s the data's standard deviation: exact for
  isotropic Gaussians. Given the data's covariance C, r_t^2 becomes sigma_t^2 C (alpha_t^2 C + sigma_t^2)^-1, exact for
  every Gaussian.

`ddnm` with noise, `ddrm` and `diffpir` bring transitions x_t -> x_s of their own: samplers bound to the problem
(`Hooks.sampler`, `editkit_plugins.restoring.transitions`), whose x_s other plugins act on as on any other's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from editkit.diffusion.distilling import SDS
from editkit.diffusion.space import space_of
from editkit.plugin import ChainError, Hooks, Run, Sampler, Step
from editkit_plugins.restoring.problem import Problem

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit.plugin import Conditioning, Level
    from editkit_plugins.restoring.base import Solving
    from editkit_plugins.restoring.degradations import Linear


DOUBTFUL = 3.0
"""Levels of 255 by which a result may fail to explain its observation before that is told; noise comes on top."""


class SolvingHooks(Hooks["Solving"]):
    """What all methods share: the problem, where to begin, what is measured at the end."""

    needs_linear: ClassVar[bool] = False
    says: ClassVar[str]
    """How a user is told of it."""
    weight: ClassVar[float] = 1.0
    """Of the prior, unless `lam` is given."""

    def __init__(self, plugin: Solving, run: Run, problem: Problem) -> None:
        from editkit_plugins.restoring.cropped import fitted

        super().__init__(plugin, run)
        problem.A.check(problem.y)
        self.problem, self.y, self.sigma = problem, problem.y, problem.sigma
        self.A = problem.A if run.inputs.picture is None else fitted(problem.A, *run.inputs.picture.shape[-2:])
        if self.needs_linear and not self.A.linear:
            raise ChainError(f"{plugin.name}: this method needs a linear degradation; use --method ddnm or dps")

    @property
    def lam(self) -> float:
        """The weight of the prior."""
        return self.weight if self.plugin.lam is None else self.plugin.lam

    def warn(self) -> str | None:
        """What whoever asks for this method should know of it in this run."""
        return None

    def begin(self) -> Float[Tensor, "b c *size"] | None:
        """The noised guess A^+ y where the process starts below the top (Chung et al. 2022, arXiv:2112.05146)."""
        if self.plugin.share() == 1.0:
            return None
        level = self.run.levels[self.run.plan.start]
        return level.alpha * self.starting() + level.sigma * self.run.opening.noise

    def starting(self) -> Float[Tensor, "b c *size"]:
        """A^+ y, of the state's shape."""
        return self._guess().expand(self.run.shape).float()

    def _guess(self) -> Float[Tensor, "b c *size"]:
        """A^+ y in the model's space."""
        model, inputs = self.run.model, self.run.inputs
        guess = self.A.guess(self.y)
        return guess if space_of(model).is_pixels else model.encode(guess, inputs.stream)

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The nearest picture that explains an observation without noise, whatever a decoder made of the state."""
        if self.sigma > 0.0:
            return image
        return self.problem.A.within(self.problem.A.project(image, self.y), self.y)

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Mapping[str, float]:
        figures = consistency(image, self.problem)
        if self.problem.A.linear and figures["consistency_levels"] > DOUBTFUL + 2.0 * 127.5 * self.sigma:
            self.run.notify(
                f"{self.plugin.name}: the result does not explain the picture (by {figures['consistency_levels']:.1f} "
                "levels) and may be worse than what went in; compare them, and try another --method or a larger --sigma"
            )
        return figures


def consistency(image: Tensor, problem: Problem) -> dict[str, float]:
    """How far the degraded result A(x) is from the observation y, in 8-bit levels and relative to y.

    Where A is not linear, how far x is from the pictures that explain y: rounding alone tips A(x) over.
    """
    from editkit_plugins.restoring.degradations import Linear
    from editkit_plugins.restoring.pieces import pieces

    A, y = problem.A, problem.y
    if isinstance(A, Linear):
        alone = 1 if A.alike else image.shape[1]
        residual = pieces(lambda image, y: A.forward(image) - y, -3, alone, image, y)
    else:
        residual = image - A.project(image, y)
    relative = float(residual.norm() / problem.y.expand_as(residual).norm().clamp_min(1e-12))
    return {"consistency_levels": 127.5 * float(residual.square().mean().sqrt()), "consistency": relative}


class LinearHooks(SolvingHooks):
    """What the methods share that work on singular vectors.

    Where all channels are degraded alike they are moved one after the other, so that there are coefficients of one.
    """

    needs_linear = True

    def __init__(self, plugin: Solving, run: Run, problem: Problem) -> None:
        super().__init__(plugin, run, problem)
        self.operator = cast("Linear", self.A)

    def channelwise(self, function: Callable[..., Tensor], *pictures: Tensor) -> Tensor:
        from editkit_plugins.restoring.pieces import pieces

        return pieces(function, -3, 1 if self.operator.alike else pictures[0].shape[1], *pictures)

    def bar(self, y: Tensor) -> Tensor:
        """S^+ U^T y: the coefficients that explain y."""
        return self.operator.inverse * self.operator.observe(y)


def spread(run: Run, t: Level) -> float:
    """r_t^2 = s^2 sigma_t^2 / (s^2 alpha_t^2 + sigma_t^2): Var[x | x_t] of a value, s the data's deviation."""
    s2 = run.model.data_std**2
    return s2 * t.sigma**2 / (s2 * t.alpha**2 + t.sigma**2)


class Wiener(LinearHooks):
    """x0 <- x0 + V r^2 S (r^2 S^2 + lam sigma_y^2)^-1 (U^T y - S V^T x0), with pigdm's r^2 = `spread` and no gradient.

    Wiener's filter of the residual y - A x0, where x | x_t ~ N(x0, r^2 I): E[x | x_t, y] of isotropic Gaussians, so
    exact for these at lam 1 as the steps grow, with any sampler. Without noise it is ddnm. Of other data x | x_t is
    narrower than r in most directions, so that less of y is to be taken: `lam` above 1.
    """

    says = "wiener"
    weight = 2.0

    def clean(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        A, r2 = self.operator, spread(self.run, step.t)
        gain = r2 * A.singular / (r2 * A.singular**2 + self.lam * self.sigma**2).clamp_min(1e-12) * A.kept

        def filtered(x0: Tensor, y: Tensor) -> Tensor:
            own = A.analyse(x0)
            return A.with_coefficients(x0, own + gain * (A.observe(y) - A.singular * own))

        return self.channelwise(filtered, x0, self.y)


class Point(Wiener):
    """A point estimate under the prior, as Graikos et al. 2022 (arXiv:2206.09012) look for one, by levels that fall.

    x <- x + rate (E[x0 | x_t, y] - x), x_t = alpha_t x + sigma_t eps: score distillation (`sds`), held to y by the
    estimate's filter (`Wiener`), not by a second gradient. The paper differentiates |eps - eps_hat(x_t)|^2 through the
    network (`graikos`, `restoring.plug_and_play`, is its Algorithm 1); here, as in DreamFusion, the network's own
    derivative is left out, and a step is so long as the posterior asks. Of Gaussian data x ends at the mode of
    p(x | y).
    """

    says = "point"
    weight = 1.0

    def sampler(self) -> Sampler:
        return PointEstimate(self.plugin.rate, "even", self)

    def warn(self) -> str | None:
        return "point looks for one likely picture and does not sample: what y leaves open comes out smooth"


@dataclass(frozen=True)
class PointEstimate(SDS):
    """`sds` from the picture A^+ y."""

    method: Point | None = None

    def start(self, known: Tensor | None, noise: Callable[[], Tensor]) -> Tensor:
        assert self.method is not None
        return self.method.starting()


class Ddnm(SolvingHooks):
    """x0 <- the nearest picture with A(x0) = y; for a noiseless observation."""

    says = "ddnm"

    def clean(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        return self.A.project(x0, self.y)

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """It explains y since the last step; what is out of range is brought back."""
        return self.problem.A.within(image, self.y)


class Conditioned(Ddnm):
    """The model is told the observation (`Solving.told`); `project` holds it to that as ddnm does."""

    says = "conditioned"

    def __init__(self, plugin: Solving, run: Run, problem: Problem) -> None:
        super().__init__(plugin, run, problem)
        self.told = plugin.told(run, problem.y)
        self.projects = plugin.project and not works_on_latents(run)

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        return self.told(cond)

    def clean(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        return self.A.project(x0, self.y) if self.projects else x0

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        if self.projects:
            return super().finish(image)
        return SolvingHooks.finish(self, image) if self.plugin.project else image


class Dps(SolvingHooks):
    """DPS, Algorithm 1 (Gaussian noise), as an energy: E = 2 zeta alpha_t / (alpha_s beta) |y - A x0|.

    The engine subtracts sigma_t^2 / alpha_t dE/dx_t from x0, of which the ancestral step (ddpm) makes alpha_s beta /
    alpha_t dE/dx_t in x_s: 2 zeta d|y - A x0|/dx_t = zeta_t d|y - A x0|^2/dx_t with zeta_t = zeta / |y - A x0|.
    The paper's zeta is for one operator, size and number of steps (1000). Here `zeta` is how far all n steps together
    may move a value, as far as y is at odds with it: zeta_t |y - A x0| = (zeta / n) sqrt(m) / s^2, of m observed
    coefficients, s the largest singular value. (A^T r / |r| has values of about s / sqrt(m), and x has to go 1 / s as
    far as A x.)
    For a degradation without a gradient |y - A x0| is the distance of x0 to the pictures that explain y.
    """

    says = "dps"

    def __init__(self, plugin: Solving, run: Run, problem: Problem) -> None:
        super().__init__(plugin, run, problem)
        share, s = 1.0, 1.0
        if self.A.linear:
            operator = cast("Linear", self.A)
            share, s = float(operator.kept.float().mean()), float(operator.singular.max())
        m = share * self.y[0].numel()
        self.step_size = plugin.zeta / run.plan.steps * m**0.5 / s**2

    def energy(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"] | None:
        t, s = (self.run.levels[index] for index in (step.move.t, step.move.s))  # of the move, wherever it is asked
        beta = t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2
        if beta <= 0.0:
            return None
        image = step.decode(x0)
        if self.A.linear:
            residual = self.y - self.A.forward(image)
        else:
            residual = image - self.A.project(image.detach(), self.y)
        distance = (residual.square().flatten(1).sum(1) + 1e-12).sqrt()
        energy: Tensor = 2.0 * self.step_size * t.alpha / (s.alpha * beta) * distance
        return energy


class PiGdm(SolvingHooks):
    """PiGDM: the likelihood N(y; A x0, r_t^2 A A^T + sigma_y^2 I)."""

    says = "pigdm"
    needs_linear = True

    def energy(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"] | None:
        A, r2 = cast("Linear", self.A), spread(self.run, step.t)
        residual = A.observe(self.y) - A.singular * A.analyse(x0)
        weight = (r2 * A.singular**2 + self.sigma**2).where(A.kept, A.singular.new_ones(())).rsqrt() * A.kept
        return 0.5 * A.render(weight * residual).square().flatten(1).sum(1)


class PiGdmGiven(SolvingHooks):
    """PiGDM with the data's covariance C (d, d), d small: N(y; A x0, A Cov[x | x_t] A^T + sigma_y^2 I)."""

    says = "pigdm with a covariance"
    needs_linear = True

    def __init__(self, plugin: Solving, run: Run, problem: Problem) -> None:
        import torch

        super().__init__(plugin, run, problem)
        self.C = torch.as_tensor(problem.covariance, dtype=torch.float64)
        d = len(self.C)
        self.matrix = self.A.forward(torch.eye(d).reshape(d, *self.A.size)).flatten(1).T.double()

    def energy(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"] | None:
        import torch

        t, A, eye = step.t, self.matrix, torch.eye(len(self.C), dtype=torch.float64)
        posterior = t.sigma**2 * self.C @ torch.linalg.inv(t.alpha**2 * self.C + t.sigma**2 * eye)
        covariance = A @ posterior @ A.T + self.sigma**2 * torch.eye(len(A), dtype=torch.float64)
        precision = torch.linalg.pinv(covariance, hermitian=True, rtol=1e-9).float()
        r = (self.y - self.A.forward(x0)).flatten(1)
        return 0.5 * torch.einsum("bi,ij,bj->b", r, precision, r)


def works_on_latents(run: Run) -> bool:
    """True where the model's space is not pixels."""
    return run.inputs.picture is not None and run.shape[1:] != tuple(run.inputs.picture.shape[1:])
