"""Small pixel-space diffusion models for the guidance benchmarks, trained in minutes on one core.

A diffusers UNet2DModel that predicts v on the cosine table (Nichol & Dhariwal 2021, arXiv:2102.09672), saved as the
folder that `--model` takes: the benchmark then runs on it as a user would.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

SCHEDULER = {
    "num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction",
    "clip_sample": True, "clip_sample_range": 1.0, "timestep_spacing": "trailing",
}  # fmt: skip

Draw = Callable[[int, torch.Generator], Tensor]
"""(batch, generator) -> pictures (batch, channels, h, w) in [-1, 1]."""


def train_prior(
    draw: Draw, folder: Path, side: int, channels: int, widths: tuple[int, ...], steps: int, batch: int = 64,
    seed: int = 0,
) -> None:  # fmt: skip
    """Train and save (16-bit weights) in `folder`: mean |v - v_hat|^2 with AdamW and an average of the weights."""
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(seed)
    network = UNet2DModel(
        sample_size=side, in_channels=channels, out_channels=channels, block_out_channels=widths, layers_per_block=1,
        norm_num_groups=8, attention_head_dim=16,
        down_block_types=("DownBlock2D",) * (len(widths) - 1) + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (len(widths) - 1),
    )  # fmt: skip
    scheduler = DDPMScheduler(**SCHEDULER)
    alphas, sigmas = scheduler.alphas_cumprod.sqrt(), (1.0 - scheduler.alphas_cumprod).sqrt()
    mean = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    began, total = time.process_time(), 0.0
    for step in range(1, steps + 1):
        x0 = draw(batch, generator)
        t = ((torch.arange(batch) + torch.rand(batch, generator=generator)) / batch * 1000).long()
        eps = torch.randn(x0.shape, generator=generator)
        alpha, sigma = alphas[t].view(-1, 1, 1, 1), sigmas[t].view(-1, 1, 1, 1)
        loss = F.mse_loss(network(alpha * x0 + sigma * eps, t).sample, alpha * eps - sigma * x0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        mean.update_parameters(network)
        total += loss.item()
        if step % 500 == 0:
            spent = time.process_time() - began
            print(f"prior: step {step}, loss {total / 500:.4f}, {spent:.0f} processor s", flush=True)
            total = 0.0
    folder.mkdir(parents=True, exist_ok=True)
    mean.module.half().save_pretrained(folder)
    config = {"_class_name": "DDPMScheduler", **SCHEDULER}
    (folder / "scheduler_config.json").write_text(json.dumps(config, indent=2) + "\n")
