"""Telling the user something, in one line."""

from __future__ import annotations

from collections.abc import Callable

Notify = Callable[[str], None]
"""Tells the user something, in one line."""


def silent(message: str) -> None:
    """Tell nobody."""
