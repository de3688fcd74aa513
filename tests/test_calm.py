"""Membranes over what is calm: harmonic, bounded by what is around them, and only where little happens."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

import editkit
from editkit.models.patches.calm import FLAT, smooth_calm_regions
from editkit.pictures.filling import blend_seamlessly, membrane
from editkit_plugins.inpaint import Inpaint


def harmonic(height: int, width: int) -> torch.Tensor:
    """A plane, a saddle and x^2 - y^2: three channels whose Laplacian is 0, also on a grid."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    stretch = ((height - 1) / (width - 1)) ** 2
    return torch.stack([0.5 * x + 0.3 * y, x * y, x**2 - stretch * y**2])


def hole(height: int, width: int) -> torch.Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[height // 5 : height * 3 // 4, width // 4 : width * 4 // 5] = True
    mask[:4, :6] = False
    return mask


def test_a_membrane_is_the_harmonic_function_of_its_rim():
    for size in ((17, 23), (71, 97), (160, 131)):
        truth, calm = harmonic(*size), hole(*size)
        torn = truth.clone()
        torn[:, calm] = 5.0
        made = membrane(torn[None], calm[None, None].float())[0]
        assert torch.equal(made[:, ~calm], truth[:, ~calm])
        assert float((made - truth).abs().max()) < 0.004, size  # half a grey level


def one_sided(height: int, width: int, waves: int) -> torch.Tensor:
    """cos(k (y + 1/2)) cosh(m (width - 1/2 - x)), scaled to 1 at x = 0: on a grid that goes on as it ends, the harmonic
    function of its first column if cosh m = 2 - cos k, k = pi waves / height.
    """
    k = math.pi * waves / height
    m = math.acosh(2 - math.cos(k))
    x = torch.arange(width, dtype=torch.float64)
    far = torch.exp(-m * (2 * width - 1 - 2 * x)).add(1.0) / (1.0 + math.exp(-m * (2 * width - 1)))
    across = torch.exp(-m * x) * far
    return (torch.cos(k * (torch.arange(height).double() + 0.5))[:, None] * across).float()


def test_a_membrane_with_one_known_side_is_the_harmonic_function_too():
    """As where a picture grows: the other three sides are the picture's border. Odd sizes ran away from there once."""
    for height, width in ((60, 60), (61, 63), (28, 107), (107, 28), (201, 155), (300, 401), (5, 90)):
        truth, calm = one_sided(height, width, 1), torch.ones(height, width)
        calm[:, 0] = 0.0
        for turn in range(4):
            wanted, free = (v.rot90(turn)[None, None] for v in (truth, calm))
            made = membrane(wanted * (1 - free) + 7.0 * free, free)
            assert float((made - wanted).abs().max()) < 0.004, (height, width, turn)


def test_a_step_beside_a_wide_hole_stays_between_its_two_sides():
    for height, width in ((61, 63), (201, 155), (403, 805)):
        x = torch.full((1, 1, height, width), -0.5)
        x[..., : height // 2, :] = 0.5
        free = torch.ones_like(x)
        free[..., :5] = 0.0
        made = membrane(x, free)
        assert float(made.abs().max()) < 0.51, (height, width)


def test_a_membrane_does_not_depend_on_what_lies_far_from_its_rim():
    truth, calm = harmonic(64, 80), torch.zeros(64, 80, dtype=torch.bool)
    calm[20:40, 30:55] = True
    far = truth.clone()
    far[:, :18] = far[:, 42:] = 9.0
    alone, beside = (membrane(x[None], calm[None, None].float())[0][:, calm] for x in (truth, far))
    assert torch.equal(alone, beside)
    assert torch.equal(membrane(truth[None], torch.zeros(1, 1, 64, 80))[0], truth)


def test_a_membrane_stays_between_the_extremes_of_its_rim():
    x = torch.rand(3, 60, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1
    calm = hole(60, 50)
    made = membrane(x[None], calm[None, None].float())[0][:, calm]
    assert made.min() >= x[:, ~calm].min() - 1e-3
    assert made.max() <= x[:, ~calm].max() + 1e-3


def test_what_is_off_by_a_harmonic_function_is_cloned_without_a_seam():
    texture = torch.rand(3, 60, 90, generator=torch.Generator().manual_seed(0)) - 0.5
    inside = hole(60, 90)
    known = texture.where(~inside, 9.0)
    made = blend_seamlessly((texture + 0.4 + harmonic(60, 90))[None], known[None], inside[None, None].float())[0]
    assert torch.equal(made[:, ~inside], texture[:, ~inside])
    assert float((made - texture).abs().max()) < 0.004
    everything = torch.ones(1, 1, 60, 90)
    assert torch.equal(blend_seamlessly(texture[None], known[None], everything)[0], texture)  # nothing to meet


def test_steps_between_pieces_of_a_smooth_background_go():
    truth = harmonic(96, 160) * 0.3
    region = torch.zeros(96, 160, dtype=torch.bool)
    region[20:70, 10:150] = True
    x = truth.clone()
    x[:, 30:60, 20:40] += 0.01  # a grey level or so, as copied pieces leave it
    made = smooth_calm_regions(x, region)
    assert torch.equal(made[:, ~region], x[:, ~region])
    before, after = (F.avg_pool2d((v - truth)[None], 9).abs().max() for v in (x, made))
    assert float(after) < 0.3 * float(before)


def test_nothing_to_hold_on_to_is_left_as_it_is():
    x = torch.full((3, 40, 40), 0.25)
    everything = torch.ones(40, 40, dtype=torch.bool)
    assert torch.equal(smooth_calm_regions(x, everything), x)
    assert torch.equal(smooth_calm_regions(x, ~everything), x)


def test_a_hole_in_a_sky_is_sky():
    """A gradient with a hole comes back to within a few grey levels, without a step."""
    truth = (127.5 * (1 + 0.7 * harmonic(120, 160))).round().clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)
    mask = np.zeros((120, 160), np.uint8)
    mask[40:80, 50:100] = 255
    hidden = truth.copy()
    hidden[mask > 0] = 0
    made = editkit.edit(hidden, Inpaint(mask=mask), model="patches", seed=0).pixels
    assert int(np.abs(made.astype(int) - truth.astype(int)).max()) <= 4


def test_faint_texture_stays():
    """Detail above two grey levels, in the fill or around the hole, is not smoothed away."""
    for inside, outside in ((1.5, 1.5), (1.5, 0.1)):
        noise = torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(3)) * FLAT
        region = torch.zeros(96, 96, dtype=torch.bool)
        region[30:70, 30:70] = True
        x = torch.where(region, inside * noise, outside * noise)
        assert torch.equal(smooth_calm_regions(x, region)[:, 45:55, 45:55], x[:, 45:55, 45:55])


def test_a_slope_in_three_directions_has_no_blemish_where_its_pieces_meet():
    """Each channel rises another way, so no piece of it fits elsewhere: its steps are grain to no one."""
    y, x = np.mgrid[:400, :600] * 7.5
    slope = np.stack([x / 25, y / 20, (x + y) / 40], -1).astype(np.uint8)
    made = editkit.edit(slope, Inpaint(mask="box:30%,30%,50%,55%"), steps=8).pixels
    assert np.abs(made.astype(int) - slope).max() <= 2
