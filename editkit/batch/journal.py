"""The journal of a batch: append-only JSON lines in the output folder, each synced before it is relied on."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from editkit.errors import EditkitError, PictureError, UsageError

NAME = "editkit-batch.jsonl"
PARTS = ".editkit-parts"
"""Subfolder for results whose line is not yet in the journal."""

HOPELESS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""Errors after which no other picture can be written either."""


@dataclass(frozen=True)
class Done:
    """A finished picture: its name, its result's name, its seed, and the result's SHA-256 and size."""

    picture: str
    output: str
    seed: int
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Failed:
    """A failed picture and the reason. A resumed run tries it again."""

    picture: str
    error: str


_KINDS = {"picture": str, "output": str, "seed": int, "sha256": str, "bytes": int}


def earlier_run_error(path: object) -> UsageError:
    """Return the error for an existing journal without --resume or --force."""
    return UsageError(f"{path}: an earlier run was here; --resume goes on with it, --force begins anew")


def other_run_error(path: object) -> UsageError:
    """Return the error for a journal of a run with other settings."""
    return UsageError(f"{path}: is of a run with another recipe or other options; give those, or --force to begin anew")


class Journal:
    """An open journal; see `open_journal`."""

    def __init__(self, folder: Path, handle: int, done: dict[str, Done], force: bool) -> None:
        self.folder = folder
        self.done = done
        self._handle = handle
        self._force = force

    def settle(self, name: str, output: str) -> bool:
        """Whether the picture is done and its result, `output` of this folder, exists; finishes an interrupted rename.
        The journal may have been changed by anyone, so lines that name another file are ignored.
        """
        entry = self.done.get(name)
        if entry is None or entry.output != output:
            return False
        target, part = self.folder / output, self._part(name)
        if part.is_file() and not part.is_symlink():
            if hashlib.sha256(part.read_bytes()).hexdigest() == entry.sha256:
                os.replace(part, target)
                return True
            part.unlink()
        return target.is_file()

    def commit(self, entry: Done, data: bytes, target: Path) -> str | None:
        """Write `data` to `target` and record it in the journal, both or neither; return a one-line error, if any.

        Raises:
            PictureError: nothing can be written any more; finished pictures stay.
        """
        part = self._part(entry.picture)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and not self._force:
                return f"{target}: exists already; give --force to replace it"
            if target.is_dir():
                return f"{target}: is a folder; move it away"
            part.parent.mkdir(exist_ok=True)
            part.unlink(missing_ok=True)  # a link there would redirect the bytes
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            entry = replace(entry, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
            self._append({"state": "done", **asdict(entry)})
            self.done[entry.picture] = entry
            os.replace(part, target)
        except OSError as error:
            if entry.picture not in self.done:
                with contextlib.suppress(OSError):
                    part.unlink()
            if error.errno in HOPELESS:
                raise self._disk_full_error(error) from None
            return f"{target}: cannot be written: {error.strerror}"
        return None

    def failed(self, entry: Failed) -> None:
        """Record a failed picture.

        Raises:
            PictureError: the journal cannot be written to.
        """
        try:
            self._append({"state": "failed", **asdict(entry)})
        except OSError as error:
            raise self._disk_full_error(error) from None

    def _append(self, record: Mapping[str, Any]) -> None:
        """Append one complete line, synced; remove it again if it does not fit on the disk."""
        line = (json.dumps(record) + "\n").encode()
        end = os.lseek(self._handle, 0, os.SEEK_END)
        try:
            written = os.write(self._handle, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, end)
            raise

    def _part(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / PARTS / f"{digest[:32]}.part"

    def _disk_full_error(self, error: OSError) -> PictureError:
        return PictureError(
            f"{self.folder}: cannot be written to any more ({error.strerror}); {len(self.done)} pictures are done: "
            f"fix that and use --resume to continue"
        )


@contextlib.contextmanager
def open_journal(
    folder: Path, run: Mapping[str, Any], *, resume: bool = False, force: bool = False
) -> Iterator[Journal]:
    """Open the journal of `folder`, locked by this process.

    Args:
        run: what the results depend on; a resumed run must have the same.
        resume: continue an existing journal; without one, start.
        force: start again, even if there is one.

    Raises:
        UsageError: there is a journal without `resume` or `force`, it is another run's, or another process uses it.
        PictureError: the folder cannot be written to.
    """
    path = folder / NAME
    if path.exists() and not resume and not force:
        raise earlier_run_error(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (folder / PARTS).is_symlink():
            raise UsageError(f"{folder}: its journal is a link to somewhere else; move {NAME} and {PARTS} away")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise PictureError(f"{folder}: cannot be written to: {error.strerror}") from None
    try:
        journal = _begin_journal(folder, handle, path, run, resume, force)
        yield journal
        _remove_parts(folder / PARTS)
    finally:
        os.close(handle)


def _begin_journal(folder: Path, handle: int, path: Path, run: Mapping[str, Any], resume: bool, force: bool) -> Journal:
    """Start or continue the journal."""
    _lock(handle, folder)
    try:
        if not resume:
            os.ftruncate(handle, 0)
        journal = Journal(folder, handle, _read(handle, path, run), force)
        if os.fstat(handle).st_size == 0:
            os.write(handle, (json.dumps({"state": "run", **run}) + "\n").encode())
            os.fsync(handle)
    except OSError as error:
        raise PictureError(f"{folder}: cannot be written to: {error.strerror}") from None
    return journal


def _lock(handle: int, folder: Path) -> None:
    """Lock the journal until this process ends; the system releases the lock."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UsageError(f"{folder}: another batch is at work here; wait for it, or name another folder") from None


def _read(handle: int, path: Path, run: Mapping[str, Any]) -> dict[str, Done]:
    """Return the finished pictures; cut off an incomplete last line."""
    with os.fdopen(os.dup(handle), "rb") as file:
        file.seek(0)
        data = file.read()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.ftruncate(handle, whole)
    done: dict[str, Done] = {}
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            record = json.loads(line)
            state = record.pop("state")
            if state == "run" and record != dict(run):
                raise other_run_error(path)
            if state == "done":
                entry = Done(**record)
                if not all(isinstance(getattr(entry, key), kind) for key, kind in _KINDS.items()):
                    raise TypeError
                done[entry.picture] = entry
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise EditkitError(f"{path}: line {number} is damaged; --force begins anew") from None
    return done


def _remove_parts(parts: Path) -> None:
    """Remove incomplete results of a killed run."""
    if parts.is_dir():
        for part in parts.glob("*.part"):
            part.unlink()
        with contextlib.suppress(OSError):
            parts.rmdir()
