"""The map of the package, read from its imports: `python docs/make_map.py` draws it into ARCHITECTURE.md.

`--check` changes nothing, and fails where the map is not what the imports say. tests/test_house.py uses the same
reading: imports within functions and those for types alone count like any other.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"editkit": ROOT / "editkit", "editkit_plugins": ROOT / "plugins" / "editkit_plugins"}
BEGIN, END = "<!-- map: made by docs/make_map.py -->", "<!-- end of the map -->"

Imports = Mapping[str, frozenset[str]]
"""Module -> the modules of ours that it imports."""


def files(packages: Mapping[str, Path] = PACKAGES) -> dict[str, Path]:
    """Module -> its file."""
    found = {}
    for package, folder in packages.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(modules: Mapping[str, Path]) -> dict[str, frozenset[str]]:
    """What each of `modules` (name -> file) imports of the others, wherever the import stands."""
    return {name: frozenset(_imported(path, modules) - {name}) for name, path in modules.items()}


def _imported(path: Path, modules: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & set(modules)
            if names - set(modules):
                found.add(node.module)
    return found & set(modules)


def circles(graph: Imports) -> list[list[str]]:
    """The circles of the graph, each as the shortest walk round that was found: [a, b, ..., a]."""
    found = []
    for group in _strongly_connected(graph):
        if len(group) > 1:
            found.append(_walk(graph, min(group), group))
    return sorted(found)


def _strongly_connected(graph: Imports) -> list[set[str]]:
    """Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            at = stack.index(node)
            groups.append(set(stack[at:]))
            del stack[at:]

    for node in graph:
        if node not in index:
            visit(node)
    return groups


def _walk(graph: Imports, start: str, within: set[str]) -> list[str]:
    """The shortest way from `start` back to itself."""
    paths = [[start]]
    while True:
        longer = []
        for path in paths:
            for other in sorted(graph[path[-1]] & within):
                if other == start:
                    return [*path, start]
                if other not in path:
                    longer.append([*path, other])
        paths = longer


if __name__ == "__main__":
    found = circles(imports(files()))
    sys.exit("\n".join("a circle of imports: " + " -> ".join(circle) for circle in found) or 0)
