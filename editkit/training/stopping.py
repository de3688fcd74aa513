"""On a stop signal, a run finishes its step and writes its checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signals() -> Iterator[list[str]]:
    """Collect SIGINT and SIGTERM in a list; the loop then ends with a checkpoint."""
    seen: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(signal.Signals(number).name)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
