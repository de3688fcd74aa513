"""The places that a manifest may name. A manifest may come from someone else: a row with `/home/you/private.png`,
`../../private.png` or a service of your network would read it with your access, and copy its pixels into the results.

Without `--anywhere`, a row may only name files in the manifest's own folder or below, with links resolved, and at the
places that the command names: the bucket or host of IN, of OUT, of `--masks`. `memory://` contains only what this
process wrote.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from editkit.batch.folder import Masks
from editkit.batch.stores import is_address, local_path, redact, scheme
from editkit.common.named import file_strings, has_escaping_path
from editkit.errors import UsageError
from editkit.pictures.shapes import is_words

HERE = ("", "file", "local")
"""Schemes of local files."""


@dataclass(frozen=True)
class Reach:
    """The places allowed for a manifest's names.

    Args:
        folder: the manifest's folder, a path or an address.
        folders: real local paths that the command names.
        hosts: hosts such as `s3://bucket` that the command names.
        anywhere: the user allows every place.
    """

    folder: str
    folders: tuple[str, ...]
    hosts: tuple[str, ...]
    anywhere: bool = False

    @classmethod
    def of(cls, manifest: str, target: str, masks: Masks | None, *, anywhere: bool) -> Reach:
        """Derive the allowed places from the manifest and the command's arguments."""
        folder = manifest.rpartition("/")[0] if is_address(manifest) else os.path.dirname(manifest)
        folder = folder or "."
        apart = None if masks is None or masks.folder is None else str(masks.folder)
        read = (folder,) if apart is None else (folder, apart)
        folders = tuple(resolve_local(place) for place in read if scheme(place) in HERE)
        hosts = tuple(host(place) for place in (*read, target) if scheme(place) not in HERE)
        return cls(folder, folders, hosts, anywhere)

    def joined(self, name: str) -> str:
        """Resolve a row's name, which may be an address or an absolute path, relative to the manifest's folder."""
        return local_path(name) if scheme(name) or name.startswith("/") else f"{self.folder}/{name}"

    def check(self, manifest: str, row: int, name: str) -> None:
        """Refuse a picture or a mask (a name, an address or words) at another place.

        Raises:
            UsageError: the place is not allowed.
        """
        if not self.anywhere and not self._allows(name):
            self._refuse(manifest, row, name)

    def check_columns(self, manifest: str, row: int, columns: Mapping[str, Any]) -> None:
        """Refuse a value of another column that names a file at another place: a model folder, a LoRA, a picture.

        Raises:
            UsageError: the place is not allowed.
        """
        for text in () if self.anywhere else _texts_of(columns):
            if has_escaping_path(text):
                self._refuse(manifest, row, text)

    def _allows(self, name: str) -> bool:
        if scheme(name) not in HERE:
            return scheme(name) == "memory" or (host(name) in self.hosts and ".." not in PurePosixPath(name).parts)
        if is_words(name):
            return not has_escaping_path(name)
        whole = scheme(name) != "" or name.startswith("/")
        if not whole and (has_escaping_path(name) or scheme(self.folder) not in HERE):
            return not has_escaping_path(name)
        at = resolve_local(self.joined(name).partition("::")[0])
        return any(at == folder or at.startswith(folder.rstrip("/") + "/") for folder in self.folders)

    def _refuse(self, manifest: str, row: int, name: str) -> None:
        raise UsageError(
            f"{manifest}: row {row} names {redact(name)[:80]!r}, which lies neither in the manifest's folder nor where "
            f"the command points; add --anywhere if you trust who wrote it"
        )


def host(address: str) -> str:
    """Return the `s3://bucket` part of an address, without secrets."""
    return "/".join(redact(address).split("/", 3)[:3]).lower()


def resolve_local(text: str) -> str:
    """Return a local path with links resolved; an invalid path unchanged."""
    try:
        return os.path.realpath(local_path(text))
    except (OSError, ValueError):
        return local_path(text)


def _texts_of(columns: Mapping[str, Any]) -> Iterator[str]:
    for column, value in columns.items():
        yield from file_strings(value, column.rpartition(".")[2])
