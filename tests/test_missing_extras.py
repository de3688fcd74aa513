"""Without the extras: patches and pocket work, and what needs one says in one line which command installs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from editkit.common.extras import EXTRAS, missing

ROOT = Path(__file__).parent.parent

BARE = """
import contextlib
import io
import json
import os
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

def one(words):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = run(words)
    return dict(code=code, said=said.getvalue(), files=sorted(os.listdir()))

sys.meta_path.insert(0, Hidden())
from editkit.cli import run

print(json.dumps([one(words) for words in json.loads(sys.argv[1])]))
"""


def bare(folder: Path, commands: list[list[str]]) -> list[dict[str, Any]]:
    """Commands, one after another in one process in which no library of any extra can be imported. Of each: its exit
    code, what it said, the files there are after it.
    """
    code = BARE.format(hidden=set(EXTRAS))
    command = [sys.executable, "-c", code, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def photo(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 44, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")


def test_what_needs_no_extra_works_without(tmp_path):
    photo(tmp_path)
    commands = [
        ["inpaint", "photo.png", "--mask", "box:10,10,20,20", "--steps", "3", "-o", "a.png"],
        ["inpaint", "photo.png", "--mask", "box:10,10,20,20", "--model", "pocket", "--steps", "2", "-o", "b.png"],
        [
            "inpaint",
            "photo.png",
            "--mask",
            "box:10,10,20,20",
            "--steps",
            "3",
            "-o",
            "c.png",
            "with",
            "guide",
            "--brightness",
            "0.7",
        ],
        ["denoise", "photo.png", "--sigma", "20", "--views", "1"],
        ["plugins"],
        ["plan", "sdedit", "photo.png", "--model", "pocket"],
        ["hint", "photo.png", "--control", "canny"],
    ]
    for words, done in zip(commands, bare(tmp_path, commands), strict=True):
        assert done["code"] == 0, (words, done["said"])


def test_what_needs_one_names_the_command_that_installs_it(tmp_path):
    photo(tmp_path)
    asked = [
        (["inpaint", "photo.png", "--mask", "box:10,10,20,20", "--model", "owner/name"], "diffusers"),
        (["sdedit", "photo.png", "--model", "pocket", "with", "clip", "--text", "a", "--clip-model",
          "ViT-B-32:openai"], "clip"),
        (["sdedit", "photo.png", "--model", "pocket", "with", "classifier", "--label", "tabby", "--classifier",
          "timm:resnet18"], "classifiers"),
    ]  # fmt: skip
    for (_, extra), done in zip(asked, bare(tmp_path, [words for words, _ in asked]), strict=True):
        assert done["code"] in (1, 2)
        (line,) = done["said"].strip().splitlines()[-1:]
        assert f"pip install 'editkit[{extra}]'" in line, done["said"]
        assert "Traceback" not in done["said"]
        assert done["files"] == ["photo.png"]


def test_every_library_belongs_to_an_extra_that_there_is():
    project = (ROOT / "pyproject.toml").read_text()
    for extra in set(EXTRAS.values()):
        assert f"\n{extra} = [" in project, extra
    assert missing(ModuleNotFoundError("x", name="json.nothing")) is None
    assert missing(ImportError("x", name="diffusers")) is None  # it is there, and broken: that is another matter
    assert "editkit[clip]" in str(missing(ModuleNotFoundError("x", name="open_clip.factory")))
