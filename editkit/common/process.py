"""Locks for process-wide state that libraries change while they work.

`SILENCE`: filters of warnings, standard output, log levels, changed to silence a library. `LOADING`:
accelerate, diffusers and transformers replace functions of torch, its default dtype and log levels
while they build networks. `DRAWING`: torch's global generator, which open_clip and kornia draw from. `READING`: a fast
tokenizer keeps the padding and truncation of its last call. `THREADS`: the number of torch threads for new
threads.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from logging import CRITICAL, getLogger
from typing import TypeVar

SILENCE = threading.RLock()
LOADING = threading.RLock()
DRAWING = threading.RLock()
READING = threading.RLock()
THREADS = threading.RLock()

T = TypeVar("T")


@contextmanager
def drawing(seed: int | None = None) -> Iterator[None]:
    """Lock torch's global generator for drawing, seeded with `seed`, and restore its state afterwards."""
    import torch

    with DRAWING:
        before = torch.get_rng_state()
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed all GPUs too
        try:
            yield
        finally:
            torch.set_rng_state(before)


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Silence a library's logger and all warnings; errors contain everything relevant."""
    logger = getLogger(library)
    with SILENCE, warnings.catch_warnings(action="ignore"):
        level = logger.level
        logger.setLevel(CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def loading() -> Iterator[None]:
    """Lock the building of networks, and skip initialising weights that will be replaced."""
    with LOADING, drawing():
        yield


@contextmanager
def own_threads() -> Iterator[None]:
    """Limit `torch.set_num_threads` to the calling threads, without effect on threads that start later.

    torch keeps one number for each thread, and one for new threads; its function sets both.
    """
    import torch

    with THREADS:
        before = _run_in_new_thread(torch.get_num_threads)
        try:
            yield
        finally:
            _run_in_new_thread(partial(torch.set_num_threads, before))


def init_thread() -> None:
    """Fix this thread's number of torch threads now, and not while `own_threads` has changed it."""
    import torch

    with THREADS:
        torch.get_num_threads()


def _run_in_new_thread(call: Callable[[], T]) -> T:
    made: list[T] = []
    thread = threading.Thread(target=lambda: made.append(call()))
    thread.start()
    thread.join()
    return made[0]


class CrossThreadLock:
    """A reentrant lock that may be released from another thread, as happens when a generator is garbage-collected
    there.
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._owner: int | None = None
        self._depth = 0

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._free:
            while self._owner not in (None, me):
                self._free.wait()
            self._owner, self._depth = me, self._depth + 1

    def __exit__(self, *_: object) -> None:
        with self._free:
            self._depth -= 1
            if self._depth == 0:
                self._owner = None
                self._free.notify()
