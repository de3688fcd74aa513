"""Memory of a large upscaling: the peak above what the process held before, by overlapping windows of 64.

    python benchmarks/large.py --side 4096

The denoiser is a stand-in without weights (an exact Gaussian), so that what is measured is editkit's own: windows,
blending, projection, sampler, the picture. Seams: the mean step across window borders over that beside them.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from editkit import edit
from editkit.contract import ExactModel
from editkit.plugins import Upscale
from editkit.windows import Windowed, starts


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    n = chosen.side // chosen.scale
    y, x = np.mgrid[0:n, 0:n].astype(np.float32) / n
    small = np.stack([128 + 90 * np.sin(9 * x), 128 + 90 * np.cos(7 * y), 255 * x * y], -1).astype(np.uint8)
    model = Windowed(ExactModel(), 64, 16)
    before, began = peak(), time.process_time()
    result = edit(small, Upscale(scale=chosen.scale), model=model, steps=chosen.steps, notify=print).pixels
    print(f"{chosen.side}x{chosen.side}: {peak() - before:.2f} GiB above the {before:.2f} GiB before, "
          f"{time.process_time() - began:.0f} processor seconds")  # fmt: skip
    steps = np.abs(np.diff(result.astype(np.float32).mean(-1), axis=1)).mean(0)
    borders = np.array([b for b in starts(chosen.side, 64, 16) if b > 0])
    ratio = steps[borders - 1].mean() / np.delete(steps, borders - 1).mean()
    print(f"step across window borders / elsewhere: {ratio:.3f}")


if __name__ == "__main__":
    main()
