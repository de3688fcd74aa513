"""The `patches` model: exact against brute force, differentiable, and honest about what it cannot do."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

import editkit
from editkit.diffusion.conditioning import Conditioning
from editkit.errors import ModelError
from editkit.models.patches.atlas import Atlas
from editkit.models.patches.denoise import Bound, Settings
from editkit.models.patches.info import Ladder
from editkit.models.patches.model import Patches
from editkit.models.patches.search import exact_posterior_mean, grow_coherent_matches, refine_matches, shortlist
from editkit.models.patches.votes import Voters
from editkit_plugins.inpaint import Inpaint

NOTHING = (Conditioning(),)


def level(ratio: float):
    """The level with sigma_t / alpha_t = `ratio`."""
    return Ladder().level(math.atan(ratio) * 2.0 / math.pi)


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


def hole(height: int, width: int, top: int, left: int, size: int) -> torch.Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : top + size, left : left + size] = True
    return mask


def noisy(x: torch.Tensor, ratio: float, seed: int = 1) -> torch.Tensor:
    at = level(ratio)
    return at.alpha * x + at.sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def test_one_patch_is_all_there_is():
    """A picture of one patch is the estimate of every x_t at every level."""
    x = picture(7, 7)
    model = Patches().attach(x[None], None)
    for ratio in (6.3, 1.0, 0.05):
        made = model(torch.randn(1, 3, 7, 7), level(ratio), NOTHING)[0]
        assert torch.allclose(made.x0[0], x, atol=1e-5)


def test_two_patches_are_weighted_by_the_softmax_of_the_formula():
    """log w_p = -|x_t - alpha_t p|^2 / 2 sigma_t^2; here the picture is one row of two patches of one column each."""
    settings = Settings(side=1)
    x = torch.tensor([[[0.2, -0.6]]]).expand(3, 1, 2).contiguous()
    at, x_t = level(0.7), torch.tensor([0.1, -0.3, 0.5])
    made = Bound.of(x, None, settings).denoise(x_t[:, None, None].expand(3, 1, 2).contiguous(), at, None)
    log_w = torch.stack([-(x_t - at.alpha * p).square().sum() / (2.0 * at.sigma**2) for p in x[:, 0].T])
    w = log_w.softmax(0)
    assert torch.allclose(made[:, 0, 0], w @ x[:, 0].T, atol=1e-5)


@pytest.mark.parametrize("guided", [False, True])
def test_the_posterior_mean_equals_brute_force(guided):
    """Every weight by a loop over all pairs; what guides, pieces of the picture or `lowres`, included."""
    x, unknown, settings = picture(12, 11), hole(12, 11, 4, 4, 3), Settings(side=3)
    bound, at = Bound.of(x, unknown, settings), level(0.8)
    lowres = picture(12, 11, 5) * 0.2 if guided else None
    queries = bound._make_queries(noisy(x, 0.8), at, lowres)
    sources = bound._make_sources(lowres)
    mean = exact_posterior_mean(queries, sources)
    low_picture = bound.first_guide if lowres is None else lowres
    for q in range(0, len(queries), 3):
        log_w, patches = [], []
        for corner in bound.atlas.corners.tolist():
            top, left = divmod(corner, 11)
            p = x[:, top : top + 3, left : left + 3].reshape(3, 9).T
            d = ((queries.values[q] - p).square().sum(1) * queries.weights[q]).sum()
            spots = [(dy, dx) for dy in (0, 1, 2) for dx in (0, 1, 2)]
            low = torch.stack([low_picture[:, top + dy, left + dx] for dy, dx in spots])
            tau = settings.tau_lowres
            d = d + (queries.guide[q] - low).square().sum() / tau**2
            log_w.append(-0.5 * d)
            patches.append(p)
        expected = torch.einsum("p,pic->ic", torch.stack(log_w).softmax(0), torch.stack(patches))
        assert torch.allclose(mean[q], expected, atol=1e-4)


def test_the_search_finds_the_nearest_patches():
    """Shortlist and neighbours against all pairs: the best of nearly every query, and never something unknown."""
    smooth = torch.nn.functional.interpolate(picture(10, 10)[None], (60, 60), mode="bicubic")[0]
    x = (smooth + 0.1 * picture(60, 60, 2)).clamp(-1, 1)
    unknown = hole(60, 60, 20, 20, 15)
    bound = Bound.of(x, unknown, Settings(most=300))
    queries, sources = bound._make_queries(noisy(x, 0.2), level(0.2), None), bound._make_sources(None)
    found = refine_matches(queries, sources, shortlist(queries, sources, 8), 4, rounds=3)
    assert bound.atlas.complete[found].all()
    d = sources.distance(queries, found)
    every = replace(sources, grid=bound.atlas.corners)
    best = every.distance(queries, bound.atlas.corners.expand(len(queries), -1)).amin(1)
    assert (d[:, 1:] >= d[:, :-1]).all()
    assert (d[:, 0] <= best * 1.05 + 1e-3).float().mean() > 0.9


@pytest.mark.parametrize("exact", [1 << 20, 0])
def test_low_noise_gives_the_picture_back(exact):
    """At low noise the nearest patch of a known picture is the picture's own."""
    x = picture(30, 40)
    made = Bound.of(x, None, Settings(exact=exact, dense=10**6)).denoise(noisy(x, 0.05), level(0.05), None)
    assert (made - x).abs().max() < 1e-3


