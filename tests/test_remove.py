"""Removing an object takes its blurred rim along; nothing further out is touched."""

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from editkit import edit
from editkit.cli.words import parse
from editkit.editing import recipe
from editkit.pictures.masks import grow_rim
from editkit.pictures.picture import Picture
from editkit.plugin import silent
from editkit.plugin.chain import Chain
from editkit_plugins.inpaint import Inpaint
from editkit_plugins.remove import Remove


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A dark disc with a soft edge on grey, and a mask drawn along that edge."""
    y, x = np.mgrid[:80, :90]
    disc = ((y - 40) ** 2 + (x - 45) ** 2 <= 14**2).astype(np.float32)
    soft = cv2.GaussianBlur(disc, (0, 0), 1.0)
    pixels = np.rint(150 - 120 * soft)[..., None].repeat(3, 2).astype(np.uint8)
    return pixels, (soft >= 0.5).astype(np.uint8) * 255


def test_no_halo_is_left():
    pixels, mask = scene()
    tight, whole = (edit(pixels, kind(mask=mask), model="patches", steps=8).pixels for kind in (Inpaint, Remove))
    assert (tight[mask == 0] == pixels[mask == 0]).all()
    assert tight.min() < 100  # the rim that the mask left
    assert whole.min() > 140
    far = Remove(mask=mask).open(Picture(pixels), silent).mask == 0
    assert (whole[far] == pixels[far]).all()


@pytest.mark.parametrize(
    ("thick", "side", "rim"), [(1, 4000, 2), (13, 4000, 2), (61, 100, 2), (61, 640, 5), (61, 4000, 10)]
)
def test_the_rim_follows_the_objects_thickness_and_the_pictures_size(thick, side, rim):
    """A 6th of the thickness, from 2 pixels to 2 and a 200th of the longer side."""
    picture = Picture(np.zeros((100, side, 3), np.uint8))
    mask = np.zeros((100, side), np.uint8)
    half = thick // 2
    mask[50 - half : 51 + half, 50 - half : 51 + half] = 255
    auto, asked, none = (
        np.flatnonzero(plugin.open(picture, silent).mask[50]).size
        for plugin in (Remove(mask=mask), Remove(mask=mask, grow=9), Inpaint(mask=mask))
    )
    assert (auto, asked, none) == (2 * rim + thick, 18 + thick, thick)


def test_each_piece_of_a_mask_has_a_rim_of_its_own():
    mask = np.zeros((200, 1200), np.float32)
    mask[100, 20:500] = 1.0  # a scratch
    mask[60:140, 700:780] = 1.0  # an object
    grown = grow_rim(mask, 8)
    assert np.flatnonzero(grown[:, 200]).tolist() == list(range(98, 103))
    assert np.flatnonzero(grown[100, 600:]).tolist() == list(range(92, 188))


def test_it_is_said_in_words_and_recipes():
    for words, grow in (([], "auto"), (["--grow", "4"], 4), (["--grow", "auto"], "auto")):
        chain = parse(["remove", "photo.png", "--mask", "box:1,1,5,5", *words]).chain
        assert chain.stages[0].plugins[0].grow == grow
        assert recipe.from_yaml(recipe.to_yaml(chain)).stages[0].plugins == chain.stages[0].plugins
    assert recipe.from_mapping(recipe.to_mapping(Chain.of(Inpaint(grow="auto")))).stages[0].plugins[0].grow == "auto"
    for wrong in (-1, 1001, "much"):
        with pytest.raises(ValidationError):
            Inpaint(grow=wrong)
