"""What of the lines that are found is laid over the picture, and what is the picture's own."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from editkit.pictures.picture import Picture
from editkit_plugins.masks.overlaid import find_overlaid_lines
from editkit_plugins.masks.scratches import scratches

HEIGHT, WIDTH = 120, 200


def ground(seed: int = 0) -> np.ndarray:
    """(H, W, 3): colours that change along every line, in levels of 255."""
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.uniform(40, 200, (6, 10, 3)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).clip(20, 220)


def line(angle: float) -> np.ndarray:
    """(H, W) in [0, 1]: a soft line of two pixels through the middle."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    off = (y - HEIGHT / 2) * np.cos(angle) - (x - WIDTH / 2) * np.sin(angle)
    return np.clip(1.5 - np.abs(off), 0.0, 1.0)


def kept(picture: np.ndarray, cover: np.ndarray, angle: float, dark: bool) -> float:
    """The share of a line that is kept."""
    picture = picture.astype(np.float32)
    tone = 255.0 - picture.max(2) if dark else picture.min(2)
    where = (cover > 0).astype(np.uint8)
    made = find_overlaid_lines(where, np.full(tone.shape, angle, np.float32), picture, tone)
    assert not (made & ~where).any()
    return float(made.sum() / where.sum())


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, 2.2])
@pytest.mark.parametrize(("tone", "share"), [(245.0, 0.6), (245.0, 0.9), (8.0, 0.7)])
def test_what_covers_the_ground_with_one_tone_is_laid_over_it(angle, tone, share):
    cover = line(angle)
    covered = ground() + share * cover[..., None] * (tone - ground())
    assert kept(covered, cover, angle, dark=tone < 100) == 1.0


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, 2.2])
def test_an_eave_has_different_sides(angle):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    above = (y - HEIGHT / 2) * np.cos(angle) < (x - WIDTH / 2) * np.sin(angle)
    house = np.where(above[..., None], (150.0, 180.0, 220.0), 0.4 * ground())
    made = house * (1.0 - 0.9 * line(angle)[..., None])
    assert kept(made, line(angle), angle, dark=True) == 0.0


@pytest.mark.parametrize(("factor", "dark"), [(0.9, True), (1.25, False)])
def test_a_shade_has_the_colours_of_its_ground(factor, dark):
    made = ground() * (1.0 + (factor - 1.0) * line(0.4)[..., None])
    assert kept(made, line(0.4), 0.4, dark) == 0.0


def test_a_line_too_short_to_be_asked_is_none():
    cover = line(0.0) * (np.arange(WIDTH) < 5)
    covered = ground() + 0.9 * cover[..., None] * (250.0 - ground())
    assert kept(covered, cover, 0.0, dark=False) == 0.0


def test_a_scratch_is_found_and_the_eave_under_it_is_not():
    y, x = np.mgrid[:300, :400].astype(float)
    rng = np.random.default_rng(1)
    wall = cv2.resize(rng.uniform(80, 150, (10, 14, 3)), (400, 300), interpolation=cv2.INTER_CUBIC)
    made = np.where((y < 100)[..., None], (150.0, 180.0, 220.0), wall)
    made[98:102] = (75.0, 70.0, 60.0)
    cover = np.clip(2.0 - np.abs(x - 200.0 - 0.3 * (y - 150.0)), 0.0, 1.0) * 0.9
    made += cover[..., None] * (245.0 - made)
    found = scratches(Picture(np.clip(np.rint(made), 0, 255).astype(np.uint8))) > 0
    assert found[cover > 0.5].mean() > 0.9
    assert found[96:104, :150].mean() == 0.0
