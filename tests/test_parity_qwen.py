"""Qwen-Image and its edit models against their diffusers pipelines, step for step.

The edit pipelines bring every picture to one megapixel, which is fixed in them: here to 64 x 64. With transformers 5
those of diffusers 0.42 are broken: they do not hand on which tokens are a picture's, so that the language model sees it
without rows and columns (huggingface/diffusers issue 14194). Here that is mended.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from types import ModuleType
from typing import Any

import diffusers
import diffusers.pipelines.qwenimage.pipeline_qwenimage_edit as of_edit
import diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_inpaint as of_inpaint
import diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus as of_plus
import pytest
import tiny_flow as tiny
import torch
from torch import Tensor

from editkit.diffusion.conditioning import Conditioning, Reference
from editkit.models import describe, load
from editkit.models.latent import qwen
from editkit.models.latent.tokens import packed
from editkit.plugin import Hooks, Plugin, Run, Step
from editkit.plugins import Inpaint, SDEdit

PROMPT, NEGATIVE = tiny.PROMPT, "blurry and far too dark"
BOUND, SEEN = 1e-5, 1e-2
HOLE = (13, 21, 43, 52)
CLASSES: dict[str, Any] = {
    "text": diffusers.QwenImagePipeline, "edit": diffusers.QwenImageEditPipeline,
    "plus": diffusers.QwenImageEditPlusPipeline, "2511": diffusers.QwenImageEditPlusPipeline,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def small() -> Any:
    with pytest.MonkeyPatch.context() as m:
        for module in (of_edit, of_inpaint):
            m.setattr(module, "calculate_dimensions", _scaled(module))
        m.setattr(of_plus, "VAE_IMAGE_SIZE", 64 * 64)
        m.setattr(of_plus, "CONDITION_IMAGE_SIZE", 56 * 56)
        m.setattr(qwen, "SEEN", 56 * 56)
        m.setattr(qwen.QwenEdit, "area", 64 * 64)
        yield


def _scaled(module: ModuleType) -> Any:
    own = module.calculate_dimensions
    return lambda area, ratio: own(area // 256, ratio)


def mended() -> Any:
    """The language model, told which tokens are a picture's."""
    encoder = copy(tiny.qwen_seeing())
    own = type(encoder).forward

    def forward(**given: Any) -> Any:
        return own(encoder, **given, mm_token_type_ids=(given["input_ids"] == encoder.config.image_token_id).int())

    encoder.forward = forward
    return encoder


