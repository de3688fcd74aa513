"""Random numbers and batches that are a function of seed and step, and what is cut from the photographs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from toy_training import photos, prior_run, settings

from editkit.models.pocket.residual import depth, eroded_depth
from editkit.training import prior
from editkit.training.conditions import blur
from editkit.training.draws import Draws, _mix_bits, split_count
from editkit.training.loop import Run
from editkit.training.masks import KINDS, random_masks
from editkit.training.pictures import Photograph, crop, halve, load_collection
from editkit.training.prior import PriorLesson
from editkit.training.store import Store

__all__ = ["photos"]

CPU = torch.device("cpu")


def test_the_hash_is_splitmix64() -> None:
    """The first outputs of SplitMix64 from seed 1234567, as published with it."""
    known = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431)
    golden = 0x9E3779B97F4A7C15
    assert tuple(_mix_bits((1234567 + k * golden) % 2**64) for k in range(1, 5)) == known


def test_tensors_hash_as_the_host_does() -> None:
    golden, one, other = 0x9E3779B97F4A7C15, Draws((3, 14), CPU), Draws((3, 14), CPU)
    start = other._next()
    expected = [_mix_bits((start + k * golden) % 2**64) for k in range(1, 101)]
    assert [word % 2**64 for word in one._bits(100).tolist()] == expected


def test_draws_are_a_function_of_key_and_call() -> None:
    a, b = Draws((1, 2), CPU), Draws((1, 2), CPU)
    assert torch.equal(a.uniform(3, 5), b.uniform(3, 5))
    second = a.uniform(3, 5)
    assert torch.equal(second, b.uniform(3, 5))
    assert torch.equal(a.normal(7), b.normal(7))
    assert a.scalar() == b.scalar()
    assert not torch.equal(Draws((1, 2), CPU).uniform(3, 5), second)
    keys = {Draws(key, CPU).key for key in [(s, n, k) for s in range(5) for n in range(2000) for k in range(3)]}
    assert len(keys) == 30_000


def test_draws_have_the_distributions_they_say() -> None:
    """Bounds are five standard errors of 10^6 draws."""
    source = Draws((5, 6), CPU)
    u, z = source.uniform(1_000_000).double(), source.normal(1_000_001).double()
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(float(u.mean()) - 0.5) < 5 * math.sqrt(1 / 12 / 1e6)
    counts = torch.histc(u, 100, 0.0, 1.0)
    assert float(((counts - 1e4) ** 2 / 1e4).sum()) < 99 + 5 * math.sqrt(2 * 99)
    assert abs(float((u[1:] * u[:-1]).mean()) - 0.25) < 5 * math.sqrt(7 / 144 * 1.5 / 1e6)
    assert abs(float(z.mean())) < 5e-3
    assert abs(float(z.square().mean()) - 1) < 5 * math.sqrt(2 / 1e6)
    assert abs(float(z.pow(4).mean()) - 3) < 5 * math.sqrt(96 / 1e6)
    inside = float((z.abs() < 1).double().mean())
    assert abs(inside - math.erf(math.sqrt(0.5))) < 5 * math.sqrt(0.25 / 1e6)


def test_shares_are_met_within_one_and_in_the_mean() -> None:
    source, shares = Draws((0,), CPU), (0.24, 0.48, 0.14, 0.14)
    rows = torch.tensor([split_count(10, shares, source) for _ in range(4000)], dtype=torch.float64)
    expected = torch.tensor(shares, dtype=torch.float64) * 10
    assert bool((rows.sum(1) == 10).all())
    assert bool(((rows - expected).abs() < 1).all())
    assert bool(((rows.mean(0) - expected).abs() < 5 * 0.5 / math.sqrt(4000)).all())
    assert split_count(3, (1.0, 0.0), source) == [3, 0]


@pytest.mark.parametrize("window", [16, 24])
def test_a_batch_cuts_what_crop_cuts(photos: Path, window: int) -> None:
    """Every crop of the reference, from the numbers that it drew."""
    found = load_collection(photos, window).training
    store = Store(found, window, CPU)
    u = torch.stack([torch.rand(5, generator=torch.Generator().manual_seed(k)) for k in range(60)], dim=1)
    which = torch.arange(60) % len(found)
    expected = torch.stack([crop(found[k % len(found)], window, torch.Generator().manual_seed(k)) for k in range(60)])
    torch.testing.assert_close(store.cut(which, u), expected, atol=1e-5, rtol=0)


def test_photographs_of_any_depth_of_levels_and_any_channels(photos: Path) -> None:
    big = torch.randint(0, 256, (6, 130, 97), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    levels = (big, halve(big), halve(halve(big)))
    small = Photograph("small", (big[:, :20, :17].contiguous(),))
    found = (small, Photograph("big", levels))
    store = Store(found, 16, CPU)
    u = torch.stack([torch.rand(5, generator=torch.Generator().manual_seed(k)) for k in range(40)], dim=1)
    expected = torch.stack([crop(found[k % 2], 16, torch.Generator().manual_seed(k)) for k in range(40)])
    torch.testing.assert_close(store.cut(torch.arange(40) % 2, u), expected, atol=1e-5, rtol=0)
    assert store.draw(8, Draws((1,), CPU)).shape == (8, 6, 16, 16)
    # A photograph comes in proportion to the root of its area: five standard errors of 20,000 draws.
    roots = [math.sqrt(20 * 17), math.sqrt(130 * 97)]
    share = roots[0] / sum(roots)
    which = torch.searchsorted(store.chances, Draws((2,), CPU).uniform(20_000).double(), right=True)
    assert abs(float((which == 0).double().mean()) - share) < 5 * math.sqrt(share * (1 - share) / 20_000)


def test_blurring_is_two_resizes() -> None:
    x0 = torch.rand((6, 3, 32, 32), generator=torch.Generator().manual_seed(0)) * 2 - 1
    factors, area = torch.tensor([1.5, 2.0, 3.3, 8.0, 2.0, 5.0]), torch.tensor([False, False, True, False, True, True])
    for row, (factor, kind) in enumerate(zip(factors.tolist(), area.tolist(), strict=True)):
        size = max(4, round(32 / factor))
        if kind:
            low = F.interpolate(x0[row : row + 1], size=(size, size), mode="area")
        else:
            low = F.interpolate(x0[row : row + 1], size=(size, size), mode="bicubic", antialias=True)
        expected = F.interpolate(low, size=(32, 32), mode="bicubic").clamp(-1, 1)
        torch.testing.assert_close(blur(x0, factors, area)[row : row + 1], expected, atol=1e-5, rtol=0)


def test_erosions_count_what_the_distance_is() -> None:
    mask = random_masks(40, 24, Draws((4,), CPU))
    mask[0], mask[1] = 1.0, 0.0
    assert torch.equal(eroded_depth(mask), depth(mask))
    assert torch.equal(eroded_depth(mask[..., :17]), depth(mask[..., :17]))


def test_kinds_of_holes_have_their_shares() -> None:
    """A border is unknown in all four corners, a box in few: what is counted is the mean area of the parts in order."""
    masks, ends = random_masks(600, 16, Draws((9,), CPU)), [0]
    for share in KINDS.values():
        ends.append(ends[-1] + share * 600)
    corners = masks[:, 0][:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1)
    assert float(corners[round(ends[-2]) + 1 :].mean()) > 0.8
    assert float(corners[: round(ends[1]) - 1].mean()) < 0.2


def test_batches_are_a_function_of_seed_and_step(photos: Path) -> None:
    lesson, again = PriorLesson(settings(photos, batch=16)), PriorLesson(settings(photos, batch=16))
    first, second = lesson.draw(3), lesson.draw(4)
    other = PriorLesson(settings(photos, batch=16, seed=1)).draw(3)
    again.draw(0)
    repeated = again.draw(3)
    for name, value in vars(first).items():
        if value is None:
            continue
        assert torch.equal(value, vars(repeated)[name]), name
    assert not torch.equal(first.x0, second.x0)
    assert not torch.equal(first.eps, other.eps)
    validation = [(batch.x0, batch.condition, batch.t) for batch in lesson.validation()]
    for (x0, condition, t), batch in zip(validation, again.validation(), strict=True):
        assert torch.equal(x0, batch.x0)
        assert torch.equal(condition, batch.condition)
        assert torch.equal(t, batch.t)


@pytest.mark.slow
def test_a_compiled_run_is_one_graph_and_gives_the_same_weights(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, without the processor's faster operations, and without the code that would be made of the graph:
    what is measured between the steps is not compiled, it has batches of other sizes.
    """
    from torch._dynamo.utils import counters

    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: real(self, backend="aot_eager"))
    monkeypatch.setattr(prior, "use_fast_operations", lambda unet: None)
    monkeypatch.setattr(Run, "_sheet", lambda self: None)
    counters.clear()
    plain = prior_run(settings(photos, "plain", steps=3, threads=1, measure_every=1))
    plain.run()
    assert not counters["stats"]
    chosen = prior_run(settings(photos, "chosen", steps=3, threads=1, measure_every=1, compile=True))
    chosen.run()
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    for name, value in plain.trainer.state().items():
        torch.testing.assert_close(chosen.trainer.state()[name], value, msg=name)
