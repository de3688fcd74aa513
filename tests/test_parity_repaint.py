"""RePaint as diffusers' pipeline walks it, through the front door; the network is random and proves the walk alone.

`inpaint` with method repaint-diffusers and `--noise diffusers`: jumps at the levels 0, jump, 2 jump (the paper's code
and our `repaint` jump at 1, 1 + jump, ...), upward moves in single trained steps, eta 0, leading spacing.
"""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.deprecated.repaint.pipeline_repaint import RePaintPipeline
from test_pixel_models import loaded, saved
from tiny import unet2d
from torch import Tensor

from editkit import sample
from editkit.diffusion.plan import Plan
from editkit.plugins import Inpaint


def picture() -> tuple[Tensor, Tensor]:
    """(a smooth picture in [-1, 1], mask with 1 = regenerate)."""
    y, x = np.mgrid[0:32, 0:32] / 31.0
    image = torch.from_numpy(np.stack([x, y, x * y])[None] * 2 - 1).float()
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 9:23, 5:18] = 1
    return image, mask


@pytest.mark.parametrize(("trained", "steps"), [(20, 20), (1000, 10), (1000, 12)])
@pytest.mark.parametrize(("jump", "repeats"), [(3, 2), (4, 2), (1, 1)])
def test_repaint_is_the_pipeline(tmp_path: Path, trained: int, steps: int, jump: int, repeats: int) -> None:
    image, mask = picture()
    path = saved(tmp_path, diffusers.DDPMScheduler(num_train_timesteps=trained))
    pipe = RePaintPipeline(unet2d(), diffusers.RePaintScheduler(num_train_timesteps=trained))
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        image, 1 - mask, num_inference_steps=steps, eta=0.0, jump_length=jump, jump_n_sample=repeats,
        generator=torch.Generator().manual_seed(11), output_type="np",
    ).images  # fmt: skip
    found = sample(
        loaded(path), Inpaint(method="repaint-diffusers", jump=jump, repeats=repeats), shape=image.shape, known=image,
        mask=mask, sampler="ddim", steps=steps, seed=11, noise="diffusers", device="cpu",
    )  # fmt: skip
    result = (found / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert float((result - torch.from_numpy(expected)).abs().max()) <= 1e-5


def test_moves_are_those_of_the_scheduler() -> None:
    for steps, jump, repeats in [(250, 10, 10), (20, 5, 3), (7, 3, 2), (12, 12, 4)]:
        scheduler = diffusers.RePaintScheduler()
        scheduler.set_timesteps(steps, jump, repeats)
        times = (scheduler.timesteps // (1000 // steps)).tolist()
        plan = Plan.uniform(steps).travel(jump, repeats, first=0)
        assert len(plan) == len(times)
        assert [move.t - 1 if not move.up else move.s for move in plan] == times
