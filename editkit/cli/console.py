"""Where the command line writes: results and tables to standard output, everything else to standard error."""

from __future__ import annotations

import sys
from functools import cache

from rich.console import Console


@cache
def out() -> Console:
    """Tables and answers."""
    return Console(highlight=False)


@cache
def err() -> Console:
    """Progress, notices, errors: never mixed with a picture on standard output."""
    return Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """One line on standard error, whatever the terminal's width."""
    sys.stderr.write(message.rstrip("\n") + "\n")
    sys.stderr.flush()


def write(line: str) -> None:
    """One line on standard output, whatever the terminal's width."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
