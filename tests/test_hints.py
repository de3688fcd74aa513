"""Detectors of hints: what they draw, the size of it, their door, and `editkit hint`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from editkit import cli
from editkit.errors import HookError, ModelError, PluginError, UsageError
from editkit.plugin import hints
from editkit.plugin.hints import Detector

CLASSIC = ("canny", "lineart", "scribble", "tile", "luma", "blur", "palette", "shuffle")


def photo(height: int = 61, width: int = 83) -> np.ndarray[Any, Any]:
    """A bright disc with a dark outline on a slope."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 2 % 256, np.full_like(x, 90), y * 2 % 256], -1).astype(np.uint8)
    r = np.hypot(x - width // 2, y - height // 2)
    pixels[r < 20] = (250, 240, 200)
    pixels[(r >= 17) & (r < 20)] = 5
    return pixels


def seen(spec: str, pixels: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
    return hints.detect(hints.make(spec), photo() if pixels is None else pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(61, 83), (1, 1), (3, 200), (64, 64)])
@pytest.mark.parametrize("name", CLASSIC)
def test_a_hint_is_as_large_as_its_picture(name: str, size: tuple[int, int], dtype: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (*size, 3)).astype(dtype)
    before = pixels.copy()
    made = seen(name, pixels)
    assert made.shape == (*size, 3)
    assert made.dtype == np.uint8
    assert (pixels == before).all()
    assert (made == seen(name, pixels)).all()


@pytest.mark.parametrize("name", ["canny", "lineart", "scribble"])
def test_lines_are_white_on_black_where_the_outline_is(name: str) -> None:
    y, x = np.mgrid[0:61, 0:83]
    r = np.hypot(x - 41, y - 30)
    made = seen(name)
    assert made[(r > 14) & (r < 23)].mean() > 40
    assert made[(r < 10)].mean() < 5
    assert (made[..., 0] == made[..., 2]).all()
    assert hints.is_blank(seen(name, np.full((50, 50, 3), 77, np.uint8)))


def test_edges_have_thresholds() -> None:
    weak, strong = seen("canny:low=1,high=5"), seen("canny:low=300,high=900")
    assert (weak > 0).sum() > (strong > 0).sum() > 0


def test_tile_one_is_the_picture_and_luma_has_no_colour() -> None:
    assert (seen("tile:factor=1") == photo()).all()
    assert abs(seen("tile:factor=8").mean() - photo().mean()) < 3
    grey = seen("luma")
    assert (grey[..., 0] == grey[..., 1]).all()
    expected = photo() @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - expected).max() <= 1


def test_a_palette_is_the_mean_colour_of_squares() -> None:
    pixels = photo(64, 96)
    made = seen("palette:cell=32", pixels)
    for row in range(2):
        for column in range(3):
            box = np.s_[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32]
            assert np.abs(made[box] - pixels[box].mean((0, 1))).max() <= 1


def test_shuffle_keeps_the_colours_and_follows_its_seed() -> None:
    assert (seen("shuffle:seed=1") == seen("shuffle:seed=1")).all()
    assert (seen("shuffle:seed=1") != seen("shuffle:seed=2")).any()
    assert (seen("shuffle:grain=20") != photo()).any()
    assert set(np.unique(seen("shuffle")[..., 1])) <= set(range(5, 241))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cany", r"no hint detector is called 'cany'; did you mean canny\? installed: .*lineart.*tile"),
        ("canny:lo=3", r"hint canny has no parameter 'lo=3' \(it has: low=..., high=...\)"),
        ("canny:low", "has no parameter 'low'"),
        ("canny:low=x", "hint canny: low must be a valid integer"),
        ("canny:low=300", "low 300 is above high 200"),
        ("blur:sigma=0", "sigma must be greater than 0"),
        ("luma:low=1", r"it has: none"),
    ],
)
def test_words_that_make_no_detector(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        hints.make(spec)
    assert "\n" not in str(caught.value)


def test_what_is_a_detector_and_what_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hints.is_words("canny:low=3")
    assert not hints.is_words("./canny")
    assert hints.looks_like_a_file("hint.png")
    assert not hints.looks_like_a_file("hint")
    (tmp_path / "hint").touch()
    assert hints.looks_like_a_file("hint")


class Wrong(Detector):
    """Gives what it is told to."""

    name: ClassVar[str] = "wrong"

    gives: Any

    def __call__(self, pixels: Any) -> Any:
        if self.gives is None:
            raise ZeroDivisionError("by nothing")
        return self.gives


def test_another_size_or_grey_is_mended_and_the_rest_refused() -> None:
    pixels = photo()
    large = np.repeat(np.repeat(pixels, 3, 0), 3, 1)
    assert np.abs(hints.detect(Wrong(gives=large), pixels).astype(int) - pixels).max() <= 1
    small = hints.detect(Wrong(gives=pixels[::2, ::2, 0]), pixels)
    assert small.shape == pixels.shape
    for gives, message in (
        (None, "hint wrong raised ZeroDivisionError"),
        (3, "returned int"),
        (pixels / 255.0, "of float64"),
        (np.zeros((4, 4, 4), np.uint8), "returned 4 channels"),
        (np.zeros((0, 4, 3), np.uint8), "returned"),
    ):
        with pytest.raises(HookError, match=message):
            hints.detect(Wrong(gives=gives), pixels)


STRANGER = '''
from typing import ClassVar
from editkit.plugin.hints import Detector

class Negative(Detector):
    """Light and dark exchanged."""
    name: ClassVar[str] = "negative"
    def __call__(self, pixels):
        return 255 - pixels
'''


def distribution(folder: Path, package: str, code: str, *entries: str) -> None:
    """A package with the metadata an installer would write."""
    module = package.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[editkit.hints]\n" + "\n".join(entries) + "\n")


def test_a_strangers_detector_comes_in_by_the_same_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "my-negative", STRANGER, "negative = my_negative:Negative")
    distribution(tmp_path, "my-broken", "import no_such_module", "broken = my_broken:Broken")
    distribution(tmp_path, "my-three", "three = 3", "three = my_three:three")
    distribution(tmp_path, "my-canny", STRANGER, "canny = my_canny:Negative")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert (seen("negative") == 255 - photo()).all()
    rows = {row.name: row for row in hints.list_installed()}
    assert rows["negative"].distribution == "my-negative"
    assert "no_such_module" in (rows["broken"].broken or "")
    assert "a subclass of editkit.plugin.Detector is needed" in (rows["three"].broken or "")
    assert "editkit and my-canny both have one of that name" in (rows["canny"].broken or "")
    assert rows["tile"].kind is not None
    with pytest.raises(PluginError, match="uninstall one of them"):
        hints.make("canny")


