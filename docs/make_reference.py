"""Write docs/reference.md and the stub editkit/plugins.pyi from the declarations: `python docs/make_reference.py`.

Tests check that both are so.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from editkit.diffusion.samplers import list_installed as samplers
from editkit.pictures import shapes
from editkit.plugin import hints, registry
from editkit.plugin.options import Options
from editkit.plugin.params import Param, params

HEAD = """# Reference

Made by `docs/make_reference.py` from the declarations; do not edit by hand.
"""

STUB = '''"""What editors and type checkers see of `editkit.plugins`: the declarations that come with editkit, by class.

Made by `docs/make_reference.py`; do not edit by hand. A stranger's are there as well, as `Any`; import one from its own
package to have its options completed.
"""

from typing import Any

{imports}

def __getattr__(name: str) -> Any: ...
'''


def stub() -> str:
    """The whole stub, a line for each built-in declaration."""
    kinds = [registry.load(name) for name in registry.names()]
    own = sorted((kind.__module__, kind.__name__) for kind in kinds if kind.__module__.startswith("editkit_plugins."))
    return STUB.format(imports="\n".join(f"from {module} import {name} as {name}" for module, name in own))


def reference() -> str:
    """The whole page."""
    parts = [HEAD, "## Plugins\n"]
    for name in registry.names():
        plugin = registry.load(name)
        if not plugin.__module__.startswith("editkit_plugins."):
            continue
        parts += [f"### {name}\n", (inspect.getdoc(plugin) or "") + "\n", table(params(plugin))]
    parts += ["## Options of the run\n", "On every edit command; inherited by the stages after it.\n"]
    parts += [table(params(Options))]
    parts += ["## Hints\n", "For `controlnet --control NAME[:PARAMETER=VALUE,...]` and `editkit hint`.\n"]
    parts += [*(hint(name) for name in hints.names()), ""]
    parts += ["## Mask words\n", "For `--mask`, joined by `+`, `-` and `&`; `editkit mask` shows them.\n"]
    parts += [*(f"- `{row.form}`: {row.summary}" for row in map(shapes.load, shapes.MASKS.names())), ""]
    parts += ["## Samplers\n", *(f"- `{row.name}`: {summary(row.kind)}" for row in samplers() if row.kind is not None)]
    return "\n".join(parts).rstrip() + "\n"


def hint(name: str) -> str:
    """One detector with its parameters on one line; empty for a stranger's."""
    detector = hints.load(name)
    if not detector.__module__.startswith("editkit_plugins."):
        return ""
    words = "; ".join(f"`{p.name}={p.default}` {p.help}" for p in params(detector) if p.default is not None)
    return f"- `{name}`: {summary(detector)}" + (f" ({words})" if words else "")


def table(rows: list[Param]) -> str:
    """One row a parameter."""
    lines = ["| option | default | |", "|---|---|---|"]
    for p in rows:
        choices = f" ({', '.join(p.choices)})" if p.choices else ""
        default = "" if p.default in (None, ()) else f"`{p.default}`"
        lines.append(f"| `{p.flag}` | {default} | {p.help}{choices} |".replace("||", "| |"))
    return "\n".join(lines) + "\n"


def summary(kind: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n", 1)[0].split())


if __name__ == "__main__":
    here = Path(__file__).parent
    (here / "reference.md").write_text(reference(), encoding="utf-8")
    (here.parent / "editkit" / "plugins.pyi").write_text(stub(), encoding="utf-8")