@pytest.mark.parametrize("exact", [1 << 20, 0])
def test_the_gradient_is_that_of_finite_differences(exact):
    """Through the softmax of all sources, and through the weights of the candidates."""
    x, unknown = picture(9, 9).double(), hole(9, 9, 3, 3, 2)
    bound = Bound.of(x, unknown, Settings(side=3, exact=exact))
    assert gradcheck(
        lambda x_t: bound.denoise(x_t, level(2.0), None), (noisy(x, 2.0).requires_grad_(),), eps=1e-6, atol=1e-5
    )


def test_matches_grow_from_the_rim():
    """With all the slack there is every patch inside goes on with a shallower neighbour's source; with none, only where
    that is no worse than its own."""
    x, unknown = picture(40, 40), hole(40, 40, 12, 12, 14)
    bound = Bound.of(x, unknown, Settings())
    queries, sources = bound._make_queries(noisy(x, 0.5), level(0.5), None), bound._make_sources(None)
    nearest = refine_matches(queries, sources, shortlist(queries, sources, 8), 1, rounds=2)[:, 0]
    none, all_of_it = (torch.full_like(bound.depth, value) for value in (0.0, float("inf")))
    better = grow_coherent_matches(queries, sources, nearest, bound.depth, none)
    d = [sources.distance(queries, corners[:, None])[:, 0] for corners in (nearest, better)]
    assert (d[1] <= d[0]).all()
    grown = grow_coherent_matches(queries, sources, nearest, bound.depth, all_of_it)
    assert bound.atlas.complete[grown].all()
    assert torch.equal(grown[bound.depth == 0], nearest[bound.depth == 0])
    handed = grown[queries.neighbours] + queries.steps
    shallower = bound.depth[queries.neighbours] < bound.depth[:, None]
    inside = (handed >= 0) & (handed < len(bound.atlas.complete))
    possible = inside & shallower & bound.atlas.complete[handed.clamp(0, len(bound.atlas.complete) - 1)]
    follows = (possible & (handed == grown[:, None])).any(1)
    assert follows[possible.any(1)].all()