def test_nothing_heavy_is_imported_before_a_detector_is_used() -> None:
    code = (
        "import sys, importlib, pkgutil, editkit_plugins, editkit.plugin.hints\n"
        "from editkit import hints\n"
        "assert not [r for r in hints.list_installed() if r.broken]\n"
        "import editkit_plugins.controlnet, editkit_plugins.hints.annotators\n"
        "heavy = {'torch', 'diffusers', 'controlnet_aux', 'mediapipe', 'timm', 'cv2', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["softedge", "depth", "normal", "pose", "segment", "lineart_anime", "mlsd", "pidi"])
def test_weights_that_are_missing_are_named_with_their_place(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=rf"hint {name} needs .*\.pth? from the hub's .*/.*, not found in /.*--offline is on"
    ) as e:
        hints.detect(hints.make(name), photo(), offline=True)
    assert f"{name}:weights=DIR" in str(e.value)
    with pytest.raises(ModelError, match=rf"hint {name}: .*\.pth?.* not in {tmp_path}"):
        hints.detect(hints.make(f"{name}:weights={tmp_path}"), photo(), offline=True)


def test_packages_that_are_missing_are_named() -> None:
    from editkit_plugins.hints.annotators import Aux

    class Needs(Aux):
        """Needs what nobody has."""

        name: ClassVar[str] = "needs"
        source: ClassVar[str] = "X"
        requires: ClassVar[tuple[str, ...]] = ("no_such_package",)

    with pytest.raises(ModelError, match="hint needs needs the package no-such-package: pip install no-such-package"):
        hints.detect(Needs(), photo())


def test_a_detector_of_controlnet_aux_is_quiet_and_its_size_undone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """Random weights: what is tested is the way in and out."""
    import torch

    from editkit_plugins.hints.annotators import quiet

    assert seen("lineart_standard").shape == photo().shape
    with quiet():
        from controlnet_aux.hed import ControlNetHED_Apache2
    torch.manual_seed(0)
    torch.save(ControlNetHED_Apache2().state_dict(), tmp_path / "ControlNetHED.pth")
    words = list(sys.argv)
    made = seen(f"softedge:weights={tmp_path},resolution=64,safe=true")
    assert made.shape == photo().shape
    assert sys.argv == words
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert not [w for w in recwarn if "timm" in str(w.message) or "mediapipe" in str(w.message)]


def run(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.run(["hint", *words])
    return code, *capfd.readouterr()


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, target = tmp_path / "photo.png", tmp_path / "hint.png"
    Image.fromarray(photo()).save(path)
    code, _, err = run(capfd, str(path), "--control", "canny:low=50,high=90", "-o", str(target))
    assert (code, err) == (0, f"wrote {target} · canny · 83x61\n")
    assert (np.asarray(Image.open(target).convert("RGB")) == seen("canny:low=50,high=90")).all()
    assert run(capfd, str(path), "--control", "luma")[0] == 0
    assert Image.open(tmp_path / "photo.luma.png").size == (83, 61)
    code, _, err = run(capfd, str(path), "--control", "canny", "-o", str(target))
    assert code != 0
    assert "--force" in err
    code, _, err = run(capfd, str(path), "--control", "cany")
    assert code == 2
    assert "did you mean canny?" in err
    code, _, err = run(capfd, str(path), "--control", "depth", "--offline")
    assert code == 1
    assert "dpt_hybrid" in err
    assert len(err.splitlines()) == 1
    code, _, err = run(capfd, "-", "--control", "canny")
    assert code == 2
    assert "name the hint with -o" in err
    assert run(capfd, str(path))[0] == 2
    Image.new("RGB", (9, 9), "red").save(path)
    code, _, err = run(capfd, str(path), "--control", "canny", "-o", str(target), "--force")
    assert code == 0
    assert "the hint is empty: canny found nothing" in err


def test_the_list(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "--list")
    assert code == 0
    for name in (*CLASSIC, "depth", "pose"):
        assert name in out


def test_help_imports_neither_torch_nor_opencv(tmp_path: Path) -> None:
    for words in (["--help"], ["--list"], ["x.png", "--control", "nope"]):
        code = (
            "import sys\nfrom editkit.cli import run\ncode = run(['hint', *sys.argv[1:]])\n"
            "heavy = {'torch', 'cv2', 'controlnet_aux'} & set(sys.modules)\nassert not heavy, heavy\nsys.exit(code)"
        )
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        assert "AssertionError" not in done.stderr, done.stderr
        assert done.returncode in (0, 2), done.stderr
