"""Small inverse problems whose posteriors are known, and exact moments of samplers that are affine in their noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from editkit import sample
from editkit.models import Gaussian
from editkit_plugins.restoring import kernels
from editkit_plugins.restoring.degradations import Blur, Degradation, Grey, Linear, Mask, average, bicubic
from editkit_plugins.restoring.solving import Inverse

SIZE = (3, 4, 4)
"""A picture of 48 values."""
D = 48
STD = 0.5


CUT = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
"""A line of a kernel that takes the finest stripes away altogether."""


def operators(size: tuple[int, int, int] = SIZE) -> dict[str, Linear]:
    """One of each linear degradation."""
    _, h, w = size
    seen = torch.rand(1, h, w, generator=torch.Generator().manual_seed(5)) > 0.4
    return {
        "mask": Mask(seen, size),
        "average": average(size, 2),
        "bicubic": bicubic(size, h // 2, w // 2),
        "grey": Grey(size),
        "gaussian blur": Blur(kernels.gaussian(0.33), size),
        "motion blur": Blur(kernels.motion(2.0, 30.0), size),
        "any kernel": Blur(torch.outer(CUT, CUT), size),
    }


def mean() -> Tensor:
    return torch.linspace(-0.3, 0.4, D).reshape(SIZE)


def correlated() -> Tensor:
    """A covariance (48, 48) of standard deviation about STD: neighbours and channels are alike, as in pictures."""
    c, y, x = torch.meshgrid(*(torch.arange(float(n)) for n in SIZE), indexing="ij")
    at = torch.stack([0.5 * c.flatten(), y.flatten(), x.flatten()], 1)
    return STD**2 * (torch.exp(-torch.cdist(at, at) / 1.5) + 0.02 * torch.eye(D))


def matrix(A: Degradation) -> Tensor:
    """A as (m, d), float64."""
    return A.forward(torch.eye(D).reshape(D, *SIZE)).flatten(1).T.double()


def posterior(A: Degradation, y: Tensor, covariance: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) of x given y = A x + sigma n, x ~ N(mean(), covariance), float64."""
    m, C, matrix_ = mean().flatten().double(), covariance.double(), matrix(A)
    S = matrix_ @ C @ matrix_.T + max(sigma, 1e-6) ** 2 * torch.eye(len(matrix_), dtype=torch.float64)
    gain = C @ matrix_.T @ torch.linalg.inv(S)
    return m + gain @ (y.flatten().double() - matrix_ @ m), C - gain @ matrix_ @ C


def observation(A: Degradation, covariance: Tensor, sigma: float, seed: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    root = torch.linalg.cholesky(covariance.double()).float()
    truth = mean() + (root @ torch.randn(D, generator=g)).reshape(SIZE)
    return A.forward(truth[None]) + sigma * torch.randn(1, *A.observed, generator=g)


@dataclass
class Impulses:
    """A source of "noise" by which one batch measures an affine sampler.

    Item 0 gets zeros in every draw; item 1 + k d + i gets the unit vector e_i in draw k and zeros in the others. So
    item 0 ends at the sampler's mean, and the others, less that, are the columns of its linear map.
    """

    draws: int
    drawn: list[int] = field(default_factory=lambda: [0])

    def stream(self, owner: str) -> Impulses:
        return self

    @property
    def generators(self) -> tuple[torch.Generator, ...]:
        return ()

    def normal(self, shape: Sequence[int]) -> Tensor:
        k = self.drawn[0]
        self.drawn[0] += 1
        z = torch.zeros(shape[0], D)
        if shape[0] > 1:
            z[1 + k * D : 1 + (k + 1) * D] = torch.eye(D)
        return z.reshape(tuple(shape))


def moments(plugin: Inverse, covariance: Tensor, steps: int, sampler: str = "ddim") -> tuple[Tensor, Tensor]:
    """Exact mean (d,) and covariance (d, d) of what an affine method makes: no sampling error."""
    model = Gaussian(mean(), covariance)
    counter = Impulses(0)
    sample(model, plugin, shape=(1, *SIZE), steps=steps, sampler=sampler, noise=counter)
    draws = counter.drawn[0]
    x = sample(model, plugin, shape=(1 + draws * D, *SIZE), steps=steps, sampler=sampler, noise=Impulses(draws))
    x = x.flatten(1).double()
    return x[0], (x[1:] - x[0]).T @ (x[1:] - x[0])


def errors(got: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """(|m - m*| / sqrt(tr C*), |C - C*|_F / |C*|_F): relative to the posterior's own spread.

    A posterior narrower than 5 % of the prior (a blur without noise leaves nothing open) counts as 5 %.
    """
    spread = max(float(wanted[1].diagonal().sum()) ** 0.5, 0.05 * STD * D**0.5)
    size = max(float(wanted[1].norm()), 0.05**2 * STD**2 * D**0.5)
    return float((got[0] - wanted[0]).norm()) / spread, float((got[1] - wanted[1]).norm()) / size