def pipe(name: str, kind: Any = None, whole: bool = True) -> Any:
    """`whole`: with the mended language model."""
    more = {} if name == "text" else {"processor": tiny.qwen_processor()}
    encoder = mended() if whole and name != "text" else tiny.qwen_seeing()
    return (kind or CLASSES[name])(
        transformer=tiny.qwen_transformer(name == "2511"), scheduler=tiny.dynamic(**tiny.QWEN), vae=tiny.qwen_vae(),
        text_encoder=encoder, tokenizer=tiny.qwen_tokenizer(), **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name in CLASSES:
        path = tmp_path_factory.mktemp("models") / name
        pipe(name, whole=False).save_pretrained(path)
        made[name] = tiny.plain(load(describe(str(path)), torch.device("cpu"), torch.float32))
    return made


def theirs(name: str, kind: Any = None, steps: int = 4, **given: Any) -> list[Tensor]:
    size = {"height": 64, "width": 64, "num_inference_steps": steps, "negative_prompt": NEGATIVE, "true_cfg_scale": 4.0}
    return tiny.states(pipe(name, kind), prompt=PROMPT, **{**size, **given})


def ours(model: Any, plugins: Sequence[Plugin] = (), **options: Any) -> list[Tensor]:
    return [packed(x) for x in tiny.walked(model, plugins, **{"negative": NEGATIVE, **options})]


def test_text_and_the_mistakes_that_would_be_seen(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, expected = models["text"], theirs("text", width=96)
    assert tiny.distance(ours(model, size=(64, 96)), expected) <= BOUND
    assert tiny.distance(ours(model, size=(64, 96), negative=None), expected) > SEEN, "another negative prompt"
    assert tiny.distance(ours(model, size=(64, 96), shift=1.5), expected) > SEEN, "another shift"
    with monkeypatch.context() as m:
        m.setattr(type(model), "fold", lambda self, n, p, scale: n + scale * (p - n))
        assert tiny.distance(ours(model, size=(64, 96)), expected) > SEEN, "no length given back"
    with monkeypatch.context() as m:
        m.setattr(type(model), "fold", _by_latent)
        assert tiny.distance(ours(model, size=(64, 96)), expected) > SEEN, "the length of a latent, not of a token"


def _by_latent(self: Any, n: Tensor, p: Tensor, scale: float) -> Tensor:
    mixed = n + scale * (p - n)
    return mixed * (p.norm(dim=1, keepdim=True) / mixed.norm(dim=1, keepdim=True))


def test_a_picture_redrawn_and_inpainted(models: dict[str, Any]) -> None:
    image, hole = tiny.picture(), tiny.mask(HOLE)
    expected = theirs("text", diffusers.QwenImageImg2ImgPipeline, 5, image=image, strength=0.6)
    found = ours(models["text"], [SDEdit(strength=0.6)], known=tiny.tensor(image), steps=5)
    assert tiny.distance(found, expected) <= BOUND
    given = {"image": image, "mask_image": hole, "strength": 0.6}
    expected = theirs("text", diffusers.QwenImageInpaintPipeline, 5, **given)
    plugins = [Inpaint(), SDEdit(strength=0.6)]
    found = ours(models["text"], plugins, known=tiny.tensor(image), mask=tiny.tensor(hole), steps=5)
    assert tiny.distance(found, expected) <= BOUND


def test_edit_looks_at_one_picture(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    image, model = tiny.picture(), models["edit"]
    expected = theirs("edit", image=image)
    assert tiny.distance(ours(model, [tiny.Look(pictures=(image,))]), expected) <= BOUND
    assert tiny.distance(ours(model), expected) > SEEN, "no picture"
    with monkeypatch.context() as m:
        m.setattr(qwen, "TOLD", qwen.TOLD[:-1])
        assert tiny.distance(ours(model, [tiny.Look(pictures=(image,))]), expected) > SEEN, "a picture in one line"


@pytest.mark.parametrize("name", ["plus", "2511"])
def test_edit_plus_looks_at_several(models: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, model = tiny.picture(seed=9), tiny.picture(), models[name]
    expected = theirs(name, image=[one, two])
    look = [tiny.Look(pictures=(one, two))]
    assert tiny.distance(ours(model, look), expected) <= BOUND
    assert tiny.distance(ours(model, [tiny.Look(pictures=(two, one))]), expected) > SEEN, "another order"
    own = type(model).encode_seeing
    with monkeypatch.context() as m:
        m.setattr(type(model), "encode_seeing", lambda self, text, references: own(self, text, ()))
        assert tiny.distance(ours(model, look), expected) > SEEN, "words without pictures"


class LookAtItself(Plugin):
    """The picture's own draw is the reference, as in QwenImageEditInpaintPipeline."""

    name = "look-at-itself"
    order = -60

    def hooks(self) -> type[Hooks[LookAtItself]]:
        return _ItselfHooks


class _ItselfHooks(Hooks[LookAtItself]):
    def __init__(self, plugin: LookAtItself, run: Run) -> None:
        super().__init__(plugin, run)
        assert run.inputs.known is not None
        assert run.inputs.picture is not None
        self.reference = Reference(run.inputs.known, run.inputs.picture)

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        return cond.plus_reference(self.reference)


def test_edit_inpaints(models: dict[str, Any]) -> None:
    image, hole = tiny.picture(), tiny.mask(HOLE)
    given = {"image": image, "mask_image": hole, "strength": 0.8}
    expected = theirs("edit", diffusers.QwenImageEditInpaintPipeline, 5, **given)
    plugins = [Inpaint(), SDEdit(strength=0.8), LookAtItself()]
    found = ours(models["edit"], plugins, known=tiny.tensor(image), mask=tiny.tensor(hole), steps=5)
    assert tiny.distance(found, expected) <= BOUND


def test_what_a_folder_is(models: dict[str, Any]) -> None:
    infos = {name: model.info for name, model in models.items()}
    assert {name: (info.steps, info.guidance, info.references) for name, info in infos.items()} == {
        "text": (50, 4.0, 0), "edit": (50, 4.0, 1), "plus": (40, 4.0, 3), "2511": (40, 4.0, 3),
    }  # fmt: skip
    assert infos["text"].takes == {"prompt", "step cache", "control"}
    assert infos["plus"].takes == {"prompt", "step cache", "references", "control"}
