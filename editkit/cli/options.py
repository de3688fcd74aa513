"""Typer commands made from declarations: options, their help, and the values that were given.

Typer 0.26 and later carries its own Click, so nothing here imports click.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any

import typer
from rich.markup import escape

from editkit.cli.console import printable, write
from editkit.errors import UsageError
from editkit.plugin.params import Param

_TYPES = {"int": int, "float": float, "text": str, "flag": bool}
_SHORT = {"output": "-o", "quiet": "-q", "watch": "-w"}

HELP_ALL = "--help-all"


class HelpWasShown(Exception):  # noqa: N818
    """--help was asked for and answered."""


def given_by(command: Any, name: str, words: Sequence[str], after: str = "") -> dict[str, Any]:
    """Parse `words` for a Typer command into name -> value, without unset ones. `after` is shown below its help.

    Raises:
        UsageError: the words are invalid.
        HelpShown: help was requested, and has been shown.
    """
    try:
        context = command.make_context(f"editkit {name}", list(words))
        with context:
            given: dict[str, Any] = context.command.invoke(context)
    except typer.Exit as done:
        if after:
            write(after)
        raise HelpWasShown from done
    except Exception as error:
        # Typer's own copy of Click is private: its usage errors are known by this method alone.
        if hasattr(error, "format_message"):
            text = " ".join(error.format_message()[:600].split())
            raise UsageError(f"{name}: {text[:1].lower()}{text[1:]}".rstrip(".")) from error
        raise
    return {name: value for name, value in given.items() if value is not None and value != []}


def typed_command(
    name: str,
    doc: str,
    arguments: Mapping[str, str],
    groups: Mapping[str, Sequence[Param]],
    *,
    several: str = "",
    shown: Collection[str] | None = None,
) -> Any:
    """Create a Typer command that returns its arguments and options.

    Args:
        name: name of the command.
        doc: text of its help.
        arguments: name -> help; each is required.
        groups: title -> options.
        several: name of the last argument, if it may be given more than once.
        shown: options that its help shows; None: all.
    """

    def collect(**given: Any) -> dict[str, Any]:
        return given

    wrapped = with_options(collect, arguments, groups, several=several, shown=shown)
    app = typer.Typer(add_completion=False)
    context = {"help_option_names": ["-h", "--help"]}
    app.command(name=name, help=escape(printable(doc)), context_settings=context)(wrapped)
    return typer.main.get_command(app)


def with_options(
    function: Callable[..., Any],
    arguments: Mapping[str, str],
    groups: Mapping[str, Sequence[Param]],
    *,
    several: str = "",
    shown: Collection[str] | None = None,
) -> Callable[..., Any]:
    """Wrap a function of **keywords with a signature for Typer: `arguments`, then options in titled groups."""
    options = {p.name: p for group in groups.values() for p in group}

    def wrapped(**given: Any) -> Any:
        return function(**{key: _single_value(options[key], v) if key in options else v for key, v in given.items()})

    signature = [
        _keyword(
            key,
            Annotated[list[str] if key == several else str, typer.Argument(help=escape(text), metavar=key.upper())],
            inspect.Parameter.empty,
        )
        for key, text in arguments.items()
    ]
    for title, group in groups.items():
        hidden = {p.name for p in group if shown is not None and p.name not in shown}
        signature.extend(_keyword(p.name, _annotated(p, title, p.name in hidden), None) for p in group)
    wrapped.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in signature}
    return wrapped


def _single_value(p: Param, value: Any) -> Any:
    """Return the single value of an option, for which Typer collects a list.

    Raises:
        UsageError: an option that takes one value was given several times.
    """
    if not p.takes_value or value is None:
        return value
    value = [one.value if isinstance(one, Enum) else one for one in value]
    if p.repeated:
        return value
    if len(value) > 1:
        raise UsageError(f"{p.flag} is given twice, as {value[0]} and as {value[1]}; give it once")
    return value[0] if value else None


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _annotated(p: Param, panel: str, hidden: bool) -> Any:
    """Return the Typer annotation of a parameter; every default is None, to recognise unset options."""
    default = "" if p.default in (None, (), "") or p.kind == "flag" else f" (default: {p.default})"
    kind: Any = Enum(p.name, {c: c for c in p.choices}) if p.kind == "choice" else _TYPES[p.kind]
    option = typer.Option(
        *flags(p), help=escape(printable(p.help + default)), show_default=False, metavar=metavar(p),
        rich_help_panel=panel, hidden=hidden,
    )  # fmt: skip
    return Annotated[list[kind] | None if p.takes_value else kind | None, option]


def metavar(p: Param) -> str | None:
    """Return the name of the value in the help."""
    if p.metavar is not None or not p.takes_value:
        return p.metavar
    return "|".join(p.choices) or {"int": "N", "float": "X", "text": "TEXT"}[p.kind]


def flags(p: Param) -> tuple[str, ...]:
    """Return the option's names."""
    short = _SHORT.get(p.name)
    name = p.flag
    if p.kind == "flag" and p.default is True:
        name = f"{p.flag}/--no-{p.flag[2:]}"
    return (name, short) if short else (name,)
