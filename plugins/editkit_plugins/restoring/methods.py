"""Solvers of y = A(x) + sigma_y n with a diffusion model as prior, as hooks of one step.

All solvers see x_t = alpha_t x + sigma_t eps and the network's x0 = E[x | x_t]. They differ in the update:

- `ddnm` (Wang et al. 2022, arXiv:2212.00490): x0 <- x0 + A^+(y - A x0), the closest picture that explains y; with any
  sampler. With noise (DDNM+) the correction is limited by the noise of y, and the step adds less noise accordingly.
- `ddrm` (Kawar et al. 2022, arXiv:2201.11793): the same in the singular vectors of A, mixing y and x0 by their noise.
- `diffpir` (Zhu et al. 2023, arXiv:2305.08995): x0 <- argmin |y - A x|^2 / sigma_y^2 + lam (alpha_t^2 / sigma_t^2
  + 1 / s^2) |x - x0|^2, s the data's standard deviation.
- `dps` (Chung et al. 2023, arXiv:2209.14687): x_s <- x_s - 2 zeta d|y - A x0|/dx_t, with a backward pass through the
  network.
- `pigdm` (Song et al. 2023, "Pseudoinverse-guided diffusion models"): E = 1/2 r^T (r_t^2 A A^T + sigma_y^2)^-1 r with
  r = y - A x0 and r_t^2 = s^2 sigma_t^2 / (s^2 alpha_t^2 + sigma_t^2), s the data's standard deviation: exact for
  isotropic Gaussians. Given the data's covariance C, r_t^2 becomes sigma_t^2 C (alpha_t^2 C + sigma_t^2)^-1, exact for
  every Gaussian.

`ddnm` with noise, `ddrm` and `diffpir` have transitions x_t -> x_s of their own: samplers bound to the problem
(`Hooks.sampler`, `editkit_plugins.restoring.transitions`). Other plugins act on their x_s as on that of any sampler.
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
"""Warn if a result deviates from its observation by more than this, in levels of 255; noise is added to it."""


class SolvingHooks(Hooks["Solving"]):
    """Base class of the solvers: the problem, the initial state, and the figures reported at the end."""

    needs_linear: ClassVar[bool] = False
    says: ClassVar[str]
    """Name of the method in notices."""
    weight: ClassVar[float] = 1.0
    """Default weight of the prior, if `lam` is not given."""

    def __init__(self, plugin: Solving, run: Run, problem: Problem) -> None:
        from editkit_plugins.restoring.cropped import crop_to_fit

        super().__init__(plugin, run)
        problem.A.check(problem.y)
        self.problem, self.y, self.sigma = problem, problem.y, problem.sigma
        self.A = problem.A if run.inputs.picture is None else crop_to_fit(problem.A, *run.inputs.picture.shape[-2:])
        if self.needs_linear and not self.A.linear:
            raise ChainError(f"{plugin.name}: this method needs a linear degradation; use --method ddnm or dps")

    @property
    def lam(self) -> float:
        """Weight of the prior."""
        return self.weight if self.plugin.lam is None else self.plugin.lam

    def warn(self) -> str | None:
        """Return a notice for users who choose this method explicitly, or None."""
        return None

    def begin(self) -> Float[Tensor, "b c *size"] | None:
        """Return the noised A^+ y if the process starts below the top (Chung et al. 2022, arXiv:2112.05146)."""
        if self.plugin.share() == 1.0:
            return None
        level = self.run.levels[self.run.plan.start]
        return level.alpha * self.starting() + level.sigma * self.run.opening.noise

    def starting(self) -> Float[Tensor, "b c *size"]:
        """Return A^+ y in the shape of the state."""
        return self._guess().expand(self.run.shape).float()

    def _guess(self) -> Float[Tensor, "b c *size"]:
        """Return A^+ y in the model's space."""
        model, inputs = self.run.model, self.run.inputs
        guess = self.A.guess(self.y)
        return guess if space_of(model).is_pixels else model.encode(guess, inputs.stream)

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Project the decoded result onto a noiseless observation."""
        if self.sigma > 0.0:
            return image
        return self.problem.A.within(self.problem.A.project(image, self.y), self.y)

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Mapping[str, float]:
        figures = consistency(image, self.problem)
        if self.problem.A.linear and figures["consistency_levels"] > DOUBTFUL + 2.0 * 127.5 * self.sigma:
            self.run.notify(
                f"{self.plugin.name}: the result, degraded again, differs from the input by "
                f"{figures['consistency_levels']:.1f} levels, and may be worse than the input; compare them, and "
                f"{self.plugin.mend(self.run.model.info)}"
            )
        return figures


def consistency(image: Tensor, problem: Problem) -> dict[str, float]:
    """Measure the distance of the degraded result A(x) to the observation y, in 8-bit levels and relative to y.

    If A is not linear, measure the distance of x to the pictures that explain y, since rounding alone can change A(x).
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
    """Base class of the solvers that work on singular vectors.

    If all channels are degraded alike they are processed one at a time, to save memory for coefficients.
    """

    needs_linear = True

    def __init__(self, plugin: Solving, run: Run, problem: Problem) -> None:
        super().__init__(plugin, run, problem)
        self.operator = cast("Linear", self.A)

    def channelwise(self, function: Callable[..., Tensor], *pictures: Tensor) -> Tensor:
        """Apply `function` to pictures (batch, c, h, w), one channel at a time if the channels are independent."""
        from editkit_plugins.restoring.pieces import pieces

        return pieces(function, -3, 1 if self.operator.alike else pictures[0].shape[1], *pictures)

    def bar(self, y: Tensor) -> Tensor:
        """Return S^+ U^T y, the coefficients that explain y."""
        return self.operator.inverse * self.operator.observe(y)


