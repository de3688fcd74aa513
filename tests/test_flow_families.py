"""Every edit on every family of today's transformers: it runs, keeps what it promises, or is refused with what can."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_parity_flux2
import tiny_flow as tiny
import torch
from diffusers import Flux2KleinPipeline
from tiny_families import LOOKS, pipe

from editkit import edit
from editkit.editing.settle import plan_stages
from editkit.errors import ChainError, EditkitError, ModelError, UsageError
from editkit.models import describe, load
from editkit.models.leasing import Models
from editkit.models.setup import Setup
from editkit.plugin import Chain, Picture
from editkit.plugins import Cfg, Inpaint, PromptText, SDEdit, Translate

NAMES = [
    "flux2",
    "flux",
    "fill",
    "kontext",
    "z-image",
    "qwen",
    "qwen-plus",
    "chroma",
    "krea",
    "longcat",
    "longcat-edit",
]
MODELS = Models(most=len(NAMES))


@pytest.fixture(scope="module")
def folder(folders: Any) -> Any:
    return folders.model


PHOTO = np.asarray(tiny.picture(70, 52))
"""No side is a multiple of what the models take."""


def done(folder: str, plugins: Any, **options: Any) -> np.ndarray:
    how = {"steps": 2, "prompt": "a red door", "seed": 3, "device": "cpu", "offline": True}
    return np.asarray(edit(PHOTO, plugins, model=folder, models=MODELS, **{**how, **options}).pixels)


@pytest.mark.parametrize("name", NAMES)
def test_a_hole_is_filled_and_the_rest_is_as_it_was(folder: Any, name: str) -> None:
    made = done(folder(name), Inpaint(mask="box:20,11,47,40") & Cfg(), negative="blurry")
    inside = np.zeros(PHOTO.shape[:2], bool)
    inside[11:40, 20:47] = True
    assert made.shape == PHOTO.shape
    assert np.array_equal(made[~inside], PHOTO[~inside])
    assert not np.array_equal(made[inside], PHOTO[inside])


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_redrawn_at_its_own_size(folder: Any, name: str) -> None:
    little, much = (done(folder(name), SDEdit(strength=s)) for s in (0.5, 1.0))
    assert little.shape == much.shape == PHOTO.shape
    assert not np.array_equal(little, much)
    assert np.array_equal(little, done(folder(name), SDEdit(strength=0.5))), "the same seed gives the same bytes"


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_translated_and_equal_texts_give_it_back(folder: Any, name: str) -> None:
    """As far as the VAE does: by one step and by three."""
    same = [
        done(folder(name), Translate(source="a red door", method="flowedit"), steps=steps, guidance_scale=1.0)
        for steps in (1, 3)
    ]
    other = done(folder(name), Translate(source="a dog", method="flowedit"), steps=3, guidance_scale=1.0)
    assert np.abs(same[0].astype(int) - same[1]).max() <= 1
    assert np.abs(same[0].astype(int) - other).max() > 1


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("longcat")])
def test_a_lora_is_fused_as_the_pipeline_does(folder: Any, name: str, tmp_path: Path) -> None:
    file = lora(name, tmp_path)
    fused = load(describe(folder(name)), torch.device("cpu"), torch.float32, setup=Setup(lora=(f"{file}:0.5",)))
    live, own = pipe(name), pipe(name)
    live.transformer = deepcopy(live.transformer)
    live.load_lora_weights(str(tmp_path), weight_name=file.name, adapter_name="a")
    live.set_adapters(["a"], [0.5])
    layer = "transformer_blocks.0.attn.to_q" if name != "z-image" else "layers.0.attention.to_q"
    x = torch.randn(3, own.transformer.get_submodule(layer).in_features, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = live.transformer.get_submodule(layer)(x)
        found = fused.transformer.get_submodule(layer)(x)
        plain = own.transformer.get_submodule(layer)(x)
    assert float((found - expected).abs().max()) <= 1e-5
    assert float((found - plain).abs().max()) > 1e-2


def lora(name: str, folder: Path) -> Path:
    """A LoRA of the first attention's queries."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    made = pipe(name)
    donor = deepcopy(made.transformer)
    torch.manual_seed(8)
    donor.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    layers = get_peft_model_state_dict(donor)
    made.save_lora_weights(folder, transformer_lora_layers=layers, weight_name="one.safetensors")
    return folder / "one.safetensors"


def renamed(name: str, tensors: dict[str, Any]) -> dict[str, Any]:
    """A LoRA of a family's first attention in the names that its trainers write."""
    made: dict[str, Any] = {}
    for key, value in tensors.items():
        layer, _, half = key.removeprefix("transformer.").removesuffix(".weight").rpartition(".lora_")
        match name:
            case "z-image":
                made[f"diffusion_model.{layer}.lora_{half}.weight"] = value
            case "qwen":
                made[f"{layer}.lora_{'down' if half == 'A' else 'up'}.weight"] = value
                made[f"{layer}.alpha"] = torch.tensor(2.0)
            case _:  # Black Forest Labs' own: queries, keys and values in one matrix
                whole = "diffusion_model.double_blocks.0.img_attn.qkv"
                zeros = torch.zeros(2 * len(value), value.shape[1])
                made[f"{whole}.lora_{half}.weight"] = value if half == "A" else torch.cat([value, zeros])
    return made


