"""Stable Diffusion folders through the front door: pictures in and out, what is refused, what is not computed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_latent as tiny
import torch
from PIL import Image
from test_parity_latent import PROMPT, adapter, parts

from editkit import edit, sample
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.samplers import LCM
from editkit.diffusion.schedule import Level
from editkit.editing.api import stream
from editkit.errors import ChainError, EditkitError, ModelError, UsageError
from editkit.models import Conditioning, describe, load
from editkit.models.leasing import Models
from editkit.models.schedules import make_schedule
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain
from editkit.plugin.options import Options
from editkit.plugins import Cfg, Guide, Inpaint, PromptText, SDEdit, Threshold

CPU = torch.device("cpu")
FULL: dict[str, Any] = {"canvas": "full", "dtype": "fp32", "device": "cpu", "offline": True}


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_sd(tmp_path_factory.mktemp("models") / "sd", diffusers.DDIMScheduler.from_config(tiny.SD))


@pytest.fixture(scope="module")
def sd9(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scheduler = diffusers.PNDMScheduler.from_config(tiny.SD)
    return tiny.save_sd(tmp_path_factory.mktemp("models") / "sd9", scheduler, in_channels=9)


def photo(height: int = 64, width: int = 64) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 3 % 256, y * 3 % 256, (x + y) % 256], -1).astype(np.uint8))


def hole(height: int = 64, width: int = 64) -> Image.Image:
    mask = np.zeros((height, width), np.uint8)
    mask[13:43, 21:52] = 255
    return Image.fromarray(mask)


def test_what_a_folder_is(sd: Path, sd9: Path) -> None:
    info = describe(str(sd))
    assert (info.sampler, info.steps, info.window, info.multiple) == ("ddim", 50, 64, 8)
    assert info.takes == {"prompt", "control", "image prompt"}
    assert describe(str(sd9)).takes == {"prompt", "control", "image prompt", "known", "mask"}


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_an_edit_of_a_picture_is_the_pipelines(sd: Path, sd9: Path, channels: int, strength: float) -> None:
    """From PIL pictures to the decoded picture, in the hole; outside it ours is untouched, which theirs is not."""
    folder = sd if channels == 4 else sd9
    pipe = diffusers.StableDiffusionInpaintPipeline.from_pretrained(folder, safety_checker=None)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        prompt=PROMPT, negative_prompt="dull", image=photo(), mask_image=hole(), height=64, width=64,
        num_inference_steps=6, strength=strength, generator=torch.Generator().manual_seed(9), output_type="np",
    ).images[0]  # fmt: skip
    plugins: list[Any] = [Inpaint(mask=np.asarray(hole()))]
    if strength < 1:
        plugins.append(SDEdit(strength=strength))
    made = edit(
        Picture.read(photo()), plugins, model=str(folder), prompt=PROMPT, negative="dull", steps=6, seed=9,
        sampler="ddim", noise="diffusers", **FULL,
    ).pixels  # fmt: skip
    inside = np.asarray(hole()) > 0
    assert np.abs(made[inside].astype(int) - (expected[inside] * 255).round().astype(int)).max() <= 1
    assert (made[~inside] == np.asarray(photo())[~inside]).all()


@pytest.mark.parametrize("channels", [4, 9])
def test_an_enlarged_crop_is_the_pipelines_padding_mask_crop(sd: Path, sd9: Path, channels: int) -> None:
    folder = sd if channels == 4 else sd9
    picture, mask = photo(120, 150), Image.new("L", (150, 120))
    mask.paste(255, (61, 40, 90, 60))
    pipe = diffusers.StableDiffusionInpaintPipeline.from_pretrained(folder, safety_checker=None)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    states, encode = [], pipe.vae.encode  # its picture is a permuted view, which a convolution rounds differently
    pipe.vae.encode = lambda x: encode(x.contiguous())

    def keep(pipe: Any, index: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        states.append(values["latents"].clone())
        return {}

    pipe(
        prompt=PROMPT, image=picture, mask_image=mask, height=64, width=64, padding_mask_crop=7,
        num_inference_steps=4, generator=torch.Generator().manual_seed(9), callback_on_step_end=keep,
    )  # fmt: skip
    own: Any = load(describe(str(folder)), CPU, torch.float32)
    for network in (own.unet, own.vae):
        network.to(memory_format=torch.contiguous_format)
    making = stream(
        Picture.read(picture), Inpaint(mask=np.asarray(mask)), model=own, prompt=PROMPT, steps=4, seed=9,
        sampler="ddim", noise="diffusers", crop_padding=7, device="cpu", dtype="fp32", offline=True,
    )  # fmt: skip
    for update, expected in zip(making, states, strict=True):
        # Of the largest value: float32 rounds to 6e-8 of it, by what a processor sums in which order, and some 150
        # layers add up. A crop or a noise of another place would be of the values' own size.
        assert float((update.state.x - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_an_enlarged_crop_where_it_means_nothing(sd: Path) -> None:
    with pytest.raises(UsageError, match="has no meaning with canvas=.full."):
        edit(photo(), Inpaint(mask="box:9,9,20,20"), model=str(sd), prompt="x", crop_padding=3, **FULL)
    with pytest.raises(UsageError, match="has no meaning with model patches"):
        edit(photo(), Inpaint(mask="box:9,9,20,20"), model="patches", crop_padding=3)


@pytest.mark.parametrize("model", ["sd", "sd9"])
@pytest.mark.parametrize(
    "plugins",
    [
        [Inpaint(mask="box:20,20,40,44")],
        [Inpaint(mask="box:20,20,40,44"), SDEdit(strength=0.5)],
        [Inpaint(mask="box:20,20,40,44"), SDEdit(strength=0.5), Cfg(scale=3, rescale=0.5, start=0.2, stop=0.8)],
        [Inpaint(mask="box:20,20,40,44", feather=5, grow=3), PromptText(), Cfg(), Guide(loss="color", weight=5.0)],
        [SDEdit(strength=0.5), Cfg()],
        [Inpaint(mask="box:20,20,40,44", method="repaint", jump=2, repeats=2)],
    ],
)
def test_combinations_on_an_odd_size(request: pytest.FixtureRequest, model: str, plugins: list[Any]) -> None:
    folder = request.getfixturevalue(model)
    size = (61, 75)
    made = edit(Picture.read(photo(*size)), plugins, model=str(folder), prompt="x", steps=4, **FULL)
    assert made.pixels.shape == (*size, 3)
    if isinstance(plugins[0], Inpaint):
        outside = np.ones(size, bool)
        outside[17:47, 17:43] = False
        assert (made.pixels[outside] == np.asarray(photo(*size))[outside]).all()


def test_thresholding_latents_is_refused_with_what_can(sd: Path) -> None:
    with pytest.raises(ChainError, match=r"works on latents.*cfg rescale=0.7"):
        edit(Picture.read(photo()), [SDEdit(), Threshold()], model=str(sd), steps=2, **FULL)


def test_a_prompt_needs_a_model_that_reads() -> None:
    with pytest.raises(UsageError, match="takes no text"):
        edit(Picture.read(photo()), SDEdit(), model="patches", prompt="x")
    with pytest.raises(ChainError, match="cfg needs a model that takes prompt"):
        edit(Picture.read(photo()), [SDEdit(), Cfg()], model="patches")


def counted(**options: Any) -> list[int]:
    """The batch the UNet is given at each step, on a text-to-picture process of 10 steps."""
    model, sizes = adapter(4, {**tiny.SD, "prediction_type": "epsilon"}), []
    handle = model.unet.register_forward_pre_hook(lambda net, args: sizes.append(len(args[0])))
    try:
        plugins = options.pop("plugins", ())
        sample(model, plugins, shape=(1, 4, 8, 8), steps=10, sampler="ddim", device="cpu", **options)
    finally:
        handle.remove()
    return sizes


def test_the_unconditional_half_is_not_computed_where_it_does_not_act() -> None:
    assert counted() == [2] * 10
    assert counted(guidance_scale=1.0) == [1] * 10
    assert counted(plugins=Cfg(start=0.3, stop=0.6)) == [1, 1, 1, 2, 2, 2, 1, 1, 1, 1]


def test_the_scale_of_guidance_is_neutral_at_one() -> None:
    model = adapter(4, {**tiny.SD, "prediction_type": "epsilon"})
    given: dict[str, Any] = {"shape": (1, 4, 8, 8), "steps": 5, "prompt": PROMPT, "device": "cpu"}
    off = sample(model, Cfg(scale=1.0), **given)
    assert torch.equal(off, sample(model, guidance_scale=1.0, negative="anything", **given))
    assert not torch.allclose(off, sample(model, **given))


def test_the_words_matter_and_are_encoded_once() -> None:
    model = adapter(4, {**tiny.SD, "prediction_type": "epsilon"})
    (a, _), (b, _), (again, _) = (model.encode_text(text) for text in ("a cat", "a dog", "a cat"))
    assert torch.equal(a.embeds, again.embeds)
    assert not torch.allclose(a.embeds, b.embeds)
    calls: list[int] = []
    handle = model.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    sample(model, shape=(1, 4, 8, 8), steps=5, prompt=PROMPT, device="cpu")
    handle.remove()
    assert len(calls) == 2


def test_a_distilled_model_is_told_the_scale_instead_of_being_called_twice() -> None:
    """Latent consistency: against its own pipeline, with the embedding of the guidance scale."""
    unet = tiny.unet(time_cond_proj_dim=16)
    config = {**tiny.SD, "prediction_type": "epsilon"}
    scheduler = diffusers.LCMScheduler.from_config(config)
    own = {**parts(4), "unet": unet}
    pipe = diffusers.LatentConsistencyModelPipeline(
        **own, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        prompt=PROMPT, num_inference_steps=4, guidance_scale=5.0, generator=torch.Generator().manual_seed(5),
        output_type="latent",
    ).images  # fmt: skip
    model = adapter(4, config, unet=unet, takes={"guidance"})
    found = sample(
        model, shape=(1, 4, 8, 8), sampler="lcm", steps=4, seed=5, noise="diffusers", prompt=PROMPT,
        guidance_scale=5.0, device="cpu",
    )  # fmt: skip
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max().clamp(min=1))
    options: dict[str, Any] = {"sampler": "lcm", "steps": 4, "seed": 5, "noise": "diffusers", "prompt": PROMPT}
    by_plugin = sample(model, Cfg(scale=5.0), shape=(1, 4, 8, 8), device="cpu", **options)
    assert torch.equal(by_plugin, found)
    assert not torch.allclose(sample(model, Cfg(scale=2.0), shape=(1, 4, 8, 8), device="cpu", **options), found)


def test_few_step_models_are_known_by_their_scheduler(tmp_path: Path) -> None:
    """Turbo: four steps and no guidance; latent consistency: as many levels as its configuration was trained at."""
    euler = diffusers.EulerAncestralDiscreteScheduler.from_config(tiny.SD, timestep_spacing="trailing")
    turbo = describe(str(tiny.save_sd(tmp_path / "few", euler)))
    assert (turbo.sampler, turbo.steps, turbo.guidance) == ("euler-ancestral", 4, 1.0)
    usual = diffusers.EulerDiscreteScheduler.from_config(tiny.SD, timestep_spacing="leading")
    found = describe(str(tiny.save_sd(tmp_path / "usual", usual)))
    assert (found.sampler, found.steps, found.guidance) == ("euler", 50, 7.5)
    calls: list[int] = []
    model: Any = load(turbo, CPU, torch.float32)
    model.unet.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    models = Models(load=lambda *_, **__: model)
    edit(photo(), SDEdit(strength=0.5), model=str(tmp_path / "few"), prompt=PROMPT, models=models, **FULL)
    assert calls == [1, 1]  # half of four steps, without the other half of guidance
    lcm = diffusers.LCMScheduler.from_config(tiny.SD, original_inference_steps=20)
    scheduler = json.loads(lcm.to_json_string())
    lcm.set_timesteps(4)
    levels = make_schedule(scheduler).levels(4, "auto", LCM.grid)
    assert [level.t for level in reversed(levels[1:])] == lcm.timesteps.tolist()


def test_a_later_stage_without_text_passes_over_the_words_of_an_earlier_one(sd: Path) -> None:
    chain = [[SDEdit(strength=0.4)], [SDEdit(strength=0.5)]]
    later = Chain.of(chain)
    later = Chain((later.stages[0], replace(later.stages[1], options=Options(model="pocket"))))
    how: dict[str, Any] = {"steps": 2, "dtype": "fp32", "device": "cpu", "offline": True}
    assert edit(photo(), later, model=str(sd), prompt=PROMPT, guidance_scale=3.0, **how).pixels.shape == (64, 64, 3)
    for word in ({"prompt": PROMPT}, {"negative": PROMPT}, {"guidance_scale": 2.0}):
        name = next(iter(word))
        with pytest.raises(UsageError, match=f"{name}= is given, but pocket .* takes no text"):
            edit(photo(), SDEdit(), model="pocket", **word, **how)


def test_an_inpainting_model_without_a_mask_is_told_that_nothing_is_known() -> None:
    model = adapter(9, {**tiny.SD, "prediction_type": "epsilon"})
    assert torch.isfinite(sample(model, shape=(1, 4, 8, 8), steps=2, device="cpu")).all()


def test_latents_there_and_back() -> None:
    model = adapter(4, {**tiny.SD, "prediction_type": "epsilon"})
    image = tiny.picture(2)[0] * 2 - 1
    latents = model.encode(image)
    assert latents.shape == (2, *model.shape(64, 64))
    vae = parts(4)["vae"]
    expected = vae.encode(image).latent_dist.mode() * vae.config.scaling_factor
    assert torch.allclose(latents, expected, atol=1e-6)
    assert torch.allclose(model.decode(latents), vae.decode(expected / vae.config.scaling_factor).sample, atol=1e-5)


def test_whatever_a_mask_touches_is_regenerated() -> None:
    model = adapter(4, {**tiny.SD, "prediction_type": "epsilon"})
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 15, 16] = 1
    assert model.encode_mask(mask).nonzero().tolist() == [[0, 0, 1, 2]]


def test_gradients_reach_the_latents_through_decoder_and_network() -> None:
    model = adapter(4, {**tiny.SD, "prediction_type": "epsilon"})
    x = torch.randn(1, 4, 8, 8).requires_grad_()
    pred = model(x, model.schedule.levels(10)[5], [Conditioning()])[0]
    model.decode(pred.x0).sum().backward()
    assert x.grad is not None
    assert bool((x.grad != 0).any())


def test_missing_components(sd: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken"
    shutil.copytree(sd, path)
    index = json.loads((path / "model_index.json").read_text())
    (path / "model_index.json").write_text(json.dumps({**index, "text_encoder": [None, None]}))
    with pytest.raises(ModelError, match=r"text_encoder missing; the model folder is incomplete"):
        describe(str(path))
    (path / "model_index.json").write_text(json.dumps(index))
    (path / "vae" / "diffusion_pytorch_model.safetensors").rename(path / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model.bin is a pickle"):
        load(describe(str(path)), CPU, torch.float32)
    (path / "unet" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"unet/config.json is missing"):
        describe(str(path))


def test_channels_that_are_not_known(sd: Path, tmp_path: Path) -> None:
    path = tmp_path / "depth"
    shutil.copytree(sd, path)
    config = json.loads((path / "unet" / "config.json").read_text())
    (path / "unet" / "config.json").write_text(json.dumps({**config, "in_channels": 5}))
    with pytest.raises(ModelError, match=r"takes 5 channels; known are 4 .* and 9"):
        describe(str(path))


def test_half_precision_runs_the_networks_alone(sd: Path) -> None:
    model: Any = load(describe(str(sd)), CPU, torch.bfloat16)
    assert {model.unet.dtype, model.vae.dtype, model.text_encoder.dtype} == {torch.bfloat16}
    updates = list(stream(Picture.read(photo()), SDEdit(), model=str(sd), steps=3, **{**FULL, "dtype": "bf16"}))
    assert updates[-1].state.x.dtype == torch.float32


def test_errors_are_one_line(sd: Path, tmp_path: Path) -> None:
    for name in (str(tmp_path), "no/such", str(tmp_path / "nothing")):
        with pytest.raises(EditkitError) as caught:
            describe(name, offline=True)
        assert "\n" not in str(caught.value)


def test_the_command_line_runs_a_hub_id_from_the_cache(
    sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --offline, its listing included; conftest.py refuses every socket."""
    from editkit.cli import run

    root = tmp_path / "cache" / "models--someone--sd"
    shutil.copytree(sd, root / "snapshots" / ("0" * 40))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    photo().save(tmp_path / "photo.png")
    hole().save(tmp_path / "hole.png")
    words = [
        "inpaint", str(tmp_path / "photo.png"), "--mask", str(tmp_path / "hole.png"), "--prompt", PROMPT,
        "--steps", "2", "--device", "cpu", "--offline", "-o", str(tmp_path / "out.png"), "--model",
    ]  # fmt: skip
    assert run([*words, "someone/sd"]) == 0
    assert Image.open(tmp_path / "out.png").size == (64, 64)
    capsys.readouterr()
    assert run([*words, "someone/else", "--force"]) != 0
    said = capsys.readouterr().err
    assert "--offline is on, so the hub was not asked" in said
    assert "Traceback" not in said
    assert run(["models"]) == 0
    assert "someone/sd" in capsys.readouterr().out


