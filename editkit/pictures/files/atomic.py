"""Write files completely or not at all."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import stat
from pathlib import Path

from editkit.errors import PictureError


def save_bytes(path: Path, data: bytes, *, force: bool = False) -> None:
    """Write `data` to `path` atomically: no reader ever sees a partial file, and a failure leaves the old one.

    Without `force` the file is linked into place, which fails if the name has been taken in the meantime.
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
            _put_in_place(temporary, target, force)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
    except FileExistsError:
        raise PictureError(f"{path}: exists already; give another name, or `force` to replace it (--force)") from None
    except OSError as error:
        old = "; the file that was there is as it was" if target.exists() else "; nothing was written"
        raise PictureError(f"{path}: cannot be written: {error.strerror}{old}") from None


def keep_backup(path: Path) -> Path:
    """Rename the file at `path` to PATH~ (PATH~2 ... if that is taken), before it is replaced.

    Raises:
        PictureError: it cannot be renamed; nothing has changed.
    """
    target = os.path.realpath(path)
    names = (path.with_name(f"{path.name}~{'' if k == 1 else k}") for k in itertools.count(1))
    kept = next(name for name in names if not os.path.lexists(name))
    try:
        try:
            os.link(target, kept)
        except OSError:  # a file system without hard links, or another one
            shutil.copy2(target, kept)
    except OSError as error:
        raise PictureError(f"{kept}: cannot be written: {error.strerror}; {path} is as it was") from None
    return kept


def _put_in_place(temporary: Path, target: Path, force: bool) -> None:
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
