"""An engine on a cluster: Ray Data's `map_batches` over the pictures' names, with a pool of actors that keep models.

`--engine ray` starts Ray on this machine, `ray:auto` or `ray:HOST:PORT` connects to a running cluster. The driver sends
a few names at a time and receives results as they are made (Ray Data streams blocks, with back pressure), so memory
does not grow with the folder. Losing a node is not an error: Ray gives its names to others, which find the results
already written to a store (`delivery`). Names whose actor died several times are tried separately at the end; one that
crashes its process again is reported.
"""

from __future__ import annotations

import logging
import os
import pickle
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from editkit.batch.engines import Engine, EngineKind, EngineResources, Result, serial
from editkit.batch.folder import Item
from editkit.common.extras import explained
from editkit.errors import UsageError
from editkit.models.needs import gb
from editkit.pictures.files.provenance import versions

SLICE = 512
"""Names per task of the driver."""

AT_ONCE = 4
"""Names sent to an actor at once: it reads one and encodes another while a third is in the network."""

RETRIES = 2

REPORTS = "RAY_USAGE_STATS_ENABLED"


class Actor:
    """One process of the pool: the work with its models, which are loaded once."""

    def __init__(self, work: Callable[[Item], Result]) -> None:
        self._work = work

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield each result as it is made."""
        import numpy as np

        places = {}
        for place, item in zip(batch["place"], map(pickle.loads, batch["item"]), strict=True):
            places[item.name] = (int(place), item)
        for result in serial(self._work, [item for _, item in places.values()]):
            packed = np.empty(1, dtype=object)
            packed[0] = pickle.dumps(result)
            yield {"place": np.array([places[result.item.name][0]]), "result": packed}


def on_ray(address: str, places: EngineResources) -> Engine:
    """Make the engine for a cluster's address; "" starts a cluster here."""

    def engine(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        with _connect(address), _limit_output():
            gpus = _check_cluster(places)
            made = bytearray(len(items))
            for place, result in _stream_results(function, items, places, gpus):
                if not made[place]:
                    made[place] = 1
                    yield result
            for place, done in enumerate(made):
                if not done:
                    yield _run_in_own_process(function, items[place], gpus)

    return engine


def _stream_results(
    function: Callable[[Item], Result], items: Sequence[Item], places: EngineResources, gpus: float
) -> Iterator[tuple[int, Result]]:
    """Yield Ray Data's results; those of dead actors may be missing."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    context.target_max_block_size = 1  # pass on each result immediately instead of collecting a hundred megabytes
    memory = 0 if gpus else places.memory  # on a GPU the models are in its own memory
    least, most = places.actors or (1, max(1, _actor_capacity(gpus, memory)))
    data = ray.data.read_datasource(_source()(items), override_num_blocks=max(1, -(-len(items) // SLICE)), num_cpus=0)
    with warnings.catch_warnings():  # Ray has no newer option yet for the number of retries
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        data = data.map_batches(
            Actor,
            fn_constructor_args=(function,),
            batch_size=max(AT_ONCE, getattr(function, "size", 1)),
            concurrency=(least, max(least, min(most, len(items)))),
            num_cpus=0 if gpus else 1,
            num_gpus=gpus or None,
            memory=memory or None,
            max_restarts=-1,
            max_task_retries=RETRIES,
        )
    for batch in data.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        for place, result in zip(batch["place"], batch["result"], strict=True):
            yield int(place), pickle.loads(result)


def _source() -> type[Any]:
    """Return a data source class; it exists only if Ray is installed."""
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class Names(Datasource):  # type: ignore[misc]
        """The items, pickled in slices and passed on one by one."""

        def __init__(self, items: Sequence[Item]) -> None:
            super().__init__()
            self._items = items

        def estimate_inmemory_data_size(self) -> int | None:
            return 200 * len(self._items)

        def get_read_tasks(self, parallelism: int, *given: Any, **named: Any) -> list[ReadTask]:
            tasks, left, first = [], iter(self._items), 0
            while some := list(islice(left, SLICE)):
                packed, begin, count = zlib.compress(pickle.dumps(some)), first, len(some)
                facts = BlockMetadata(num_rows=count, size_bytes=200 * count, exec_stats=None)
                tasks.append(ReadTask(lambda packed=packed, begin=begin: _rows(packed, begin), facts))
                first += count
            return tasks

    return Names


def _rows(packed: bytes, first: int) -> Iterable[Any]:
    """Split a slice of items into small blocks."""
    import pyarrow

    some = pickle.loads(zlib.decompress(packed))
    for k in range(0, len(some), AT_ONCE):
        part = some[k : k + AT_ONCE]
        places = list(range(first + k, first + k + len(part)))
        yield pyarrow.table({"place": places, "item": pyarrow.array([pickle.dumps(i) for i in part], pyarrow.binary())})


def _run_in_own_process(function: Callable[[Item], Result], item: Item, gpus: float) -> Result:
    """Run one item in its own process."""
    import ray

    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=1)(_run_one)
    try:
        made: Result = ray.get(task.remote(function, item))
    except ray.exceptions.RayError as error:
        why = "its process ended without a word (out of memory?); nothing was written"
        return Result(item, error=f"{why} ({type(error).__name__})")
    return made


def _run_one(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)


@contextmanager
def _connect(address: str) -> Iterator[None]:
    """Connect to Ray: running in this process, at the address, or started here for this run.

    Raises:
        ExtraError: it is not installed.
        UsageError: no cluster answers.
    """
    with explained():
        import ray
        import ray.data
    if ray.is_initialized():
        yield
        return
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            with _reports_nothing():
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, address="local")
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = f" ({first[:160]})"
        where = f"no cluster answers at {address}" if address else "Ray cannot be started here"
        raise UsageError(f"--engine ray: {where}{reason}; ray status says whether one runs") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _reports_nothing() -> Iterator[None]:
    """Disable Ray's usage reports while a cluster starts."""
    unset = REPORTS not in os.environ
    if unset:
        os.environ[REPORTS] = "0"
    try:
        yield
    finally:
        if unset:
            del os.environ[REPORTS]


@contextmanager
def _limit_output() -> Iterator[None]:
    """Limit Ray Data's output to errors."""
    log = logging.getLogger("ray.data")
    before = log.level
    log.setLevel(logging.CRITICAL)  # lost items are tried again, and reported if they stay lost
    try:
        yield
    finally:
        log.setLevel(before)


def _actor_capacity(gpus: float, memory: int) -> int:
    """Return how many actors fit on the cluster."""
    import ray

    has = ray.cluster_resources()
    room = int(has.get("GPU", 0) / gpus) if gpus else int(has.get("CPU", 1))
    return min(room, int(has.get("memory", 0) / memory)) if memory else room


def _check_cluster(places: EngineResources) -> float:
    """Check the cluster and return the GPUs per actor.

    Raises:
        UsageError: a node has other versions, or no editkit; or no node has enough GPUs or memory.
    """
    import ray

    has = ray.cluster_resources().get("GPU", 0)
    gpus = places.gpus_per_actor
    if gpus is None:
        gpus = 1.0 if places.device.startswith("cuda") or (places.device == "auto" and has >= 1) else 0.0
    if gpus > 0 and not any(node["Resources"].get("GPU", 0) >= gpus for node in ray.nodes() if node["Alive"]):
        raise UsageError(
            f"--engine ray: no node has {gpus:g} GPU for an actor (the cluster has {has:g}); add one, or give "
            "--device cpu"
        )
    if gpus == 0 and places.device.startswith("cuda"):
        raise UsageError(f"--gpus-per-actor 0: the edit is to run with --device {places.device}, and gets no GPU")
    if gpus == 0 and places.memory:
        _has_memory(places.memory)
    mine = versions()
    for node, found in _node_versions(ray):
        other = [f"{name} {found.get(name)} (here {mine[name]})" for name in mine if found.get(name) != mine[name]]
        if other:
            raise UsageError(
                f"--engine ray: node {node} has {', '.join(other)}; results would differ from node to node: "
                "install the same versions everywhere"
            )
    return gpus


def _has_memory(needed: int) -> None:
    """Raise UsageError if no node has enough memory for an actor, since Ray would wait forever."""
    import ray

    most = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    if needed > most:
        raise UsageError(
            f"--engine ray: an actor's models need about {gb(needed)} (editkit plan), and no node gives Ray more than "
            f"{gb(most)}; add a larger one, or take a smaller model or dtype"
        )


def _node_versions(ray: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the installed versions of each node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = []
    for node in ray.nodes():
        if node["Alive"]:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(num_cpus=0, scheduling_strategy=strategy, max_retries=2)(installed)
            asked.append((node, task.remote()))
    for node, answer in asked:
        name = str(node["NodeManagerAddress"])
        try:
            yield name, ray.get(answer)
        except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
            continue  # it was lost in the meantime, which is not an error
        except ray.exceptions.RayError as error:
            raise UsageError(
                f"--engine ray: node {name} cannot work ({type(error).__name__}: editkit may not be installed there); "
                "install the same versions everywhere"
            ) from None


def installed() -> dict[str, str]:
    """Return the installed versions that determine a result."""
    return versions()


def _engine_with_workers(argument: str, workers: int) -> Engine:
    return _engine_with_resources(argument, EngineResources(workers))


def _engine_with_resources(argument: str, places: EngineResources) -> Engine:
    if places.workers > 1 and places.actors is None:
        places = replace(places, actors=(places.workers, places.workers))
    return on_ray(argument, places)


RAY = EngineKind(
    "ray",
    "A cluster, by Ray Data: ray:ADDRESS, or one started here.",
    _engine_with_workers,
    placed=_engine_with_resources,
)
