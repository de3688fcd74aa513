"""Writing pictures: whole or not at all. How they are encoded is in `encoding.py`."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from editkit.errors import PictureError
from editkit.pictures.files.atomic import save_bytes
from editkit.pictures.files.encoding import encode
from editkit.pictures.files.reading import decode
from editkit.pictures.raster import Raster

BAND = 64
"""Rows that are compared at once."""

EXTENSIONS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
}
"""What can be written, by the name's end."""


@dataclass(frozen=True)
class Written:
    """What was written.

    Args:
        path: where; "-" for standard output.
        format: Pillow's name of the format.
        bytes: the file's size.
        deviation: the largest difference of a channel between the picture and the file as it decodes, in levels of 8
            bits (or of 16, in a 16-bit file); 0 for a lossless format.
        kept_deviation: the same over the pixels whose mask is 0; None for a picture without mask.
        notices: what could not be kept, for the user.
    """

    path: str
    format: str
    bytes: int
    deviation: int = 0
    kept_deviation: int | None = None
    notices: tuple[str, ...] = ()


def check_output(path: str | Path, *, force: bool = False) -> str:
    """Refuse before any work what could not be written after it; gives the format. "-" is always fine (PNG).

    Raises:
        PictureError: unknown ending, existing file without `force`, a folder, missing or read-only folder.
    """
    if str(path) == "-":
        return "PNG"
    path = Path(path)
    format_ = format_of(path)
    folder = path.parent
    try:
        if path.is_dir():
            raise PictureError(f"{path}: is a folder; name a file in it, such as {path / 'out.png'}")
        if path.exists():
            if not stat.S_ISREG(path.stat().st_mode):
                raise PictureError(f"{path}: is not a regular file; name another output")
            if not force:
                raise PictureError(f"{path}: exists already; give --force to replace it, or another name")
        if not folder.exists():
            raise PictureError(f"{folder}: no such folder; make it first (mkdir -p {folder})")
        if not folder.is_dir():
            raise PictureError(f"{folder}: is not a folder; name an output in one")
    except OSError as error:  # too long a name, a loop of links, a folder that cannot be looked into
        raise PictureError(f"{path}: cannot be written: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PictureError(f"{folder}: no permission to write in this folder; name an output elsewhere")
    return format_


def format_of(path: Path) -> str:
    """The format a name's ending stands for."""
    try:
        return EXTENSIONS[path.suffix.lower()]
    except KeyError:
        known = " ".join(EXTENSIONS)
        got = f"the ending {path.suffix!r} is not one that can be written" if path.suffix else "the name has no ending"
        raise PictureError(f"{path}: {got}; use one of {known}") from None


def to_bytes(
    raster: Raster,
    format: str,
    notices: list[str],
    *,
    mask: NDArray[Any] | None = None,
    text: str | None = None,
    quality: int | None = None,
) -> tuple[bytes, int, int | None]:
    """The bytes of a file, the largest deviation, and that over the pixels whose `mask` is 0 (see `Written`)."""
    encoded = encode(raster, format, notices, text=text, quality=quality)
    if encoded.lossless:
        return encoded.data, 0, None if mask is None else 0
    return encoded.data, *_deviation(encoded.raster, mask, encoded.data)


def _deviation(raster: Raster, mask: NDArray[Any] | None, data: bytes) -> tuple[int, int | None]:
    """The largest difference that a lossy format made, over all pixels and over those the mask keeps."""
    back = decode(data, "the written file").pixels
    largest, kept = 0, 0
    for at in range(0, raster.height, BAND):
        rows = slice(at, at + BAND)
        difference = np.abs(back[rows].astype(np.int32) - raster.pixels[rows]).max(axis=2)
        largest = max(largest, int(difference.max()))
        if mask is not None:
            kept = max(kept, int(difference[mask[rows] == 0].max(initial=0)))
    return largest, None if mask is None else kept


def write(
    raster: Raster,
    path: str | Path,
    *,
    mask: NDArray[Any] | None = None,
    force: bool = False,
    text: str | None = None,
    quality: int | None = None,
    format: str | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> Written:
    """Write a picture, whole or not at all: a temporary file beside it takes its place when it is complete.

    Args:
        path: its ending decides the format; "-" is standard output, as `format` (PNG unless told).
        force: replace an existing file. Without it a file that appears meanwhile is not replaced either.
        mask: (H, W); what a lossy format changes where it is 0 is measured apart.
        text: how it was made, put into the file.
        quality: 1 to 100 for JPEG, WebP and AVIF; None takes over what the picture came with.
        on_notice: called with each notice; they are in the result as well.

    Raises:
        PictureError: it cannot be written there; nothing is left behind and an old file is as it was.
    """
    known = check_output(path, force=force)
    if str(path) == "-" and format is not None:
        known = format.upper()
        if known not in EXTENSIONS.values():
            raise PictureError(
                f"format {format!r} cannot be written; use one of {', '.join(sorted(set(EXTENSIONS.values())))}"
            )
    notices: list[str] = []
    data, deviation, kept = to_bytes(raster, known, notices, mask=mask, text=text, quality=quality)
    if str(path) == "-":
        _to_stdout(data)
    else:
        save_bytes(Path(path), data, force=force)
    if on_notice is not None:
        for notice in notices:
            on_notice(notice)
    return Written(str(path), known, len(data), deviation, kept, tuple(notices))


def _to_stdout(data: bytes) -> None:
    if sys.stdout.isatty():
        raise PictureError("-: standard output is a terminal; send it into a file or a pipe, or use -o NAME")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise PictureError(f"standard output: cannot be written: {error.strerror}") from None
