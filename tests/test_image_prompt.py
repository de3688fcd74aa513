"""IP-Adapters against the diffusers pipelines, step for step; tiny pipelines with random weights prove plumbing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import test_parity_sdxl as xl
import tiny_flow
import tiny_latent as tiny
import tiny_prompts
import torch
from PIL import Image
from test_parity_latent import NEGATIVE, PROMPT, SCHEDULERS, STEPS, kept, parts, same, walked
from torch import Tensor

from editkit import edit
from editkit.errors import ChainError, EditkitError, ModelError, UsageError
from editkit.models import describe
from editkit.models.leasing import Models
from editkit.plugins import Cfg, ImagePrompt, Inpaint, SDEdit

EPSILON = {**tiny.SD, "prediction_type": "epsilon"}
SEEN = 1e-2
STYLE, OTHER = tiny_flow.picture(40, 40, seed=9), tiny_flow.picture(40, 40, seed=11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters for both families, with one encoder beside them."""
    made = tiny_prompts.with_encoder(tmp_path_factory.mktemp("adapters"))
    for kind in tiny_prompts.PROJECTIONS:
        tiny_prompts.adapter(made / f"{kind}.safetensors", tiny.unet(), kind=kind)
    tiny_prompts.adapter(made / "second.safetensors", tiny.unet(), seed=1)
    tiny_prompts.adapter(made / "xl.safetensors", xl.parts(4)["unet"])
    return made


def given(folder: Path, name: str = "plain", **more: Any) -> Any:
    return ImagePrompt(**{"image": STYLE, "adapter": str(folder / f"{name}.safetensors"), **more})


def theirs(
    folder: Path, names: Sequence[str], scales: Sequence[float], pictures: Any, large: bool = False, batch: int = 1,
    guidance: float = 7.5, task: str = "text", masks: Sequence[Tensor] | None = None,
) -> list[Tensor]:  # fmt: skip
    scheduler = SCHEDULERS["ddim"].from_config(xl.SDXL if large else EPSILON)
    if large:
        kind = diffusers.StableDiffusionXLPipeline if task == "text" else diffusers.StableDiffusionXLImg2ImgPipeline
        networks = {**xl.parts(4), "unet": _fresh(xl.parts(4)["unet"])}
        pipe = kind(**networks, scheduler=scheduler, add_watermarker=False)
    else:
        kind = diffusers.StableDiffusionPipeline if task == "text" else diffusers.StableDiffusionImg2ImgPipeline
        networks = {**parts(4), "unet": tiny.unet()}
        pipe = kind(**networks, scheduler=scheduler, safety_checker=None, feature_extractor=None,
                    requires_safety_checker=False)  # fmt: skip
    pipe.load_ip_adapter(str(folder), subfolder="", weight_name=[f"{name}.safetensors" for name in names])
    pipe.set_ip_adapter_scale(list(scales))
    pipe.set_progress_bar_config(disable=True)
    states, keep = kept(scheduler, "ddim")
    image, _ = tiny.picture(batch)
    more: dict[str, Any] = {"height": 64, "width": 64} if task == "text" else {"image": image, "strength": 0.6}
    if masks is not None:
        more["cross_attention_kwargs"] = {"ip_adapter_masks": list(masks)}
    pipe(
        prompt=[PROMPT] * batch, negative_prompt=[NEGATIVE] * batch, num_inference_steps=STEPS,
        guidance_scale=guidance, generator=torch.Generator().manual_seed(5), output_type="latent",
        callback_on_step_end=keep, ip_adapter_image=pictures, **more,
    )  # fmt: skip
    return states


def _fresh(unet: Any) -> Any:
    made = type(unet).from_config(unet.config)
    made.load_state_dict(unet.state_dict())
    return made.eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tiny.save_sd(tmp_path_factory.mktemp("sd") / "model", diffusers.DDIMScheduler.from_config(EPSILON))
    return xl.loaded(path)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("xl") / "model"
    xl.pipeline("img2img", diffusers.DDIMScheduler.from_config(xl.SDXL)).save_pretrained(path)
    return xl.loaded(path)


