"""Growing the canvas: sizes, what is kept, what fades, what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import Isotropic

from editkit import edit
from editkit.errors import ParameterError, UsageError
from editkit.pictures.picture import Picture
from editkit.plugin import silent
from editkit.plugins import Uncrop

RNG = np.random.default_rng(0)


def picture(height: int = 20, width: int = 30) -> Picture:
    return Picture(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


@given(st.integers(1, 40), st.integers(1, 40), st.tuples(*[st.integers(0, 20)] * 4), st.integers(0, 12))
def test_the_mask_covers_what_is_new_and_at_most_the_overlap_of_what_was_there(height, width, borders, overlap):
    left, right, top, bottom = borders
    if not sum(borders):
        return
    before = picture(height, width)
    after = Uncrop(left=left, right=right, top=top, bottom=bottom, overlap=overlap).open(before, silent)
    assert after.size == (width + left + right, height + top + bottom)
    old = (slice(top, top + height), slice(left, left + width))
    assert np.array_equal(after.pixels[old], before.pixels)
    new = np.ones(after.mask.shape, bool)
    new[old] = False
    assert (after.mask[new] > 0).all()
    inside = after.mask[old]
    assert (inside == 0).any()
    deep = inside[overlap : height - overlap or None, overlap : width - overlap or None] if overlap else inside
    assert (deep == 0).all() or min(height, width) <= 2 * overlap


def test_what_lies_deeper_than_the_overlap_comes_back_bit_for_bit():
    before = picture()
    result = edit(before, Uncrop(left=7, bottom=5, overlap=4), model=Isotropic())
    assert result.pixels.shape == (25, 37, 3)
    assert np.array_equal(result.pixels[:16, 11:], before.pixels[:16, 4:])
    assert not np.array_equal(result.pixels[:20, 7:9], before.pixels[:, :2])


@pytest.mark.parametrize(("aspect", "size"), [("2:1", (40, 20)), ("1:1", (30, 30)), ("1.5:1", None), ("1:2", (30, 60))])
def test_an_aspect_ratio_grows_the_shorter_side_evenly(aspect, size):
    plugin = Uncrop(aspect=aspect)
    if size is None:
        with pytest.raises(UsageError, match="nothing to add"):
            plugin.open(picture(), silent)
        return
    assert plugin.open(picture(), silent).size == size


def test_what_makes_no_sense_is_refused():
    for aspect in ("wide", "0:1", "1:0", "-1:2", "1000:1"):
        with pytest.raises(ParameterError, match="write width:height"):
            Uncrop(aspect=aspect)
    with pytest.raises(UsageError, match="give only one of them"):
        Uncrop(aspect="2:1", left=3).open(picture(), silent)
    with pytest.raises(UsageError, match="nothing to add"):
        Uncrop().open(picture(), silent)


def test_no_line_shows_where_the_border_was():
    """On a rough slope the steps across the old border are those of the rest."""
    x = np.linspace(60, 190, 70)[None, :, None] + np.random.default_rng(1).normal(0, 8, (50, 70, 3))
    before = Picture(x.clip(0, 255).astype(np.uint8))
    made = edit(before, Uncrop(right=26, left=20), model="patches", seed=3).pixels.astype(float)
    steps = np.abs(np.diff(made, axis=1)).mean((0, 2))
    usual = steps[30:80].mean()
    for border in (20 - 1, 20 + 70 - 1):
        assert steps[border - 10 : border + 10].max() < 1.8 * usual
    assert np.diff(made[:, :20].mean((0, 2))).mean() > -0.5  # no jump back to the picture's mean
