"""FLUX.1's IP-Adapter and Redux against the diffusers pipelines; tiny networks with random weights prove plumbing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_flow as tiny
import tiny_latent
import tiny_prompts
import torch
from PIL import Image
from test_parity_flux import ours, pipe, theirs
from torch import Tensor

from editkit import edit
from editkit.errors import ModelError, UsageError
from editkit.models import describe, load
from editkit.models.leasing import Models
from editkit.plugins import Cache, Cfg, ImagePrompt, SDEdit

BOUND, SEEN = 1e-5, 1e-2
STYLE, OTHER = tiny.picture(40, 40, seed=9), tiny.picture(40, 40, seed=11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny_prompts.with_encoder(tmp_path_factory.mktemp("adapters"))
    tiny_prompts.flux_adapter(made / "flux.safetensors", tiny.flux_transformer())
    tiny_prompts.adapter(made / "sd.safetensors", tiny_latent.unet())
    tiny_prompts.redux(made / "redux")
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = {}
    for name in ("dev", "kontext"):
        path = tmp_path_factory.mktemp("models") / name
        pipe(name).save_pretrained(path)
        made[name] = tiny.plain(load(describe(str(path)), torch.device("cpu"), torch.float32))
    return made


def given(folder: Path, name: str = "flux.safetensors", **more: Any) -> Any:
    return ImagePrompt(**{"image": STYLE, "adapter": str(folder / name), **more})


def prompted(folder: Path, name: str = "dev", scale: float = 1.0, **more: Any) -> list[Tensor]:
    """The states of a pipeline of networks of its own, with the adapter loaded."""
    made = pipe(name)
    transformer = type(made.transformer).from_config(made.transformer.config)
    transformer.load_state_dict(made.transformer.state_dict())
    made.register_modules(transformer=transformer.eval(), image_encoder=tiny_prompts.vision())
    made.load_ip_adapter(str(folder), weight_name="flux.safetensors", image_encoder_pretrained_model_name_or_path=None)
    made.set_ip_adapter_scale(scale)
    how = {"prompt": tiny.PROMPT, "height": 64, "width": 64, "num_inference_steps": 4, "guidance_scale": 3.5}
    return tiny.states(made, ip_adapter_image=STYLE, **{**how, **more})


def test_the_adapter_is_the_pipelines(folder: Path, models: dict[str, Any]) -> None:
    model, expected = models["dev"], prompted(folder, scale=0.6)
    assert tiny.distance(ours(model, [given(folder, scale=0.6)]), expected) <= BOUND
    assert tiny.distance(ours(model), expected) > SEEN, "no adapter"
    assert tiny.distance(ours(model, [given(folder, scale=0.6, image=OTHER)]), expected) > 100 * BOUND, (
        "another picture"
    )
    assert tiny.distance(ours(model), theirs("dev", guidance_scale=3.5)) <= BOUND, "it left no trace"


def test_real_guidance_looks_at_black_in_the_other_branch(folder: Path, models: dict[str, Any]) -> None:
    expected = prompted(folder, negative_prompt="blurry", true_cfg_scale=3.0)
    plugins = [Cfg(true_scale=3.0), given(folder)]
    assert tiny.distance(ours(models["dev"], plugins, negative="blurry"), expected) <= BOUND


def test_kontext_takes_it_beside_its_reference(folder: Path, models: dict[str, Any]) -> None:
    image, model = tiny.picture(), models["kontext"]
    look = {"image": image, "max_area": 64 * 64, "_auto_resize": False}
    expected = prompted(folder, "kontext", 0.6, **look)
    seen = tiny.Look(pictures=(image,))
    assert tiny.distance(ours(model, [seen, given(folder, scale=0.6)]), expected) <= BOUND
    masked = ours(model, [seen, given(folder, scale=0.6, mask="box:0,0,50%,100%")])
    assert tiny.distance(masked, expected) > 100 * BOUND


def test_a_mask_of_all_is_none_and_one_of_a_half_is_the_half(folder: Path, models: dict[str, Any]) -> None:
    """diffusers has no masks for FLUX: both ends are what it has, and left and right are not the same."""
    model, whole = models["dev"], ours(models["dev"], [given(folder)])
    white = Image.new("L", (64, 64), 255)
    assert tiny.distance(ours(model, [given(folder, mask=white)]), whole) <= BOUND
    halves = [ours(model, [given(folder, mask=f"box:{box}")]) for box in ("0,0,50%,100%", "50%,0,100%,100%")]
    assert all(tiny.distance(half, whole) > 100 * BOUND for half in halves)
    both = [given(folder, mask="box:0,0,50%,100%"), given(folder, mask="box:50%,0,100%,100%")]
    assert tiny.distance(ours(model, both), whole) <= BOUND, "each half counts where it is"


def test_a_step_cache_beside_it(folder: Path, models: dict[str, Any]) -> None:
    """The cache's network is a copy whose attention looks at the picture too, also where it begins late."""
    model = models["dev"]
    for plugins in ([given(folder)], [given(folder, mask="box:0,0,50%,100%")], [given(folder, start=0.5)]):
        plain = ours(model, plugins)
        assert all(map(torch.equal, ours(model, [*plugins, Cache(threshold=1e-9)]), plain))
    saving = [ours(model, [*plugins, Cache(threshold=50.0)]) for plugins in ([given(folder)], [])]
    assert tiny.distance(*saving) > SEEN, "the picture is in what is remembered"


