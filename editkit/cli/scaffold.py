"""`editkit new-plugin`: a package that installs, works and keeps the contract, to change from there."""

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

# This line is all that makes it a plugin: editkit finds it here, as it finds its own.
[project.entry-points."editkit.plugins"]
@NAME@ = "@MODULE@:@CLASS@"

[tool.hatch.build.targets.wheel]
packages = ["@MODULE@"]
"""

PLUGIN = '''"""@NAME@: a plugin for editkit, as a place to begin.

It adds one energy to the process: E = weight * (red - blue - tone)^2, with red and blue the mean of those channels of
the estimated picture, in [-1, 1]. editkit takes the gradient, together with every other plugin's, in one backward pass.
Other hooks are in the documentation of `editkit.plugin.protocol`; override those you need, and nothing else has to be
said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from editkit import Hooks, Plugin
from editkit.plugin import Section, Step
from pydantic import Field

if TYPE_CHECKING:  # torch is imported where it is needed, so that `editkit --help` and `plan` answer at once
    from torch import Tensor


class @CLASS@(Plugin):
    """Draw the picture towards a warmer or a colder tone."""

    name: ClassVar[str] = "@NAME@"
    group: ClassVar[Section] = "steer"  # where `editkit --help` has it
    usage: ClassVar[tuple[str, ...]] = (  # examples in `editkit @NAME@ --help`
        "@NAME@ photo.png --tone 0.4",
        "inpaint photo.png --mask mask.png with @NAME@",
        "sdedit photo.png --strength 0.5 with @NAME@ --tone -0.4",
    )
    neutral: ClassVar[Mapping[str, Any] | None] = {"weight": 0.0}

    tone: float = Field(0.2, ge=-2.0, le=2.0, description="Red minus blue to reach: above 0 warm, below 0 cold.")
    weight: float = Field(1.0, ge=0.0, description="How hard it draws at a pixel; 0 changes nothing.")

    def hooks(self) -> type[Hooks[@CLASS@]]:
        return _@CLASS@Hooks


class _@CLASS@Hooks(Hooks[@CLASS@]):
    through = "x0"  # the gradient with respect to the estimate: cheap; "network" is exact, and costs a backward pass

    def energy(self, step: Step, x0: Tensor) -> Tensor | None:
        if self.plugin.weight == 0.0:
            return None
        image = step.decode(x0)
        red, _, blue = image.mean((2, 3)).unbind(1)
        pixels = image[0, 0].numel()  # so that a weight does the same to pictures of any size
        return self.plugin.weight * pixels * (red - blue - self.plugin.tone) ** 2
'''

TEST = '''"""The contract that every plugin keeps, and what this one does."""

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
    """Red minus blue, in [-1, 1] each."""
    red, _, blue = picture.pixels.mean((0, 1)) / 127.5
    return red - blue


def test_the_tone_comes_near_to_what_was_asked():
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

It is one declaration (`@CLASS@` in `@MODULE@/__init__.py`): its fields are the options of the command, the keys of
a recipe and the arguments in Python, `edit("photo.png", @CLASS@(tone=0.3))`. `editkit @NAME@ --help` shows them.

    editkit plugins check @NAME@     # the contract that every plugin keeps
    pip install -e ".[test]" && pytest
"""


def new_plugin(name: str, folder: Path | None = None, *, reserved: frozenset[str] = frozenset()) -> list[Path]:
    """Write the package of a plugin called `name` into `folder` (default: editkit-NAME here); the files written.

    Args:
        reserved: names that a plugin may not have, those of the tool's own commands.

    Raises:
        UsageError: no such name is possible, or it is taken.
        PictureError: the folder is there already, or cannot be written to.
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
        raise PictureError(f"{folder}: is there already and not empty; name another folder with -o")
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
            f"{name!r} cannot be a plugin's name: small letters, digits and single dashes, a letter first, "
            f"at most {MOST}"
        )
    if name in reserved or name in ("with", "then", "plugin") or keyword.iskeyword(name):
        raise UsageError(f"{name!r} is a word of the command line or of Python; choose another name")
    if name in registry.names():
        raise UsageError(f"a plugin called {name!r} is installed already; choose another name")
