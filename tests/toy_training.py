"""Painted photographs, and a run of training on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from editkit.training.loop import Run
from editkit.training.prior import PriorLesson
from editkit.training.settings import Architecture, PriorSettings

TINY = Architecture(window=16, unshuffle=2, channels=(8, 16), layers=1, head=8, groups=4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def paint(path: Path, seed: int, size: tuple[int, int] = (48, 40)) -> None:
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", size, tuple(int(v) for v in rng.integers(0, 255, 3)))
    pen = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y = int(rng.integers(0, size[0])), int(rng.integers(0, size[1]))
        pen.ellipse((x, y, x + 14, y + 12), fill=tuple(int(v) for v in rng.integers(0, 255, 3)))
    picture.save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        paint(folder / f"p{i}.png", i)
    rows = [
        {"file": f"p{i}.png", "author": f"A|uthor {i}", "licence": "CC0-1.0", "package": "painted"} for i in range(5)
    ]
    (folder / "manifest.json").write_text(json.dumps(rows))
    (tmp_path / "heldout.txt").write_text("# held back\np0.png\n")
    return folder


def settings(photos: Path, output: str = "run", **changes: Any) -> PriorSettings:
    values: dict[str, Any] = {
        "images": photos,
        "output": photos.parent / output,
        "heldout": photos.parent / "heldout.txt",
        "steps": 6,
        "batch": 5,
        "warmup": 2,
        "threads": 2,
        "measure_every": 100,
        "sheet_every": 100,
        "checkpoint_every": 100,
        "dtype": "fp32",
        "architecture": TINY,
    }
    return PriorSettings(**(values | changes))


def prior_run(settings: PriorSettings, resume: bool = False, init_from: Path | None = None) -> Run:
    """A run of `editkit train prior`."""
    return Run(settings, PriorLesson(settings, init_from), resume)
