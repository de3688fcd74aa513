"""The progress of edits: a bounded list of numbered events, and the latest estimates as pictures."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Any

MOST_EVENTS = 4000
MOST_ESTIMATES = 8
"""Estimates of one edit that can still be fetched."""


@dataclass(frozen=True)
class Event:
    """One event. `kind`: state, progress, notice, estimate, or gone."""

    number: int
    edit: str
    kind: str
    data: dict[str, Any]


class Board:
    """The events; worker threads write them, streams read them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._last = 0
        self._estimates: OrderedDict[str, OrderedDict[int, bytes]] = OrderedDict()
        self._progress: dict[str, dict[str, Any]] = {}

    @property
    def last(self) -> int:
        """The number of the newest event."""
        return self._last

    def tell(self, edit: str, kind: str, **data: Any) -> int:
        """Add an event of `edit` and return its number."""
        with self._lock:
            self._last += 1
            self._events.append(Event(self._last, edit, kind, data))
            if kind == "progress":
                self._progress[edit] = data
            return self._last

    def since(self, number: int, edit: str | None = None) -> tuple[list[Event], bool]:
        """Return the events after `number` (of one edit), and whether earlier ones have been dropped."""
        if number == self._last:
            return [], False
        with self._lock:
            lost = bool(self._events) and number < self._events[0].number - 1
            found = [e for e in self._events if e.number > number and edit in (None, e.edit)]
        return found, lost or number > self._last

    def show(self, edit: str, picture: bytes, **data: Any) -> None:
        """Add an estimate of `edit`."""
        number = self.tell(edit, "estimate", **data)
        with self._lock:
            kept = self._estimates.setdefault(edit, OrderedDict())
            kept[number] = picture
            while len(kept) > MOST_ESTIMATES:
                kept.popitem(last=False)

    def estimate(self, edit: str, number: int) -> bytes | None:
        """Return the picture of one estimate while it is kept."""
        with self._lock:
            kept = self._estimates.get(edit)
            return None if kept is None else kept.get(number)

    def progress(self, edit: str) -> dict[str, Any]:
        """Return the last progress of `edit`; empty before the first report and after its end."""
        with self._lock:
            return self._progress.get(edit, {})

    def forget(self, edits: Iterable[str]) -> None:
        """Drop the estimates and the progress of these edits."""
        with self._lock:
            for edit in edits:
                self._estimates.pop(edit, None)
                self._progress.pop(edit, None)
