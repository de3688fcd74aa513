"""How large a picture is made, and how soft it is then, does not change how well its holes are filled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import editkit
from editkit.models.patches.calm import FLAT, detail, smooth_calm_regions
from editkit_plugins.inpaint import Inpaint
from editkit_plugins.uncrop import Uncrop

SIZES = (0.5, 1, 2, 4, 6)


def facade(height: int = 72, width: int = 96) -> np.ndarray:
    """A sky that changes slowly over rows of soft windows over a lawn, float64 (h, w, 3) of 255."""
    y, x = np.mgrid[0:height, 0:width] / height
    windows = 25.0 * np.sin(2 * np.pi * 8 * x) * np.sin(2 * np.pi * 8 * y)
    sky = np.stack([120 + 60 * y, 150 + 50 * y, 200 + 20 * y], -1)
    wall = (150 + windows)[..., None] * np.array([1.0, 0.95, 0.85])
    lawn = np.broadcast_to([70.0, 120.0, 50.0], sky.shape)
    return np.where((y < 0.3)[..., None], sky, np.where((y < 0.8)[..., None], wall, lawn))


def sized(scene: np.ndarray, scale: float, grain: float) -> np.ndarray:
    """The scene so many times as large, bicubic, and then with grain of so many levels."""
    image = Image.fromarray(np.rint(scene).astype(np.uint8))
    size = (round(image.width * scale), round(image.height * scale))
    made = np.asarray(image.resize(size, Image.Resampling.BICUBIC)).astype(np.float64)
    made += np.random.default_rng(1).normal(0.0, grain, made.shape)
    return np.rint(made.clip(0, 255)).astype(np.uint8)


def small(image: np.ndarray) -> np.ndarray:
    """(36, 48, ...): at the size of the smallest one."""
    return np.asarray(Image.fromarray(image).resize((48, 36), Image.Resampling.BOX)).astype(np.float64)


@pytest.mark.parametrize("grain", [0.0, 4.0])
def test_a_scene_is_filled_equally_well_at_every_size(grain: float):
    """A membrane over the windows, as grey as their mean, would be off by their contrast of 12 levels and more; and by
    the step from the sky to the wall to the lawn.
    """
    contrasts, levels = [], []
    for scale in SIZES:
        truth = sized(facade(), scale, grain)
        mask = np.zeros(truth.shape[:2], np.uint8)
        h, w = mask.shape
        mask[round(0.15 * h) : round(0.95 * h), round(0.42 * w) : round(0.6 * w)] = 255
        made, wanted, hole = (
            small(editkit.edit(truth, Inpaint(mask=mask), seed=0).pixels),
            small(truth),
            small(mask) > 254,
        )
        wall = hole & (np.arange(36)[:, None] > 12) & (np.arange(36)[:, None] < 27)
        contrasts.append(made[wall].std(0).mean() / wanted[wall].std(0).mean())
        levels.append(float(np.sqrt(np.square(made - wanted)[hole].mean())))
    assert min(contrasts) > 0.6, contrasts
    assert max(levels) < 14.0, levels


def test_detail_is_of_the_picture_and_not_of_its_pixels():
    """The same scene has about as much of it at every size, though its smallest pixels show ever less."""
    found = []
    for scale in (2, 4, 6, 12):
        x = torch.from_numpy(sized(facade(), scale, 0.0)).permute(2, 0, 1).float() / 127.5 - 1
        height, width = x.shape[-2:]
        region = torch.zeros(height, width, dtype=torch.bool)
        region[height // 2 : height * 5 // 8, width // 2 : width * 5 // 8] = True
        found.append(float(detail(x, region)[height * 9 // 16, width * 9 // 16]) ** 0.5)
        assert torch.equal(smooth_calm_regions(x, region), x), scale
    assert min(found) > 1.5 * FLAT
    assert max(found) < 3 * min(found), found


def test_a_horizon_is_no_calm_place_however_large_the_picture_is():
    """A line has the fewer pixels, for those around it, the larger a picture is: nothing is to be washed over it."""
    for size in (120, 480, 1600):
        x = torch.full((3, size // 2, size), 0.2)
        x[:, size // 4 :] = -0.2
        region = torch.zeros(size // 2, size, dtype=torch.bool)
        region[:, size * 3 // 4 :] = True
        made = smooth_calm_regions(x, region)
        assert torch.equal(made[:, size // 4 - 4 : size // 4 + 4], x[:, size // 4 - 4 : size // 4 + 4]), size
        assert float((made - x).abs().max()) < 0.004, size


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
@pytest.mark.parametrize("scale", [1, 4])
def test_a_grown_picture_keeps_the_colours_of_its_border(side: str, scale: int):
    """Sky above, ground below, one known border: the sky goes on as sky and the ground as ground."""
    y = np.linspace(0.0, 1.0, 60 * scale)[:, None, None]
    sky = np.array([90.0, 140, 200]) + y * np.array([80.0, 50, 10])
    ground = np.array([200.0, 170, 120]) + np.zeros_like(y)
    scene = np.broadcast_to(np.where(y < 0.6, sky, ground), (60 * scale, 80 * scale, 3))
    picture = np.rint(scene + np.random.default_rng(0).normal(0.0, 1.0, scene.shape)).clip(0, 255).astype(np.uint8)
    added = 30 * scale
    made = editkit.edit(picture, Uncrop(**{side: added}), seed=0).pixels.astype(np.float64)
    if side in ("left", "right"):
        new = made[:, :added] if side == "left" else made[:, -added:]
        off = np.abs(new.mean(1) - scene[:, 0])
        away = np.abs(np.arange(60 * scale) - 36 * scale) > 6 * scale  # the horizon itself may lie a little higher
        assert off[away].max() < 12.0
    else:
        new, border = (made[:added], scene[0]) if side == "top" else (made[-added:], scene[-1])
        assert np.abs(new.mean((0, 1)) - border[0]).max() < 20.0
