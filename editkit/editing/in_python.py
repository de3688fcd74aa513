"""Errors and notices in Python's terms: `mask=`, where the command line says `--mask`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from editkit.errors import EditkitError, ParameterError
from editkit.plugin.declaration import Checked
from editkit.plugin.params import Param, params

OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*)(?:[ =]([^\s,;:()`]+))?")


@contextmanager
def in_python(function: str) -> Iterator[None]:
    """What `function` raises for its user, in Python's words; the options of a run are its own."""
    try:
        yield
    except ParameterError as error:
        owner = function if error.owner == "Options" else error.owner
        raise ParameterError(owner, error.field, words(error.reason)) from None
    except EditkitError as error:
        said = words(str(error))
        if said == str(error):
            raise
        raise type(error)(said) from error


def words(text: str) -> str:
    """`text` with every option of a run or of a loaded plugin as a keyword: `--steps 30` is `steps=30`."""
    known: dict[str, list[Param]] = {}
    for kind in _kinds(Checked) if "--" in text else ():
        for param in params(kind):
            known.setdefault(param.flag, []).append(param)

    def keyword(found: re.Match[str]) -> str:
        return _keyword(known[found[1]], found[2]) if found[1] in known else found[0]

    return OPTION.sub(keyword, text)


def _keyword(meant: list[Param], value: str | None) -> str:
    """As a keyword of the parameters, of one name, that may be meant."""
    name = meant[0].name
    if all(param.kind == "flag" for param in meant):
        return f"{name}=True" + ("" if value is None else f" {value}")
    if value is None:
        return f"{name}="
    if any(value in param.choices for param in meant):
        return f'{name}="{value}"'
    return f"{name}={value}" if re.fullmatch(r"-?\d+(\.\d+)?", value) else f"{name}= {value}"


def _kinds(kind: type[Checked]) -> Iterator[type[Checked]]:
    """`kind` and all that was made of it."""
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)
