"""A 4-dimensional Gaussian, the posteriors it has, and plugins that are exact on it."""

from __future__ import annotations

import torch
from torch import Tensor

from editkit.diffusion.model import ModelInfo, PixelSpace
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Cosine
from editkit.models import Gaussian
from editkit.plugin import Hooks, Plugin

N = 20_000

MEAN = torch.tensor([0.6, -0.4, 0.2, -0.8])
_ROOT = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.8, 0.5, 0.0, 0.0], [0.7, -0.3, 0.4, 0.0], [-0.6, 0.5, 0.2, 0.4]])
COVARIANCE = _ROOT @ _ROOT.T

KNOWN = torch.tensor([1.4, 0.9, 0.0, 0.0])
MASK = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
"""1 = regenerate: the first two values are known."""

ROW = torch.tensor([0.7, -0.5, 0.6, 0.3])
Y, Y_STD = 1.2, 0.4
"""An observation y = ROW . x + Y_STD * noise."""


def model(schedule=None) -> Gaussian:
    return Gaussian(MEAN, COVARIANCE, schedule or Cosine())


def given_known() -> tuple[Tensor, Tensor]:
    """Mean and covariance of the last two values given the first two."""
    a, b = COVARIANCE[2:, :2], COVARIANCE[:2, :2]
    gain = a @ torch.linalg.inv(b)
    return MEAN[2:] + gain @ (KNOWN[:2] - MEAN[:2]), COVARIANCE[2:, 2:] - gain @ a.T


def given_y() -> tuple[Tensor, Tensor]:
    """Mean and covariance of x given y."""
    gain = COVARIANCE @ ROW / (ROW @ COVARIANCE @ ROW + Y_STD**2)
    return MEAN + gain * (Y - ROW @ MEAN), COVARIANCE - torch.outer(gain, ROW @ COVARIANCE)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), torch.cov(x.T)


class ExactClassifier(Plugin):
    """-log p(y | x_t) of the observation, exact: N(y; ROW E[x0 | x_t], ROW Cov[x0 | x_t] ROW + Y_STD^2)."""

    name = "exact-classifier"
    scale: float = 1.0

    def hooks(self):
        return _ExactClassifierHooks


class _ExactClassifierHooks(Hooks):
    through = "x_t"

    def energy(self, step, x0):
        alpha, sigma = step.alpha_t, step.sigma_t
        gain = alpha * COVARIANCE @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(4))
        mean = MEAN + (step.x_t - alpha * MEAN) @ gain.T
        variance = ROW @ (COVARIANCE - alpha * gain @ COVARIANCE) @ ROW + Y_STD**2
        return self.plugin.scale * (Y - mean @ ROW) ** 2 / (2.0 * variance)


class ExactPosterior(Plugin):
    """x0 <- E[x0 | x_t, known values]: what inpainting would be if it were exact."""

    name = "exact-posterior"
    order = 100

    def hooks(self):
        return _ExactPosteriorHooks


class _ExactPosteriorHooks(Hooks):
    def clean(self, step, x0):
        mean, covariance = given_known()
        alpha, sigma = step.alpha_t, step.sigma_t
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(2))
        rest = mean + (step.x_t.detach()[:, 2:] - alpha * mean) @ gain.T
        return torch.cat([KNOWN[:2].expand(len(x0), 2), rest], 1)


class Quadratic(Plugin):
    """E = weight |x0 - target|^2 / 2 through the network."""

    name = "quadratic"
    weight: float = 1.0
    target: float = 0.0

    def hooks(self):
        return _QuadraticHooks


class _QuadraticHooks(Hooks):
    def energy(self, step, x0):
        return self.plugin.weight * ((x0 - self.plugin.target) ** 2).flatten(1).sum(1) / 2.0


class Nothing(Plugin):
    """Every hook, doing nothing."""

    name = "nothing"

    def hooks(self):
        return _NothingHooks


class _NothingHooks(Hooks):
    def condition(self, step, cond):
        return cond

    def clean(self, step, x0):
        return x0

    def after(self, step, x_s):
        return x_s

    def finish(self, image):
        return image


class Isotropic(PixelSpace):
    """x0 ~ N(0, s^2 I) on pictures of any size: E[x0 | x_t] = s^2 alpha_t x_t / (s^2 alpha_t^2 + sigma_t^2). Cheap."""

    info = ModelInfo("isotropic", "exact Gaussian", sampler="ddim", steps=6)
    schedule = Cosine()
    clip = None

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x_t, level, conds):
        self.calls += 1
        s2 = self.data_std**2
        x0 = s2 * level.alpha / (s2 * level.alpha**2 + level.sigma**2) * x_t
        return (Prediction(x0, (x_t - level.alpha * x0) / level.sigma),) * len(conds)

    def attach(self, picture, mask):
        return self
