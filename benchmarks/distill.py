"""Score distillation through two generators: a picture of 64x64, and a small network of coordinates.

    python benchmarks/distill.py --seeds 0,1,2

The prior is a mixture of Gaussians round crops of the photographs in assets/, in closed form, so what should come is
known: one of the crops. A seed's figures are dB from the crop that is nearest to what came. The scene is
examples/scene/dream.py. docs/distill.md has the figures.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editkit import distill
from editkit.plugin import Conditioning, Cosine, Level, ModelInfo, Picture, PixelSpace, Prediction

ASSETS = Path(__file__).parents[1] / "assets" / "photos"
SIDE = 64


class Crops(PixelSpace):
    """sum_k N(crop_k, std^2 I) / K, exact."""

    clip = None

    def __init__(self, crops: Tensor, std: float = 0.02) -> None:
        self.info, self.schedule = ModelInfo("crops", "exact mixture"), Cosine()
        self.crops, self.std = crops, std

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        variance = level.alpha**2 * self.std**2 + level.sigma**2
        apart = (x_t[:, None] - level.alpha * self.crops).flatten(2).square().sum(2)
        mean = torch.einsum("bk,k...->b...", (-0.5 * apart / variance).softmax(1), self.crops)
        x0 = mean + level.alpha * self.std**2 / variance * (x_t - level.alpha * mean)
        return (Prediction(x0, (x_t - level.alpha * x0) / max(level.sigma, 1e-12)),) * len(conds)

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Crops:
        return self


class Pixels(nn.Module):
    """The identity generator: its parameters are the picture."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.x = nn.Parameter(0.3 * torch.randn(1, 3, SIDE, SIDE, generator=g))

    def forward(self, k: int) -> Tensor:
        return self.x


class Coordinates(nn.Module):
    """Fourier features of (x, y) (Tancik et al. 2020) and three layers: 54,000 parameters for 12,288 values."""

    def __init__(self, seed: int, width: int = 128) -> None:
        super().__init__()
        torch.manual_seed(seed)
        at = (torch.arange(SIDE) + 0.5) / SIDE * 2.0 - 1.0
        grid = torch.stack(torch.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)
        angles = 2.0 * math.pi * grid @ (4.0 * torch.randn(2, width))
        self.register_buffer("features", torch.cat([angles.sin(), angles.cos()], 1))
        layers = [nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3)]
        self.layers = nn.Sequential(*layers)

    def forward(self, k: int) -> Tensor:
        return self.layers(self.features).T.reshape(1, 3, SIDE, SIDE)


def crops() -> Tensor:
    """(K, 3, 64, 64) in [-1, 1]: the middle of every photograph, as much as fits a square, made small."""
    found = []
    for path in sorted(ASSETS.glob("*.jpg")):
        x = torch.tensor(Picture.read(path).pixels).permute(2, 0, 1)[None].float() / 127.5 - 1.0
        side = min(x.shape[-2:])
        top, left = (x.shape[-2] - side) // 2, (x.shape[-1] - side) // 2
        square = x[..., top : top + side, left : left + side]
        found.append(F.interpolate(square, (SIDE, SIDE), mode="area"))
    return torch.cat(found)


def figure(made: Tensor, known: Tensor) -> float:
    """dB from the nearest of the crops."""
    return max(10.0 * math.log10(4.0 / float((made - crop).square().mean())) for crop in known)


GENERATORS: dict[str, tuple[Callable[[int], nn.Module], float]] = {
    "pixels": (Pixels, 0.02),
    "coordinates": (Coordinates, 0.002),
}
"""Name -> (its module, made of a seed; the learning rate)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=500)
    words = parser.parse_args()
    known = crops()
    mean = known.mean(0, keepdim=True)
    print(f"{len(known)} crops; their mean picture: {figure(mean, known):.2f} dB from the nearest")
    print("| generator | order of the levels | seed | dB | seconds |\n|---|---|---|---|---|")
    for name, (make, rate) in GENERATORS.items():
        for order in ("annealed", "random"):
            for seed in map(int, words.seeds.split(",")):
                began = time.perf_counter()
                generator = make(seed)
                distill(Crops(known), generator, steps=words.steps, seed=seed, rate=rate, order=order, weight="even")
                with torch.no_grad():
                    dB = figure(generator(0), known)
                print(f"| {name} | {order} | {seed} | {dB:.2f} | {time.perf_counter() - began:.1f} |", flush=True)


if __name__ == "__main__":
    main()
