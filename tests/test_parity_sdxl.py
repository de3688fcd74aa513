"""Stable Diffusion XL against its diffusers pipelines, step for step; see test_parity_latent.py."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny_latent as tiny
import torch
from test_parity_latent import NEGATIVE, PROMPT, SCHEDULERS, STEPS, kept, same, walked
from torch import Tensor

from editkit import sample
from editkit.errors import ModelError
from editkit.models import describe, load
from editkit.models.latent.refiner import Refined
from editkit.models.setup import Setup
from editkit.plugins import Cfg

SDXL = {**tiny.SD, "timestep_spacing": "leading"}
PIPES: dict[str, Any] = {
    "text": diffusers.StableDiffusionXLPipeline,
    "img2img": diffusers.StableDiffusionXLImg2ImgPipeline,
    "inpaint4": diffusers.StableDiffusionXLInpaintPipeline,
    "inpaint9": diffusers.StableDiffusionXLInpaintPipeline,
}


@cache
def parts(channels: int, refiner: bool = False) -> dict[str, Any]:
    width = 32 if refiner else 64
    unet = tiny.unet(
        in_channels=channels, cross_attention_dim=width, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=(5 if refiner else 6) * 8 + 32, transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )  # fmt: skip
    second = {"tokenizer_2": tiny.tokenizer(), "text_encoder_2": tiny.text_encoder(projected=True)}
    if refiner:
        return {"vae": tiny.vae(), "unet": unet, "tokenizer": None, "text_encoder": None, **second}
    return {
        "vae": tiny.vae(), "unet": unet, "tokenizer": tiny.tokenizer(), "text_encoder": tiny.text_encoder(), **second
    }  # fmt: skip


def pipeline(task: str, scheduler: Any, refiner: bool = False) -> Any:
    extra = {"requires_aesthetics_score": refiner} if task != "text" else {}
    networks = parts(9 if task == "inpaint9" else 4, refiner)
    pipe = PIPES[task](**networks, scheduler=scheduler, add_watermarker=False, **extra)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for task, refiner in [("img2img", False), ("inpaint9", False), ("img2img", True)]:
        name = "refiner" if refiner else task
        made[name] = tmp_path_factory.mktemp("xl") / name
        pipeline(task, diffusers.EulerDiscreteScheduler.from_config(SDXL), refiner).save_pretrained(made[name])
    return made


def theirs(task: str, name: str, scale: float, strength: float, batch: int, **more: Any) -> list[Tensor]:
    scheduler = SCHEDULERS[name].from_config(SDXL, **({"algorithm_type": "sde-dpmsolver++"} if "sde" in name else {}))
    pipe = pipeline(task, scheduler, more.pop("refiner", False))
    image, mask = tiny.picture(batch)
    given: dict[str, Any] = {} if task == "text" else {"image": image, "strength": strength}
    if task.startswith("inpaint"):
        given |= {"mask_image": mask, "height": 64, "width": 64}
    states, keep = kept(scheduler, name)
    pipe(
        prompt=[PROMPT] * batch, num_inference_steps=STEPS, guidance_scale=scale, output_type="latent",
        generator=torch.Generator().manual_seed(5), callback_on_step_end=keep, **given, **more,
    )  # fmt: skip
    return states


@cache
def loaded(folder: Path) -> Any:
    """In diffusers' memory format: channels-last rounds differently."""
    model: Any = load(describe(str(folder)), torch.device("cpu"), torch.float32)
    model.unet.to(memory_format=torch.contiguous_format)
    model.vae.to(memory_format=torch.contiguous_format)
    return model


def ours(folder: Path, task: str, name: str, scale: float, strength: float, batch: int, **more: Any) -> list[Tensor]:
    plugins = [Cfg(rescale=more.pop("guidance_rescale", 0.0))]
    options = {"sampler": name, "steps": STEPS, "guidance_scale": scale, **more}
    return walked(loaded(folder), task, strength, batch, plugins, **options)


@pytest.mark.parametrize(("scale", "strength", "batch"), [(1.0, 0.3, 2), (7.5, 1.0, 2), (5.0, 0.9999, 1)])
@pytest.mark.parametrize("name", ["euler", "dpm++2m", "ddim", "lcm", "euler-ancestral"])
@pytest.mark.parametrize("task", ["text", "img2img", "inpaint4", "inpaint9"])
def test_tasks(folders: dict[str, Path], task: str, name: str, scale: float, strength: float, batch: int) -> None:
    folder = folders["inpaint9" if task == "inpaint9" else "img2img"]
    same(ours(folder, task, name, scale, strength, batch), theirs(task, name, scale, strength, batch))


def test_a_negative_prompt_is_not_zeros(folders: dict[str, Path]) -> None:
    found = ours(folders["img2img"], "text", "euler", 5.0, 1.0, 1, negative=NEGATIVE, guidance_rescale=0.5)
    same(found, theirs("text", "euler", 5.0, 1.0, 1, negative_prompt=[NEGATIVE], guidance_rescale=0.5))


def test_the_refiner_is_told_an_aesthetic_score(folders: dict[str, Path]) -> None:
    found = ours(folders["refiner"], "img2img", "euler", 5.0, 0.3, 1, negative=NEGATIVE)
    same(found, theirs("img2img", "euler", 5.0, 0.3, 1, refiner=True, negative_prompt=[NEGATIVE]))


