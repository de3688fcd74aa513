"""Work for a batch's engines that costs nothing; light to import, since every worker does."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editkit.batch.engines import Result, processes
from editkit.batch.folder import Item
from editkit.batch.stores import read_from
from editkit.errors import EditkitError


def copy(item: Item) -> Result:
    """The result is the picture's own bytes."""
    return Result(item, Path(item.source).read_bytes())


def dies(item: Item) -> Result:
    """Ends its process at one picture."""
    if item.name == "b.png":
        os._exit(9)
    return copy(item)


def dies_slowly(item: Item) -> Result:
    """The same, a little later."""
    time.sleep(0.05)
    return dies(item)


def tells(item: Item) -> Result:
    """Says which process it is in."""
    return Result(item, str(os.getpid()).encode())


def waits(item: Item) -> Result:
    """Is never done."""
    if item.name == "first":
        return tells(item)
    time.sleep(600)
    return Result(item)


def drive() -> None:
    """A driver with one worker; writes the worker's process id, and waits for it without end."""
    todo = [Item(name, "", "", "") for name in ("first", "second")]
    for result in processes(1)(waits, todo):
        sys.stdout.write(result.data.decode() + "\n")
        sys.stdout.flush()


class Copies:
    """Work in stages whose result is the picture's own bytes, wherever they lie; `log` says what was made."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def read(self, item: Item) -> Any:
        try:
            return item, read_from(item.source)[0]
        except EditkitError as error:
            return Result(item, error=str(error))

    size = 1

    def edit(self, opened: Any) -> Any:
        return opened

    def edit_many(self, opened: Sequence[Any]) -> list[Any]:
        return list(opened)

    def pack(self, edited: Any) -> Result:
        if isinstance(edited, Result):
            return edited
        self.log.append(edited[0].name)
        return Result(edited[0], edited[1], seed=7)

    def __call__(self, item: Item) -> Result:
        return self.pack(self.edit(self.read(item)))
