"""Solvers with transitions x_t -> x_s of their own: samplers bound to a problem."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from editkit.diffusion.samplers import Memory, Normal, OneCall, Predict
from editkit.plugin import Sampler, Step
from editkit_plugins.restoring.methods import LinearHooks

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit.plugin import Level


PAPERS = 20
"""Number of steps in ddrm's paper."""

ETA = 0.85
"""eta in ddrm's paper."""

MANY = 100
"""Number of steps up to which ddrm uses the paper's eta for unobserved coefficients, unless `eta` is given."""


class Transition(LinearHooks):
    """Base class of solvers with their own transition x_t -> x_s, which is the sampler of the process."""

    def sampler(self) -> Sampler:
        return Walk(self)

    def transition(self, t: Level, s: Level, x_t: Tensor, x0: Tensor, z: Tensor) -> Tensor:
        """Return x_s from x_t, the estimate x0 and noise z, all (batch, channels, h, w)."""
        return self.channelwise(lambda *parts: self.moved(t, s, *parts), x_t, x0, self.y, z)

    @abstractmethod
    def moved(self, t: Level, s: Level, x_t: Tensor, x0: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Return x_s from x_t, the estimate x0, the observation y and noise z."""


@dataclass(frozen=True, eq=False)
class Walk(OneCall):
    """A solver's transition as a sampler, bound to its problem."""

    method: Transition

    @property
    def name(self) -> str:
        return self.method.says

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        x0 = predict(x_t, t).x0
        return self.method.transition(t, s, x_t, x0, normal(t, s)), None


class DdnmPlus(Transition):
    """DDNM+ (section 3.3 and appendix E): the ancestral step, with its noise reduced by the noise that y adds.

    x_s = a x0' + b x_t + noise, a = alpha_s beta / sigma_t^2, b = alpha_t sigma_s^2 / (alpha_s sigma_t^2),
    beta = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2, and v = beta sigma_s^2 / sigma_t^2 the step's variance. For each
    singular value s_i: x0'_i = x0_i + l_i (y_i / s_i - x0_i), l_i = min(1, sqrt(v) s_i / (a sigma_y)), and the noise
    that is added has variance v - (a l_i sigma_y / s_i)^2.
    """

    says = "ddnm for noisy observations"

    def warn(self) -> str | None:
        return (
            "ddnm treats the observation's noise as new noise at every step, so more steps make it worse; --method "
            "wiener avoids that"
        )

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


class Ddrm(Transition):
    """DDRM, equation 4 (x / alpha has noise sigma / alpha): with c = sqrt(1 - eta^2), rho = sigma / alpha at s and t,

    unobserved:          x0 + c rho_s (x_t - x0) / rho_t + eta rho_s z
    rho_s < sigma_y/s_i: x0 + c rho_s (y_i - x0) / (sigma_y / s_i) + eta rho_s z
    otherwise:           (1 - eta_b) x0 + eta_b y_i + sqrt(rho_s^2 - eta_b^2 sigma_y^2 / s_i^2) z

    x_s has the distribution N(x0, rho_s^2) for every eta (proposition 3.1 of the paper), so eta may vary between steps.
    A given eta is used in all steps, as in the paper; then more steps pull further towards y, and unobserved
    coefficients keep (1 + c) / 2 of their variance. Otherwise eta is the paper's 0.85 up to 20 steps. With more steps,
    c = rho_s s_i / sigma_y below the noise of y, so x moves by rho_s^2 grad log p(y | x0); and for unobserved
    coefficients eta^2 decreases as 1 / sqrt(steps) from 100 steps on: less noise in each step, but more in total. For
    isotropic data the mean, and the variance of unobserved coefficients, are exact in the limit. Observed coefficients
    have half of the posterior's variance, since a step forgets x_t.
    """

    says = "ddrm"

    @property
    def walks_papers(self) -> bool:
        """Whether eta is constant, as in the paper."""
        return self.plugin.eta is not None or self.run.plan.steps <= PAPERS

    def warn(self) -> str | None:
        if self.sigma == 0.0 or self.run.plan.steps <= PAPERS:
            return None
        if self.plugin.eta is None:
            return f"ddrm was designed for about {PAPERS} steps: with more steps its eta varies between them"
        return (
            f"ddrm was designed for about {PAPERS} steps: below the observation's noise every step pulls equally far, "
            f"so more steps make it worse; leave --eta out to avoid that, or use --method wiener"
        )

    def begin(self) -> Float[Tensor, "b c *size"] | None:
        """Draw the initial state of equation 4.

        Observed coefficients are from N(y_i, rho_T^2 - sigma_y^2 / s_i^2), the others are noise.
        """
        level = self.run.levels[self.run.plan.start]
        if self.plugin.share() < 1.0 or level.alpha < 1e-3:
            return super().begin()
        A, rho = self.operator, level.sigma / level.alpha
        spread = (rho**2 - (self.sigma * A.inverse) ** 2).clamp_min(0.0).sqrt()
        return self.channelwise(
            lambda noise, y: level.alpha * A.with_coefficients(rho * noise, self.bar(y) + spread * A.analyse(noise)),
            self.run.opening.noise, self.y,
        )  # fmt: skip

    def moved(self, t: Level, s: Level, x_t: Tensor, x0: Tensor, y: Tensor, z: Tensor) -> Tensor:
        A, eta_b = self.operator, self.plugin.eta_b
        eta = ETA if self.plugin.eta is None else self.plugin.eta
        rho_t, rho_s = t.sigma / max(t.alpha, 1e-6), s.sigma / s.alpha
        noise, own, bar = A.analyse(z), A.analyse(x0), self.bar(y)
        y_std = self.sigma * A.inverse
        spread = (rho_s**2 - (eta_b * y_std) ** 2).clamp_min(0.0).sqrt()
        seen = (1.0 - eta_b) * own + eta_b * bar + spread * noise
        if self.sigma > 0.0:
            c: float | Tensor = (1.0 - eta**2) ** 0.5
            renewed: float | Tensor = eta
            if not self.walks_papers:
                free_c = (rho_s / y_std.clamp_min(1e-12)).clamp_max(1.0)
                c, renewed = free_c, (1.0 - free_c**2).sqrt()
            quiet = own + c * rho_s * (bar - own) / y_std.clamp_min(1e-12) + renewed * rho_s * noise
            seen = quiet.where(rho_s < y_std, seen)
        del noise, own, bar  # each as large as the picture
        if not self.walks_papers:
            eta *= min(1.0, MANY / self.run.plan.steps) ** 0.25
        kept = (1.0 - eta**2) ** 0.5
        free = x0 + kept * rho_s / rho_t * (x_t / max(t.alpha, 1e-6) - x0) + eta * rho_s * z
        return s.alpha * A.with_coefficients(free, seen)


class DiffPir(Transition):
    """DiffPIR, Algorithm 1: the proximal estimate, and a step that renews the fraction zeta of the noise.

    x0' = argmin |y - A x|^2 + q |x - x0|^2, q = lam sigma_y^2 (alpha_t^2 / sigma_t^2 + 1 / s^2); in the singular
    vectors x0'_i = (s_i u_i + q x0_i) / (s_i^2 + q), u = U^T y.
    1 / s^2, with s the data's standard deviation, is not in the paper: without it q is 0 at pure noise, where x0' is
    A^+ y with all its noise. With it and lam 1 the estimate is E[x | x_t, y] of isotropic Gaussians.
    x_s = alpha_s x0' + sigma_s (sqrt(1 - zeta) eps' + sqrt(zeta) z), eps' = (x_t - alpha_t x0') / sigma_t.
    """

    says = "diffpir"
    weight = 7.0

    def clean(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """Return the proximal estimate."""
        A, t = self.operator, step.t
        precision = t.alpha**2 / t.sigma**2 + 1.0 / self.run.model.data_std**2
        q = max(self.lam * self.sigma**2 * precision, 1e-12)

        def proximal(x0: Tensor, y: Tensor) -> Tensor:
            z = (A.singular * A.observe(y) + q * A.analyse(x0)) / (A.singular**2 + q)
            return A.with_coefficients(x0, z)

        return self.channelwise(proximal, x0, self.y)

    def moved(self, t: Level, s: Level, x_t: Tensor, x0: Tensor, y: Tensor, z: Tensor) -> Tensor:
        renewed = self.plugin.renew
        eps = (x_t - t.alpha * x0) / t.sigma
        mixed: Tensor = (1.0 - renewed) ** 0.5 * eps + renewed**0.5 * z
        return s.alpha * x0 + s.sigma * mixed
