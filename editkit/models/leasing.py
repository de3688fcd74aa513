"""Loaded models, and how edits share them.

`Models` loads each model and each network of a plugin once, and lends them out: to one edit after another (a batch, a
grid), or to several at once in threads (a server). The networks are shared. What an edit does to a model is done to a
copy of its adapter (`capability.leased`), or taken back at the end of the lease, so every edit finds what it would find
alone.
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

from editkit.common.process import LOADING, Turn, begin_thread, loading
from editkit.diffusion.capability import leased, networks
from editkit.diffusion.checkpointing import checkpointed
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
class _Held:
    """Something loaded: how many borrow it now, and whose turn it is where only one at a time can use it."""

    value: Any
    loans: int = 0
    turn: Turn = field(default_factory=Turn)


class _Shelf:
    """At most `most` loaded things besides those on loan; the one unused for longest is dropped first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: OrderedDict[Hashable, _Held] = OrderedDict()
        self._lock = Lock()

    def take(self, key: Hashable, make: Callable[[], Any]) -> _Held:
        """What is kept under `key`, made where it is not there; it is on loan until it is given back."""
        found = self._lent(key)
        if found is not None:
            return found  # without waiting for what another thread is loading
        with loading():
            found = self._lent(key)
            if found is not None:
                return found
            self._make_room()
            held = _Held(make(), loans=1)
            with self._lock:
                self._held[key] = held
            return held

    def give_back(self, held: _Held) -> None:
        """One loan less."""
        with self._lock:
            held.loans -= 1

    def clear(self) -> None:
        """Keep nothing any more."""
        with self._lock:
            self._held.clear()

    def _lent(self, key: Hashable) -> _Held | None:
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                self._held.move_to_end(key)
                held.loans += 1
            return held

    def _make_room(self) -> None:
        """Before something is loaded, so that both need not fit into memory."""
        with self._lock:
            for key in [key for key, held in self._held.items() if not held.loans]:
                if len(self._held) >= self.most:
                    del self._held[key]


class Models:
    """What was loaded, for all edits that are given this object (`edit(..., models=Models())`).

    Args:
        most: models that are kept, and networks of plugins (ControlNets, classifiers, detectors) beside them; where
            more are on loan at once, there are more.
        load: gives models their weights.
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
        """The model that `describe` spoke of, for one edit; loaded where it is not here yet.

        A model whose networks move while they work (--offload, text encoders on disk) is lent to one thread at a time.

        Raises:
            ModelError: weights missing, misshapen, or in a pickle.
        """
        key = (info, device, dtype, setup, offline)
        held = self._models.take(key, lambda: self.load(info, device, dtype, offline=offline, setup=setup))
        try:
            with ExitStack() as stack:
                if _moves(held.value):
                    stack.enter_context(held.turn)
                yield stack.enter_context(self.borrow(held.value))
        finally:
            self._models.give_back(held)

    @contextmanager
    def borrow(self, model: Model) -> Iterator[Lease]:
        """A model that its owner loaded, for one edit."""
        begin_thread()
        with ExitStack() as end:
            yield Lease(leased(model), self._networks, end)

    def reset(self) -> None:
        """Forget everything; what is on loan stays with whoever has it."""
        self._models.clear()
        self._networks.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another process it is that process's own one of this name: networks are not sent."""
        return _there, (self._name.hex, self._models.most, self.load)


@dataclass(frozen=True, eq=False)
class Lease:
    """What an edit has on loan: `model`, a copy of its own with the networks of all, and networks for its plugins."""

    model: Model
    _networks: _Shelf
    _end: ExitStack

    def network(self, load: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
        """What `load(*args, **given)` gives, loaded once for all edits; nobody may change it.

        Args:
            load: a function of a module, or another that is equal to itself the next time; what it is given must be
                hashable.
        """
        held = self._networks.take((load, args, tuple(sorted(given.items()))), lambda: load(*args, **given))
        self._end.callback(self._networks.give_back, held)
        return cast(T, held.value)

    def checkpoint(self) -> bool:
        """Gradient checkpointing in every network of the model until the end of the lease; False: none has layers."""
        return self._end.enter_context(checkpointed(networks(self.model)))


def _moves(model: Model) -> bool:
    """Its weights come and go while it works (accelerate's hooks, or those of diffusers' group offloading)."""
    modules = (module for network in networks(model) for module in network.modules())
    return any("_hf_hook" in vars(module) or _in_groups(module) for module in modules)


def _in_groups(module: torch.nn.Module) -> bool:
    hooks = getattr(module, "_diffusers_hook", None)
    return hooks is not None and hooks.get_hook("group_offloading") is not None


SENT = 2
"""Objects of other processes that a worker keeps: of the batch it works for, and of one more beside it."""


@lru_cache(maxsize=SENT)
def _made_here(name: str, most: int, load: Load) -> Models:
    return Models(most, load=load)


def _there(name: str, most: int, load: Load) -> Models:
    """In a worker's process, its own `Models` of the object called `name` elsewhere. Items are sent one by one, by any
    engine, so what lives between two of them is the process's; the last `SENT` stay, or a worker that serves many
    batches would fill up.
    """
    with LOADING:
        return _made_here(name, most, load)
