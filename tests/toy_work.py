"""Work for a batch's engines that costs nothing; light to import, since every worker does."""

import os
import sys
import time
from pathlib import Path

from editkit.batch.engines import Result, processes
from editkit.batch.folder import Item


def copy(item: Item) -> Result:
    """The result is the picture's own bytes."""
    return Result(item, Path(item.source).read_bytes())


def dies(item: Item) -> Result:
    """Ends its process at one picture."""
    if item.name == "b.png":
        os._exit(9)
    return copy(item)


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
