"""Schedule, target, weight and a plain sampler, in the papers' names.

`x_t = alpha_t x0 + sigma_t eps`, target `v = alpha_t eps - sigma_t x0` (Salimans & Ho 2022,
arXiv:2202.00512), so that `x0 = alpha_t x_t - sigma_t v` and `eps = sigma_t x_t + alpha_t v`. Levels are
those of diffusers' cosine schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

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
    """alpha_t and sigma_t, each (1000,), of DDPMScheduler(beta_schedule="squaredcos_cap_v2") (Nichol &
    Dhariwal 2021).
    """
    from diffusers import DDPMScheduler

    bar = DDPMScheduler(**SCHEDULER).alphas_cumprod.double()
    return bar.sqrt().float(), (1 - bar).sqrt().float()


def at(table: Tensor, t: Tensor) -> Tensor:
    """The table's value at each t (B,), shaped to multiply pictures."""
    return table[t].view(-1, 1, 1, 1)


def stratified_times(batch: int, generator: Generator) -> Tensor:
    """One t in each of B equal parts of 0..999, shuffled: less variance than independent draws (Kingma et al.
    2021).
    """
    u = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    return (u * TRAIN_STEPS).long().clamp(0, TRAIN_STEPS - 1)[torch.randperm(batch, generator=generator)]


def weight(t: Tensor) -> Tensor:
    """Weight of |v - v_hat|^2: `min(SNR + 1, gamma + 1) / (SNR + 1)`, gamma = 5.

    As Hang et al. 2023 (arXiv:2303.09556) it bounds the weight of |x0 - x0_hat|^2 by about gamma at low
    noise; unlike theirs it does not vanish at high noise (there it is 1): conditioned tasks are decided
    there, and few-step samplers begin there.
    """
    _, sigma_t = tables()
    inverse = sigma_t[t] ** 2  # 1 / (SNR + 1)
    return ((GAMMA + 1) * inverse).clamp(max=1)


def noised(x0: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x_t and v."""
    alpha_t, sigma_t = (at(z, t) for z in tables())
    return alpha_t * x0 + sigma_t * eps, alpha_t * eps - sigma_t * x0


Predict = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t) -> v."""


def sample(
    predict: Predict, shape: tuple[int, ...], steps: int, generator: Generator, eta: float = 0.0
) -> Tensor:
    """DDIM (Song et al. 2021, arXiv:2010.02502, equation 12) with trailing spacing and x0 clipped to [-1, 1];
    the result is x0.
    """
    alpha, sigma = tables()
    x_t = torch.randn(shape, generator=generator)
    times = torch.linspace(TRAIN_STEPS - 1, -1, steps + 1).round().long().tolist()
    x0 = x_t
    for t, s in pairwise(times):
        v = predict(x_t, torch.full((shape[0],), t))
        x0 = (alpha[t] * x_t - sigma[t] * v).clamp(-1, 1)
        if s < 0:
            break
        eps = (x_t - alpha[t] * x0) / sigma[t]
        spread = eta * (sigma[s] / sigma[t]) * (1 - (alpha[t] / alpha[s]) ** 2).sqrt()
        x_t = alpha[s] * x0 + (sigma[s] ** 2 - spread**2).clamp_min(0).sqrt() * eps
        if eta > 0:
            x_t = x_t + spread * torch.randn(shape, generator=generator)
    return x0
