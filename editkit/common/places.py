"""Folders of the user. A service or a container may run as nobody, without a home: then nothing is kept or found."""

from __future__ import annotations

import os
from pathlib import Path

NOWHERE = Path(os.devnull)
"""No file can lie below it: whoever looks finds nothing, whoever writes gets an OSError."""


def home() -> Path:
    """The user's home; `NOWHERE` where there is none."""
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        return NOWHERE


def cache() -> Path:
    """Where what can be made again is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "editkit"


def settings() -> Path:
    """Where the user's settings lie."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or home() / ".config") / "editkit"


def expanded(path: str | Path) -> Path:
    """`path` with the user's home for ~; as it is where there is none."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, KeyError):
        return Path(path)
