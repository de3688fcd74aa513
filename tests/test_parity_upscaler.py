"""The x4 upscaler against its diffusers pipeline, step for step, and what is refused."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import numpy as np
import pytest
import tiny_latent as tiny
import torch
from PIL import Image
from test_parity_latent import NEGATIVE, PROMPT, SCHEDULERS, same
from torch import Tensor

from editkit import Hooks, Plugin, edit, sample
from editkit.diffusion.model import ModelInfo, NoisesLowres
from editkit.engine.loop import State
from editkit.errors import ModelError, UsageError
from editkit.models import Conditioning, describe, load
from editkit.models.latent.upscaler import LatentUpscaler
from editkit.models.schedules import make_schedule
from editkit.plugins import Upscale

SMALL: dict[str, Any] = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}
STEPS = 6


@cache
def parts() -> dict[str, Any]:
    vae = tiny.vae(
        block_out_channels=(8, 8, 16), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, scaling_factor=0.08333,
    )  # fmt: skip
    unet = tiny.unet(in_channels=7, num_class_embeds=100, sample_size=16)
    return {"vae": vae, "unet": unet, "tokenizer": tiny.tokenizer(), "text_encoder": tiny.text_encoder()}


def small_picture(batch: int) -> Tensor:
    return tiny.picture(batch, 16)[0]


def pipeline(name: str, config: dict[str, Any]) -> Any:
    pipe = diffusers.StableDiffusionUpscalePipeline(
        **parts(), scheduler=SCHEDULERS[name].from_config(config),
        low_res_scheduler=diffusers.DDPMScheduler.from_config(SMALL),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Enlarge(Plugin):
    """What a plugin for this model has to do: noise the small picture once, tell it and its level."""

    name: ClassVar[str] = "enlarge"
    noise_level: int = 20

    def hooks(self) -> type[Hooks[Any]]:
        return EnlargeHooks


class EnlargeHooks(Hooks[Enlarge]):
    def __init__(self, plugin: Enlarge, run: Any) -> None:
        super().__init__(plugin, run)
        assert isinstance(run.model, NoisesLowres)
        small = 2 * small_picture(run.shape[0]) - 1
        self.small = run.model.noised(small, plugin.noise_level, run.randn_like(small))

    def condition(self, step: Any, cond: Conditioning) -> Conditioning:
        from dataclasses import replace

        return replace(cond, lowres=self.small, noise_level=self.plugin.noise_level)


def adapter(config: dict[str, Any]) -> LatentUpscaler:
    info = ModelInfo("tiny", "test", frozenset({"prompt", "lowres", "noise_level"}))
    own = parts()
    return LatentUpscaler(
        info, own["unet"], own["vae"], own["tokenizer"], own["text_encoder"], make_schedule(config), config,
        make_schedule(SMALL),
    )  # fmt: skip


@pytest.mark.parametrize(("scale", "level", "batch"), [(1.0, 20, 3), (7.5, 60, 1)])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["ddim", "dpm++2m", "unipc", "euler", "lcm", "ddpm"])
def test_the_pipelines_latents(name: str, kind: str, scale: float, level: int, batch: int) -> None:
    config = {**tiny.SD, "prediction_type": kind}
    pipe, expected = pipeline(name, config), []

    def keep(index: int, t: Any, x: Tensor) -> None:
        if name == "euler":
            x = x / (1 + pipe.scheduler.sigmas[pipe.scheduler.step_index] ** 2) ** 0.5
        expected.append(x.clone())

    pipe(
        prompt=[PROMPT] * batch, negative_prompt=[NEGATIVE] * batch, image=small_picture(batch), noise_level=level,
        num_inference_steps=STEPS, guidance_scale=scale, generator=torch.Generator().manual_seed(5),
        output_type="latent", callback=keep,
    )  # fmt: skip
    states: list[State] = []
    sample(
        adapter(config), Enlarge(noise_level=level), shape=(batch, 4, 16, 16), sampler=name, steps=STEPS, seed=5,
        noise="diffusers", prompt=PROMPT, negative=NEGATIVE, guidance_scale=scale, watch=states.append, device="cpu",
    )  # fmt: skip
    same([state.x for state in states], expected)


def test_its_folder_is_known(tmp_path: Path) -> None:
    pipeline("ddim", tiny.SD).save_pretrained(tmp_path)
    info = describe(str(tmp_path))
    assert (info.takes, info.window, info.multiple) == ({"prompt", "lowres", "noise_level"}, 64, 4)
    model = load(info, torch.device("cpu"), torch.float32)
    assert isinstance(model, NoisesLowres)
    with pytest.raises(UsageError, match="the noise level is 100; .* has levels 0 to 99"):
        model.noised(torch.zeros(1, 3, 16, 16), 100, torch.zeros(1, 3, 16, 16))
    with pytest.raises(ModelError, match="none was given; use it with the plugin upscale"):
        model(torch.zeros(1, 4, 16, 16), model.schedule.level(10.0), [Conditioning()])
    config = json.loads((tmp_path / "unet" / "config.json").read_text())
    (tmp_path / "unet" / "config.json").write_text(json.dumps({**config, "in_channels": 9}))
    with pytest.raises(ModelError, match="takes 9 channels"):
        describe(str(tmp_path))


def test_a_larger_lowres_is_brought_to_the_latents() -> None:
    model, x_t = adapter({**tiny.SD, "prediction_type": "epsilon"}), torch.randn(1, 4, 16, 16)
    small, level = torch.rand(1, 3, 16, 16) * 2 - 1, model_level()
    large = small.repeat_interleave(4, -1).repeat_interleave(4, -2)
    (a,), (b,) = (model(x_t, level, [Conditioning(lowres=picture, noise_level=3)]) for picture in (small, large))
    assert torch.allclose(a.x0, b.x0, atol=1e-5)


def model_level() -> Any:
    return make_schedule({**tiny.SD, "prediction_type": "epsilon"}).levels(10)[5]


def test_the_plugin_upscale_gives_the_pipelines_picture(tmp_path: Path) -> None:
    """From pixels to pixels; held to the small picture (the default) it is that picture when made small again."""
    pipe = pipeline("ddim", tiny.SD)
    pipe.save_pretrained(tmp_path)
    small = (255 * small_picture(1)[0].permute(1, 2, 0).numpy()).round().astype(np.uint8)
    expected = pipe(
        prompt=PROMPT, negative_prompt=NEGATIVE, image=Image.fromarray(small), noise_level=30, guidance_scale=7.5,
        num_inference_steps=STEPS, generator=torch.Generator().manual_seed(5), output_type="np",
    ).images[0]  # fmt: skip
    how: dict[str, Any] = {
        "model": str(tmp_path), "noise": "diffusers", "seed": 5, "sampler": "ddim", "steps": STEPS, "prompt": PROMPT,
        "negative": NEGATIVE, "guidance_scale": 7.5, "dtype": "fp32", "device": "cpu", "offline": True,
    }  # fmt: skip
    made = edit(small, Upscale(scale=4, noise_level=30, project=False), **how).pixels
    assert made.shape == (64, 64, 3)
    assert np.abs(made - 255 * expected).max() <= 1.01
    said: list[str] = []
    held = edit(small, Upscale(scale=4, noise_level=30), notify=said.append, **how).pixels
    (line,) = (line for line in said if "consistency levels" in line)
    assert float(line.split()[3].strip(",")) < 1.0
    assert not np.array_equal(held, made)
    for scale, side in ((2, 32), (3.3, 53)):
        assert edit(small, Upscale(scale=scale), **how).pixels.shape == (side, side, 3)
    with pytest.raises(UsageError, match="noise_level= is 100; this model has 0 to 99"):
        edit(small, Upscale(scale=4, noise_level=100), **how)
