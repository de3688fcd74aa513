"""Stable Diffusion 3 against its diffusers pipelines, step for step; see test_parity_latent.py.

These pipelines round the number of steps left out down where all others round the number walked down: 7 steps at
strength 0.3 walk 3 (those of Stable Diffusion 1.x, 2.x and XL: int(7 * 0.3) = 2).
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny_latent as tiny
import torch
from test_parity_latent import NEGATIVE, PROMPT, same, walked
from torch import Tensor

from editkit import sample
from editkit.errors import ModelError
from editkit.models import describe, load
from editkit.models.schedules import make_schedule
from editkit.models.setup import Setup
from editkit.plugins import Cfg

STEPS = 10
LONG = "a red door in a brick wall under an old lamp " * 12 + "at night"
PIPES: dict[str, Any] = {
    "text": diffusers.StableDiffusion3Pipeline,
    "img2img": diffusers.StableDiffusion3Img2ImgPipeline,
    "inpaint16": diffusers.StableDiffusion3InpaintPipeline,
    "inpaint33": diffusers.StableDiffusion3InpaintPipeline,
}


@cache
def parts(channels: int) -> dict[str, Any]:
    torch.manual_seed(6)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=channels, out_channels=16, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=80, pooled_projection_dim=64,
        pos_embed_max_size=16,
    ).eval()  # fmt: skip
    for p in transformer.parameters():  # zero-initialised modulations and output layers would prove nothing
        torch.nn.init.normal_(p, std=0.1)
    return {
        "transformer": transformer,
        "vae": tiny.vae(latent_channels=16, shift_factor=0.0609, scaling_factor=1.5305, use_quant_conv=False,
                        use_post_quant_conv=False),
        "tokenizer": tiny.tokenizer(), "text_encoder": tiny.text_encoder(projected=True),
        "tokenizer_2": tiny.tokenizer(), "text_encoder_2": tiny.text_encoder(projected=True),
        "tokenizer_3": None, "text_encoder_3": None,
    }  # fmt: skip


def pipeline(task: str) -> Any:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = PIPES[task](**parts(33 if task == "inpaint33" else 16), scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    made = {}
    for channels, task in [(16, "text"), (33, "inpaint33")]:
        path: Path = tmp_path_factory.mktemp("models") / f"sd3-{channels}"
        pipeline(task).save_pretrained(path)
        model: Any = load(describe(str(path)), torch.device("cpu"), torch.float32)
        model.transformer.to(memory_format=torch.contiguous_format)
        model.vae.to(memory_format=torch.contiguous_format)
        made[channels] = model
    return made


def theirs(task: str, scale: float, strength: float, batch: int, steps: int = STEPS) -> list[Tensor]:
    image, mask = tiny.picture(batch)
    given: dict[str, Any] = {} if task == "text" else {"image": image, "strength": strength}
    if task.startswith("inpaint"):
        given |= {"mask_image": mask}
    states: list[Tensor] = []

    def keep(pipe: Any, index: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        states.append(values["latents"].clone())
        return {}

    pipeline(task)(
        prompt=[PROMPT] * batch, negative_prompt=[NEGATIVE] * batch, num_inference_steps=steps, guidance_scale=scale,
        height=64, width=64, output_type="latent", generator=torch.Generator().manual_seed(5),
        callback_on_step_end=keep, **given,
    )  # fmt: skip
    return states


@pytest.mark.parametrize(("scale", "strength", "batch"), [(1.0, 1.0, 1), (7.0, 1.0, 2), (5.0, 0.6, 1), (7.0, 0.3, 2)])
@pytest.mark.parametrize("sampler", ["euler", "ddim"])
@pytest.mark.parametrize("task", ["text", "img2img", "inpaint16", "inpaint33"])
def test_tasks(models: dict[int, Any], task: str, sampler: str, scale: float, strength: float, batch: int) -> None:
    model, options = models[33 if task == "inpaint33" else 16], {"sampler": sampler, "steps": STEPS}
    found = walked(model, task, strength, batch, [Cfg()], negative=NEGATIVE, guidance_scale=scale, **options)
    same(found, theirs(task, scale, strength, batch))


@pytest.mark.parametrize("sampler", ["dpm++2m", "unipc", "heun", "euler-ancestral"])
def test_other_samplers_run_on_flow_matching(models: dict[int, Any], sampler: str) -> None:
    x = sample(models[16], Cfg(), shape=(1, 16, 8, 8), sampler=sampler, steps=6, prompt=PROMPT, device="cpu")
    assert bool(torch.isfinite(x).all())


@pytest.mark.parametrize(("steps", "strength", "walk"), [(28, 0.6, 17), (20, 0.33, 7), (7, 0.3, 3), (10, 1.0, 10)])
@pytest.mark.parametrize("task", ["img2img", "inpaint16"])
def test_a_strength_between_two_levels_starts_from_the_upper_one(
    models: dict[int, Any], task: str, steps: int, strength: float, walk: int
) -> None:
    options = {"sampler": "euler", "steps": steps}
    found = walked(models[16], task, strength, 1, [Cfg()], negative=NEGATIVE, guidance_scale=7.0, **options)
    assert len(found) == walk
    same(found, theirs(task, 7.0, strength, 1, steps))


def test_what_a_folder_is(models: dict[int, Any]) -> None:
    info = models[16].info
    assert (info.sampler, info.steps, info.window, info.multiple, info.takes) == ("euler", 28, 64, 16, {"prompt"})
    assert info.guidance == 7.0
    assert models[33].info.takes == {"prompt", "known", "mask"}


def test_a_table_that_shifts_with_the_size_is_refused() -> None:
    with pytest.raises(ModelError, match="use_dynamic_shifting"):
        make_schedule({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True})


def test_t5_reads_too(tmp_path: Path) -> None:
    """All three encoders' text is the pipeline's. T5's tokenizer cannot be made offline; CLIP's stands in for it."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(7)
    t5 = T5EncoderModel(T5Config(vocab_size=49408, d_model=80, d_kv=8, d_ff=32, num_layers=2, num_heads=4)).eval()
    third = {"tokenizer_3": tiny.tokenizer(), "text_encoder_3": t5}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = diffusers.StableDiffusion3Pipeline(**{**parts(16), **third}, scheduler=scheduler)
    with torch.no_grad():
        words, _, pooled, _ = pipe.encode_prompt(PROMPT, None, None, do_classifier_free_guidance=False)
    pipe.save_pretrained(tmp_path)
    model: Any = load(describe(str(tmp_path)), torch.device("cpu"), torch.float32)
    prompt, dropped = model.encode_text(PROMPT)
    assert prompt.embeds.shape == (1, 77 + 256, 80)
    assert float((prompt.embeds - words).abs().max()) <= 1e-5
    assert float((prompt.pooled - pooled).abs().max()) <= 1e-5
    assert dropped == ""
    long = model.encode_text(LONG)[0]
    assert long.embeds.shape == (1, 2 * (77 + 256), 80)
    ids = tiny.tokenizer()(LONG, padding="max_length", max_length=512, return_tensors="pt").input_ids
    with torch.no_grad():
        assert float((long.embeds[:, 154:] - t5(ids)[0]).abs().max()) <= 1e-5


