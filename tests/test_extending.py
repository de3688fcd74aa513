"""docs/extending.md: its code is a package that installs and works."""

import re
import shutil
import struct
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_door import editkit

import editkit as package
from editkit import edit
from editkit.cli import run
from editkit.models import describe
from editkit.plugins import SDEdit

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The page's code as an installed package."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    (tmp_path / "mine.py").write_text(code)
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    groups = tomllib.loads(toml)["project"]["entry-points"]
    assert list(groups) == [f"editkit.{kind}" for kind in ("samplers", "models", "masks", "engines")]
    info = tmp_path / "editkit_mine-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: editkit-mine\nVersion: 0.1\n")
    lines = [f"[{g}]\n" + "".join(f"{name} = {what}\n" for name, what in own.items()) for g, own in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 44, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("mine", None)


def test_all_of_it_makes_an_edit(mine):
    done = editkit(
        mine, "inpaint", "photo.png", "--mask", "circle:20,20,9", "--model", "flat", "--sampler", "lazy:share=0.5",
        "-o", "out.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after = (np.asarray(Image.open(mine / name)) for name in ("photo.png", "out.png"))
    rows, columns = np.mgrid[:40, :44] + 0.5
    inside = (columns - 20) ** 2 + (rows - 20) ** 2 <= 81
    assert (before[~inside] == after[~inside]).all()
    assert (before[inside] != after[inside]).mean() > 0.9


def test_a_folder_of_the_family_is_a_model(mine):
    (mine / "folder").mkdir()
    (mine / "folder" / "flat.txt").write_text("")
    assert describe(str(mine / "folder")).family == "flat folders"
    grey = np.full((8, 8, 3), 200, np.uint8)
    made = edit(grey, SDEdit(strength=1.0), model=str(mine / "folder"), steps=4)
    assert made.pixels.shape == grey.shape


def _costs() -> dict[str, tuple[int, int]]:
    """The page's table: what is added -> (files of editkit that change, lines)."""
    rows = re.findall(r"^\| (A [\w ]+) \| (\d) \| (\d+) \|$", PAGE, re.MULTILINE)
    return {what: (int(files), int(lines)) for what, files, lines in rows}


def _lines(code: str) -> int:
    return sum(bool(line.strip()) and not line.startswith("#") for line in code.splitlines())


def test_what_each_costs_is_what_its_example_has():
    parts = {part.splitlines()[0]: part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (method,) = (
        code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if code.startswith("# mirror.py")
    )
    added = re.findall(r"```diff\n(.*?)```", parts.pop("A file format"), re.DOTALL)[0].splitlines()
    change = [line for line in added if line.startswith("+") and line != "+"]
    found = {
        what: (0, _lines("".join(re.findall(r"```python\n(.*?)```", part, re.DOTALL)))) for what, part in parts.items()
    }
    assert _costs() == found | {"A method": (0, _lines(method)), "A file format": (1, len(change))}


@pytest.mark.parametrize("name", ["lazy", "flat", "flatfolders", "circle", "backwards"])
def test_each_keeps_the_contract_of_its_kind(mine, name, capsys):
    assert run(["plugins", "check", name]) == 0, capsys.readouterr().out


def _qoi(height: int, width: int) -> tuple[bytes, np.ndarray]:
    """A QOI file that has each pixel in full (tag 0xFE), and its pixels (height, width, 3)."""
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    body = b"".join(b"\xfe" + bytes(pixel) for pixel in pixels.reshape(-1, 3))
    return b"qoif" + struct.pack(">IIBB", width, height, 3, 0) + body + bytes(7) + b"\1", pixels


def test_a_file_format_is_one_row_of_one_file(tmp_path):
    """The page's change, made to a copy of editkit: the format is read, and the edit keeps its pixels."""
    (change,) = re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL)
    old, new = ("".join(f"{line[1:]}\n" for line in change.splitlines() if line[0] == sign) for sign in "-+")
    source = Path(package.__file__).parent
    shutil.copytree(source, tmp_path / "editkit", ignore=shutil.ignore_patterns("_assets", "*.pyc"))
    table = tmp_path / "editkit" / "pictures" / "files" / "formats.py"
    before = table.read_text()
    assert before.count(old) == 1
    data, pixels = _qoi(20, 24)
    (tmp_path / "photo.qoi").write_bytes(data)
    words = ["inpaint", "photo.qoi", "--mask", "box:8,8,14,14", "-o", "out.png"]
    refused = editkit(tmp_path, *words)
    assert refused.returncode == 1
    assert "is not a picture that editkit reads" in refused.stderr
    table.write_text(before.replace(old, new))
    assert len(new.splitlines()) - len(old.splitlines()) <= 3
    done = editkit(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    made = np.asarray(Image.open(tmp_path / "out.png"))
    outside = np.ones((20, 24), bool)
    outside[8:14, 8:14] = False
    assert np.array_equal(made[outside], pixels[outside])
