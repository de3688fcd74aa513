"""Boxes, ladders and shrinking: integers that must hold for every picture and mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import editkit
from editkit.diffusion.prediction import Prediction
from editkit.editing.passes import DEEP, NEAR, REDRAW, SLACK, by_windows, passes
from editkit.models import Gaussian
from editkit.models.patches.info import COARSEST, ladder
from editkit.pictures.boxes import GAIN, Box, around, coverage, crops
from editkit.pictures.resizing import HIDDEN, resize_mask, shrink
from editkit_plugins.inpaint import Inpaint

sides = st.integers(8, 700)


@st.composite
def masks(draw):
    """A picture's size and a mask with at least one pixel."""
    height, width = draw(sides), draw(sides)
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


@given(masks(), st.floats(1.0, 4.0), st.integers(0, 300))
@settings(max_examples=60)
def test_the_box_contains_the_mask_and_lies_inside_the_picture(mask, context, least):
    box = around(mask, context, least)
    height, width = mask.shape
    assert 0 <= box.left < box.right <= width
    assert 0 <= box.top < box.bottom <= height
    outside = mask.copy()
    outside[box.top : box.bottom, box.left : box.right] = False
    assert not outside.any()
    assert box.width >= min(least, width)
    assert box.height >= min(least, height)


@given(masks(), st.integers(1, 100))
@settings(max_examples=60)
def test_a_ladder_rises_to_the_box(mask, steps):
    height, width = mask.shape
    rungs = ladder(Box(0, 0, width, height), steps, 22, mask)
    assert (rungs[-1].height, rungs[-1].width) == (max(7, height), max(7, width))
    for low, high in zip(rungs, rungs[1:], strict=False):
        assert low.height <= high.height
        assert low.width <= high.width
        assert max(low.height, low.width) < max(high.height, high.width)
    # The first pass has nothing to start from; every other one keeps the structure of the one before.
    assert rungs[0].strength == 1.0
    assert all(p.strength < 1.0 for p in rungs[1:])
    assert all(p.plan().moves for p in rungs)


def test_the_first_pass_depends_on_the_width_of_the_hole():
    """A stroke that vanishes when it is made small starts from the mean of what is around it, a blob from noise."""
    box = Box(0, 0, 400, 300)
    stroke, blob = np.zeros((300, 400), bool), np.zeros((300, 400), bool)
    stroke[100:104, 50:350] = True
    blob[50:200, 100:300] = True
    thin, thick = ladder(box, 22, 22, stroke), ladder(box, 22, 22, blob)
    assert thin[0].steps == 1
    assert thin[0].width >= thick[0].width >= COARSEST
    assert thick[0].steps > 1
    assert (thick[-1].steps, thin[-1].steps) == (3, 4)
    assert not (coverage(stroke, thin[0].height, thin[0].width) > HIDDEN).any()
    assert (coverage(stroke, thin[1].height, thin[1].width) > HIDDEN).any()


@given(masks(), st.data())
@settings(max_examples=40)
def test_coverage_is_the_mean_over_each_new_pixel(mask, data):
    """The same cells as torch's adaptive mean, without torch: a plan is made before it is imported."""
    height = data.draw(st.integers(1, mask.shape[0]))
    width = data.draw(st.integers(1, mask.shape[1]))
    expected = F.adaptive_avg_pool2d(torch.from_numpy(mask)[None, None].double(), (height, width))[0, 0]
    assert np.allclose(coverage(mask, height, width), expected.numpy())


def test_shrinking_looks_at_known_pixels_only():
    image = torch.rand(1, 3, 40, 50) * 2 - 1
    mask = torch.zeros(1, 1, 40, 50)
    mask[..., 10:25, 12:30] = 1.0
    painted = torch.where(mask > 0, torch.ones_like(image), image)
    for size in ((20, 25), (13, 17)):
        small, small_mask = shrink(image, mask, *size)
        other, _ = shrink(painted, mask, *size)
        assert torch.equal(small, other)
        hard = (coverage(mask[0, 0].numpy() > 0, *size) > HIDDEN).astype(np.float32)
        assert np.array_equal(small_mask[0, 0].numpy(), hard)
        assert small.abs().max() <= 1.0


def test_a_shrunken_mask_covers_every_masked_pixel():
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 5, 40] = 1.0
    assert resize_mask(mask, 8, 8)[0, 0].nonzero().tolist() == [[0, 5]]


@pytest.mark.parametrize(
    "region", [(0, 0, 6, 6), (20, 20, 21, 21), (0, 0, 40, 12), (5, 5, 30, 30)], ids=["corner", "pixel", "side", "large"]
)
def test_known_pixels_come_back_bit_for_bit_wherever_the_hole_lies(region):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, 44, 3), dtype=np.uint8)
    mask = np.zeros((40, 44), np.uint8)
    top, left, bottom, right = region
    mask[top:bottom, left:right] = 255
    made = editkit.edit(pixels, Inpaint(mask=mask), model="patches", steps=4).pixels
    assert (made[mask == 0] == pixels[mask == 0]).all()


