"""Where the command line writes: results and tables to standard output, everything else to standard error."""

from __future__ import annotations

import errno
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


LONGEST = 1200
"""Characters of a message: some list every option there is, none quotes more of what was given."""


@cache
def out() -> Console:
    """Tables and answers."""
    from rich.console import Console

    return Console(highlight=False)


@cache
def err() -> Console:
    """Progress, notices, errors: never mixed with a picture on standard output."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def printable(text: str, *, newlines: bool = True) -> str:
    """`text` without what moves a terminal's cursor, hides or turns round what stands beside it: names of files,
    recipes and provenance are strangers' words. `newlines`: line ends stay; else they are shown as such characters are.
    """
    return "".join(c if c.isprintable() or (newlines and c == "\n") else "?" for c in text)


def bounded(text: str) -> str:
    """`text` as one line of at most `LONGEST` characters; of a longer one its beginning and its end, where it says what
    to do.
    """
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST * 2 // 3]} ... {line[5 - LONGEST // 3 :]}"


def table(*heads: str) -> Table:
    """A table to be printed to `out()`; its rows come by `row`."""
    from rich.table import Table

    return Table(*heads, box=None, pad_edge=False)


def row(into: Table, *cells: str) -> None:
    """One row of `into`, of strangers' words like everything else that is listed."""
    from rich.markup import escape

    into.add_row(*(escape(printable(cell, newlines=False)) for cell in cells))


def say(message: str) -> None:
    """One line on standard error, whatever the terminal's width."""
    sys.stderr.write(printable(message.rstrip("\n"), newlines=False) + "\n")
    sys.stderr.flush()


def write(line: str) -> None:
    """Lines on standard output, whatever the terminal's width."""
    if sys.stdout is None:  # closed before editkit began
        raise OSError(errno.EIO, "it is closed")
    sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()
