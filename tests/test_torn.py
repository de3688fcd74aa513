"""Missing corners and pieces of an edge are found; a sky, a night and a frame are not."""

from __future__ import annotations

import numpy as np
import pytest
from test_mask_words import damage, found_and_false, soft

from editkit.pictures.picture import Picture
from editkit.pictures.shapes import from_words
from editkit.plugin import silent
from editkit_plugins.masks.torn import has_frame
from editkit_plugins.repair import Repair


@pytest.mark.parametrize("seed", range(8))
def test_a_torn_corner_or_edge_is_found(seed):
    spoiled, truth = damage.torn(soft(seed), np.random.default_rng(seed))
    found, false = found_and_false(from_words("torn", Picture(spoiled)), truth)
    assert found > 0.98
    assert false < 0.005


def test_a_white_thing_inside_is_no_tear():
    """A square that a strip of nearly its tone joins to the edge."""
    picture = np.random.default_rng(0).integers(90, 150, (300, 300, 3)).astype(np.uint8)
    picture[120:180, 120:180] = 255
    picture[147:153, :120] = 240
    assert not from_words("torn", Picture(picture)).any()


@pytest.mark.parametrize("tone", [255, 0])
def test_a_sky_and_a_night_are_no_tear(tone):
    """All along the upper edge, behind a skyline; and in a corner, graded."""
    x = np.arange(320)
    sky = soft()
    sky[np.arange(240)[:, None] < 60 + 12 * np.sign(np.sin(x / 7))] = tone
    assert not from_words("torn", Picture(sky)).any()
    graded = soft().astype(float)
    y = np.arange(240)[:, None]
    corner = y + x < 90
    graded[corner] = (abs(tone - 30 * (y + x) / 90.0))[corner][:, None]
    assert not from_words("torn", Picture(graded.astype(np.uint8))).any()


@pytest.mark.parametrize("tone", [247, 6])
def test_a_frame_is_said_and_kept(tone):
    framed, told = soft(), list[str]()
    for side in (np.s_[:12], np.s_[-12:], np.s_[:, :12], np.s_[:, -12:]):
        framed[side] = tone
    assert has_frame(Picture(framed))
    assert not from_words("torn", Picture(framed)).any()
    Repair(cast=False, fading=False).found(Picture(framed), told.append)
    assert any("frame" in line and "border:" in line for line in told)
    assert not has_frame(Picture(soft()))


def test_repair_counts_what_it_found_and_names_the_option_to_leave_it():
    spoiled, truth = damage.torn(soft(1), np.random.default_rng(1))
    told = list[str]()
    mask = Repair(cast=False, fading=False).found(Picture(spoiled), told.append)
    assert (mask[truth] > 0).all()
    assert "1 torn edge (" in told[0]
    assert "--no-torn" in told[0]
    assert "--save-mask" in told[0]
    assert not Repair(torn=False).found(Picture(spoiled), silent)[truth].any()
