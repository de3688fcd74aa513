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
PAGE = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- map: made by docs/make_map.py -->", "<!-- end of the map -->"

FLOORS = (
    ("errors", "common"),
    ("pictures",),
    ("diffusion",),
    ("plugin",),
    ("engine", "models"),
    ("editing",),
    ("batch", "training"),
    ("cli",),
)
"""The parts of editkit, lowest first: each imports those below it, and none beside it but `errors`."""

DOORS = ("editkit", "editkit.plugin", "editkit.plugins")
"""The front doors only pass on names of all floors; nobody within editkit comes in through them."""

APART = frozenset({("models", "plugin")})
"""Parts that could import each other by their floors, and do not: a model knows nothing of plugins."""

TOP = "cli"
"""What plugins may not import; everything below they may."""

Imports = Mapping[str, frozenset[str]]
"""Module -> the modules of ours that it imports."""


def files(packages: Mapping[str, Path] = PACKAGES) -> dict[str, Path]:
    """Module -> its file."""
    found = {}
    for package, folder in packages.items():
        for path in sorted(folder.rglob("*.py")):
            if path.stem == "__main__":  # the command line by another name
                continue
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
    """The circles of the graph, each as a shortest walk round: [a, b, ..., a]."""
    return sorted(_walk(graph, min(group), group) for group in _strongly_connected(graph) if len(group) > 1)


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


def part(module: str) -> str:
    """The part of editkit that a module is in: the second word of its name."""
    return module.split(".")[1] if "." in module else module


def climbs(graph: Imports) -> list[str]:
    """The imports that the floors forbid, in words."""
    floor = {name: height for height, parts in enumerate(FLOORS) for name in parts}
    found = []
    for module, others in graph.items():
        for other in others:
            if other.startswith("editkit_plugins"):
                forbidden = not module.startswith("editkit_plugins")
            elif module.startswith("editkit_plugins"):
                forbidden = part(other) == TOP
            elif module in DOORS:
                forbidden = False
            elif other in DOORS or part(module) not in floor or part(other) not in floor:
                forbidden = True
            else:
                below = floor[part(other)] < floor[part(module)]
                forbidden = not (below or part(other) in (part(module), "errors"))
                forbidden |= (part(module), part(other)) in APART
            if forbidden:
                found.append(f"{module} imports {other}")
    return sorted(found)


def drawn(graph: Imports) -> str:
    """The floors from the highest down: each part with its modules, and the parts that it imports."""
    rows = []
    for parts in reversed(FLOORS):
        for name in parts:
            own = [module for module in graph if part(module) == name and module not in DOORS]
            inside = sorted(_shown(own, name))
            used = {part(other) for module in own for other in graph[module]} - {name, "errors"}
            order = [other for floor in FLOORS for other in floor if other in used]
            rows += _row(name, "imports " + (", ".join(order) or "nothing"), *_wrapped(inside))
        rows.append("")
    return "```\n" + "\n".join(rows).rstrip() + "\n```\n"


def _shown(modules: Iterable[str], name: str) -> list[str]:
    """The modules of a part as they stand in the map; those of a folder within it in brackets behind the folder."""
    folders: dict[str, list[str]] = {}
    for module in modules:
        inner = module.split(".")[2:]
        if inner:
            folders.setdefault(inner[0], []).extend([".".join(inner[1:])] if inner[1:] else [])
    return [folder + (f" ({' '.join(sorted(inside))})" if inside else "") for folder, inside in folders.items()]


def _wrapped(entries: Iterable[str], width: int = 96) -> list[str]:
    lines = [""]
    for entry in " ".join(entries).split(" "):
        if len(lines[-1]) + len(entry) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {entry}".strip()
    return [line for line in lines if line]


def _row(name: str, *lines: str) -> list[str]:
    return [f"{name if not k else '':<12}{line}".rstrip() for k, line in enumerate(lines)]


def page(text: str, graph: Imports) -> str:
    """ARCHITECTURE.md with the map as the imports are."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{drawn(graph)}{END}{after}"


def main() -> int:
    """Draw the map, or with `--check` look whether it is drawn; 1 where something is wrong."""
    graph = imports(files())
    wrong = ["a circle of imports: " + " -> ".join(circle) for circle in circles(graph)]
    wrong += [f"not allowed by the floors: {climb}" for climb in climbs(graph)]
    text = PAGE.read_text(encoding="utf-8")
    made = page(text, graph)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made, encoding="utf-8")
    elif made != text:
        wrong.append("the map in ARCHITECTURE.md is not what the imports say; run: python docs/make_map.py")
    sys.stderr.write("".join(line + "\n" for line in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
