"""A denoiser's call by torch and by OpenVINO, alternating in one process: Stable Diffusion 1.5's UNet, random weights.

    python benchmarks/backends.py --dtype fp32          # 14 GB of memory, 3.4 of disk
    python benchmarks/backends.py --dtype bf16
    python benchmarks/backends.py --network pocket      # the embedded network, in windows of 64 pixels
    python benchmarks/backends.py --tiny                # a check that it runs

`torch` is the network as an edit has it: packed convolutions, fused gates, steady norms. Medians in seconds, on the
wall and of all processors (beside other programs only the latter says much), the seconds of converting and compiling,
what is kept on disk, and how near each is to the same network in fp32 by plain torch, in dB of the largest value.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def stable_diffusion(tiny: bool, side: int, batch: int) -> tuple[Callable[[], Any], dict[str, Any]]:
    """(makes the UNet, what it is called with besides its first input)."""
    from diffusers import UNet2DConditionModel

    small = {"block_out_channels": (32, 64), "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    small |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "norm_num_groups": 8, "layers_per_block": 1}
    config = {"sample_size": 64, "cross_attention_dim": 768, **(small if tiny else {})}
    words = torch.randn(batch, 77, 768)
    given = {"sample": torch.randn(batch, 4, side, side), "timestep": torch.full((batch,), 500.0)}
    return lambda: UNet2DConditionModel(**config), {**given, "encoder_hidden_states": words, "return_dict": False}


def pocket(side: int, batch: int) -> tuple[Callable[[], Any], dict[str, Any]]:
    from editkit.models import describe, load

    def make() -> Any:
        model: Any = load(describe("pocket"), torch.device("cpu"), torch.float32)
        return model.wrapped.unet

    label = torch.ones(batch, dtype=torch.long)
    return make, {"x": torch.randn(batch, 28, side, side), "t": torch.full((batch,), 500.0), "label": label}


def as_an_edit_has_it(network: Any, dtype: torch.dtype) -> Any:
    return quickened(network.to(dtype, memory_format=torch.channels_last).eval().requires_grad_(False))


def quickened(network: Any) -> Any:
    from editkit.models.fast.blocks import replace_blocks
    from editkit.models.fast.norms import use_steady_norms
    from editkit.models.fast.packing import pack

    network = pack(use_steady_norms(network))
    return replace_blocks(network) if hasattr(network, "attn_processors") else network


def decibel(found: Tensor, expected: Tensor) -> float:
    """Of the largest value of `expected`."""
    error = float((found.float() - expected).square().mean())
    return 10 * math.log10(float(expected.abs().max()) ** 2 / error) if error else math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=["sd15", "pocket"], default="sd15")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument(
        "--side", type=int, help="latents or windows a side; default 64, for pocket 32 (its unshuffled)"
    )
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as cache, torch.inference_mode():
        os.environ["XDG_CACHE_HOME"] = cache
        if chosen.network == "pocket":
            make, call = pocket(chosen.side or 32, chosen.batch)
        else:
            make, call = stable_diffusion(chosen.tiny, 16 if chosen.tiny else chosen.side or 64, chosen.batch)
        compare(make, call, DTYPES[chosen.dtype], chosen.repeats, Path(cache))


def compare(make: Callable[[], Any], call: dict[str, Any], dtype: torch.dtype, repeats: int, cache: Path) -> None:
    from editkit.models.fast.converted import OpenVINONetwork, PlainRebuild

    def given(kind: torch.dtype) -> dict[str, Any]:
        floats = ("sample", "encoder_hidden_states", "x")
        return {name: value.to(kind) if name in floats else value for name, value in call.items()}

    def first(out: Any) -> Tensor:
        made: Tensor = out[0] if isinstance(out, tuple) else out
        return made

    with torch.inference_mode(False):
        plain = make().eval().requires_grad_(False)
    parameters = sum(p.numel() for p in plain.parameters())
    expected = first(plain(**given(torch.float32)))
    with torch.inference_mode(False):
        network = as_an_edit_has_it(plain, dtype)
        began = time.perf_counter(), time.process_time()
        converted = OpenVINONetwork(network, PlainRebuild(network, ""), "network")
    by_openvino = first(converted(**given(dtype)))
    took = time.perf_counter() - began[0], time.process_time() - began[1]
    by_torch = first(network(**given(dtype)))
    kept = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    threads = torch.get_num_threads()
    print(f"{parameters / 1e6:.0f} M parameters, {dtype}, {threads} threads, {tuple(expected.shape)}")
    print(f"OpenVINO's first call: {took[0]:.1f} s, {took[1]:.1f} of processors; kept {kept / 1e9:.2f} GB")
    print(f"to fp32: torch {decibel(by_torch, expected):.1f} dB, OpenVINO {decibel(by_openvino, expected):.1f} dB")
    alternate({"torch": network, "OpenVINO": converted}, given(dtype), repeats)


def alternate(ways: dict[str, Any], given: dict[str, Any], repeats: int) -> None:
    """Ask each `repeats` times, in turn, and print how long it took."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            wall, processor = time.perf_counter(), time.process_time()
            way(**given)
            found[name].append((time.perf_counter() - wall, time.process_time() - processor))
    middle = {name: [statistics.median(column) for column in zip(*times, strict=True)] for name, times in found.items()}
    for name, (wall, processor) in middle.items():
        each = ", ".join(f"{seconds:.2f}" for _, seconds in found[name])
        print(f"{name}: {wall:.2f} s, {processor:.2f} processor seconds ({each})")
    for name in middle.keys() - {"torch"}:
        ratios = [theirs / ours for theirs, ours in zip(middle["torch"], middle[name], strict=True)]
        print(f"{name} is {ratios[0]:.2f} times as fast on the wall, {ratios[1]:.2f} by processor seconds")
    print(f"{os.getloadavg()[0]:.1f} processes wanted the machine's {os.cpu_count()} cores in the last minute")


if __name__ == "__main__":
    main()
