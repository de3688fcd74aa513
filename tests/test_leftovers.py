"""What a tight mask leaves of a thing is taken with it, where the background is calm."""

from __future__ import annotations

import numpy as np
import pytest

from editkit import edit
from editkit.pictures.leftovers import with_leftovers
from editkit.pictures.picture import Picture
from editkit.plugins import Remove


def scene(noise: float = 1.0, seed: int = 0) -> np.ndarray:
    """(200, 300, 3): a calm background with a thing of (60..140, 100..160), a fleck of it at 140..150, a branch."""
    made = np.random.default_rng(seed).normal(120.0, noise, (200, 300, 3))
    made[60:140, 100:160] = (200.0, 60.0, 40.0)
    made[90:100, 160:170] = (40.0, 60.0, 200.0)
    made[132:136, 160:] = (60.0, 50.0, 30.0)
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


MASK = np.zeros((200, 300), np.float32)
MASK[56:144, 96:162] = 1.0


def test_a_fleck_is_taken_and_a_branch_that_goes_on_is_not():
    made = with_leftovers(MASK, Picture(scene()), 20)
    assert (made[MASK > 0] == 1.0).all()
    assert (made[90:100, 160:170] == 1.0).all()
    assert (made[126:142, 185:] == 0.0).all()
    assert (made > 0).sum() < (MASK > 0).sum() + 25 * 25


def test_of_what_goes_on_further_than_it_may_nothing_is_taken():
    assert (with_leftovers(MASK, Picture(scene()), 5) == MASK).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_in_grass_nothing_is_taken(seed):
    assert (with_leftovers(MASK, Picture(scene(40.0, seed)), 20) > 0).sum() <= 1.02 * (MASK > 0).sum()


def test_a_mask_of_everything_or_nothing_stays():
    for mask in (np.ones_like(MASK), np.zeros_like(MASK)):
        assert (with_leftovers(mask, Picture(scene()), 20) == mask).all()


def test_remove_says_what_it_takes_besides_and_keeps_the_rest():
    picture, said = scene(), []
    made = edit(picture, Remove(mask="box:96,56,162,144"), steps=2, notify=said.append).pixels
    assert any("that stick out of the mask are added to it" in line for line in said)
    assert abs(made[92:98, 162:168].mean((0, 1)) - 120.0).max() < 25.0
    assert (made[:40] == picture[:40]).all()
    assert (made[126:142, 190:] == picture[126:142, 190:]).all()
