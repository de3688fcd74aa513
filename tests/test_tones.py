"""Guidance by tones where what is copied cannot have another colour."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import editkit
from editkit_plugins import tones
from editkit_plugins.guide import Guide
from editkit_plugins.inpaint import Inpaint


def grass(height: int = 96, width: int = 112) -> np.ndarray:
    grain = np.random.default_rng(0).normal(0, 18, (height, width, 1))
    return np.clip(np.array([110, 150, 80]) + grain, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    return editkit.edit(grass(), Inpaint(mask="box:30,24,80,70"), model="patches").pixels


def inside(pixels: np.ndarray) -> np.ndarray:
    return pixels[24:70, 30:80].astype(float)


def seen(pixels: np.ndarray) -> np.ndarray:
    """The pixels (n, 3) that the loss sees."""
    hole = torch.zeros(pixels.shape[:2], dtype=torch.bool)
    hole[24:70, 30:80] = True
    part = tones.interior(hole).numpy()
    assert 0.5 * 46 * 50 < part.sum() < 46 * 50
    return pixels[part].astype(float)


@pytest.mark.parametrize("colour", ["#a05030", "#4060a0"])
def test_a_hole_gets_the_colour_that_is_asked_for_and_keeps_its_texture(plain, colour):
    given = grass()
    made = editkit.edit(given, Inpaint(mask="box:30,24,80,70") & Guide(loss="color", color=colour)).pixels
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    assert np.abs(seen(made).mean(0) - wanted).max() < 4
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
    """Not drawn again: between neighbours the gain hardly changes, however the pixels differ."""
    picture = np.random.default_rng(3).integers(20, 90, (64, 80, 3), dtype=np.uint8)
    made = editkit.edit(picture, Guide(brightness=0.35), seed=0).pixels
    assert abs(made.mean() / 255 - 0.35) < 0.02
    gain = np.log((made / 255 + tones.DARK) / (picture / 255 + tones.DARK))
    assert np.abs(np.diff(gain, axis=0)).max() < 0.1
    assert np.abs(np.diff(gain, axis=1)).max() < 0.1


def test_tones_take_neither_levels_nor_backward_passes():
    """With too few steps for any noise level, the original is adjusted all the same, and nothing is announced."""
    picture = np.random.default_rng(3).integers(20, 90, (64, 80, 3), dtype=np.uint8)
    told: list[str] = []
    made = editkit.edit(picture, Guide(brightness=0.35), steps=4, notify=told.append).pixels
    assert abs(made.mean() / 255 - 0.35) < 0.02
    assert not [line for line in told if "noise levels" in line]
    assert all(stage.backward == 0 for stage in editkit.plan(picture, Guide(brightness=0.35)))
