"""Photographs decoded once into memory, and random crops of them at random scales."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from editkit.common.small import read_limited_bytes, read_limited_text
from editkit.errors import EditkitError
from editkit.pictures.files.formats import PHOTOGRAPHS
from editkit.pictures.picture import Picture
from editkit.pictures.raster import at_depth

TWIN = 0.95
"""Correlation of two 24x24 thumbnails above which two pictures count as the same photograph (measured on 229
photographs: three pairs of true twins at 0.999 and above, the next pair, two different places, at 0.89).
"""


@dataclass(frozen=True)
class Photograph:
    """One decoded picture, halved repeatedly down to the window's size. levels[k]: (3, H/2^k, W/2^k) uint8; channels of
    a hint may follow the colours.
    """

    name: str
    levels: tuple[Tensor, ...]
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.levels[0].shape[1], self.levels[0].shape[2]


@dataclass(frozen=True)
class Skipped:
    """A skipped picture and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Collection:
    """The pictures of a folder: for training, held out for measuring, and skipped ones."""

    training: tuple[Photograph, ...]
    heldout: tuple[Photograph, ...]
    skipped: tuple[Skipped, ...]


def halve(level: Tensor) -> Tensor:
    """Halve (C, H, W) uint8: means of 2x2 pixels; an odd last row or column is dropped."""
    height, width = level.shape[1] // 2 * 2, level.shape[2] // 2 * 2
    return F.avg_pool2d(level[:, :height, :width].float().unsqueeze(0), 2)[0].round().to(torch.uint8)


def _pyramid(picture: Image.Image, window: int) -> tuple[Tensor, ...]:
    level = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    levels = [level]
    while min(level.shape[1:]) >= 2 * window:
        level = halve(level)
        levels.append(level)
    return tuple(levels)


def _read_list(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = read_limited_text(path, pipe=True).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise EditkitError(f"{path}: the list of held-back pictures cannot be read ({why})") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _read_facts(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / "manifest.json"
    if not path.exists():
        return {}
    try:
        rows = json.loads(read_limited_bytes(path))
        return {str(row["file"]): {key: str(value) for key, value in row.items() if key != "file"} for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EditkitError(f"{path}: is not a list of objects with a 'file' ({error})") from error


def thumbnail(photograph: Photograph) -> Tensor:
    """Return a grey thumbnail of mean 0 and norm 1, (24, 24); 0 for a picture of one colour."""
    grey = photograph.levels[-1].float().mean(0, keepdim=True).unsqueeze(0)
    small = F.interpolate(grey, size=(24, 24), mode="area")[0, 0]
    small = small - small.mean()
    scaled: Tensor = small / small.square().sum().sqrt().clamp_min(1e-3)
    return scaled


def thumbnail_similarity(a: Tensor, b: Tensor) -> float:
    """Return the correlation of two thumbnails, also with the second mirrored."""
    return max(float((a * b).sum()), float((a * b.flip(1)).sum()))


def _rgb(path: Path) -> Image.Image:
    """Read a picture like an edit: the same formats, the same limits, upright.

    Raises:
        EditkitError: it cannot be read, or is not a regular file.
    """
    if not path.is_file():
        raise EditkitError(f"{path}: is not a regular file")
    return Image.fromarray(at_depth(Picture.read(path).coloured_as(None).visible, np.uint8))


def load_collection(folder: Path, window: int, heldout: Path | None = None) -> Collection:
    """Read every picture of a folder; held-out ones and their near-duplicates are excluded from training.

    Raises:
        EditkitError: the folder does not exist or has no usable picture, or a held-out picture is missing.
    """
    if not folder.is_dir():
        raise EditkitError(f"{folder}: is not a folder")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in PHOTOGRAPHS)
    if not paths:
        raise EditkitError(f"{folder}: holds no picture ({', '.join(PHOTOGRAPHS)})")
    names, facts = _read_list(heldout), _read_facts(folder)
    missing = sorted(set(names) - {p.name for p in paths})
    if missing:
        raise EditkitError(f"{heldout}: names pictures that are not in {folder}: {', '.join(missing)}")
    read, skipped = _read_all(paths, window, facts)
    held = tuple(p for p in read if p.name in set(names))
    training: list[Photograph] = []
    thumbnails = [(p.name, thumbnail(p)) for p in held]
    for photograph in read:
        if photograph.name in set(names):
            continue
        own = thumbnail(photograph)
        twin = next((name for name, other in thumbnails if thumbnail_similarity(own, other) > TWIN), None)
        if twin:
            skipped.append(Skipped(photograph.name, f"near-duplicate of the held-back {twin}"))
        else:
            training.append(photograph)
    if not training:
        raise EditkitError(f"{folder}: no picture is left to train on ({len(skipped)} skipped, {len(held)} held back)")
    return Collection(tuple(training), held, tuple(skipped))


def _read_all(
    paths: Sequence[Path], window: int, facts: dict[str, dict[str, str]]
) -> tuple[list[Photograph], list[Skipped]]:
    """Return the usable pictures, and the reasons why others are skipped."""
    read: list[Photograph] = []
    skipped: list[Skipped] = []
    for path in paths:
        try:
            picture = _rgb(path)
        except (EditkitError, MemoryError) as error:
            skipped.append(Skipped(path.name, f"unreadable ({error})"))
            continue
        if min(picture.size) < window:
            skipped.append(Skipped(path.name, f"{picture.width}x{picture.height} is smaller than a window of {window}"))
            continue
        read.append(Photograph(path.name, _pyramid(picture, window), facts.get(path.name, {})))
    return read, skipped


def crop(photograph: Photograph, window: int, generator: Generator) -> Tensor:
    """Crop a random square window (3, window, window) in [-1, 1].

    Its side in the photograph is log-uniform between `window` pixels (texture) and the shorter side (the
    whole scene), its aspect ratio within 10 %, and it is mirrored half the time. It is cropped from the next larger
    level, then resized with antialiasing.
    """
    u = torch.rand(5, generator=generator).tolist()
    height, width = photograph.size
    side = window * (min(height, width) / window) ** u[0]
    level = min(len(photograph.levels) - 1, int(math.log2(max(1.0, side / window)) + 1e-6))
    source = photograph.levels[level]
    limit_h, limit_w = source.shape[1], source.shape[2]
    stretch = 1.1 ** (2 * u[1] - 1)
    h = min(limit_h, max(window, round(side / 2**level * stretch)))
    w = min(limit_w, max(window, round(side / 2**level / stretch)))
    top, left = int(u[2] * (limit_h - h + 1)), int(u[3] * (limit_w - w + 1))
    cut = source[:, top : top + h, left : left + w].float()
    if (h, w) != (window, window):
        cut = F.interpolate(
            cut.unsqueeze(0), size=(window, window), mode="bilinear", antialias=True, align_corners=False
        )[0]
    if u[4] < 0.5:
        cut = cut.flip(2)
    return cut / 127.5 - 1


def windows(photographs: Sequence[Photograph], window: int, part: int) -> Tensor:
    """Crop one random window of every photograph for measuring, (photographs, C, window, window), the same at every
    call. The seeds are those of the runs in docs/pocket.md.
    """
    generator = Generator().manual_seed(part * 7_919 + 99 * 104_729)
    return torch.stack([crop(p, window, generator) for p in photographs])
