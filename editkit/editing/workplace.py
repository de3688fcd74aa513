"""The folder that stores the frames of a video until the video is written, so that a second run can continue.

`TARGET.frames/` contains `edit.json`, which identifies the edit that the frames belong to; the frames `000000.png` and
so on, each written atomically; and for each frame `000000.json` with its time. If holes are filled from other frames,
`000000.from.png` stores the source of each pixel as a code, and the JSON file maps the codes to frames. If content was
generated in a frame and later stages follow, `000000.first.png` is the frame before them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from editkit.common.small import read_limited_bytes
from editkit.errors import PictureError, UsageError
from editkit.pictures.files.atomic import save_bytes
from editkit.pictures.files.clips import WRITTEN, Clip
from editkit.pictures.files.writing import check_distinct, check_place
from editkit.pictures.raster import Pixels
from editkit.plugin.chain import Chain
from editkit.plugin.declaration import Declaration
from editkit.plugin.params import params

if TYPE_CHECKING:
    from editkit.editing.frames import Origin

IDENTITY_FILE = "edit.json"

FORMAT_VERSION = 2
"""Version of the folder format; frames in another version are not continued."""


def folder_of(target: Path) -> Path:
    """Return the folder that stores the frames of `target` while it is made."""
    return target.with_name(target.name + ".frames")


@dataclass(frozen=True)
class Workplace:
    """The folder with the frames of one edit. `target` is the resulting video."""

    target: Path
    folder: Path
    force: bool

    @classmethod
    def at(cls, target: Path, clip: Clip, chain: Chain, rest: tuple[Any, ...], *, force: bool) -> Workplace:
        """Open the folder of an edit: a new one, or that of an interrupted run.

        Raises:
            UsageError: the target's format cannot be written, or the target is the source itself.
            PictureError: the target exists already, or the frames beside it belong to another edit.
        """
        if target.suffix.lower() not in WRITTEN:
            raise UsageError(f"{target}: videos are written as {', '.join(WRITTEN)} (.mkv: lossless); name such a file")
        if os.path.realpath(target) == os.path.realpath(clip.path):
            raise UsageError(f"{target}: is the input video; give the result another name")
        check_distinct({"--output": target}, [file for value in _picture_parameters(chain) for file in _files(value)])
        check_place(target, force=force)
        place = cls(target, folder_of(target), force)
        identity = json.dumps({"edit": _digest(clip, chain, rest), "kept": FORMAT_VERSION}).encode()
        known = place.folder / IDENTITY_FILE
        if place.folder.is_symlink():  # the folder behind it would be filled and removed
            raise PictureError(f"{place.folder}: is a link, but frames must be stored there; name another result")
        if os.path.lexists(known):
            if not _contains_exactly(known, identity):
                raise PictureError(f"{place.folder}: holds frames of another edit; remove it, or name another result")
        else:
            try:
                place.folder.mkdir()
            except FileExistsError:
                if not place.folder.is_dir() or any(place.folder.iterdir()):  # empty: the run was killed at its start
                    raise PictureError(
                        f"{place.folder}: exists, but was not made by editkit; name another result"
                    ) from None
            save_bytes(known, identity)
        return place

    def frame(self, index: int) -> Pixels | None:
        """Return a finished frame, (H, W, 3), or None if it is not finished."""
        path = self._path(index)
        return _read_picture(path) if path.exists() and path.with_suffix(".json").exists() else None

    def load_filled(self, index: int) -> tuple[Pixels, Origin] | None:
        """Return (the filled pixels of a finished frame before later stages, their sources), or None."""
        made = self.frame(index)
        if made is None:
            return None
        codes, path = _read_picture(self._path(index, "from")), self._path(index, "first")
        names = np.array([0, *_read_facts(self._path(index))["from"]], np.int32)
        return _read_picture(path) if path.exists() else made, names[codes[..., 0]]

    def store_frame(
        self, index: int, time: Fraction, pixels: Pixels, origin: Origin | None = None, first: Pixels | None = None
    ) -> None:
        """Store a finished frame; `origin`: the sources of filled pixels; `first`: the frame before later stages."""
        facts: dict[str, Any] = {"time": [time.numerator, time.denominator]}
        if origin is not None:
            names = [int(name) for name in np.unique(origin) if name]
            codes = np.searchsorted(np.array(names), origin) + 1 if names else origin
            facts["from"] = names
            _save(self._path(index, "from"), np.where(origin, codes, 0).astype(np.uint8)[..., None].repeat(3, 2))
        if first is not None:
            _save(self._path(index, "first"), first)
        _save(self._path(index), pixels)
        save_bytes(self._path(index).with_suffix(".json"), json.dumps(facts).encode(), force=True)

    def finished(self, count: int) -> Iterator[tuple[Fraction, Pixels]]:
        """Yield (time, pixels) of every frame in order."""
        for index in range(count):
            pixels = self.frame(index)
            assert pixels is not None
            yield Fraction(*_read_facts(self._path(index))["time"]), pixels

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder for this process; the lock is released however the process ends.

        Raises:
            PictureError: another process has locked it.
        """
        with open(self.folder / IDENTITY_FILE, "rb") as file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:  # this system has no such lock
                pass
            except BlockingIOError:
                raise PictureError(f"{self.folder}: is in use by another run; wait for it to end") from None
            yield

    @contextmanager
    def remove_if_empty(self) -> Iterator[None]:
        """Remove the folder if the work inside fails before a frame is finished."""
        try:
            yield
        except BaseException:
            if not any(self.folder.glob("*.png")):
                shutil.rmtree(self.folder)
            raise

    @contextmanager
    def replace_target(self) -> Iterator[Path]:
        """Yield a temporary file for the video; then move it to the target, and remove the frames."""
        part = self.folder / f"whole{self.target.suffix.lower()}"
        yield part
        if self.force:
            os.replace(part, self.target)
        else:
            try:
                os.link(part, self.target)
            except FileExistsError:
                raise PictureError(f"{self.target}: exists already; --force replaces it") from None
            except OSError:  # a file system without hard links
                os.rename(part, self.target)
        shutil.rmtree(self.folder)

    def _path(self, index: int, what: str = "") -> Path:
        return self.folder / f"{index:06}{what and '.'}{what}.png"


