"""A scene from the views of an object, by score distillation, and how near its other views come.

python examples/scene/dream.py --seeds 0,1,2 --sheet docs/scene/snowman.png
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import cv2
import numpy as np
import torch
from scene import Scene, Views, empty, snowman
from torch import Tensor, nn

from editkit import distill
from editkit.plugin import Conditioning


class Turning(nn.Module):
    """The scene from the view of step k."""

    def __init__(self, scene: Scene, angles: list[float], order: list[int]) -> None:
        super().__init__()
        self.scene, self.angles, self.order = scene, angles, order

    def forward(self, k: int) -> Tensor:
        return self.scene.view(self.angles[self.order[k]])


def round_about(n: int, shift: float = 0.0) -> list[float]:
    """n angles, evenly; `shift` of a step further."""
    return [2.0 * math.pi * (k + shift) / n for k in range(n)]


def dreamt(truth: Scene, grid: int, steps: int, seed: int, n: int = 32) -> Scene:
    """What score distillation makes of fog, each step from one of n views."""
    angles = round_about(n)
    with torch.no_grad():
        prior = Views(torch.cat([truth.view(angle) for angle in angles]), angles)
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(n) for _ in range(steps // n + 1)]).tolist()
    scene = Turning(empty(grid, truth.side, seed), angles, order)
    distill(
        prior, scene, steps=steps, seed=seed, rate=0.05, weight="even",
        told=lambda k: Conditioning(label=torch.tensor([order[k]])),
    )  # fmt: skip
    return scene.scene


def psnr(a: Tensor, b: Tensor) -> float:
    """dB, of pictures in [-1, 1]."""
    return 10.0 * math.log10(4.0 / float((a - b).square().mean()))


@torch.no_grad()
def judged(scene: Scene, truth: Scene, n: int = 32) -> dict[str, float]:
    """PSNR of views that no step has seen, half-way between the prior's; of the mean view; of the nearest one."""
    known = torch.cat([truth.view(angle) for angle in round_about(n)])
    held = [(truth.view(angle), scene.view(angle)) for angle in round_about(n, 0.5)]
    average = known.mean(0, keepdim=True)
    return {
        "held-out views": sum(psnr(found, wanted) for wanted, found in held) / n,
        "worst of them": min(psnr(found, wanted) for wanted, found in held),
        "mean view": sum(psnr(average, wanted) for wanted, _ in held) / n,
        "nearest view": sum(psnr(known[k : k + 1], wanted) for k, (wanted, _) in enumerate(held)) / n,
    }


@torch.no_grad()
def sheet(scene: Scene, truth: Scene, n: int = 32) -> np.ndarray:
    """(h, w, 3) uint8, RGB: eight held-out views, the truth's above, evenly round; none chosen."""
    angles = round_about(n, 0.5)[:: n // 8]
    rows = [torch.cat([one.view(angle)[0] for angle in angles], 2) for one in (truth, scene)]
    whole = ((torch.cat(rows, 1) + 1.0) * 127.5).clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
    return whole.repeat(2, 0).repeat(2, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--grid", type=int, default=32)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--sheet", type=Path, help="a picture of the first seed's scene beside the truth")
    words = parser.parse_args()
    truth = snowman(side=words.side)
    for k, seed in enumerate(int(word) for word in words.seeds.split(",")):
        scene = dreamt(truth, words.grid, words.steps, seed)
        print(json.dumps({"seed": seed, **{name: round(v, 2) for name, v in judged(scene, truth).items()}}), flush=True)
        if words.sheet is not None and k == 0:
            words.sheet.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(words.sheet), sheet(scene, truth)[..., ::-1])


if __name__ == "__main__":
    main()
