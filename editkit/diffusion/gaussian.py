"""Exact models: a Gaussian and a mixture of Gaussians, whose E[x0 | x_t] is known in closed form.

The answer of every method is known on them; tests and docs use that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import ModelInfo
from editkit.diffusion.noise import Stream
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Cosine, Level, Schedule
from editkit.errors import ModelError


class GaussianMixture:
    """x0 ~ sum_k w_k N(m_k, C_k), exact.

    With S_k = alpha_t^2 C_k + sigma_t^2 I and responsibilities r_k proportional to w_k N(x_t; alpha_t m_k, S_k),
    E[x0 | x_t] = sum_k r_k (m_k + alpha_t C_k S_k^-1 (x_t - alpha_t m_k)).

    Args:
        weights: (K,), non-negative; normalised here.
        means: (K, channels, ...); what is behind K is the shape of a sample.
        covariances: (K, d, d) with d the number of values of a sample, symmetric, positive semi-definite.
        schedule: any table; its time is not used.

    Raises:
        ModelError: shapes that do not fit, a matrix that is not a covariance, a negative weight.
    """

    clip: float | None = None

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor, schedule: Schedule | None = None) -> None:
        self.sample_shape = tuple(means.shape[1:])
        d = math.prod(self.sample_shape)
        if covariances.shape != (len(means), d, d) or weights.shape != (len(means),):
            raise ModelError(
                f"a mixture of {len(means)} components of {d} values needs weights ({len(means)},) and covariances "
                f"({len(means)}, {d}, {d}); got {tuple(weights.shape)} and {tuple(covariances.shape)}"
            )
        if bool((weights < 0.0).any()) or not float(weights.sum()) > 0.0:
            raise ModelError(f"the weights of a mixture are {weights.tolist()}; none may be negative, nor all 0")
        exact = covariances.double()
        rounding = d * torch.finfo(torch.float32).eps * exact.abs().amax((1, 2))  # (K,): of a float32 matrix
        if bool(((exact - exact.mT).abs().amax((1, 2)) > rounding).any()):
            raise ModelError("a covariance is not symmetric; give (C + C^T) / 2")
        values, vectors = torch.linalg.eigh(exact)
        if bool((values < -rounding[:, None]).any()):
            raise ModelError("a covariance has a negative eigenvalue; it must be positive semi-definite")
        self.schedule: Schedule = schedule or Cosine()
        self.info = ModelInfo("gaussian", "exact Gaussian", sampler="ddpm", steps=100)
        self._log_weights = (weights.double() / weights.sum()).log().float()
        self._means = means.reshape(len(means), d).float()
        self._values = values.clamp_min(0.0).float()
        self._vectors = vectors.float()
        self.data_std = float(_variance((weights / weights.sum()).double(), self._means.double(), values).sqrt())

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        x = x_t.flatten(1)
        variances = level.alpha**2 * self._values + level.sigma**2
        centred = x[:, None] - level.alpha * self._means
        coords = torch.einsum("bkd,kde->bke", centred, self._vectors)
        gain = level.alpha * self._values / variances
        means = self._means + torch.einsum("bke,kde->bkd", gain * coords, self._vectors)
        if len(self._means) == 1:
            x0 = means[:, 0]
        else:
            log_p = self._log_weights - 0.5 * (coords**2 / variances + variances.log()).sum(-1)
            x0 = (log_p.softmax(-1)[..., None] * means).sum(1)
        x0 = x0.reshape(x_t.shape)
        return (Prediction(x0, (x_t - level.alpha * x0) / max(level.sigma, 1e-12)),) * len(conds)

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return self.sample_shape

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        return image

    def encode_mask(self, mask: Tensor) -> Tensor:
        return (mask > 0).to(mask.dtype)

    def decode(self, x0: Tensor) -> Tensor:
        return x0

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> GaussianMixture:
        return self


def _variance(weights: Tensor, means: Tensor, values: Tensor) -> Tensor:
    """The mean variance of a value of x0: within the components and between their means.

    `weights` (K,) of sum 1, `means` (K, d), `values` (K, d) the eigenvalues of the covariances.
    """
    centred = means - weights @ means
    return weights @ (values.clamp_min(0.0).mean(1) + centred.square().mean(1))


class Gaussian(GaussianMixture):
    """x0 ~ N(mean, covariance): E[x0 | x_t] = m + alpha_t C (alpha_t^2 C + sigma_t^2 I)^-1 (x_t - alpha_t m).

    Args:
        mean: (channels, ...), the shape of a sample.
        covariance: (d, d) with d the number of values in `mean`.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, schedule: Schedule | None = None) -> None:
        super().__init__(torch.ones(1), mean[None], covariance[None], schedule)
