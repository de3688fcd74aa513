"""What a model can do besides `Model`, found through whatever is wrapped around it.

A wrapper (windows, a refiner, a third party's) names the model within by an attribute `wrapped`. The wrapper is asked
first, so what it implements itself wins; what it does not implement, the model within may.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from editkit.diffusion.model import Model

P = TypeVar("P")


@runtime_checkable
class Wraps(Protocol):
    """A model around another one, which it holds in an attribute."""

    @property
    def wrapped(self) -> Model:
        """The model within."""
        ...


@runtime_checkable
class Leasable(Protocol):
    """A model that an edit changes (whom it tells, its tiles, its VAE): each edit is given a copy of it."""

    def leased(self) -> Model:
        """A copy for one edit, with the same networks."""
        ...


def capability(model: Any, kind: type[P]) -> P | None:
    """`model` where it is of this `kind` (a runtime-checkable protocol, or a class), else the first one within that is;
    None: none is.
    """
    while not isinstance(model, kind):
        if not isinstance(model, Wraps):
            return None
        model = model.wrapped
    return model


def changed(model: Model, kind: type[P], change: Callable[[P], Model]) -> Model:
    """`model` with `change` done to the first one within that is of this `kind`, in the same wrappers; itself where
    there is none.
    """
    if isinstance(model, kind):
        return change(model)
    if not isinstance(model, Wraps):
        return model
    within = changed(model.wrapped, kind, change)
    return model if within is model.wrapped else _around(model, within)


def leased(model: Model) -> Model:
    """`model` for one edit: what is done to it does not reach the others. Networks are the same ones, not copied."""
    return changed(model, Leasable, lambda one: one.leased())


def networks(model: Model) -> list[Any]:
    """Every torch network that `model`, and whatever models it holds, works with; each once."""
    import torch

    found, seen = [], set[int]()
    todo = list(vars(model).values()) if hasattr(model, "__dict__") else []
    while todo:
        at = todo.pop(0)
        if id(at) in seen:
            continue
        seen.add(id(at))
        if isinstance(at, torch.nn.Module):
            found.append(at)
        elif isinstance(at, (tuple, list)):
            todo += at
        elif hasattr(at, "__dict__") and (hasattr(at, "attach") or (is_dataclass(at) and not isinstance(at, type))):
            todo += vars(at).values()
    return found


def _around(wrapper: Any, within: Model) -> Any:
    """A copy of `wrapper` around another model."""
    held = wrapper.wrapped
    made = copy.copy(wrapper)
    for name, value in vars(wrapper).items():
        if value is held:
            made.__dict__[name] = within
    return made
