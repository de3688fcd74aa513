"""Differential diffusion: how far each pixel may move."""

import numpy as np
import pytest
from toy import Isotropic

from editkit import edit, stream
from editkit.errors import PictureError, UsageError
from editkit.pictures.picture import Picture
from editkit.plugins import Inpaint, Keep, SDEdit

PHOTO = Picture(np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8))
RUN = {"model": Isotropic(), "steps": 10, "sampler": "ddpm"}


def moved(edits, **given):
    return np.abs(edit(PHOTO, edits, **{**RUN, **given}).pixels.astype(int) - PHOTO.pixels)


def flat(value):
    return np.full(PHOTO.pixels.shape[:2], value, np.float32)


def test_white_is_the_edit_alone_and_a_map_without_any_is_refused():
    plain = edit(PHOTO, SDEdit(strength=0.8), **RUN).pixels
    free = edit(PHOTO, SDEdit(strength=0.8) & Keep(map=flat(1.0)), **RUN).pixels
    assert np.array_equal(plain, free)
    with pytest.raises(PictureError, match="is empty"):
        moved(SDEdit(strength=0.8) & Keep(map=flat(0.0)))


def test_the_lighter_the_further():
    """In the mean over all pixels; and half black, half white in one picture."""
    means = [moved(SDEdit(strength=1.0) & Keep(map=flat(v))).mean() for v in (0.25, 0.5, 0.75, 1.0)]
    assert means == sorted(means)
    assert means[3] > 1.3 * means[0]
    half = flat(0.0)
    half[:, 10:] = 1.0
    changed = moved(SDEdit(strength=1.0) & Keep(map=half))
    assert not changed[:, :10].any()
    assert changed[:, 10:].any()


def test_a_grey_pixel_is_the_noised_picture_until_its_strength_is_reached():
    """By the states: while k >= 5 of 10 levels are left, they are alpha y + sigma z."""
    y = PHOTO.pixels.astype(np.float64).transpose(2, 0, 1) / 127.5 - 1.0
    for update in stream(PHOTO, SDEdit(strength=1.0) & Keep(map=flat(0.5)), **RUN):
        level, x = update.state.level, update.state.x[0].double().numpy()
        z = (x - level.alpha * y) / max(level.sigma, 1e-9)
        slope = float((y * (x - level.alpha * y)).mean() / (y * y).mean())
        if level.index >= 5:
            assert abs(z.std() - 1.0) < 0.1
            assert abs(slope) < 0.15
    assert level.index == 0


def test_with_inpaint_the_mask_still_holds():
    changed = moved(Inpaint(mask="box:2,2,14,14") & Keep(map="box:8,0,20,16")).any(-1)
    assert changed[2:14, 8:14].any()
    changed[2:14, 8:14] = False
    assert not changed.any()


def test_without_a_map_it_says_what_is_needed():
    with pytest.raises(UsageError, match="keep needs map=: a picture"):
        moved(SDEdit() & Keep())
