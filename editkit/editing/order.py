"""The order in which the plugins of a stage act."""

from __future__ import annotations

from collections.abc import Sequence

from editkit.errors import ChainError
from editkit.plugin.protocol import Plugin


def in_order(plugins: Sequence[Plugin]) -> tuple[Plugin, ...]:
    """Sort `plugins` topologically; among the possible next ones, the first by (`order`, position) is taken.

    Raises:
        ChainError: `acts_before` and `acts_after` are circular.
    """
    waiting, done = sorted(plugins, key=lambda plugin: plugin.order), list[Plugin]()
    while waiting:
        free = next((k for k, p in enumerate(waiting) if not any(_precedes(q, p) for q in waiting if q is not p)), None)
        if free is None:
            names = " and ".join(dict.fromkeys(p.name for p in _find_circle(waiting)))
            raise ChainError(f"{names} must each act before the other (acts_before, acts_after); leave one out")
        done.append(waiting.pop(free))
    return tuple(done)


def _precedes(first: Plugin, second: Plugin) -> bool:
    return bool(second.roles() & first.acts_before or first.roles() & second.acts_after)


def _find_circle(waiting: Sequence[Plugin]) -> list[Plugin]:
    """Find a circle, given that each of `waiting` must be preceded by another one of them."""
    path = [waiting[0]]
    while True:
        before = next(q for q in waiting if q is not path[-1] and _precedes(q, path[-1]))
        if any(before is one for one in path):
            return path[next(k for k, one in enumerate(path) if one is before) :]
        path.append(before)