def spread(run: Run, t: Level) -> float:
    """Return r_t^2 = s^2 sigma_t^2 / (s^2 alpha_t^2 + sigma_t^2), the variance of x | x_t; s: the data's deviation."""
    s2 = run.model.data_std**2
    return s2 * t.sigma**2 / (s2 * t.alpha**2 + t.sigma**2)


class Wiener(LinearHooks):
    """x0 <- x0 + V r^2 S (r^2 S^2 + lam sigma_y^2)^-1 (U^T y - S V^T x0), with pigdm's r^2 = `spread` and no gradient.

    The Wiener filter of the residual y - A x0 for x | x_t ~ N(x0, r^2 I). For isotropic Gaussians it is E[x | x_t, y],
    so with lam 1 it is exact in the limit of many steps, with any sampler. Without noise it is ddnm. For other data,
    x | x_t is narrower than r in most directions, so y should count less: `lam` above 1.
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
    """A point estimate under the prior, as in Graikos et al. 2022 (arXiv:2206.09012), with decreasing noise levels.

    x <- x + rate (E[x0 | x_t, y] - x) with x_t = alpha_t x + sigma_t eps: score distillation (`sds`), where the filter
    of the estimate (`Wiener`) takes the place of a second gradient for y. The paper differentiates
    |eps - eps_hat(x_t)|^2 through the network (`graikos`, `restoring.plug_and_play`, is its Algorithm 1). Here, as in
    DreamFusion, the network's derivative is omitted. For Gaussian data x converges to the mode of p(x | y).
    """

    says = "point"
    weight = 1.0

    def sampler(self) -> Sampler:
        return PointEstimate(self.plugin.rate, "even", self)

    def warn(self) -> str | None:
        return "point finds one likely picture and does not sample: details that y does not determine come out smooth"


@dataclass(frozen=True)
class PointEstimate(SDS):
    """`sds`, started from A^+ y."""

    method: Point | None = None

    def start(self, known: Tensor | None, noise: Callable[[], Tensor]) -> Tensor:
        assert self.method is not None
        return self.method.starting()


class Ddnm(SolvingHooks):
    """DDNM for noiseless observations: replace x0 by the closest picture with A(x0) = y."""

    says = "ddnm"

    def clean(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        return self.A.project(x0, self.y)

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Bring the result, which explains y since the last step, into range."""
        return self.problem.A.within(image, self.y)


class Conditioned(Ddnm):
    """Condition the model on the observation (`Solving.condition_on`); `project` also projects onto it, as in ddnm."""

    says = "conditioned"

    def __init__(self, plugin: Solving, run: Run, problem: Problem) -> None:
        super().__init__(plugin, run, problem)
        self.condition_on_y = plugin.condition_on(run, problem.y)
        self.projects = plugin.project and not works_on_latents(run)

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        return self.condition_on_y(cond)

    def clean(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        return self.A.project(x0, self.y) if self.projects else x0

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        if self.projects:
            return super().finish(image)
        return SolvingHooks.finish(self, image) if self.plugin.project else image


class Dps(SolvingHooks):
    """DPS, Algorithm 1 (Gaussian noise), as an energy: E = 2 zeta alpha_t / (alpha_s beta) |y - A x0|.

    The engine subtracts sigma_t^2 / alpha_t dE/dx_t from x0, which the ancestral step (ddpm) turns into
    alpha_s beta / alpha_t dE/dx_t in x_s: 2 zeta d|y - A x0|/dx_t = zeta_t d|y - A x0|^2/dx_t with
    zeta_t = zeta / |y - A x0|. The paper's zeta is tuned for one operator, size and number of steps (1000). Here `zeta`
    is how far all n steps together may move a value that disagrees with y: zeta_t |y - A x0| = (zeta / n) sqrt(m) /
    s^2, with m observed coefficients and the largest singular value s. (A^T r / |r| has values of about s / sqrt(m),
    and x moves 1 / s as far as A x.)

    For a degradation without a gradient, |y - A x0| is the distance of x0 to the pictures that explain y.
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
        t, s = (self.run.levels[index] for index in (step.move.t, step.move.s))  # the move's, wherever E is evaluated
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
    """PiGDM, with the likelihood N(y; A x0, r_t^2 A A^T + sigma_y^2 I)."""

    says = "pigdm"
    needs_linear = True

    def energy(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"] | None:
        A, r2 = cast("Linear", self.A), spread(self.run, step.t)
        residual = A.observe(self.y) - A.singular * A.analyse(x0)
        weight = (r2 * A.singular**2 + self.sigma**2).where(A.kept, A.singular.new_ones(())).rsqrt() * A.kept
        return 0.5 * A.render(weight * residual).square().flatten(1).sum(1)


class PiGdmGiven(SolvingHooks):
    """PiGDM with a known data covariance C (d, d), d small: N(y; A x0, A Cov[x | x_t] A^T + sigma_y^2 I)."""

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
    """Whether the model works on latents, not on pixels."""
    return run.inputs.picture is not None and run.shape[1:] != tuple(run.inputs.picture.shape[1:])