@pytest.mark.parametrize(
    "region",
    [(31, 40, 32, 41), (0, 0, 1, 1), (63, 79, 64, 80), (0, 20, 18, 44), (10, 0, 50, 12), (4, 4, 60, 76)],
    ids=["pixel", "corner pixel", "last pixel", "upper border", "left border", "most of the picture"],
)
def test_a_hole_is_filled_with_what_surrounds_it_wherever_it_lies(region):
    """Stripes go on, into one pixel, along a border, and from a rim of four pixels."""
    truth = np.where((np.arange(80) // 5 % 2 == 0)[None, :, None], 60, 190).repeat(64, 0).repeat(3, 2).astype(np.uint8)
    mask = np.zeros((64, 80), np.uint8)
    top, left, bottom, right = region
    mask[top:bottom, left:right] = 255
    hidden = truth.copy()
    hidden[mask > 0] = 255
    made = editkit.edit(hidden, Inpaint(mask=mask), model="patches", seed=1).pixels
    assert (made[mask == 0] == truth[mask == 0]).all()
    if region == (4, 4, 60, 76):  # squares of seven do not fit into the rim: a membrane, within what the rim has
        assert made[mask > 0].min() >= 60
        assert made[mask > 0].max() <= 190
        return
    assert np.abs(made[mask > 0].astype(int) - truth[mask > 0]).mean() < 13  # a tenth of their contrast


def test_a_hole_larger_than_what_is_around_it():
    """Three quarters of the picture: what is known fits the crop only on two sides."""
    truth = np.where((np.arange(96) // 6 % 2 == 0)[None, :, None], 60, 190).repeat(72, 0).repeat(3, 2).astype(np.uint8)
    mask = np.zeros((72, 96), np.uint8)
    mask[14:, 10:86] = 255
    hidden = truth.copy()
    hidden[mask > 0] = 255
    made = editkit.edit(hidden, Inpaint(mask=mask), model="patches", seed=1).pixels
    assert (made[mask == 0] == truth[mask == 0]).all()
    assert made[mask > 0].max() < 215  # nothing of what lay under the mask
    assert np.abs(np.diff(made[40:].astype(int), axis=1)).max() > 80  # stripes, not their mean


def test_two_holes_far_apart_are_both_filled():
    pixels = np.full((60, 200, 3), 90, np.uint8)
    mask = np.zeros((60, 200), np.uint8)
    mask[20:30, 10:20] = mask[20:30, 180:190] = 255
    hidden = pixels.copy()
    hidden[mask > 0] = 255
    made = editkit.edit(hidden, Inpaint(mask=mask), model="patches", steps=8).pixels
    assert np.abs(made.astype(int) - 90).max() <= 2


def test_models_without_a_window_work_in_one_pass():
    from editkit.pictures.picture import Picture
    from editkit.plugin.options import Options

    picture = Picture(np.zeros((30, 40, 3), np.uint8))
    (only,) = passes(picture, Gaussian(torch.zeros(3), torch.eye(3)).info, Options(), True)
    assert only.box == Box(0, 0, 40, 30)


@st.composite
def scattered(draw):
    """A mask of one to five rectangles anywhere."""
    height, width = draw(st.integers(20, 900)), draw(st.integers(20, 900))
    mask = np.zeros((height, width), np.float32)
    for _ in range(draw(st.integers(1, 5))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask[top : top + draw(st.integers(1, 60)), left : left + draw(st.integers(1, 60))] = 1.0
    return mask


@given(scattered(), st.integers(0, 128))
@settings(max_examples=80)
def test_crops_hold_every_hole_do_not_meet_and_save_work(mask, least):
    boxes, joint = crops(mask, NEAR, least), around(mask, NEAR, least)
    rest = mask.copy()
    for k, box in enumerate(boxes):
        assert 0 <= box.left < box.right <= mask.shape[1]
        assert 0 <= box.top < box.bottom <= mask.shape[0]
        assert not any(box.overlaps(other) for other in boxes[k + 1 :])
        rest[box.rows, box.columns] = 0.0
    assert not rest.any()
    assert boxes == (joint,) or GAIN * sum(box.area for box in boxes) <= joint.area


def test_holes_far_apart_have_crops_of_their_own():
    mask = np.zeros((2000, 3000), np.float32)
    mask[100:180, 100:180] = mask[1700:1760, 2800:2860] = 1.0
    near, far = crops(mask, NEAR, 384)
    assert (near.width, near.height, far.width, far.height) == (384, 384, 384, 384)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(8, 1024), st.booleans())
@settings(max_examples=100)
def test_a_model_sees_its_window_and_little_more(height, width, window, invents):
    """The first of several passes fits a window, each is at most twice the one before, the last is native."""
    rungs = by_windows(Box(0, 0, width, height), 20, window, invents)
    assert (rungs[-1].height, rungs[-1].width) == (height, width)
    for rung in rungs:
        assert rung.window is not None or max(rung.height, rung.width) <= SLACK * window
    assert rungs[0].strength == 1.0
    if not invents:
        assert len(rungs) == 1
    for low, high in zip(rungs, rungs[1:], strict=False):
        assert high.strength < 1.0
        assert max(high.height, high.width) <= 2 * max(low.height, low.width) + 1


def test_strokes_are_drawn_at_once_and_a_wide_hole_small_first():
    box, strokes = Box(0, 0, 300, 300), np.zeros((300, 300), bool)
    strokes[20:280:40, 10:290] = True
    strokes[140:160] = True
    (only,) = by_windows(box, 20, 64, True, strokes)
    assert (only.height, only.window, only.strength) == (300, 64, 1.0)
    first, finer = by_windows(box, 20, 20, True, strokes)  # their 10 pixels are too deep for a window of 20
    assert first.height == pytest.approx(300 * DEEP * 20 / 10, abs=1)
    assert (first.window, first.strength) == (20, 1.0)
    assert (finer.height, finer.strength) == (300, REDRAW)
    wide = strokes.copy()
    wide[100:200, 80:220] = True
    for hole in (wide, np.ones((300, 300), bool), None):
        first, *finer = by_windows(box, 20, 64, True, hole)
        assert (first.height, first.window) == (64, None)
        assert all(rung.strength == REDRAW for rung in finer)


@pytest.fixture
def windowed():
    """An exact model that was "trained" at 32 pixels and serves down to 24."""
    from toy import Isotropic

    from editkit.models import ModelInfo

    model = Isotropic()
    model.info = ModelInfo("windowed", "test", sampler="ddim", steps=6, window=32, least=24)
    seen = []
    original = model.__class__.__call__

    class Seeing(Isotropic):
        info = model.info

        def __call__(self, x_t, level, conds):
            seen.append(tuple(x_t.shape))
            return original(self, x_t, level, conds)

    return Seeing(), seen


def test_a_small_hole_costs_a_small_crop_whatever_the_picture(windowed):
    model, seen = windowed
    for side in (60, 400):
        mask = np.zeros((side, side), np.uint8)
        mask[5:15, 5:15] = 255
        editkit.edit(np.full((side, side, 3), 90, np.uint8), Inpaint(mask=mask), model=model)
    assert {shape[-2:] for shape in seen} == {(24, 24)}


def test_a_hole_larger_than_the_window_is_invented_whole_and_refined_by_windows(windowed):
    model, seen = windowed
    pixels = np.random.default_rng(0).integers(0, 256, (200, 150, 3), dtype=np.uint8)
    mask = np.zeros((200, 150), np.uint8)
    mask[40:120, 30:100] = 255
    made = editkit.edit(pixels, Inpaint(mask=mask), model=model).pixels
    assert (made[mask == 0] == pixels[mask == 0]).all()
    assert (made[mask > 0] != pixels[mask > 0]).any()
    assert max(max(shape[-2:]) for shape in seen) <= SLACK * 32


def test_what_a_finer_pass_starts_from_meets_the_known_pixels():
    """The coarser pass of this model is far too bright; at its rim the finer pass is told what is known there."""
    from toy import Isotropic

    from editkit.models import ModelInfo

    told = []

    class Bright(Isotropic):
        info = ModelInfo("bright", "test", frozenset({"lowres"}), sampler="ddim", steps=4, window=32)

        def __call__(self, x_t, level, conds):
            told.extend(cond.lowres for cond in conds if cond.lowres is not None)
            x0 = torch.full_like(x_t, 0.9)
            return tuple(Prediction(x0, (x_t - level.alpha * x0) / level.sigma) for _ in conds)

    mask = np.zeros((64, 64), np.uint8)
    mask[17:47, 17:47] = 255
    editkit.edit(np.full((64, 64, 3), 64, np.uint8), Inpaint(mask=mask), model=Bright())
    known = 64 / 127.5 - 1.0
    assert told
    assert max(float(z.max()) for z in told) < known + 0.3  # not 0.9


def test_a_mask_of_everything_is_a_hole_like_any_other(windowed):
    model, seen = windowed
    made = editkit.edit(np.zeros((70, 90, 3), np.uint8), Inpaint(mask=np.full((70, 90), 255, np.uint8)), model=model)
    assert made.pixels.shape == (70, 90, 3)
    assert max(max(shape[-2:]) for shape in seen) <= SLACK * 32


def test_far_holes_are_each_worked_on_alone_and_both_filled(windowed):
    model, seen = windowed
    pixels = np.full((100, 600, 3), 90, np.uint8)
    mask = np.zeros((100, 600), np.uint8)
    mask[20:26, 10:16] = mask[70:76, 580:586] = 255
    made = editkit.edit(pixels, Inpaint(mask=mask), model=model).pixels
    assert {shape[-2:] for shape in seen} == {(24, 24)}
    assert len(seen) == 2 * 6
    assert (made[mask == 0] == 90).all()
    assert all((made[part][mask[part] > 0] != 90).any() for part in (np.s_[:, :300], np.s_[:, 300:]))
