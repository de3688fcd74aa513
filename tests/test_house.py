"""The house: who may import whom. docs/make_map.py reads the imports, those in functions and for types included."""

import runpy
from pathlib import Path

import pytest

MAP = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "make_map.py"))
FILES = MAP["files"]()
GRAPH = MAP["imports"](FILES)


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
