"""Every bit of a seed counts, and nobody shares noise: not neighbouring seeds, draws of a mean, boxes or tries."""

import itertools
import math

import numpy as np
import pytest
import torch
from toy import Isotropic

from editkit import edit
from editkit.diffusion.convention import CONVENTIONS
from editkit.diffusion.model import ModelInfo
from editkit.diffusion.noise import CHUNK, MersenneStreams, Philox, Streams
from editkit.editing import recipe
from editkit.editing.api import stream
from editkit.plugin.chain import Chain
from editkit.plugins import Inpaint, SDEdit

SEEDS = 200_000


def test_no_two_of_many_seeds_have_one_key_or_one_start():
    keys = {Streams((seed,)).key(seed, "start") for seed in range(SEEDS)}
    assert len(keys) == SEEDS
    starts = {Philox(Streams((seed,)).key(seed, "start")).normal((1, 2)).numpy().tobytes() for seed in range(SEEDS)}
    assert len(starts) == SEEDS  # 64 bits each


@pytest.mark.parametrize("bit", range(63))
def test_every_bit_of_a_seed_counts(bit):
    one, other = (Streams((seed,)).stream("start").normal((1, 64)) for seed in (5, 5 ^ (1 << bit)))
    assert not torch.equal(one, other)


def test_seeds_that_had_one_picture_have_two():
    pair = (128912, 166395)
    before = [MersenneStreams((seed,)).stream("start").normal((1, 64)) for seed in pair]
    now = [Streams((seed,)).stream("start").normal((1, 64)) for seed in pair]
    assert torch.equal(*before)
    assert not torch.equal(*now)


def test_the_bits_are_those_of_the_reference():
    """Known answer of Random123's Philox4x64-10: key and counter 0, which numpy counts up before it draws."""
    bits = np.random.Philox(counter=[2**64 - 1] * 4, key=0)
    expected = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert [int(word) for word in bits.random_raw(4)] == expected


def test_the_numbers_are_those_of_the_formula():
    key = Streams((3,)).key(3, "x")
    raw = [int(word) for word in np.random.Philox(key=key).random_raw(50)]
    expected = []
    for word in raw:
        radius = math.sqrt(-2.0 * math.log(((word >> 32) + 0.5) / 2**32))
        angle = 2.0 * math.pi * (word & 0xFFFFFFFF) / 2**32
        expected += [radius * math.cos(angle), radius * math.sin(angle)]
    made = Streams((3,)).stream("x").normal((1, 99))
    torch.testing.assert_close(made[0].double(), torch.tensor(expected[:99], dtype=torch.float64), atol=1e-6, rtol=1e-6)


def test_the_numbers_are_normal_and_go_on_where_they_stopped():
    n = 4 * CHUNK + 7
    x = Philox(11).normal((n,)).double()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((x**power).mean()) - moment) < 5.0 * math.sqrt(variance / n)
    assert abs(float((x[0:-1:2] * x[1::2]).mean())) < 5.0 / math.sqrt(n / 2)
    one = Philox(11)
    assert torch.equal(
        torch.cat([one.normal((2, 5000)).flatten(), one.normal((2 * CHUNK,))]), x[: 10_000 + 2 * CHUNK].float()
    )


def test_streams_of_seeds_draws_boxes_tries_and_owners_are_uncorrelated():
    n, own = 20_000, CONVENTIONS["streams"]
    drawn = [
        own.of_pass(own.noise(seed, stage, draw), seed, stage, draw, box, attempt).stream(owner).normal((1, n))[0]
        for seed, stage, draw, box, attempt in itertools.product(range(3), range(2), range(3), range(2), range(2))
        for owner in ("start", "sampler")
    ]
    correlation = torch.corrcoef(torch.stack(drawn).double()).fill_diagonal_(0.0)
    assert float(correlation.abs().max()) < 5.5 / math.sqrt(n)  # 10,296 pairs: 4e-4 by chance


def test_the_first_draw_the_first_box_and_the_first_try_are_the_edit_without():
    own = CONVENTIONS["streams"]
    first = own.of_pass(own.noise(7, 0, 0), 7, 0, 0, 0, 0).stream("start")
    assert torch.equal(first.normal((1, 10)), Streams((7,)).stream("start").normal((1, 10)))


def test_means_of_neighbouring_seeds_share_no_sample():
    grey, n = np.full((64, 64, 3), 128, np.uint8), 64 * 64 * 3
    run = dict(model=Isotropic(), estimate="mean", samples=8, steps=5)
    made = [edit(grey, SDEdit(strength=1.0), seed=seed, **run).pixels.astype(float).ravel() for seed in range(6)]
    correlation = np.corrcoef(made) - np.eye(6)
    assert np.abs(correlation).max() < 5.0 / math.sqrt(n)


class _Seen(Isotropic):
    info = ModelInfo("seen", "exact Gaussian", sampler="ddim", steps=4, window=32)


def test_boxes_and_their_tries_have_noise_of_their_own():
    pixels = np.full((32, 300, 3), 128, np.uint8)
    mask = np.zeros((32, 300), np.uint8)
    mask[10:22, 10:22] = mask[10:22, 260:272] = 255
    first, holes = {}, []
    for update in stream(pixels, Inpaint(mask=mask), model=_Seen(), seed=4, tries=3):
        first.setdefault(update.pass_, update)
    for update in first.values():
        part = update.plan.passes[update.pass_].at.box
        inside = mask[part.rows, part.columns] > 0
        holes.append(update.state.x[0][:, torch.from_numpy(inside)].flatten())
    assert len(holes) == 6
    correlation = torch.corrcoef(torch.stack(holes).double()).fill_diagonal_(0.0)
    assert float(correlation.abs().max()) < 5.0 / math.sqrt(12 * 12 * 3)


@pytest.mark.parametrize(
    ("said", "meant"),
    [({}, "streams-1"), ({"noise": "streams"}, "streams-1"), ({"noise": "diffusers"}, "diffusers")],
    ids=["nothing", "streams", "diffusers"],
)
def test_a_recipe_of_before_is_made_with_the_noise_of_before(said, meant):
    stages = [{"plugins": ["sdedit"], "options": {"seed": 3, **said}}, {"plugins": ["sdedit"]}]
    chain = recipe.from_mapping({"editkit": 1, "stages": stages}).inherited()
    assert [stage.options.noise for stage in chain.stages] == [meant, meant]
    again = recipe.to_mapping(chain)
    assert again["editkit"] == 2
    assert [stage.options.noise for stage in recipe.from_mapping(again).inherited().stages] == [meant, meant]
    now = recipe.from_mapping({"editkit": 2, "stages": stages}).inherited()
    assert [stage.options.noise for stage in now.stages] == [said.get("noise", "streams")] * 2


def test_a_mean_of_before_is_the_mean_of_the_seeds_that_follow():
    grey, run = np.full((8, 8, 3), 128, np.uint8), dict(model=Isotropic(), noise="streams-1", steps=3)
    chain = Chain.of(SDEdit(strength=1.0))
    each = [edit(grey, chain, seed=seed, **run).pixels.astype(float) for seed in (4, 5, 6)]
    mean = edit(grey, chain, seed=4, estimate="mean", samples=3, **run).pixels
    inside = (np.stack(each) > 0).all(0) & (np.stack(each) < 255).all(0)
    assert np.abs(mean - np.mean(each, 0))[inside].max() <= 1.01
