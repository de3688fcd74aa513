"""ControlNets against the pipelines of diffusers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import test_parity_sdxl as xl
import tiny_latent as tiny
import torch
from PIL import Image
from test_parity_latent import NEGATIVE, PROMPT, SCHEDULERS, STEPS, adapter, kept, parts, same
from tiny_control import EPSILON, folder, hint, nets, randomised, run, saved
from torch import Tensor

from editkit import sample
from editkit.diffusion.conditioning import Conditioning, residuals
from editkit.diffusion.control import Given
from editkit.diffusion.model import ModelInfo, PixelSpace
from editkit.diffusion.plan import Plan
from editkit.diffusion.prediction import Prediction, convert
from editkit.diffusion.samplers import make_sampler
from editkit.editing.cost import cost
from editkit.engine.loop import State
from editkit.models.schedules import make_schedule
from editkit.plugins import Cfg, ControlNet, Inpaint, SDEdit

__all__ = ["folder"]

PIPES: dict[str, Any] = {
    "text": diffusers.StableDiffusionControlNetPipeline,
    "img2img": diffusers.StableDiffusionControlNetImg2ImgPipeline,
    "inpaint4": diffusers.StableDiffusionControlNetInpaintPipeline,
    "inpaint9": diffusers.StableDiffusionControlNetInpaintPipeline,
}


XL_PIPES: dict[str, Any] = {
    "text": diffusers.StableDiffusionXLControlNetPipeline,
    "img2img": diffusers.StableDiffusionXLControlNetImg2ImgPipeline,
    "inpaint4": diffusers.StableDiffusionXLControlNetInpaintPipeline,
    "inpaint9": diffusers.StableDiffusionXLControlNetInpaintPipeline,
}


def theirs(folder: Path, task: str, name: str, scale: float, strength: float, batch: int, **more: Any) -> list[Tensor]:
    """Latents after every step, as x_t = alpha_t x0 + sigma_t eps."""
    count, large = more.pop("count", 1), more.pop("large", False)
    config = xl.SDXL if large else EPSILON
    scheduler = SCHEDULERS[name].from_config(config)
    own = nets(folder, count, "xl" if large else "sd")
    controlnet = own if count > 1 else own[0]
    channels = 9 if task == "inpaint9" else 4
    if large:
        pipe = XL_PIPES[task](**xl.parts(channels), controlnet=controlnet, scheduler=scheduler, add_watermarker=False)
    else:
        pipe = PIPES[task](
            **parts(channels), controlnet=controlnet, scheduler=scheduler, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    image, mask = tiny.picture(batch)
    pictures = [Image.fromarray(hint(seed)) for seed in range(count)]
    control = pictures if count > 1 else pictures[0]
    given: dict[str, Any] = {"image": control}
    if task != "text":
        given = {"image": image, "control_image": control, "strength": strength}
    if task != "img2img":
        given |= {"height": 64, "width": 64}
    if task.startswith("inpaint"):
        given |= {"mask_image": mask}
    given |= {"controlnet_conditioning_scale": [1.0] * count if count > 1 else 1.0} | more  # their defaults differ
    states, keep = kept(scheduler, name)
    pipe(
        prompt=[PROMPT] * batch, negative_prompt=[NEGATIVE] * batch, num_inference_steps=STEPS, guidance_scale=scale,
        generator=torch.Generator().manual_seed(5), output_type="latent", callback_on_step_end=keep, **given,
    )  # fmt: skip
    return states


def ours(folder: Path, task: str, name: str, scale: float, strength: float, batch: int, **more: Any) -> list[Tensor]:
    model = more.pop("model", None) or adapter(9 if task == "inpaint9" else 4, EPSILON)
    family = more.pop("family", "sd")
    image, mask = tiny.picture(batch)
    plugins: list[Any] = [Cfg()]
    for k, settings in enumerate(more.pop("controls", [{}])):
        plugins.append(ControlNet(control=hint(k), controlnet=saved(folder, k, family), **settings))
    if task == "img2img" or (task != "text" and strength < 1.0):
        plugins.append(SDEdit(strength=strength))
    if task.startswith("inpaint"):
        plugins.append(Inpaint())
    states: list[State] = []
    model.info = replace(model.info, takes=model.info.takes | {"control"})
    sample(
        model, plugins, shape=(batch, 4, 8, 8), sampler=name, steps=STEPS,
        known=None if task == "text" else 2 * image - 1, mask=mask if task.startswith("inpaint") else None, seed=5,
        noise="diffusers", prompt=PROMPT, negative=NEGATIVE, guidance_scale=scale, watch=states.append, device="cpu",
    )  # fmt: skip
    return [state.x for state in states]


@pytest.mark.parametrize(("scale", "strength", "batch"), [(7.5, 1.0, 1), (7.5, 0.75, 2), (1.0, 0.5, 1)])
@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++2m"])
@pytest.mark.parametrize("task", ["text", "img2img", "inpaint4", "inpaint9"])
def test_the_pipelines(folder: Path, task: str, name: str, scale: float, strength: float, batch: int) -> None:
    if task == "text":
        strength = 1.0
    found = ours(folder, task, name, scale, strength, batch)
    same(found, theirs(folder, task, name, scale, strength, batch))


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("task", ["text", "inpaint4"])
def test_two_controlnets_with_windows(folder: Path, task: str, scale: float) -> None:
    found = ours(
        folder, task, "ddim", scale, 1.0, 1, controls=[{"scale": 0.7, "stop": 0.6}, {"scale": 1.3, "start": 0.25}]
    )
    expected = theirs(
        folder, task, "ddim", scale, 1.0, 1, count=2, controlnet_conditioning_scale=[0.7, 1.3],
        control_guidance_start=[0.0, 0.25], control_guidance_end=[0.6, 1.0],
    )  # fmt: skip
    same(found, expected)


@pytest.mark.parametrize("window", [(0.0, 0.5), (0.3, 0.8), (0.15, 1.0)])
def test_windows(folder: Path, window: tuple[float, float]) -> None:
    start, stop = window
    found = ours(folder, "img2img", "ddim", 7.5, 0.8, 1, controls=[{"start": start, "stop": stop}])
    more = {"control_guidance_start": start, "control_guidance_end": stop}
    same(found, theirs(folder, "img2img", "ddim", 7.5, 0.8, 1, **more))


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("task", ["text", "inpaint9"])
def test_guess_mode(folder: Path, task: str, scale: float) -> None:
    found = ours(folder, task, "ddim", scale, 1.0, 2, controls=[{"guess": True, "scale": 0.8}])
    more = {"guess_mode": True, "controlnet_conditioning_scale": 0.8}
    same(found, theirs(folder, task, "ddim", scale, 1.0, 2, **more))


@pytest.mark.parametrize("guess", [False, True])
@pytest.mark.parametrize("task", ["text", "img2img", "inpaint4", "inpaint9"])
def test_sdxl(folder: Path, tmp_path_factory: pytest.TempPathFactory, task: str, guess: bool) -> None:
    strength = 1.0 if task == "text" else 0.6
    model = xl.loaded(_sdxl(tmp_path_factory, "inpaint9" if task == "inpaint9" else "img2img"))
    found = ours(folder, task, "ddim", 5.0, strength, 2, controls=[{"guess": guess}], model=model, family="xl")
    same(found, theirs(folder, task, "ddim", 5.0, strength, 2, large=True, guess_mode=guess))


_SDXL: dict[str, Path] = {}


def _sdxl(factory: pytest.TempPathFactory, kind: str) -> Path:
    if kind not in _SDXL:
        _SDXL[kind] = factory.mktemp("xl") / "model"
        xl.pipeline(kind, diffusers.DDIMScheduler.from_config(xl.SDXL)).save_pretrained(_SDXL[kind])
    return _SDXL[kind]


def test_without_its_random_convolutions_nothing_would_be_proved(folder: Path) -> None:
    """What is compared above does depend on the ControlNet and on the hint."""
    with_it = ours(folder, "text", "ddim", 7.5, 1.0, 1)[-1]
    without = ours(folder, "text", "ddim", 7.5, 1.0, 1, controls=[])[-1]
    other = ours(folder, "text", "ddim", 7.5, 1.0, 1, controls=[{"scale": 0.0}, {}])[-1]
    assert float((with_it - without).abs().max()) > 1e-2
    assert float((with_it - other).abs().max()) > 1e-2


def test_the_order_of_two_does_not_matter_and_a_scale_of_zero_is_none(folder: Path) -> None:
    a = ControlNet(control=hint(0), controlnet=saved(folder, 0), scale=0.8)
    b = ControlNet(control=hint(1), controlnet=saved(folder, 1), guess=True)
    off = ControlNet(control=hint(1), controlnet="./nowhere", scale=0.0)
    assert torch.equal(run([a, b]), run([b, a]))
    assert torch.equal(run([off]), run([]))
    assert torch.equal(run([a, off]), run([a]))


def test_outside_its_window_a_controlnet_is_not_called(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    forward = diffusers.ControlNetModel.forward

    def counted(self: Any, sample: Tensor, *args: Any, **given: Any) -> Any:
        sizes.append(len(sample))
        return forward(self, sample, *args, **given)

    monkeypatch.setattr(diffusers.ControlNetModel, "forward", counted)
    for settings, expected in (  # guidance makes batches of two
        ({}, [2] * 10),
        ({"start": 0.2, "stop": 0.5}, [2] * 3),
        ({"guess": True}, [1] * 10),
        ({"scale": 0.0}, []),
    ):
        sizes.clear()
        plugin = ControlNet(control=hint(), controlnet=saved(folder, 0), **settings)
        run([plugin])
        assert sizes == expected
        assert cost(Plan.uniform(10), [plugin], make_sampler("ddim")).beside == len(expected)


def test_windows_that_meet_are_the_whole_and_diffusers_leaves_out_the_step_between(folder: Path) -> None:
    """Five steps: the middle one lies in [0.5, 1] by its middle, and wholly in neither."""

    def made(noise: str, *windows: tuple[float, float]) -> Tensor:
        return run([ControlNet(control=hint(), controlnet=saved(folder, 0), start=a, stop=b) for a, b in windows],
                   steps=5, noise=noise)  # fmt: skip

    halves, whole = ((0.0, 0.5), (0.5, 1.0)), ((0.0, 1.0),)
    assert torch.equal(made("streams", *halves), made("streams", *whole))
    assert not torch.equal(made("diffusers", *halves), made("diffusers", *whole))
    assert torch.equal(made("diffusers", *halves), made("diffusers", (0.0, 0.4), (0.6, 1.0)))


def test_with_guidance_of_text_in_a_window_the_batch_follows(folder: Path) -> None:
    made = run([ControlNet(control=hint(), controlnet=saved(folder, 0), start=0.3), Cfg(start=0.1, stop=0.6)])
    assert bool(torch.isfinite(made).all())


class Pixel(PixelSpace):
    """A UNet2DConditionModel without cross-attention, on pixels: what an embedded ControlNet is for."""

    info = ModelInfo("pixel", "test", frozenset({"control"}))
    clip = None

    def __init__(self) -> None:
        self.schedule = make_schedule(EPSILON)
        self.unet = tiny.unet(
            in_channels=3, out_channels=3, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
            mid_block_type="UNetMidBlock2D", num_class_embeds=2,
        )  # fmt: skip

    def __call__(self, x_t: Tensor, level: Any, conds: Any) -> tuple[Prediction, ...]:
        x = torch.cat([x_t] * len(conds))
        t, label = torch.full((len(x),), float(level.t)), torch.zeros(len(x), dtype=torch.long)
        control = residuals(conds, Given(x, t, label=label))
        out = self.unet(
            x, t, None, class_labels=label, return_dict=False,
            down_block_additional_residuals=None if control is None else control.down,
            mid_block_additional_residual=None if control is None else control.mid,
        )[0]  # fmt: skip
        return tuple(convert(part, x_t, level, "epsilon") for part in out.chunk(len(conds)))

    def attach(self, picture: Any, mask: Any) -> Pixel:
        return self


def test_a_network_without_cross_attention(tmp_path: Path) -> None:
    model = Pixel()
    randomised(model.unet, 0, conditioning_embedding_out_channels=(16,)).save_pretrained(tmp_path / "net")
    plugin = ControlNet(control=hint(), controlnet=str(tmp_path / "net"))
    given: dict[str, Any] = {"shape": (2, 3, 64, 64), "steps": 3, "device": "cpu"}
    steered, free = sample(model, [plugin], **given), sample(model, [], **given)
    assert float((steered - free).abs().max()) > 1e-2


def test_residuals_of_a_branch_without_a_controlnet_are_zero(folder: Path) -> None:
    """A combiner may leave it out of one branch."""
    model = adapter(4, EPSILON)
    caught: list[Conditioning] = []

    class Keep(type(model)):  # type: ignore[misc]
        def __call__(self, x_t: Tensor, level: Any, conds: Any) -> Any:
            caught.extend(conds)
            return super().__call__(x_t, level, conds)

    model.__class__ = Keep
    model.info = ModelInfo("tiny", "test", frozenset({"prompt", "control"}))
    plugin = ControlNet(control=hint(), controlnet=saved(folder, 0))
    sample(model, [plugin], shape=(1, 4, 8, 8), steps=1, sampler="ddim", device="cpu", prompt=PROMPT)
    cond = caught[-1]
    bare = Conditioning(prompt=cond.prompt)
    x, level = torch.randn(2, 4, 8, 8), model.schedule.levels(10)[5]
    both = model(x, level, (bare, cond))
    assert torch.allclose(both[0].x0, model(x, level, (bare,))[0].x0, atol=1e-6)
    assert torch.allclose(both[1].x0, model(x, level, (cond,))[0].x0, atol=1e-6)
    assert not torch.allclose(both[0].x0, both[1].x0, atol=1e-3)
