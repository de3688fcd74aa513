"""The journal of a batch in a store: one part per writer while it runs, one file at the end.

The workers' markers are authoritative (`delivery`). The driver records results in parts of some hundred lines,
`.editkit/journal/NUMBER-PART.jsonl`. At the end of the run it joins all parts, also those of interrupted runs, into
`editkit-batch.jsonl`, with the same lines as a batch in a folder, and deletes markers and parts.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from editkit.batch.catalog import Catalog
from editkit.batch.delivery import DONE, PARTS
from editkit.batch.engines import Result
from editkit.batch.journal import NAME, Done, Failed, earlier_run_error, other_run_error
from editkit.batch.lease import Lease, hold_lease
from editkit.batch.stores import Store
from editkit.errors import EditkitError, PictureError

RUN, JOURNAL = ".editkit/run.json", ".editkit/journal"
LINES, SECONDS = 500, 20.0
"""Lines, or seconds of lines, written at once: a killed driver loses them, but the markers remain."""


class Ledger:
    """An open journal in a store; see `open_ledger`."""

    def __init__(self, store: Store, catalog: Catalog, lease: Lease, run: Mapping[str, Any]) -> None:
        self.store, self.catalog, self.lease, self.run = store, catalog, lease, run
        self._waiting: list[dict[str, Any]] = []
        self._parts, self._since = 0, time.monotonic()

    def take(self, result: Result) -> None:
        """Record a written result or a failure.

        Raises:
            PictureError: another run has taken over, or nothing can be written any more.
        """
        if self.lease.lost:
            raise PictureError(
                f"{self.store.address}: this run's hold was lost (cut off for long, or another run has taken over); "
                "what is done stays done, --resume goes on"
            )
        if result.error is not None:
            record = {"state": "failed", **asdict(Failed(result.item.name, result.error))}
        else:
            assert result.done is not None
            record = {"state": "done", **asdict(result.done)}
        self._waiting.append(record)
        if len(self._waiting) >= LINES or time.monotonic() - self._since > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the recorded lines."""
        if self._waiting:
            self.catalog.keep(self._waiting)
            lines = "".join(json.dumps(record) + "\n" for record in self._waiting)
            self.store.replace(f"{JOURNAL}/{self.lease.number:08}-{self._parts:06}.jsonl", lines.encode())
            self._parts += 1
            self._waiting = []
        self._since = time.monotonic()

    def join(self) -> None:
        """Join all parts into one journal, and delete what is no longer needed."""
        self.flush()
        handle, path = tempfile.mkstemp(prefix="editkit-journal-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps({"state": "run", **self.run}) + "\n")
                for line in self.catalog.lines():
                    file.write(line + "\n")
            self.store.put(NAME, path)
        finally:
            os.unlink(path)
        for folder in (JOURNAL, DONE, PARTS):
            for some in _in_groups(name for name, _ in self.store.names(folder)):
                self.store.remove(some)

    def done_before(self) -> None:
        """Read the journals of earlier runs.

        Raises:
            UsageError: they are of a different run.
            EditkitError: they are damaged.
        """
        names = [NAME, *sorted(name for name, _ in self.store.names(JOURNAL))]
        for name in names:
            self.catalog.keep(self._records(name))

    def _records(self, name: str) -> Iterator[dict[str, Any]]:
        for number, line in enumerate((self.store.read(name) or b"").splitlines(), 1):
            try:
                record = json.loads(line)
                if record["state"] == "run":
                    continue
                (Done if record["state"] == "done" else Failed)(**{k: v for k, v in record.items() if k != "state"})
            except (ValueError, KeyError, TypeError, RecursionError):
                raise EditkitError(
                    f"{self.store.address}/{name}: line {number} is damaged; --force begins anew"
                ) from None
            yield record


def _in_groups(names: Iterator[str]) -> Iterator[list[str]]:
    some: list[str] = []
    for name in names:
        some.append(name)
        if len(some) == 1000:
            yield some
            some = []
    if some:
        yield some


@contextmanager
def open_ledger(
    store: Store, catalog: Catalog, run: Mapping[str, Any], *, resume: bool = False, force: bool = False
) -> Iterator[Ledger]:
    """Open the journal of a store, locked by this run; like `journal.open_journal` for a folder."""
    before = store.read(RUN)
    if before is not None and not resume and not force:
        raise earlier_run_error(f"{store.address}/{NAME}")
    text = json.dumps(dict(run)).encode()
    with hold_lease(store) as lease:
        ledger = Ledger(store, catalog, lease, run)
        if force and before is not None:
            ledger_names = [NAME, RUN]
            for folder in (JOURNAL, DONE, PARTS):
                ledger_names += [name for name, _ in store.names(folder)]
            store.remove(ledger_names)
        if not store.create(RUN, text):
            raise other_run_error(f"{store.address}/{NAME}")
        if resume:
            ledger.done_before()
        try:
            yield ledger
        except BaseException:
            if not lease.lost:
                _try_flush(ledger)
            raise
        ledger.join()


def _try_flush(ledger: Ledger) -> None:
    """Write the recorded lines of an interrupted run."""
    try:
        ledger.flush()
    except EditkitError:
        return
