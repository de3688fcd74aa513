"""Memory and seams of a large result: 4096 x 4096 by windows.

    python benchmarks/large.py --photo ../shared/photos/NAME.jpg                     # upscale x2 by pocket
    python benchmarks/large.py --photo NAME.jpg --task colorize --side 2048
    python benchmarks/large.py --photo NAME.jpg --side 1024 --overlap 0              # does the measure see a seam?
    python benchmarks/large.py --model exact --task jpeg --side 1024                 # how many states a method holds

The photograph, mirrored until it is large enough, is what the edit is given. Memory is the peak of the process (VmHWM)
above what it held with the model loaded and used once on a small picture, also in states (of the result's size, three
float32 a pixel).

Seams: for every line where a window begins or ends, the mean step across it, |x(k) - x(k-1)| over the whole line, less
the same beside it (2, 4, 6 and 8 pixels away: the same parity, since the network works on 2 x 2 pixels; lines that are
themselves a window's are left out). Said with its standard error over all lines, in levels of 255 and relative to the
mean step; alike for bends, |x(k+1) - 2 x(k) + x(k-1)|. Without a seam both are 0 but for chance, or for what the
picture itself has at these lines: the same of the picture resized, without windows, is said beside. `--overlap 0` lays
windows side by side: what the measure says where there are seams.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from editkit import edit
from editkit.common.device import pick_device, pick_dtype
from editkit.diffusion.capability import capability
from editkit.diffusion.model import Model
from editkit.diffusion.windows import Windowed, window_starts
from editkit.editing.contract import ExactModel
from editkit.models import describe, load
from editkit.pictures.picture import Picture
from editkit.plugin import Plugin
from editkit.plugins import Colorize, Denoise, Purify, Restore, Upscale

TASKS: dict[str, tuple[Plugin, int]] = {
    "upscale": (Upscale(scale=2), 2),
    "colorize": (Colorize(), 1),
    "denoise": (Denoise(sigma=10), 1),
    "blur": (Restore(degradation="gaussian:1.5"), 1),
    "average": (Restore(degradation="average:2"), 2),
    "noise": (Restore(degradation="noise", sigma=10), 1),
    "jpeg": (Restore(degradation="jpeg:30"), 1),
    "purify": (Purify(sigma=20), 1),
}
"""The edit, and how many times as large it makes a picture."""

WINDOW = 64

SHRINK = 0.79


def memory(what: str) -> float:
    """VmRSS or VmHWM of this process in GiB."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 2**20


def mirrored(path: Path | None, side: int) -> np.ndarray:
    """The photograph, continued by mirroring to side x side; without one, waves and noise."""
    if path is None:
        y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
        waves = np.stack([128 + 60 * np.sin(90 * x), 128 + 60 * np.cos(70 * y), 40 + 160 * x * y], -1)
        return (waves + np.random.default_rng(0).normal(0, 8, waves.shape)).clip(0, 255).astype(np.uint8)
    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
        fewer = [round(SHRINK * n) for n in upright.size]  # or JPEG's blocks of 8 would lie where windows do
        pixels = np.asarray(upright.resize(fewer, Image.Resampling.LANCZOS))[:side, :side]
    after = [(0, side - n) for n in pixels.shape[:2]]
    return np.pad(pixels, [*after, (0, 0)], mode="symmetric")


def seams(picture: np.ndarray, lines: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """{measure: (mean excess at the lines, its standard error, the mean beside them)} of both directions."""
    found: dict[str, list[tuple[float, float]]] = {"step": [], "bend": []}
    for image in (picture, picture.transpose(1, 0, 2)):
        grey = image.astype(np.float32).mean(-1)
        step, bend = np.full(len(grey), np.nan), np.full(len(grey), np.nan)
        for k in range(1, len(grey)):  # line by line: no copies of the whole
            step[k] = np.abs(grey[:, k] - grey[:, k - 1]).mean()
            if k + 1 < len(grey):
                bend[k] = np.abs(grey[:, k + 1] - 2 * grey[:, k] + grey[:, k - 1]).mean()
        for name, values in (("step", step), ("bend", bend)):
            for k in lines:
                near = [k + d for d in (-8, -6, -4, -2, 2, 4, 6, 8)]
                beside = np.array([values[j] for j in near if 1 <= j < len(values) - 1 and j not in lines])
                found[name].append((float(values[k] - beside.mean()), float(beside.mean())))
    told = {}
    for name, pairs in found.items():
        excess, beside = np.array(pairs).T
        told[name] = float(excess.mean()), float(excess.std(ddof=1) / len(excess) ** 0.5), float(beside.mean())
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--task", choices=list(TASKS), default="upscale")
    parser.add_argument("--method", default="auto", help="how the task is solved")
    parser.add_argument("--model", default="pocket", help="or `exact`: a Gaussian without weights")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--overlap", type=int, default=16)
    parser.add_argument("--save", type=Path, help="a crop of 512 x 512 of the result")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    plugin, scale = TASKS[chosen.task]
    if chosen.method != "auto":
        plugin = type(plugin)(**{**plugin.model_dump(), "method": chosen.method})
    inner: Model = ExactModel()
    if chosen.model != "exact":
        device = pick_device("cpu")
        inner = load(describe(chosen.model), device, pick_dtype("auto", device))
        windows = capability(inner, Windowed)
        inner = inner if windows is None else windows.wrapped
    model = Windowed(inner, WINDOW, chosen.overlap)
    given = mirrored(chosen.photo, chosen.side // scale)
    edit(given[:128, :128], plugin, model=model, steps=1)
    before, began = memory("VmRSS"), time.process_time()
    result = edit(given, plugin, model=model, steps=chosen.steps, notify=print).pixels
    peak = memory("VmHWM") - before
    print(
        f"{chosen.task} to {chosen.side}x{chosen.side} by {chosen.model}, {chosen.steps} steps: {peak:.2f} GiB "
        f"({peak * 1.073741824:.2f} GB, {peak * 2**30 / (12 * chosen.side**2):.1f} states) above the {before:.2f} GiB "
        "before, "
        f"{time.process_time() - began:.0f} processor seconds"
    )
    begins = np.array(window_starts(chosen.side, WINDOW, chosen.overlap))
    lines = np.unique(np.concatenate([begins, begins + WINDOW]))
    lines = lines[(lines > 0) & (lines < chosen.side)]
    for what, picture in (("the result", result), ("bicubic", Picture(given).resized(*result.shape[1::-1]).pixels)):
        for name, (excess, error, beside) in seams(picture, lines).items():
            print(
                f"{what}: {name} at window borders less beside them: {excess:+.4f} +- {error:.4f} levels "
                f"({100 * excess / beside:+.2f} % +- {100 * error / beside:.2f} % of {beside:.2f})"
            )
    if chosen.save is not None:
        Image.fromarray(result[:512, :512]).save(chosen.save)


if __name__ == "__main__":
    main()
