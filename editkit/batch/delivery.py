"""Workers write their results into a store themselves; the driver gets only their names.

A store has no rename and no lock, and a request may succeed even if its response is lost. So a result is written in
three steps, each of which any worker may repeat::

    .editkit/parts/KEY-SHA256      its bytes, under a name with their hash .editkit/done/KEY.json         created only
    if missing: the first one counts if several workers make the same picture the result's name              the bytes
    named by the previous object, created only if missing

KEY is a hash of the picture's name. Without the second object a picture was never made; with it, it is done, and the
next worker only has to write the same bytes. A foreign object at the result's name is left unchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from editkit.batch.engines import Result, StagedWork
from editkit.batch.folder import Item
from editkit.batch.journal import Done
from editkit.batch.lease import is_lost
from editkit.batch.stores import Store
from editkit.errors import EditkitError, PictureError

PARTS, DONE = ".editkit/parts", ".editkit/done"


def key_of(picture: str) -> str:
    """Return the key of a picture's objects."""
    return hashlib.sha256(picture.encode("utf-8", "surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True)
class Delivery:
    """The work of a run that writes its results into a store.

    Args:
        number: the number of the run's lease on the store (`lease`).
        force: replace existing results.
    """

    work: StagedWork
    store: Store
    number: int
    force: bool = False

    def __call__(self, item: Item) -> Result:
        return self.pack(self.edit(self.read(item)))

    def read(self, item: Item) -> Any:
        """Return the picture; or its result if it exists already."""
        try:
            made = self._made_before(item)
        except EditkitError as error:
            return Result(item, error=" ".join(str(error).split()))
        return self.work.read(item) if made is None else made

    def edit(self, opened: Any) -> Any:
        """Delegate to the work."""
        return opened if isinstance(opened, Result) else self.work.edit(opened)

    @property
    def size(self) -> int:
        """The batch size of the work."""
        return self.work.size

    def edit_many(self, opened: Sequence[Any]) -> list[Any]:
        """Delegate to the work."""
        made = iter(self.work.edit_many([one for one in opened if not isinstance(one, Result)]))
        return [one if isinstance(one, Result) else next(made) for one in opened]

    def pack(self, edited: Any) -> Result:
        """Write the result and return it."""
        if isinstance(edited, Result) and (edited.done is not None or edited.error is not None):
            return edited
        result = self.work.pack(edited)
        if result.error is not None:
            return result
        try:
            return self._mark_delivered(result)
        except EditkitError as error:
            return replace(result, data=b"", error=" ".join(str(error).split()))

    def _made_before(self, item: Item) -> Result | None:
        """Return the result of a lost worker or an earlier run, if any."""
        line = self.store.read(marker(item.name))
        done = None if line is None else done_of(line)
        if done is None or done.output != item.output:
            return None
        if self.store.size(item.output) != done.bytes:
            data = self.store.read(_part_name(done))
            if data is None or hashlib.sha256(data).hexdigest() != done.sha256:
                self.store.remove([marker(item.name)])
                return None
            self._place(done, data)
        return Result(item, seed=done.seed, done=done, before=True)

    def _mark_delivered(self, result: Result) -> Result:
        item, data = result.item, result.data
        done = Done(item.name, item.output, result.seed, hashlib.sha256(data).hexdigest(), len(data))
        self._check_lease()
        self.store.replace(_part_name(done), data)
        line = json.dumps(asdict(done)).encode()
        if not self.store.create(marker(item.name), line):
            first = done_of(self.store.read(marker(item.name)) or b"")
            if first is not None and first.output == item.output and first.sha256 != done.sha256:
                theirs = self.store.read(_part_name(first))  # None: it has been written already
                self.store.remove([_part_name(done)])
                if theirs is None and self.store.size(item.output) != first.bytes:
                    raise PictureError(
                        f"{item.output}: was made twice at once and neither is whole; --resume makes it anew"
                    )
                done, data = first, theirs or b""
        if data:
            self._place(done, data)
        return replace(result, data=b"", done=done)

    def _place(self, done: Done, data: bytes) -> None:
        """Write the result under its name."""
        self._check_lease()
        if self.force:
            self.store.replace(done.output, data)
        elif not self.store.create(done.output, data):
            self.store.remove([marker(done.picture), _part_name(done)])
            raise PictureError(f"{done.output}: exists already and is not of this run; move it away, or give --force")
        self.store.remove([_part_name(done)])

    def _check_lease(self) -> None:
        if is_lost(self.store, self.number):
            raise PictureError(
                f"{self.store.address}: another run has taken over; this one puts nothing there any more"
            )


def marker(picture: str) -> str:
    """Return the name of the object that marks a picture as done."""
    return f"{DONE}/{key_of(picture)}.json"


def _part_name(done: Done) -> str:
    return f"{PARTS}/{key_of(done.picture)}-{done.sha256}"


def done_of(line: bytes) -> Done | None:
    """Parse such an object; None for anything else."""
    try:
        found = Done(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    kinds = {"picture": str, "output": str, "seed": int, "sha256": str, "bytes": int}
    return found if all(isinstance(getattr(found, name), kind) for name, kind in kinds.items()) else None
