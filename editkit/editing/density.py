"""The likelihood of a sample under a model: by the flow's change of variables, and by the variational bound.

The probability flow of u = x / alpha over y = log r, r = sigma / alpha, is du/dy = r eps, so along it
d log p(u) / dy = -tr(d(r eps)/du), and log p(x) = log p(u at the top) + int tr(d(r eps)/du) dy (Song et al. 2021,
arXiv:2011.13456, eq. 39; Chen et al. 2018). The trace is exact, with one backward pass for each value, or Hutchinson's
estimate: the mean of v^T J v over random signs v, with one backward pass each (Grathwohl et al. 2019,
arXiv:1810.01367).

It is the density in the model's own space; for a latent model, that of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import Model
from editkit.diffusion.noise import Streams
from editkit.diffusion.samplers import posterior_variance
from editkit.diffusion.schedule import LOUD, Grid, Level
from editkit.errors import UsageError

MOST_EXACT = 256
"""Largest number of values for which the trace is exact by default."""

LEVELS = Grid(real=True)
"""Allows fractional times, between two trained ones."""


@dataclass(frozen=True, eq=False)
class Likelihood:
    """log p of each item in nats (batch,), its standard error over the probes (batch,), and the number of values d.

    The standard error is 0 for an exact trace.
    """

    nats: Tensor
    error: Tensor
    size: int

    @property
    def bits_per_dim(self) -> Tensor:
        """Return -log2 p for each value of pictures in [-1, 1] with 256 levels: (batch,)."""
        return -self.nats / (self.size * math.log(2.0)) + 7.0


def log_likelihood(
    model: Model,
    x: Tensor,
    *,
    steps: int = 200,
    probes: int | None = None,
    seed: int = 0,
    told: Conditioning | None = None,
) -> Likelihood:
    """Compute log p(x) by the fourth-order Runge-Kutta method over `steps` levels that are even in log-SNR.

    This takes 2 steps + 1 network calls, and `probes` (or the number of values of x) times as many backward passes.

    x is taken as a state at the least noisy level, sigma / alpha = 0.002 or that of the schedule. The prior at the top
    is N(m, (r^2 + s^2) I), where m is the model's estimate there, the mean of the data, and s the standard deviation of
    clean data.

    Args:
        model: any model; it is evaluated without plugins or clipping.
        x: (batch, channels, ...), in the model's space.
        steps: number of levels.
        probes: random sign vectors for each trace; None: exact up to 256 values, else 1.
        seed: seed of the probes.
        told: conditioning of the model.

    Raises:
        UsageError: there are fewer than 4 steps, or no probes.
    """
    if steps < 4 or (probes is not None and probes < 1):
        raise UsageError(f"log_likelihood needs 4 steps or more and 1 probe or more; got {steps} and {probes}")
    size = x[0].numel()
    exact = probes is None and size <= MOST_EXACT
    signs = None if exact else _random_signs(x, probes or 1, seed)
    flow = _Flow(model, told or Conditioning(), signs)
    levels = [v for v in model.schedule.levels(steps, "log-snr", LEVELS) if 0.0 < v.sigma <= 1.001 * LOUD * v.alpha]
    levels = levels[(len(levels) + 1) % 2 :]  # an odd number: each interval needs a midpoint
    u, traces = x.float(), torch.zeros(())
    for a, middle, b in zip(levels[:-2:2], levels[1::2], levels[2::2], strict=True):
        h = _log_ratio(b) - _log_ratio(a)
        k1, d1 = flow(u, a)
        k2, d2 = flow(u + 0.5 * h * k1, middle)
        k3, d3 = flow(u + 0.5 * h * k2, middle)
        k4, d4 = flow(u + h * k3, b)
        u, traces = u + h / 6.0 * (k1 + 2.0 * (k2 + k3) + k4), traces + h / 6.0 * (d1 + 2.0 * (d2 + d3) + d4)
    top = levels[-1]
    variance = (top.sigma / top.alpha) ** 2 + model.data_std**2
    with torch.no_grad():
        u = u - model(torch.zeros_like(u), top, (flow.conditioning,))[0].x0
    prior = -0.5 * (u.flatten(1).double().square().sum(1) / variance + size * math.log(2.0 * math.pi * variance))
    nats = prior[:, None] + traces  # (batch, probes)
    few = nats.shape[1] < 2
    error = torch.zeros(len(x)) if exact else torch.full((len(x),), math.nan) if few else _error(nats)
    return Likelihood(nats.mean(1), error, size)


def _error(nats: Tensor) -> Tensor:
    return nats.std(1) / math.sqrt(nats.shape[1])


def _random_signs(x: Tensor, probes: int, seed: int) -> Tensor:
    """Draw random signs, (probes, batch, channels, ...), the same for the whole flow."""
    return torch.stack([Streams((seed,)).stream(f"probe {k}").normal(x.shape).sign() for k in range(probes)]).to(
        x.device
    )


def _log_ratio(level: Level) -> float:
    return math.log(level.sigma / level.alpha)


class _Flow:
    """(u, level) -> du/dy, and the trace of its derivative in u, (batch, probes) float64."""

    def __init__(self, model: Model, conditioning: Conditioning, signs: Tensor | None) -> None:
        self.model, self.conditioning, self.signs = model, conditioning, signs

    def __call__(self, u: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            slope = (level.sigma / level.alpha) * self.model(level.alpha * u, level, (self.conditioning,))[0].eps
            flat = slope.flatten(1)
            if self.signs is None:
                rows = [self._back(flat[:, k].sum(), u).flatten(1)[:, k] for k in range(flat.shape[1])]
                trace = torch.stack(rows).double().sum(0)[:, None]
            else:
                rows = [(v * self._back((v * slope).sum(), u)).flatten(1).double().sum(1) for v in self.signs]
                trace = torch.stack(rows, 1)
        return slope.detach(), trace

    def _back(self, value: Tensor, u: Tensor) -> Tensor:
        return torch.autograd.grad(value, u, retain_graph=True)[0]


@dataclass(frozen=True, eq=False)
class Bound:
    """The bound -log p(x) <= prior + sum of terms + decoder, in nats.

    Args:
        prior: KL divergence at the top, (batch,).
        terms: one for each move, from the noisiest level on, (batch, steps - 1).
        decoder: -log p(x0 | x_1), (batch,).
        size: number of values in an item.
    """

    prior: Tensor
    terms: Tensor
    decoder: Tensor
    size: int

    @property
    def nats(self) -> Tensor:
        """Return the bound, (batch,)."""
        return self.prior + self.terms.sum(1) + self.decoder

    @property
    def bits_per_dim(self) -> Tensor:
        """Return the bound for each value of pictures in [-1, 1] with 256 levels, in bits: (batch,)."""
        return self.nats / (self.size * math.log(2.0)) + 7.0


def variational_bound(
    model: Model, x: Tensor, *, steps: int = 100, seed: int = 0, told: Conditioning | None = None
) -> Bound:
    """Compute the variational bound of Ho et al. 2020 (arXiv:2006.11239, eq. 5), with one draw of x_t for each term.

    With the posterior's variance v of a step, a term is (alpha_s beta / sigma_t^2)^2 |x - x0(x_t)|^2 / 2v. The decoder
    is N(x0(x_1), w I) with w = s^2 r^2 / (s^2 + r^2), the remaining variance of data with standard deviation s at the
    least noisy level. Arguments are those of `log_likelihood`.

    Raises:
        UsageError: there are fewer than 2 steps.
    """
    if steps < 2:
        raise UsageError(f"variational_bound needs 2 steps or more; got {steps}")
    levels, stream, size = (
        model.schedule.levels(steps, "log-snr", LEVELS),
        Streams((seed,)).stream("bound"),
        x[0].numel(),
    )
    conds: Sequence[Conditioning] = (told or Conditioning(),)

    def missed(t: Level) -> Tensor:
        """Return |x - x0(x_t)|^2 of each item, (batch,)."""
        x_t = t.alpha * x + t.sigma * stream.normal(x.shape).to(x.device)
        return (x - model(x_t, t, conds)[0].x0).flatten(1).double().square().sum(1)

    top, first, s2 = levels[-1], levels[1], model.data_std**2
    variance, mean = top.alpha**2 * s2 + top.sigma**2, (top.alpha * x).flatten(1).double().square().sum(1)
    ratio = top.sigma**2 / variance
    prior = 0.5 * (mean / variance + size * (ratio - 1.0 - math.log(ratio)))
    terms = []
    with torch.no_grad():
        for t, s in pairwise(levels[:0:-1]):
            small, beta = posterior_variance(t, s)
            terms.append((s.alpha * beta / t.sigma**2) ** 2 * missed(t) / (2.0 * small))
        r2 = (first.sigma / first.alpha) ** 2
        w = s2 * r2 / (s2 + r2)
        decoder = 0.5 * (missed(first) / w + size * math.log(2.0 * math.pi * w))
    return Bound(prior, torch.stack(terms, 1), decoder, size)
