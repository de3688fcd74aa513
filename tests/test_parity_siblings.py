"""Chroma, Krea 2, LongCat-Image and -Edit against their diffusers pipelines, step for step."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import diffusers.pipelines.longcat_image.pipeline_longcat_image as of_longcat
import diffusers.pipelines.longcat_image.pipeline_longcat_image_edit as of_edit
import pytest
import test_parity_qwen as qwen
import tiny_flow as tiny
import torch
from torch import Tensor

from editkit.models import describe, load
from editkit.models.latent import krea2, longcat
from editkit.models.latent.tokens import packed
from editkit.plugin import Plugin
from editkit.plugins import Inpaint, SDEdit

PROMPT, BOUND, SEEN = tiny.PROMPT, 1e-5, 1e-2
NEGATIVE = "blurry and far too dark to be seen"
HOLE = (13, 21, 43, 52)


@cache
def chroma_transformer() -> Any:
    return tiny.awake(
        diffusers.ChromaTransformer2DModel(
            in_channels=64, out_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=24, axes_dims_rope=(4, 4, 8), approximator_num_channels=8,
            approximator_hidden_dim=32, approximator_layers=1,
        )
    )  # fmt: skip


def chroma(kind: Any = diffusers.ChromaPipeline) -> Any:
    """The pipeline for inpainting asks for a guidance embedding, which Chroma has not: here it is told so."""
    transformer = copy(chroma_transformer())
    transformer._internal_dict = diffusers.configuration_utils.FrozenDict(
        {**transformer.config, "guidance_embeds": False}
    )
    return kind(
        transformer=transformer if kind is diffusers.ChromaInpaintPipeline else chroma_transformer(),
        scheduler=tiny.dynamic(**tiny.FLUX), vae=tiny.flux_vae(), text_encoder=tiny.t5(),
        tokenizer=tiny.t5_tokenizer(),
    )  # fmt: skip


@cache
def krea_encoder() -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLModel

    torch.manual_seed(1)
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 288, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 4,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 12, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 5000000.0},
        },
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 24,
            "patch_size": 16, "spatial_merge_size": 2, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
        },
        image_token_id=268, video_token_id=269, vision_start_token_id=265, vision_end_token_id=266,
    )  # fmt: skip
    return Qwen3VLModel(config).eval()


@cache
def krea_transformer() -> Any:
    return tiny.awake(
        diffusers.Krea2Transformer2DModel(
            in_channels=64, num_layers=2, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=48, timestep_embed_dim=32, text_hidden_dim=24, num_text_layers=3,
            text_num_attention_heads=2, text_num_key_value_heads=1, text_intermediate_size=32,
            num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=(4, 4, 8),
        ),
        gain=1.0,
    )  # fmt: skip


def krea(turbo: bool) -> Any:
    """The pipeline pads texts, and masks the padding: sums are of another length, so the weights are less harsh."""
    return diffusers.Krea2Pipeline(
        transformer=krea_transformer(), scheduler=tiny.dynamic(shift=1.0, max_image_seq_len=6400),
        vae=tiny.qwen_vae(), text_encoder=krea_encoder(), tokenizer=tiny.qwen_tokenizer(),
        text_encoder_select_layers=(1, 2, 4), is_distilled=turbo,
    )  # fmt: skip


@cache
def longcat_transformer() -> Any:
    return tiny.awake(
        diffusers.LongCatImageTransformer2DModel(
            in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=24, pooled_projection_dim=24, axes_dims_rope=[4, 4, 8],
        )
    )  # fmt: skip


def cat(edits: bool, whole: bool = True) -> Any:
    """`whole`: with the language model mended as that of Qwen-Image's edit pipelines."""
    kind = diffusers.LongCatImageEditPipeline if edits else diffusers.LongCatImagePipeline
    encoder = qwen.mended() if edits and whole else tiny.qwen_seeing()
    return kind(
        transformer=longcat_transformer(), scheduler=tiny.dynamic(**tiny.FLUX), vae=tiny.flux_vae(),
        text_encoder=encoder, tokenizer=tiny.qwen_tokenizer(), text_processor=tiny.qwen_processor(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = {
        "chroma": chroma(), "krea": krea(False), "krea turbo": krea(True), "longcat": cat(False),
        "longcat edit": cat(True, whole=False),
    }  # fmt: skip
    loaded: dict[str, Any] = {}
    for name, pipe in made.items():
        path = tmp_path_factory.mktemp("models") / name
        pipe.save_pretrained(path)
        loaded[name] = tiny.plain(load(describe(str(path)), torch.device("cpu"), torch.float32))
    return loaded


def ours(model: Any, plugins: Sequence[Plugin] = (), **options: Any) -> list[Tensor]:
    return [packed(x) for x in tiny.walked(model, plugins, **options)]


def theirs(pipe: Any, steps: int = 4, **given: Any) -> list[Tensor]:
    size = {"prompt": PROMPT, "height": 64, "width": 64, "num_inference_steps": steps}
    return tiny.states(pipe, **{**size, **given})


def stepped(pipe: Any, *given: Any, **more: Any) -> list[Tensor]:
    """The states of a pipeline that has no callback, by its scheduler."""
    found: list[Tensor] = []
    own = pipe.scheduler.step

    def step(*args: Any, **options: Any) -> Any:
        out = own(*args, **options)
        found.append(out[0].clone())
        return out

    pipe.scheduler.step = step
    pipe.set_progress_bar_config(disable=True)
    pipe(*given, generator=torch.Generator().manual_seed(5), output_type="latent", **more)
    return found


def test_chroma_and_the_mistakes_that_would_be_seen(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, options = models["chroma"], {"size": (64, 96), "guidance_scale": 3.0, "negative": NEGATIVE}
    expected = theirs(chroma(), width=96, guidance_scale=3.0, negative_prompt=NEGATIVE)
    assert tiny.distance(ours(model, **options), expected) <= BOUND
    assert tiny.distance(ours(model, **{**options, "negative": None}), expected) > SEEN, "another negative prompt"
    assert tiny.distance(ours(model, **options, shift=1.5), expected) > SEEN, "another mu"
    own = type(model).encode_text

    def unmasked(self: Any, text: str) -> Any:
        prompt, rest = own(self, text)
        return type(prompt)(prompt.embeds, mask=torch.ones_like(prompt.mask)), rest

    with monkeypatch.context() as m:
        m.setattr(type(model), "encode_text", unmasked)
        assert tiny.distance(ours(model, **options), expected) > SEEN, "padding that counts as text does"


def test_chroma_redraws_and_inpaints(models: dict[str, Any]) -> None:
    image, hole = tiny.picture(), tiny.mask(HOLE)
    how = {"image": image, "strength": 0.6, "guidance_scale": 3.0}
    options = {"known": tiny.tensor(image), "steps": 5, "guidance_scale": 3.0}
    expected = theirs(chroma(diffusers.ChromaImg2ImgPipeline), 5, **how)
    assert tiny.distance(ours(models["chroma"], [SDEdit(strength=0.6)], **options), expected) <= BOUND
    whole = {"mask_image": hole, "max_sequence_length": 512}  # the others' length; this one's is 256
    expected = theirs(chroma(diffusers.ChromaInpaintPipeline), 5, **whole, **how)
    found = ours(models["chroma"], [Inpaint(), SDEdit(strength=0.6)], mask=tiny.tensor(hole), **options)
    assert tiny.distance(found, expected) <= BOUND


def test_krea(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = models["krea"]
    expected = theirs(krea(False), width=96, guidance_scale=1.5, negative_prompt=NEGATIVE)
    options = {"size": (64, 96), "guidance_scale": 2.5, "negative": NEGATIVE}
    assert tiny.distance(ours(model, **options), expected) <= BOUND
    assert tiny.distance(ours(model, **{**options, "guidance_scale": 1.5}), expected) > SEEN, "another scale"
    with monkeypatch.context() as m:
        m.setattr(model, "layers", (4, 2, 1))
        assert tiny.distance(ours(model, **options), expected) > SEEN, "layers exchanged"
    few = theirs(krea(True), width=96, guidance_scale=0.0)
    assert tiny.distance(ours(models["krea turbo"], size=(64, 96)), few) <= BOUND
    with monkeypatch.context() as m:
        m.setattr(krea2.ConstantShift, "__call__", lambda self, tokens, steps: 0.5)
        assert tiny.distance(ours(models["krea turbo"], size=(64, 96)), few) > SEEN, "another mu"


def test_longcat_and_the_mistakes_that_would_be_seen(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = models["longcat"], "a sign that says 'red' on the dog's door"
    given = {"height": 64, "width": 96, "num_inference_steps": 4, "guidance_scale": 4.5, "enable_prompt_rewrite": False}
    expected = stepped(cat(False), text, NEGATIVE, **given)
    options = {"size": (64, 96), "prompt": text, "negative": NEGATIVE}
    assert tiny.distance(ours(model, **options), expected) <= BOUND
    with monkeypatch.context() as m:
        m.setattr(longcat, "NOISE", 0)
        assert tiny.distance(ours(model, **options), expected) > SEEN, "another position"
    with monkeypatch.context() as m:
        m.setattr(type(model), "fold", lambda self, n, p, scale: n + scale * (p - n))
        assert tiny.distance(ours(model, **options), expected) > SEEN, "lengths that grow"


@pytest.mark.parametrize("text", ["it's 'a b' and \"c\"", "no marks", "'x'", "", "dogs' and cats' tails", "a ‘b’ “c”"])
def test_what_is_quoted_is_read_letter_by_letter(text: str) -> None:
    expected: list[str] = []
    for part, quoted in of_longcat.split_quotation(text):
        expected += list(part) if quoted else [part]
    assert longcat.split_quoted(text) == expected


def test_longcat_edit_looks_at_a_picture(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    image, model = tiny.picture(), models["longcat edit"]
    own = of_edit.calculate_dimensions
    monkeypatch.setattr(of_edit, "calculate_dimensions", lambda area, ratio: own(area // 256, ratio))
    expected = stepped(cat(True), image, PROMPT, negative_prompt=NEGATIVE, num_inference_steps=4, guidance_scale=4.5)
    look = [tiny.Look(pictures=(image,))]
    assert tiny.distance(ours(model, look, negative=NEGATIVE), expected) <= BOUND
    assert tiny.distance(ours(model, negative=NEGATIVE), expected) > SEEN, "no picture"
    with monkeypatch.context() as m:
        m.setattr(longcat, "REFERENCE", 1)
        assert tiny.distance(ours(model, look, negative=NEGATIVE), expected) > SEEN, "another position"


def test_what_a_folder_is(models: dict[str, Any]) -> None:
    infos = {name: model.info for name, model in models.items()}
    assert {name: (i.steps, i.guidance, i.distilled, i.references) for name, i in infos.items()} == {
        "chroma": (35, 5.0, False, 0), "krea": (28, 5.5, False, 0), "krea turbo": (8, 1.0, True, 0),
        "longcat": (50, 4.5, False, 0), "longcat edit": (50, 4.5, False, 1),
    }  # fmt: skip
    assert {info.multiple for info in infos.values()} == {16}


@pytest.mark.parametrize("name", ["chroma", "krea", "longcat", "longcat edit"])
def test_what_is_cut_off_is_said(models: dict[str, Any], name: str, tmp_path: Path) -> None:
    _, dropped = models[name].encode_text("x" * 600 + "END")
    assert dropped.endswith("END")
    assert set(dropped[:-3]) == {"x"}
    assert 80 < len(dropped) < 250
    assert models[name].encode_text(PROMPT)[1] == ""
