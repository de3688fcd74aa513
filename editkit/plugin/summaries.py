"""The group and summary line of each plugin in the general help, cached between runs so that help imports no plugin.

A cached line is used if the entry point's value, the version and the source file are unchanged; otherwise the plugin is
imported.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from editkit.common import places
from editkit.errors import EditkitError

GROUP = "editkit.plugins"


@dataclass(frozen=True)
class Summary:
    """A plugin's entry in the general help."""

    name: str
    group: str
    line: str


def summaries() -> list[Summary]:
    """Return every installed plugin, sorted by name; broken ones are in the group `broken`, with the reason."""
    known, found = _read_cache(), {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        key = _key(point)
        found[key] = known.get(key) or _describe_plugin(point.name)
    if found.keys() - known.keys():
        _write_cache({key: row for key, row in found.items() if row[1] != "broken"})
    return [Summary(*row) for row in found.values()]


def _describe_plugin(name: str) -> list[str]:
    from editkit.plugin import registry

    try:
        plugin = registry.load(name)
    except EditkitError as error:
        return [name, "broken", " ".join(str(error).split())]
    return [name, plugin.group, (inspect.getdoc(plugin) or "").split("\n", 1)[0]]


def _key(point: EntryPoint) -> str:
    """Return a cache key that changes with the plugin's entry point, version, or source file's modification time."""
    try:
        spec = find_spec(point.module)
        written = 0 if spec is None or spec.origin is None else os.stat(spec.origin).st_mtime_ns
    except (ImportError, ValueError, OSError):
        written = 0
    version = point.dist.version if point.dist is not None else ""
    return f"{point.name}={point.value} {version} {written}"


def _cache_file() -> Path:
    return places.cache() / "plugins.json"


def _read_cache() -> dict[str, list[str]]:
    """Read the cache; empty if it cannot be read or has another format."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        kept = json.loads(_cache_file().read_text(encoding="utf-8"))
        if isinstance(kept, dict):
            return {key: row for key, row in kept.items() if _is_row(row)}
    return {}


def _is_row(row: object) -> bool:
    return isinstance(row, list) and len(row) == 3 and all(isinstance(text, str) for text in row)


def _write_cache(rows: dict[str, list[str]]) -> None:
    from editkit.pictures.files.atomic import save_bytes

    with contextlib.suppress(OSError, EditkitError, RuntimeError):
        _cache_file().parent.mkdir(parents=True, exist_ok=True)
        save_bytes(_cache_file(), json.dumps(rows).encode(), force=True)
