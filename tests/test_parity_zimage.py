"""Z-Image against its diffusers pipelines, step for step; their scale of guidance is one less than editkit's."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import tiny_flow as tiny
import torch
from torch import Tensor

from editkit.diffusion.flows import SizedFlow
from editkit.models import describe, load
from editkit.plugins import Inpaint, SDEdit

PROMPT = tiny.PROMPT
BOUND, SEEN = 1e-5, 1e-2
HOLE = (13, 21, 43, 52)


def pipe(kind: Any = diffusers.ZImagePipeline, shift: float = 3.0) -> Any:
    return kind(
        transformer=tiny.zimage_transformer(), scheduler=tiny.dynamic(use_dynamic_shifting=False, shift=shift),
        vae=tiny.flux_vae(), text_encoder=tiny.qwen3(3, "Qwen3Model"), tokenizer=tiny.qwen_tokenizer(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "z-image"
    pipe().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def model(folder: str) -> Any:
    return tiny.plain(load(describe(folder), torch.device("cpu"), torch.float32))


def theirs(kind: Any = diffusers.ZImagePipeline, steps: int = 4, guidance: float = 0.0, **given: Any) -> list[Tensor]:
    size = {"height": 64, "width": 64, "num_inference_steps": steps, "guidance_scale": guidance}
    return tiny.states(pipe(kind), prompt=PROMPT, **{**size, **given})


def test_turbo(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = theirs(steps=9, width=96)
    assert tiny.distance(tiny.walked(model, steps=9, size=(64, 96)), expected) <= BOUND
    with monkeypatch.context() as m:
        m.setattr(SizedFlow, "shift_for", lambda self, steps: 6.0)
        assert tiny.distance(tiny.walked(model, steps=9, size=(64, 96)), expected) > SEEN, "another shift"
    assert tiny.distance(tiny.walked(model, steps=9, size=(64, 96), shift=6.0), expected) > SEEN


def test_guidance_means_what_it_does_elsewhere(model: Any) -> None:
    expected = theirs(guidance=4.0, negative_prompt="blurry and far too dark to be seen")
    given = {"negative": "blurry and far too dark to be seen"}
    assert tiny.distance(tiny.walked(model, guidance_scale=5.0, **given), expected) <= BOUND
    assert tiny.distance(tiny.walked(model, guidance_scale=4.0, **given), expected) > SEEN
    assert tiny.distance(tiny.walked(model, guidance_scale=5.0), theirs(guidance=4.0)) <= BOUND, "none is the empty one"


def test_a_picture_redrawn_and_inpainted(model: Any) -> None:
    image, hole = tiny.picture(), tiny.mask(HOLE)
    expected = theirs(diffusers.ZImageImg2ImgPipeline, 5, image=image, strength=0.6)
    assert (
        tiny.distance(tiny.walked(model, [SDEdit(strength=0.6)], known=tiny.tensor(image), steps=5), expected) <= BOUND
    )
    for strength in (0.8, 1.0):
        given = {"image": image, "mask_image": hole, "strength": strength}
        expected = theirs(diffusers.ZImageInpaintPipeline, 5, **given)
        plugins = [Inpaint(), SDEdit(strength=strength)]
        found = tiny.walked(model, plugins, known=tiny.tensor(image), mask=tiny.tensor(hole), steps=5)
        assert tiny.distance(found, expected) <= BOUND


def test_the_schedulers_shift_tells_turbo_from_the_base_model(folder: str, tmp_path: Any) -> None:
    info = describe(folder)
    assert (info.steps, info.guidance, info.multiple, info.takes) == (9, 1.0, 16, {"prompt", "control"})
    pipe(shift=6.0).save_pretrained(tmp_path)
    base = describe(str(tmp_path))
    assert (base.steps, base.guidance) == (50, 5.0)
