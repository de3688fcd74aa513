"""`editkit mask` on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_masks import blank

from editkit.cli import run
from editkit.pictures.masks import grow, read_mask
from editkit.pictures.picture import Picture
from editkit.pictures.shapes import from_words

# --------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Picture(rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)).write("photo.png")
    return tmp_path


def test_command_unites_takes_away_grows_and_feathers(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "mask",
        "photo.png",
        "--box",
        "5,5,20,20",
        "--box",
        "-9,30,9,99",
        "--ellipse",
        "30,10,50,30",
        "--minus",
        "box:8,8,12,12",
        "--grow",
        "2",
    ]
    assert run([*words, "-o", "m.png", "--show", "shown.png"]) == 0
    assert "60x40" in capsys.readouterr().err
    expected = grow(from_words("box:5,5,20,20+box:-9,30,9,99+ellipse:30,10,50,30-box:8,8,12,12", blank()), 2)
    assert np.array_equal(read_mask("m.png", blank()), expected)
    assert Picture.read("shown.png").size == (60, 40)
    assert run([*words, "--feather", "4"]) == 0
    soft = read_mask("photo.mask.png", blank())
    assert np.array_equal(soft > 0, expected > 0)
    assert len(np.unique(soft)) > 2
    assert run(["mask", "photo.png", "--add", "m.png", "--invert", "-o", "inverted.png"]) == 0
    assert np.array_equal(read_mask("inverted.png", blank()), 1 - expected)


def test_command_by_colour_border_and_alpha(photo: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:10] = (0, 250, 5)
    Picture(pixels, np.tile(np.array([[0] * 30 + [255] * 30], np.uint8), (40, 1))).write("keyed.png")
    assert run(["mask", "keyed.png", "--color", "#00ff00", "--tolerance", "5", "-o", "c.png"]) == 0
    assert run(["mask", "keyed.png", "--from-alpha", "-o", "a.png"]) == 0
    assert run(["mask", "keyed.png", "--border", "3", "-o", "b.png"]) == 0
    assert read_mask("c.png", blank()).sum() == 300  # what is hidden under transparency is no picture
    assert read_mask("a.png", blank()).sum() == 1200
    assert np.array_equal(read_mask("b.png", blank()), from_words("border:3", blank()))


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        ("photo.png", 2, "no shape"),
        ("photo.png --box 1,2", 2, "4 numbers"),
        ("photo.png --box 1,2,3,4 -o m.jpg", 2, "lossless"),
        ("photo.png --box 1,2,3,4 -o photo.png", 2, "is also an input"),
        ("photo.png --box 1,2,3,4 -o m.png --show m.png", 2, "different names"),
        ("photo.png --box 1,2,3,4 --minus box:0,0,9,9", 1, "empty"),
        ("photo.png --from-alpha", 1, "no transparency"),
        ("photo.png --add circle:1,2,3,4", 2, "neither a file nor a shape"),
        ("- --border 3", 2, "-o"),
        ("foto.png --border 3", 1, "did you mean photo.png"),
        ("photo.png --border 0", 2, "border"),
        ("--border 3", 2, "picture"),
    ],
)
def test_command_mistakes(photo: Path, words: str, code: int, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mask", *words.split()]) == code
    told = capsys.readouterr().err
    assert hint in told.lower() or hint in told
    assert len(told.strip().splitlines()) == 1
    assert {path.name for path in photo.iterdir()} == {"photo.png"}


def test_command_help_imports_no_torch() -> None:
    code = "import sys; from editkit.cli import run; run(['mask', '--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--ellipse" in done.stdout
