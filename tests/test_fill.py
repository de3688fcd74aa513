"""What lies in a hole to begin with (`--fill`), and the best of several starts (`--tries`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy import Isotropic

from editkit import edit
from editkit.diffusion.noise import Streams
from editkit.editing.api import stream
from editkit.editing.coherence import misfit
from editkit.editing.settle import plan_stage
from editkit.models.patches.denoise import Bound, Settings
from editkit.pictures.filling import fill_hole, membrane
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain
from editkit_plugins.inpaint import Inpaint
from editkit_plugins.sdedit import SDEdit

BOX = "box:12,10,24,20"
INSIDE = np.s_[10:20, 12:24]


def photo(seed: int = 0) -> np.ndarray:
    """Two colours and a little noise."""
    random = np.random.default_rng(seed)
    base = np.full((34, 40, 3), 90)
    base[:, 20:] = (180, 120, 60)
    return (base + random.integers(-9, 10, base.shape)).astype(np.uint8)


def test_the_four_fills():
    image, mask = torch.rand(2, 3, 16, 20) * 2 - 1, torch.zeros(1, 1, 16, 20)
    mask[..., 4:9, 5:12] = 0.5
    inside = (mask > 0).expand_as(image)
    known = [image[k, :, mask[0, 0] == 0] for k in range(2)]
    made = {fill: fill_hole(image, mask, fill, Streams((1,)).stream("x")) for fill in ("smooth", "mean", "noise")}
    assert fill_hole(image, mask, "original") is image
    for fill in made.values():
        assert torch.equal(fill[~inside], image[~inside])
    for k in range(2):
        at = made["mean"][k][:, 5, 6]
        assert torch.allclose(at, known[k].mean(1), atol=1e-5)
        assert torch.allclose(made["noise"][k][:, mask[0, 0] > 0].mean(1), at, atol=0.3)
    assert torch.equal(made["smooth"], membrane(image, (mask > 0).float()))
    assert made["noise"][inside].std() > made["mean"][inside].std()
    with pytest.raises(ValueError, match="stream"):
        fill_hole(image, mask, "noise")


def test_sdedit_starts_from_the_fill():
    """As if the hole had been painted so before."""
    pixels = np.full((30, 36, 3), 60, np.uint8)
    painted = pixels.copy()
    pixels[INSIDE] = 250
    filled_in, by_hand, kept = (
        edit(p, Inpaint(mask=BOX, fill=fill) & SDEdit(strength=0.5), model=Isotropic()).pixels
        for p, fill in ((pixels, "mean"), (painted, "original"), (pixels, None))
    )
    assert np.array_equal(filled_in, by_hand)
    assert not np.array_equal(filled_in, kept)
    one, two = (
        edit(pixels, Inpaint(mask=BOX, fill="noise") & SDEdit(strength=0.5), model=Isotropic(), seed=s).pixels
        for s in (1, 1)
    )
    assert np.array_equal(one, two)


def test_original_is_what_patches_are_guided_by():
    """Only then does it matter what lies under the mask."""
    dark, light = photo(), photo()
    dark[INSIDE], light[INSIDE] = (90, 90, 90), (180, 120, 60)
    for fill, heeded in ((None, False), ("smooth", False), ("mean", False), ("noise", False), ("original", True)):
        a, b = (edit(p, Inpaint(mask=BOX, fill=fill), model="patches", steps=6, seed=2).pixels for p in (dark, light))
        assert (a[INSIDE] != b[INSIDE]).any() == heeded
        assert np.array_equal(np.delete(a, np.s_[10:20], 0), np.delete(dark, np.s_[10:20], 0))
    from_light, from_dark = (np.abs(p[INSIDE].astype(float) - (180, 120, 60)).mean() for p in (b, a))
    assert from_light < from_dark


def test_noise_is_no_guide():
    x, unknown = torch.rand(3, 20, 20), torch.zeros(20, 20, dtype=torch.bool)
    unknown[5:10, 5:10] = True
    assert Bound.of(x, unknown, Settings(), (), "noise").first_guide is None
    assert Bound.of(x, unknown, Settings()).first_guide is not None


def test_a_model_that_starts_from_noise_says_that_a_fill_changes_nothing():
    told: list[str] = []
    chain = Chain.of(Inpaint(mask=BOX, fill="mean"))
    plan_stage(chain.stages[0], Picture(photo()), told.append, Isotropic.info)
    assert [line for line in told if "--fill mean has no effect" in line]
    told.clear()
    plan_stage((chain & SDEdit()).stages[0], Picture(photo()), told.append, Isotropic.info)
    assert not told


def test_misfit_is_brute_force_and_none_where_all_is_copied():
    image, mask = torch.rand(1, 3, 13, 15), torch.zeros(1, 1, 13, 15)
    mask[..., 6:8, 7:9] = 1
    patches = [
        (y, x, image[0, :, y : y + 7, x : x + 7].flatten(), bool(mask[0, 0, y : y + 7, x : x + 7].any()))
        for y in range(7) for x in range(9)
    ]  # fmt: skip
    known = torch.stack([p for _, _, p, touches in patches if not touches])
    total = weights = 0.0
    for y, x, p, touches in patches:
        if touches:
            depth = float(mask[0, 0, y + 3, x + 3])  # a hole of two pixels is one deep
            w = 1.3**-depth
            total += w * float((known - p).square().sum(1).min())
            weights += w
    assert misfit(image, mask) == pytest.approx(total / weights, rel=1e-3)
    stripes = (torch.arange(24) % 4 < 2).float().expand(1, 3, 20, 24)
    hole = torch.zeros(1, 1, 20, 24)
    hole[..., 8:12, 8:14] = 1
    assert misfit(stripes, hole) == pytest.approx(0.0, abs=1e-4)
    assert misfit(torch.where(hole > 0, 0.5, stripes), hole) > 1.0


@pytest.mark.parametrize("mask", [torch.ones(1, 1, 20, 20), torch.zeros(1, 1, 20, 20)], ids=["all", "none"])
def test_misfit_of_nothing_is_nothing(mask):
    assert misfit(torch.rand(1, 3, 20, 20), mask) == 0.0
    assert misfit(torch.rand(1, 3, 5, 20), mask[..., :5, :]) == 0.0


def test_the_start_that_fits_best_goes_on():
    """The first passes are walked with other noise; the best of them by misfit is what the next pass enlarges."""
    pixels = photo()
    chain = Inpaint(mask=BOX)
    single = edit(pixels, chain, model=Isotropic(), seed=4).pixels
    seen, making = {}, stream(pixels, chain, model=Isotropic(), seed=4, tries=5)
    while True:
        try:
            update = next(making)
        except StopIteration as done:
            best = done.value.pixels
            break
        seen[update.pass_] = update.state.x
        assert update.plan.passes[update.pass_].attempt == update.pass_
    assert sorted(seen) == [0, 1, 2, 3, 4]
    mask = torch.zeros(1, 1, *seen[0].shape[-2:])
    mask[..., 10:20, 12:24] = 1
    fits = [misfit(seen[k], mask) for k in seen]
    kept = seen[int(np.argmin(fits))][0].permute(1, 2, 0).numpy()
    assert np.abs(best[INSIDE] - (kept[INSIDE].clip(-1, 1) + 1) * 127.5).max() <= 0.51
    first = seen[0][0].permute(1, 2, 0).numpy()
    assert np.abs(single[INSIDE] - (first[INSIDE].clip(-1, 1) + 1) * 127.5).max() <= 0.51


def test_one_try_is_the_edit_without_tries_and_the_plan_counts_them_all():
    stage = Chain.of(Inpaint(mask="box:30,30,90,90")).using(tries=3).stages[0]
    plain = Chain.of(Inpaint(mask="box:30,30,90,90")).stages[0]
    picture = Picture(np.zeros((120, 120, 3), np.uint8))
    three, one = plan_stage(stage, picture), plan_stage(plain, picture)
    assert len(three.passes) == len(one.passes) + 2
    assert three.calls == one.calls + 2 * one.passes[0].cost.calls
    assert [part.attempt for part in three.passes][:4] == [0, 1, 2, 0]


def test_tries_without_a_choice_say_so():
    told: list[str] = []
    picture = Picture(photo())
    for chain in (Chain.of(SDEdit()), Chain.of(Inpaint(mask="box:0,0,40,34"))):
        plan_stage(chain.using(tries=4).stages[0], picture, told.append, Isotropic.info)
    assert sum("has no effect: nothing is generated" in line for line in told) == 2
