"""Hash a model's safetensors files, for the provenance of a picture.

A large file is read only once: its hash is cached in the user's cache folder, with the file's size and modification
time.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from pathlib import Path

from editkit.common import places
from editkit.diffusion.model import ModelInfo
from editkit.errors import ModelError
from editkit.models.files import overlay

_BLOB = re.compile(r"[0-9a-f]{64}")
LARGE = 64 * 2**20
"""Smallest file whose hash is cached, in bytes."""


def fingerprint(info: ModelInfo) -> str | None:
    """Return the SHA-256 of the names and contents of a model's weights; None without weights.

    A file in the hub's cache is a link to a file named by its hash, so it is not read. If a separate file replaces the
    denoiser of a folder, the file's hash replaces that of the folder's own denoiser.
    """
    from editkit.models import folder_of

    try:
        path = folder_of(info.name)
        over = None if info.transformer is None else overlay.transformer_file(info.transformer)
        return None if path is None else _hash_weights(path.absolute(), None if over is None else over.absolute())
    except ModelError:  # a custom model passed to edit() as an object
        return None


def of_place(path: Path) -> str | None:
    """Return the SHA-256 of a file, or of the weights in a folder; None without weights."""
    return _hash_weights(path.absolute()) if path.is_file() or path.is_dir() else None


@cache
def _hash_weights(path: Path, over: Path | None = None) -> str | None:
    """Hash a folder or a file, given by its absolute path: files do not change while a process runs, but the current
    folder may.
    """
    if path.is_file():
        return _hash(path)
    files = sorted(path.rglob("*.safetensors"))
    total = hashlib.sha256()
    if over is not None:
        files = [file for file in files if file.relative_to(path).parts[0] not in overlay.DENOISERS]
        total.update(f"{_hash(over)}\n".encode())
    elif not files:
        return None
    for file in files:
        total.update(f"{file.relative_to(path).as_posix()}\0{_hash(file)}\n".encode())
    return total.hexdigest()


def _hash(file: Path) -> str:
    blob = file.resolve().name
    if file.is_symlink() and _BLOB.fullmatch(blob):
        return blob
    state = file.stat()
    if state.st_size < LARGE:
        return _read(file)
    name = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()
    note, stamp = _cache() / name, f"{state.st_size} {state.st_mtime_ns} "
    try:
        known = note.read_text(encoding="ascii")
        if known.startswith(stamp):
            return known.removeprefix(stamp)
    except (OSError, ValueError):
        pass
    found = _read(file)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_suffix(f".{os.getpid()}")
        draft.write_text(stamp + found, encoding="ascii")
        draft.replace(note)
    except OSError:
        pass  # the home folder is not writable: the file is read again next time
    return found


def _read(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _cache() -> Path:
    return places.cache() / "hashes"
