"""Convert a chain to and from its four forms: the mapping of a recipe, YAML, a command line, Python.

Python is parsed as an expression of names, calls, `&` and `|`, and constants; it is never executed.
"""

from __future__ import annotations

import ast
import re
import shlex
from typing import Any

from editkit.cli.words import parse
from editkit.common.spec import did_you_mean
from editkit.editing import recipe
from editkit.errors import EditkitError, RecipeError
from editkit.plugin import registry
from editkit.plugin.chain import Chain, Stage
from editkit.plugin.options import Options

MOST = 200_000
"""Longest text that is read, in characters."""


def write_forms(chain: Chain, picture: str, output: str) -> dict[str, str]:
    """Return `chain` on `picture` as a command line, as Python and as YAML, with its paths unchanged."""
    command = ["editkit", *recipe.to_words(chain, picture), f"--output={output}"]
    return {"command": shlex.join(command), "python": to_python(chain, picture, output), "yaml": recipe.to_yaml(chain)}


def to_python(chain: Chain, picture: str, output: str) -> str:
    """Return `chain` on `picture` as a call of `edit`."""
    kinds = sorted({type(plugin).__name__ for stage in chain.stages for plugin in stage.plugins})
    door = "Chain, edit" if any(_options(stage.options) for stage in chain.stages[1:]) else "edit"
    first = _options(chain.stages[0].options)
    stages = [_stage(chain.stages[0], {})]
    stages += [_stage(stage, _options(stage.options)) for stage in chain.stages[1:]]
    options = "".join(f", {key}={value!r}" for key, value in first.items())
    return (
        f"from editkit import {door}\nfrom editkit.plugins import {', '.join(kinds)}\n\n"
        f"picture = edit({picture!r}, {' | '.join(stages)}{options}, output={output!r})\n"
    )


def _stage(stage: Stage, options: dict[str, Any]) -> str:
    calls = []
    for plugin in stage.plugins:
        given = [
            f"{key}={getattr(plugin, key)!r}" for key in type(plugin).model_fields if key in plugin.model_fields_set
        ]
        calls.append(f"{type(plugin).__name__}({', '.join(given)})")
    joined = " & ".join(calls)
    if not options:
        return joined
    using = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"Chain.of([{', '.join(calls)}]).using({using})"


def _options(options: Options) -> dict[str, Any]:
    return options.model_dump(exclude_unset=True, exclude=set(recipe.NOT_IN_RECIPES))


def parse_text(text: str) -> dict[str, Any]:
    """Parse a text in any of these forms into the recipe's mapping.

    Raises:
        RecipeError: it has none of these forms; the message is that of the form it resembles.
    """
    if len(text) > MOST:
        raise RecipeError(f"a text of {len(text)} characters; a chain has at most {MOST}")
    stripped = text.strip()
    if re.match(r"(\$\s*)?(\S*/)?editkit\s", stripped):
        return recipe.to_mapping(_without_inherited(_from_command(stripped)))
    if re.search(r"\bedit\s*\(", stripped):
        return recipe.to_mapping(_from_python(stripped))
    return recipe.to_mapping(recipe.from_yaml(stripped))


def _from_command(text: str) -> Chain:
    try:
        words = shlex.split(text.replace("\\\n", " "))
    except ValueError as error:
        raise RecipeError(f"the command cannot be read: {error}") from None
    words = words[words.index(next(w for w in words if w.rpartition("/")[2] == "editkit")) + 1 :]
    if words[:1] == ["plan"]:
        words = words[1:]
    if not words or {"-h", "--help", "--help-all"} & set(words):
        raise RecipeError("the command contains no edit; paste one as: editkit inpaint photo.png --mask mask.png")
    return parse(words).chain


def _without_inherited(chain: Chain) -> Chain:
    """Return `chain` without what its stages inherit and without options that only a command may have."""
    stages = []
    for stage in chain.stages:
        values = stage.options.model_dump(exclude_unset=True, exclude={*stage.inherited, *recipe.NOT_IN_RECIPES})
        stages.append(Stage(stage.plugins, Options(**values)))
    return Chain(tuple(stages))


def _from_python(text: str) -> Chain:
    try:
        calls = [
            node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and _call_name(node) == "edit"
        ]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise RecipeError(
            "the Python cannot be read; paste a call as: edit('photo.png', Inpaint(mask='m.png'))"
        ) from None
    if len(calls) != 1 or len(calls[0].args) != 2:
        raise RecipeError("needs exactly one call of edit(picture, chain, ...)")
    chain = _eval_chain(calls[0].args[1])
    given = {key.arg: _eval_literal(key.value) for key in calls[0].keywords if key.arg not in ("output", "force", None)}
    unknown = next((key for key in given if key not in Options.model_fields or key in recipe.NOT_IN_RECIPES), None)
    if unknown is not None:
        raise RecipeError(f"edit() got {unknown}=, which is not an option{did_you_mean(unknown, Options.model_fields)}")
    first = Stage(chain.stages[0].plugins, Options(**given).merged(chain.stages[0].options))
    return Chain((first, *chain.stages[1:]))


def _call_name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _eval_chain(node: ast.expr) -> Chain:
    """Evaluate an expression of declarations, `&` and `|`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _eval_chain(node.left) | _eval_chain(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        return _eval_chain(node.left) & _eval_chain(node.right)
    if isinstance(node, ast.List):
        return Chain.of([plugin for one in node.elts for plugin in _eval_chain(one).stages[0].plugins])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr == "using":
            return _eval_chain(node.func.value).using(**{str(k.arg): _eval_literal(k.value) for k in node.keywords})
        if node.func.attr == "of" and len(node.args) == 1:
            return _eval_chain(node.args[0])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        kind = _declaration(node.func.id)
        return Chain.of(kind(**{str(k.arg): _eval_literal(k.value) for k in node.keywords}))
    raise RecipeError(f"{ast.unparse(node)[:80]!r} is not a chain; write declarations joined by & (with) and | (then)")


def _declaration(name: str) -> Any:
    """Return the plugin whose class has this name."""
    found = {}
    for plugin in registry.names():
        try:
            found[registry.load(plugin).__name__] = registry.load(plugin)
        except EditkitError:
            continue
    if name not in found:
        raise RecipeError(f"no plugin has a class named {name}{did_you_mean(name, found)}")
    return found[name]


def _eval_literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise RecipeError(
            f"{ast.unparse(node)[:80]!r} is not a constant; write numbers, strings or lists of them"
        ) from None