def _read_facts(path: Path) -> dict[str, Any]:
    """Read the stored facts of a frame."""
    facts: dict[str, Any] = json.loads(path.with_suffix(".json").read_bytes())
    return facts


def _read_picture(path: Path) -> Pixels:
    made = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if made is None:
        raise PictureError(f"{path}: is broken; remove it, and run the same command again")
    return np.ascontiguousarray(made[..., ::-1])


def _save(path: Path, pixels: Pixels) -> None:
    fine, encoded = cv2.imencode(".png", pixels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert fine
    save_bytes(path, encoded.tobytes(), force=True)


def _contains_exactly(file: Path, data: bytes) -> bool:
    """Return whether `file` is a regular file that contains exactly `data`."""
    try:
        return not file.is_symlink() and read_limited_bytes(file, len(data)) == data
    except OSError:
        return False


def _picture_parameters(chain: Chain) -> Iterator[Any]:
    """Yield every picture and mask parameter of the chain's plugins."""
    for stage in chain.stages:
        for plugin in stage.plugins:
            for param in params(type(plugin)):
                if param.metavar in ("MASK", "AREA", "PICTURE"):
                    value = getattr(plugin, param.name)
                    yield from value if isinstance(value, tuple) else (value,)


def _files(source: Any) -> list[Path]:
    """Return the file of a picture or mask, or the files of a folder; none for mask words and arrays."""
    if not isinstance(source, str | Path) or not os.path.exists(source):
        return []
    if os.path.isdir(source):
        return sorted(path for path in Path(source).iterdir() if path.is_file())
    return [Path(source)]


def _digest(clip: Clip, chain: Chain, rest: tuple[Any, ...]) -> str:
    """Hash everything that the frames depend on, including the contents of files and arrays."""
    total = hashlib.sha256(_file_digest(clip.path))
    for source in _picture_parameters(chain):
        files = _files(source)
        for path in files:
            total.update(_file_digest(path))
        if not files and source is not None and not isinstance(source, str):
            pixels = np.asarray(getattr(source, "pixels", source))
            total.update(f"{pixels.shape} {pixels.dtype} ".encode() + pixels.tobytes())
    stages = [
        [stage.options.model_dump(exclude_unset=True), [(p.name, _explicit_parameters(p)) for p in stage.plugins]]
        for stage in chain.stages
    ]
    text = json.dumps(stages, sort_keys=True, default=repr)
    total.update(f"{text} {rest!r}".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _explicit_parameters(plugin: Declaration) -> dict[str, Any]:
    """Return the explicitly set parameters of a plugin as text; arrays are hashed separately."""
    values = {key: getattr(plugin, key) for key in sorted(plugin.model_fields_set)}
    return {key: "" if hasattr(value, "shape") or hasattr(value, "size") else value for key, value in values.items()}


def _file_digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
