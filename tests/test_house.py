"""The house: who may import whom, how large a file may be. docs/make_map.py reads the imports, those for types too."""

import ast
import importlib
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from editkit.common import moved

ROOT = Path(__file__).parent.parent
MAP = runpy.run_path(str(ROOT / "docs" / "make_map.py"))
FILES = MAP["files"]()
GRAPH = MAP["imports"](FILES)
MOST_LINES, MOST_OF_A_FUNCTION, MOST_NAMES = 400, 40, 12


def test_there_is_no_circle_of_imports():
    assert len(GRAPH) > 100
    found = MAP["circles"](GRAPH)
    assert not found, "\n".join(" -> ".join(circle) for circle in found)


@pytest.mark.parametrize(
    "importing",
    [
        "from editkit.b import x",
        "import editkit.b",
        "from editkit import b",
        "def f():\n    from editkit.b import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from editkit.b import x",
    ],
)
def test_a_circle_is_found_wherever_the_import_stands(tmp_path, importing):
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "a.py").write_text(importing)
    (tmp_path / "b.py").write_text("from editkit.c import y\n")
    (tmp_path / "c.py").write_text("from editkit.a import f\n")
    (tmp_path / "alone.py").write_text("from editkit.a import f\n")
    graph = MAP["imports"](MAP["files"]({"editkit": tmp_path}))
    assert MAP["circles"](graph) == [["editkit.a", "editkit.b", "editkit.c", "editkit.a"]]


def test_nobody_imports_from_a_floor_above_or_beside_or_through_a_front_door():
    climbs = MAP["climbs"](GRAPH)
    assert not climbs, "\n".join(climbs)


@pytest.mark.parametrize(
    ("module", "other", "forbidden"),
    [
        ("editkit.pictures.a", "editkit.models.b", True),
        ("editkit.models.a", "editkit.pictures.b", False),
        ("editkit.models.a", "editkit.engine.b", True),
        ("editkit.models.a", "editkit.plugin.b", True),
        ("editkit.common.a", "editkit.errors", False),
        ("editkit.editing.a", "editkit.plugin", True),
        ("editkit.editing.a", "editkit.plugin.step", False),
        ("editkit.editing.a", "editkit", True),
        ("editkit.editing.a", "editkit_plugins.guide", True),
        ("editkit_plugins.guide", "editkit.plugin", False),
        ("editkit_plugins.guide", "editkit.cli.words", True),
        ("editkit.stray", "editkit.errors", True),
    ],
)
def test_the_floors_forbid_what_they_should(module, other, forbidden):
    assert bool(MAP["climbs"]({module: frozenset({other})})) == forbidden


def test_the_shelf_is_short_and_every_name_on_it_has_a_floor():
    names = {p.stem for p in (ROOT / "editkit").iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    names -= {"__init__", "__main__"}
    assert len(names) <= MOST_NAMES, sorted(names)
    assert names == {name for floor in MAP["FLOORS"] for name in floor} | {"plugins"}


def test_the_map_in_architecture_is_what_the_imports_say():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert MAP["page"](text, GRAPH) == text, "run: python docs/make_map.py"


@pytest.mark.parametrize("module", FILES)
def test_no_file_is_long_and_no_function_is_without_a_reason(module):
    """A reason is a comment `# long: why` in the line of the def, or in the line above. Docstrings do not count."""
    text = FILES[module].read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _length(node) > MOST_OF_A_FUNCTION:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            beside = [lines[first - 2], *lines[node.lineno - 1 : node.body[0].lineno - 1]]
            reason = any("# long: " in line for line in beside)
            assert reason, f"{node.name} in line {node.lineno} has {_length(node)} lines and no reason (# long: why)"


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.stem)
def test_no_file_of_tests_is_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES, "split it by subject"


def test_tests_that_talk_to_services_are_tried_once_more_and_no_others(request):
    if not request.config.pluginmanager.hasplugin("rerunfailures"):
        pytest.skip("pytest-rerunfailures is not installed")
    for item in request.session.items:
        again = [marker.kwargs for marker in item.iter_markers("flaky")]
        assert again == ([{"reruns": 1}] if item.get_closest_marker("loopback") else []), item.nodeid


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    said = node.body[0] if ast.get_docstring(node) else None
    return node.end_lineno - node.lineno + 1 - (said.end_lineno - said.lineno + 1 if said else 0)


def _imported_names(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_nothing_of_ours_uses_a_name_from_before_the_move():
    ours = {**FILES, **{str(p): p for folder in ("tests", "benchmarks", "docs") for p in (ROOT / folder).glob("*.py")}}
    for module, path in ours.items():
        for name in _imported_names(path):
            parent = name.rsplit(".", 1)[0]
            gone = [old for old in (name, parent) if old in moved.MOVED and old not in FILES]
            assert not gone, f"{module} imports {name}"
            forwarded = parent in moved.MOVED and parent in FILES and name not in FILES
            text = FILES[parent].read_text(encoding="utf-8") if forwarded else ""
            assert "forward(__name__)" not in text, f"{module} imports {name} by the name it had"


@pytest.mark.parametrize("old", sorted(moved.MOVED))
def test_what_a_module_was_called_still_works_and_names_the_new_place(old, monkeypatch):
    if old not in FILES and old not in moved.SHADOWED:
        monkeypatch.delitem(sys.modules, old, raising=False)
    name = _a_name(old)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        was = getattr(importlib.import_module(old), name)
    assert any(was is getattr(importlib.import_module(new), name, None) for new in moved.MOVED[old])
    assert any(f"{old}" in str(w.message) and moved.MOVED[old][0] in str(w.message) for w in told)


def _a_name(old: str) -> str:
    """A public name that the first of the new modules defines."""
    tree = ast.parse(FILES[moved.MOVED[old][0]].read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    defined = [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    taken = {module.removeprefix(f"{old}.") for module in FILES if module.startswith(f"{old}.")}
    return next(name for name in defined if name not in taken)


def test_importing_the_old_plan_module_leaves_the_package_as_it_is():
    code = (
        "import warnings\nwarnings.simplefilter('ignore')\nimport editkit\nbefore = getattr(editkit, 'plan', None)\n"
        "from editkit.plan import Plan\nfrom editkit.diffusion.plan import Plan as now\n"
        "assert Plan is now and editkit.Plan is now\nassert getattr(editkit, 'plan', None) is before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_of_the_front_doors_is_there():
    for name in ("editkit", "editkit.plugin"):
        door = importlib.import_module(name)
        assert len(door.__all__) == len(set(door.__all__))
        for public in door.__all__:
            assert getattr(door, public) is not None
        with pytest.raises(AttributeError, match="no_such_name"):
            door.no_such_name  # noqa: B018
