"""Tiny ControlNets, the pipelines of diffusers with them, and ours."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import test_parity_sdxl as xl
import tiny_latent as tiny
import torch
from test_parity_latent import PROMPT, adapter
from torch import Tensor

from editkit import sample

EPSILON = {**tiny.SD, "prediction_type": "epsilon"}


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


def run(plugins: list[Any], **options: Any) -> Tensor:
    model = adapter(4, EPSILON, takes={"control"})
    settings = {"shape": (1, 4, 8, 8), "steps": 10, "sampler": "ddim", "device": "cpu", "prompt": PROMPT, **options}
    return sample(model, plugins, **settings)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> str:
    scheduler = diffusers.DDIMScheduler.from_config(tiny.SD)
    return str(tiny.save_sd(tmp_path_factory.mktemp("models") / "sd", scheduler))
