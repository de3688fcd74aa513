"""The door: packages outside this repository come in through real entry-point metadata, and only there."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editkit.errors import PluginError, UsageError
from editkit.plugin import registry

SEPIA = '''
from typing import ClassVar
from pydantic import Field
from editkit import Hooks, Plugin


class Sepia(Plugin):
    """Tint the picture."""

    name: ClassVar[str] = "sepia"
    strength_of_tint: float = Field(0.3, ge=0.0, le=1.0, description="How much.")

    def hooks(self):
        return SepiaHooks


class SepiaHooks(Hooks):
    def finish(self, image):
        tinted = image.clone()
        tinted[:, 2] -= self.plugin.strength_of_tint
        return tinted
'''


def distribution(folder: Path, package: str, code: str, *entries: str) -> None:
    """A package with the metadata an installer would write."""
    module = package.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[editkit.plugins]\n" + "\n".join(entries) + "\n")


def editkit(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with `folder` on its path."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from editkit.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=folder, timeout=300, check=False
    )


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(path)
    return path


def test_a_strangers_plugin_is_a_command_with_help_and_edits(tmp_path, photo):
    distribution(tmp_path, "my-sepia", SEPIA, "sepia = my_sepia:Sepia")
    shown = editkit(tmp_path, "sepia", "--help")
    assert shown.returncode == 0
    assert "--strength-of-tint" in shown.stdout
    assert "0.3" in shown.stdout
    done = editkit(tmp_path, "sepia", "photo.png", "--strength-of-tint", "0.5", "with", "sdedit", "--strength", "0.1")
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "photo.sepia.png").size == (24, 20)
    wrong = editkit(tmp_path, "sepia", "photo.png", "--strength-of-tint", "7")
    assert wrong.returncode == 2
    assert "--strength-of-tint" in wrong.stderr
    assert "less than or equal to 1" in wrong.stderr
    assert len(wrong.stderr.strip().splitlines()) == 1


def test_a_broken_plugin_is_listed_with_its_reason_and_stops_nobody(tmp_path):
    distribution(tmp_path, "broken-thing", "import no_such_module", "broken = broken_thing:Broken")
    shown = editkit(tmp_path, "plugins")
    assert shown.returncode == 0
    assert "BROKEN" in shown.stdout
    assert "no_such_module" in shown.stdout.replace("\n", "")
    assert "inpaint" in shown.stdout
    used = editkit(tmp_path, "broken", "photo.png")
    assert used.returncode == 1
    assert "no_such_module" in used.stderr
    assert "Traceback" not in used.stderr


def test_two_distributions_with_one_name_are_an_error_naming_both(tmp_path, monkeypatch):
    distribution(tmp_path, "my-sepia", SEPIA, "sepia = my_sepia:Sepia")
    distribution(tmp_path, "other-sepia", SEPIA, "sepia = other_sepia:Sepia")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match="my-sepia and other-sepia both have one of that name"):
        registry.load("sepia")
    rows = {row.name: row for row in registry.list_installed()}
    assert rows["sepia"].kind is None
    assert rows["inpaint"].kind is not None


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("Sepia = 3", "a subclass of editkit.plugin.Plugin is needed"),
        (SEPIA.replace('"sepia"', '"other"'), "must equal its entry point's name"),
        (SEPIA.replace("strength_of_tint", "steps"), "a parameter may not be called 'steps'"),
        (SEPIA.replace("strength_of_tint", "bind"), "bind"),
        (SEPIA + "\nSepia.api = 99\n", "written for version 99"),
    ],
)
def test_a_declaration_that_breaks_the_protocol_is_refused(tmp_path, monkeypatch, code, message):
    distribution(tmp_path, "my-sepia", code, "sepia = my_sepia:Sepia")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match=message):
        registry.load("sepia")


def test_an_unknown_plugin_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean inpaint"):
        registry.load("inpiant")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["plugins"],
        ["plugins", "inpaint"],
        ["inpaint", "--help"],
        ["models"],
        ["plan", "inpaint", "photo.png", "--mask", "box:4,4,12,12", "with", "guide", "then", "sdedit"],
        ["inpaint", "photo.png", "--maks", "m.png"],
        ["nonsense", "photo.png"],
        ["inpaint", "photo.png", "--mask", "box:4,4,12,12", "--jump", "0"],
    ],
)
def test_answers_without_torch(tmp_path, photo, words):
    code = (
        "import sys\nfrom editkit.cli import run\ncode = run(sys.argv[1:])\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'torchvision', 'controlnet_aux'} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(code)"
    )
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "AssertionError" not in done.stderr, done.stderr
    assert done.returncode in (0, 2), done.stderr


def test_importing_editkit_and_the_plugins_imports_nothing_heavy():
    code = (
        "import sys, editkit\n"
        "assert not {'torch', 'typer', 'diffusers'} & set(sys.modules)\n"
        "import editkit_plugins.inpaint, editkit_plugins.sdedit, editkit_plugins.guide\n"
        "assert not {'torch', 'diffusers', 'controlnet_aux', 'mediapipe', 'timm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_core_names_no_plugin_module():
    for path in (Path(registry.__file__).parent).rglob("*.py"):
        assert "editkit_plugins" not in path.read_text(), path
