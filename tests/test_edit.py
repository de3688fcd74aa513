"""The plugin `edit` on tiny FLUX.2 and Kontext with random weights: what this proves is plumbing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_flow as tiny
import torch
from test_parity_flux2 import parts

from editkit import edit
from editkit.editing.api import plan
from editkit.editing.result import make
from editkit.errors import ChainError, UsageError
from editkit.models import describe, load
from editkit.models.leasing import Models
from editkit.pictures.picture import Picture
from editkit.plugin import Plugin
from editkit.plugin.chain import Chain
from editkit.plugins import Edit, Inpaint, OnlyChanges, SDEdit

BOUND, SEEN = 1e-5, 1e-2
MODELS = Models()


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "klein"
    diffusers.Flux2KleinPipeline(**parts(), is_distilled=True).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def model(klein: str) -> Any:
    return tiny.plain(load(describe(klein), torch.device("cpu"), torch.float32))


def given(klein: str, **more: Any) -> dict[str, Any]:
    return {
        "model": klein, "steps": 2, "dtype": "fp32", "device": "cpu", "offline": True, "models": MODELS,
        "prompt": tiny.PROMPT, **more,
    }  # fmt: skip


def photo(height: int = 37, width: int = 50) -> np.ndarray:
    return np.asarray(tiny.picture(width, height))


def ours(model: Any, plugins: Sequence[Plugin], **options: Any) -> list[torch.Tensor]:
    return [x.flatten(2).transpose(1, 2) for x in tiny.walked(model, plugins, **options)]


def test_it_is_the_pipelines_edit_with_one_reference_and_with_two(model: Any) -> None:
    """The picture is the first reference, `--reference` the ones behind it."""
    one, two = tiny.picture(), tiny.picture(96, 64, seed=9)
    pipe = diffusers.Flux2KleinPipeline(**parts(), is_distilled=True)
    how = {"prompt": tiny.PROMPT, "height": 64, "width": 64, "num_inference_steps": 4}
    alone, both = (tiny.states(pipe, image=images, **how) for images in ([one], [one, two]))
    known = tiny.tensor(one)
    assert tiny.distance(ours(model, [Edit()], known=known), alone) <= BOUND
    assert tiny.distance(ours(model, [Edit(reference=(two,))], known=known), both) <= BOUND
    assert tiny.distance(ours(model, [Edit()], known=known), both) > SEEN
    another = ours(model, [Edit()], known=tiny.tensor(two)[..., :64])
    assert tiny.distance(another, alone) > 100 * BOUND, "both are smooth: the tiny VAE tells little"


@pytest.mark.parametrize("size", [(37, 50), (64, 64), (16, 16), (5, 3), (90, 33)])
def test_a_picture_of_any_size_comes_back_at_its_own(klein: str, size: tuple[int, int]) -> None:
    said: list[str] = []
    before = photo(*size)
    made = edit(before, Edit(), notify=said.append, **given(klein))
    assert made.pixels.shape == before.shape
    height, width = size
    fits = height % 16 == width % 16 == 0
    line = f"edit: {width}x{height} is padded to {width + -width % 16}x{height + -height % 16}, multiples of 16"
    assert any(one.startswith(line) for one in said) != fits


def test_with_a_mask_only_what_lies_inside_changes(klein: str) -> None:
    before = photo()
    mask = np.zeros(before.shape[:2], np.uint8)
    mask[9:30, 12:40] = 255
    made = edit(before, Inpaint(mask=mask) & Edit(), **given(klein)).pixels
    assert np.array_equal(made[mask == 0], before[mask == 0])
    assert (made != before).any()
    without = edit(before, Inpaint(mask=mask), **given(klein)).pixels
    assert (made != without).any(), "the picture is looked at"


def test_only_changes_is_the_plugin_of_that_name(klein: str) -> None:
    """The option and the plugin beside it make the same; random weights change everything, and that is said."""
    before, said = photo(), []
    one = make(Picture(before), Chain.of(Edit(only_changes=True)).using(**_options(klein)), notify=said.append)
    two = make(Picture(before), Chain.of(Edit() & OnlyChanges()).using(**_options(klein)))
    assert np.array_equal(one.picture.pixels, two.picture.pixels)
    ((_, name, figures),) = one.figures
    assert name == "edit"
    assert set(figures) >= {"changed_percent", "shift_right_px", "shift_down_px", "tint_levels"}
    assert any(line.startswith("edit: changed percent") for line in said)


def _options(klein: str) -> dict[str, Any]:
    return {key: value for key, value in given(klein).items() if key != "models"}


def test_it_goes_with_sdedit_which_starts_from_the_picture(klein: str) -> None:
    before = photo()
    assert np.array_equal(edit(before, SDEdit(strength=0.5) & Edit(), **given(klein)).pixels.shape, before.shape)


def test_other_references_may_have_any_size_and_depth(klein: str, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    tiny.picture(130, 20, seed=3).save(other)
    deep = photo(70, 40).astype(np.uint16) * 257
    before = photo()
    made = edit(before, Edit(reference=(str(other), deep)), **given(klein)).pixels
    assert (made != edit(before, Edit(), **given(klein)).pixels).any()


def test_it_says_what_can_and_how_many(klein: str) -> None:
    before = photo()
    with pytest.raises(
        ChainError,
        match=r"edit needs a model that takes references; pocket .*: FLUX\.2, FLUX\.1 Kontext, Qwen-.*LongCat",
    ):
        edit(before, Edit(), model="pocket")
    many = tuple(photo() for _ in range(10))
    with pytest.raises(UsageError, match="10 reference.*takes at most 10 pictures in all; give fewer"):
        plan(before, Edit(reference=many), **{k: v for k, v in _options(klein).items() if k != "dtype"})
    lost = {k: v for k, v in _options(klein).items() if k != "dtype"}
    with pytest.raises(UsageError, match=r"edit: reference=.*nowhere\.png: no such file"):  # before weights load
        plan(before, Edit(reference=("nowhere.png",)), **lost)
    said: list[str] = []
    edit(before, Edit(), notify=said.append, **given(klein, prompt=None))
    assert any("edit has no prompt=, so the model has no instruction" in line for line in said)


def test_the_plan_needs_no_weights(klein: str) -> None:
    (stage,) = plan(photo(), Edit(), **_options(klein))
    assert stage.plugins[0].name == "edit"
    assert stage.calls == 2
