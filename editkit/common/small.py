"""Small files - recipes, settings, tables, configurations - read whole, up to a limit, and without waiting for data.

What a stranger's folder holds under such a name may be a device that never ends or a pipe into which nobody writes.
"""

from __future__ import annotations

import errno
import stat
from pathlib import Path

MOST = 64 << 20
"""Bytes of a configuration or a table that are read; recipes and settings have bounds of their own."""


def small_bytes(path: str | Path, most: int = MOST, *, pipe: bool = False) -> bytes:
    """All of a file of at most `most` bytes.

    Args:
        pipe: what a person named may be a pipe, as `<(command)` of a shell; what a folder holds may not.

    Raises:
        OSError: it cannot be read, is not a file (a device, a folder, a pipe), or has more bytes; `strerror` says it.
    """
    mode = Path(path).stat().st_mode
    if not (stat.S_ISREG(mode) or (pipe and stat.S_ISFIFO(mode))):
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    with Path(path).open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"has more than {most} bytes, the most that is read", str(path))
    return data


def small_text(path: str | Path, most: int = MOST, *, pipe: bool = False) -> str:
    """The same as text. A byte order mark, as some editors write, is none of it.

    Raises:
        OSError: as `small_bytes`.
        UnicodeDecodeError: it is not UTF-8.
    """
    return small_bytes(path, most, pipe=pipe).decode("utf-8-sig")
