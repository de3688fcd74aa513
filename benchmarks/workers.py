"""Whether a batch's bytes depend on its workers and threads: 1, 2 and 3 workers by 1, 2 and 4 threads each.

    python benchmarks/workers.py

Three pictures of 64x64 by `patches` (inpaint), and by `pocket` and a tiny Stable Diffusion with random weights (sdedit)
in fp32 and bf16. A row for each run says how many bytes differ from one worker with one thread, and by how much.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import tiny_latent


def pictures(folder: Path) -> None:
    """Three striped ones."""
    folder.mkdir()
    y, x = np.mgrid[0:64, 0:64]
    for k in range(3):
        stripes = [128 + 90 * np.sin(x / (9 + k)), 128 + 90 * np.cos(y / (7 + k)), 2 * (x + y + 9 * k) % 256]
        Image.fromarray(np.stack(stripes, -1).astype(np.uint8)).save(folder / f"{k}.png")


def made(given: Path, out: Path, words: list[str], workers: int, threads: int) -> np.ndarray:
    """The results of one batch, (3, 64, 64, 3)."""
    command = [sys.executable, "-m", "editkit", "batch", str(given), str(out), "--workers", str(workers), "--", *words]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([*command, "--steps", "3"], env=env, check=True, capture_output=True)
    return np.stack([np.asarray(Image.open(out / f"{k}.png")).astype(int) for k in range(3)])


def main() -> None:
    """Print the table."""
    import diffusers

    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        pictures(here / "in")
        sd = str(tiny_latent.save_sd(here / "sd", diffusers.DDIMScheduler.from_config(tiny_latent.SD)))
        kinds = {"patches": ["inpaint", "--mask", "ellipse:25,25,45,45", "--model", "patches"]}
        for name, model in (("pocket", "pocket"), ("tiny SD", sd)):
            for dtype in ("fp32", "bf16"):
                kinds[f"{name} {dtype}"] = ["sdedit", "--strength", "0.7", "--model", model, "--dtype", dtype]
        for name, words in kinds.items():
            first: np.ndarray | None = None
            for workers in (1, 2, 3):
                for threads in (1, 2, 4):
                    got = made(here / "in", here / f"{name} {workers} {threads}", words, workers, threads)
                    first = got if first is None else first
                    off = np.abs(got - first)
                    print(f"{name}, workers {workers}, threads {threads}: {(off > 0).sum()} differ, by {off.max()}")


if __name__ == "__main__":
    main()
