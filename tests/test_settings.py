"""The user's own defaults: file, environment, command line, in this order; what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editkit.cli import run
from editkit.cli.settings import place, read
from editkit.cli.words import parse, parse_run
from editkit.editing import recipe
from editkit.errors import UsageError
from editkit.pictures.files.provenance import read_provenance


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the file, in a folder of its own that is the current one."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save("photo.png")
    place().parent.mkdir(parents=True)
    return place()


TEXT = """[defaults]
model = "small"
steps = 3
quiet = true

[models]
small = "pocket"
"""


def test_command_line_over_environment_over_file_over_recipe_defaults(config: Path, monkeypatch) -> None:
    config.write_text(TEXT)

    def options(*words: str):
        return parse(["sdedit", "photo.png", *words]).chain.stages[0].options

    assert (options().model, options().steps, options().seed) == ("pocket", 3, 0)
    assert options("--steps", "5").steps == 5
    monkeypatch.setenv("EDITKIT_STEPS", "4")
    monkeypatch.setenv("EDITKIT_SEED", "9")
    assert (options().steps, options().seed, options("--steps", "5").steps) == (4, 9, 5)
    assert options("--model", "patches").model == "patches"
    assert options("--model", "small").model == "pocket"
    assert parse(["sdedit", "photo.png"]).extras.quiet
    later = parse(["sdedit", "photo.png", "--steps", "5", "then", "sdedit", "--model", "small"]).chain.stages[1].options
    assert (later.steps, later.model) == (5, "pocket")


def test_a_recipe_is_over_the_settings_and_has_what_they_said(config: Path) -> None:
    config.write_text(TEXT)
    assert run(["sdedit", "photo.png", "--strength", "0.5", "-o", "out.png", "--save-recipe", "r.yaml"]) == 0
    said = read_provenance("out.png").recipe["stages"][0]["options"]
    assert said == {"model": "pocket", "steps": 3}
    config.write_text(TEXT.replace("steps = 3", "steps = 7\nseed = 5"))
    made = parse_run(["r.yaml", "photo.png"]).chain.stages[0].options
    assert (made.steps, made.seed) == (3, 5)
    assert run(["rerun", "out.png", "-o", "again.png"]) == 0  # looks at no settings
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()
    assert recipe.read("r.yaml").stages[0].options.steps == 3


def test_a_batch_has_them_too(config: Path) -> None:
    config.write_text(TEXT)
    Path("in").mkdir()
    Path("photo.png").rename("in/photo.png")
    assert run(["batch", "in", "out", "--", "sdedit", "--strength", "0.5"]) == 0
    assert read_provenance("out/photo.png").recipe["stages"][0]["options"]["steps"] == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[defaults]\n\nstep = 3\n", "config.toml, line 3: step is unknown; did you mean steps?"),
        ("[default]\nsteps = 3\n", "config.toml, line 1: default is unknown; did you mean defaults?"),
        ("[defaults]\nsteps = 0\n", "config.toml, line 2: steps: must be greater than or equal to 1, got 0"),
        ("[defaults]\nallow_code = true\n", "allow_code is unknown"),
        ("[defaults\n", "config.toml: is not TOML: "),
        ("defaults = 3\n", "defaults is a table"),
        ("[models]\na = 3\n", "config.toml, line 2: a must be the name of a model, got 3"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(config: Path, capsys, text: str, said: str) -> None:
    config.write_text(text)
    with pytest.raises(UsageError) as caught:
        read()
    assert said in str(caught.value)
    assert run(["sdedit", "photo.png"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("photo.sdedit.png").exists()


def test_a_variable_that_is_wrong_is_named(config: Path, monkeypatch) -> None:
    monkeypatch.setenv("EDITKIT_STEPS", "many")
    with pytest.raises(UsageError, match="EDITKIT_STEPS: steps: must be a valid integer"):
        read()


def test_it_is_shown_with_where_each_comes_from(config: Path, capsys, monkeypatch) -> None:
    assert run(["config"]) == 0
    assert "(is not there)" in capsys.readouterr().out
    config.write_text(TEXT)
    monkeypatch.setenv("EDITKIT_SEED", "9")
    assert run(["config", "--show"]) == 0
    shown = capsys.readouterr().out
    assert f"steps = 3  ({config}, line 3)" in shown
    assert "seed = 9  (EDITKIT_SEED)" in shown
    assert "canvas = 'auto'  (default)" in shown
    assert "model small = pocket" in shown


def test_a_folder_in_the_place_of_the_file_is_said(config: Path) -> None:
    config.mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        read()
