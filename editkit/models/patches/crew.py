"""Rows shared out among threads.

The searches are long rows of small sums. Threads that join after every one of those spend their time waiting for each
other (or, where they do not sleep while they wait, the machine's); so each thread computes its own rows from the first
sum to the last, and no sum is shared.
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
    """Within it `by_rows` has as many threads as torch (`torch.set_num_threads`), and everything else has one."""
    threads = torch.get_num_threads()
    if threads == 1 or _CREW.get() is not None:
        yield
        return
    there = Barrier(threads + 1)
    with ThreadPoolExecutor(threads, initializer=_alone, initargs=(there,)) as pool:
        with own_threads():
            torch.set_num_threads(1)
            for _ in range(threads):
                pool.submit(_nothing)  # each begins a thread, as long as none is idle: all of them wait
            try:
                there.wait()
            except BaseException:  # Ctrl-C: nobody may wait for ever
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
    """A thread that computes what it is given by itself; ready when all are."""
    torch.get_num_threads()  # a thread takes the number for all when it first asks, and would do so later
    torch.set_num_threads(1)
    there.wait()


def _nothing() -> None:
    pass


def together(*calls: Callable[[], Tensor]) -> list[Tensor]:
    """What each of `calls` gives."""
    pool = _CREW.get()
    if pool is None or len(calls) < 2:
        return [call() for call in calls]
    wanted = torch.is_grad_enabled()

    def as_asked(call: Callable[[], Tensor]) -> Tensor:
        with torch.set_grad_enabled(wanted):  # each thread has its own
            return call()

    return list(pool.map(as_asked, calls))


def by_rows(compute: Callable[[slice], Tensor], rows: int, chunk: int) -> Tensor:
    """`compute` of every `chunk` of `rows`, joined; what one gives does not depend on the others."""
    parts = [slice(first, first + chunk) for first in range(0, rows, chunk)]
    return torch.cat(together(*(partial(compute, part) for part in parts)))