def ours(model: Any, plugins: Sequence[Any], batch: int = 1, guidance: float = 7.5, task: str = "text") -> list[Tensor]:
    how = {"sampler": "ddim", "negative": NEGATIVE, "guidance_scale": guidance}
    return walked(model, task, 0.6, batch, [Cfg(), *plugins], **how)


def apart(found: list[Tensor], expected: list[Tensor]) -> float:
    return tiny_flow.distance(found, expected)


@pytest.mark.parametrize("kind", ["plain", "full", "plus"])
def test_the_pipeline_with_every_projection(folder: Path, model: Any, kind: str) -> None:
    expected = theirs(folder, [kind], [0.6], STYLE)
    same(ours(model, [given(folder, kind, scale=0.6)]), expected)
    assert apart(ours(model, []), expected) > SEEN, "no adapter"
    assert apart(ours(model, [given(folder, kind, scale=0.7)]), expected) > SEEN / 10, "another scale"
    assert apart(ours(model, [given(folder, kind, scale=0.6, image=OTHER)]), expected) > 1e-3, "another picture"


@pytest.mark.parametrize(("batch", "guidance", "task"), [(2, 7.5, "text"), (1, 1.0, "text"), (2, 7.5, "img2img")])
def test_batches_tasks_and_no_guidance(folder: Path, model: Any, batch: int, guidance: float, task: str) -> None:
    expected = theirs(folder, ["plain"], [0.8], [STYLE] if batch == 1 else STYLE, False, batch, guidance, task)
    same(ours(model, [given(folder, scale=0.8)], batch, guidance, task), expected)


def test_two_adapters_and_two_pictures(folder: Path, model: Any) -> None:
    expected = theirs(folder, ["plain", "second"], [0.6, 0.3], [STYLE, OTHER])
    both = [given(folder, scale=0.6), given(folder, "second", scale=0.3, image=OTHER)]
    same(ours(model, both), expected)
    same(ours(model, both[::-1]), expected)
    assert apart(ours(model, both[:1]), expected) > SEEN
    same(ours(model, [given(folder, image=(STYLE, OTHER))]), theirs(folder, ["plain"], [1.0], [[STYLE, OTHER]]))


@pytest.mark.parametrize("task", ["text", "img2img"])
def test_xl(folder: Path, large: Any, task: str) -> None:
    expected = theirs(folder, ["xl"], [0.6], STYLE, True, task=task)
    same(ours(large, [given(folder, "xl", scale=0.6)], task=task), expected)
    assert apart(ours(large, [], task=task), expected) > SEEN


def test_only_inside_a_mask(folder: Path, model: Any) -> None:
    """As diffusers' `ip_adapter_masks`; a mask of everything is none, to rounding."""
    left = Image.fromarray(np.repeat(np.repeat(np.array([[255, 0]], np.uint8), 64, 0), 32, 1))
    mask = diffusers.image_processor.IPAdapterMaskProcessor().preprocess(left, height=64, width=64)
    expected = theirs(folder, ["plain"], [0.7], STYLE, masks=[mask])
    found = ours(model, [given(folder, scale=0.7, mask=left)])
    same(found, expected)
    assert apart(ours(model, [given(folder, scale=0.7)]), expected) > SEEN, "everywhere"
    right = Image.fromarray(255 - np.asarray(left))
    assert apart(ours(model, [given(folder, scale=0.7, mask=right)]), expected) > SEEN, "elsewhere"
    whole = given(folder, scale=0.7, mask=Image.new("L", (64, 64), 255))
    same(ours(model, [whole]), ours(model, [given(folder, scale=0.7)]))


def test_nothing_outlives_an_edit(folder: Path, model: Any) -> None:
    """The network's processors and weights are the same objects before and after, and so is what it makes."""
    before, processors = ours(model, []), dict(model.unet.attn_processors)
    weights = {name: value.data_ptr() for name, value in model.unet.named_parameters()}
    ours(model, [given(folder)])
    assert model.unet.encoder_hid_proj is None
    assert all(model.unet.attn_processors[name] is one for name, one in processors.items())
    assert {name: value.data_ptr() for name, value in model.unet.named_parameters()} == weights
    assert all(map(torch.equal, ours(model, []), before))
    assert all(map(torch.equal, ours(model, [given(folder, scale=0.0, image="nowhere.png")]), before))


