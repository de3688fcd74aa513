"""A tiny Stable Diffusion model, and pictures, for edits that share models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import tiny_latent as tiny
import torch
from test_blocks import TEXT_FIRST

from editkit.pictures.picture import Picture

CPU, FP32 = torch.device("cpu"), torch.float32


MASK = "box:10,10,44,40"


HOW: dict[str, Any] = {"dtype": "fp32", "device": "cpu", "offline": True}


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def photo(k: int, height: int = 56, width: int = 64) -> Picture:
    small = torch.rand((1, 3, 6, 6), generator=torch.Generator().manual_seed(k))
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)
    return Picture((large[0].movedim(0, -1) * 255).round().byte().numpy())


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Stable Diffusion that begins with attention, so that both halves of guidance are looked at once."""
    scheduler = diffusers.DDIMScheduler.from_config(tiny.SD)
    return str(tiny.save_sd(tmp_path_factory.mktemp("models") / "sd", scheduler, **{**TEXT_FIRST, "sample_size": 8}))
