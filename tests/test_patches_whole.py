"""Whole pictures drawn again, what stands alone in a hole, and how busy a source may be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import editkit
from editkit.models.patches.busy import busyness, expected_busyness
from editkit.models.patches.denoise import Settings
from editkit.models.patches.info import Ladder
from editkit.models.patches.islands import remove_islands
from editkit.models.patches.redraw import Redrawn
from editkit_plugins.sdedit import SDEdit

FLAT = torch.tensor(-8.0)
"""As busy as what has a few grey levels of detail."""


def textured(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth shapes with grain, (3, h, w)."""
    made = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, height // 12 + 1, width // 12 + 1, generator=made)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    return (0.4 * smooth + 0.15 * torch.randn(3, height, width, generator=made)).clamp(-1, 1)


def sharpness(x: torch.Tensor) -> float:
    return float((x - torch.nn.functional.avg_pool2d(x, 3, 1, 1))[..., 2:-2, 2:-2].square().mean())


@pytest.mark.parametrize("strength", [0.4, 0.8])
def test_a_picture_drawn_again_is_another_one_as_sharp_as_it_was(strength):
    """The picture has a pattern that recurs, so that there is something to put in a patch's place."""
    y, across = torch.meshgrid(torch.arange(64.0), torch.arange(72.0), indexing="ij")
    x = 0.5 * torch.sin(y * 0.9) * torch.sin(across * 0.7) + 0.1 * textured(64, 72)
    given = ((x.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
    made = editkit.edit(given, SDEdit(strength=strength), model="patches").pixels
    drawn = torch.from_numpy(made).permute(2, 0, 1) / 127.5 - 1.0
    assert 0.6 < sharpness(drawn) / sharpness(x) < 1.5
    assert (made != given).mean() > 0.05


def test_with_hardly_any_noise_it_is_the_state_that_is_drawn():
    """Its own place costs little beside what another one would be off."""
    x, at = textured(48, 40), Ladder().level(0.02)
    made = Redrawn(x, Settings()).denoise(at.alpha * x, at, None)
    assert float((made - x).abs().mean()) < 0.05


def test_what_stands_alone_on_calm_ground_goes_and_what_reaches_the_rim_stays():
    sky = torch.linspace(-0.2, 0.3, 160)[None, :, None].expand(3, 160, 180).clone()
    region = torch.zeros(160, 180, dtype=torch.bool)
    region[10:150, 40:] = True
    x = sky.clone()
    x[:, 50:58, 100:110] = -0.9  # alone
    x[:, 110:113, 20:120] = 0.9  # comes in from what is known
    made = remove_islands(x, region, FLAT, 7)
    assert float((made - sky)[:, 44:64, 94:116].abs().max()) < 0.02
    assert torch.equal(made[:, 90:], x[:, 90:])
    assert torch.equal(made[:, ~region], x[:, ~region])


def test_on_ground_that_should_be_busy_marks_are_left():
    x, region = torch.zeros(3, 60, 60), torch.zeros(60, 60, dtype=torch.bool)
    region[10:50, 10:50] = True
    x[:, 28:32, 28:32] = 0.5
    assert torch.equal(remove_islands(x, region, torch.tensor(-1.0), 7), x)


def test_in_a_texture_nothing_stands_alone():
    x, region = textured(64, 64), torch.zeros(64, 64, dtype=torch.bool)
    region[16:48, 16:48] = True
    assert torch.equal(remove_islands(x, region, FLAT, 7), x)


def test_a_hole_in_a_texture_should_be_as_busy_as_the_texture():
    x, region = textured(80, 80), torch.zeros(80, 80, dtype=torch.bool)
    region[20:60, 20:60] = True
    hidden = torch.where(region, torch.zeros_like(x), x)
    mean, spread = expected_busyness(busyness(hidden, 7), region, 7)
    assert abs(float(mean[40, 40]) - float(busyness(x, 7).mean())) < 0.3
    assert 0.5 <= float(spread[40, 40]) < 0.8
    assert float(mean[40, 40] - busyness(torch.zeros_like(x), 7)[40, 40]) > 2.0 * float(spread[40, 40])
