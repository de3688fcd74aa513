"""Distribute rows among threads.

The searches are long sequences of small sums. Threads that synchronise after every sum waste their time waiting for
each other, or, if they spin, the machine's time. So each thread computes its own rows from the first sum to the last,
and no sum is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from threading import Barrier

import torch
from torch import Tensor

from editkit.common.process import own_threads

_CREW: ContextVar[ThreadPoolExecutor | None] = ContextVar("crew", default=None)


@contextmanager
def crew() -> Iterator[None]:
    """Let `by_rows` use as many threads as torch (`torch.set_num_threads`) here, and everything else use one."""
    threads = torch.get_num_threads()
    if threads == 1 or _CREW.get() is not None:
        yield
        return
    there = Barrier(threads + 1)
    with ThreadPoolExecutor(threads, initializer=_alone, initargs=(there,)) as pool:
        with own_threads():
            torch.set_num_threads(1)
            for _ in range(threads):
                pool.submit(_nothing)  # each starts a new thread, because none is idle: all wait at the barrier
            try:
                there.wait()
            except BaseException:  # Ctrl-C: no thread may wait forever
                there.abort()
                raise
        token = _CREW.set(pool)
        try:
            yield
        finally:
            _CREW.reset(token)
            with own_threads():
                torch.set_num_threads(threads)


def _alone(there: Barrier) -> None:
    """Initialise a single-threaded worker; return when all workers are ready."""
    torch.get_num_threads()  # a thread adopts the global number at its first query: query now, then override
    torch.set_num_threads(1)
    there.wait()


def _nothing() -> None:
    pass


def together(*calls: Callable[[], Tensor]) -> list[Tensor]:
    """Return the results of `calls`, in order."""
    pool = _CREW.get()
    if pool is None or len(calls) < 2:
        return [call() for call in calls]
    wanted = torch.is_grad_enabled()

    def as_asked(call: Callable[[], Tensor]) -> Tensor:
        with torch.set_grad_enabled(wanted):  # the setting is per thread
            return call()

    return list(pool.map(as_asked, calls))


def by_rows(compute: Callable[[slice], Tensor], rows: int, chunk: int) -> Tensor:
    """Apply `compute` to every `chunk` of `rows` and join the results, which do not depend on each other."""
    parts = [slice(first, first + chunk) for first in range(0, rows, chunk)]
    return torch.cat(together(*(partial(compute, part) for part in parts)))
