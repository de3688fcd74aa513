"""Write pictures, completely or not at all. The encoding is in `pictures/files/encoding.py`."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from editkit.errors import PictureError, UsageError
from editkit.pictures.files.atomic import save_bytes
from editkit.pictures.files.encoding import Encoded, encode
from editkit.pictures.files.formats import PNG, WRITABLE, endings, to_write
from editkit.pictures.files.metadata import Metadata
from editkit.pictures.files.reading import decode
from editkit.pictures.raster import Raster

BAND = 64
"""Rows compared at once."""


@dataclass(frozen=True)
class Written:
    """The result of writing a picture.

    Args:
        path: the file; "-" for standard output.
        format: Pillow's name of the format.
        bytes: the file's size.
        deviation: the largest difference of a channel between the picture and the decoded file, in 8-bit levels (or
            16-bit levels in a 16-bit file); 0 for a lossless format.
        kept_deviation: the same over pixels whose mask is 0; None without a mask.
        notices: what could not be stored, for the user.
    """

    path: str
    format: str
    bytes: int
    deviation: int = 0
    kept_deviation: int | None = None
    notices: tuple[str, ...] = ()


def check_output(path: str | Path, *, force: bool = False, quality: int | None = None) -> str:
    """Check before any work that the output can be written, and return its format. "-" is always valid (PNG).

    Raises:
        PictureError: unknown suffix, existing file without `force`, a folder, missing or read-only folder, or a
            `quality` for a lossless format.
    """
    format_ = PNG.name if str(path) == "-" else format_of(Path(path))
    if quality is not None and to_write(format_).exact == "always":
        lossy = endings(lambda row: row.exact != "always", "or")
        raise PictureError(f"{path}: {format_} keeps every pixel and has no quality; leave it out, or write {lossy}")
    if str(path) != "-":
        check_place(path, force=force)
    return format_


def check_place(path: str | Path, *, force: bool = False) -> None:
    """Like `check_output`, for a file of any suffix.

    Raises:
        PictureError: existing file without `force`, a folder, missing or read-only folder.
    """
    path = Path(path)
    try:
        folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
        if path.is_dir():
            raise PictureError(f"{path}: is a folder; name a file in it, such as {path / 'out.png'}")
        if path.exists():
            if not stat.S_ISREG(path.stat().st_mode):
                raise PictureError(f"{path}: is not a regular file; name another output")
            if not force:
                raise PictureError(f"{path}: exists already; give another name, or `force` to replace it (--force)")
        if not folder.exists():
            raise PictureError(f"{folder}: no such folder; create it first (mkdir -p {folder})")
        if not folder.is_dir():
            raise PictureError(f"{folder}: is not a folder; name an output in one")
    except (OSError, RuntimeError, ValueError) as error:  # name too long, a loop of links, an unreadable folder
        raise PictureError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PictureError(f"{folder}: no permission to write in this folder; name an output elsewhere")


def check_distinct(
    outputs: Mapping[str, str | Path | None], inputs: Iterable[str | Path] = (), first: str = ""
) -> None:
    """Refuse outputs of one command that are the same file under any names, or one of its `inputs`.

    Args:
        outputs: option name to path; None and "-" are ignored.
        first: the option of the result itself, which may replace an input (with --force).

    Raises:
        UsageError: two are the same; the message says which.
    """
    read = {_identity(path): str(path) for path in inputs if str(path) != "-"}
    seen: dict[tuple[object, ...], str] = {}
    for flag, path in outputs.items():
        if path is None or str(path) == "-":
            continue
        identity = _identity(path)
        if identity in seen:
            raise UsageError(f"{seen[identity]} and {flag} both name {path}; give them different names")
        if identity in read and flag != first:
            raise UsageError(f"{flag} {path}: is also an input ({read[identity]}); give another name")
        seen[identity] = flag


def _identity(path: str | Path) -> tuple[object, ...]:
    """Return a key that is equal for all names of a file, including links, whether it exists or not."""
    try:
        state = os.stat(path)
        return state.st_dev, state.st_ino
    except (OSError, ValueError):
        return (os.path.realpath(str(path).replace("\0", "")),)


def format_of(path: Path) -> str:
    """Return the format of a file name's suffix."""
    try:
        return WRITABLE[path.suffix.lower()].name
    except KeyError:
        known = " ".join(WRITABLE)
        got = f"files ending in {path.suffix!r} cannot be written" if path.suffix else "the name has no ending"
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
    """Return the bytes of a file, the largest deviation, and that over the pixels whose `mask` is 0 (see `Written`).

    If the file cannot be opened again, it is encoded without the picture's original metadata, with a notice, so that
    bad metadata cannot destroy a finished edit.
    """
    try:
        messages = list(notices)
        encoded, back = _decode_again(raster, format, messages, text, quality)
    except PictureError:
        bare = replace(raster, meta=_without_metadata(raster.meta))
        if bare.meta == raster.meta:
            raise
        messages = list(notices)
        encoded, back = _decode_again(bare, format, messages, text, quality)
        messages.append(f"its metadata (EXIF, XMP, ICC profile) cannot be stored in {format} and is left out")
    notices[:] = messages
    if encoded.lossless or back is None:
        return encoded.data, 0, None if mask is None else 0
    return encoded.data, *_deviation(encoded.raster, mask, back)


