"""Writing pictures: whole or not at all. How they are encoded is in `encoding.py`."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.encoding import encode
from editkit.errors import PictureError
from editkit.images import Picture

if TYPE_CHECKING:
    from editkit.provenance import Provenance

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


def write(
    picture: Picture,
    path: str | Path,
    *,
    force: bool = False,
    provenance: Provenance | None = None,
    quality: int | None = None,
    format: str | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> Written:
    """Write a picture, whole or not at all: a temporary file beside it takes its place when it is complete.

    Args:
        path: its ending decides the format; "-" is standard output, as `format` (PNG unless told).
        force: replace an existing file. Without it a file that appears meanwhile is not replaced either.
        provenance: how it was made, put into the file.
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
    data, deviation, kept = encode(picture, known, notices, provenance=provenance, quality=quality)
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


def save_bytes(path: Path, data: bytes, *, force: bool = False) -> None:
    """Put `data` at `path` as one step: no reader ever sees half of it, and a failure leaves what was there.

    Without `force` the file is linked into place, which fails where the name has been taken meanwhile.
    """
    target = Path(os.path.realpath(path))  # through a symbolic link to what it names
    temporary = target.parent / f".editkit-{secrets.token_hex(8)}.tmp"
    try:
        # by hand rather than with tempfile: a result has the permissions any new file has, not 0600
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if force and target.exists():
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            _put(temporary, target, force)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
    except FileExistsError:
        raise PictureError(f"{path}: exists already; give --force to replace it, or another name") from None
    except OSError as error:
        old = "; the file that was there is as it was" if target.exists() else "; nothing was written"
        raise PictureError(f"{path}: cannot be written: {error.strerror}{old}") from None


def _put(temporary: Path, target: Path, force: bool) -> None:
    if force:
        os.replace(temporary, target)
    else:
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if target.exists():
                raise FileExistsError(target) from None
            os.replace(temporary, target)
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder; the file itself is safe
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
