"""The README's examples are run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_door import editkit
from toy import Isotropic

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = {language: re.findall(rf"```{language}\n(.*?)```", README, re.S) for language in ("python", "toml", "sh")}


def test_the_two_commands_are_there_once_each():
    commands = [line for block in BLOCKS["sh"] for line in block.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert "editkit inpaint assets/" in commands[0]
    assert "pytest" in commands[1]


def test_the_plugin_is_under_forty_lines_and_does_what_it_says(tmp_path):
    """Installed as a stranger's distribution with the entry point of the README's own pyproject."""
    code = next(block for block in BLOCKS["python"] if block.startswith("# mirror.py"))
    assert len(code.splitlines()) < 40
    (entry,) = re.findall(r'\[project.entry-points."editkit.plugins"\]\n(.*)', BLOCKS["toml"][0])
    (tmp_path / "mirror.py").write_text(code)
    info = tmp_path / "editkit_mirror-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: editkit-mirror\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[editkit.plugins]\n{entry.replace(chr(34), '')}\n")
    shown = editkit(tmp_path, "mirror", "--help")
    assert "--weight" in shown.stdout, shown.stderr

    sys.path.insert(0, str(tmp_path))
    try:
        from mirror import Mirror

        from editkit import edit
        from editkit.plugins import SDEdit

        picture = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
        results = [
            edit(picture, SDEdit(strength=0.8) & Mirror(weight=w), model=Isotropic(), steps=20).pixels.astype(float)
            for w in (0.0, 1.0)
        ]
        plain, mirrored = (np.abs(p - p[:, ::-1]).mean() for p in results)
        assert mirrored < 0.4 * plain
    finally:
        sys.path.remove(str(tmp_path))


def test_the_research_example_prints_what_it_says():
    code = next(block for block in BLOCKS["python"] if "sample(" in block)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = (float(v) for v in re.findall(r"-?\d+\.\d+", done.stdout))
    assert first == pytest.approx(1.0)
    assert second == pytest.approx(0.9, abs=0.1)


def test_the_python_example_runs(tmp_path, monkeypatch):
    code = next(block for block in BLOCKS["python"] if "from editkit.plugins import Guide" in block)
    rng = np.random.default_rng(0)
    mask = np.zeros((48, 64), np.uint8)
    mask[18:28, 20:34] = 255
    Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert Image.open(tmp_path / "out.png").size == (64, 48)


def test_what_the_readme_links_to_is_there():
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / target).exists(), target


def test_the_reference_is_what_the_declarations_say():
    import runpy

    docs = Path(__file__).parent.parent / "docs"
    made = runpy.run_path(str(docs / "make_reference.py"))["reference"]()
    assert made == (docs / "reference.md").read_text(), "run: python docs/make_reference.py"


def test_an_editor_sees_every_declaration_that_comes_with_editkit():
    import runpy

    root = Path(__file__).parent.parent
    made = runpy.run_path(str(root / "docs" / "make_reference.py"))["stub"]()
    assert made == (root / "editkit" / "plugins.pyi").read_text(), "run: python docs/make_reference.py"


def test_the_pythons_that_are_named_are_those_that_are_taken():
    """`requires-python` is what pip heeds; classifiers, linters and type checkers say the same."""
    import tomllib

    data = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    least, most = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", data["project"]["requires-python"]).groups())
    begin = "Programming Language :: Python :: "
    named = [line.removeprefix(begin) for line in data["project"]["classifiers"] if line.startswith(begin)]
    assert named == [f"3.{minor}" for minor in range(least, most)]
    assert data["tool"]["ruff"]["target-version"] == f"py3{least}"
    assert data["tool"]["mypy"]["python_version"] == f"3.{least}"
    assert (3, least) <= sys.version_info[:2] < (3, most)
