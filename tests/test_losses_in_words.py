"""What `guide` reached is said in words, beside the figures."""

from __future__ import annotations

import numpy as np
import pytest

from editkit.editing.result import make
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain
from editkit.plugins import Guide
from editkit_plugins.guide import in_words


@pytest.mark.parametrize(
    ("loss", "before", "after", "said"),
    [
        ("symmetry", 0.5, 0.09, "the asymmetry is 82% smaller than before"),
        ("smooth", 0.2, 0.3, "the roughness is 50% larger than before"),
        ("palette", 0.2, 0.2001, "the distance to the palette is as before"),
        ("reference", 0.0, 0.0, "the difference from the reference is as before"),
        (sum, 2.0, 1.0, "the loss is 50% smaller than before"),
    ],
)
def test_words_for_two_losses(loss: object, before: float, after: float, said: str) -> None:
    assert in_words(loss, before, after) == said


def test_the_words_fit_the_figures_of_an_edit() -> None:
    photo = Picture(np.random.default_rng(0).integers(60, 190, (32, 32, 3), np.uint8))
    made = make(photo, Chain.of(Guide(loss="symmetry")))
    (figures,) = [found for _, plugin, found in made.figures if plugin == "guide"]
    first, last = figures["loss_before"], figures["loss"]
    assert isinstance(first, float)
    assert isinstance(last, float)
    assert figures["so"] == in_words("symmetry", first, last)
