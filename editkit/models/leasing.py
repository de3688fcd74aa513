"""Loaded models, and how edits share them.

`Models` loads each model and each network of a plugin once, and lends them to one edit after another (a batch, a grid),
or to several at once in threads (a server). The networks are shared. An edit changes only a copy of a model's adapter
(`capability.copy_for_edit`), or its changes are undone at the end of the lease, so edits do not affect each other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any, ParamSpec, Protocol, TypeVar, cast
from uuid import uuid4

import torch

from editkit.common.process import LOADING, CrossThreadLock, init_thread, loading
from editkit.diffusion.capability import copy_for_edit, networks
from editkit.diffusion.checkpointing import gradient_checkpointing
from editkit.diffusion.model import Model, ModelInfo
from editkit.models import PLAIN
from editkit.models import load as load_model
from editkit.models.setup import Setup

P = ParamSpec("P")
T = TypeVar("T")


class Load(Hashable, Protocol):
    """Loads a model's weights, as `editkit.models.load` does."""

    def __call__(
        self, info: ModelInfo, device: torch.device, dtype: torch.dtype, *, offline: bool = False, setup: Setup = PLAIN
    ) -> Model: ...


@dataclass(eq=False)
class _HeldModel:
    """A loaded object: the number of its current loans, and a lock if only one thread can use it at a time."""

    value: Any
    loans: int = 0
    turn: CrossThreadLock = field(default_factory=CrossThreadLock)


class _Shelf:
    """At most `most` loaded objects besides those on loan; drops the least recently used first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: OrderedDict[Hashable, _HeldModel] = OrderedDict()
        self._lock = Lock()

    def take(self, key: Hashable, make: Callable[[], Any]) -> _HeldModel:
        """Borrow the object kept under `key`, made if missing; it is on loan until `give_back`."""
        found = self._lent(key)
        if found is not None:
            return found  # without waiting for an object that another thread is loading
        with loading():
            found = self._lent(key)
            if found is not None:
                return found
            self._make_room()
            held = _HeldModel(make(), loans=1)
            with self._lock:
                self._held[key] = held
            return held

    def give_back(self, held: _HeldModel) -> None:
        """End one loan."""
        with self._lock:
            held.loans -= 1

    def clear(self) -> None:
        """Drop all kept objects."""
        with self._lock:
            self._held.clear()

    def _lent(self, key: Hashable) -> _HeldModel | None:
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                self._held.move_to_end(key)
                held.loans += 1
            return held

    def _make_room(self) -> None:
        """Drop objects before another is loaded, so that not all need to fit into memory."""
        with self._lock:
            for key in [key for key, held in self._held.items() if not held.loans]:
                if len(self._held) >= self.most:
                    del self._held[key]


class Models:
    """The loaded models and networks, shared by all edits that get this object (`edit(..., models=Models())`).

    Args:
        most: how many models to keep, and how many networks of plugins (ControlNets, classifiers, detectors); more are
            kept only while they are on loan.
        load: loads a model's weights.
    """

    def __init__(self, most: int = 4, *, load: Load = load_model) -> None:
        self.load = load
        self._models, self._networks = _Shelf(most), _Shelf(most)
        self._name = uuid4()

    @contextmanager
    def lease(
        self,
        info: ModelInfo,
        device: torch.device,
        dtype: torch.dtype,
        setup: Setup = PLAIN,
        *,
        offline: bool = False,
    ) -> Iterator[Lease]:
        """Lend the model that `describe` returned to one edit; load it if necessary.

        A model whose weights move during computation (--offload, text encoders on disk) is lent to one thread at a
        time.

        Raises:
            ModelError: weights are missing, have the wrong shape, or are in a pickle.
        """
        key = (info, device, dtype, setup, offline)
        held = self._models.take(key, lambda: self.load(info, device, dtype, offline=offline, setup=setup))
        try:
            with ExitStack() as stack:
                if _is_movable(held.value):
                    stack.enter_context(held.turn)
                yield stack.enter_context(self.borrow(held.value))
        finally:
            self._models.give_back(held)

    @contextmanager
    def borrow(self, model: Model) -> Iterator[Lease]:
        """Lend a model that the caller loaded to one edit."""
        init_thread()
        with ExitStack() as end:
            yield Lease(copy_for_edit(model), self._networks, end)

    def reset(self) -> None:
        """Drop everything; objects on loan stay usable until they are returned."""
        self._models.clear()
        self._networks.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process, become that process's own object of this name: networks are not sent."""
        return _worker_models, (self._name.hex, self._models.most, self.load)


@dataclass(frozen=True, eq=False)
class Lease:
    """What an edit has on loan: `model`, its own copy with shared networks, and networks for its plugins."""

    model: Model
    _networks: _Shelf
    _end: ExitStack

    def network(self, load: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
        """Return `load(*args, **given)`, loaded once for all edits; it must not be modified.

        Args:
            load: a function of a module, or another callable that compares equal the next time; its arguments must be
                hashable.
        """
        held = self._networks.take((load, args, tuple(sorted(given.items()))), lambda: load(*args, **given))
        self._end.callback(self._networks.give_back, held)
        return cast(T, held.value)

    def checkpoint(self) -> bool:
        """Enable gradient checkpointing in the model's networks until the end of the lease; False: none supports it."""
        return self._end.enter_context(gradient_checkpointing(networks(self.model)))


def _is_movable(model: Model) -> bool:
    """Whether its weights move during computation (accelerate's hooks, or diffusers' group offloading)."""
    modules = (module for network in networks(model) for module in network.modules())
    return any("_hf_hook" in vars(module) or _in_groups(module) for module in modules)


def _in_groups(module: torch.nn.Module) -> bool:
    hooks = getattr(module, "_diffusers_hook", None)
    return hooks is not None and hooks.get_hook("group_offloading") is not None


SENT = 2
"""How many objects from other processes a worker keeps: for its current batch, and one more."""


@lru_cache(maxsize=SENT)
def _shared_models(name: str, most: int, load: Load) -> Models:
    return Models(most, load=load)


def _worker_models(name: str, most: int, load: Load) -> Models:
    """Return the worker process's own `Models` for the object called `name`. Engines send items one by one, so the
    process keeps the object between them; only the last `SENT` are kept, or a worker that serves many batches would
    run out of memory.
    """
    with LOADING:
        return _shared_models(name, most, load)
