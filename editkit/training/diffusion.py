"""Schedule, times, loss weight and samples for training, in the notation of the papers.

`x_t = alpha_t x0 + sigma_t eps`, with diffusers' cosine schedule. The network's prediction is defined in
`editkit.models.pocket.residual`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from editkit.diffusion.prediction import Prediction
from editkit.diffusion.samplers import DDIM
from editkit.diffusion.schedule import Level
from editkit.training.draws import Source

TRAIN_STEPS = 1000
GAMMA = 5.0
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": TRAIN_STEPS,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "timestep_spacing": "trailing",
}
"""Arguments of the exported DDPMScheduler."""


@lru_cache(maxsize=1)
def tables() -> tuple[Tensor, Tensor]:
    """Return alpha_t and sigma_t, each (1000,), of DDPMScheduler(beta_schedule="squaredcos_cap_v2") (Nichol &
    Dhariwal 2021).
    """
    from diffusers import DDPMScheduler

    bar = DDPMScheduler(**SCHEDULER).alphas_cumprod.double()
    return bar.sqrt().float(), (1 - bar).sqrt().float()


@lru_cache(maxsize=4)
def tables_on(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return `tables` on a device."""
    alpha, sigma = tables()
    return alpha.to(device), sigma.to(device)


def gather_levels(table: Tensor, t: Tensor) -> Tensor:
    """Return the table's value at each t (B,), shaped to multiply pictures."""
    return table[t].view(-1, 1, 1, 1)


def stratified_times(batch: int, source: Source) -> Tensor:
    """Draw one t in each of B equal parts of 0..999, shuffled: less variance than independent draws (Kingma et al.
    2021).
    """
    u = (torch.arange(batch, device=source.device) + source.uniform(batch)) / batch
    order = source.uniform(batch).argsort(stable=True)
    return (u * TRAIN_STEPS).long().clamp(0, TRAIN_STEPS - 1)[order]


def residual_times(t: Tensor, s: Tensor) -> Tensor:
    """Every other t moved to where a residual of deviation s (B,) has the share of noise that data of deviation 1
    has at t: `tan(t' pi / 2) = s tan(t pi / 2)`, t as a fraction. A narrow residual is determined at low noise;
    few-step samplers also need high noise.
    """
    angle = (t + 0.5) / TRAIN_STEPS * (torch.pi / 2)
    moved = (torch.atan(s * angle.tan()) * (2 / torch.pi) * TRAIN_STEPS).long().clamp(0, TRAIN_STEPS - 1)
    return torch.where(torch.arange(len(t), device=t.device) % 2 == 0, t, moved)


def middle_times(t: Tensor, s: Tensor) -> Tensor:
    """Map uniform times to the density pi / 2 sin(pi t), t as a fraction: rare at both ends, where a hint has little
    influence. s is not used.
    """
    u = (t + 0.5) / TRAIN_STEPS
    return (torch.acos(1 - 2 * u) / torch.pi * TRAIN_STEPS).long().clamp(0, TRAIN_STEPS - 1)


Move = Callable[[Tensor, Tensor], Tensor]
"""(t (B,), s (B,)) -> t: maps uniform times to training times; s: the residual's deviation."""


def weight(sigma: Tensor) -> Tensor:
    """Return the weight of |F - F_hat|^2 at the share of noise sigma: `min(SNR + 1, gamma + 1) / (SNR + 1)`, gamma = 5
    and `1 / (SNR + 1) = sigma^2`.

    As Hang et al. 2023 (arXiv:2303.09556) it bounds the weight of the clean estimate's error by about gamma at low
    noise; unlike theirs it does not vanish at high noise (where it is 1), because conditioned tasks are decided and
    few-step samplers start there.
    """
    return ((GAMMA + 1) * sigma.square()).clamp(max=1)


Predict = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t) -> x0."""


def sample(predict: Predict, shape: tuple[int, ...], steps: int, generator: Generator, eta: float = 0.0) -> Tensor:
    """Sample x0 from noise with `ddim` and trailing spacing; estimates are clipped to [-1, 1]."""
    alpha, sigma = tables()
    times = torch.linspace(TRAIN_STEPS - 1, -1, steps + 1).round().long().tolist()[:-1]
    levels = [Level(t, float(alpha[t]), float(sigma[t]), steps - k) for k, t in enumerate(times)]

    def predict_guided(x_t: Tensor, level: Level) -> Prediction:
        x0 = predict(x_t, torch.full((shape[0],), int(level.t))).clamp(-1, 1)
        return Prediction(x0, (x_t - level.alpha * x0) / level.sigma)

    def normal(t: Level, s: Level) -> Tensor:
        return torch.randn(shape, generator=generator) if s.sigma > 0.0 else torch.zeros(shape)

    x, rule = torch.randn(shape, generator=generator), DDIM(eta=eta)
    for t, s in pairwise([*levels, Level(0.0, 1.0, 0.0)]):
        x, _ = rule.step(x, t, s, predict_guided, normal, None)
    return x
