"""Engines for a batch, which run its work in one or several processes. Further ones come from entry points (group
`editkit.engines`) and are chosen by `--engine NAME[:ARGUMENT]`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, cast, runtime_checkable

from editkit.batch.folder import Item
from editkit.batch.journal import Done
from editkit.common.entries import Group, InstalledEntry
from editkit.errors import UsageError


@dataclass(frozen=True)
class Result:
    """The outcome of one item: the bytes of a file, or an error of one line.

    Args:
        figures: measurements of plugins, by `plugin.name`.
        done: the worker has written it already; `data` is then empty.
        before: it was made by an earlier run, or by a worker that was lost.
    """

    item: Item
    data: bytes = b""
    seed: int = 0
    calls: int = 0
    deviation: int = 0
    notices: tuple[str, ...] = ()
    error: str | None = None
    figures: tuple[tuple[str, float | str], ...] = ()
    done: Done | None = None
    before: bool = False


Engine = Callable[[Callable[[Item], Result], Sequence[Item]], Iterator[Result]]
"""Maps a function over items, in any order and anywhere, yielding results as they come.

The function, the items and the results can be sent to other machines that see the same folders: with Ray Data an engine
is `ray.data.from_items([{"item": i} for i in items]).map(lambda row: {"result": function(row["item"])}).iter_rows()`.
"""


@dataclass(frozen=True)
class EngineResources:
    """The resources for an engine on several machines.

    Args:
        workers: the value of --workers.
        actors: the minimum and maximum number; None: as many as the cluster allows.
        gpus_per_actor: None: one if the edit runs on a GPU.
        device: the edit's --device.
        memory: bytes of a node's memory that an actor's models need; 0: unknown, or little.
    """

    workers: int = 1
    actors: tuple[int, int] | None = None
    gpus_per_actor: float | None = None
    device: str = "auto"
    memory: int = 0


@dataclass(frozen=True)
class EngineKind:
    """The description of an engine; an entry point of the group refers to one.

    Args:
        name: its name.
        summary: a line for `editkit plugins`.
        make: (what stands behind the colon, "" for nothing; the number of workers asked for) -> an `Engine`. Raises
            UsageError if these are invalid.
        placed: like `make`, with the `EngineResources`; None: only `make` is used, and --actors is refused.
        api: the version of this protocol.
    """

    name: str
    summary: str
    make: Callable[[str, int], Engine]
    api: int = 1
    placed: Callable[[str, EngineResources], Engine] | None = None


GROUP = "editkit.engines"
ENGINES = Group(GROUP, "engine", "editkit plugins")


def load_engine(name: str) -> EngineKind:
    """Return the kind of engine called `name`.

    Raises:
        UsageError: there is none (the message suggests the nearest).
        PluginError: it cannot be imported, or is not an `EngineKind`.
    """
    return cast(EngineKind, ENGINES.check_attributes(ENGINES.load(name), name, ("name", "summary", "make")))


def list_installed() -> list[InstalledEntry[EngineKind]]:
    """List all installed engines; broken ones with the reason."""
    return ENGINES.list_installed(load_engine)


def engine_of(spec: str, places: EngineResources) -> Engine:
    """Make the engine of `NAME[:ARGUMENT]` with these resources.

    Raises:
        UsageError: the engine has no actors, but some were requested.
    """
    name, _, argument = spec.partition(":")
    kind = load_engine(name)
    if kind.placed is not None:
        return kind.placed(argument, places)
    if places.actors is not None or places.gpus_per_actor is not None:
        raise UsageError(
            f"--engine {name}: has no actors; leave --actors and --gpus-per-actor out, or use --engine ray"
        )
    return kind.make(argument, places.workers)


@runtime_checkable
class StagedWork(Protocol):
    """Work in three stages that may overlap: one picture is read and another's result is encoded while a third is in
    the network. Each stage's output is the next one's input; the middle one runs in the engine's own thread.

    `size`: the batch size of `edit_many`.
    """

    @property
    def size(self) -> int: ...

    def read(self, item: Item) -> Any: ...

    def edit(self, opened: Any) -> Any: ...

    def edit_many(self, opened: Sequence[Any]) -> list[Any]: ...

    def pack(self, edited: Any) -> Result: ...


AHEAD = 2
"""How many pictures to read in advance."""


def serial(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """An engine that works in this process, one picture after another; `StagedWork` overlaps."""
    if isinstance(function, StagedWork):
        yield from run_overlapped(function, items)
        return
    for item in items:
        yield function(item)


def run_overlapped(work: StagedWork, items: Iterable[Item]) -> Iterator[Result]:
    """Yield results in the order of `items`; only few pictures are in memory, whichever stage is the slowest."""
    packers = max(1, min(4, os.cpu_count() or 1))
    left, opened, packed = iter(items), deque[Future[Any]](), deque[Future[Result]]()
    reading, packing = ThreadPoolExecutor(1), ThreadPoolExecutor(packers)
    try:
        while True:
            opened.extend(reading.submit(work.read, item) for item in islice(left, AHEAD + work.size - 1 - len(opened)))
            if opened:
                for edited in _edit_group(work, [opened.popleft() for _ in range(min(work.size, len(opened)))]):
                    packed.append(packing.submit(work.pack, edited))
            elif not packed:
                return
            while packed and (packed[0].done() or len(packed) > packers + work.size - 1 or not opened):
                yield packed.popleft().result()
                if not opened:
                    break
    except KeyboardInterrupt:  # finished results are kept
        while packed:
            yield packed.popleft().result()
        raise
    finally:
        reading.shutdown(cancel_futures=True)
        packing.shutdown(cancel_futures=True)


def _edit_group(work: StagedWork, opened: Sequence[Future[Any]]) -> list[Any]:
    """Run the network on some pictures; a single one is not batched."""
    ready = [one.result() for one in opened]
    return [work.edit(ready[0])] if len(ready) == 1 else work.edit_many(ready)


def processes(workers: int) -> Engine:
    """Make an engine of `workers` processes, each with its own models and its share of the CPU threads."""

    def engine(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        left, suspects, ended = iter(items), list[Item](), False
        while not ended:
            pending: dict[Any, Item] = {}
            try:
                yield from _run_pool(workers, workers, function, left, pending)
                ended = True
            except BrokenProcessPool:
                suspects = list(pending.values())
            for item in suspects:  # one of them crashed its process: each is run in a separate process to find which
                try:
                    yield from _run_pool(1, workers, function, iter([item]), {})
                except BrokenProcessPool:
                    yield Result(item, error="its process ended without a word (out of memory?); nothing was written")
            suspects = []

    return engine


def _run_pool(
    workers: int, share: int, function: Callable[[Item], Result], left: Iterator[Item], pending: dict[Any, Item]
) -> Iterator[Result]:
    """Yield results of a pool of `workers`, each with one of `share` equal parts of the threads (a different number of
    threads may change the rounding). Submits only a few items at a time, so that results do not pile up.
    """
    from concurrent.futures import FIRST_COMPLETED, wait
    from multiprocessing import active_children, get_context

    others = set(active_children())
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(share,))
    try:
        while True:
            for item in islice(left, 2 * workers - len(pending)):
                pending[_submit(pool, function, item, pending)] = item
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                result = future.result()
                del pending[future]
                yield result
    finally:
        if pending:  # interrupted: do not wait for the workers
            for worker in set(active_children()) - others:
                worker.terminate()
        pool.shutdown(wait=not pending, cancel_futures=True)


def _submit(
    pool: ProcessPoolExecutor, function: Callable[[Item], Result], item: Item, pending: dict[Any, Item]
) -> Future[Result]:
    """Submit an item to a pool; if the pool is broken, the item stays pending and is tried again."""
    try:
        return pool.submit(function, item)
    except BrokenProcessPool:
        pending[object()] = item
        raise


def _start_worker(share: int) -> None:
    """Limit the threads, ignore interrupts, and end when the driver ends for any reason."""
    import signal
    import threading
    from multiprocessing import connection, parent_process

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:

        def follow() -> None:
            connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // share))


def _refuse_argument(name: str, argument: str) -> None:
    if argument:
        raise UsageError(f"--engine {name}: takes nothing after a colon, got {argument!r}")


def _serial(argument: str, workers: int) -> Engine:
    _refuse_argument("serial", argument)
    if workers > 1:
        raise UsageError(f"--engine serial works on one picture at a time; leave --workers {workers} out")
    return serial


def _processes(argument: str, workers: int) -> Engine:
    _refuse_argument("processes", argument)
    return processes(workers)


SERIAL = EngineKind("serial", "One picture after the other, in this process.", _serial)
PROCESSES = EngineKind("processes", "As many processes on this machine as --workers says.", _processes)
