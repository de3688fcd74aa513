"""Selects the plugins that act in a move, and calls their hooks: timed, with errors that name them, results checked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from editkit.diffusion.plan import Move
from editkit.engine.energies import Bound
from editkit.errors import HookError
from editkit.plugin.protocol import HOOKS, Hooks, called
from editkit.plugin.step import Run, Step

P = ParamSpec("P")
T = TypeVar("T")

Seconds = dict[tuple[str, str], float]
"""(plugin, hook) -> seconds spent."""


@dataclass(frozen=True)
class FlowMove:
    """The flow move in which hooks are called: `index` (from 0) of `total`."""

    move: Move
    index: int
    total: int

    def __str__(self) -> str:
        return f"step {self.index + 1} of {self.total}"


@dataclass(frozen=True, eq=False)
class ActivePlugins:
    """The plugins of one process, in the order in which they act. `seconds` accumulates the time spent in hooks."""

    bound: tuple[Bound, ...]
    seconds: Seconds = field(default_factory=dict)
    users: dict[str, tuple[Bound, ...]] = field(init=False)

    def __post_init__(self) -> None:
        users = {name: tuple(b for b in self.bound if overrides(b.hooks, name)) for name in HOOKS}
        object.__setattr__(self, "users", users)

    def active(self, name: str, where: FlowMove, silent: frozenset[Run] = frozenset()) -> Sequence[Bound]:
        """Return the plugins that override the hook `name` and act in this move, without the `silent` ones."""
        if not self.users[name]:
            return ()
        return [b for b in self.users[name] if b.hooks.run not in silent and b.plugin.acts(where.index, where.total)]

    def fold(self, name: str, where: FlowMove, step: Step, x: Tensor, silent: frozenset[Run] = frozenset()) -> Tensor:
        """Pass `x` through the hook `name` of all active plugins, one after the other.

        Raises:
            HookError: a hook raised, or returned another shape, NaN or infinity. The message names the plugin.
        """
        for b in self.active(name, where, silent):
            out = self.call(b, name, where, getattr(b.hooks, name), step.seen_by(b.hooks.run), x)
            x = x if out is x else check_finite(check_shape(out, x.shape, b, name, where), b, name, where)
        return x

    def call(self, b: Bound, name: str, where: FlowMove, hook: Callable[..., T], *args: Any) -> T:
        """Call `hook(*args)` and time it; errors name the plugin, the hook and the step."""
        return self.timed(b.plugin.name, name, called, b.plugin, name, hook, *args, where=where)

    def timed(self, who: str, name: str, function: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
        """Call `function(*args)` and add its duration to `seconds`."""
        began = time.perf_counter()
        out = function(*args, **given)
        self.seconds[who, name] = self.seconds.get((who, name), 0.0) + time.perf_counter() - began
        return out


def overrides(hooks: Hooks[Any], name: str) -> bool:
    """Whether `hooks` overrides the hook `name`."""
    return getattr(type(hooks), name) is not getattr(Hooks, name)


def check_shape(x: Tensor, shape: Sequence[int], b: Bound, name: str, where: FlowMove) -> Tensor:
    """Return `x` if it has this shape; else raise HookError."""
    if tuple(x.shape) != tuple(shape):
        raise hook_error(b, name, f"returned shape {tuple(x.shape)} instead of {tuple(shape)}", where)
    return x


def check_finite(x: Tensor, b: Bound | None, name: str, where: FlowMove) -> Tensor:
    """Return `x` if it is finite; else raise HookError. `b` is None for results of the model or the sampler."""
    if math.isfinite(float(x.detach().sum())):
        return x
    if b is not None:
        raise hook_error(b, name, "made NaN or infinity", where)
    raise HookError(f"{name} made NaN or infinity at {where}; no picture was written")


def hook_error(b: Bound, name: str, what: str, where: FlowMove) -> HookError:
    """Return the error for an invalid result of a hook."""
    return HookError(f"plugin {b.plugin.name}: {name} {what} ({where})")
