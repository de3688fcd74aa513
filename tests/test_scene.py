"""examples/scene: voxels seen by marching rays, the views of an object as prior, and what distillation makes of fog."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "scene"))

import dream
from scene import BACKGROUND, Scene, Views, empty, snowman

from editkit import distill
from editkit.diffusion.gaussian import GaussianMixture
from editkit.diffusion.schedule import Cosine
from editkit.errors import ModelError
from editkit.plugin import Conditioning


def test_nothing_is_the_background_and_a_solid_is_its_colour():
    n = 8
    thin, thick = torch.full((1, 1, n, n, n), -99.0), torch.full((1, 1, n, n, n), 99.0)
    red = torch.tensor([9.0, -9.0, -9.0]).reshape(1, 3, 1, 1, 1).expand(1, 3, n, n, n).clone()
    seen = Scene(thin, red, 12).view(0.3)
    assert torch.allclose(seen, torch.full_like(seen, 2.0 * BACKGROUND - 1.0), atol=1e-5)
    middle = Scene(thick, red, 12).view(0.0)[0, :, 6, 6]
    assert torch.allclose(middle, torch.tensor([1.0, -1.0, -1.0]), atol=0.01)


def test_a_homogeneous_cube_absorbs_as_its_length_says():
    """Straight on, light goes through 2 units of density d: exp(-2 d) of the background is left."""
    n, d = 8, 0.7
    density = torch.full((1, 1, n, n, n), math.log(math.expm1(d)))
    black = torch.full((1, 3, n, n, n), -99.0)
    seen = (Scene(density, black, 12, depths=260).view(0.0).detach()[0, 0, 6, 6] + 1.0) / 2.0
    assert float(seen) == pytest.approx(BACKGROUND * math.exp(-2.0 * d), rel=0.05)  # less where the cube's faces blend


def test_turning_the_scene_turns_its_view():
    """A quarter of a turn of the camera is a quarter of a turn of the grid, and there is a front and a back."""
    scene = snowman(16, 16)
    turned = Scene(scene.density.transpose(2, 4).flip(2), scene.colour.transpose(2, 4).flip(2), 16, scene.depths)
    other = Scene(scene.density.transpose(2, 4).flip(4), scene.colour.transpose(2, 4).flip(4), 16, scene.depths)
    with torch.no_grad():
        quarter = scene.view(math.pi / 2.0)
        apart = [float((quarter - one.view(0.0)).abs().max()) for one in (turned, other)]
        assert min(apart) < 1e-3
        assert max(apart) > 0.5
        assert float((scene.view(0.0) - scene.view(math.pi).flip(3)).abs().max()) > 0.3


def test_gradients_of_a_view_are_finite_differences():
    g = torch.Generator().manual_seed(0)
    density = torch.randn(1, 1, 4, 4, 4, generator=g)
    scene = Scene(density, torch.randn(1, 3, 4, 4, 4, generator=g), 6, 8).double()
    weights = torch.randn(1, 3, 6, 6, generator=g, dtype=torch.float64)
    torch.set_default_dtype(torch.float64)
    try:
        (weights * scene.view(0.7)).sum().backward()
        for parameter in (scene.density, scene.colour):
            values, step = parameter.detach().flatten(), 1e-5
            for k in (5, 21, 42):
                ends = []
                for sign in (1.0, -1.0):
                    with torch.no_grad():
                        was = values[k].item()
                        values[k] = was + sign * step
                        ends.append(float((weights * scene.view(0.7)).sum()))
                        values[k] = was
                assert (ends[0] - ends[1]) / (2.0 * step) == pytest.approx(float(parameter.grad.flatten()[k]), abs=1e-6)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("label", [None, 2])
def test_the_prior_is_the_exact_mixture(label):
    g = torch.Generator().manual_seed(1)
    views, angles = 0.3 * torch.randn(5, 3, 2, 2, generator=g), dream.round_about(5)
    prior = Views(views, angles, std=0.2, kappa=1.5)
    weights = torch.ones(5)
    if label is not None:
        weights = torch.tensor([math.exp(1.5 * math.cos(angles[label] - angle)) for angle in angles])
    exact = GaussianMixture(weights, views, 0.04 * torch.eye(12).expand(5, 12, 12))
    x, cond = torch.randn(3, 3, 2, 2, generator=g), Conditioning(label=None if label is None else torch.tensor([label]))
    for level in Cosine().levels(6)[1:]:
        (found,), (wanted,) = prior(x, level, [cond]), exact(x, level, [Conditioning()])
        assert torch.allclose(found.x0, wanted.x0, atol=1e-4)
        assert torch.allclose(level.alpha * found.x0 + level.sigma * found.eps, x, atol=1e-4)


def test_distillation_finds_the_scene():
    """A small one, in few steps: views it was never told are nearer than the mean view and than the nearest known."""
    truth = snowman(24, 20)
    found = dream.judged(dream.dreamt(truth, 14, 240, 0, n=16), truth, n=16)
    assert found["held-out views"] > found["mean view"] + 3.0
    assert dream.sheet(empty(4, 20, 0), truth, n=16).shape == (2 * 20 * 2, 8 * 20 * 2, 3)


def test_a_scene_that_is_no_picture_is_refused():
    angles = dream.round_about(4)
    scene = dream.Turning(empty(4, 8, 0), angles, [0, 1, 2, 3])
    with torch.no_grad():
        scene.scene.density[0, 0, 2, 2, 2] = torch.nan
    with pytest.raises(ModelError, match="NaN or infinity at step 0"):
        distill(Views(torch.zeros(4, 3, 8, 8), angles), scene, steps=2)
