"""Small files - recipes, settings, tables, configurations - read completely, up to a limit, without blocking.

In an untrusted folder such a file may be an endless device or a pipe without a writer.
"""

from __future__ import annotations

import errno
import stat
from pathlib import Path

MOST = 64 << 20
"""Most bytes of a configuration or a table; recipes and settings have their own limits."""


def read_limited_bytes(path: str | Path, most: int = MOST, *, pipe: bool = False) -> bytes:
    """Read a file of at most `most` bytes.

    Args:
        pipe: allow a pipe, such as `<(command)` of a shell, for files that the user named.

    Raises:
        OSError: it cannot be read, is not a file (a device, a folder, a pipe), or has more bytes; see `strerror`.
    """
    mode = Path(path).stat().st_mode
    if not (stat.S_ISREG(mode) or (pipe and stat.S_ISFIFO(mode))):
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    with Path(path).open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"has more than {most} bytes, the most that is read", str(path))
    return data


def read_limited_text(path: str | Path, most: int = MOST, *, pipe: bool = False) -> str:
    """Read a file as text, without a byte order mark.

    Raises:
        OSError: see `read_limited_bytes`.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_limited_bytes(path, most, pipe=pipe).decode("utf-8-sig")
