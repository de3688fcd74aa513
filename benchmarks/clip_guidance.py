"""CLIP guidance where the answer can be seen without a network: drawn shapes with captions (`shapes.py`).

Trains, once, in minutes on the processor: a small unconditional model of the pictures, a small open_clip model of
pictures and captions, and a noise-aware one. Then guides samples towards each of the twelve captions and prints how
many OpenCV recognises as that colour and that shape. Also: the same seed gives the same bytes, and memory against
cut-outs.

    python benchmarks/clip_guidance.py [--folder DIR] [--each 10] [--sheet FILE.png]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from measure import CACHE
from shapes import CAPTIONS, LOG_SNR, recognised_all, train_clip, train_shapes_prior

from editkit import sample
from editkit.models import describe, load
from editkit.plugins import Clip

STEPS, SAMPLER, SPACING = 30, "ddpm", "leading"
CPU = torch.device("cpu")


def prepared(folder: Path) -> None:
    """Train what `folder` does not hold."""
    if not (folder / "clip" / "open_clip_model.safetensors").exists():
        train_clip(folder / "clip", 1000)
    if not (folder / "prior" / "config.json").exists():
        train_shapes_prior(folder / "prior", 5000)
    if not (folder / "clip-noisy" / "open_clip_model.safetensors").exists():
        train_clip(folder / "clip-noisy", 1000, LOG_SNR)


def run(folder: Path, each: int, settings: dict[str, object] | None) -> tuple[float, float, float, torch.Tensor]:
    """(caption right, colour right, shape right, samples) of guidance towards every caption; None: no guidance."""
    model = load(describe(str(folder / "prior")), CPU, torch.float32)
    both = colour = shape = 0
    shown = []
    for k, caption in enumerate(CAPTIONS):
        plugins = [] if settings is None else [Clip(text=(caption,), **settings)]
        x = sample(model, plugins, shape=(each, 3, 16, 16), sampler=SAMPLER, steps=STEPS, spacing=SPACING, seed=k)
        shown.append(x[:3])
        for found in recognised_all(x):
            both += found == caption
            colour += found.split()[1:2] == caption.split()[1:2]
            shape += found.split()[2:] == caption.split()[2:]
    n = each * len(CAPTIONS)
    return both / n, colour / n, shape / n, torch.cat(shown)


def peak(folder: Path, cuts: int) -> float:
    """Peak MiB of a process that makes a guided sample with so many cut-outs."""
    command = [sys.executable, __file__, "--folder", str(folder), "--one", str(cuts)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=CACHE / "shapes", help="where the trained networks are kept")
    parser.add_argument("--each", type=int, default=10, help="samples a caption")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    prepared(given.folder)
    clean, noisy = str(given.folder / "clip"), str(given.folder / "clip-noisy")
    if given.one is not None:
        model = load(describe(str(given.folder / "prior")), CPU, torch.float32)
        wish = Clip(text=(CAPTIONS[0],), clip_model=clean, cuts=given.one, chunk=8)
        sample(model, wish, shape=(1, 3, 16, 16), sampler=SAMPLER, steps=3)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    began = time.process_time()
    print(f"{SAMPLER}, {STEPS} steps, {given.each} samples a caption, 12 captions (chance 1/12 = 0.083)")
    print("guidance: caption right, colour right, shape right")
    rows = {
        "none": None,
        "clean model, through the network": {"clip_model": clean, "cuts": 0, "scale": 60.0},
        "clean model, on x0": {"clip_model": clean, "cuts": 0, "scale": 60.0, "gradient": "x0"},
        "noise-aware model, on x_t": {"clip_model": noisy, "scale": 60.0},
    }
    sheets = []
    for name, settings in rows.items():
        both, colour, shape, shown = run(given.folder, given.each, settings)
        sheets.append(shown)
        print(f"{name}: {both:.3f} {colour:.3f} {shape:.3f}", flush=True)
    few, many = (peak(given.folder, cuts) for cuts in (8, 256))
    print(f"peak memory: {few:.0f} MiB with 8 cut-outs, {many:.0f} MiB with 256")
    print(f"{time.process_time() - began:.0f} processor seconds")
    if given.sheet:
        from PIL import Image

        page = torch.cat([torch.cat(list(x), 2) for x in sheets], 1).clamp(-1.0, 1.0)
        pixels = ((page + 1.0) * 127.5).round().byte().permute(1, 2, 0).numpy()
        size = (pixels.shape[1] * 2, pixels.shape[0] * 2)
        Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(given.sheet)


if __name__ == "__main__":
    main()
