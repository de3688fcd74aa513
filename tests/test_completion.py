"""Completion, asked as a shell asks it; in a real one where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from editkit.cli import run
from editkit.cli.completion import SCRIPTS, candidates
from editkit.plugin import registry


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("inp", ["inpaint"]),
        ("inpaint photo.png --inv", ["--invert-mask"]),
        ("inpaint photo.png --method rep", ["repaint", "repaint-diffusers", "replace"]),
        ("inpaint photo.png --method=repaint-", ["--method=repaint-diffusers"]),
        ("inpaint photo.png --mask=ma", []),
        ("inpaint photo.png --mask m.png with gui", ["guide"]),
        ("inpaint photo.png with guide --los", ["--loss"]),
        ("inpaint photo.png w", ["with"]),
        ("inpaint photo.png --sampler dd", ["ddim", "ddpm"]),
        ("inpaint photo.png --model poc", ["pocket"]),
        ("plan inpa", ["inpaint"]),
        ("plan inpaint photo.png --inv", ["--invert-mask"]),
        ("batch in out -- inpaint --inv", ["--invert-mask"]),
        ("help doc", ["doctor"]),
        ("models sug", ["suggest"]),
        ("mask photo.png --fro", ["--from-alpha"]),
        ("inpaint photo.png --mask ma", []),
        ("no-such photo.png --", []),
    ],
)
def test_what_may_stand_there(line: str, wanted: list[str], capsys) -> None:
    words = line.split()
    assert run(["complete", "--", *words]) == 0
    assert capsys.readouterr().out.split() == wanted


def test_every_option_of_every_plugin_is_offered() -> None:
    for name in registry.names():
        offered = candidates([name, "photo.png"], "--")
        for field in registry.load(name).model_fields:
            assert "--" + field.rstrip("_").replace("_", "-") in offered


def _shell(name: str, script: str, folder: Path) -> list[str]:
    """What `script` prints in a shell that has editkit on its path and its completion read."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    tool = folder / "editkit"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m editkit "$@"\n')
    tool.chmod(0o755)
    (folder / "completion").write_text(SCRIPTS[name])
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run([name, "-c", script], capture_output=True, text=True, env=env, cwd=folder, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_in_bash(tmp_path: Path) -> None:
    script = """source ./completion
COMP_WORDS=(editkit inpaint photo.png --inv); COMP_CWORD=3; _editkit; echo "${COMPREPLY[@]}"
COMP_WORDS=(editkit inpaint ''); COMP_CWORD=2; _editkit; echo "none:${#COMPREPLY[@]}"
complete -p editkit"""
    said = _shell("bash", script, tmp_path)
    assert said[:2] == ["--invert-mask", "none:0"]
    assert "-F" in said


def test_in_fish(tmp_path: Path) -> None:
    assert _shell("fish", "source ./completion; complete -C 'editkit inpaint photo.png --inv'", tmp_path) == [
        "--invert-mask"
    ]


def test_in_zsh(tmp_path: Path) -> None:
    """zsh completes at a prompt alone; the function is called with its builtins stood in for."""
    script = """compdef() { :; }; compadd() { shift; print -l -- "$@"; }; _files() { print files; }
source ./completion
words=(editkit inpaint photo.png --inv); CURRENT=4; _editkit
words=(editkit inpaint ''); CURRENT=3; _editkit"""
    assert _shell("zsh", script, tmp_path) == ["--invert-mask", "files"]


def test_the_script_is_printed_and_another_shell_refused(capsys) -> None:
    assert run(["completion", "bash"]) == 0
    assert "complete -o default -F _editkit editkit" in capsys.readouterr().out
    assert run(["completion", "csh"]) == 2
    assert "one of bash, zsh, fish" in capsys.readouterr().err
