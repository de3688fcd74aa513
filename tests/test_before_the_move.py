"""A result and a recipe that were made before the modules moved: they rerun and run to the same pixels."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editkit.cli import run

KEPT = Path(__file__).parent / "fixtures" / "before_the_move"


@pytest.mark.parametrize(
    "words",
    [["rerun", "result.png", "-o", "again.png"], ["run", "recipe.yaml", "source.png", "-o", "again.png"]],
    ids=["rerun", "run"],
)
def test_what_was_made_before_is_made_again(tmp_path, monkeypatch, words):
    for file in KEPT.iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(words) == 0
    before, again = (np.asarray(Image.open(name)) for name in ("result.png", "again.png"))
    assert np.array_equal(before, again)
