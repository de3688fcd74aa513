"""Stable Diffusion against its diffusers pipelines, step for step: same weights, seed, settings; `--noise diffusers`.

Latents in float32 to 1e-5 of the larger of 1 and their size; a case fails with the first step that differs. Weights are
random: this proves plumbing, ladders, the order of draws and the blends, not quality.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import diffusers
import pytest
import tiny_latent as tiny
import torch
from torch import Tensor

from editkit import sample
from editkit.diffusion.model import ModelInfo
from editkit.engine.loop import State
from editkit.errors import ModelError
from editkit.models.latent.unet import LatentUNet
from editkit.models.schedules import make_schedule
from editkit.plugins import Cfg, Inpaint, SDEdit

TOLERANCE = 1e-5
PROMPT, NEGATIVE = "a red door in a brick wall", "blurry"
STEPS = 7
SCHEDULERS: dict[str, Any] = {
    "ddpm": diffusers.DDPMScheduler,
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler-ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "dpm++2m": diffusers.DPMSolverMultistepScheduler,
    "dpm++2m-sde": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "lcm": diffusers.LCMScheduler,
}
PIPES: dict[str, Any] = {
    "text": diffusers.StableDiffusionPipeline,
    "img2img": diffusers.StableDiffusionImg2ImgPipeline,
    "inpaint4": diffusers.StableDiffusionInpaintPipeline,
    "inpaint9": diffusers.StableDiffusionInpaintPipeline,
}
SETTINGS = [(1.0, 1.0, 1), (7.5, 1.0, 3), (7.5, 0.75, 1), (1.0, 0.3, 3)]
"""(guidance, strength, batch)"""
GRID = list(product([1.0, 7.5], [1.0, 0.75, 0.3], [1, 3]))
"""All of them, for the samplers that people use."""
FULL = ("ddim", "dpm++2m", "unipc", "euler", "lcm", "ddpm")
CASES = [(name, *case) for name in SCHEDULERS for case in (GRID if name in FULL else SETTINGS)]


@cache
def parts(channels: int) -> dict[str, Any]:
    return {
        "vae": tiny.vae(), "unet": tiny.unet(in_channels=channels), "tokenizer": tiny.tokenizer(),
        "text_encoder": tiny.text_encoder(),
    }  # fmt: skip


@cache
def pipeline(task: str) -> Any:
    """The pipeline of a task; whoever uses it gives it a scheduler."""
    made = PIPES[task](
        **parts(9 if task == "inpaint9" else 4), scheduler=diffusers.DDIMScheduler.from_config(tiny.SD),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def theirs(task: str, name: str, kind: str, scale: float, strength: float, batch: int, **more: Any) -> list[Tensor]:
    """Latents after every step, as x_t = alpha_t x0 + sigma_t eps."""
    extra = {"algorithm_type": "sde-dpmsolver++"} if name == "dpm++2m-sde" else {}
    config = {**tiny.SD, "prediction_type": kind, **more.pop("config", {})}
    scheduler = SCHEDULERS[name].from_config(config, **extra)
    pipe = pipeline(task)
    pipe.scheduler = scheduler
    states, keep = kept(scheduler, name)
    image, mask = tiny.picture(batch)
    given: dict[str, Any] = {} if task == "text" else {"image": image, "strength": strength}
    if task.startswith("inpaint"):
        given |= {"mask_image": mask, "height": 64, "width": 64}
    pipe(
        prompt=[PROMPT] * batch, negative_prompt=[NEGATIVE] * batch, num_inference_steps=STEPS, guidance_scale=scale,
        generator=torch.Generator().manual_seed(5), output_type="latent", callback_on_step_end=keep, **given, **more,
    )  # fmt: skip
    return states


def adapter(channels: int, config: dict[str, Any], **unet: Any) -> LatentUNet:
    takes = {"prompt"} | ({"known", "mask"} if channels == 9 else set()) | set(unet.pop("takes", ()))
    info = ModelInfo("tiny", "test", frozenset(takes))
    own = {**parts(channels), **unet}
    return LatentUNet(
        info, own["unet"], own["vae"], own["tokenizer"], own["text_encoder"], make_schedule(config), config
    )


def ours(task: str, name: str, kind: str, scale: float, strength: float, batch: int, **more: Any) -> list[Tensor]:
    model = adapter(9 if task == "inpaint9" else 4, {**tiny.SD, "prediction_type": kind, **more.pop("config", {})})
    plugins = [Cfg(rescale=more.pop("guidance_rescale", 0.0))]
    return walked(model, task, strength, batch, plugins, sampler=name, negative=NEGATIVE, guidance_scale=scale)


def walked(model: Any, task: str, strength: float, batch: int, plugins: list[Any], **options: Any) -> list[Tensor]:
    """The states of `task` on the tiny picture, with the plugins it takes besides `plugins`."""
    image, mask = tiny.picture(batch)
    if task == "img2img" or (task != "text" and strength < 1.0):
        plugins = [*plugins, SDEdit(strength=strength)]
    if task.startswith("inpaint"):
        plugins = [*plugins, Inpaint()]
    states: list[State] = []
    sample(
        model, plugins, shape=(batch, *model.shape(64, 64)), known=None if task == "text" else 2 * image - 1,
        mask=mask if task.startswith("inpaint") else None, watch=states.append,
        **{"steps": STEPS, "seed": 5, "noise": "diffusers", "prompt": PROMPT, "device": "cpu", **options},
    )  # fmt: skip
    return [state.x for state in states]


def kept(scheduler: Any, name: str) -> tuple[list[Tensor], Any]:
    """(the states of a pipeline, filled by the callback beside it), euler's brought to the scale of the others."""
    states: list[Tensor] = []

    def keep(pipe: Any, index: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        x = values["latents"]
        if name.startswith("euler"):
            x = x / (1 + scheduler.sigmas[scheduler.step_index] ** 2) ** 0.5
        states.append(x.clone())
        return {}

    return states, keep


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for k, (x, y) in enumerate(zip(found, expected, strict=True)):
        error = float((x - y).abs().max()) / max(1.0, float(y.abs().max()))
        assert error <= TOLERANCE, f"step {k + 1} of {len(found)} is the first that differs: {error:.2e}"


def edits() -> list[tuple[str, str, str, float, float, int]]:
    """Every task with every case; the kinds of prediction in turn, so that each meets every value of all the others."""
    kinds, tasks = ("epsilon", "v_prediction"), ("img2img", "inpaint4", "inpaint9")
    found = []
    for (k, task), (name, scale, strength, batch) in product(enumerate(tasks), CASES):
        turn = k + (scale > 1.0) + [1.0, 0.75, 0.3].index(strength) + (batch > 1)
        found.append((task, name, kinds[turn % 2], scale, strength, batch))
    return found


@pytest.mark.parametrize(("task", "name", "kind", "scale", "strength", "batch"), edits())
def test_edits(task: str, name: str, kind: str, scale: float, strength: float, batch: int) -> None:
    same(ours(task, name, kind, scale, strength, batch), theirs(task, name, kind, scale, strength, batch))


@pytest.mark.parametrize(("scale", "batch"), product([1.0, 7.5], [1, 3]))
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_text_to_picture(name: str, kind: str, scale: float, batch: int) -> None:
    same(ours("text", name, kind, scale, 1.0, batch), theirs("text", name, kind, scale, 1.0, batch))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++2m", "unipc"])
def test_guidance_rescale(name: str, kind: str) -> None:
    expected = theirs("text", name, kind, 7.5, 1.0, 2, guidance_rescale=0.7)
    same(ours("text", name, kind, 7.5, 1.0, 2, guidance_rescale=0.7), expected)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", ["euler", "dpm++2m", "unipc"])
@pytest.mark.parametrize("task", ["text", "inpaint4"])
def test_the_configured_spacing(task: str, name: str, spacing: str) -> None:
    config = {"timestep_spacing": spacing}
    expected = theirs(task, name, "epsilon", 7.5, 1.0, 1, config=config)
    same(ours(task, name, "epsilon", 7.5, 1.0, 1, config=config), expected)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("task", "strength"), [("text", 1.0), ("img2img", 0.75), ("inpaint4", 1.0)])
@pytest.mark.parametrize("name", ["euler", "dpm++2m", "unipc"])
def test_karras_sigmas(name: str, task: str, strength: float, kind: str) -> None:
    config = {"use_karras_sigmas": True, "timestep_spacing": "leading"}
    expected = theirs(task, name, kind, 7.5, strength, 1, config=config)
    same(ours(task, name, kind, 7.5, strength, 1, config=config), expected)


@pytest.mark.parametrize("ladder", ["use_beta_sigmas", "use_exponential_sigmas", "use_lu_lambdas"])
def test_ladders_that_are_not_known_are_refused(ladder: str) -> None:
    with pytest.raises(ModelError, match=f"a scheduler with {ladder} is not known"):
        make_schedule({**tiny.SD, ladder: True})
