"""FLUX.1 against its diffusers pipelines, step for step, and what would be seen of a mistake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import pytest
import tiny_flow as tiny
import tiny_latent
import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.diffusion.flows import Line
from editkit.models import describe, load
from editkit.models.latent import flux_tokens
from editkit.models.latent.tokens import packed
from editkit.plugin import Plugin
from editkit.plugins import Cfg, ControlNet, Inpaint, SDEdit

PROMPT = tiny.PROMPT
BOUND, SEEN = 1e-5, 1e-2
HOLE = (13, 21, 43, 52)
"""Its edges are on no token's."""
CLASSES: dict[str, tuple[Any, int, bool]] = {
    "dev": (diffusers.FluxPipeline, 64, True), "schnell": (diffusers.FluxPipeline, 64, False),
    "fill": (diffusers.FluxFillPipeline, 384, True), "kontext": (diffusers.FluxKontextPipeline, 64, True),
    "control": (diffusers.FluxControlPipeline, 128, True),
}  # fmt: skip


def pipe(name: str, kind: Any = None) -> Any:
    known, channels, told = CLASSES[name]
    few = {"shift": 1.0, "use_dynamic_shifting": False} if name == "schnell" else {}
    made = (kind or known)(
        transformer=tiny.flux_transformer(channels, told), scheduler=tiny.dynamic(**tiny.FLUX, **few),
        vae=tiny.flux_vae(), text_encoder=tiny_latent.text_encoder(), tokenizer=tiny_latent.tokenizer(),
        text_encoder_2=tiny.t5(), tokenizer_2=tiny.t5_tokenizer(),
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name in CLASSES:
        path = tmp_path_factory.mktemp("models") / name
        pipe(name).save_pretrained(path)
        made[name] = tiny.plain(load(describe(str(path)), torch.device("cpu"), torch.float32))
    return made


def theirs(name: str, kind: Any = None, steps: int = 4, **given: Any) -> list[Tensor]:
    return tiny.states(
        pipe(name, kind), **{"prompt": PROMPT, "height": 64, "width": 64, "num_inference_steps": steps, **given}
    )


def ours(model: Any, plugins: Sequence[Plugin] = (), **options: Any) -> list[Tensor]:
    return [packed(x) for x in tiny.walked(model, plugins, **options)]


def test_text_and_guidance(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    dev, few = models["dev"], models["schnell"]
    expected = theirs("dev", width=96, guidance_scale=2.5)
    wide = {"size": (64, 96), "guidance_scale": 2.5}
    assert tiny.distance(ours(dev, **wide), expected) <= BOUND
    assert tiny.distance(ours(dev, **{**wide, "guidance_scale": 3.5}), expected) > SEEN
    with monkeypatch.context() as m:
        m.setattr(Line, "__call__", lambda self, tokens, steps: 1.15)
        assert tiny.distance(ours(dev, **wide), expected) > SEEN, "the mu of another size"
    with monkeypatch.context() as m:
        m.setattr(flux_tokens, "grid_ids", lambda size, *rest: flux_ids(size))
        assert tiny.distance(ours(dev, **wide), expected) > SEEN, "rows and columns exchanged"
    assert tiny.distance(ours(few), theirs("schnell")) <= BOUND
    expected = theirs("dev", negative_prompt="blurry", true_cfg_scale=3.0, guidance_scale=2.5)
    assert tiny.distance(ours(dev, [Cfg(true_scale=3.0)], negative="blurry", guidance_scale=2.5), expected) <= BOUND
    assert tiny.distance(ours(dev, negative="blurry", guidance_scale=2.5), expected) > SEEN


def flux_ids(size: Sequence[int]) -> Tensor:
    """Positions with rows and columns exchanged."""
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return torch.stack([torch.zeros_like(rows), columns, rows], dim=-1).reshape(-1, 3)


@pytest.mark.parametrize(("steps", "strength", "walk"), [(4, 0.6, 3), (7, 0.3, 3), (4, 1.0, 4)])
def test_a_picture_redrawn(models: dict[str, Any], steps: int, strength: float, walk: int) -> None:
    image = tiny.picture()
    expected = theirs("dev", diffusers.FluxImg2ImgPipeline, steps, image=image, strength=strength, guidance_scale=3.5)
    assert len(expected) == walk
    found = ours(models["dev"], [SDEdit(strength=strength)], known=tiny.tensor(image), steps=steps)
    assert tiny.distance(found, expected) <= BOUND


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_inpainting(models: dict[str, Any], strength: float) -> None:
    image, hole = tiny.picture(), tiny.mask(HOLE)
    given = {"image": image, "mask_image": hole, "strength": strength, "guidance_scale": 3.5}
    expected = theirs("dev", diffusers.FluxInpaintPipeline, 5, **given)
    plugins = [Inpaint(), SDEdit(strength=strength)]
    found = ours(models["dev"], plugins, known=tiny.tensor(image), mask=tiny.tensor(hole), steps=5)
    assert tiny.distance(found, expected) <= BOUND


def test_fill_and_the_mistakes_that_would_be_seen(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    image, hole, model = tiny.picture(), tiny.mask(HOLE), models["fill"]
    expected = theirs("fill", image=image, mask_image=hole)
    given: dict[str, Any] = {"known": tiny.tensor(image), "mask": tiny.tensor(hole)}
    assert tiny.distance(ours(model, [Inpaint()], **given), expected) <= BOUND
    assert tiny.distance(ours(model, [Inpaint()], **{**given, "mask": 1 - given["mask"]}), expected) > SEEN
    own = type(model)._beside
    with monkeypatch.context() as m:
        m.setattr(type(model), "_beside", lambda self, x_t, cond: own(self, x_t, cond)[::-1])
        assert tiny.distance(ours(model, [Inpaint()], **given), expected) > SEEN, "channels exchanged"

    def coarse(self: Any, x_t: Tensor, cond: Any) -> list[Tensor]:
        known, mask = own(self, x_t, cond)
        return [known, mask.amax(dim=1, keepdim=True).expand_as(mask)]

    with monkeypatch.context() as m:
        m.setattr(type(model), "_beside", coarse)
        assert tiny.distance(ours(model, [Inpaint()], **given), expected) > SEEN, "the mask by the latent"


def test_kontext_and_the_mistakes_that_would_be_seen(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    image, model = tiny.picture(), models["kontext"]
    expected = theirs("kontext", image=image, max_area=64 * 64, _auto_resize=False, guidance_scale=2.5)
    look = [tiny.Look(pictures=(image,))]
    assert tiny.distance(ours(model, look, guidance_scale=2.5), expected) <= BOUND
    assert tiny.distance(ours(model, guidance_scale=2.5), expected) > SEEN, "no reference"
    with monkeypatch.context() as m:
        m.setattr(flux_tokens, "REFERENCE", 0)
        assert tiny.distance(ours(model, look, guidance_scale=2.5), expected) > SEEN, "another position"


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_kontext_inpaints(models: dict[str, Any], strength: float) -> None:
    image, hole = tiny.picture(), tiny.mask(HOLE)
    given = {"image": image, "mask_image": hole, "strength": strength, "max_area": 64 * 64, "_auto_resize": False}
    expected = theirs("kontext", diffusers.FluxKontextInpaintPipeline, 5, **given, guidance_scale=3.5)
    plugins = [Inpaint(), SDEdit(strength=strength), tiny.Look(pictures=(image,))]
    found = ours(models["kontext"], plugins, known=tiny.tensor(image), mask=tiny.tensor(hole), steps=5)
    assert tiny.distance(found, expected) <= BOUND


def test_control_sees_its_hint(models: dict[str, Any], tmp_path: Any) -> None:
    hint, model = tiny.picture(seed=9), models["control"]
    expected = theirs("control", control_image=hint, guidance_scale=3.5)
    hint.save(tmp_path / "hint.png")
    found = ours(model, [ControlNet(control=str(tmp_path / "hint.png"))])
    assert tiny.distance(found, expected) <= BOUND
    assert tiny.distance(ours(model), expected) > SEEN, "no hint"


def test_what_a_folder_is(models: dict[str, Any]) -> None:
    infos = {name: model.info for name, model in models.items()}
    assert {name: (info.steps, info.guidance, info.distilled) for name, info in infos.items()} == {
        "dev": (28, 3.5, False), "schnell": (4, 1.0, True), "fill": (50, 30.0, False), "kontext": (28, 3.5, False),
        "control": (28, 3.5, False),
    }  # fmt: skip
    assert infos["kontext"].takes == {"prompt", "step cache", "image prompt", "guidance", "references", "control"}
    assert infos["fill"].takes == {
        "prompt",
        "step cache",
        "image prompt",
        "guidance",
        "known",
        "mask",
        "fine mask",
        "control",
    }
    assert infos["control"].takes == {"prompt", "step cache", "image prompt", "guidance", "hint"}
    assert {info.multiple for info in infos.values()} == {16}


def test_the_text_is_the_pipelines_and_what_is_cut_off_is_said(models: dict[str, Any]) -> None:
    with torch.no_grad():
        words, pooled, _ = pipe("dev").encode_prompt(PROMPT, None)
    prompt, dropped = models["dev"].encode_text(PROMPT)
    assert dropped == ""
    assert float((prompt.embeds - words).abs().max()) <= BOUND
    assert float((prompt.pooled - pooled).abs().max()) <= BOUND
    _, dropped = models["dev"].encode_text("x" * 600 + "END")
    assert dropped.endswith("END")
    assert 80 < len(dropped) < 120


def test_a_mask_folds_as_diffusers_folds_it() -> None:
    mask = torch.randn(1, 1, 32, 48)
    latents = mask[:, 0].view(1, 4, 8, 6, 8).permute(0, 2, 4, 1, 3).reshape(1, 64, 4, 6)
    expected = diffusers.FluxFillPipeline._pack_latents(latents, 1, 64, 4, 6)
    assert packed(F.pixel_unshuffle(mask, 8)).equal(expected)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_control_redraws_a_picture(models: dict[str, Any], tmp_path: Any, strength: float) -> None:
    """The hint is drawn first, then the picture, then the noise."""
    image, hint, model = tiny.picture(), tiny.picture(seed=9), models["control"]
    hint.save(tmp_path / "hint.png")
    given = {"image": image, "control_image": hint, "strength": strength, "guidance_scale": 3.5}
    expected = theirs("control", diffusers.FluxControlImg2ImgPipeline, 5, **given)
    redraw = SDEdit(strength=strength)
    found = ours(model, [ControlNet(control=str(tmp_path / "hint.png")), redraw], known=tiny.tensor(image), steps=5)
    assert tiny.distance(found, expected) <= BOUND
    assert tiny.distance(ours(model, [redraw], known=tiny.tensor(image), steps=5), expected) > SEEN, "no hint"


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_control_inpaints(models: dict[str, Any], tmp_path: Any, strength: float) -> None:
    """The pipeline first draws a masked picture, and never looks at it: here by a generator of its own."""
    image, hole, hint = tiny.picture(), tiny.mask(HOLE), tiny.picture(seed=9)
    hint.save(tmp_path / "hint.png")
    made = pipe("control", diffusers.FluxControlInpaintPipeline)
    own = made.prepare_mask_latents
    made.prepare_mask_latents = lambda *given: own(*given[:-1], torch.Generator().manual_seed(0))
    given = {"image": image, "mask_image": hole, "control_image": hint, "strength": strength, "guidance_scale": 3.5}
    expected = tiny.states(made, prompt=PROMPT, height=64, width=64, num_inference_steps=5, **given)
    plugins = [ControlNet(control=str(tmp_path / "hint.png")), Inpaint(), SDEdit(strength=strength)]
    known = {"known": tiny.tensor(image), "mask": tiny.tensor(hole), "steps": 5}
    assert tiny.distance(ours(models["control"], plugins, **known), expected) <= BOUND
    assert tiny.distance(ours(models["control"], plugins[1:], **known), expected) > SEEN, "no hint"