@pytest.mark.parametrize("name", ["flux2", "z-image", "qwen"])
def test_a_lora_in_other_programs_names_is_the_same(folder: Any, name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = lora(name, tmp_path)
    save_file(renamed(name, load_file(file)), tmp_path / "other.safetensors")
    made: list[Any] = [
        load(describe(folder(name)), torch.device("cpu"), torch.float32, setup=Setup(lora=(str(one),)))
        for one in (file, tmp_path / "other.safetensors")
    ]
    layer = "transformer_blocks.0.attn.to_q" if name != "z-image" else "layers.0.attention.to_q"
    one, two = (model.transformer.get_submodule(layer).weight for model in made)
    assert float((one - two).abs().max()) <= 1e-6
    plain = pipe(name).transformer.get_submodule(layer).weight.detach()
    assert float((one - plain).abs().max()) > 1e-3


def test_a_lora_of_another_family_is_refused_by_name(folder: Any, tmp_path: Path) -> None:
    file = lora("z-image", tmp_path)
    with pytest.raises(ModelError, match=r"lora one\.safetensors does not fit model .*: .*\w"):
        load(describe(folder("qwen")), torch.device("cpu"), torch.float32, setup=Setup(lora=(str(file),)))
    with pytest.raises(ModelError, match="without LoRA support in diffusers .* choose another --model: FLUX.1"):
        load(describe(folder("longcat")), torch.device("cpu"), torch.float32, setup=Setup(lora=(str(file),)))


def test_a_lora_stays_beside_quantised_weights(folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be added to them; the result is that of the fused one."""
    from editkit.models import lora as lora_files

    file = lora("flux2", tmp_path)
    asked = Setup(lora=(str(file),))
    info = describe(folder("flux2"))
    fused: Any = load(info, torch.device("cpu"), torch.float32, setup=asked)
    with monkeypatch.context() as m:
        m.setattr(lora_files, "is_quantised", lambda network: type(network).__name__ == "Flux2Transformer2DModel")
        beside: Any = load(info, torch.device("cpu"), torch.float32, setup=asked)
    assert not any("lora" in key for key in fused.transformer.state_dict())
    assert any("lora" in key for key in beside.transformer.state_dict())
    one, two = (tiny.walked(model) for model in (fused, beside))
    assert tiny.distance(one, two) <= 6e-5


@pytest.mark.parametrize("name", NAMES)
def test_what_a_family_has_not_is_refused_with_what_can(folder: Any, name: str) -> None:
    with pytest.raises(EditkitError, match="has no weights for words"):
        done(folder(name), SDEdit() & PromptText(weights=True))
    if name not in LOOKS:
        with pytest.raises(ChainError, match="needs a model that takes references"):
            done(folder(name), SDEdit() & tiny.Look(pictures=()))


def test_a_shift_is_for_models_of_flow_matching(folder: Any) -> None:
    with pytest.raises(UsageError, match="is not a flow-matching model"):
        edit(PHOTO, SDEdit(), model="pocket", shift=3.0, device="cpu", steps=2)
    one, two = (done(folder("flux"), SDEdit(strength=0.5), shift=shift) for shift in (1.0, 6.0))
    assert not np.array_equal(one, two)


def test_half_precision_keeps_what_was_measured(folder: Any) -> None:
    """FLUX.2's statistics of latents are float32 in bf16 too, and a counter stays a whole number."""
    model: Any = load(describe(folder("flux2")), torch.device("cpu"), torch.bfloat16)
    norm, own = model.vae.bn, tiny.flux2_vae().bn
    assert norm.running_mean.dtype == norm.running_var.dtype == torch.float32
    assert norm.running_var.equal(own.running_var)
    assert norm.num_batches_tracked.dtype == torch.int64
    assert model.vae.encoder.conv_in.weight.dtype == torch.bfloat16
    wide = model.encode(tiny.tensor(tiny.picture()))
    assert wide.dtype == torch.float32
    assert wide.shape == (1, 32, 4, 4)


def test_a_strength_that_leaves_a_distilled_model_few_levels_is_said(folder: Any, tmp_path: Path) -> None:
    Flux2KleinPipeline(**test_parity_flux2.parts(), is_distilled=True).save_pretrained(tmp_path)
    said: dict[float, list[str]] = {}
    for strength in (0.3, 1.0):
        chain = Chain.of(SDEdit(strength=strength)).using(model=str(tmp_path), prompt="a door")
        told = said.setdefault(strength, [])
        plan_stages(chain, Picture.read(PHOTO), told.append)
    assert said[0.3][0].startswith("only 2 of 4 noise levels are used,")
    assert "--steps 8 " in said[0.3][0]
    assert "70x52 is padded to 80x64, multiples of 16, and cropped back at the end" in said[0.3]
    assert not any("noise level" in line for line in said[1.0])


def test_a_strength_that_leaves_no_level_is_said(folder: Any) -> None:
    said: list[str] = []
    made = done(folder("flux"), SDEdit(strength=0.0), notify=said.append)
    assert any(line.startswith("none of the 2 noise levels is left, so") for line in said)
    assert made.shape == PHOTO.shape
