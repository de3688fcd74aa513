"""Thin things: what is one, where in a hole one may be, and that none is copied to where none arrives."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from editkit import edit
from editkit.models.patches.thin import find_lone_lines, thin_patches
from editkit.plugins import Inpaint

SIDE = 7


def field(height: int = 160, width: int = 200, seed: int = 0) -> np.ndarray:
    """(h, w) in [-1, 1]: grain, in which nothing is out of place."""
    return np.random.default_rng(seed).normal(0.0, 0.05, (height, width)).astype(np.float32)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("angle", [0.0, 0.5, 1.2, np.pi / 2, 2.4])
def test_a_wire_stands_alone_and_grain_does_not(sign, angle):
    picture = field()
    marked, _, _ = find_lone_lines(picture)
    assert marked.mean() < 0.01
    y, x = np.mgrid[:160, :200]
    off = np.abs((y - 80) * np.cos(angle) - (x - 100) * np.sin(angle))
    wire = off < 0.8
    marked, crest, at = find_lone_lines(np.where(wire, sign * 0.5, picture).astype(np.float32))
    inner = wire & (np.abs(y - 80) < 60) & (np.abs(x - 100) < 80)
    assert marked[inner].mean() > 0.9
    assert marked[off > 8].mean() < 0.01
    turn = np.abs((at[inner & crest] - angle + np.pi / 2) % np.pi - np.pi / 2)
    assert np.median(turn) < np.pi / 12


def test_lines_everywhere_are_no_lone_ones():
    bars = np.tile(np.where(np.arange(200) % 8 < 2, 0.5, -0.5), (160, 1)).astype(np.float32)
    marked, _, _ = find_lone_lines(bars)
    assert not marked[20:-20, 20:-20].any()


def test_a_line_may_be_where_one_arrives_and_straight_on():
    picture = field()
    picture[60:62, :110] = 0.6  # arrives from the left, at the hole's rim
    picture[140:142] = 0.6  # passes below
    region = torch.zeros(160, 200, dtype=torch.bool)
    region[30:120, 100:180] = True
    seen = torch.from_numpy(picture).expand(3, -1, -1)
    has, may = thin_patches(seen, region, SIDE)
    assert has[60, :90].float().mean() > 0.8
    assert has[141].float().mean() > 0.9
    assert may[60, 100:180].all()
    assert not may[100:118, 110:170].any()
    assert not may[32:40, 110:170].any()


def test_a_wire_of_another_place_is_not_copied_into_a_field():
    """The strip with the wires has the colour of the hole's surroundings, where there is no wire."""
    rng = np.random.default_rng(3)
    coarse = cv2.resize(rng.normal(0.0, 8.0, (12, 16)), (192, 144), interpolation=cv2.INTER_CUBIC)
    grey = 110.0 + coarse + rng.normal(0.0, 3.0, (144, 192))
    grey[20:22], grey[34:36] = 235.0, 235.0
    picture = np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    made = edit(picture, Inpaint(mask="box:40,64,160,124"), model="patches").pixels
    assert made[64:124, 40:160].max() < 170


def test_other_pictures_are_learned_from_as_well():
    rng = np.random.default_rng(4)
    picture, other = (rng.integers(60, 120, (size, 80, 3), dtype=np.uint8) for size in (64, 90))
    picture[10] = 250
    made = edit(picture, Inpaint(mask="box:20,30,60,56", from_=(other,)), model="patches").pixels
    assert (made[:30] == picture[:30]).all()
    assert made[30:56, 20:60].max() < 200
