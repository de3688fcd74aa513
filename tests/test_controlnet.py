"""ControlNet against the diffusers pipelines, step for step, and what is not to be found there.

As test_parity_latent.py: random weights, float32, latents to 1e-5. The convolutions that are zero in a new ControlNet
are made random, or nothing would be proved.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import test_parity_sdxl as xl
import tiny_latent as tiny
import torch
from PIL import Image
from test_parity_latent import NEGATIVE, PROMPT, SCHEDULERS, STEPS, adapter, kept, parts, same
from torch import Tensor

from editkit import edit, sample
from editkit.diffusion.conditioning import Conditioning, residuals
from editkit.diffusion.control import Given
from editkit.diffusion.model import ModelInfo, PixelSpace
from editkit.diffusion.plan import Plan
from editkit.diffusion.prediction import Prediction, convert
from editkit.diffusion.samplers import make_sampler
from editkit.editing.cost import cost
from editkit.engine.loop import State
from editkit.errors import ChainError, EditkitError, ModelError, UsageError
from editkit.models.leasing import Models
from editkit.models.schedules import make_schedule
from editkit.pictures.picture import Picture
from editkit.plugins import Cfg, ControlNet, Guide, Inpaint, SDEdit

EPSILON = {**tiny.SD, "prediction_type": "epsilon"}
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


def randomised(unet: Any, seed: int, **config: Any) -> Any:
    """A ControlNet of `unet` whose zero convolutions are not zero."""
    torch.manual_seed(seed)
    net = diffusers.ControlNetModel.from_unet(unet, **config).eval()
    for name, value in net.named_parameters():
        if name.startswith(("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding.conv_out")):
            torch.nn.init.normal_(value, std=0.2)
    return net


@cache
def saved(where: Path, seed: int, family: str = "sd") -> str:
    path = where / f"{family}{seed}"
    randomised(xl.parts(4)["unet"] if family == "xl" else tiny.unet(), seed).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("controlnets")


def hint(seed: int = 0) -> np.ndarray[Any, Any]:
    """Smooth random blobs, (64, 64, 3) uint8."""
    small = torch.rand((1, 3, 7, 7), generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small, (64, 64), mode="bicubic").clamp(0, 1)
    return (large[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def nets(folder: Path, count: int, family: str = "sd") -> list[Any]:
    return [diffusers.ControlNetModel.from_pretrained(saved(folder, seed, family)) for seed in range(count)]


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


def run(plugins: list[Any], **options: Any) -> Tensor:
    model = adapter(4, EPSILON, takes={"control"})
    settings = {"shape": (1, 4, 8, 8), "steps": 10, "sampler": "ddim", "device": "cpu", "prompt": PROMPT, **options}
    return sample(model, plugins, **settings)


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


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> str:
    scheduler = diffusers.DDIMScheduler.from_config(tiny.SD)
    return str(tiny.save_sd(tmp_path_factory.mktemp("models") / "sd", scheduler))


def photo(height: int, width: int) -> Picture:
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 3 % 256, y * 3 % 256, (x + y) % 256], -1).astype(np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = 250
    return Picture(pixels)


FULL: dict[str, Any] = {
    "dtype": "fp32", "device": "cpu", "offline": True, "steps": 3, "prompt": "x", "models": Models(),
}  # fmt: skip


def test_the_hint_is_cut_and_resized_with_the_picture(sd: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hint that is the picture itself reaches the network as the very pixels that are edited, crop or not."""
    seen: list[tuple[Tensor, Tensor]] = []
    from editkit_plugins import controlnet

    bound = controlnet._bound

    def watched(plugin: Any, run: Any) -> Any:
        control = bound(plugin, run)
        seen.append((control.hint * 2 - 1, run.inputs.picture))
        return control

    monkeypatch.setattr(controlnet, "_bound", watched)
    picture = photo(151, 203)
    for control in ("tile:factor=1", picture.pixels, Image.fromarray(picture.pixels)):
        for canvas in ("crop", "full", "auto"):
            plugins = [ControlNet(control=control, controlnet=saved(folder, 0)), Inpaint(mask="box:20,30,60,70")]
            made = edit(picture, plugins, model=sd, canvas=canvas, **{**FULL, "steps": 1})
            assert made.pixels.shape == picture.pixels.shape
            given, edited = seen.pop()
            assert given.shape == edited.shape
            assert torch.allclose(given, edited.clamp(-1, 1), atol=1e-5)


