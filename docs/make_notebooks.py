"""Run docs/notebooks/*.ipynb and keep what they print and show: `python docs/make_notebooks.py`.

Cells are run in order in one namespace, in a folder that has the demonstration files; no kernel is needed. What the
last line of a cell is worth is shown as a notebook would: a picture by its `_repr_png_` (kept as JPEG, a tenth of the
bytes), else by its repr. tests/test_pages.py runs the same cells.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

HERE = Path(__file__).parent
SIDE = 256
"""How large the pictures are that the notebooks work on."""


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """`notebook` with the outputs of its cells, run in the current folder."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [
        {**cell, "outputs": list(_run("".join(cell["source"]), names))} if cell["cell_type"] == "code" else cell
        for cell in notebook["cells"]
    ]
    return {**notebook, "cells": cells}


def _run(source: str, names: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What one cell gives."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    if printed.getvalue():
        yield {"name": "stdout", "output_type": "stream", "text": printed.getvalue().splitlines(keepends=True)}
    if value is not None:
        yield {"data": _data(value), "execution_count": None, "metadata": {}, "output_type": "execute_result"}


def _data(value: Any) -> dict[str, Any]:
    if hasattr(value, "_repr_png_"):
        file = io.BytesIO()
        Image.open(io.BytesIO(value._repr_png_())).convert("RGB").save(file, "JPEG", quality=85)
        return {"image/jpeg": base64.b64encode(file.getvalue()).decode()}
    return {"text/plain": [repr(value)]}


def main() -> None:
    sys.path.insert(0, str(HERE))
    import demonstration

    for path in sorted((HERE / "notebooks").glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            demonstration.lay(Path(folder), SIDE)
            os.chdir(folder)
            made = executed(json.loads(path.read_text(encoding="utf-8")))
            os.chdir(HERE)
        path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
