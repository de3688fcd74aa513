"""Large pieces of a picture as the first guide of its hole: which shifts, which pieces, and what stays as it was."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from editkit.models.patches.denoise import Bound, Settings
from editkit.models.patches.info import LARGEST, PIECES, ladder
from editkit.models.patches.pieces import _best_labels, _propagate, fill_by_pieces
from editkit.models.patches.shifts import BLOCK, RIM, STEP, UNFIT, Features, fitting_shifts
from editkit.pictures.boxes import Box


def noise(height, width, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


def box(height, width, top, left, bottom, right):
    flags = torch.zeros(height, width, dtype=torch.bool)
    flags[top:bottom, left:right] = True
    return flags


def features(image, hole):
    return Features.of(image.permute(1, 2, 0).numpy(), ~hole.numpy())


def test_a_periodic_picture_is_continued_exactly():
    """A multiple of the period costs nothing, and any piece of it is right."""
    truth = noise(12, 14).repeat(1, 5, 5)
    hole = box(60, 70, 20, 25, 38, 47)
    spoiled = truth.where(~hole, torch.zeros(()))
    assert torch.equal(fill_by_pieces(spoiled, hole, ~hole), truth)


def test_an_edge_continues_through_the_hole():
    """Two textures beside each other, of one period down: only shifts along their edge cost nothing."""
    truth = torch.cat([noise(12, 45), noise(12, 45, 1)], -1).repeat(1, 6, 1)
    hole = box(72, 90, 26, 30, 44, 56)
    assert torch.equal(fill_by_pieces(truth.where(~hole, torch.zeros(())), hole, ~hole), truth)


def test_of_two_places_that_fit_equally_well_the_one_at_the_same_height_is_taken():
    """A checkerboard of tiles, each of which repeats both across and down; every copy is off by a level of its own."""
    tiles = noise(12, 14).repeat(1, 5, 5)
    height = (torch.arange(60) // 12)[None, :, None] / 127.5  # one level brighter with each row of tiles
    hole = box(60, 70, 24, 28, 36, 42)
    made = fill_by_pieces((tiles * 0.5 + height).where(~hole, torch.zeros(())), hole, ~hole)
    assert torch.equal(made, tiles * 0.5 + height)


def test_every_pixel_comes_from_a_known_one_and_known_ones_stay():
    image, hole = noise(40, 50), box(40, 50, 10, 12, 28, 33)
    barred = box(40, 50, 0, 40, 40, 50)
    made = fill_by_pieces(image, hole, ~hole & ~barred)
    assert torch.equal(made[:, ~hole], image[:, ~hole])
    allowed = {tuple(colour) for colour in image[:, ~hole & ~barred].T.tolist()}
    assert all(tuple(colour) in allowed for colour in made[:, hole].T.tolist())


def test_pixels_that_no_shift_reaches_are_continued_smoothly():
    """A thin frame around a hole: shifts reach only a part of it, and the rest lies between known colours."""
    image, hole = noise(50, 60), box(50, 60, 3, 3, 47, 57)
    made = fill_by_pieces(image, hole, ~hole)
    assert torch.equal(made[:, ~hole], image[:, ~hole])
    assert float(made.min()) >= float(image[:, ~hole].min())
    assert float(made.max()) <= float(image[:, ~hole].max())


@pytest.mark.parametrize("known", [box(20, 24, 0, 0, 0, 0), box(20, 24, 9, 9, 10, 10)])
def test_next_to_nothing_known_is_no_error(known):
    made = fill_by_pieces(noise(20, 24), ~known, known)
    assert bool(torch.isfinite(made).all())


def cost_by_loops(seen, hole, shift):
    """The cost of each block of the rim under a shift, one pixel after the other."""
    height, width = hole.shape
    blocks: dict[int, list[int | None]] = {}
    for y, x in itertools.product(range(height), range(width)):
        around = hole[max(y - RIM, 0) : y + RIM + 1, max(x - RIM, 0) : x + RIM + 1]
        if not around.any() or not seen.firm[y, x]:
            continue
        there = (y + shift[0], x + shift[1])
        fits = 0 <= there[0] < height and 0 <= there[1] < width and seen.firm[there]
        apart = int(np.square(seen.values[y, x] - seen.values[there]).sum()) if fits else None
        blocks.setdefault(y // BLOCK * (width // BLOCK + 1) + x // BLOCK, []).append(apart)
    costs = []
    for _, apart in sorted(blocks.items()):
        found = [a for a in apart if a is not None]
        costs.append(sum(found) * len(apart) // len(found) if len(found) >= 0.7 * len(apart) else UNFIT)
    return np.array(costs)


def test_the_first_shift_is_the_best_of_all_and_the_second_the_best_beside_it():
    """All shifts by loops: the greedy choice of Nemhauser et al."""
    image, hole = noise(22, 26), box(22, 26, 8, 9, 14, 16).numpy()
    seen = Features.of(image.permute(1, 2, 0).numpy(), ~hole)
    offered = [
        (down, across) for down in range(-20, 21, STEP) for across in range(-24, 25, STEP) if (down, across) != (0, 0)
    ]
    table = np.stack([cost_by_loops(seen, hole, shift) for shift in offered])
    smallest = np.full(table.shape[1], UNFIT)
    chosen = fitting_shifts(seen, hole, 2)
    for shift in chosen.tolist():
        gains = np.maximum(smallest - table, 0).sum(1)
        mine = offered.index(tuple(shift))
        assert gains[mine] == gains.max()
        smallest = np.minimum(smallest, table[mine])
    assert len(chosen) == 2


def test_on_a_chain_the_labels_are_those_of_least_cost():
    """Against all 4^6 labellings of a row of pixels, and of a column."""
    rng = np.random.default_rng(3)
    unary = rng.integers(0, 900, (6, 4)).astype(np.int32)
    brought = rng.integers(0, 30, (6, 4, 2))
    apart = np.square(brought[:, :, None] - brought[:, None]).sum(-1).astype(np.int32)

    def cost(labels):
        pairs = sum(apart[p, a, b] + apart[p + 1, a, b] for p, (a, b) in enumerate(itertools.pairwise(labels)))
        return pairs + sum(unary[p, a] for p, a in enumerate(labels))

    least = min(cost(labels) for labels in itertools.product(range(4), repeat=6))
    for hole in (np.ones((1, 6), bool), np.ones((6, 1), bool)):
        assert cost(_propagate(hole, unary, apart).tolist()) == least


def test_pieces_cost_no_more_than_the_best_single_shift():
    image, hole = noise(44, 48, 5), box(44, 48, 14, 15, 30, 34)
    seen, inside = features(image, hole), hole.numpy()
    shifts = fitting_shifts(seen, inside, 8)
    labels = _best_labels(seen, inside, shifts, np.full((int(inside.sum()), 3), 128, np.int32))
    assert len(labels) == int(inside.sum())
    assert 0 <= labels.min() <= labels.max() < len(shifts)
    ys, xs = inside.nonzero()
    reached = seen.known[ys + shifts[labels, 0], xs + shifts[labels, 1]]
    assert reached.all()  # every pixel has a shift that leads to a known one, and takes it


def test_the_first_guide_is_made_of_pieces_unless_something_else_is_asked():
    image, hole = noise(40, 50), box(40, 50, 10, 12, 28, 33)
    by_pieces = fill_by_pieces(image, hole, ~hole)
    assert torch.equal(Bound.of(image, hole, Settings()).first_guide, by_pieces)
    assert not torch.equal(Bound.of(image, hole, Settings(), fill="smooth").first_guide, by_pieces)
    assert Bound.of(image, hole, Settings(), fill="noise").first_guide is None


def test_a_hole_of_more_pixels_is_first_continued_smoothly():
    side = int(LARGEST**0.5) + 30
    image, hole = noise(side, side), box(side, side, 10, 10, side - 10, side - 10)
    assert int(hole.sum()) > LARGEST
    assert not Bound.of(image, hole, Settings()).by_pieces


def test_the_first_pass_is_larger_where_pieces_guide_it():
    hole = np.zeros((600, 800), bool)
    hole[200:400, 300:500] = True
    pieces, layout = (ladder(Box(0, 0, 800, 600), 22, 22, hole, (), fill)[0] for fill in (None, "smooth"))
    assert layout.width < PIECES / 1.6 < pieces.width <= PIECES