def test_what_a_folder_is(folders: dict[str, Path]) -> None:
    info = describe(str(folders["img2img"]))
    assert (info.sampler, info.window, info.multiple, "XL" in info.family) == ("euler", 64, 8, True)
    assert describe(str(folders["inpaint9"])).takes == {"prompt", "control", "image prompt", "known", "mask"}


@pytest.mark.parametrize(("name", "start"), [("ddim", 0.8), ("euler", 0.5)])
def test_the_hand_over_to_a_refiner_is_that_of_two_pipelines(folders: dict[str, Path], name: str, start: float) -> None:
    """denoising_end and denoising_start: one process here, the refiner from (1 - start) of the training times on."""
    base, refiner = (
        pipeline(task, SCHEDULERS[name].from_config(SDXL), second)
        for task, second in (("text", False), ("img2img", True))
    )
    given: dict[str, Any] = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": 10}
    latents = base(
        **given, guidance_scale=5.0, denoising_end=start, output_type="latent", height=64, width=64,
        generator=torch.Generator().manual_seed(5),
    ).images  # fmt: skip
    expected = refiner(**given, image=latents, guidance_scale=5.0, denoising_start=start, output_type="latent").images
    model = Refined(loaded(folders["img2img"]), loaded(folders["refiner"]), round((1 - start) * 1000))
    found = sample(
        model, shape=(1, 4, 8, 8), sampler=name, steps=10, seed=5, noise="diffusers", prompt=PROMPT, negative=NEGATIVE,
        guidance_scale=5.0, device="cpu",
    )  # fmt: skip
    same([found], [expected])


def test_a_refiner_by_its_name(folders: dict[str, Path]) -> None:
    setup = Setup(refiner=f"{folders['refiner']}:0.7")
    model: Any = load(describe(str(folders["img2img"])), torch.device("cpu"), torch.float32, setup=setup)
    assert (model.until, model.refiner.scored) == (300, True)


def test_a_refiner_hands_on_what_a_model_is_asked_for(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notices, tiles, words with weights; and it has to be of the same family."""
    from editkit.diffusion.capability import capability
    from editkit.diffusion.model import Notifies, ReadsWeights
    from editkit.models.memory import Tiles

    setup = Setup(refiner=str(folders["refiner"]))
    model: Any = load(describe(str(folders["img2img"])), torch.device("cpu"), torch.float32, setup=setup)
    assert capability(model, Notifies) is model
    assert capability(model, ReadsWeights) is model
    tiles = capability(model, Tiles)
    assert tiles is model.model
    said: list[str] = []
    model.notify = said.append
    model.refiner.notify("told")
    model.model.notify("too")
    assert said == ["told", "too"]
    tiles.tile()
    assert model.model.vae.use_tiling
    weighted, plain = model.encode_weighted("a red++ door"), model.encode_text("a red door")[0]
    assert weighted.refined.embeds.shape == plain.refined.embeds.shape
    assert not torch.allclose(weighted.embeds, plain.embeds)
    sd = tiny.save_sd(folders["refiner"].parent / "sd", diffusers.DDIMScheduler.from_config(tiny.SD))
    monkeypatch.setattr("editkit.models.families.load_folder", None)  # said before any weight is loaded
    with pytest.raises(ModelError, match=r"--refiner .* is not a refiner for"):
        load(describe(str(sd)), torch.device("cpu"), torch.float32, setup=setup)


def test_a_lora_is_the_pipelines(folders: dict[str, Path], tmp_path: Path) -> None:
    """Convolutions, gates and attention; the base model's two text encoders stay as they are."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(folders["img2img"], add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    donor = deepcopy(pipe.unet)
    torch.manual_seed(8)
    targets = ["to_q", "to_out.0", "conv1", "ff.net.0.proj"]
    donor.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(donor))
    pipe.save_lora_weights(tmp_path, unet_lora_layers=layers, weight_name="xl.safetensors")
    pipe.load_lora_weights(str(tmp_path), weight_name="xl.safetensors", adapter_name="a")
    pipe.set_adapters(["a"], [0.7])
    expected = pipe(
        prompt=PROMPT, negative_prompt=NEGATIVE, num_inference_steps=STEPS, guidance_scale=5.0, height=64, width=64,
        generator=torch.Generator().manual_seed(5), output_type="latent",
    ).images  # fmt: skip
    how: dict[str, Any] = {"shape": (1, 4, 8, 8), "sampler": "euler", "steps": STEPS, "seed": 5, "noise": "diffusers"}
    found = {}
    for name, setup in (("with", Setup(lora=(f"{tmp_path / 'xl.safetensors'}:0.7",))), ("without", Setup())):
        model = load(describe(str(folders["img2img"])), torch.device("cpu"), torch.float32, setup=setup)
        found[name] = sample(model, prompt=PROMPT, negative=NEGATIVE, guidance_scale=5.0, device="cpu", **how)
    scale = max(1.0, float(expected.abs().max()))
    assert float((found["with"] - expected).abs().max()) <= 6e-5 * scale  # channels-last rounds differently
    assert float((found["without"] - expected).abs().max()) > 1e-2
