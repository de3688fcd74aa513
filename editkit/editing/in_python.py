"""Translation of errors and notices to Python's names: `mask=` instead of the command line's `--mask`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from editkit.errors import EditkitError, ParameterError
from editkit.plugin.declaration import ValidatedModel
from editkit.plugin.params import Param, params

OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*)(?:[ =]([^\s,;:()`]+))?")


@contextmanager
def in_python(function: str) -> Iterator[None]:
    """Translate errors raised inside to Python's names; `function` is named as the owner of run options."""
    try:
        yield
    except ParameterError as error:
        owner = function if error.owner == "Options" else error.owner
        raise ParameterError(owner, error.field, words(error.reason)) from None
    except EditkitError as error:
        message = words(str(error))
        if message == str(error):
            raise
        raise type(error)(message) from error


def words(text: str) -> str:
    """Replace options of a run or of a loaded plugin in `text` by keywords: `--steps 30` becomes `steps=30`."""
    known: dict[str, list[Param]] = {}
    for kind in _kinds(ValidatedModel) if "--" in text else ():
        for param in params(kind):
            known.setdefault(param.flag, []).append(param)

    def keyword(found: re.Match[str]) -> str:
        return _keyword(known[found[1]], found[2]) if found[1] in known else found[0]

    return OPTION.sub(keyword, text)


def _keyword(meant: list[Param], value: str | None) -> str:
    """Write an option as a keyword; `meant` are the parameters of this name."""
    name = meant[0].name
    if all(param.kind == "flag" for param in meant):
        return f"{name}=True" + ("" if value is None else f" {value}")
    if value is None:
        return f"{name}="
    if any(value in param.choices for param in meant):
        return f'{name}="{value}"'
    return f"{name}={value}" if re.fullmatch(r"-?\d+(\.\d+)?", value) else f"{name}= {value}"


def _kinds(kind: type[ValidatedModel]) -> Iterator[type[ValidatedModel]]:
    """Yield `kind` and all of its subclasses."""
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)
