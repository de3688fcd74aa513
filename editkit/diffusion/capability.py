"""Lookup of optional capabilities of a model, through wrappers around it.

A wrapper (windows, a refiner, or a third party's) exposes the inner model as the attribute `wrapped`. The wrapper is
checked first, so its own implementation takes precedence over that of the inner model.
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
    """A model that wraps another one, stored in an attribute."""

    @property
    def wrapped(self) -> Model:
        """The inner model."""
        ...


@runtime_checkable
class Leasable(Protocol):
    """A model that an edit modifies (its notices, tiles or VAE), so that each edit gets a copy."""

    def leased(self) -> Model:
        """Return a copy for one edit, with the same networks."""
        ...


def capability(model: Any, kind: type[P]) -> P | None:
    """Return `model` or the outermost inner model that is of type `kind`; None if there is none.

    `kind` is a runtime-checkable protocol or a class.
    """
    while not isinstance(model, kind):
        if not isinstance(model, Wraps):
            return None
        model = model.wrapped
    return model


def with_change(model: Model, kind: type[P], change: Callable[[P], Model]) -> Model:
    """Apply `change` to the outermost model of type `kind`, and return it in copies of its wrappers.

    Returns `model` itself if there is no such model.
    """
    if isinstance(model, kind):
        return change(model)
    if not isinstance(model, Wraps):
        return model
    within = with_change(model.wrapped, kind, change)
    return model if within is model.wrapped else _rewrap(model, within)


def copy_for_edit(model: Model) -> Model:
    """Return `model` for one edit: changes to it do not affect other edits. Networks are shared, not copied."""
    return with_change(model, Leasable, lambda one: one.leased())


def networks(model: Model) -> list[Any]:
    """Return every torch network in `model` and in the models that it holds, each once."""
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


def _rewrap(wrapper: Any, within: Model) -> Any:
    """Return a copy of `wrapper` around another model."""
    held = wrapper.wrapped
    made = copy.copy(wrapper)
    for name, value in vars(wrapper).items():
        if value is held:
            made.__dict__[name] = within
    return made
