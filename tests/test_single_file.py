"""One .safetensors file as a model: the networks of a folder, written as the original code names them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny_latent as tiny
import torch
from safetensors.torch import save_file
from test_setup import latents
from torch import Tensor

from editkit.errors import ModelError
from editkit.models import describe, load
from editkit.models.files.fingerprint import fingerprint

CPU = torch.device("cpu")
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def renamed(rest: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        if rest.startswith(ours + "."):
            return theirs + rest.removeprefix(ours)
    return rest


def original_unet(key: str) -> str:
    """The tiny UNet (one layer a block) in the original code's names."""
    part, *rest = key.split(".")
    if part == "mid_block":
        k = {"resnets0": 0, "attentions0": 1, "resnets1": 2}[rest[0] + rest[1]]
        return f"middle_block.{k}." + renamed(".".join(rest[2:]), RESNET)
    if part not in ("down_blocks", "up_blocks"):
        return renamed(key, ENDS)
    block, kind, layer, inner = int(rest[0]), rest[1], int(rest[2]), ".".join(rest[3:])
    if kind == "downsamplers":
        return f"input_blocks.{2 * block + 2}.0." + inner.replace("conv", "op")
    if kind == "upsamplers":  # the first block of the way up has attention before it
        return f"output_blocks.{2 * block + 1}.2.{inner}"
    place = f"input_blocks.{2 * block + 1}" if part == "down_blocks" else f"output_blocks.{2 * block + layer}"
    return f"{place}.{int(kind == 'attentions')}." + renamed(inner, RESNET)


def original_vae(key: str, blocks: int = 4) -> str:
    side, *rest = key.split(".")
    if side not in ("encoder", "decoder"):
        return key
    inner = ".".join(rest[3:]).replace("conv_shortcut", "nin_shortcut")
    match rest[0]:
        case "mid_block" if rest[1] == "resnets":
            return f"{side}.mid.block_{int(rest[2]) + 1}.{inner}"
        case "mid_block":
            return f"{side}.mid.attn_1." + renamed(inner, ATTENTION)
        case "down_blocks" | "up_blocks":
            down = rest[0] == "down_blocks"
            place = f"{side}.down.{rest[1]}" if down else f"{side}.up.{blocks - 1 - int(rest[1])}"
            if rest[2] == "resnets":
                return f"{place}.block.{rest[3]}." + ".".join(rest[4:]).replace("conv_shortcut", "nin_shortcut")
            return f"{place}.{'downsample' if down else 'upsample'}." + ".".join(rest[4:])
    return f"{side}." + ".".join(rest).replace("conv_norm_out", "norm_out")


def written(file: Path, **unet: Any) -> Path:
    """The tiny networks in one file."""
    found: dict[str, Tensor] = {}
    for key, value in tiny.unet(**unet).state_dict().items():
        found[f"model.diffusion_model.{original_unet(key)}"] = value
    for key, value in tiny.vae().state_dict().items():
        matrix = "attentions" in key and value.ndim == 2
        found[f"first_stage_model.{original_vae(key)}"] = value[..., None, None] if matrix else value
    for key, value in tiny.text_encoder().state_dict().items():
        name = key if key.startswith("text_model.") else f"text_model.{key}"
        found[f"cond_stage_model.transformer.{name}"] = value
    save_file({key: value.contiguous() for key, value in found.items()}, file)
    return file


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_sd(tmp_path_factory.mktemp("models") / "sd", diffusers.DDIMScheduler.from_config(tiny.SD))


def beside(file: Path, folder: Path) -> None:
    shutil.copytree(folder, file.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))


def test_one_file_is_the_folder(sd: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "whole.safetensors")
    beside(file, sd)
    info = describe(str(file), offline=True)
    assert (info.takes, info.window) == (describe(str(sd)).takes, 64)
    found = latents(load(info, CPU, torch.float32, offline=True))
    assert torch.allclose(found, latents(load(describe(str(sd)), CPU, torch.float32)), atol=1e-5)
    assert len(fingerprint(info) or "") == 64


def test_without_a_configuration_it_says_what_is_needed(tmp_path: Path) -> None:
    file = written(tmp_path / "whole.safetensors")
    with pytest.raises(ModelError, match=r"it looks like .*stable-diffusion.* beside it as whole/.*--offline is on"):
        describe(str(file), offline=True)


def test_a_file_that_does_not_fit_its_configuration(sd: Path, tmp_path: Path) -> None:
    file = tmp_path / "part.safetensors"
    save_file({"something.else": torch.zeros(2)}, file)
    beside(file, sd)
    with pytest.raises(ModelError, match="part.safetensors does not fit the configuration"):
        load(describe(str(file), offline=True), CPU, torch.float32, offline=True)
    text = tmp_path / "notes.md"
    text.write_text("no model")
    with pytest.raises(ModelError, match=r"a hub id or a \.safetensors file"):
        describe(str(text))


def test_a_configuration_beside_a_file_claims_no_more_than_the_file_has(
    sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers would build what it says before it looks at the tensors."""
    file = written(tmp_path / "whole.safetensors")
    beside(file, sd)
    config = file.with_suffix("") / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "layers_per_block": 10**7}))
    monkeypatch.setattr(
        diffusers.StableDiffusionPipeline, "from_single_file", lambda *a, **k: pytest.fail("it was built")
    )
    with pytest.raises(ModelError, match="does not fit the configuration .*layers_per_block = 10000000"):
        load(describe(str(file), offline=True), CPU, torch.float32, offline=True)
