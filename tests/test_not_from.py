"""`--not-from`: what a hole is not to be filled with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import editkit
from editkit.cli import main
from editkit.errors import ChainError, ModelError, PictureError, UsageError
from editkit.models.patches.denoise import Bound, Settings
from editkit_plugins.inpaint import Inpaint
from editkit_plugins.remove import Remove
from editkit_plugins.uncrop import Uncrop

RED = (230, 30, 30)


def meadow() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(picture, mask, barred): a red post stands beside the hole, so close that it is continued into it."""
    grain = np.random.default_rng(0).normal(0.0, 12.0, (96, 120, 3))
    picture = (np.array([100, 160, 110]) + grain).clip(0, 255).astype(np.uint8)
    picture[20:75, 75:95] = RED
    mask, barred = (np.zeros((96, 120), np.uint8) for _ in range(2))
    mask[32:62, 42:75] = 255
    barred[18:77, 73:97] = 255
    return picture, mask, barred


def reds(pixels: np.ndarray) -> int:
    """Pixels that are redder than any of the meadow."""
    return int((pixels[..., 0].astype(int) - pixels[..., 1] > 60).sum())


def run(words: list[str]) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def test_what_is_barred_is_not_copied_and_stays_as_it_is():
    picture, mask, barred = meadow()
    with_, without = (
        editkit.edit(picture, Inpaint(mask=mask, not_from=source), model="patches", seed=0).pixels
        for source in (None, barred)
    )
    hole = mask > 0
    assert reds(with_[hole]) > 50  # or the example shows nothing
    assert reds(without[hole]) == 0
    assert np.abs(without[hole].mean(0) - (100, 160, 110)).max() < 8
    for made in (with_, without):
        assert np.array_equal(made[~hole], picture[~hole])


def test_nothing_barred_changes_nothing():
    picture, mask, barred = meadow()
    said: list[str] = []
    plain = editkit.edit(picture, Inpaint(mask=mask), model="patches").pixels
    empty = editkit.edit(picture, Inpaint(mask=mask, not_from=0 * barred), model="patches", notify=said.append).pixels
    assert np.array_equal(plain, empty)
    assert any("not_from= marks nothing" in line for line in said)


def test_sources_are_the_known_patches_that_are_not_barred():
    picture, unknown, barred = torch.rand(3, 40, 50), torch.zeros(40, 50, dtype=torch.bool), None
    unknown[10:20, 10:20] = True
    barred = torch.zeros(40, 50, dtype=torch.bool)
    barred[:, 30:] = True
    bound = Bound.of(picture, unknown, Settings(), barred=barred)
    taken = (bound.atlas.corners[:, None] + bound.atlas.offsets).unique()
    assert not bool((unknown | barred).flatten()[taken].any())
    assert len(bound.atlas.corners) < len(Bound.of(picture, unknown, Settings()).atlas.corners)


def test_remove_and_uncrop_take_it_too():
    picture, mask, barred = meadow()
    made = editkit.edit(picture, Remove(mask=mask, grow=0, not_from=barred), model="patches").pixels
    assert reds(made[mask > 0]) == 0
    cut, bar = picture[:, :95], barred[:, :95]  # the post stands at the border: it would be continued
    grown = editkit.edit(cut, Uncrop(right=24, overlap=0, not_from=bar), model="patches").pixels
    assert reds(grown[:, 97:]) == 0
    assert reds(editkit.edit(cut, Uncrop(right=24, overlap=0), model="patches").pixels[:, 97:]) > 50


def test_words_name_it_on_the_command_line_and_the_recipe_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    picture, mask, _ = meadow()
    Image.fromarray(picture).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "out.png"
    words = ["inpaint", str(tmp_path / "photo.png"), "--mask", str(tmp_path / "mask.png")]
    assert run([*words, "--not-from", "box:73,18,97,77", "-o", str(out)]) == 0
    assert reds(np.asarray(Image.open(out))[mask > 0]) == 0
    capsys.readouterr()
    assert run(["show", str(out), "--json"]) == 0
    assert "box:73,18,97,77" in json.dumps(json.loads(capsys.readouterr().out))
    again = tmp_path / "again.png"
    assert run(["rerun", str(out), "-o", str(again)]) == 0
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(again)))


def test_mistakes_are_said():
    picture, mask, barred = meadow()
    for wrong, error, words in (
        (barred[:50], PictureError, "is 120x50, the picture is 120x96"),
        (255 + 0 * barred, UsageError, "not_from= covers the whole picture"),
        (255 - mask, ModelError, "no known square of 7x7 pixels to learn from .* of .* more nothing may be copied"),
    ):
        with pytest.raises(error, match=words):
            editkit.edit(picture, Inpaint(mask=mask, not_from=wrong), model="patches")
    with pytest.raises(ChainError, match="not_from= .* pocket .* does not learn from the picture"):
        editkit.edit(picture, Inpaint(mask=mask, not_from=barred), model="pocket")


def test_all_may_be_barred_where_another_picture_is_given():
    picture, mask, barred = meadow()
    blue = np.full((40, 40, 3), (40, 60, 200), np.uint8)
    plugin = Inpaint(mask=mask, not_from=255 + 0 * barred, from_=(blue,))
    made = editkit.edit(picture, plugin, model="patches").pixels
    assert np.abs(made[mask > 0].astype(int) - (40, 60, 200)).max() < 20
