"""The bounded queue of edits and its workers, one for each device.

Tabs take turns: one that has queued a hundred edits delays another tab's first edit by only one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable

from editkit.cli.studio.config import Bounds, RefusedRequest


class Stop:
    """Tells a running edit to stop. Can be set from any thread."""

    def __init__(self) -> None:
        self._flag = threading.Event()

    def set(self) -> None:
        self._flag.set()

    def __bool__(self) -> bool:
        return self._flag.is_set()


Work = Callable[[str, str, Stop], None]
"""(edit, device, stop): run the edit; raises nothing."""


class Queue:
    """The queue of edits, by id.

    Args:
        work: runs one edit.
        dropped: called with an edit that was removed before it began.
    """

    def __init__(self, bounds: Bounds, work: Work, dropped: Callable[[str], None]) -> None:
        self.bounds, self.work, self.dropped = bounds, work, dropped
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[str]] = OrderedDict()
        self._running: dict[str, tuple[str, Stop]] = {}
        self._ended = False
        self._threads: list[threading.Thread] = []

    def start(self, devices: tuple[str, ...]) -> None:
        """Start one worker for each of `devices`."""
        for device in devices:
            thread = threading.Thread(target=self._serve, args=(device,), name=f"studio-{device}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def end(self, patience: float = 10.0) -> None:
        """Accept no more edits; tell the running ones to stop, and wait for them."""
        with self._changed:
            self._ended = True
            for _, stop in self._running.values():
                stop.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(patience)

    def add(self, edit: str, tab: str) -> None:
        """Queue an edit of `tab` behind its others.

        Raises:
            Refused: too many edits wait already.
        """
        with self._changed:
            if sum(map(len, self._waiting.values())) >= self.bounds.waiting:
                raise RefusedRequest(429, f"{self.bounds.waiting} edits are already waiting; wait for one to end")
            own = self._waiting.setdefault(tab, deque())
            if len(own) >= self.bounds.waiting_of_one:
                raise RefusedRequest(429, f"{len(own)} edits of this tab are already waiting; wait for one to end")
            own.append(edit)
            self._changed.notify()

    def cancel(self, edit: str) -> None:
        """Remove a waiting edit, or tell a running one to stop."""
        with self._changed:
            running = self._running.get(edit)
            if running is not None:
                running[1].set()
                return
            found = any(self._remove_waiting(edit, tab) for tab in list(self._waiting))
        if found:
            self.dropped(edit)

    def close(self, tab: str) -> None:
        """Cancel the edits of a tab that was closed."""
        with self._changed:
            gone = list(self._waiting.pop(tab, ()))
            for owner, stop in self._running.values():
                if owner == tab:
                    stop.set()
        for edit in gone:
            self.dropped(edit)

    def before(self, edit: str) -> int | None:
        """Return how many edits run before this one; None if it is not waiting."""
        with self._changed:
            return next((k for k, waiting in enumerate(self._round_robin()) if waiting == edit), None)

    def tabs(self) -> frozenset[str]:
        """Return the tabs that have an edit here."""
        with self._changed:
            return frozenset(self._waiting) | {tab for tab, _ in self._running.values()}

    def _round_robin(self) -> list[str]:
        rows = [list(own) for own in self._waiting.values()]
        longest = max(map(len, rows), default=0)
        return [row[k] for k in range(longest) for row in rows if k < len(row)]

    def _remove_waiting(self, edit: str, tab: str) -> bool:
        own = self._waiting[tab]
        if edit not in own:
            return False
        own.remove(edit)
        if not own:
            del self._waiting[tab]
        return True

    def _next(self) -> tuple[str, str, Stop] | None:
        """Return the next edit and its tab, which moves to the end of the queue; None: no more will come."""
        with self._changed:
            while not self._waiting and not self._ended:
                self._changed.wait()
            if self._ended:
                return None
            tab, own = self._waiting.popitem(last=False)
            edit = own.popleft()
            if own:
                self._waiting[tab] = own
            stop = Stop()
            self._running[edit] = (tab, stop)
            return edit, tab, stop

    def _serve(self, device: str) -> None:
        while (taken := self._next()) is not None:
            edit, _, stop = taken
            try:
                self.work(edit, device, stop)
            finally:
                with self._changed:
                    del self._running[edit]