def test_a_long_prompt_gives_the_pipelines_latents(models: dict[int, Any]) -> None:
    """The pipeline is handed the same embeddings; the shorter negative prompt is filled with the empty text's."""
    model = models[16]
    wanted, negative = model.encode_text(LONG)[0], model.encode_text("blurry")[0]
    assert wanted.embeds.shape == (1, 2 * (77 + 256), 80)
    filled = torch.cat([negative.embeds, model.encode_text("")[0].embeds], dim=1)
    expected = pipeline("text")(
        prompt_embeds=wanted.embeds, pooled_prompt_embeds=wanted.pooled, negative_prompt_embeds=filled,
        negative_pooled_prompt_embeds=negative.pooled, num_inference_steps=5, guidance_scale=5.0, height=64, width=64,
        generator=torch.Generator().manual_seed(5), output_type="latent",
    ).images  # fmt: skip
    found = sample(
        model, shape=(1, 16, 8, 8), sampler="euler", steps=5, seed=5, noise="diffusers", prompt=LONG,
        negative="blurry", guidance_scale=5.0, device="cpu",
    )  # fmt: skip
    assert float((found - expected).abs().max()) <= 1e-5


def test_a_lora_is_the_pipelines(models: dict[int, Any], tmp_path: Path) -> None:
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    folder = models[16].info.name
    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    donor = deepcopy(pipe.transformer)
    torch.manual_seed(8)
    donor.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_out.0", "ff.net.2"], init_lora_weights=False))
    layers = get_peft_model_state_dict(donor)
    pipe.save_lora_weights(tmp_path, transformer_lora_layers=layers, weight_name="sd3.safetensors")
    pipe.load_lora_weights(str(tmp_path), weight_name="sd3.safetensors", adapter_name="a")
    pipe.set_adapters(["a"], [0.5])
    given: dict[str, Any] = {"prompt": PROMPT, "guidance_scale": 5.0}
    expected = pipe(
        **given, negative_prompt=NEGATIVE, num_inference_steps=STEPS, height=64, width=64, output_type="latent",
        generator=torch.Generator().manual_seed(5),
    ).images  # fmt: skip
    how: dict[str, Any] = {"shape": (1, 16, 8, 8), "sampler": "euler", "steps": STEPS, "seed": 5, "noise": "diffusers"}
    setup = Setup(lora=(f"{tmp_path / 'sd3.safetensors'}:0.5",))
    changed = load(describe(folder), torch.device("cpu"), torch.float32, setup=setup)
    found = sample(changed, negative=NEGATIVE, device="cpu", **given, **how)
    scale = max(1.0, float(expected.abs().max()))
    assert float((found - expected).abs().max()) <= 6e-5 * scale  # channels-last rounds differently
    plain = sample(models[16], negative=NEGATIVE, device="cpu", **given, **how)
    assert float((plain - expected).abs().max()) > 1e-2
