"""Classifiers whose answer is known: the components of a Gaussian mixture as classes, and what guidance must give."""

from __future__ import annotations

import torch
from torch import Tensor

from editkit.models import Gaussian, GaussianMixture

WEIGHTS = torch.tensor([0.5, 0.3, 0.2])
MEANS = torch.tensor([[1.0, 0.4, -0.6], [-0.8, 0.7, 0.5], [0.2, -1.1, 0.3]])
_ROOTS = torch.tensor([
    [[0.6, 0.0, 0.0], [0.3, 0.5, 0.0], [-0.2, 0.1, 0.4]],
    [[0.4, 0.0, 0.0], [-0.2, 0.6, 0.0], [0.1, 0.3, 0.5]],
    [[0.5, 0.0, 0.0], [0.1, 0.4, 0.0], [0.2, -0.3, 0.6]],
])  # fmt: skip
COVARIANCES = _ROOTS @ _ROOTS.mT
_VALUES, _VECTORS = torch.linalg.eigh(COVARIANCES)


def mixture(schedule=None) -> GaussianMixture:
    return GaussianMixture(WEIGHTS, MEANS, COVARIANCES, schedule)


class Components:
    """p(component | x_t), exact: w_k N(x_t; alpha_t m_k, alpha_t^2 C_k + sigma_t^2 I), normalised."""

    labels = ("first", "second", "third")

    def at(self, x_t: Tensor, level) -> Tensor:
        values = level.alpha**2 * _VALUES + level.sigma**2
        coords = torch.einsum("bkd,kde->bke", x_t[:, None] - level.alpha * MEANS, _VECTORS)
        return WEIGHTS.log() - 0.5 * (coords**2 / values + values.log()).sum(-1)

    def check(self, shape, levels) -> None:
        pass


def component(k: int, schedule=None) -> Gaussian:
    """The class alone: what guidance of scale 1 must sample."""
    return Gaussian(MEANS[k], COVARIANCES[k], schedule)


class Unit:
    """Noise for moments without sampling error: where a sampler's map from its draws z to x_0 is affine, x_0 = b + A z.

    Row 0 of the batch draws zeros, and gives b, the mean; row j draws the j-th unit vector, and gives b + A e_j. The
    covariance is A A^T. (A process that is a Gaussian's, guided exactly, is affine.)
    """

    def __init__(self) -> None:
        self.drawn = 1
        self.generators = ()

    def stream(self, owner):
        return self

    def normal(self, shape):
        z = torch.zeros(tuple(shape))
        d = z[0].numel()
        z.reshape(len(z), d)[self.drawn : self.drawn + d] = torch.eye(d)
        self.drawn += d
        return z


def exact_moments(model, plugins, d: int, sampler: str, steps: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what `sampler` makes, without sampling error."""
    from editkit import sample

    draws = steps if sampler.startswith("ddpm") else 1  # the last move of ddpm draws nothing, and the start does
    x = sample(model, plugins, shape=(1 + draws * d, d), sampler=sampler, steps=steps, noise=Unit())
    A = (x[1:] - x[0]).double()
    return x[0], (A.T @ A).float()
