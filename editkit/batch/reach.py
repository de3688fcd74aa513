"""What a manifest may name. It is somebody's file: a row that names `/home/you/private.png`, `../../private.png` or a
service of your network would have it read, with your access, and its pixels put among the results.

Without `--anywhere` a row names what lies in the manifest's own folder or below, when all links are followed, and what
lies where the command itself points: the bucket or host of IN, of OUT, of `--masks`. `memory://` holds nothing but what
this process put there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from editkit.batch.folder import Masks
from editkit.batch.stores import is_address, local, scheme, shown
from editkit.common.named import leads_out, texts
from editkit.errors import UsageError
from editkit.pictures.shapes import is_words

HERE = ("", "file", "local")
"""Schemes of this machine's files."""


@dataclass(frozen=True)
class Reach:
    """Where a manifest's names may lead.

    Args:
        folder: the manifest's own, a path or an address.
        folders: real paths of this machine, which the command names.
        hosts: `s3://bucket`, which the command names.
        anywhere: the person at the machine allows every place.
    """

    folder: str
    folders: tuple[str, ...]
    hosts: tuple[str, ...]
    anywhere: bool = False

    @classmethod
    def of(cls, manifest: str, target: str, masks: Masks | None, *, anywhere: bool) -> Reach:
        """What the manifest's own place and the command's words allow."""
        folder = manifest.rpartition("/")[0] if is_address(manifest) else os.path.dirname(manifest)
        folder = folder or "."
        apart = None if masks is None or masks.folder is None else str(masks.folder)
        read = (folder,) if apart is None else (folder, apart)
        folders = tuple(real(place) for place in read if scheme(place) in HERE)
        hosts = tuple(host(place) for place in (*read, target) if scheme(place) not in HERE)
        return cls(folder, folders, hosts, anywhere)

    def joined(self, name: str) -> str:
        """A name of a row, which may be an address or a whole path, seen from the manifest's folder."""
        return local(name) if scheme(name) or name.startswith("/") else f"{self.folder}/{name}"

    def check(self, manifest: str, row: int, name: str) -> None:
        """Refuse a picture or a mask (a name, an address or words) that lies elsewhere.

        Raises:
            UsageError: it does.
        """
        if not self.anywhere and not self._allows(name):
            self._refuse(manifest, row, name)

    def check_columns(self, manifest: str, row: int, columns: Mapping[str, Any]) -> None:
        """Refuse a value of another column that names a file elsewhere: a model's folder, a LoRA, another picture.

        Raises:
            UsageError: it does.
        """
        for text in () if self.anywhere else _texts_of(columns):
            if leads_out(text):
                self._refuse(manifest, row, text)

    def _allows(self, name: str) -> bool:
        if scheme(name) not in HERE:
            return scheme(name) == "memory" or (host(name) in self.hosts and ".." not in PurePosixPath(name).parts)
        if is_words(name):
            return not leads_out(name)
        whole = scheme(name) != "" or name.startswith("/")
        if not whole and (leads_out(name) or scheme(self.folder) not in HERE):
            return not leads_out(name)
        at = real(self.joined(name).partition("::")[0])
        return any(at == folder or at.startswith(folder.rstrip("/") + "/") for folder in self.folders)

    def _refuse(self, manifest: str, row: int, name: str) -> None:
        raise UsageError(
            f"{manifest}: row {row} names {shown(name)[:80]!r}, which lies neither in the manifest's folder nor where "
            f"the command points; add --anywhere if you trust who wrote it"
        )


def host(address: str) -> str:
    """`s3://bucket` of an address, without secrets."""
    return "/".join(shown(address).split("/", 3)[:3]).lower()


def real(text: str) -> str:
    """A path of this machine, all links followed. What can be no path is taken as it is."""
    try:
        return os.path.realpath(local(text))
    except (OSError, ValueError):
        return local(text)


def _texts_of(columns: Mapping[str, Any]) -> Iterator[str]:
    for column, value in columns.items():
        yield from texts(value, column.rpartition(".")[2])
