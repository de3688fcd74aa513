"""A folder of small pictures, some of them broken in different ways; for tests/test_batch.py and batch_kill.py."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 24

RECIPE = """editkit: 1
stages:
  - plugins:
      - inpaint: {mask: "box:0,0,7,7"}
    options: {steps: 2, seed: 5}
"""


def picture(path: Path, seed: int) -> None:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    """No picture, whatever its name says."""
    path.write_text("a picture of a horse")


def bomb(path: Path) -> None:
    """A PNG of some hundred bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def dangling(path: Path) -> None:
    """A link to nothing."""
    path.unlink()
    path.symlink_to("nowhere.png")


def looping(path: Path) -> None:
    """A link to itself."""
    path.unlink()
    path.symlink_to(path.name)


def raw(path: Path) -> None:
    """A camera raw file's first bytes under a picture's name."""
    path.write_bytes(b"FUJIFILMCCD-RAW 0201" + bytes(200))


def locked(path: Path) -> None:
    """No permission to read it."""
    path.chmod(0)


def ways() -> list[Callable[[Path], None]]:
    """The ways to break a picture; for root, nothing is locked."""
    return [truncated, empty, text, bomb, dangling, looping, raw, *([locked] if os.geteuid() else [])]


def fill(folder: Path, pictures: int, broken: int) -> set[str]:
    """Write `pictures` into `folder`, every so many of them broken; the names of those."""
    folder.mkdir()
    names, all_ways = set(), ways()
    spread = {round(k * pictures / broken) for k in range(broken)}
    for k in range(pictures):
        path = folder / f"p{k:03}.png"
        picture(path, k)
        if k in spread:
            all_ways[len(names) % len(all_ways)](path)
            names.add(path.name)
    return names