def test_a_copied_patch_takes_the_guides_mean_colour():
    """By at most `bias`; the gradient is that of the mean of the candidates."""
    x, unknown = picture(20, 20) * 0.5, hole(20, 20, 7, 7, 5)
    bound = Bound.of(x, unknown, Settings(bias=0.05))
    low = torch.nn.functional.avg_pool2d(x[None], 5, 1, 2)[0]
    corners = bound.atlas.corners[: len(bound.corners)]
    for shift, moved in ((0.02, 0.02), (-0.3, -0.05)):
        queries, sources = bound._make_queries(noisy(x, 0.5), level(0.5), low), bound._make_sources(low)
        there = sources.guide.patches(corners, bound.spots)
        made = bound._copy_patches(replace(queries, guide=there + shift), sources, corners)
        assert torch.allclose(made, bound.atlas.patches(corners) + moved, atol=1e-6)
    settings = Settings(exact=0)
    x_t = noisy(x, 0.5).requires_grad_()
    made = Bound.of(x, unknown, settings).denoise(x_t, level(0.5), low)
    (slope,) = torch.autograd.grad(made.sum(), x_t)
    assert slope[:, unknown].abs().sum() > 0


def test_known_pixels_come_back_and_nothing_is_changed():
    x, unknown = picture(24, 30), hole(24, 30, 8, 10, 6)
    x_t = noisy(x, 1.0)
    before = x.clone(), x_t.clone()
    model = Patches().attach(x[None], unknown[None, None].float())
    made = model(x_t[None], level(1.0), NOTHING)[0]
    assert torch.equal(made.x0[0][:, ~unknown], x[:, ~unknown])
    assert torch.allclose(level(1.0).alpha * made.x0 + level(1.0).sigma * made.eps, x_t[None], atol=1e-5)
    assert torch.equal(x, before[0])
    assert torch.equal(x_t, before[1])


def test_nothing_under_the_mask_is_looked_at():
    x, unknown = picture(24, 30), hole(24, 30, 8, 10, 6)
    other = torch.where(unknown, torch.ones(3, 24, 30), x)
    x_t = noisy(picture(24, 30, 9), 1.0)
    made = [Bound.of(p, unknown, Settings()).denoise(x_t, level(1.0), None) for p in (x, other)]
    assert torch.equal(made[0], made[1])


def test_a_batch_is_its_items():
    x = torch.stack([picture(20, 20), picture(20, 20, 3)])
    mask = torch.stack([hole(20, 20, 5, 5, 4), hole(20, 20, 9, 2, 6)])[:, None].float()
    x_t = torch.stack([noisy(v, 0.5) for v in x])
    both = Patches().attach(x, mask)(x_t, level(0.5), NOTHING)[0].x0
    for k in range(2):
        one = Patches().attach(x[k : k + 1], mask[k : k + 1])(x_t[k : k + 1], level(0.5), NOTHING)[0].x0
        assert torch.allclose(both[k], one[0], atol=1e-6)


def test_patches_that_agree_are_left_alone_by_the_votes():
    """Patches cut from one picture give it back, whatever their weights."""
    x = picture(15, 18)
    atlas = Atlas.of([x], [torch.ones(15, 18, dtype=torch.bool)], 5)
    voters = Voters(atlas.corners, atlas, 1, torch.rand(len(atlas.corners)) + 0.1)
    for t in (0.9, 0.1):
        assert torch.allclose(voters.vote(atlas.patches(atlas.corners), t, x.shape), x, atol=1e-5)


def test_mirrored_patches():
    x, unknown = picture(12, 16), hole(12, 16, 4, 6, 3)
    plain, both = (Bound.of(x, unknown, Settings(side=5, mirror=m)) for m in (False, True))
    assert len(both.atlas.corners) == 2 * len(plain.atlas.corners)
    corner = torch.tensor([16 + 2])  # the mirrored picture's first row, third column
    assert torch.equal(both.atlas.patches(corner)[0].T.view(3, 5, 5), x.flip(-1)[:, :5, 2:7])
    made = both.denoise(noisy(x, 0.5), level(0.5), None)
    assert torch.equal(made[:, ~unknown], x[:, ~unknown])


