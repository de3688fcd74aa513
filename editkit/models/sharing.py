"""Batch the network calls of several edits that run in parallel threads.

Each edit keeps its own plan, plugins and noise. A call waits until every other edit of the group has called too; calls
of equal shape are then joined into one network call, and each edit gets its rows. The values are those of a single
edit, up to the rounding of larger matrices. Calls with gradients are made immediately and separately, since one edit's
backward pass would go through the others.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from editkit.diffusion.model import Model, ModelInfo
from editkit.models import PLAIN, load
from editkit.models.setup import Setup

PATIENCE = 30.0
"""Seconds after which a call no longer waits: a missing edit may be waiting for something that the caller holds."""


@dataclass(eq=False)
class _Call:
    """One edit's call: its arguments and its result."""

    forward: Callable[..., Any]
    given: tuple[Any, ...]
    named: dict[str, Any]
    out: Any = None
    error: BaseException | None = None
    done: bool = False


@dataclass(eq=False)
class BatchPoint:
    """The meeting point of the calls in one process."""

    _condition: threading.Condition = field(default_factory=threading.Condition)
    _members: set[int] = field(default_factory=set)
    _waiting: list[_Call] = field(default_factory=list)
    _expected: int = 0

    def expect(self, count: int) -> None:
        """Announce `count` edits, each of which will be a `member`."""
        with self._condition:
            self._expected += count

    @contextmanager
    def member(self) -> Iterator[None]:
        """Register this thread until its edit ends."""
        me = threading.get_ident()
        with self._condition:
            self._members.add(me)
        try:
            yield
        finally:
            with self._condition:
                self._members.discard(me)
                self._expected -= 1
                self._condition.notify_all()

    def call(self, forward: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Return `forward(*given, **named)`, computed alone or together with other calls."""
        if torch.is_grad_enabled() or threading.get_ident() not in self._members:
            return forward(*given, **named)
        mine = _Call(forward, given, named)
        with self._condition:
            self._waiting.append(mine)
            self._condition.notify_all()
            self._condition.wait_for(lambda: mine.done or len(self._waiting) >= self._expected, PATIENCE)
            calls, self._waiting = ([], self._waiting) if mine.done else (self._waiting, [])
        if calls:
            _run_batched(calls)
            with self._condition:
                for one in calls:
                    one.done = True
                self._condition.notify_all()
        with self._condition:
            self._condition.wait_for(lambda: mine.done)  # another thread makes the call
        if mine.error is not None:
            raise mine.error
        return mine.out


def _run_batched(calls: Sequence[_Call]) -> None:
    """Call each network once for all calls of equal shape."""
    groups: dict[Any, list[_Call]] = defaultdict(list)
    for one in calls:
        groups[(id(one.forward), _shape_key((one.given, one.named)))].append(one)
    for group in groups.values():
        try:
            first = group[0]
            if len(group) == 1:
                first.out = first.forward(*first.given, **first.named)
                continue
            copies = int((first.named.get("cross_attention_kwargs") or {}).get("copies", 1))
            rows = len(first.given[0])
            given, named = _join_values([(one.given, one.named) for one in group], rows, copies)
            out = first.forward(*given, **named)
            for k, one in enumerate(group):
                one.out = _rows(out, k, len(group), rows, copies)
        except BaseException as error:
            for one in group:
                one.error = error


def _shape_key(value: Any) -> Any:
    """Return what must be equal for two calls to be joined."""
    match value:
        case Tensor():
            return tuple(value.shape), value.dtype, value.device
        case dict():
            return tuple((key, _shape_key(one)) for key, one in value.items())
        case list() | tuple():
            return tuple(_shape_key(one) for one in value)
    return value if isinstance(value, str | int | float | bool | type(None)) else id(value)


def _join_values(values: Sequence[Any], rows: int, copies: int) -> Any:
    """Join the calls' values, within each of the `copies` that a call has of its batch."""
    first = values[0]
    match first:
        case Tensor():
            if first.ndim == 0 or len(first) != rows:
                return first
            parts = [value.unflatten(0, (copies, rows // copies)) for value in values]
            return torch.cat(parts, dim=1).flatten(0, 1)
        case dict():
            return {key: _join_values([value[key] for value in values], rows, copies) for key in first}
        case list() | tuple():
            return type(first)(_join_values([value[k] for value in values], rows, copies) for k in range(len(first)))
    return first


def _rows(out: Any, k: int, calls: int, rows: int, copies: int) -> Any:
    """Return the rows of call `k`."""
    if isinstance(out, list | tuple):
        return type(out)(_rows(one, k, calls, rows, copies) for one in out)
    if not isinstance(out, Tensor):
        return out
    each = rows // copies
    return out.unflatten(0, (copies, calls, each))[:, k].flatten(0, 1)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class SharingLoad:
    """Loads a model's weights, as `editkit.models.load` does, and batches the calls of its denoiser.

    In another process it uses that process's own meeting point.
    """

    meeting: BatchPoint = field(default_factory=BatchPoint, compare=False)

    def __call__(
        self, info: ModelInfo, device: torch.device, dtype: torch.dtype, *, offline: bool = False, setup: Setup = PLAIN
    ) -> Model:
        model = load(info, device, dtype, offline=offline, setup=setup)
        network = getattr(model, "unet", None)
        if isinstance(network, torch.nn.Module) and not any("_hf_hook" in vars(m) for m in network.modules()):
            network.forward = _BatchedForward(network.forward, self.meeting)
        return model

    def __reduce__(self) -> tuple[Any, ...]:
        return SharingLoad, ()


class _BatchedForward:
    """A network's forward pass through the meeting point."""

    def __init__(self, forward: Callable[..., Any], meeting: BatchPoint) -> None:
        self._forward, self._meeting = forward, meeting

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._meeting.call(self._forward, given, named)
