"""FLUX.2 against its diffusers pipelines, step for step, and what would be seen of a mistake."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import diffusers
import pytest
import tiny_flow as tiny
import torch
from torch import Tensor

from editkit.diffusion.flows import Empirical
from editkit.models import describe, load
from editkit.models.latent import flux2
from editkit.plugin import Plugin
from editkit.plugins import Inpaint, SDEdit

PROMPT = tiny.PROMPT
BOUND, SEEN = 1e-5, 1e-2


def parts(told: bool = False) -> dict[str, Any]:
    return {
        "transformer": tiny.flux2_transformer(told), "vae": tiny.flux2_vae(), "text_encoder": tiny.qwen3(),
        "tokenizer": tiny.qwen_tokenizer(), "scheduler": tiny.dynamic(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = {}
    for name, distilled in [("klein", True), ("base", False)]:
        path = tmp_path_factory.mktemp("models") / name
        diffusers.Flux2KleinPipeline(**parts(), is_distilled=distilled).save_pretrained(path)
        made[name] = tiny.plain(load(describe(str(path)), torch.device("cpu"), torch.float32))
    path = tmp_path_factory.mktemp("models") / "kv"
    kv().save_pretrained(path)
    made["kv"] = tiny.plain(load(describe(str(path)), torch.device("cpu"), torch.float32))
    path = tmp_path_factory.mktemp("models") / "dev"
    diffusers.Flux2Pipeline(**dev()).save_pretrained(path)
    made["dev"] = tiny.plain(load(describe(str(path)), torch.device("cpu"), torch.float32))
    return made


def kv() -> Any:
    """With a transformer of its own: the pipeline exchanges what its attention does."""
    return diffusers.Flux2KleinKVPipeline(**{**parts(), "transformer": deepcopy(tiny.flux2_transformer())})


def dev() -> dict[str, Any]:
    processor, encoder = tiny.mistral3()
    return {**parts(told=True), "tokenizer": processor, "text_encoder": encoder}


def ours(model: Any, plugins: Sequence[Plugin] = (), **options: Any) -> list[Tensor]:
    """The states as rows of tokens, as the pipeline has them."""
    return [x.flatten(2).transpose(1, 2) for x in tiny.walked(model, plugins, **options)]


def test_text(models: dict[str, Any]) -> None:
    pipe = diffusers.Flux2KleinPipeline(**parts(), is_distilled=True)
    theirs = tiny.states(pipe, prompt=PROMPT, height=64, width=96, num_inference_steps=4)
    assert tiny.distance(ours(models["klein"], size=(64, 96)), theirs) <= BOUND


def test_guidance_of_klein_base(models: dict[str, Any]) -> None:
    pipe = diffusers.Flux2KleinPipeline(**parts(), is_distilled=False)
    given = {"prompt": PROMPT, "height": 64, "width": 64, "num_inference_steps": 4, "guidance_scale": 4.0}
    theirs = tiny.states(pipe, **given)
    assert tiny.distance(ours(models["base"]), theirs) <= BOUND
    assert tiny.distance(ours(models["base"], guidance_scale=1.0), theirs) > SEEN


def test_two_references_and_the_mistakes_that_would_be_seen(
    models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, model = tiny.picture(), tiny.picture(96, 64, seed=9), models["klein"]
    pipe = diffusers.Flux2KleinPipeline(**parts(), is_distilled=True)
    theirs = tiny.states(pipe, prompt=PROMPT, image=[one, two], height=64, width=64, num_inference_steps=4)
    assert tiny.distance(ours(model, [tiny.Look(pictures=(one, two))]), theirs) <= BOUND
    assert tiny.distance(ours(model), theirs) > SEEN, "no references"
    assert tiny.distance(ours(model, [tiny.Look(pictures=(two, one))]), theirs) > SEEN, "another order"
    with monkeypatch.context() as m:
        m.setattr(flux2, "TIME", 1)
        assert tiny.distance(ours(model, [tiny.Look(pictures=(one, two))]), theirs) > SEEN, "another time"
    with monkeypatch.context() as m:
        m.setattr(Empirical, "__call__", lambda self, tokens, steps: 1.15)
        assert tiny.distance(ours(model, [tiny.Look(pictures=(one, two))]), theirs) > SEEN, "another mu"
    with monkeypatch.context() as m:
        m.setattr(type(model), "normalised", lambda self, latent: torch.pixel_unshuffle(latent, 2))
        assert tiny.distance(ours(model, [tiny.Look(pictures=(one, two))]), theirs) > SEEN, "not standardised"


def test_dev_is_told_its_guidance_and_looks_too(models: dict[str, Any]) -> None:
    image = tiny.picture()
    pipe = diffusers.Flux2Pipeline(**dev())
    theirs = tiny.states(pipe, prompt=PROMPT, image=image, num_inference_steps=4, guidance_scale=2.5)
    assert tiny.distance(ours(models["dev"], [tiny.Look(pictures=(image,))], guidance_scale=2.5), theirs) <= BOUND
    assert tiny.distance(ours(models["dev"], [tiny.Look(pictures=(image,))], guidance_scale=4.0), theirs) > SEEN
    info = models["dev"].info
    assert (info.steps, info.guidance, info.distilled) == (50, 4.0, False)
    assert info.takes == {"prompt", "references", "guidance"}


def test_kv_keeps_what_its_references_say(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline computes it once; they see neither the noise nor the text, so it is the same at every step."""
    one, two, model = tiny.picture(), tiny.picture(96, 64, seed=9), models["kv"]
    how = {"prompt": PROMPT, "height": 64, "width": 64, "num_inference_steps": 4}
    theirs = tiny.states(kv(), image=[one, two], **how)
    looks = [tiny.Look(pictures=(one, two))]
    assert tiny.distance(ours(model, looks), theirs) <= BOUND
    assert tiny.distance(ours(models["klein"], looks), theirs) > SEEN, "references that see all"
    with monkeypatch.context() as m:
        m.setattr(flux2, "TIME", 1)
        assert tiny.distance(ours(model, looks), theirs) > SEEN, "another time"
    assert tiny.distance(ours(model), tiny.states(kv(), **how)) <= BOUND, "without references it is klein"
    assert (model.info.steps, model.info.guidance, model.info.distilled) == (4, 1.0, True)


