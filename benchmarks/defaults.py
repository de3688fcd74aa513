"""What each command does when nothing is set, against what went in and a simple tool.

    python benchmarks/defaults.py --photos ../shared/photos
    python benchmarks/defaults.py --photos ../shared/photos --count 8 --tasks upscale,denoise

The first `--count` photographs of assets/pocket/heldout.txt (never trained on), reduced to `--side` pixels on the
longer side, spoiled as the task says (8 bits, a file where the task is about files), and mended by the command without
any option but what says what happened to it. PSNR in dB against the truth, mean over photographs, and on how many the
default is the nearest of the row. Seconds are of this machine, one edit each after a first one, to be compared within
one run only.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from scipy.signal import wiener

from editkit import edit
from editkit.models.leasing import Models
from editkit.plugin import Plugin
from editkit.plugins import Denoise, Restore, Upscale
from editkit_plugins.restoring.named import parse

ROOT = Path(__file__).resolve().parent.parent
Array = np.ndarray
Tool = Callable[[Array], Array]


@dataclass(frozen=True)
class Task:
    """What happens to a picture (H, W, 3) of uint8, the edit that mends it, and a simple tool for the same."""

    spoil: Callable[[Array, np.random.Generator], Any]
    mend: Plugin
    tool: str
    simple: Callable[[Array, Array], Array]
    margin: int = 0
    """Pixels cut off all round after it was spoiled: what lies beyond a lens's edge is not known."""


def psnr(x: Array, truth: Array) -> float:
    return float(10.0 * np.log10(255.0**2 / np.square(x.astype(float) - truth).mean()))


def rounded(x: Array) -> Array:
    return np.clip(np.round(x), 0, 255).astype(np.uint8)


