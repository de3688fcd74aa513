"""Prompts of any length, and weights for words: what the encoders are given, and that the pipelines agree."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import test_parity_sdxl as xl
import tiny_latent as tiny
import torch
from test_parity_latent import PROMPT, adapter, parts, same

from editkit import sample
from editkit.errors import ModelError
from editkit.models.latent.space import chunks, pad_to_longest
from editkit.models.latent.xl import LatentXL, Reader
from editkit.plugins import PromptText

EPSILON = {**tiny.SD, "prediction_type": "epsilon"}
LONG = "a red door in a brick wall under an old lamp " * 12 + "at night"


def large() -> LatentXL:
    from editkit.diffusion.model import ModelInfo
    from editkit.models.schedules import make_schedule

    own = xl.parts(4)
    readers = [Reader(own[f"tokenizer{k}"], own[f"text_encoder{k}"]) for k in ("", "_2")]
    info = ModelInfo("tiny", "test", frozenset({"prompt"}))
    return LatentXL(info, own["unet"], own["vae"], readers, make_schedule(EPSILON), EPSILON)


def test_a_text_that_fits_is_read_as_the_pipelines_read_it() -> None:
    tokenizer = tiny.tokenizer()
    for text in ("", PROMPT, "word " * 75):
        expected = tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        found = chunks(tokenizer, text)
        assert torch.equal(found["input_ids"], expected["input_ids"])
        assert torch.equal(found["attention_mask"], expected["attention_mask"])


def test_a_long_text_is_cut_every_75_tokens_and_nothing_is_lost() -> None:
    tokenizer = tiny.tokenizer()
    rows = chunks(tokenizer, LONG)["input_ids"]
    assert rows.shape == (2, 77)
    words = [int(k) for row in rows for k in row if k not in (49406, 49407)]
    assert words == tokenizer(LONG, verbose=False).input_ids[1:-1]


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_long_prompts_give_the_pipelines_latents(scale: float) -> None:
    """The pipeline is handed the same embeddings; the shorter negative prompt is filled with the empty text's."""
    model = adapter(4, EPSILON)
    wanted, (negative, _) = model.encode_text(LONG)[0], model.encode_text("blurry")
    assert wanted.embeds.shape[1] == 154
    pipe = diffusers.StableDiffusionPipeline(
        **parts(4), scheduler=diffusers.DDIMScheduler.from_config(EPSILON), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    _, filled = pad_to_longest([wanted.embeds, negative.embeds], lambda: model.empty)
    expected = pipe(
        prompt_embeds=wanted.embeds, negative_prompt_embeds=filled, num_inference_steps=5, guidance_scale=scale,
        height=64, width=64, generator=torch.Generator().manual_seed(5), output_type="latent",
    ).images  # fmt: skip
    found = sample(
        model, shape=(1, 4, 8, 8), sampler="ddim", steps=5, seed=5, noise="diffusers", prompt=LONG, negative="blurry",
        guidance_scale=scale, device="cpu",
    )  # fmt: skip
    same([found], [expected])


def test_a_long_prompt_on_xl() -> None:
    prompt, dropped = large().encode_text(LONG)
    assert dropped == ""
    assert (prompt.embeds.shape, prompt.pooled.shape) == ((1, 154, 64), (1, 32))
    assert torch.isfinite(
        sample(large(), shape=(1, 4, 8, 8), steps=2, prompt=LONG, negative="dull", sampler="ddim", device="cpu")
    ).all()


@pytest.mark.parametrize("make", [lambda: adapter(4, EPSILON), large], ids=["sd", "xl"])
def test_weights_of_one_are_the_plain_text_and_others_are_not(make: Any) -> None:
    model = make()
    plain, _ = model.encode_text(PROMPT)
    neutral = model.encode_weighted(PROMPT)
    torch.testing.assert_close(neutral.embeds, plain.embeds, atol=1e-5, rtol=0)
    if plain.pooled is not None:
        torch.testing.assert_close(neutral.pooled, plain.pooled, atol=1e-5, rtol=0)
    stronger = model.encode_weighted("a (red)1.5 door in a brick wall")
    assert stronger.embeds.shape == plain.embeds.shape
    assert not torch.allclose(stronger.embeds, plain.embeds, atol=1e-3)
    assert model.encode_weighted("(red)1.2 " + LONG).embeds.shape[1] == 154


def test_weights_are_read_only_where_asked_for() -> None:
    model = adapter(4, EPSILON)
    given: dict[str, Any] = {"shape": (1, 4, 8, 8), "steps": 2, "sampler": "ddim", "device": "cpu"}
    brackets = "a (red)1.5 door"
    plain = sample(model, PromptText(), prompt=brackets, **given)
    assert torch.equal(plain, sample(model, prompt=brackets, **given))
    assert not torch.allclose(plain, sample(model, PromptText(weights=True), prompt=brackets, **given))


def test_a_model_without_weights_for_words_refuses_them() -> None:
    model = adapter(4, EPSILON)
    model.__class__ = type("Plain", (type(model),), {"encode_weighted": None})
    with pytest.raises(ModelError, match="prompt weights=.* is for Stable Diffusion"):
        sample(model, PromptText(weights=True), shape=(1, 4, 8, 8), steps=1, prompt="x", device="cpu")
