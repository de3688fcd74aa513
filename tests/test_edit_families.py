"""The plugin `edit` on every family that looks at pictures: Kontext, Qwen-Image-Edit, -Edit-Plus, LongCat, FLUX.2.

Tiny networks with random weights: what this proves is plumbing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import numpy as np
import pytest
import test_parity_flux
import test_parity_flux2
import test_parity_qwen
import tiny_families
import tiny_flow as tiny
import torch
from test_parity_qwen import small  # noqa: F401 - a megapixel is fixed in Qwen's pipelines

from editkit import edit
from editkit.editing.api import plan
from editkit.errors import UsageError
from editkit.models import describe, load
from editkit.models.latent.tokens import packed
from editkit.models.leasing import Models
from editkit.plugins import Edit, Inpaint, SDEdit

BOUND, SEEN = 1e-5, 1e-2
NAMES = {"kontext": 1, "qwen": 1, "qwen-plus": 3, "longcat-edit": 1, "klein": 10, "dev": 10}
"""How many pictures each looks at."""
MODELS = Models(most=len(NAMES))


def pipe(name: str, whole: bool = False) -> Any:
    match name:
        case "kontext":
            return test_parity_flux.pipe("kontext")
        case "qwen" | "qwen-plus":
            return test_parity_qwen.pipe("edit" if name == "qwen" else "plus", whole=whole)
        case "longcat-edit":
            return tiny_families.pipe(name)
        case "dev":
            return diffusers.Flux2Pipeline(**test_parity_flux2.dev())
        case _:
            return diffusers.Flux2KleinPipeline(**test_parity_flux2.parts(), is_distilled=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = {}
    for name in NAMES:
        path = tmp_path_factory.mktemp("models") / name
        pipe(name).save_pretrained(path)
        made[name] = str(path)
    return made


def ours(folder: str, plugins: Sequence[Any], **options: Any) -> list[torch.Tensor]:
    model: Any = tiny.plain(load(describe(folder), torch.device("cpu"), torch.float32))
    return [packed(x) for x in tiny.walked(model, plugins, **options)]


def test_kontext_is_the_pipelines(folders: dict[str, str]) -> None:
    image = tiny.picture()
    shown = {"image": image, "max_area": 64 * 64, "_auto_resize": False, "guidance_scale": 2.5}
    expected = test_parity_flux.theirs("kontext", **shown)
    known = tiny.tensor(image)
    found = ours(folders["kontext"], [Edit()], known=known, guidance_scale=2.5)
    assert tiny.distance(found, expected) <= BOUND
    assert tiny.distance(ours(folders["kontext"], [Edit()], known=-known, guidance_scale=2.5), expected) > SEEN
    hole = tiny.mask(test_parity_flux.HOLE)
    how = {**shown, "mask_image": hole, "strength": 0.6}
    expected = test_parity_flux.theirs("kontext", diffusers.FluxKontextInpaintPipeline, 5, **how)
    plugins = [Inpaint(), SDEdit(strength=0.6), Edit()]
    given = {"known": known, "mask": tiny.tensor(hole), "steps": 5, "guidance_scale": 2.5}
    assert tiny.distance(ours(folders["kontext"], plugins, **given), expected) <= BOUND, "inpaint ... with edit"


@pytest.mark.parametrize("name", ["qwen", "qwen-plus"])
def test_qwen_is_the_pipelines(folders: dict[str, str], name: str) -> None:
    """-Edit-Plus with the picture first and `reference` behind it."""
    one, two = tiny.picture(), tiny.picture(seed=9)
    several = name == "qwen-plus"
    expected = test_parity_qwen.theirs("plus" if several else "edit", image=[one, two] if several else one)
    plugins = [Edit(reference=(two,) if several else ())]
    given = {"known": tiny.tensor(one), "negative": test_parity_qwen.NEGATIVE}
    assert tiny.distance(ours(folders[name], plugins, **given), expected) <= BOUND
    other = ours(folders[name], plugins, **{**given, "known": tiny.tensor(two)})
    assert tiny.distance(other, expected) > 100 * BOUND, "another picture"
    unread = ours(folders[name], [], **given)
    assert tiny.distance(unread, expected) > SEEN, "no picture"


PHOTO = np.asarray(tiny.picture(70, 52))


def done(folder: str, plugins: Any, **options: Any) -> np.ndarray:
    how = {"steps": 2, "prompt": "make it winter", "seed": 3, "device": "cpu", "offline": True, "dtype": "fp32"}
    return np.asarray(edit(PHOTO, plugins, model=folder, models=MODELS, **{**how, **options}).pixels)


@pytest.mark.parametrize("name", NAMES)
def test_whole_and_in_a_mask(folders: dict[str, str], name: str) -> None:
    """The picture's own size comes back; with a mask what lies outside is untouched, and the picture is looked at."""
    whole = done(folders[name], Edit())
    assert whole.shape == PHOTO.shape
    assert np.array_equal(whole, done(folders[name], Edit())), "the same seed gives the same bytes"
    hole = Inpaint(mask="box:20,11,47,40")
    inside = np.zeros(PHOTO.shape[:2], bool)
    inside[11:40, 20:47] = True
    made = done(folders[name], hole & Edit())
    assert np.array_equal(made[~inside], PHOTO[~inside])
    assert not np.array_equal(made[inside], PHOTO[inside])
    assert not np.array_equal(made, done(folders[name], hole)), "the picture is looked at"
    assert np.array_equal(made, done(folders[name], Edit() & hole)), "in either order"


@pytest.mark.parametrize("name", NAMES)
def test_as_many_references_as_it_looks_at(folders: dict[str, str], name: str) -> None:
    other = tuple(np.asarray(tiny.picture(48, 32, seed=k)) for k in range(NAMES[name]))
    if NAMES[name] > 1:
        two = Edit(reference=other[:1])
        assert not np.array_equal(done(folders[name], two), done(folders[name], Edit()))
    with pytest.raises(UsageError, match=f"takes at most {NAMES[name]} pictures in all; give fewer"):
        plan(PHOTO, Edit(reference=other), model=folders[name], prompt="a hat", device="cpu", offline=True)
