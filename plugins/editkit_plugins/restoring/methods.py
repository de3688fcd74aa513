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
(`Hooks.sampler`), whose x_s other plugins act on as on any other's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from editkit.diffusion.samplers import Memory, Normal, OneCall, Predict
from editkit.diffusion.space import space_of
from editkit.plugin import ChainError, Hooks, Run, Sampler, Step
from editkit_plugins.restoring.problem import Problem

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit.plugin import Conditioning, Level
    from editkit_plugins.restoring.base import Solving
    from editkit_plugins.restoring.degradations import Linear


class SolvingHooks(Hooks["Solving"]):
    """What all methods share: the problem, where to begin, what is measured at the end."""

    needs_linear: ClassVar[bool] = False
    says: ClassVar[str]
    """How a user is told of it."""

    def __init__(self, plugin: Solving, run: Run, problem: Problem) -> None:
        from editkit_plugins.restoring.cropped import fitted

        super().__init__(plugin, run)
        problem.A.check(problem.y)
        self.problem, self.y, self.sigma = problem, problem.y, problem.sigma
        self.A = problem.A if run.inputs.picture is None else fitted(problem.A, *run.inputs.picture.shape[-2:])
        if self.needs_linear and not self.A.linear:
            raise ChainError(f"{plugin.name}: this method needs a linear degradation; use --method ddnm or dps")

    def begin(self) -> Float[Tensor, "b c *size"] | None:
        """The noised guess A^+ y where the process starts below the top (Chung et al. 2022, arXiv:2112.05146)."""
        if self.plugin.share() == 1.0:
            return None
        level = self.run.levels[self.run.plan.start]
        return level.alpha * self._guess().expand(self.run.shape) + level.sigma * self.run.opening.noise

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
        return consistency(image, self.problem)


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


