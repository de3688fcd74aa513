"""Folders of the user. A service or a container may have no home folder; then nothing is stored or found."""

from __future__ import annotations

import os
from pathlib import Path

NOWHERE = Path(os.devnull)
"""A path below which no file can exist: reading finds nothing, writing raises OSError."""


def home() -> Path:
    """Return the user's home folder; `NOWHERE` if there is none."""
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        return NOWHERE


def cache() -> Path:
    """Return the folder for data that can be recomputed."""
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "editkit"


def settings() -> Path:
    """Return the folder of the user's settings."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or home() / ".config") / "editkit"


def expand_path(path: str | Path) -> Path:
    """Replace ~ by the user's home folder, if there is one."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, KeyError):
        return Path(path)
