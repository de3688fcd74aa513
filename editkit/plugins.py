"""The declarations of all installed plugins, by class name: `from editkit.plugins import Inpaint, SDEdit`.

They are resolved through entry points on access; third-party plugins work like built-in ones.
"""

from __future__ import annotations

from typing import Any

from editkit.plugin import registry


def __getattr__(name: str) -> Any:
    """Load the declaration whose class is called `name`."""
    for point in registry.PLUGINS.points():
        if point.attr == name:
            return registry.load(point.name)
    raise AttributeError(f"no installed plugin has a class called {name!r}; `editkit plugins` lists them")


def __dir__() -> list[str]:
    return sorted(point.attr for point in registry.PLUGINS.points())