class _Transition(SolvingHooks):
    """A method with its own x_t -> x_s: the sampler of its process.

    Where all channels are degraded alike they are moved one after the other, so that there are coefficients of one.
    """

    needs_linear = True

    def __init__(self, plugin: Solving, run: Run, problem: Problem) -> None:
        super().__init__(plugin, run, problem)
        self.operator = cast("Linear", self.A)

    def sampler(self) -> Sampler:
        return Walk(self)

    def transition(self, t: Level, s: Level, x_t: Tensor, x0: Tensor, z: Tensor) -> Tensor:
        """x_s from x_t, the estimate x0 and noise z, all (batch, channels, h, w)."""
        return self._channelwise(lambda *parts: self.moved(t, s, *parts), x_t, x0, self.y, z)

    def _channelwise(self, function: Callable[..., Tensor], *pictures: Tensor) -> Tensor:
        from editkit_plugins.restoring.pieces import pieces

        return pieces(function, -3, 1 if self.operator.alike else pictures[0].shape[1], *pictures)

    def bar(self, y: Tensor) -> Tensor:
        """S^+ U^T y: the coefficients that explain y."""
        return self.operator.inverse * self.operator.observe(y)

    @abstractmethod
    def moved(self, t: Level, s: Level, x_t: Tensor, x0: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """x_s from x_t, the estimate x0, the observation, and noise z."""


@dataclass(frozen=True, eq=False)
class Walk(OneCall):
    """A method's transition as a sampler, bound to its problem."""

    method: _Transition

    @property
    def name(self) -> str:
        return self.method.says

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        x0 = predict(x_t, t).x0
        return self.method.transition(t, s, x_t, x0, normal(t, s)), None


class DdnmPlus(_Transition):
    """DDNM+ (section 3.3 and appendix E): the ancestral step, with its noise lowered by what y brings along.

    x_s = a x0' + b x_t + noise, a = alpha_s beta / sigma_t^2, b = alpha_t sigma_s^2 / (alpha_s sigma_t^2),
    beta = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2, and v = beta sigma_s^2 / sigma_t^2 the step's variance. For each
    singular value s_i: x0'_i = x0_i + l_i (y_i / s_i - x0_i), l_i = min(1, sqrt(v) s_i / (a sigma_y)), and the noise
    that is added has variance v - (a l_i sigma_y / s_i)^2.
    """

    says = "ddnm for noisy observations"

    def moved(self, t: Level, s: Level, x_t: Tensor, x0: Tensor, y: Tensor, z: Tensor) -> Tensor:
        beta = max(t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2, 0.0)
        a, b = s.alpha * beta / t.sigma**2, t.alpha * s.sigma**2 / (s.alpha * t.sigma**2)
        v = beta * s.sigma**2 / t.sigma**2
        A = self.operator
        y_std = (a * self.sigma * A.inverse).clamp_min(1e-12)
        share = (v**0.5 / y_std).clamp_max(1.0)
        left = (v - (share * y_std) ** 2).clamp_min(0.0).sqrt()
        own = A.analyse(x0)
        x0 = A.with_coefficients(x0, own + share * (self.bar(y) - own))
        noise = A.with_coefficients(v**0.5 * z, left * A.analyse(z))
        return a * x0 + b * x_t + noise


class Ddrm(_Transition):
    """DDRM, equation 4 (x / alpha has noise sigma / alpha): with c = sqrt(1 - eta^2), rho = sigma / alpha at s and t,

    unseen:             x0 + c rho_s (x_t - x0) / rho_t + eta rho_s z
    rho_s < sigma_y/s_i: x0 + c rho_s (y_i - x0) / (sigma_y / s_i) + eta rho_s z
    otherwise:          (1 - eta_b) x0 + eta_b y_i + sqrt(rho_s^2 - eta_b^2 sigma_y^2 / s_i^2) z
    """

    says = "ddrm"

    def begin(self) -> Float[Tensor, "b c *size"] | None:
        """Equation 4's start: observed coefficients from N(y_i, rho_T^2 - sigma_y^2 / s_i^2), the others from noise."""
        level = self.run.levels[self.run.plan.start]
        if self.plugin.share() < 1.0 or level.alpha < 1e-3:
            return super().begin()
        A, rho = self.operator, level.sigma / level.alpha
        spread = (rho**2 - (self.sigma * A.inverse) ** 2).clamp_min(0.0).sqrt()
        return self._channelwise(
            lambda noise, y: level.alpha * A.with_coefficients(rho * noise, self.bar(y) + spread * A.analyse(noise)),
            self.run.opening.noise, self.y,
        )  # fmt: skip

    def moved(self, t: Level, s: Level, x_t: Tensor, x0: Tensor, y: Tensor, z: Tensor) -> Tensor:
        A, eta, eta_b = self.operator, self.plugin.eta, self.plugin.eta_b
        c = (1.0 - eta**2) ** 0.5
        rho_t, rho_s = t.sigma / max(t.alpha, 1e-6), s.sigma / s.alpha
        noise, own, bar = A.analyse(z), A.analyse(x0), self.bar(y)
        y_std = self.sigma * A.inverse
        spread = (rho_s**2 - (eta_b * y_std) ** 2).clamp_min(0.0).sqrt()
        seen = (1.0 - eta_b) * own + eta_b * bar + spread * noise
        if self.sigma > 0.0:
            quiet = own + c * rho_s * (bar - own) / y_std.clamp_min(1e-12) + eta * rho_s * noise
            seen = quiet.where(rho_s < y_std, seen)
        del noise, own, bar  # each as large as the picture
        free = x0 + c * rho_s / rho_t * (x_t / max(t.alpha, 1e-6) - x0) + eta * rho_s * z
        return s.alpha * A.with_coefficients(free, seen)


class DiffPir(_Transition):
    """DiffPIR, Algorithm 1: the proximal estimate, and a step that renews the share zeta of the noise.

    x0' = argmin |y - A x|^2 + q |x - x0|^2, q = lam sigma_y^2 (alpha_t^2 / sigma_t^2 + 1 / s^2); in the singular
    vectors x0'_i = (s_i u_i + q x0_i) / (s_i^2 + q), u = U^T y.
    1 / s^2, with s the data's standard deviation, is not in the paper: without it q is 0 at pure noise, where x0' is
    A^+ y with all its noise. With it and lam 1 the estimate is E[x | x_t, y] of isotropic Gaussians.
    x_s = alpha_s x0' + sigma_s (sqrt(1 - zeta) eps' + sqrt(zeta) z), eps' = (x_t - alpha_t x0') / sigma_t.
    """

    says = "diffpir"

    def clean(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """The proximal estimate."""
        A, t = self.operator, step.t
        precision = t.alpha**2 / t.sigma**2 + 1.0 / self.run.model.data_std**2
        q = max(self.plugin.lam * self.sigma**2 * precision, 1e-12)

        def proximal(x0: Tensor, y: Tensor) -> Tensor:
            z = (A.singular * A.observe(y) + q * A.analyse(x0)) / (A.singular**2 + q)
            return A.with_coefficients(x0, z)

        return self._channelwise(proximal, x0, self.y)

    def moved(self, t: Level, s: Level, x_t: Tensor, x0: Tensor, y: Tensor, z: Tensor) -> Tensor:
        renewed = self.plugin.renew
        eps = (x_t - t.alpha * x0) / t.sigma
        mixed: Tensor = (1.0 - renewed) ** 0.5 * eps + renewed**0.5 * z
        return s.alpha * x0 + s.sigma * mixed


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
        A, t, s2 = cast("Linear", self.A), step.t, self.run.model.data_std**2
        r2 = s2 * t.sigma**2 / (s2 * t.alpha**2 + t.sigma**2)
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


METHODS: Mapping[str, type[SolvingHooks]] = {
    "conditioned": Conditioned, "ddnm": Ddnm, "ddrm": Ddrm, "diffpir": DiffPir, "dps": Dps, "pigdm": PiGdm,
}  # fmt: skip


def hooks_for(method: str, noisy: bool, covariance: bool = False) -> type[SolvingHooks]:
    """The hooks of a method: ddnm has another form with noise, pigdm another one given a covariance."""
    if method == "ddnm" and noisy:
        return DdnmPlus
    if method == "pigdm" and covariance:
        return PiGdmGiven
    return METHODS[method]


def works_on_latents(run: Run) -> bool:
    """True where the model's space is not pixels."""
    return run.inputs.picture is not None and run.shape[1:] != tuple(run.inputs.picture.shape[1:])


def bound(plugin: Solving, run: Run) -> SolvingHooks:
    """The hooks of a run; what `auto` picked is said.

    Raises:
        ChainError: the method works in pixels and the model does not.
    """
    problem = plugin.problem(run)
    kind: type[SolvingHooks] = plugin.hooks()
    able = plugin.offers <= run.model.info.takes
    if issubclass(kind, Conditioned) and not able:
        if plugin.method != "auto":
            takes, wanted = ", ".join(sorted(run.model.info.takes)) or "nothing", " and ".join(sorted(plugin.offers))
            raise ChainError(f"{plugin.name}: {run.model.info.name} takes {takes}, not {wanted}; use --method auto")
        kind = hooks_for(plugin.solved(), plugin.noisy())
    latent = works_on_latents(run)
    if latent and plugin.method == "auto" and not issubclass(kind, Conditioned):
        kind = Dps
    elif latent and not issubclass(kind, Dps | Conditioned):
        raise ChainError(
            f"{plugin.name}: {plugin.method} works on pixels, {run.model.info.name} ({run.model.info.family}) on "
            "latents; use --method dps"
        )
    if plugin.method == "auto":
        run.notify(f"{plugin.name}: method {kind.says}")
    return kind(plugin, run, problem)
