"""How well a picture comes back: `python benchmarks/directions.py PICTURE [SIDE]` (docs/directions.md)."""

from __future__ import annotations

import sys

from PIL import Image

from editkit import edit
from editkit.models.leasing import Models
from editkit.plugins import Invert


def main(path: str, side: int = 96) -> None:
    """PSNR by steps, rule and refinement, by pocket; the picture is made as small as `side`."""
    photo = Image.open(path).convert("RGB")
    photo.thumbnail((side, side))
    models = Models()
    for sampler in ("ddim", "heun"):
        for steps, refine in ((20, 0), (50, 0), (20, 3), (50, 3)):
            said: list[str] = []
            edit(
                photo, Invert(refine=refine), model="pocket", steps=steps, sampler=sampler, notify=said.append,
                models=models, device="cpu",
            )  # fmt: skip
            print(f"{sampler:5} {steps:3} steps, refine {refine}: {said[-1]}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
