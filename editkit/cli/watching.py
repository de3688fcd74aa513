"""`--watch`: an edit made again whenever what it reads has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

from editkit.cli.console import say
from editkit.errors import EditkitError

PAUSE = 0.3
"""Seconds between two looks."""

Stamp = Mapping[str, tuple[int, int] | None]
"""Of each file the time of its change and its size; None where it is not there."""


def stamp(files: Sequence[str]) -> Stamp:
    """What is seen of `files` from outside."""
    return {file: _seen(file) for file in files}


def _seen(file: str) -> tuple[int, int] | None:
    try:
        state = os.stat(file)
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


def again_and_again(jobs: Sequence[tuple[Sequence[str], Callable[[bool], None]]]) -> int:
    """Do each job, and again when one of its files has changed, until Ctrl-C.

    Args:
        jobs: the files it reads, and what is to be done; that is told whether it is the first time.

    Raises:
        EditkitError: the first time; later ones are said, and waited on.
    """
    seen = [stamp(files) for files, _ in jobs]
    for _, job in jobs:
        job(True)
    say("watching; Ctrl-C ends it")
    try:
        while True:
            time.sleep(PAUSE)
            for k, (files, job) in enumerate(jobs):
                now = stamp(files)
                if now == seen[k] or None in now.values():
                    continue
                time.sleep(PAUSE)
                if stamp(files) != now:
                    continue  # it is being written
                seen[k] = now
                try:
                    job(False)
                except EditkitError as error:
                    say("error: " + " ".join(str(error).split()))
    except KeyboardInterrupt:
        return 0
