"""`--watch`: repeat an edit whenever one of its input files changes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

from editkit.cli.console import say
from editkit.errors import EditkitError

PAUSE = 0.3
"""Seconds between two checks."""

Stamp = Mapping[str, tuple[int, int] | None]
"""The modification time and size of each file; None if it does not exist."""


def file_states(files: Sequence[str]) -> Stamp:
    """Return the time and size of each of `files`."""
    return {file: _file_state(file) for file in files}


def _file_state(file: str) -> tuple[int, int] | None:
    try:
        state = os.stat(file)
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


def run_on_changes(jobs: Sequence[tuple[Sequence[str], Callable[[bool], None]]]) -> int:
    """Run each job, and repeat it when one of its files changes, until Ctrl-C.

    Args:
        jobs: for each, its input files and a function, called with True on the first run.

    Raises:
        EditkitError: in the first run; later errors are only reported.
    """
    seen = [file_states(files) for files, _ in jobs]
    for _, job in jobs:
        job(True)
    say("watching; Ctrl-C stops it")
    try:
        while True:
            time.sleep(PAUSE)
            for k, (files, job) in enumerate(jobs):
                now = file_states(files)
                if now == seen[k] or None in now.values():
                    continue
                time.sleep(PAUSE)
                if file_states(files) != now:
                    continue  # the file is still being written
                seen[k] = now
                try:
                    job(False)
                except EditkitError as error:
                    say("error: " + " ".join(str(error).split()))
    except KeyboardInterrupt:
        return 0
