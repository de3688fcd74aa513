"""docs/directions.md's figures on photographs, by pocket.

    python benchmarks/directions.py trips --photos ../shared/photos [--count 1] [--side 64]
    python benchmarks/directions.py density --photos ../shared/photos [--count 32] [--steps 20] [--probes 1]
    python benchmarks/directions.py bound --photos ../shared/photos [--count 32] [--steps 100]

Of each photograph of assets/pocket/heldout.txt the middle square at 192 x 192, and of that the middle `--side` pixels.
`trips`: how well it comes back, PSNR by rule, steps and refinement. `density`: bits per dimension of it, with noise of
20 levels, with its pixels shuffled, with its colours inverted. `bound`: the variational bound of the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from restoring import ROOT, crop

from editkit import density, edit, variational_bound
from editkit.models import describe
from editkit.models.leasing import Models
from editkit.pictures.tensors import to_unit
from editkit.plugins import Invert

KINDS = ("original", "noise 20", "shuffled", "inverted")


def trips(names: list[str], photos: Path, side: int) -> None:
    """PSNR of there and back."""
    models = Models()
    for name in names:
        photo = crop(photos / name, side)
        for sampler in ("ddim", "heun"):
            for steps, refine in ((20, 0), (50, 0), (20, 3), (50, 3)):
                said: list[str] = []
                edit(
                    photo, Invert(refine=refine), model="pocket", steps=steps, sampler=sampler, notify=said.append,
                    models=models, device="cpu", dtype="fp32",
                )  # fmt: skip
                print(f"{name} {sampler:5} {steps:3} steps, refine {refine}: {' | '.join(said)}", flush=True)


def spoiled(photo: np.ndarray) -> dict[str, np.ndarray]:
    """The photograph and what it is to be likelier than."""
    rng = np.random.default_rng(0)
    noisy = np.clip(np.rint(photo + rng.normal(0.0, 20.0, photo.shape)), 0, 255).astype(np.uint8)
    shuffled = rng.permutation(photo.reshape(-1, 3)).reshape(photo.shape)
    return dict(zip(KINDS, (photo, noisy, shuffled, 255 - photo), strict=True))


def bounds(names: list[str], photos: Path, side: int, steps: int) -> None:
    """The variational bound instead, bits per dimension: terms of KL, no trace to be guessed."""
    rows = []
    print(f"{'photograph':42}" + "".join(f"{kind:>12}" for kind in KINDS), flush=True)
    with Models().lease(describe("pocket"), torch.device("cpu"), torch.float32) as lease, torch.no_grad():
        for name in names:
            x = torch.cat([to_unit(picture) for picture in spoiled(crop(photos / name, side)).values()])
            rows.append(variational_bound(lease.model, x, steps=steps).bits_per_dim.tolist())
            print(f"{name:42}" + "".join(f"{bits:12.2f}" for bits in rows[-1]), flush=True)
    summed(np.array(rows))


def summed(table: np.ndarray) -> None:
    print(f"{'mean':42}" + "".join(f"{bits:12.2f}" for bits in table.mean(0)))
    likelier = (table[:, :1] < table[:, 1:]).sum(0)
    print(f"{'the photograph is likelier on':42}{'':12}" + "".join(f"{n:9} of {len(table)}" for n in likelier))


def densities(names: list[str], photos: Path, side: int, steps: int, probes: int) -> None:
    """Bits per dimension, a row a photograph, and on how many the photograph is the likelier one."""
    models, rows = Models(), []
    print(f"{'photograph':42}" + "".join(f"{kind:>12}" for kind in KINDS), flush=True)
    for name in names:
        row = [
            density(each, steps=steps, probes=probes, models=models, device="cpu").bits
            for each in spoiled(crop(photos / name, side)).values()
        ]
        rows.append(row)
        print(f"{name:42}" + "".join(f"{bits:12.2f}" for bits in row), flush=True)
    summed(np.array(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("trips", "density", "bound"))
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--probes", type=int, default=1)
    given = parser.parse_args()
    listed = (ROOT / "assets" / "pocket" / "heldout.txt").read_text().splitlines()
    held = [name for name in listed if name and not name.startswith("#")]
    if given.what == "trips":
        trips(held[: given.count or 1], given.photos, given.side)
    elif given.what == "bound":
        bounds(held[: given.count], given.photos, given.side, given.steps)
    else:
        densities(held[: given.count], given.photos, given.side, given.steps, given.probes)
