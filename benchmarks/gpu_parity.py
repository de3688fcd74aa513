"""The section `parity` of gpu.py: the same edits on the device and on the processor, with tiny networks.

Noise is drawn on the processor whatever the device, so that fp32 results differ by rounding only. Where a method
decides (which piece is copied), rounding can change what is decided: the share of values that differ by more than 1/255
is given beside the largest difference. Half precision is compared with the device's own fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from gpu import Bench, Jobs, Row

SAMPLERS = (
    "ddpm", "ddim", "ddim:eta=1", "euler", "euler-ancestral", "heun", "dpm++2m", "dpm++2m-sde", "unipc",
)  # fmt: skip


def networks(bench: Bench) -> Path:
    """Tiny Stable Diffusion, XL and 3 with random weights, and a 16-bit photograph."""
    import os

    import diffusers
    import same_bits_models
    import tiny_latent as tiny

    where, before = bench.work / "parity", Path.cwd()
    where.mkdir(exist_ok=True)
    ddim = diffusers.DDIMScheduler.from_config(tiny.SD)
    tiny.save_sd(where / "sd", ddim)
    tiny.save_sd(where / "sd9", ddim, in_channels=9)
    lcm = diffusers.LCMScheduler.from_config(tiny.SD)
    tiny.save_sd(where / "lcm", lcm, time_cond_proj_dim=16)
    same_bits_models.large_models(where, ddim)
    os.chdir(where)
    try:
        same_bits_models.pictures()
    finally:
        os.chdir(before)
    return where


def cases(where: Path) -> dict[str, tuple[Any, Row]]:
    """Plugins and options of each edit."""
    from editkit.plugins import Cfg, Colorize, Guide, Inpaint, Restore, SDEdit, Upscale

    hole = Inpaint(mask="box:20,14,44,34")
    orange = Guide(loss="color", color="#a05030", weight=50)
    red: Row = {"prompt": "a red door", "steps": 6}
    found: dict[str, tuple[Any, Row]] = {
        f"{name}": (SDEdit(strength=0.7), {"model": str(where / "sd"), "sampler": name, **red}) for name in SAMPLERS
    }
    found["lcm"] = (SDEdit(strength=0.7), {"model": str(where / "lcm"), "sampler": "lcm", **red})
    for name in ("pocket", "sd", "sd9", "xl", "sd3"):
        model: Row = {"model": name if name == "pocket" else str(where / name), "steps": 6}
        text = model if name == "pocket" else model | red
        found[f"inpaint, {name}"] = (hole, text)
        if name != "sd9":
            found[f"sdedit, {name}"] = (SDEdit(strength=0.6), text)
            found[f"guide, {name}"] = (hole & orange, text)
        if name != "pocket":
            found[f"cfg, {name}"] = (hole & Cfg(scale=4.0, rescale=0.5), text)
    pocket: Row = {"model": "pocket", "steps": 6}
    found["restore, pocket"] = (Restore(degradation="gaussian:1.5"), pocket)
    found["colorize, pocket"] = (Colorize(), pocket)
    found["upscale, pocket"] = (Upscale(scale=2), pocket)
    for plugin, name in ((hole, "inpaint"), (hole & orange, "guide"), (SDEdit(strength=0.6), "sdedit")):
        found[f"{name}, patches"] = (plugin, {"model": "patches", "steps": 6})
    found["restore, patches"] = (Restore(degradation="gaussian:1.5"), {"model": "patches", "steps": 6})
    return found


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB, of values in [0, 1]; 200 where they are equal."""
    error = float(((a - b) ** 2).mean())
    return 200.0 if error == 0 else -10 * math.log10(error)


def compared(bench: Bench, where: Path, models: Any, plugins: Any, options: Row) -> Row:
    """One edit in every number format of the device."""
    from editkit import edit
    from editkit.plugin.chain import Chain

    @cache
    def made(device: str, dtype: str) -> np.ndarray:
        result = edit(
            str(where / "deep.png"),
            Chain.of(plugins),
            device=device,
            dtype=dtype,
            seed=3,
            offline=True,
            models=models,
            **options,
        )
        values: np.ndarray = result.pixels[..., :3].astype(np.float64) / np.iinfo(result.pixels.dtype).max
        return values

    own = made(bench.device, "fp32")
    apart = np.abs(own - made("cpu", "fp32"))
    row: Row = {"largest": float(apart.max()), "share_over_1_255": float((apart > 1 / 255).mean())}
    for dtype in ("bf16", "fp16") if bench.cuda else ("bf16",):
        half = made(bench.device, dtype)  # what is not finite is an error there
        row[f"{dtype}_psnr"] = psnr(half, own)
    return row


def gaussian(bench: Bench, sampler: str) -> Row:
    """A closed form: samples of an exact Gaussian have its mean and deviation."""
    import torch

    from editkit import sample
    from editkit.models import Gaussian

    mean, deviation = torch.tensor([0.3, -0.5]), 0.4

    def drawn(device: str) -> torch.Tensor:
        model = Gaussian(mean=mean.to(device), covariance=(deviation**2 * torch.eye(2)).to(device))
        found: torch.Tensor = sample(
            model, shape=(2000 if bench.tiny else 20_000, 2), steps=50, sampler=sampler, device=device, seed=1
        )
        return found.cpu()

    own, cpu = drawn(bench.device), drawn("cpu")
    return {
        "largest": float((own - cpu).abs().max()), "mean_error": float((own.mean(0) - mean).abs().max()),
        "deviation_error": float((own.std(0) - deviation).abs().max()),
    }  # fmt: skip


def batch(bench: Bench) -> Row:
    """A batch of training, drawn on the device and on the processor."""
    import torch

    from editkit.training.prior import PriorLesson
    from editkit.training.settings import PriorSettings

    def drawn(device: str) -> dict[str, torch.Tensor]:
        settings = PriorSettings(images=bench.photos, output=bench.work / "none", batch=64, device=device)
        found = PriorLesson(settings).draw(3)
        return {name: value.cpu().double() for name, value in vars(found).items() if value is not None}

    own, cpu = drawn(bench.device.split(":")[0]), drawn("cpu")
    row: Row = {f"largest_{name}": float((own[name] - cpu[name]).abs().max()) for name in own}
    row["share_of_masks"] = float((own["mask"] != cpu["mask"]).double().mean())
    return row


def jobs(bench: Bench) -> Jobs:
    from editkit.models.leasing import Models

    where, models = networks(bench), Models(most=40)
    found = cases(where)
    if bench.tiny:
        kept = ("ddim", "lcm", "inpaint, pocket", "cfg, sd9", "guide, xl", "sdedit, sd3", "inpaint, patches")
        found = {name: found[name] for name in kept}
    yield "a training batch", partial(batch, bench)
    for name, (plugins, options) in found.items():
        job: Callable[[], Row] = partial(compared, bench, where, models, plugins, options)
        yield name, job
    for sampler in ("ddim",) if bench.tiny else SAMPLERS:
        yield f"gaussian, {sampler}", partial(gaussian, bench, sampler)
