"""Enlargements by `patches` copy what is sharp in the small picture."""

import numpy as np
import pytest
import torch
from PIL import Image

from editkit import edit
from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import Enlarges
from editkit.editing.settle import plan_stage
from editkit.errors import ModelError
from editkit.models.patches.enlarging import Enlarging
from editkit.models.patches.info import Ladder
from editkit.models.patches.model import WINDOW, Patches
from editkit.pictures.picture import Picture
from editkit.pictures.resizing import resize
from editkit.pictures.tensors import to_unit
from editkit.plugin.chain import Stage
from editkit.plugin.options import Options
from editkit.plugins import Uncrop, Upscale


def discs(side: int) -> np.ndarray:
    """Edges of every direction, the same at every scale."""
    y, x = np.mgrid[0:side, 0:side] / side
    rings = np.zeros((side, side), bool)
    for cy, cx, r in ((0.3, 0.35, 0.22), (0.7, 0.6, 0.25), (0.25, 0.8, 0.12), (0.8, 0.15, 0.1)):
        rings |= (y - cy) ** 2 + (x - cx) ** 2 < r**2
    return np.where(rings[..., None], np.uint8([220, 200, 60]), np.uint8([30, 60, 110])).astype(np.uint8)


def reduced(picture: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a.astype(float) - b) ** 2).mean())


@pytest.mark.parametrize("method", ["conditioned", "ddnm"])
def test_edges_are_copied_from_the_small_picture(method):
    truth = reduced(discs(512), 64)
    small = reduced(truth, 32)
    enlarged = np.asarray(Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC))
    result = edit(small, Upscale(scale=2, method=method), model="patches", steps=3).pixels
    assert error(result, truth) < 0.5 * error(enlarged, truth)


def test_the_estimate_is_the_guide_and_copied_detail():
    """Where the small picture has no detail, none can be copied: the estimate is the guide."""
    small = to_unit(np.full((20, 24, 3), 77, np.uint8))
    guide = torch.rand(1, 3, 30, 36) - 0.5
    level = Ladder().level(0.5)
    x_t = torch.randn(1, 3, 30, 36, generator=torch.Generator().manual_seed(0))
    (made,) = Enlarging(small, 1.5)(x_t, level, [Conditioning(lowres=guide)])
    torch.testing.assert_close(made.x0, guide, atol=1e-5, rtol=0)
    (free,) = Enlarging(small, 1.5)(x_t, level, [Conditioning()])
    torch.testing.assert_close(free.x0, small[..., :1, :1].expand_as(x_t), atol=1e-5, rtol=0)


def test_windows_bound_what_is_held_at_once_and_leave_no_seam():
    small = to_unit(reduced(discs(512), 60))
    model = Patches().enlarging(small, 2.0)
    assert isinstance(Patches(), Enlarges)
    assert model.window == WINDOW < 120
    guide = torch.nn.functional.interpolate(small, (120, 120), mode="bicubic", align_corners=False)
    x_t, level, conds = torch.zeros(1, 3, 120, 120), Ladder().level(0.03), [Conditioning(lowres=guide)]
    (tiled,) = model(x_t, level, conds)
    (whole,) = model.model(x_t, level, conds)
    assert (tiled.x0 - whole.x0).square().mean() < 1e-3 * (whole.x0 - guide).square().mean() + 1e-6


def test_a_large_scale_is_a_cascade_that_explains_the_small_picture(monkeypatch):
    """x4 learns from what x2 made, which made small again is the picture, and is nearer the truth for it."""
    truth = reduced(discs(512), 128)
    small = reduced(truth, 32)
    model = Patches().enlarging(to_unit(small), 4.0).model
    assert (model.scale, model.small.shape) == (2.0, (1, 3, 64, 64))
    assert (resize(model.small, 32, 32) - to_unit(small)).abs().max() < 4 / 127.5
    guide = resize(to_unit(small), 128, 128)
    wanted = to_unit(truth).numpy()
    assert error(model.sharpened(guide).numpy(), wanted) < 0.8 * error(guide.numpy(), wanted)
    staged = edit(small, Upscale(scale=4), model="patches", steps=1).pixels
    monkeypatch.setattr(Patches, "enlarging", lambda self, small, scale: Enlarging(small, scale))
    assert error(staged, truth) < 0.8 * error(edit(small, Upscale(scale=4), model="patches", steps=1).pixels, truth)


@pytest.mark.parametrize(("scale", "last"), [(1.5, 1.5), (2.5, 2.5), (3.0, 3.0**0.5), (5.0, 5.0**0.5), (8.0, 2.0)])
def test_stages_are_of_factors_near_two_and_come_out_exactly(scale, last):
    small = to_unit(reduced(discs(128), 20))
    model = Patches().enlarging(small, scale).model
    assert model.small.shape[-1] * model.scale == pytest.approx(scale * 20)
    assert model.scale == pytest.approx(last, rel=0.05)


def test_too_small_a_picture_is_refused():
    with pytest.raises(ModelError, match="squares of 7x7 pixels, and the picture is only 5x6"):
        edit(np.zeros((6, 5, 3), np.uint8), Upscale(scale=2), model="patches", steps=1)


def test_only_a_whole_enlarged_picture_is_learned_from_small():
    picture = Picture(reduced(discs(256), 64))
    options = Options(model="patches")
    assert plan_stage(Stage((Upscale(scale=2),), options), picture).small is picture
    assert plan_stage(Stage((Uncrop(right=20),), options), picture).small is None
