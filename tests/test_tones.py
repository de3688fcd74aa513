"""Guidance by tones where what is copied cannot have another colour."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import editkit
from editkit_plugins import tones
from editkit_plugins.guide import Guide
from editkit_plugins.inpaint import Inpaint
from editkit_plugins.oklab import from_oklab, from_oklab_in_gamut, to_oklab


def grass(height: int = 96, width: int = 112) -> np.ndarray:
    grain = np.random.default_rng(0).normal(0, 18, (height, width, 1))
    return np.clip(np.array([110, 150, 80]) + grain, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    return editkit.edit(grass(), Inpaint(mask="box:30,24,80,70"), model="patches").pixels


def run(picture: np.ndarray, chain, told: dict) -> np.ndarray:
    """Edit `picture`, and collect the figures of its plugins."""
    making = editkit.stream(picture, chain, tell=lambda stage, name, figures: told.update(figures))
    while True:
        try:
            next(making)
        except StopIteration as done:
            return done.value.pixels


def inside(pixels: np.ndarray) -> np.ndarray:
    return pixels[24:70, 30:80].astype(float)


def seen(pixels: np.ndarray) -> np.ndarray:
    """The pixels (n, 3) of the middle of the hole, where a target is met; the rest fades out."""
    hole = torch.zeros(pixels.shape[:2], dtype=torch.bool)
    hole[24:70, 30:80] = True
    part = tones.interior(hole).numpy()
    assert 0.5 * 46 * 50 < part.sum() < 46 * 50
    return pixels[part].astype(float)


@pytest.mark.parametrize("colour", ["#a05030", "#4060a0"])
def test_a_hole_gets_the_colour_that_is_asked_for_and_keeps_its_texture(plain, colour):
    given = grass()
    told: dict[str, object] = {}
    made = run(given, Inpaint(mask="box:30,24,80,70") & Guide(loss="color", color=colour), told)
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    assert np.abs(seen(made).mean(0) - wanted).max() < 4
    assert told["measured"] == f"in the middle, {len(seen(made)) / (46 * 50):.0%} of the hole"
    outside = np.ones(given.shape[:2], bool)
    outside[24:70, 30:80] = False
    assert np.array_equal(made[outside], given[outside])
    core = np.s_[12:-12, 12:-12]
    alike = np.corrcoef(inside(made)[core].mean(-1).ravel(), inside(plain)[core].mean(-1).ravel())[0, 1]
    assert alike > 0.8


def test_brightness_is_reached_and_nothing_is_done_at_no_amount(plain):
    hole = Inpaint(mask="box:30,24,80,70")
    made = editkit.edit(grass(), hole & Guide(loss="brightness", brightness=0.7)).pixels
    assert abs(seen(made).mean() / 255 - 0.7) < 0.02
    same = editkit.edit(grass(), hole & Guide(loss="brightness", brightness=0.7, amount=0.0)).pixels
    assert np.array_equal(same, plain)


def test_alone_it_is_the_original_under_another_light():
    """Not drawn again: one curve for all pixels, so that equal colours stay equal and greys keep their order."""
    picture = np.random.default_rng(3).integers(20, 90, (64, 80, 1), dtype=np.uint8).repeat(3, axis=-1)
    made = editkit.edit(picture, Guide(brightness=0.35), seed=0).pixels
    assert abs(made.mean() / 255 - 0.35) < 0.02
    curve = [made[picture[..., 0] == grey] for grey in np.unique(picture)]
    assert all((np.ptp(one, axis=0) == 0).all() for one in curve)
    assert (np.diff([one[0].mean() for one in curve]) > 0).all()


def test_a_tint_fades_out_at_the_rim_and_is_hardly_more_colourful_than_asked_for():
    hole = torch.zeros(96, 112, dtype=torch.bool)
    hole[24:70, 30:80] = True
    given = torch.from_numpy(grass()).permute(2, 0, 1)[None] / 127.5 - 1.0
    made = tones.match_color(given, hole, (160, 80, 48), 1.0)
    lab, wanted = to_oklab(made), to_oklab(torch.tensor([160.0, 80.0, 48.0]).view(3, 1, 1) / 127.5 - 1.0)
    middle = tones.interior(hole)
    assert float(lab[:, 1:].norm(dim=1)[:, middle].max()) < 1.02 * tones.MOST_CHROMA * float(wanted[1:].norm())
    moved = (lab - to_oklab(given))[0, 1:].norm(dim=0)
    assert float(moved[24, 30:80].max()) < 0.1 * float(moved[middle].mean())  # the outermost row of the hole


def test_a_palette_keeps_the_order_of_tones_and_leaves_no_other_colours():
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(24, 0).repeat(3, 2)
    hues = np.random.default_rng(0).integers(0, 255, (24, 256, 3), dtype=np.uint8)
    palette = [(32, 48, 64), (192, 160, 96)]
    before, told = torch.from_numpy(hues).permute(2, 0, 1)[None] / 127.5 - 1.0, {}
    made = tones.match_palette(before, None, palette, 1.0)
    assert tones.fraction_near(before, palette) < 0.5
    assert tones.fraction_near(made, palette) > 0.99
    toned = run(ramp, Guide(loss="palette", palette="#203040,#c0a060"), told)
    light = to_oklab(torch.from_numpy(toned).permute(2, 0, 1)[None] / 127.5 - 1.0)[0, 0, 0]
    assert float(light.diff().min()) > -0.01  # up to rounding to bytes
    assert str(told["palette"]).endswith("of the pixels in colours of the palette or blends of them (before: 100%)")


def test_oklab_has_its_published_values_and_an_inverse():
    """White, and red as in CSS Color 4 (oklch 0.628, 0.2577, 29.23 degrees)."""
    white, red = (to_oklab(torch.tensor(c).view(3, 1, 1)).flatten() for c in ([1.0, 1.0, 1.0], [1.0, -1.0, -1.0]))
    assert torch.allclose(white, torch.tensor([1.0, 0.0, 0.0]), atol=1e-4)
    assert torch.allclose(red, torch.tensor([0.628, 0.2249, 0.1258]), atol=2e-4)
    colours = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    assert torch.allclose(from_oklab(to_oklab(colours)), colours, atol=1e-4)
    vivid = to_oklab(colours) * torch.tensor([1.0, 3.0, 3.0]).view(3, 1, 1)
    shown = to_oklab(from_oklab_in_gamut(vivid))
    assert torch.allclose(shown[:, 0], vivid[:, 0].clamp(0.0, 1.0), atol=2e-3)


def test_tones_take_neither_levels_nor_backward_passes():
    """With too few steps for any noise level, the original is adjusted all the same, and nothing is announced."""
    picture = np.random.default_rng(3).integers(20, 90, (64, 80, 3), dtype=np.uint8)
    told: list[str] = []
    made = editkit.edit(picture, Guide(brightness=0.35), steps=4, notify=told.append).pixels
    assert abs(made.mean() / 255 - 0.35) < 0.02
    assert not [line for line in told if "noise levels" in line]
    assert all(stage.backward == 0 for stage in editkit.plan(picture, Guide(brightness=0.35)))