def smaller(k: int) -> Callable[[Array, np.random.Generator], Array]:
    return lambda x, _: np.asarray(
        Image.fromarray(x).resize((x.shape[1] // k, x.shape[0] // k), Image.Resampling.BICUBIC)
    )


def lanczos(x: Array, truth: Array) -> Array:
    return np.asarray(Image.fromarray(x).resize(truth.shape[1::-1], Image.Resampling.LANCZOS))


def white(sigma: float) -> Callable[[Array, np.random.Generator], Array]:
    return lambda x, rng: rounded(x + rng.normal(0.0, sigma, x.shape))


def high_iso(x: Array, rng: np.random.Generator) -> Image.Image:
    """A sensor's noise: Poisson and read noise in linear light, its colour correlated, and a JPEG of 90."""
    linear = (x / 255.0) ** 2.2
    photons = 150.0
    noise = rng.normal(0.0, 1.0, x.shape) * np.sqrt(linear / photons + 0.02**2)
    grey = noise.mean(-1, keepdims=True)
    noise = grey + 1.4 * cv2.GaussianBlur(noise - grey, (0, 0), 0.8)
    file = io.BytesIO()
    made = 255.0 * np.clip(linear + noise, 0.0, 1.0) ** (1 / 2.2)
    Image.fromarray(rounded(made)).save(file, "JPEG", quality=90)
    return Image.open(file)


def jpeg(quality: int) -> Callable[[Array, np.random.Generator], Image.Image]:
    def spoil(x: Array, _: np.random.Generator) -> Image.Image:
        file = io.BytesIO()
        Image.fromarray(x).save(file, "JPEG", quality=quality)
        return Image.open(file)

    return spoil


def blurred(name: str) -> Callable[[Array, np.random.Generator], Array]:
    kernel = parse(name).kernel().numpy()
    return lambda x, _: rounded(cv2.filter2D(x.astype(np.float32), -1, kernel, borderType=cv2.BORDER_REFLECT))


def wiener_by(name: str) -> Callable[[Array, Array], Array]:
    """The classical filter, conj(k) / (|k|^2 + 0.003), on the picture mirrored at its edges."""
    kernel = parse(name).kernel().numpy()
    pad = max(kernel.shape)

    def simple(x: Array, _: Array) -> Array:
        wide = np.pad(x.astype(float), ((pad, pad), (pad, pad), (0, 0)), "reflect")
        k = np.zeros(wide.shape[:2])
        k[: kernel.shape[0], : kernel.shape[1]] = kernel
        k = np.fft.fft2(np.roll(k, [-(n // 2) for n in kernel.shape], (0, 1)))[..., None]
        made = np.fft.ifft2(np.conj(k) * np.fft.fft2(wide, axes=(0, 1)) / (np.abs(k) ** 2 + 3e-3), axes=(0, 1)).real
        return rounded(made[pad:-pad, pad:-pad])

    return simple


def non_local(x: Array, _: Array) -> Array:
    return cv2.fastNlMeansDenoisingColored(np.ascontiguousarray(x[..., ::-1]), None, 10, 10)[..., ::-1]


def local(x: Array, _: Array) -> Array:
    return rounded(np.stack([wiener(x[..., c].astype(float), 5) for c in range(3)], -1))


LOST = (np.random.default_rng(0).random((2048, 2048)) < 0.5).astype(np.uint8) * 255


def lose(x: Array, _: np.random.Generator) -> Array:
    return np.where(LOST[: x.shape[0], : x.shape[1], None] > 0, 0, x).astype(np.uint8)


def telea(x: Array, _: Array) -> Array:
    return cv2.inpaint(x, LOST[: x.shape[0], : x.shape[1]], 3, cv2.INPAINT_TELEA)


def mend_lost(shape: tuple[int, ...]) -> Plugin:
    return Restore(degradation="mask", mask=LOST[: shape[0], : shape[1]])


TASKS: dict[str, Task] = {
    "upscale x2": Task(smaller(2), Upscale(), "Lanczos", lanczos),
    "upscale x4": Task(smaller(4), Upscale(scale=4), "Lanczos", lanczos),
    "denoise, white 15": Task(white(15), Denoise(), "NLM", non_local),
    "denoise, high ISO": Task(high_iso, Denoise(), "NLM", non_local),
    "jpeg 15": Task(jpeg(15), Restore(degradation="jpeg"), "Wiener 5x5", local),
    "jpeg 50": Task(jpeg(50), Restore(degradation="jpeg"), "Wiener 5x5", local),
    "blur 2": Task(blurred("gaussian:2"), Restore(degradation="gaussian:2"), "Wiener", wiener_by("gaussian:2"), 16),
    "motion 13": Task(
        blurred("motion:13,25"), Restore(degradation="motion:13,25"), "Wiener", wiener_by("motion:13,25"), 16
    ),
    "half of the pixels": Task(lose, Restore(degradation="mask", mask=LOST), "Telea", telea),
}


def photographs(folder: Path, count: int, side: int) -> Iterator[tuple[str, Array]]:
    names = (ROOT / "assets/pocket/heldout.txt").read_text().split("\n")
    for name in [name for name in names if name and (folder / name).exists()][:count]:
        picture = Image.open(folder / name).convert("RGB")
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        width, height = (n // 4 * 4 for n in picture.size)
        yield name, np.asarray(picture.crop((0, 0, width, height)))


def measured(task: Task, photos: list[tuple[str, Array]], models: Models) -> dict[str, Any]:
    """One row: PSNR of what went in, of the default, of the simple tool; seconds."""
    rows = []
    for k, (_, truth) in enumerate(photos):
        spoiled = task.spoil(truth, np.random.default_rng(k))
        if task.margin:
            inner = slice(task.margin, -task.margin)
            spoiled, truth = spoiled[inner, inner], truth[inner, inner]
        seen = np.asarray(spoiled if isinstance(spoiled, np.ndarray) else spoiled.convert("RGB"))
        mend = mend_lost(truth.shape) if task.simple is telea else task.mend
        if k == 0:
            edit(spoiled, mend, models=models)
        began = time.perf_counter()
        made = edit(spoiled, mend, models=models).pixels
        seconds = time.perf_counter() - began
        before = psnr(seen if seen.shape == truth.shape else np.asarray(lanczos(seen, truth)), truth)
        rows.append((before, psnr(made, truth), psnr(task.simple(seen, truth), truth), seconds))
    table = np.array(rows)
    best = int((table[:, 1] >= table[:, [0, 2]].max(1)).sum())
    before, default, simple, seconds = table.mean(0)
    return {
        "in": round(before, 2), "default": round(default, 2), "simple": round(simple, 2), "tool": task.tool,
        "nearest": f"{best} of {len(rows)}", "seconds": round(seconds, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--tasks", default="", help="words that a task's name begins with, with commas between")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    photos = list(photographs(given.photos, given.count, given.side))
    if not photos:
        sys.exit(f"{given.photos} has none of the photographs of assets/pocket/heldout.txt")
    chosen = {name: task for name, task in TASKS.items() if name.startswith(tuple(given.tasks.split(",")))}
    table, models = {}, Models()
    print("| task | in | default | simple tool | nearest | s |\n|---|---|---|---|---|---|")
    for name, task in chosen.items():
        row = table[name] = measured(task, photos, models)
        simple = f"{row['simple']} ({row['tool']})"
        print(
            f"| {name} | {row['in']} | {row['default']} | {simple} | {row['nearest']} | {row['seconds']} |", flush=True
        )
    if given.json:
        given.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
