"""What `editkit new-plugin` writes installs, works and keeps the contract; `plugins check` tells a broken one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_door import distribution, editkit

from editkit.cli import run

BROKEN = '''
"""A plugin that imports torch at once and changes what it is given."""
import torch
from typing import ClassVar
from editkit import Hooks, Plugin


class Rude(Plugin):
    """Breaks the contract."""

    name: ClassVar[str] = "rude"

    def hooks(self):
        return RudeHooks


class RudeHooks(Hooks):
    def clean(self, step, x0):
        return x0.mul_(0.5)
'''


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, with the packages in `folder`/site on its path."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLIPCOVER_", "PYTEST_"))}
    environment = {**ours, "PYTHONPATH": str(folder / "site"), "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=folder, env=environment, timeout=300, check=False
    )


def test_a_new_plugin_installs_and_passes_its_own_tests(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["new-plugin", "warm-tone"]) == 0
    assert "pip install -e editkit-warm-tone && editkit plugins check warm-tone" in capsys.readouterr().err
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    done = python(tmp_path, "-m", "pip", "install", *offline, "--target", "site", "./editkit-warm-tone")
    assert done.returncode == 0, done.stderr
    done = python(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "editkit-warm-tone/tests")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "failed" not in done.stdout
    shown = python(tmp_path, "-c", "from editkit.cli import main; main()", "warm-tone", "--help")
    assert "--tone" in shown.stdout


def test_plugins_check_says_what_is_kept(capsys):
    assert run(["plugins", "check", "guide"]) == 0
    said = capsys.readouterr().out
    assert "guide: keeps the contract" in said
    assert said.count("kept ") == 11
    assert run(["plugins", "check", "giude"]) == 2
    assert "did you mean guide?" in capsys.readouterr().err


def test_plugins_check_says_what_is_broken(tmp_path):
    distribution(tmp_path, "rude-package", BROKEN, "rude = rude_package:Rude")
    done = editkit(tmp_path, "plugins", "check", "rude")
    assert done.returncode == 1
    assert "its module imports torch; import it inside the functions that need it" in done.stdout
    assert "clean modifies its argument; work on x.clone()" in done.stdout
    assert "rude: 2 of 11 checks are broken" in done.stdout


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("Warm", 2, "lower-case letters"),
        ("1warm", 2, "lower-case letters"),
        ("warm_tone", 2, "lower-case letters"),
        ("warm--tone", 2, "lower-case letters"),
        ("../warm", 2, "lower-case letters"),
        ("w" * 41, 2, "at most 40"),
        ("batch", 2, "is a word of the command line"),
        ("then", 2, "is a word of the command line"),
        ("class", 2, "or of Python"),
        ("inpaint", 2, "is installed already"),
        ("taken", 1, "not empty"),
    ],
)
def test_names_and_folders_that_cannot_be(tmp_path, monkeypatch, capsys, name, code, said):
    monkeypatch.chdir(tmp_path)
    Path("editkit-taken").mkdir()
    Path("editkit-taken/x").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert run(["new-plugin", name]) == code
    assert said in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_torch_is_not_imported_by_what_answers_at_once(tmp_path):
    code = (
        "import sys; from editkit.cli import run; "
        "codes = [run(words.split()) for words in sys.argv[1:]]; "
        "assert 'torch' not in sys.modules; sys.exit(any(codes))"
    )
    done = python(tmp_path, "-c", code, "new-plugin warm", "batch --help", "grid --help", "plugins", "--help")
    assert done.returncode == 0, done.stderr
