"""`--fast`: what few-step LoRAs want of a run, told by names and metadata; no weights, no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from editkit.diffusion.flows import flow_for_state
from editkit.diffusion.model import ModelInfo
from editkit.editing.fast import KINDS, find_fast_lora, settle_options
from editkit.editing.settle import plan_stage
from editkit.errors import EditkitError, UsageError
from editkit.models.latent import flux, flux2, qwen, unet, xl
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain
from editkit.plugin.options import Options
from editkit.plugins import SDEdit

FAMILIES = {"qwen": qwen.KNOWN, "xl": xl.KNOWN, "sd": unet.KNOWN, "flux": flux.KNOWN, "flux2": flux2.KNOWN}


def info(name: str, **given: Any) -> ModelInfo:
    return ModelInfo(name, FAMILIES[name], frozenset({"prompt"}), shifts=name in ("qwen", "flux"), **given)


def lora(folder: Path, name: str, **metadata: str) -> str:
    save_file({"a": torch.zeros(1)}, folder / name, metadata or None)
    return str(folder / name)


def made(model: ModelInfo, word: str, **asked: Any) -> tuple[Options, str]:
    said: list[str] = []
    options = Options(lora=(word,), fast=True, **asked)
    found = settle_options(
        options.merged(Options(sampler=asked.get("sampler", "dpm++2m"))), options, model, said.append, False
    )
    (line,) = said
    return found, line


ROWS = [
    ("qwen", "Qwen-Image-Lightning-8steps-V1.1.safetensors", 8, "euler", 1.0),
    ("qwen", "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors", 4, "euler", 1.0),
    ("xl", "sdxl_lightning_4step_lora.safetensors", 4, "euler", 1.0),
    ("xl", "Hyper-SDXL-2steps-lora.safetensors", 2, "ddim", 1.0),
    ("xl", "Hyper-SDXL-8steps-CFG-lora.safetensors", 8, "ddim", 5.0),
    ("sd", "Hyper-SD15-12steps-CFG-lora.safetensors", 12, "ddim", 5.0),
    ("sd", "Hyper-SD15-4steps-lora.safetensors", 4, "ddim", 1.0),
    ("sd", "lcm-lora-sdv1-5.safetensors", 4, "lcm", 1.0),
    ("xl", "LCM_LoRA_SDXL.safetensors", 4, "lcm", 1.0),
    ("flux", "Hyper-FLUX.1-dev-8steps-lora.safetensors", 8, "euler", None),
    ("flux", "FLUX.1-Turbo-Alpha.safetensors", 8, "euler", None),
]
"""As their makers call them."""


@pytest.mark.parametrize(("name", "file", "steps", "sampler", "guidance"), ROWS)
def test_a_file_is_known_by_its_name(
    tmp_path: Path, name: str, file: str, steps: int, sampler: str, guidance: float | None
) -> None:
    options, line = made(info(name), lora(tmp_path, file))
    assert (options.steps, options.sampler, options.guidance_scale) == (steps, sampler, guidance)
    assert line.startswith(f"--fast: {file} (")
    assert f"steps {steps}" in line
    assert options.shift == (3.0 if name == "qwen" else None)
    hyper_flux = name == "flux" and "Hyper" in file
    assert options.lora[0].endswith(":0.125") == hyper_flux
    assert ("lora weight 0.125" in line) == hyper_flux


@pytest.mark.parametrize(("name", "file", "steps", "sampler", "guidance"), ROWS)
def test_a_renamed_file_is_known_by_what_it_says_of_itself(
    tmp_path: Path, name: str, file: str, steps: int, sampler: str, guidance: float | None
) -> None:
    options, _ = made(info(name), lora(tmp_path, "mine.safetensors", **{"modelspec.title": Path(file).stem}))
    assert (options.steps, options.sampler) == (steps, sampler)


def test_what_is_set_by_hand_wins_and_is_said(tmp_path: Path) -> None:
    file = lora(tmp_path, "Qwen-Image-Lightning-8steps.safetensors")
    options, line = made(info("qwen"), file, steps=6, guidance_scale=2.0, sampler="heun", shift=2.0)
    assert (options.steps, options.guidance_scale, options.sampler, options.shift) == (6, 2.0, "heun", 2.0)
    assert line.endswith("(lightning): nothing; by hand: steps 6, guidance scale 2.0, shift 2.0, sampler heun")
    weighed = lora(tmp_path, "Hyper-FLUX.1-dev-8steps-lora.safetensors") + ":0.2"
    options, line = made(info("flux"), weighed)
    assert options.lora == (weighed,)
    assert "lora weight" not in line
    one = lora(tmp_path, "Hyper-FLUX.1-dev-8steps-lora.safetensors") + ":1"
    assert made(info("flux"), one)[0].lora == (one,)


def test_without_such_a_lora_it_says_what_is_known(tmp_path: Path) -> None:
    plain = lora(tmp_path, "my-cat.safetensors")
    with pytest.raises(UsageError, match=r"needs a few-step LoRA for qwen .*by --lora \(lightning\)"):
        made(info("qwen"), plain)
    with pytest.raises(UsageError, match="none is known for this family"):
        made(info("flux2"), lora(tmp_path, "Turbo-8steps.safetensors"))
    with pytest.raises(UsageError, match=r"by --lora \(hyper, turbo\)"):
        made(info("flux"), lora(tmp_path, "Qwen-Image-Lightning-8steps.safetensors"))
    _, line = made(info("flux2", distilled=True, steps=4), plain)
    assert line == "--fast sets nothing: flux2 takes 4 steps by itself"
    with pytest.raises(UsageError, match="is for 1 steps; of this kind .hyper. only 2, 4, 8, 12 are known"):
        made(info("xl"), lora(tmp_path, "Hyper-SDXL-1step-lora.safetensors"))
    with pytest.raises(UsageError, match="there is no such file"):
        find_fast_lora(("none.safetensors",), info("xl"))
    (tmp_path / "lightning.safetensors").write_bytes(b"no")
    with pytest.raises(EditkitError, match="lightning.safetensors is damaged"):
        find_fast_lora((str(tmp_path / "lightning.safetensors"),), info("xl"))


def test_a_word_within_a_word_is_none(tmp_path: Path) -> None:
    for name in ("calcmania", "hyperrealism", "turbocharged-car"):
        word = lora(tmp_path, f"{name}.safetensors")
        assert all(find_fast_lora((word,), info(model)) is None for model in FAMILIES), name


def test_steps_of_training_are_none_of_the_run(tmp_path: Path) -> None:
    said = {"modelspec.title": "Lightning", "modelspec.description": "3000 steps of distillation; use 8 steps"}
    found = find_fast_lora((lora(tmp_path, "mine.safetensors", **said),), info("qwen"))
    assert found is not None
    assert found.steps == 8
    said["modelspec.description"] = "distilled in 3000 steps"
    found = find_fast_lora((lora(tmp_path, "mine.safetensors", **said),), info("qwen"))
    assert found is not None
    assert found.steps == found.kind.steps


def test_each_kind_has_options_that_its_family_can_have() -> None:
    for kind in KINDS:
        assert any(family.startswith(kind.family) for family in FAMILIES.values())
        assert kind.steps in kind.of
        assert kind.options.shift is None or kind.family == "Qwen-Image"


def test_the_plan_of_a_stage_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen-Image's own folder walks 50 levels; with Lightning 8, and the ladder of its makers: mu = ln 3."""
    import test_parity_qwen

    from editkit.models import describe, load

    folder = tmp_path / "qwen"
    test_parity_qwen.pipe("text", whole=False).save_pretrained(folder)
    word = lora(tmp_path, "Qwen-Image-Lightning-8steps-V1.0.safetensors")
    photo, said = Picture.read(np.zeros((64, 64, 3), np.uint8)), list[str]()
    chain = Chain.of(SDEdit(strength=1.0)).using(model=str(folder), prompt="x", lora=(word,), fast=True)
    plan = plan_stage(chain.inherited().stages[0], photo, said.append)
    assert sum(len(part.plan.flow) for part in plan.passes) == 8
    assert plan.options.guidance_scale == 1.0
    assert any(
        line.startswith("--fast: Qwen-Image-Lightning-8steps-V1.0.safetensors (lightning): steps 8") for line in said
    )
    model = load(describe(str(folder)), torch.device("cpu"), torch.float32)
    levels = flow_for_state(model.schedule, 128, 128, plan.options.shift).levels(8, "trailing")
    s = np.linspace(1.0, 1 / 8, 8)
    assert np.allclose([level.sigma for level in levels[:0:-1]], 3 * s / (1 + 2 * s), atol=1e-6)
