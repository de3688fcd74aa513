"""A lease that allows one run at a time per target where files cannot be locked.

A new run creates an object with the next number, which only one can do, and keeps updating it. While the object with
the highest number is being updated, other runs are refused; if it has not changed for `TTL` seconds by a run's own
clock, that run creates the next number. So clocks need not agree. A run that was disconnected for long finds the higher
number and stops, and so do its workers, which check before they write a result.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from editkit.batch.stores import Store
from editkit.errors import PictureError, UsageError

FOLDER = ".editkit/lease"
TTL = 60.0
"""Seconds without an update after which a run counts as dead."""


def name_of(number: int) -> str:
    """Return the object's name for a run's number."""
    return f"{FOLDER}/{number:08}.json"


def is_lost(store: Store, number: int) -> bool:
    """Whether another run has taken over."""
    return store.read(name_of(number + 1)) is not None


class Lease:
    """A lease on a target; `number` is this run's."""

    def __init__(self, store: Store, number: int) -> None:
        self.store, self.number = store, number
        self.lost = False
        self._mine = {
            "who": f"{socket.gethostname()} process {os.getpid()}",
            "life": _process_id(),
            "token": secrets.token_hex(8),
        }
        self._end = threading.Event()

    def take(self) -> None:
        """Acquire the lease. Raises UsageError if another run was faster, or the store ignores conditions."""
        name, mine = name_of(self.number), self._text(0)
        if not self.store.create(name, mine):
            raise UsageError(
                f"{self.store.address}: another batch has just begun here; wait for it, or name another OUT"
            )
        if self.store.create(name, self._text(-1)):
            raise UsageError(
                f"{self.store.address}: this service puts an object over one that is there though it is asked not to "
                "(If-None-Match), so nothing could be promised; name another OUT"
            )

    def _text(self, beat: int) -> bytes:
        return json.dumps({**self._mine, "beat": beat}).encode()

    def keep(self) -> None:
        """Update the lease until the end; runs in a thread."""
        beat, since = 0, time.monotonic()
        while not self._end.wait(TTL / 6):
            beat += 1
            try:
                if is_lost(self.store, self.number):
                    self.lost = True
                    return
                self.store.replace(name_of(self.number), self._text(beat))
                since = time.monotonic()
            except PictureError:
                if time.monotonic() - since > TTL:
                    self.lost = True
                    return

    def end(self) -> None:
        """Make `keep` return."""
        self._end.set()

    def give_back(self) -> None:
        """Release the lease for the next run. Call it only after `keep` has returned."""
        if not self.lost:
            with contextlib.suppress(PictureError):
                self.store.replace(name_of(self.number), json.dumps({**self._mine, "released": True}).encode())


@contextmanager
def hold_lease(store: Store) -> Iterator[Lease]:
    """Hold a lease on a store for the block.

    Raises:
        UsageError: another run is active there.
    """
    lease = Lease(store, _last_free_number(store) + 1)
    lease.take()
    thread = threading.Thread(target=lease.keep, daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        lease.end()
        thread.join(timeout=5)
        lease.give_back()


def _last_free_number(store: Store) -> int:
    """Return the highest number of an ended or dead run, 0 for none."""
    number = max((int(name.rpartition("/")[2][:8]) for name, _ in store.names(FOLDER)), default=0)
    if number == 0:
        return 0
    first = store.read(name_of(number))
    body = _parse_lease(first)
    if body.get("released") or _has_ended(body):
        return number
    until = time.monotonic() + TTL
    while time.monotonic() < until:
        time.sleep(TTL / 12)
        if store.read(name_of(number)) != first or store.read(name_of(number + 1)) is not None:
            raise UsageError(
                f"{store.address}: another batch is at work here ({str(body.get('who', 'unknown'))[:100]}); "
                "wait for it, or name another OUT"
            )
    return number


def _parse_lease(data: bytes | None) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(data or b"{}")
        return found if isinstance(found, dict) else {}
    return {}


def _process_id() -> str:
    """Return a unique id of this process: its number, namespace and start time."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        began = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {os.getpid()} {began}"
    except OSError:
        return ""


def _has_ended(body: dict[str, Any]) -> bool:
    """Whether a run on this machine has ended without releasing its lease."""
    mine, its = _process_id().split(), str(body.get("life", "")).split()
    if len(mine) != 4 or len(its) != 4 or its[:2] != mine[:2] or not its[2].isdigit():
        return False
    try:
        state = Path(f"/proc/{its[2]}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return True
    return state[0] == "Z" or state[19] != its[3]
