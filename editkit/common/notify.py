"""One-line notices to the user."""

from __future__ import annotations

from collections.abc import Callable

Notify = Callable[[str], None]
"""Shows a one-line notice to the user."""


def silent(message: str) -> None:
    """Ignore a notice."""
