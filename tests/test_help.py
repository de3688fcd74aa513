"""The general help with its groups, a command's own help, and that both are quick and true."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, get_args

import pytest
from test_door import distribution, editkit

from editkit.cli import run
from editkit.cli.words import parse, steps_matter, usage
from editkit.plugin import Plugin, registry
from editkit.plugin.sections import Section
from editkit.plugin.summaries import summaries


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path / "cache" / "editkit" / "plugins.json"


def test_every_plugin_stands_in_its_group_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    headings = [line for line in shown.splitlines() if line in get_args(Section)]
    assert headings == [group for group in get_args(Section) if group in headings]
    for name in registry.names():
        plugin = registry.load(name)
        assert plugin.group != "other"
        assert f"  editkit {name} " in shown.split(f"\n{plugin.group}\n", 1)[1]


def test_what_is_kept_is_what_the_declarations_say(cache: Path) -> None:
    first = summaries()
    assert cache.is_file()
    assert summaries() == first
    assert {(row.name, row.group) for row in first} == {(n, registry.load(n).group) for n in registry.names()}
    cache.write_text('{"inpaint=x": 3, "y": ["a", "b"]}')  # of another shape: asked anew
    assert summaries() == first
    cache.write_text("nonsense")
    assert summaries() == first


def test_help_that_is_kept_imports_no_plugin_and_no_torch() -> None:
    words = "import sys; from editkit.cli import run; run(['--help']); print(*sys.modules)"
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    modules = set(done.stdout.splitlines()[-1].split())
    assert not modules & {"torch", "pydantic", "numpy", "editkit_plugins.inpaint"}


def test_a_strangers_plugin_is_there_at_once_and_gone_when_it_is(tmp_path: Path) -> None:
    code = '''
from typing import ClassVar
from editkit import Hooks, Plugin
from pydantic import Field

class Sepia(Plugin):
    """Brown it [a bit]."""
    name: ClassVar[str] = "sepia"
    amount: float = Field(0.5, description="How much [bold]brown[/bold].")

    def hooks(self):
        return Hooks
'''
    distribution(tmp_path, "editkit-sepia", code, "sepia = editkit_sepia:Sepia")
    shown = editkit(tmp_path, "--help").stdout
    assert "  editkit sepia        Brown it [a bit]." in shown.split("\nother\n")[1]
    helped = editkit(tmp_path, "sepia", "--help").stdout
    assert "Brown it [a bit]." in helped
    assert "[bold]brown[/bold]" in helped  # what a stranger writes is shown, not obeyed
    assert "editkit sdedit photo.png with sepia" in helped


@pytest.mark.parametrize("name", registry.names())
def test_the_examples_of_every_plugin_are_right(name: str) -> None:
    lines = usage(registry.load(name))
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line)
        chain = parse(words[1:] if words[0] == "plan" else words).chain
        assert name in [plugin.name for stage in chain.stages for plugin in stage.plugins]


@pytest.mark.parametrize("name", registry.names())
def test_a_plugins_help_fits_a_screen_and_shows_its_own_options(name: str, capsys) -> None:
    assert run([name, "--help"]) == 0
    short = capsys.readouterr().out
    assert run([name, "--help-all"]) == 0
    full = capsys.readouterr().out
    own = registry.load(name).model_fields.keys() - {"start", "stop"}
    for field in own:
        assert "--" + field.rstrip("_").replace("_", "-") in short
    assert "--canvas" in full
    assert "--canvas" not in short
    assert "--output" in short
    assert "(photo.inpaint.png)" in " ".join(short.replace("│", " ").split())
    assert "Examples:\n  editkit " in short
    assert len(short.splitlines()) < 0.75 * len(full.splitlines())


def test_options_that_mean_nothing_for_a_plugin_are_left_out(capsys) -> None:
    assert run(["texture", "--help"]) == 0
    assert "--start" not in capsys.readouterr().out
    assert run(["guide", "--help"]) == 0
    assert "--start" in capsys.readouterr().out
    assert run(["spandrel", "--help"]) == 0
    assert "--steps" not in capsys.readouterr().out

    class Odd(Plugin):
        example: ClassVar[dict[str, int]] = {"nothing": 3}

    assert steps_matter(Odd)


@pytest.mark.parametrize(
    "words",
    [
        ["plan"], ["run"], ["batch"], ["grid"], ["plugins"], ["models"], ["train"], ["mask"], ["hint"], ["show"],
        ["strip"], ["rerun"], ["new-plugin"], ["train", "prior"], ["spandrel"], ["prompt"],
    ],
)  # fmt: skip
def test_every_command_has_help_that_shows_its_brackets(words: list[str], capsys) -> None:
    assert run([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert len(shown) > 100
    assert run(["help", *words]) == 0
    assert capsys.readouterr().out == shown
    if words == ["spandrel"]:
        assert "editkit[upscalers]" in " ".join(shown.split())
