"""The table of models to fetch: what it names exists, and the command that shows it."""

import pytest
from PIL import Image

from editkit.cli import run
from editkit.models.suggested import suggested_models, tasks
from editkit.plugin.registry import names

NOT_METHODS = {"mask", "preview"}
"""What else takes a model: `editkit mask --mask-model`, and `--preview-decoder`."""


def test_every_task_is_a_command():
    assert set(tasks()) - NOT_METHODS <= set(names())


def test_no_model_is_listed_twice():
    listed = [row.name for row in suggested_models()]
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("row", suggested_models(), ids=lambda row: row.name)
def test_each_says_what_where_and_how(row):
    assert row.use
    assert row.licence
    assert row.card
    assert 0.0 < row.gigabytes < 200.0
    assert row.name.count("/") == 1
    assert row.name in row.command


def test_one_task_lists_its_models_alone(capsys):
    assert run(["models", "suggest", "vary"]) == 0
    said = capsys.readouterr().out
    assert [row.name for row in suggested_models() if row.name in said] == [
        row.name for row in suggested_models("vary")
    ]
    assert "editkit models download kandinsky-community/kandinsky-2-2-decoder" in said
    assert "from memory, not checked" in said


def test_a_task_without_models_is_told_which_have(capsys):
    assert run(["models", "suggest", "nothing"]) == 2
    assert "no model is listed for 'nothing'; for: inpaint, remove" in capsys.readouterr().err


def test_text_without_a_model_says_where_models_are_listed(tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (16, 16)).save(photo)
    assert run(["edit", str(photo), "--prompt", "make it winter"]) == 2
    assert "choose another --model (editkit models suggest lists some)" in capsys.readouterr().err