def test_patches_of_several_scales():
    """What is known of a smaller view are the means of known pixels alone, and a hole may be filled with them."""
    x, unknown = picture(24, 32), hole(24, 32, 8, 12, 5)
    plain, more = (Bound.of(x, unknown, Settings(side=5, scales=scales)) for scales in ((), (0.5,)))
    small = torch.nn.functional.avg_pool2d(x, 2)
    known = torch.nn.functional.max_pool2d(unknown[None].float(), 2)[0] == 0
    inside = (known.float()[None, None].unfold(2, 5, 1).unfold(3, 5, 1) == 1).all(-1).all(-1)[0, 0]
    assert len(more.atlas.corners) == len(plain.atlas.corners) + int(inside.sum())
    y, x0 = inside.nonzero()[0].tolist()
    patch = more.atlas.patches(torch.tensor([y * more.atlas.width + 32 + x0]))[0].T.view(3, 5, 5)
    assert torch.allclose(patch, small[:, y : y + 5, x0 : x0 + 5], atol=1e-6)
    made = more.denoise(noisy(x, 0.5), level(0.5), torch.zeros_like(x))
    assert torch.equal(made[:, ~unknown], x[:, ~unknown])
    assert more.settings.bytes(100, 100) > plain.settings.bytes(100, 100)


def test_a_striped_hole_is_filled_with_stripes():
    """The whole process: what continues the surroundings exactly is found."""
    x = torch.where(torch.arange(32) // 4 % 2 == 0, -0.8, 0.8).expand(1, 3, 32, 32).contiguous()
    mask = hole(32, 32, 11, 11, 9)[None, None].float()
    made = editkit.sample(Patches(), [Inpaint()], shape=x.shape, known=x, mask=mask, sampler="ddim", steps=10, seed=3)
    assert (made - x).abs().mean() < 0.02


def test_the_ladder_falls_in_equal_ratios_and_ends_clean():
    levels = Ladder().levels(8)
    ratios = [v.sigma / v.alpha for v in levels[1:]]
    assert levels[0].sigma == 0.0
    assert [v.index for v in levels] == list(range(9))
    assert ratios[-1] == pytest.approx(6.3)
    assert ratios[0] == pytest.approx(0.05)
    assert ratios[1] / ratios[0] == pytest.approx(ratios[-1] / ratios[-2])


def test_what_it_cannot_do():
    with pytest.raises(ModelError, match="use a smaller mask"):
        Patches().attach(picture(20, 20)[None], torch.ones(1, 1, 20, 20))
    with pytest.raises(ModelError, match="use a smaller mask"):  # a model of one's own is not exchanged for another
        editkit.edit(np.zeros((24, 24, 3), np.uint8), Inpaint(mask="box:0,0,24,24"), model=Patches())
    with pytest.raises(ModelError, match="7x7 pixels, and the picture is only 6x20"):
        Patches().attach(picture(20, 6)[None], None)
    with pytest.raises(ModelError, match="there is none"):
        Patches().attach(None, None)
    with pytest.raises(ModelError, match="attach"):
        Patches()(torch.zeros(1, 3, 8, 8), level(1.0), NOTHING)
    with pytest.raises(ModelError, match="MiB are free"):
        Patches(Settings(side=4001)).attach(torch.zeros(1, 3, 6000, 6000), None)


def test_fewer_patches_in_wide_holes_still_cover_every_pixel():
    """Every second patch above `dense` pixels, every third where the hole is `deep`; a plain picture stays plain."""
    unknown = torch.zeros(90, 80, dtype=torch.bool)
    unknown[20:71, 15:66] = True  # 51x51: no multiple of two or three
    plain = torch.tensor([0.3, -0.2, 0.5]).view(3, 1, 1).expand(3, 90, 80).contiguous()
    counts = []
    for dense, deep in ((10**6, 16.0), (1000, 100.0), (1000, 16.0)):
        bound = Bound.of(plain, unknown, Settings(dense=dense, deep=deep))
        counts.append(len(bound.corners))
        seen = torch.zeros(90 * 80, dtype=torch.bool)
        seen[(bound.corners[:, None] + bound.atlas.offsets).reshape(-1)] = True
        assert bool(seen.view(90, 80)[unknown].all())
        made = bound.denoise(noisy(plain[None], 0.05)[0], level(0.05), plain)
        assert float((made - plain).abs().max()) < 1e-4
    assert counts[0] > 3 * counts[1] > 6 * counts[2]
