"""Which weights made a picture: one hash of a model's safetensors files, for its provenance."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

from editkit.errors import ModelError
from editkit.models.base import ModelInfo

_BLOB = re.compile(r"[0-9a-f]{64}")


def fingerprint(info: ModelInfo) -> str | None:
    """SHA-256 over the names and contents of the weights of the model that `describe` spoke of; None without weights.

    A file in the hub's cache is a link to one that is named by its own hash, and is not read again.
    """
    from editkit.models import folder_of

    try:
        return None if info.own_picture else _of(folder_of(info.name))
    except ModelError:  # a model of one's own, given to edit() as an object
        return None


@cache
def _of(path: Path) -> str | None:
    """The hash over a folder; its files do not change while a process runs."""
    files = sorted(path.rglob("*.safetensors"))
    if not files:
        return None
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(path).as_posix()}\0{_hash(file)}\n".encode())
    return total.hexdigest()


def _hash(file: Path) -> str:
    blob = file.resolve().name
    if file.is_symlink() and _BLOB.fullmatch(blob):
        return blob
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
