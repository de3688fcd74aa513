"""Output of the command line: results and tables go to standard output, everything else to standard error."""

from __future__ import annotations

import errno
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


LONGEST = 1200
"""Largest length of a message in characters; some list all options."""


@cache
def out() -> Console:
    """Return the console for tables and answers."""
    from rich.console import Console

    return Console(highlight=False)


@cache
def err() -> Console:
    """Return the console for progress, notices and errors, which never mix with a picture on standard output."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def printable(text: str, *, newlines: bool = True) -> str:
    """Escape control characters and bidirectional marks in `text`, since file names and recipes are untrusted.

    `newlines`: keep line ends; else they are escaped as well.
    """
    return "".join(c if c.isprintable() or (newlines and c == "\n") else "?" for c in text)


def bounded(text: str) -> str:
    """Return `text` as one line of at most `LONGEST` characters, shortened in the middle: its end says what to do."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST * 2 // 3]} ... {line[5 - LONGEST // 3 :]}"


def table(*heads: str) -> Table:
    """Return a table for `out()`; add its rows with `row`."""
    from rich.table import Table

    return Table(*heads, box=None, pad_edge=False)


def row(into: Table, *cells: str) -> None:
    """Add a row to `into`, with its cells escaped."""
    from rich.markup import escape

    into.add_row(*(escape(printable(cell, newlines=False)) for cell in cells))


def say(message: str) -> None:
    """Print one line to standard error, without wrapping."""
    sys.stderr.write(printable(message.rstrip("\n"), newlines=False) + "\n")
    sys.stderr.flush()


def write(line: str) -> None:
    """Print lines to standard output, without wrapping."""
    if sys.stdout is None:  # closed before editkit began
        raise OSError(errno.EIO, "it is closed")
    sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()