def test_rescaling_works_on_estimates_where_a_model_gives_no_output() -> None:
    import dataclasses
    import types

    from editkit_plugins.cfg import _CfgHooks

    g = torch.Generator().manual_seed(0)
    x0 = [torch.randn(2, 4, 3, 3, generator=g) for _ in range(3)]
    said = [Prediction(x, torch.zeros_like(x)) for x in x0[:2]]

    @dataclasses.dataclass
    class Where:
        x_t: torch.Tensor
        t: Level
        told: tuple[Conditioning, ...] = (Conditioning(), Conditioning())

    def combined(rescale: float) -> torch.Tensor:
        hooks = object.__new__(_CfgHooks)
        hooks.plugin, hooks.scale, hooks.tells, hooks.folds = Cfg(scale=5.0, rescale=rescale), 5.0, False, None
        info = types.SimpleNamespace(distilled=False)
        hooks.run = types.SimpleNamespace(model=types.SimpleNamespace(info=info))  # type: ignore[assignment]
        return hooks.combine(Where(x0[2], Level(0.5, 0.8, 0.6)), said).x0  # type: ignore[arg-type]

    torch.testing.assert_close(combined(1.0).std((1, 2, 3)), x0[1].std((1, 2, 3)))
    assert not torch.allclose(combined(0.0).std((1, 2, 3)), x0[1].std((1, 2, 3)))