def _without_metadata(meta: Metadata) -> Metadata:
    return replace(meta, exif=None, xmp=None, icc=None, iptc=None, comment=None, chunks=(), text=())


def _decode_again(
    raster: Raster, format: str, notices: list[str], text: str | None, quality: int | None
) -> tuple[Encoded, NDArray[Any] | None]:
    """Return the encoded file and its decoded pixels; None for a lossless file without metadata, which needs no check.

    Raises:
        PictureError: it cannot be encoded, or does not decode to the same pixels.
    """
    encoded = encode(raster, format, notices, text=text, quality=quality)
    if encoded.lossless and raster.meta == _without_metadata(raster.meta):
        return encoded, None
    back = decode(encoded.data, "the written file").pixels
    if back.shape != encoded.raster.pixels.shape or (encoded.lossless and _differ(back, encoded.raster.pixels)):
        raise PictureError("the written file: does not decode to the same picture")
    return encoded, back


def _differ(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Compare in bands, without an array of the full size."""
    return a.dtype != b.dtype or any(not np.array_equal(a[at : at + BAND], b[at : at + BAND]) for at in _band_starts(a))


def _band_starts(array: NDArray[Any]) -> range:
    return range(0, len(array), BAND)


def _deviation(raster: Raster, mask: NDArray[Any] | None, back: NDArray[Any]) -> tuple[int, int | None]:
    """Return the largest difference made by a lossy format, over all pixels and over those that the mask keeps."""
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
    """Write a picture atomically: a temporary file beside it replaces it when it is complete.

    Args:
        path: its suffix sets the format; "-" is standard output, as `format` (default PNG).
        force: replace an existing file. Without it, a file that appears in the meantime is not replaced either.
        mask: (H, W); changes by a lossy format where it is 0 are measured separately.
        text: the provenance to store in the file.
        quality: 1 to 100 for JPEG, WebP and AVIF; None: as in the picture's own file.
        on_notice: called with each notice; they are in the result as well.

    Raises:
        PictureError: it cannot be written; no partial file remains and an old file is unchanged.
    """
    known = check_output(path, force=force)
    if str(path) == "-" and format is not None:
        known = to_write(format).name
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
    if sys.stdout is None:
        raise PictureError("standard output: cannot be written: it is closed")
    if sys.stdout.isatty():
        raise PictureError("-: standard output is a terminal; redirect it to a file or a pipe, or use -o NAME")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise PictureError(f"standard output: cannot be written: {error.strerror}") from None
