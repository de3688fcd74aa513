"""Exact models: a Gaussian and a mixture of Gaussians, with E[x0 | x_t] in closed form.

The result of every method is known for them; tests and docs use this.
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
    """The exact model of data x0 ~ sum_k w_k N(m_k, C_k).

    With S_k = alpha_t^2 C_k + sigma_t^2 I and responsibilities r_k proportional to w_k N(x_t; alpha_t m_k, S_k),
    E[x0 | x_t] = sum_k r_k (m_k + alpha_t C_k S_k^-1 (x_t - alpha_t m_k)).

    Args:
        weights: (K,), non-negative; normalised here.
        means: (K, channels, ...); the dimensions after K are the shape of a sample.
        covariances: (K, d, d), symmetric and positive semi-definite, with d the number of values in a sample.
        schedule: any schedule; its time is not used.

    Raises:
        ModelError: shapes do not match, a matrix is not a covariance, or a weight is negative.
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
    """Return the mean variance of a value of x0, within the components and between their means.

    `weights` (K,) with sum 1, `means` (K, d), and the eigenvalues of the covariances, `values` (K, d).
    """
    centred = means - weights @ means
    return weights @ (values.clamp_min(0.0).mean(1) + centred.square().mean(1))


class Gaussian(GaussianMixture):
    """The exact model of x0 ~ N(m, C): E[x0 | x_t] = m + alpha_t C (alpha_t^2 C + sigma_t^2 I)^-1 (x_t - alpha_t m).

    Args:
        mean: (channels, ...), in the shape of a sample.
        covariance: (d, d) with d the number of values in `mean`.
        schedule: any schedule; its time is not used.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, schedule: Schedule | None = None) -> None:
        super().__init__(torch.ones(1), mean[None], covariance[None], schedule)
