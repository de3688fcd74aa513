"""One run at a time for one target, where nothing can be locked.

Each run that begins puts an object with the next number, which only one can do, and keeps writing to it. Whoever finds
the highest number still being written is refused; whoever sees nothing new in it for `TTL` seconds, by its own clock,
puts the next number. So clocks need not agree, and a run that was cut off for long finds that a higher number is there
and stops, its workers too: they look before they put a result into place.
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
"""Seconds without a sign of life after which a run is taken for dead."""


def name_of(number: int) -> str:
    """The object of a run's number."""
    return f"{FOLDER}/{number:08}.json"


def is_lost(store: Store, number: int) -> bool:
    """Whether another run has taken over since."""
    return store.read(name_of(number + 1)) is not None


class Lease:
    """A hold on a target; `number` is this run's."""

    def __init__(self, store: Store, number: int) -> None:
        self.store, self.number = store, number
        self.lost = False
        self._mine = {
            "who": f"{socket.gethostname()} process {os.getpid()}",
            "life": _life(),
            "token": secrets.token_hex(8),
        }
        self._end = threading.Event()

    def take(self) -> None:
        """Raises UsageError where another was quicker, or the store does not refuse to put over what is there."""
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
        """Say that this run lives, until the end; to be run in a thread."""
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
        """Let `keep` come to its end."""
        self._end.set()

    def give_back(self) -> None:
        """The next run need not wait. Only after `keep` has ended, whose last word would be put over this one."""
        if not self.lost:
            with contextlib.suppress(PictureError):
                self.store.replace(name_of(self.number), json.dumps({**self._mine, "released": True}).encode())


@contextmanager
def held(store: Store) -> Iterator[Lease]:
    """A hold on a store, for the block.

    Raises:
        UsageError: another run is at work there.
    """
    lease = Lease(store, _free(store) + 1)
    lease.take()
    thread = threading.Thread(target=lease.keep, daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        lease.end()
        thread.join(timeout=5)
        lease.give_back()


def _free(store: Store) -> int:
    """The highest number there, 0 for none; its run has ended, or shows no sign of life any more."""
    number = max((int(name.rpartition("/")[2][:8]) for name, _ in store.names(FOLDER)), default=0)
    if number == 0:
        return 0
    first = store.read(name_of(number))
    body = _body(first)
    if body.get("released") or _is_dead(body):
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


def _body(data: bytes | None) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(data or b"{}")
        return found if isinstance(found, dict) else {}
    return {}


def _life() -> str:
    """What says whether a process of this machine still lives: its number, in this namespace, since this start."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        began = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {os.getpid()} {began}"
    except OSError:
        return ""


def _is_dead(body: dict[str, Any]) -> bool:
    """Whether a run of this very machine has ended without a word."""
    mine, its = _life().split(), str(body.get("life", "")).split()
    if len(mine) != 4 or len(its) != 4 or its[:2] != mine[:2] or not its[2].isdigit():
        return False
    try:
        state = Path(f"/proc/{its[2]}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return True
    return state[0] == "Z" or state[19] != its[3]
