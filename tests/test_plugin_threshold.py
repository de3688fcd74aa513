"""Dynamic thresholding against diffusers' own, through a whole process."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
from test_pixel_models import loaded, saved
from tiny import unet2d

from editkit import sample
from editkit.plugins import Threshold


@pytest.mark.parametrize("percentile", [0.995, 0.8])
def test_it_is_the_thresholding_of_the_scheduler(tmp_path: Path, percentile: float) -> None:
    path = saved(tmp_path, diffusers.DDPMScheduler(clip_sample=False))
    scheduler = diffusers.DDPMScheduler(
        clip_sample=False, thresholding=True, dynamic_thresholding_ratio=percentile, sample_max_value=1.5
    )
    generator, network = torch.Generator().manual_seed(3), unet2d()
    x = torch.randn((2, 3, 32, 32), generator=generator)
    scheduler.set_timesteps(8)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t).sample, t, x, generator=generator).prev_sample
    found = sample(
        loaded(path), Threshold(percentile=percentile), shape=(2, 3, 32, 32), sampler="ddpm", steps=8, seed=3,
        noise="diffusers", device="cpu",
    )  # fmt: skip
    assert float((found - x).abs().max()) <= 1e-5


def test_within_range_it_only_clips() -> None:
    from editkit.diffusion.schedule import Cosine
    from editkit.models import Gaussian

    model = Gaussian(torch.zeros(1), 0.01 * torch.eye(1), Cosine())
    plain = sample(model, shape=(50, 1), steps=5, device="cpu")
    held = sample(model, Threshold(percentile=1.0), shape=(50, 1), steps=5, device="cpu")
    assert torch.allclose(plain, held, atol=1e-6)