def test_with_everything_else(sd: str, folder: Path, tmp_path: Path) -> None:
    picture = photo(90, 75)
    plugins: list[Any] = [
        ControlNet(control="canny:low=20,high=60", controlnet=saved(folder, 0), stop=0.7),
        ControlNet(control="luma", controlnet=saved(folder, 1), scale=0.5, guess=True),
        Inpaint(mask="box:20,20,40,44", feather=3),
        SDEdit(strength=0.7),
        Guide(loss="color", weight=5.0),
    ]
    made = edit(picture, plugins, model=sd, **FULL).pixels
    kept = np.ones((90, 75), bool)
    kept[20:44, 20:40] = False
    assert (made[kept] == picture.pixels[kept]).all()
    assert (made == edit(picture, plugins, model=sd, **FULL).pixels).all()
    half = edit(picture, plugins[:4], model=sd, **{**FULL, "dtype": "bf16"}).pixels
    assert (half[kept] == picture.pixels[kept]).all()


def test_in_a_recipe_its_folder_is_relative_to_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from editkit.editing.recipe import from_mapping, to_mapping
    from editkit.plugin.chain import Chain

    (tmp_path / "nets" / "edges").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for given, written, read in (
        ("nets/edges", "../nets/edges", str(tmp_path / "recipes" / ".." / "nets" / "edges")),
        (str(tmp_path / "recipes" / "net"), "net", str(tmp_path / "recipes" / "net")),
        ("owner/name", "owner/name", "owner/name"),
        ("pocket-canny", "pocket-canny", "pocket-canny"),
    ):
        chain = Chain.of([SDEdit(), ControlNet(control="canny", controlnet=given)])
        made: Any = to_mapping(chain, base=tmp_path / "recipes")
        assert made["stages"][0]["plugins"][1]["controlnet"]["controlnet"] == written
        plugin: Any = from_mapping(made, base=tmp_path / "recipes").stages[0].plugins[1]
        assert plugin.controlnet == read


def test_a_hint_of_another_size_is_resized_with_a_notice(sd: str, folder: Path, tmp_path: Path) -> None:
    path, said = tmp_path / "hint.png", []
    Image.fromarray(hint()).save(path)
    plugin = ControlNet(control=str(path), controlnet=saved(folder, 0))
    edit(photo(64, 128), [SDEdit(), plugin], model=sd, notify=said.append, **FULL)
    assert said == ["the hint is 64x64, the picture 128x64; the hint was resized to cover it"]


def test_an_empty_hint_is_told(sd: str, folder: Path) -> None:
    said: list[str] = []
    plugin = ControlNet(control="canny", controlnet=saved(folder, 0))
    edit(Picture(np.full((64, 64, 3), 90, np.uint8)), [SDEdit(), plugin], model=sd, notify=said.append, **FULL)
    assert any("the hint is empty" in message for message in said)


def test_what_is_refused(sd: str, folder: Path, tmp_path: Path) -> None:
    good, picture = saved(folder, 0), photo(64, 64)

    def fails(error: type[EditkitError], message: str, **given: Any) -> None:
        model = given.pop("model", sd)
        with pytest.raises(error, match=message) as caught:
            edit(picture, [SDEdit(), ControlNet(**given)], model=model, **{**FULL, "prompt": None})
        assert "\n" not in str(caught.value)

    fails(UsageError, "there is no such file", control="missing.png", controlnet=good)
    fails(ModelError, "controlnet: .*was not found", control="canny", controlnet=str(tmp_path / "none"))
    fails(ModelError, "offline=True is on", control="canny", controlnet="nobody/nothing")
    fails(ChainError, "needs a model that takes control", control="canny", controlnet=good, model="patches")
    pickled = tmp_path / "pickled"
    shutil.copytree(good, pickled)
    (pickled / "diffusion_pytorch_model.safetensors").rename(pickled / "diffusion_pytorch_model.bin")
    fails(ModelError, "controlnet: .*is a pickle", control="canny", controlnet=str(pickled))
    (tmp_path / "empty").mkdir()
    fails(ModelError, "config.json is missing", control="canny", controlnet=str(tmp_path / "empty"))
    fails(ModelError, r"is a AutoencoderKL; a ControlNetModel is needed", control="canny", controlnet=f"{sd}/vae")
    fails(
        ModelError, r"another family than the model: .*cross_attention_dim 64.* has cross_attention_dim 32",
        control="canny", controlnet=saved(folder, 0, "xl"),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"did you mean canny\? installed: .*canny.*scribble"):
        ControlNet(control="cany", controlnet=good)
    with pytest.raises(UsageError, match="looks at a picture, and there is none"):
        run([ControlNet(control="canny", controlnet=good)])


def test_a_recipe_keeps_the_names_of_detectors_and_moves_the_paths_of_hints(tmp_path: Path) -> None:
    from editkit.editing import recipe
    from editkit.plugin.chain import Chain

    for control, written in (("canny:low=5", "canny:low=5"), (str(tmp_path / "a" / "h.png"), "a/h.png")):
        chain = Chain.of(ControlNet(control=control, controlnet="x/y"))
        text = recipe.to_yaml(chain, tmp_path)
        assert f"control: {written}" in text
        assert recipe.from_yaml(text, base=tmp_path).stages[0].plugins == chain.stages[0].plugins
