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

_POOL: ContextVar[ThreadPoolExecutor | None] = ContextVar("row_threads", default=None)


@contextmanager
def row_threads() -> Iterator[None]:
    """Let `map_rows` use as many threads as torch (`torch.set_num_threads`) here, and everything else use one."""
    threads = torch.get_num_threads()
    if threads == 1 or _POOL.get() is not None:
        yield
        return
    ready = Barrier(threads + 1)
    with ThreadPoolExecutor(threads, initializer=_init_worker, initargs=(ready,)) as pool:
        with own_threads():
            torch.set_num_threads(1)
            for _ in range(threads):
                pool.submit(_do_nothing)  # each starts a new thread, because none is idle: all wait at the barrier
            try:
                ready.wait()
            except BaseException:  # Ctrl-C: no thread may wait forever
                ready.abort()
                raise
        token = _POOL.set(pool)
        try:
            yield
        finally:
            _POOL.reset(token)
            with own_threads():
                torch.set_num_threads(threads)


def _init_worker(ready: Barrier) -> None:
    """Initialise a single-threaded worker; return when all workers are ready."""
    torch.get_num_threads()  # a thread adopts the global number at its first query: query now, then override
    torch.set_num_threads(1)
    ready.wait()


def _do_nothing() -> None:
    pass


def run_all(*calls: Callable[[], Tensor]) -> list[Tensor]:
    """Return the results of `calls`, in order."""
    pool = _POOL.get()
    if pool is None or len(calls) < 2:
        return [call() for call in calls]
    grad_enabled = torch.is_grad_enabled()

    def with_grad_setting(call: Callable[[], Tensor]) -> Tensor:
        with torch.set_grad_enabled(grad_enabled):  # the setting is per thread
            return call()

    return list(pool.map(with_grad_setting, calls))


def map_rows(compute: Callable[[slice], Tensor], rows: int, chunk: int) -> Tensor:
    """Apply `compute` to every `chunk` of `rows` and join the results, which do not depend on each other."""
    parts = [slice(first, first + chunk) for first in range(0, rows, chunk)]
    return torch.cat(run_all(*(partial(compute, part) for part in parts)))
