"""What families of today's transformers cannot do with what they are given is said, and nothing of it is swallowed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_flow as tiny
from tiny_families import NAMES, Folders

from editkit import edit
from editkit.errors import ModelError
from editkit.models import describe
from editkit.models.leasing import Models
from editkit.plugins import SDEdit

PHOTO = np.asarray(tiny.picture(32, 32))
MODELS = Models(most=2)
READ_ALL = ("qwen-edit", "qwen-plus", "qwen-2511")
"""Their language models are given the whole text, beside the pictures."""
IDLE = {
    **dict.fromkeys(("klein", "klein-kv", "schnell", "krea-turbo"), "was distilled and has no guidance"),
    **dict.fromkeys(("flux", "flux2-dev", "fill", "kontext", "control"), "is told its guidance; .*true.scale"),
    "z-image": "is not guided at scale 1; a larger .*guidance.scale.* heeds it",
}
"""What is said of a negative prompt that has no branch."""


def notices(folders: Folders, name: str, **options: Any) -> list[str]:
    lines: list[str] = []
    how = {"steps": 1, "prompt": "a red door", "seed": 3, "device": "cpu", "offline": True, "notify": lines.append}
    edit(PHOTO, SDEdit(strength=1.0), model=folders.model(name), models=MODELS, **{**how, **options})
    return lines


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_read_and_what_has_no_branch(folders: Folders, name: str) -> None:
    """The end of a long prompt, and a negative prompt; of a short prompt alone nothing is said."""
    lines = notices(folders, name, prompt="x" * 1500 + "END", negative="blurry")
    left_out = [line for line in lines if "left out: " in line]
    assert len(left_out) == (name not in READ_ALL)
    for line in left_out:
        words = line.partition("left out: ")[2]
        assert words.endswith("END")
        assert {*words[:-3]} == {"x"}
        assert len(words) < 1500
    about = [line for line in lines if "without effect" in line]
    assert len(about) == (name in IDLE)
    assert all("negative" in line and re.search(IDLE[name], line) for line in about)
    assert not any("left out" in line or "without effect" in line for line in notices(folders, name))


def test_models_with_another_loop_are_refused_by_name(folders: Folders, tmp_path: Path) -> None:
    layered = Path(shutil.copytree(folders.model("qwen"), tmp_path / "layered"))
    index = json.loads((layered / "model_index.json").read_text())
    (layered / "model_index.json").write_text(json.dumps({**index, "_class_name": "QwenImageLayeredPipeline"}))
    with pytest.raises(ModelError, match=r"is a QwenImageLayeredPipeline with other inputs .*known: Qwen-Image"):
        describe(str(layered))
    omni = Path(shutil.copytree(folders.model("z-image"), tmp_path / "omni"))
    (omni / "siglip").mkdir()
    (omni / "siglip" / "config.json").write_text('{"model_type": "siglip2_vision_model"}')
    index = json.loads((omni / "model_index.json").read_text())
    with_eye = {**index, "_class_name": "ZImageOmniPipeline", "siglip": ["transformers", "Siglip2VisionModel"]}
    (omni / "model_index.json").write_text(json.dumps(with_eye))
    with pytest.raises(ModelError, match="takes reference pictures through SigLIP; known are Z-Image"):
        describe(str(omni))


@pytest.mark.parametrize("end", ["bin", "pt", "ckpt"])
def test_no_pickle_is_read_whatever_it_is_given_as(folders: Folders, tmp_path: Path, end: str) -> None:
    file = tmp_path / f"weights.{end}"
    file.write_bytes(b"\x80\x04N.")
    for option in ({"lora": (str(file),)}, {"transformer": str(file)}):
        with pytest.raises(ModelError, match=r"pickle|only \.?safetensors") as refused:
            notices(folders, "klein", **option)
        assert "\n" not in str(refused.value)