def test_it_acts_in_its_window_alone(folder: Path, model: Any) -> None:
    plain, late = ours(model, []), ours(model, [given(folder, start=0.5)])
    assert torch.equal(plain[2], late[2])
    assert not torch.allclose(plain[-1], late[-1], atol=1e-3)
    parts_of_it = [given(folder, stop=0.5), given(folder, start=0.5)]
    assert all(map(torch.equal, ours(model, parts_of_it), ours(model, [given(folder)])))


FULL: dict[str, Any] = {
    "dtype": "fp32",
    "device": "cpu",
    "offline": True,
    "steps": 2,
    "prompt": "x",
    "models": Models(),
}


def photo(height: int, width: int) -> np.ndarray:
    return np.asarray(tiny_flow.picture(width, height))


def test_with_masks_windows_and_everything_else(folder: Path, model: Any, tmp_path: Path) -> None:
    name, before = model.info.name, photo(90, 75)
    kept_ones = np.ones((90, 75), bool)
    kept_ones[20:44, 20:40] = False
    plugins = Inpaint(mask="box:20,20,40,44") & given(folder, mask="box:0,0,50%,100%") & SDEdit(strength=0.7)
    shared = {**FULL, "model": name}
    made = edit(before, plugins, **shared).pixels
    assert (made[kept_ones] == before[kept_ones]).all()
    assert (made != edit(before, Inpaint(mask="box:20,20,40,44") & SDEdit(strength=0.7), **shared).pixels).any()
    wide = photo(64, 200)
    tiled = [edit(wide, SDEdit(strength=0.7) & given(folder, mask=m), **shared).pixels for m in (None, "box:0,0,9,9")]
    assert (tiled[0] != tiled[1]).any()
    half = edit(before, plugins, **{**shared, "dtype": "bf16"}).pixels
    assert (half[kept_ones] == before[kept_ones]).all()


def refused(kind: type[EditkitError], model: Any, plugin: Any, match: str) -> None:
    with pytest.raises(kind, match=match) as caught:
        edit(photo(64, 64), SDEdit(strength=0.5) & plugin, **{**FULL, "model": model.info.name})
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_refused_with_what_would(folder: Path, model: Any, large: Any, tmp_path: Path) -> None:
    alone = tiny_prompts.adapter(tmp_path / "alone.safetensors", tiny.unet())
    (tmp_path / "old.bin").write_bytes(b"x")
    with pytest.raises(ChainError, match=r"image-prompt needs a model that takes image prompt.*XL and FLUX\.1 do"):
        edit(photo(64, 64), SDEdit(strength=0.5) & given(folder), model="pocket")
    refused(
        ModelError, large, given(folder), "plain.safetensors is of another family than the model.*width 32.*width 64"
    )
    refused(ModelError, model, given(tmp_path, adapter=str(tmp_path / "old.bin")), "old.bin is a pickle.*safetensors")
    refused(ModelError, model, given(tmp_path, adapter=str(tmp_path / "no.safetensors")), "there is no such file")
    refused(
        ModelError,
        model,
        given(tmp_path, "alone"),
        "no image encoder for alone.safetensors.*encoder= names the folder.*width 16",
    )
    refused(UsageError, model, given(folder, image="nowhere.png"), "image-prompt: image=.*nowhere.png|--image")
    other = tiny_prompts.with_encoder(tmp_path / "other", seed=8, projected=20) / "image_encoder"
    refused(
        ModelError,
        model,
        given(folder, encoder=str(other)),
        "width 16, but .*CLIPVisionModelWithProjection of width 20",
    )
    refused(ModelError, model, given(folder, encoder=str(tmp_path / "gone")), "was not found")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "else.safetensors")
    refused(ModelError, model, given(tmp_path, "else"), "is no IP-Adapter: it has no tensors image_proj")
    assert alone.is_file()


def test_a_picture_that_is_not_square_is_said(folder: Path, model: Any) -> None:
    said: list[str] = []
    wide = given(folder, image=tiny_flow.picture(80, 40))
    edit(photo(64, 64), SDEdit(strength=0.5) & wide, notify=said.append, **{**FULL, "model": model.info.name})
    assert any("the encoder sees only the central square of the picture of 80x40" in line for line in said)
    assert describe(model.info.name).takes >= {"image prompt"}
