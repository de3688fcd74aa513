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

import torch
from torch import Tensor

_CREW: ContextVar[ThreadPoolExecutor | None] = ContextVar("crew", default=None)


@contextmanager
def crew() -> Iterator[None]:
    """Within it `by_rows` has as many threads as torch (`torch.set_num_threads`), and everything else has one."""
    threads = torch.get_num_threads()
    if threads == 1 or _CREW.get() is not None:
        yield
        return
    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        token = _CREW.set(pool)
        try:
            yield
        finally:
            _CREW.reset(token)
            torch.set_num_threads(threads)


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
