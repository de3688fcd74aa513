"""Stores that fail: a file system between fsspec and the memory, or between it and an S3 service on this machine."""

import errno
import itertools
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem

KINDS = ("busy", "timeout", "slow", "lost")
SLOW = 0.02
"""Seconds that a slow answer takes."""


class Killed(BaseException):
    """What a process sees of SIGKILL: nothing it does has any effect any more."""


class Faults:
    """What happens at each operation; `kill_at`: the one at which the process ends, before its effect or after."""

    def __init__(
        self,
        seed: int = 0,
        often: float = 0.0,
        kill_at: int | None = None,
        kill_after: bool = False,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        self.rng, self.often = random.Random(seed), often
        self.kinds = itertools.cycle(self.rng.sample(kinds, len(kinds)))  # so that all come, however threads take turns
        self.kill_at, self.kill_after = kill_at, kill_after
        self.count, self.met = 0, set()

    def done(self, operation: Callable[[], Any], name: str) -> Any:
        """The operation, or what comes instead of it."""
        self.count += 1
        if self.kill_at is not None and self.count >= self.kill_at:
            if self.count == self.kill_at and self.kill_after:
                operation()
            raise Killed
        if self.rng.random() >= self.often:
            return operation()
        kind = next(self.kinds)
        self.met.add(kind)
        if kind == "busy":
            raise OSError(errno.EBUSY, "Please reduce your request rate")
        if kind == "timeout":
            raise TimeoutError
        if kind == "slow":
            time.sleep(SLOW)
            return operation()
        operation()
        raise ConnectionError(f"the answer to {name} was lost")


class FaultyMemory(MemoryFileSystem):
    """`memory://`, where `faults` are met."""

    faults = Faults()

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        return self.faults.done(lambda: MemoryFileSystem.pipe_file(self, path, value, mode, **kwargs), path)

    def cat_file(self, path, start=None, end=None, **kwargs):
        return self.faults.done(lambda: MemoryFileSystem.cat_file(self, path, start, end, **kwargs), path)

    def rm_file(self, path):
        return self.faults.done(lambda: MemoryFileSystem.rm_file(self, path), path)

    def put_file(self, lpath, rpath, **kwargs):
        return self.faults.done(lambda: MemoryFileSystem.put_file(self, lpath, rpath, **kwargs), rpath)


def files(root: str) -> dict[str, bytes]:
    """What lies below a folder of `memory://`, by relative name; read past all faults."""
    start = f"/{root.strip('/')}/"
    return {
        path[len(start) :]: file.getvalue() for path, file in MemoryFileSystem.store.items() if path.startswith(start)
    }
