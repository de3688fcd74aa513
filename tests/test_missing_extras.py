"""Without the extras: patches and pocket work, and what needs one says in one line which command installs it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editkit.common.extras import EXTRAS, missing

ROOT = Path(__file__).parent.parent

BARE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
from editkit.cli import run
sys.exit(run(sys.argv[1:]))
"""


def bare(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line where no library of any extra can be imported."""
    code = BARE.format(hidden=set(EXTRAS))
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=200, check=False)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 44, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["inpaint", "photo.png", "--mask", "box:10,10,20,20", "--steps", "3"],
        ["inpaint", "photo.png", "--mask", "box:10,10,20,20", "--model", "pocket", "--steps", "2"],
        ["inpaint", "photo.png", "--mask", "box:10,10,20,20", "--steps", "3", "with", "guide", "--brightness", "0.7"],
        ["denoise", "photo.png", "--sigma", "20", "--views", "1"],
        ["plugins"],
        ["plan", "sdedit", "photo.png", "--model", "pocket"],
        ["hint", "photo.png", "--control", "canny"],
    ],
    ids=lambda words: words[0],
)
def test_what_needs_no_extra_works_without(tmp_path, photo, words):
    done = bare(tmp_path, *words)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["inpaint", "photo.png", "--mask", "box:10,10,20,20", "--model", "owner/name"], "diffusers"),
        (["sdedit", "photo.png", "--model", "pocket", "with", "clip", "--text", "a", "--clip-model",
          "ViT-B-32:openai"], "clip"),
        (["sdedit", "photo.png", "--model", "pocket", "with", "classifier", "--label", "tabby", "--classifier",
          "timm:resnet18"], "classifiers"),
    ],
)  # fmt: skip
def test_what_needs_one_names_the_command_that_installs_it(tmp_path, photo, words, extra):
    before = sorted(path.name for path in tmp_path.iterdir())
    done = bare(tmp_path, *words)
    assert done.returncode in (1, 2)
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert f"pip install 'editkit[{extra}]'" in line, done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_every_library_belongs_to_an_extra_that_there_is():
    project = (ROOT / "pyproject.toml").read_text()
    for extra in set(EXTRAS.values()):
        assert f"\n{extra} = [" in project, extra
    assert missing(ModuleNotFoundError("x", name="json.nothing")) is None
    assert missing(ImportError("x", name="diffusers")) is None  # it is there, and broken: that is another matter
    assert "editkit[clip]" in str(missing(ModuleNotFoundError("x", name="open_clip.factory")))