def test_redux_is_the_pipelines(folder: Path, models: dict[str, Any]) -> None:
    prior = tiny_prompts.redux(folder / "again")
    prior.register_modules(**{k: v for k, v in pipe("dev").components.items() if "text" in k or "token" in k})
    with torch.no_grad():
        both = prior(image=STYLE, prompt=tiny.PROMPT)
    embeds = {"prompt_embeds": both.prompt_embeds, "pooled_prompt_embeds": both.pooled_prompt_embeds, "prompt": None}
    expected = theirs("dev", guidance_scale=3.5, **embeds)
    model, plugin = models["dev"], given(folder, "redux")
    assert tiny.distance(ours(model, [plugin]), expected) <= BOUND
    assert tiny.distance(ours(model), expected) > SEEN, "no picture"
    assert tiny.distance(ours(model, [given(folder, "redux", scale=0.05)]), expected) > 100 * BOUND, "another scale"
    assert tiny.distance(ours(model, [given(folder, "redux", image=OTHER)]), expected) > 10 * BOUND, "another picture"
    assert all(map(torch.equal, ours(model, [given(folder, "redux", scale=0.0)]), ours(model)))
    real = {"negative_prompt": "blurry", "true_cfg_scale": 3.0, "guidance_scale": 3.5}
    found = ours(model, [Cfg(true_scale=3.0), plugin], negative="blurry")
    assert tiny.distance(found, theirs("dev", **real, **embeds)) <= BOUND, "a negative prompt has no picture"
    together = ours(model, [plugin, given(folder, scale=0.6)])
    assert tiny.distance(together, expected) > SEEN, "both kinds at once"


def test_what_does_not_fit_is_refused(folder: Path, models: dict[str, Any], tmp_path: Path) -> None:
    from diffusers import DDIMScheduler

    flux = models["dev"].info.name
    sd = str(tiny_latent.save_sd(tmp_path / "sd", DDIMScheduler.from_config(tiny_latent.SD)))
    tiny_prompts.redux(tmp_path / "wide", width=48)
    before, models_ = np.asarray(tiny.picture()), Models()

    def refused(kind: Any, model: str, plugin: Any, match: str) -> None:
        with pytest.raises(kind, match=match):
            edit(
                before, SDEdit(strength=0.5) & plugin, model=model, steps=2, device="cpu", dtype="fp32", offline=True,
                models=models_,
            )  # fmt: skip

    refused(ModelError, flux, given(folder, "sd.safetensors"), "sd.safetensors is of another family than the model")
    refused(ModelError, sd, given(folder), "flux.safetensors is of another family than the model")
    refused(ModelError, sd, given(folder, "redux"), "Redux is, which is for FLUX.1.*needs an IP-Adapter")
    refused(ModelError, flux, given(folder, "image_encoder"), "image_encoder is no FLUX.1 Redux")
    refused(ModelError, flux, given(tmp_path, "wide"), "makes tokens of width 48.*makes 24")
    refused(UsageError, flux, given(folder, "redux", mask="box:0,0,9,9"), "mask=? ?is for IP-Adapters")
