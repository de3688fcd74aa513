"""Bytes do not depend on how many threads compute them, as far as editkit adds up.

oneDNN and MKL may cut what torch hands them for a number of threads as they like. On the processor that was tried they
cut no sum by it but in one convolution (ARCHITECTURE.md, Threads); so a network's edit is held to a level here.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_latent
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from editkit import edit
from editkit.batch.driver import Work
from editkit.batch.engines import processes, serial
from editkit.batch.folder import items, listing
from editkit.models.fast.norms import SteadyGroupNorm, use_steady_norms
from editkit.models.leasing import Models
from editkit.plugin.chain import Chain
from editkit.plugins import Inpaint, SDEdit

THREADS = (1, 2, 3, 4)
LAST = torch.channels_last


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def norm(channels: int, groups: int, dtype: torch.dtype) -> nn.Module:
    made = nn.Sequential(nn.GroupNorm(groups, channels, eps=1e-5)).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    made[0].weight.copy_(torch.randn(channels, generator=generator))
    made[0].bias.copy_(torch.randn(channels, generator=generator))
    return use_steady_norms(made).to(dtype)


def given(shape: tuple[int, ...], dtype: torch.dtype, mean: float = 0.5) -> Tensor:
    x = mean + torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x.to(dtype).contiguous(memory_format=LAST)


SHAPES = [(1, 64, 32, 32), (4, 64, 32, 32), (2, 96, 33, 33), (1, 32, 64, 48), (3, 32, 1, 1031)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_group_norm_is_the_same_bits_by_any_number_of_threads(shape, dtype):
    layer, x = norm(shape[1], 32, dtype), given(shape, dtype)
    assert type(layer[0]) is SteadyGroupNorm
    made = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        made.append(layer(x))
    assert all(torch.equal(made[0], other) for other in made)
    assert made[0].is_contiguous(memory_format=LAST)
    assert made[0].dtype == dtype
    exact = F.group_norm(x.double(), 32, layer[0].weight.double(), layer[0].bias.double(), 1e-5)
    rounding = 2.0 * torch.finfo(dtype).eps * float(exact.abs().max()) + 1e-5
    assert float((made[0].double() - exact).abs().max()) < rounding


def test_a_small_or_learning_norm_is_torchs_own():
    layer = norm(64, 32, torch.float32)
    small = given((2, 64, 16, 16), torch.float32)
    plain = F.group_norm(small, 32, layer[0].weight, layer[0].bias, 1e-5)
    assert torch.equal(layer(small), plain)
    x = given((1, 64, 32, 32), torch.float32).requires_grad_()
    assert layer(x).grad_fn.name() == "NativeGroupNormBackward0"


def striped(side: int) -> np.ndarray:
    y, x = np.mgrid[0:side, 0:side]
    return np.stack([128 + 90 * np.sin(x / 9), 128 + 90 * np.cos(y / 7), 2 * (x + y) % 256], -1).astype(np.uint8)


def by_threads(**options: object) -> list[np.ndarray]:
    made, models = [], Models(most=1)
    for threads in (1, 2):  # more than a processor has wait for each other for a minute
        torch.set_num_threads(threads)
        made.append(edit(striped(64), SDEdit(strength=0.7), steps=3, models=models, **options).pixels.astype(int))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["pocket", "tiny SD"])
def test_an_edit_by_a_network_is_the_same_to_a_level(model, dtype, tmp_path: Path):
    if model == "tiny SD":
        model = str(tiny_latent.save_sd(tmp_path, _scheduler()))
    made = by_threads(model=model, dtype=dtype)
    apart = max(int(np.abs(made[0] - other).max()) for other in made)
    if dtype == "fp32":
        assert apart <= 1
    else:  # kernels of bf16 may round a part of a sum otherwise: never more than bf16 itself is off
        assert apart <= max(1, int(np.abs(made[0] - by_threads(model=model, dtype="fp32")[0]).max()))


def _scheduler() -> object:
    import diffusers

    return diffusers.DDIMScheduler.from_config(tiny_latent.SD)


def test_an_edit_by_patches_is_the_same_bytes():
    made = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        made.append(edit(striped(72), Inpaint(mask="ellipse:25,25,45,45"), model="patches", steps=3).pixels)
    assert all(np.array_equal(made[0], other) for other in made)


@pytest.mark.slow
def test_a_batch_is_the_same_by_two_workers_of_two_threads_as_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """To a level, on any processor; benchmarks/workers.py has more workers, threads, models and bf16."""
    for k in range(2):
        Image.fromarray(striped(48 + 8 * k)).save(tmp_path / f"{k}.png")
    work = Work(Chain.of(SDEdit()).using(model="pocket", steps=2, dtype="fp32"))
    todo = items(listing(tmp_path), tmp_path, tmp_path / "out")
    torch.set_num_threads(1)
    alone = {result.item.name: pixels(result.data) for result in serial(work, todo)}
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    shared = {result.item.name: pixels(result.data) for result in processes(2)(work, todo)}
    assert set(alone) == set(shared) == {"0.png", "1.png"}
    assert all(int(np.abs(alone[name] - shared[name]).max()) <= 1 for name in alone)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)
