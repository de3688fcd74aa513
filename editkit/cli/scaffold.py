"""`editkit new-plugin`: write a working plugin package that keeps the contract, as a starting point."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from editkit.errors import PictureError, UsageError
from editkit.plugin import registry

MOST = 40

PYPROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "editkit-@NAME@"
version = "0.1.0"
description = "A plugin for editkit: @NAME@."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["editkit"]

[project.optional-dependencies]
test = ["pytest"]

# This entry point makes it a plugin; editkit registers its own plugins in the same way.
[project.entry-points."editkit.plugins"]
@NAME@ = "@MODULE@:@CLASS@"

[tool.hatch.build.targets.wheel]
packages = ["@MODULE@"]
"""

PLUGIN = '''"""@NAME@: an example plugin for editkit, as a starting point.

It adds one energy to the process: E = weight * (red - blue - tone)^2, where red and blue are the means of these
channels of the estimated picture, in [-1, 1]. editkit computes the gradient, together with those of all plugins, in one
backward pass. The other hooks are described in `editkit.plugin.protocol`; override those that you need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from editkit import Hooks, Plugin
from editkit.plugin import Section, Step
from pydantic import Field

if TYPE_CHECKING:  # import torch only where it is needed, so that `editkit --help` and `plan` respond quickly
    from torch import Tensor


class @CLASS@(Plugin):
    """Steer the picture towards a warmer or a colder tone."""

    name: ClassVar[str] = "@NAME@"
    group: ClassVar[Section] = "steer"  # its group in `editkit --help`
    usage: ClassVar[tuple[str, ...]] = (  # examples for `editkit @NAME@ --help`
        "@NAME@ photo.png --tone 0.4",
        "inpaint photo.png --mask mask.png with @NAME@",
        "sdedit photo.png --strength 0.5 with @NAME@ --tone -0.4",
    )
    neutral: ClassVar[Mapping[str, Any] | None] = {"weight": 0.0}

    tone: float = Field(0.2, ge=-2.0, le=2.0, description="Target of red minus blue: above 0 warm, below 0 cold.")
    weight: float = Field(1.0, ge=0.0, description="Strength; 0 changes nothing.")

    def hooks(self) -> type[Hooks[@CLASS@]]:
        return _@CLASS@Hooks


class _@CLASS@Hooks(Hooks[@CLASS@]):
    through = "x0"  # gradient in the estimate, which is cheap; "network" is exact, but needs a backward pass

    def energy(self, step: Step, x0: Tensor) -> Tensor | None:
        if self.plugin.weight == 0.0:
            return None
        image = step.decode(x0)
        red, _, blue = image.mean((2, 3)).unbind(1)
        pixels = image[0, 0].numel()  # makes the effect of the weight independent of the size
        return self.plugin.weight * pixels * (red - blue - self.plugin.tone) ** 2
'''

TEST = '''"""Tests of the contract that every plugin must keep, and of this plugin's effect."""

import pytest
from editkit import edit
from editkit.editing import contract
from editkit.plugin import registry

from @MODULE@ import @CLASS@


@pytest.mark.parametrize("check", contract.CHECKS)
def test_contract(check):
    try:
        contract.CHECKS[check](registry.load("@NAME@"))
    except contract.NotChecked as reason:
        pytest.skip(str(reason))


def tone(picture):
    """Return the mean of red minus that of blue, each in [0, 2]."""
    red, _, blue = picture.pixels.mean((0, 1)) / 127.5
    return red - blue


def test_the_tone_approaches_its_target():
    model, picture = contract.ExactModel(), contract.picture()
    warm, cold = (edit(picture, @CLASS@(tone=t), model=model, steps=10) for t in (0.3, -0.3))
    assert tone(warm) > 0.1
    assert tone(cold) < -0.1
'''

README = """# editkit-@NAME@

A plugin for [editkit](https://pypi.org/project/editkit/).

    pip install -e .
    editkit @NAME@ photo.png --tone 0.4 --model pocket
    editkit inpaint photo.png --mask mask.png with @NAME@ --tone -0.2

It is one declaration (`@CLASS@` in `@MODULE@/__init__.py`). Its fields are the options of the command, the keys of a
recipe and the arguments in Python, `edit("photo.png", @CLASS@(tone=0.3))`. `editkit @NAME@ --help` shows them.

    editkit plugins check @NAME@     # the contract that every plugin must keep
    pip install -e ".[test]" && pytest
"""


def new_plugin(name: str, folder: Path | None = None, *, reserved: frozenset[str] = frozenset()) -> list[Path]:
    """Write the package of a plugin called `name`, and return the files.

    Args:
        name: name of the plugin.
        folder: where to write; default: editkit-NAME in the current directory.
        reserved: names that a plugin must not have, such as the tool's own commands.

    Raises:
        UsageError: the name is invalid or taken.
        PictureError: the folder exists and is not empty, or cannot be written to.
    """
    _check(name, reserved)
    folder = folder or Path(f"editkit-{name}")
    module = "editkit_" + name.replace("-", "_")
    words = {"@NAME@": name, "@MODULE@": module, "@CLASS@": "".join(part.capitalize() for part in name.split("-"))}
    files = {
        "pyproject.toml": PYPROJECT,
        "README.md": README,
        f"{module}/__init__.py": PLUGIN,
        f"{module}/py.typed": "",
        f"tests/test_{name.replace('-', '_')}.py": TEST,
    }
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PictureError(f"{folder}: exists already and is not empty; name another folder with -o")
    try:
        for path, text in files.items():
            for mark, word in words.items():
                text = text.replace(mark, word)
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise PictureError(f"{folder}: cannot be written to: {error.strerror}") from None
    return [folder / path for path in files]


def _check(name: str, reserved: frozenset[str]) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > MOST:
        raise UsageError(
            f"{name!r} cannot be a plugin's name: lower-case letters, digits and single dashes, a letter first, "
            f"at most {MOST}"
        )
    if name in reserved or name in ("with", "then", "plugin") or keyword.iskeyword(name):
        raise UsageError(f"{name!r} is a word of the command line or of Python; choose another name")
    if name in registry.names():
        raise UsageError(f"a plugin called {name!r} is installed already; choose another name")
