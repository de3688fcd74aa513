"""Every family of today's transformers with every edit: it runs and keeps what it promises, or one line says what can.

Each family walks all that it can in one chain. Every pair of edits is walked on one family of each kind; with PAIRED =
NAMES on all of them, which takes minutes.
"""

from __future__ import annotations

import os
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_flow as tiny
from PIL import Image
from tiny_families import CONTROLNETS, LOOKS, NAMES, Folders

from editkit import edit
from editkit.batch.driver import batch
from editkit.cli import run
from editkit.editing.api import plan
from editkit.errors import EditkitError
from editkit.models.leasing import Models
from editkit.plugin import Chain, Plugin
from editkit.plugins import Cfg, ControlNet, Edit, Guide, Inpaint, SDEdit, Translate

PHOTO = np.asarray(tiny.picture(70, 52))
"""No side is a multiple of what the models take."""
MODELS = Models(most=4)
HOW: dict[str, Any] = {"steps": 2, "prompt": "a red door", "seed": 3, "device": "cpu", "offline": True}
PAIRED = ("klein", "fill", "z-image", "qwen-edit", "krea")
"""References by tokens; a mask by channels; ControlNets; words that see; a film's VAE."""


def plugin(part: str, name: str, folders: Folders) -> Plugin:
    match part:
        case "inpaint":
            return Inpaint(mask="box:20,11,47,40")
        case "sdedit":
            return SDEdit(strength=0.5)
        case "edit":
            return Edit()
        case "cfg":
            return Cfg(scale=3.0)
        case "controlnet":
            own = {} if name not in CONTROLNETS else {"controlnet": folders.controlnet(name)}
            return ControlNet(control="tile:factor=1", **own)
        case "guide":
            return Guide(loss="brightness", weight=5.0)
        case _:
            return Translate(source="a dog", method="flowedit")


PARTS = ("inpaint", "sdedit", "edit", "cfg", "controlnet", "guide", "translate")


def refusal(name: str, parts: tuple[str, ...]) -> str | None:
    """What the error must say; None: it runs."""
    if "edit" in parts and name not in LOOKS:
        return r"edit needs a model that takes references; .*choose another model=: FLUX\.2"
    if "controlnet" in parts and name not in CONTROLNETS and name != "control":
        return r"controlnet needs a model that takes control or hint; .*choose another model=: Stable Diffusion"
    if "translate" in parts and {"inpaint", "sdedit"} & {*parts}:
        return "both set the (mask|begin) of one process; put `then` between them, or leave one out"
    return None


def done(name: str, folders: Folders, parts: tuple[str, ...], **options: Any) -> np.ndarray:
    chain = [plugin(part, name, folders) for part in parts]
    given = {**HOW, "negative": "blurry" if "cfg" in parts else None, **options}
    return np.asarray(edit(PHOTO, chain, model=folders.model(name), models=MODELS, **given).pixels)


def keeps(made: np.ndarray, parts: tuple[str, ...]) -> None:
    """The size always, and with a mask whatever lies outside of it."""
    assert made.shape == PHOTO.shape
    changed = (made != PHOTO).any(-1)
    assert changed.any()
    if "inpaint" in parts:
        changed[11:40, 20:47] = False
        assert not changed.any()


@pytest.mark.parametrize("name", NAMES)
def test_all_that_a_family_can_goes_together(folders: Folders, name: str) -> None:
    parts = tuple(part for part in PARTS if part != "translate" and refusal(name, (part,)) is None)
    assert {"inpaint", "sdedit", "cfg", "guide"} <= {*parts}
    keeps(done(name, folders, parts), parts)


@pytest.mark.parametrize("name", NAMES)
def test_what_it_cannot_is_refused_before_weights_load(folders: Folders, name: str) -> None:
    for part in ("edit", "controlnet"):
        expected = refusal(name, (part,))
        if expected is None:
            continue
        with pytest.raises(EditkitError, match=expected):
            plan(PHOTO, [plugin(part, name, folders)], model=folders.model(name), **HOW)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [*combinations(PARTS, 2)], ids="+".join)
@pytest.mark.parametrize("name", PAIRED)
def test_every_pair(folders: Folders, name: str, parts: tuple[str, ...]) -> None:
    expected = refusal(name, parts)
    if expected is None:
        keeps(done(name, folders, parts), parts)
        return
    with pytest.raises(EditkitError, match=expected) as refused:
        done(name, folders, parts)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["klein", "flux", "z-image", "qwen-edit", "chroma", "krea", "longcat-edit"])
def test_provenance_and_recipe_make_it_again(
    folders: Folders, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the words of the command line: the file says how it was made, and the same bytes come again."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PHOTO).save("photo.png")
    shutil.copytree(folders.model(name), name, copy_function=os.link)  # rerun looks beside the picture
    how = ["--model", name, "--prompt", "a door", "--steps", "2", "--device", "cpu", "--offline"]
    looks = ["with", "edit"] if name in LOOKS else []
    words = ["inpaint", "photo.png", "--mask", "box:20,11,47,40", *how, *looks, "-o", "made.png"]
    assert run(words) == 0
    assert run(["rerun", "made.png", "--picture", "photo.png", "--offline", "-o", "again.png"]) == 0
    first, again = (np.asarray(Image.open(file)) for file in ("made.png", "again.png"))
    assert np.array_equal(first, again)
    keeps(first, ("inpaint",))
    assert run(["plan", *words[:-2]]) == 0


@pytest.mark.parametrize("name", ["klein", "kontext", "z-image", "qwen-plus", "chroma", "krea", "longcat-edit"])
def test_pictures_side_by_side_in_a_batch_are_what_each_is_alone(folders: Folders, name: str, tmp_path: Path) -> None:
    """Each looks at its own picture, to rounding."""
    (tmp_path / "in").mkdir()
    for k in range(2):
        tiny.picture(64, 64, seed=k).save(tmp_path / "in" / f"{k}.png")
    chain = Chain.of(Edit() if name in LOOKS else SDEdit(strength=0.8)).using(**HOW, model=folders.model(name))
    for size in (1, 2):
        batch(chain, tmp_path / "in", tmp_path / f"out{size}", size=size, models=MODELS)
    made = [[np.asarray(Image.open(tmp_path / f"out{size}" / f"{k}.png")) for k in range(2)] for size in (1, 2)]
    for alone, beside in zip(*made, strict=True):
        assert np.abs(alone.astype(int) - beside).max() <= 1
    assert not np.array_equal(made[0][0], made[0][1])


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_knows_what_is_called(folders: Folders, name: str) -> None:
    chain = [plugin("sdedit", name, folders)]
    (stage,) = plan(PHOTO, chain, model=folders.model(name), **{**HOW, "steps": 4})
    assert stage.calls == 2, "two of four levels"
