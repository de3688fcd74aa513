"""The files that a studio keeps in its folder, so that a killed server finds its state again.

::

    FOLDER/photo.jpg                        pictures that were already there
    FOLDER/.editkit-studio/pictures/ID/     about.json, and the uploaded file unchanged
    FOLDER/.editkit-studio/masks/ID.png     masks, of their picture's size
    FOLDER/.editkit-studio/edits/ID/        edit.json, result.png, kept.png (white: what could change)

Every file is written completely or not at all. Their names are made here, never taken from a request.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from editkit.cli.studio.config import Bounds, RefusedRequest
from editkit.cli.studio.records import ENDED, ID, EditRecord, PictureRecord, new_id
from editkit.common.small import read_limited_bytes
from editkit.errors import EditkitError, UsageError
from editkit.pictures.files.atomic import save_bytes
from editkit.pictures.files.formats import PICTURES
from editkit.pictures.files.reading import known_formats
from editkit.pictures.picture import Picture

R = TypeVar("R", bound=BaseModel)

OWN = ".editkit-studio"

MOST_LISTED = 2000
"""Most pictures of the folder that are listed."""

MOST_LOOKED_AT = 100_000
"""Most files that are examined for the list: a folder may be a whole disk."""


class Store:
    """The studio's folder.

    Args:
        folder: absolute, with links resolved.

    Raises:
        UsageError: a link would lead the studio's files elsewhere.
    """

    def __init__(self, folder: Path, bounds: Bounds) -> None:
        self.folder, self.bounds = folder, bounds
        self.own = folder / OWN
        self._lock = Lock()
        for part in (".", "pictures", "masks", "edits"):
            if (self.own / part).is_symlink():  # in somebody else's folder: files would be written elsewhere
                raise UsageError(f"{self.own / part}: is a link; remove it, the studio keeps its own files there")
            (self.own / part).mkdir(parents=True, exist_ok=True)
        ignore = self.own / ".gitignore"
        if not ignore.exists():
            save_bytes(ignore, b"*\n", force=True)
        self._edits = {edit.id: edit for edit in self._found()}

    # pictures

    def listing(self) -> list[dict[str, str | int]]:
        """List the pictures of the folder and its subfolders by name, without hidden ones."""
        found: list[dict[str, str | int]] = []
        looked = 0
        for place, folders, files in os.walk(self.folder):
            looked += len(files) + 1
            if looked > MOST_LOOKED_AT:
                return found
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = Path(place, name)
                if name.startswith(".") or path.suffix.lower() not in PICTURES:
                    continue
                with contextlib.suppress(OSError, RefusedRequest):
                    self.inside(path.relative_to(self.folder).as_posix())
                    found.append({"path": path.relative_to(self.folder).as_posix(), "bytes": path.stat().st_size})
                if len(found) >= MOST_LISTED:
                    return found
        return found

    def inside(self, path: str) -> Path:
        """Return a file of the folder by its relative path.

        Raises:
            Refused: with links resolved, it is not a file in the folder.
        """
        try:
            real = (self.folder / path).resolve(strict=True)
            fits = real.is_file() and real.is_relative_to(self.folder) and not Path(path).is_absolute()
        except (OSError, ValueError, RuntimeError):
            fits = False
        if not fits:
            raise RefusedRequest(404, "there is no such file in the studio's folder")
        return real

    def open(self, path: str) -> PictureRecord:
        """Open a picture of the folder.

        Raises:
            Refused: it does not exist. EditkitError: it cannot be read.
        """
        file = self.inside(path)
        if file.suffix.lower() not in PICTURES:
            raise RefusedRequest(404, "there is no such picture in the studio's folder")
        name = file.relative_to(self.folder).as_posix()
        for known in self._pictures():
            about = self.own / "pictures" / known.id / "about.json"
            if known.path == name and about.stat().st_mtime_ns > file.stat().st_mtime_ns:
                return known  # already opened by another tab, and not changed since
        return self._keep_picture(new_id(), Path(name).name, name, Picture.read(file))

    def add(self, name: str, data: bytes) -> PictureRecord:
        """Keep an uploaded picture; the file stays unchanged.

        Raises:
            EditkitError: it is not a picture, or too large.
        """
        if self._count("pictures") >= self.bounds.pictures:
            raise RefusedRequest(507, "the studio holds as many pictures as it may; delete some")
        picture = self.read(data)
        id_ = new_id()
        place = self.own / "pictures" / id_
        place.mkdir()
        file = place / safe_name(name, (picture.meta.format or "png").lower())
        try:
            save_bytes(file, data)
            path = file.relative_to(self.folder).as_posix()
            return self._keep_picture(id_, file.name, path, picture)
        except EditkitError:
            shutil.rmtree(place, ignore_errors=True)
            raise

    def read(self, data: bytes) -> Picture:
        """Decode a picture no larger than the studio accepts.

        Raises:
            EditkitError: it is not a picture, or too large.
        """
        import io

        from PIL import Image

        pixels = 0  # the error is raised below
        with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=known_formats()) as seen:
            pixels = seen.width * seen.height
        if pixels > self.bounds.pixels:
            raise RefusedRequest(413, f"a picture of {pixels} pixels; at most {self.bounds.pixels} are accepted here")
        return Picture.read(data)

    def _keep_picture(self, id_: str, name: str, path: str, picture: Picture) -> PictureRecord:
        record = describe_picture(id_, name, path, picture)
        place = self.own / "pictures" / id_
        place.mkdir(exist_ok=True)
        _write(place / "about.json", record)
        return record

    def picture(self, id_: str) -> PictureRecord:
        """Return a picture, or the result of an edit.

        Raises:
            Refused: none has that id.
        """
        edit = self._edits.get(id_)
        if edit is not None and edit.result is not None:
            return edit.result
        found = _read(self._place("pictures", id_) / "about.json", PictureRecord)
        if found is None:
            raise RefusedRequest(404, "there is no such picture")
        return found

    def file(self, picture: PictureRecord) -> Path:
        """Return the file of a picture.

        Raises:
            Refused: it was deleted.
        """
        return self.inside(picture.path)

    def _pictures(self) -> Iterator[PictureRecord]:
        for place in (self.own / "pictures").iterdir():
            found = _read(place / "about.json", PictureRecord)
            if found is not None:
                yield found

    # masks

    def add_mask(self, data: bytes) -> str:
        """Keep a mask, a PNG file, and return its id; equal masks get the same, so that equal edits read the same."""
        id_ = hashlib.sha256(data).hexdigest()[:16]
        file = self.own / "masks" / f"{id_}.png"
        if not file.exists():
            if self._count("masks") >= self.bounds.masks:
                raise RefusedRequest(507, "the studio holds as many masks as it may; delete some")
            save_bytes(file, data, force=True)
        return id_

    def mask(self, id_: str) -> Path:
        """Return the file of a mask.

        Raises:
            Refused: none has that id.
        """
        file = self.own / "masks" / f"{id_}.png"
        if not ID.fullmatch(id_) or not file.is_file() or file.is_symlink():
            raise RefusedRequest(404, "there is no such mask")
        return file

    # edits

    def edits(self) -> list[EditRecord]:
        """Return all edits in the order of their requests."""
        with self._lock:
            return sorted(self._edits.values(), key=lambda edit: (edit.created, edit.id))

    def edit(self, id_: str) -> EditRecord:
        """Return one edit.

        Raises:
            Refused: none has that id.
        """
        found = self._edits.get(id_)
        if found is None:
            raise RefusedRequest(404, "there is no such edit")
        return found

    def keep_edit(self, edit: EditRecord) -> None:
        """Write the current state of an edit."""
        place = self.own / "edits" / edit.id
        with self._lock:
            if edit.id not in self._edits:
                if len(self._edits) >= self.bounds.edits:
                    raise RefusedRequest(507, "the studio holds as many edits as it may; delete some")
                place.mkdir()
            _write(place / "edit.json", edit)
            self._edits[edit.id] = edit

    def forget(self, id_: str) -> None:
        """Delete an edit and its result.

        Raises:
            Refused: it is still running, or other edits start from its result.
        """
        edit = self.edit(id_)
        if edit.state not in ENDED:
            raise RefusedRequest(409, "this edit is still running; stop it first")
        if any(other.picture == id_ for other in self._edits.values()):
            raise RefusedRequest(409, "other edits start from this result; delete those first")
        with self._lock:
            del self._edits[id_]
        shutil.rmtree(self.own / "edits" / id_, ignore_errors=True)

    def result_place(self, id_: str) -> Path:
        """Return the folder of an edit."""
        return self.own / "edits" / id_

    def _found(self) -> Iterator[EditRecord]:
        """Yield the edits of an earlier server; mark unfinished ones as interrupted."""
        for place in (self.own / "edits").iterdir():
            edit = _read(place / "edit.json", EditRecord)
            if edit is None or edit.id != place.name:
                continue
            if edit.state not in ENDED:
                edit = edit.model_copy(update={"state": "interrupted", "error": "the server stopped before the edit"})
                _write(place / "edit.json", edit)
            yield edit

    def _place(self, part: str, id_: str) -> Path:
        if not ID.fullmatch(id_):
            raise RefusedRequest(404, "nothing has that name")
        return self.own / part / id_

    def _count(self, part: str) -> int:
        return sum(1 for _ in (self.own / part).iterdir())


def describe_picture(id_: str, name: str, path: str, picture: Picture) -> PictureRecord:
    """Return the record of a picture."""
    return PictureRecord(
        id=id_,
        name=name,
        path=path,
        width=picture.width,
        height=picture.height,
        depth=8 * picture.pixels.itemsize,
        alpha=picture.alpha is not None,
        format=picture.meta.format,
        notices=tuple(picture.meta.notices),
    )


def safe_name(name: str, ending: str) -> str:
    """Make a file name from the letters, digits, dashes and dots of the last part of `name`."""
    last = re.split(r"[/\\]", name)[-1]
    stem, _, suffix = last.rpartition(".")
    if f".{suffix.lower()}" not in PICTURES:
        stem, suffix = last, ending
    stem = re.sub(r"[^\w-]+", "-", stem, flags=re.ASCII).strip("-._")[:60]
    return f"{stem or 'picture'}.{suffix.lower()}"


def _write(path: Path, record: BaseModel) -> None:
    save_bytes(path, record.model_dump_json().encode(), force=True)


def _read(path: Path, kind: type[R]) -> R | None:
    """Read a record; None if it is missing or incomplete."""
    try:
        return kind.model_validate_json(read_limited_bytes(path))
    except (OSError, ValidationError, ValueError):  # also a pipe or a device in somebody else's folder
        return None
