"""A recording as an autoregressive Gaussian, and what is known of its lost samples: exact prior, exact posterior.

x_n = sum_k a_k x_{n-k} + e_n with white e. A stretch of such a signal is N(0, C), C a Toeplitz matrix, so the engine's
`Gaussian` is its exact denoiser. The mean of what is lost given the rest is the interpolation of Janssen, Veldhuis and
Vries (1986, Adaptive interpolation of discrete-time signals that can be modeled as autoregressive processes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import toeplitz
from scipy.signal import lfilter, lfiltic
from torch import Tensor

from editkit import sample
from editkit.diffusion.gaussian import Gaussian
from editkit.diffusion.noise import Streams
from editkit.plugin import Hooks, Noise, Plugin, Run, Step, Stream

Signal = NDArray[np.float64]
"""(samples,)"""

FLOOR = 1e-8
"""White noise that is added to every fit, as a share of the power: -80 dB."""

AROUND = 800
"""Samples on each side of a loss from which its coefficients are fitted."""


@dataclass(frozen=True)
class Autoregression:
    """x_n = sum_k a[k] x_{n-1-k} + e_n; `r` (order + 1,): its autocovariances."""

    a: Signal
    r: Signal

    @property
    def order(self) -> int:
        return len(self.a)

    def covariance(self, n: int) -> Signal:
        """C (n, n) of n neighbouring samples."""
        poles = np.concatenate([[1.0], -self.a])
        state = lfiltic([1.0], poles, self.r[:0:-1])
        more, _ = lfilter([1.0], poles, np.zeros(max(n - self.order - 1, 0)), zi=state)
        return np.asarray(toeplitz(np.concatenate([self.r, more])[:n]))

    def error(self, x: Signal) -> Signal:
        """e_n, the part of every sample that those before it do not foretell."""
        return np.asarray(lfilter(np.concatenate([[1.0], -self.a]), [1.0], x))


def fit(x: Signal, unknown: NDArray[np.bool_], order: int, rounds: int = 4) -> Autoregression:
    """The autoregression of x by Burg's method.

    Of the stretches that are known, where these are long enough; else, as Janssen et al. do it, of what is known and
    interpolated in turn.
    """
    clean = [part for part, lost in _parts(x, unknown) if not lost and len(part) > 2 * order]
    if sum(len(part) for part in clean) >= 8 * order:
        return burg(clean, order)
    x = np.where(unknown, 0.0, x)
    found = burg([x], order)
    for _ in range(rounds):
        x = interpolate(x, unknown, found)
        found = burg([x], order)
    return found


def _parts(x: Signal, unknown: NDArray[np.bool_]) -> Iterator[tuple[Signal, bool]]:
    """x, cut where `unknown` changes."""
    cuts = [0, *(np.flatnonzero(np.diff(unknown)) + 1), len(x)]
    for start, stop in pairwise(cuts):
        yield x[start:stop], bool(unknown[start])


def burg(parts: Sequence[Signal], order: int) -> Autoregression:
    """Burg's method (1975) on stretches of one signal, each longer than `order`; scipy has none.

    Each coefficient of the lattice makes the errors of prediction, forward and backward, least; the poles cannot leave
    the unit circle, and the autocovariances follow by Levinson's recursion.
    """
    forward, backward = [part[1:] for part in parts], [part[:-1] for part in parts]
    r, a = np.zeros(order + 1), np.zeros(0)
    r[0] = sum(part @ part for part in parts) / sum(len(part) for part in parts)
    variance = r[0]
    for m in range(order):
        both = sum(f @ b for f, b in zip(forward, backward, strict=True))
        power = sum(f @ f + b @ b for f, b in zip(forward, backward, strict=True))
        k = 2.0 * both / max(power, 1e-300)
        r[m + 1] = k * variance + a @ r[m:0:-1]
        a = np.concatenate([a - k * a[::-1], [k]])
        variance *= 1.0 - k * k
        pairs = [(f - k * b, b - k * f) for f, b in zip(forward, backward, strict=True)]
        forward, backward = [f[1:] for f, _ in pairs], [b[:-1] for _, b in pairs]
    r[0] = r[0] * (1.0 + FLOOR) + 1e-12
    return Autoregression(a, r)


def interpolate(x: Signal, unknown: NDArray[np.bool_], ar: Autoregression) -> Signal:
    """x with its unknown samples at the least sum of e_n^2: Janssen et al., their eq. 15."""
    filter_ = np.concatenate([[1.0], -ar.a])
    b = np.correlate(filter_, filter_, "full")  # (2 order + 1,)
    at = np.flatnonzero(unknown)
    apart = np.abs(at[:, None] - at)
    matrix = np.where(apart <= ar.order, b[np.minimum(apart, ar.order) + ar.order], 0.0)
    known = np.where(unknown, 0.0, x)
    out = known.copy()
    out[at] = np.linalg.solve(matrix, -np.convolve(known, b, "same")[at])
    return out


class Given(Plugin):
    """y = A x + sigma n was observed: the estimate becomes E[x | x_t, y], exactly.

    Args:
        A: (m, n). y: (draws or 1, m). covariance: of x, (n, n). All float64. sigma: of the observation's noise.
    """

    name: ClassVar[str] = "given"
    order: ClassVar[int] = 50

    A: Any
    y: Any
    covariance: Any
    sigma: float = 0.0

    def hooks(self) -> type[Hooks[Any]]:
        return GivenHooks


class GivenHooks(Hooks[Given]):
    """x0 + S A^T (A S A^T + sigma^2 I)^-1 (y - A x0), with S = Cov[x | x_t] = V l s^2 / (a^2 l + s^2) V^T."""

    def __init__(self, plugin: Given, run: Run) -> None:
        super().__init__(plugin, run)
        self.values, self.vectors = torch.linalg.eigh(plugin.covariance)
        self.seen = plugin.A @ self.vectors  # A V

    def clean(self, step: Step, x0: Tensor) -> Tensor:
        t, values = step.t, self.values.clamp_min(0.0)
        S = values * t.sigma**2 / (t.alpha**2 * values + t.sigma**2)
        cross = (self.seen * S) @ self.vectors.T
        inner = (self.seen * S) @ self.seen.T
        inner.diagonal().add_(self.plugin.sigma**2 + 1e-12 * inner.diagonal().mean())
        missed = self.plugin.y - x0.flatten(1).double() @ self.plugin.A.T
        return x0 + (missed @ torch.linalg.solve(inner, cross)).to(x0.dtype).reshape(x0.shape)


class Beyond(Plugin):
    """Clipped samples lie beyond the limit: the estimate is held there.

    Args:
        side: (n,), +1 where the recording was clipped above, -1 below, 0 where it was not.
        limit: the level at which it was clipped, > 0.

    The posterior is a Gaussian cut off at the limit. Held estimates are a projection onto it, not its mean: near it.
    """

    name: ClassVar[str] = "beyond"
    order: ClassVar[int] = 100

    side: Any
    limit: float

    def hooks(self) -> type[Hooks[Any]]:
        return BeyondHooks


class BeyondHooks(Hooks[Beyond]):
    """x0 = side max(side x0, limit) where the recording was clipped."""

    def clean(self, step: Step, x0: Tensor) -> Tensor:
        side = self.plugin.side.to(x0.dtype)
        held = side * (side * x0).clamp_min(self.plugin.limit)
        return torch.where(side == 0.0, x0, held)


@dataclass(frozen=True)
class Filled:
    """`draws` (draws, samples) from the posterior; `mean` (samples,): its mean in closed form."""

    draws: Signal
    mean: Signal


def independent(seed: int) -> Noise:
    """Every draw has noise of its own."""
    return Streams((seed,))


def mirrored(seed: int) -> Noise:
    """Draws in mirrored pairs."""
    return Mirrored(Streams((seed,)))


def fill(
    x: Signal,
    unknown: NDArray[np.bool_],
    *,
    order: int = 64,
    draws: int = 1,
    seed: int = 0,
    steps: int = 50,
    clipped: float | None = None,
    noise: Callable[[int], Noise] = independent,
) -> Filled:
    """The unknown samples of x, drawn from what the recording's own autoregressions say of them.

    Losses are filled from left to right, each in a window with `order` known samples or more on both sides: all that
    the rest of the recording says of it.

    Args:
        clipped: the level at which the unknown samples were clipped; their signs are those of x. `mean` then knows
            nothing of it.
        noise: the random numbers of a window, made of a number of its own.

    Raises:
        ValueError: there is too little to fit `order` coefficients from.
    """
    known = int((~unknown).sum())
    if known < 4 * order:
        raise ValueError(f"{known} samples are known; at least {4 * order} are needed for {order} coefficients")
    many, mean = np.tile(x, (draws, 1)), x.copy()
    for start, stop, core in _windows(unknown, order):
        near = slice(max(start - AROUND, 0), stop + AROUND)
        ar = fit(x[near], unknown[near], order)
        lost = unknown[start:stop].copy()
        lost[: int(np.argmax(np.arange(start, stop) >= core[0]))] = False  # filled by the window before
        scale = float(np.sqrt(ar.r[0]))
        covariance = torch.from_numpy(ar.covariance(stop - start) / scale**2)
        made = slice(core[0], core[1])
        inside = slice(core[0] - start, core[1] - start)
        seen = torch.eye(stop - start, dtype=torch.float64)[torch.from_numpy(~lost)]
        mean[made] = _mean(covariance, seen, mean[start:stop][~lost] / scale)[inside] * scale
        plugins: list[Plugin] = [
            Given(A=seen, y=torch.from_numpy(many[:, start:stop][:, ~lost] / scale), covariance=covariance)
        ]
        if clipped is not None:
            side = np.where(lost, np.sign(x[start:stop]), 0.0)
            plugins.append(Beyond(side=torch.from_numpy(side), limit=clipped / scale))
        drawn = drawn_from(covariance, plugins, draws, noise(seed * 1_000_003 + start), steps)
        many[:, made] = drawn[:, inside] * scale
    many[:, ~unknown] = x[~unknown]
    mean[~unknown] = x[~unknown]
    return Filled(many, mean)


@dataclass(frozen=True)
class Mirrored:
    """Noise in pairs z, -z: each draw is one as good as any, and on a Gaussian their mean is free of chance."""

    plain: Noise

    def stream(self, owner: str) -> Stream:
        return _MirroredStream(self.plain.stream(owner))


@dataclass(frozen=True)
class _MirroredStream:
    plain: Stream
    generators: tuple[Any, ...] = ()

    def normal(self, shape: Sequence[int]) -> Tensor:
        half = self.plain.normal(((shape[0] + 1) // 2, *shape[1:]))
        return torch.cat([half, -half])[: shape[0]]


def drawn_from(covariance: Tensor, plugins: list[Plugin], draws: int, noise: Noise, steps: int) -> Signal:
    """(draws, n) of N(0, covariance) under `plugins`, by the engine in one dimension."""
    n = len(covariance)
    prior = Gaussian(torch.zeros(1, n), covariance)
    x = sample(prior, plugins, shape=(draws, 1, n), sampler="dpm++2m", spacing="log-snr", steps=steps, noise=noise)
    return x[:, 0].double().numpy()


def _mean(covariance: Tensor, A: Tensor, y: Signal) -> Signal:
    """E[x | A x = y] of N(0, covariance)."""
    cross = covariance @ A.T
    return (cross @ torch.linalg.solve(A @ cross, torch.from_numpy(y))).numpy()


def _windows(unknown: NDArray[np.bool_], order: int) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """(start, stop, (first, last + 1 of what it fills)): windows of at most 3 orders and 320 samples."""
    at, n, longest = np.flatnonzero(unknown), len(unknown), 3 * order + 320
    k = 0
    while k < len(at):
        first = int(at[k])
        start = max(first - order, 0)
        ends = at[k:][np.diff(at[k:], append=n + 2 * order) > order]
        fits = ends[ends + 1 + order - start <= longest]
        last = int(fits[-1]) if len(fits) else min(start + longest - order, n) - 1
        last = int(at[k:][at[k:] <= last][-1])
        yield start, min(last + 1 + order, n) if len(fits) else min(start + longest, n), (first, last + 1)
        k += int((at[k:] <= last).sum())