@pytest.mark.parametrize(("strength", "references"), [(0.8, False), (1.0, True)])
def test_inpainting(models: dict[str, Any], strength: float, references: bool) -> None:
    """The mask's edges are those of tokens: across others diffusers blends, editkit regenerates what is touched."""
    image, hole, other = tiny.picture(), tiny.mask((16, 16, 48, 64)), tiny.picture(96, 64, seed=9)
    pipe = diffusers.Flux2KleinInpaintPipeline(**parts(), is_distilled=True)
    given = {"image_reference": other} if references else {}
    theirs = tiny.states(
        pipe, prompt=PROMPT, image=image, mask_image=hole, strength=strength, num_inference_steps=5, **given
    )
    looks = tiny.Look(pictures=(image, other) if references else (image,))
    found = ours(
        models["klein"], [Inpaint(), SDEdit(strength=strength), looks], known=tiny.tensor(image),
        mask=tiny.tensor(hole), steps=5,
    )  # fmt: skip
    assert tiny.distance(found, theirs) <= BOUND


def test_what_a_folder_is(models: dict[str, Any]) -> None:
    klein, base = models["klein"].info, models["base"].info
    assert (klein.steps, klein.guidance, klein.distilled, klein.multiple) == (4, 1.0, True, 16)
    assert (base.steps, base.guidance, base.distilled) == (50, 4.0, False)
    assert klein.takes == {"prompt", "references"}


def test_the_text_is_the_pipelines(models: dict[str, Any]) -> None:
    pipe = diffusers.Flux2KleinPipeline(**parts(), is_distilled=True)
    with torch.no_grad():
        theirs, _ = pipe.encode_prompt(PROMPT)
    prompt, dropped = models["klein"].encode_text(PROMPT)
    assert dropped == ""
    assert float((prompt.embeds - theirs).abs().max()) <= BOUND
    _, dropped = models["klein"].encode_text("x" * 600 + "END")
    assert dropped.endswith("END")
    assert set(dropped[:-3]) == {"x"}
