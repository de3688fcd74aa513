"""Marks in rows and columns: the empty place of a lattice is looked at again, and named where no mark is seen."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from test_mask_words import damage, soft

from editkit.pictures.picture import Picture
from editkit.pictures.shapes import from_words
from editkit_plugins.masks.lattice import empty_places


@pytest.mark.parametrize("shift", [0, 17])
@pytest.mark.parametrize("gone", [(0, 0), (1, 1), (2, 3)])
def test_the_empty_place_of_a_lattice_is_found(gone, shift):
    places = {(i, j): (20 + 70 * i, 15 + 90 * j + shift * i) for i in range(3) for j in range(4)}
    expected = places.pop(gone)
    assert expected in empty_places(list(places.values()), (400, 500))


def test_hundreds_of_marks_are_no_burden():
    """The steps are found by some of them: all pairs of all differences of 900 would be 160 billion."""
    places = [(100 * i, 130 * j) for i in range(30) for j in range(30)]
    places.remove((1500, 1300))
    assert empty_places(places, (3100, 4000)) == [(1500, 1300)]


def test_places_without_a_lattice_have_no_empty_ones():
    rng = np.random.default_rng(0)
    assert empty_places([(5, 5), (50, 80), (120, 40)], (400, 500)) == []
    scattered = [(int(y), int(x)) for y, x in rng.integers(0, 400, (9, 2))]
    assert empty_places(scattered, (400, 400)) == []


def test_the_number_of_marks_is_told_and_a_hidden_one_is_named(tmp_path):
    example = damage.mark(np.random.default_rng(1))
    Image.fromarray(example).save(tmp_path / "mark.png")
    pixels = soft(2, 420, 560)
    spoiled, _ = damage.watermarked(pixels, example, 0.4, np.random.default_rng(1), 0.5, tiles=True)
    told = list[str]()
    words = f"watermark:{tmp_path / 'mark.png'}"
    from_words(words, Picture(spoiled), notify=told.append)
    count = int(told[0].split()[1])
    assert told == [f"watermark: {count} marks found"]
    high, wide = (round(0.5 * n) for n in example.shape[:2])
    top, left = 10 + high + 60, 10 + wide + 50
    spoiled[top : top + high, left : left + wide] = pixels[top : top + high, left : left + wide]
    told.clear()
    from_words(words, Picture(spoiled), notify=told.append)
    assert told[0].startswith(f"watermark: {count - 1} marks found; expected")
    x, y = (int(n) for n in told[0].split("box:")[1].split(",")[:2])
    assert abs(x - left) <= 6
    assert abs(y - top) <= 6
