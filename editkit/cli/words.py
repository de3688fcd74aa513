"""From the words of a command line to a chain: cut at `with` and `then`, one Typer command for each plugin.

Typer 0.26 and later carries its own Click and ignores `chain=True`, so nothing here builds on chain mode or imports
click: words are cut where the parser expects no value (the arity of every option is known from the declarations), and
each part is parsed by a command made from its plugin's fields.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import typer

from editkit.errors import ParameterError, UsageError
from editkit.plugin import registry
from editkit.plugin.chain import Chain, Stage
from editkit.plugin.options import Options
from editkit.plugin.outputs import NAMES_A_FILE, Extras
from editkit.plugin.params import Param, params, word
from editkit.plugin.protocol import Plugin

_TYPES = {"int": int, "float": float, "text": str, "flag": bool}


@dataclass(frozen=True)
class Line:
    """A whole edit command."""

    picture: str
    chain: Chain
    extras: Extras


@dataclass(frozen=True)
class _Part:
    """One plugin with its words, and the word that stood before it."""

    joint: Literal["", "with", "then"]
    plugin: type[Plugin]
    words: list[str]


def parse(words: Sequence[str]) -> Line:
    """`words` (plugin, picture, options, `with`/`then` parts) as a chain.

    Raises:
        UsageError: in one line what is wrong and what is allowed. `HelpShown`: a part asked for --help.
    """
    parts = _cut(list(words))
    stages: list[Stage] = []
    picture: str | None = None
    extras: dict[str, Any] = {}
    for part in parts:
        given = _parse_part(part, first=part.joint == "")
        if part.joint == "":
            picture = given.pop("picture")
        plugin = _declare(part.plugin, {k: v for k, v in given.items() if k in part.plugin.model_fields})
        options = options_of(given)
        for name in Extras.model_fields:
            if name in given:
                if name in extras and name in NAMES_A_FILE:
                    raise UsageError(f"--{name.replace('_', '-')} is given twice; one command writes one picture")
                extras[name] = given[name]
        if part.joint == "with":
            last = stages[-1]
            stages[-1] = Stage((*last.plugins, plugin), last.options.merged(options))
        else:
            stages.append(Stage((plugin,), options))
    assert picture is not None
    return Line(picture, Chain(tuple(stages)).inherited(), _extras(extras))


class HelpShown(Exception):  # noqa: N818
    """--help was asked for and answered."""


def _cut(words: list[str]) -> list[_Part]:
    """The words of each plugin: cut at `with` and `then` where no option waits for a value."""
    parts: list[_Part] = []
    joint: Literal["", "with", "then"] = ""
    while True:
        if not words or words[0].startswith("-"):
            got = f", got {words[0]!r}" if words else ""
            raise UsageError(f"`{joint}` needs a plugin behind it{got}; editkit plugins lists them")
        plugin = registry.load(words[0])
        valued = {flag for p in _all_params(plugin) if p.takes_value for flag in _flags(p)}
        k = 1
        while k < len(words) and words[k] not in ("with", "then"):
            k += 2 if words[k] in valued else 1
        parts.append(_Part(joint, plugin, words[1:k]))
        if k >= len(words):
            return parts
        joint = "with" if words[k] == "with" else "then"
        words = words[k + 1 :]


def _parse_part(part: _Part, first: bool) -> dict[str, Any]:
    """The values that one part's words give, by field; unset ones are absent."""
    return given_by(_command(part.plugin, first), part.plugin.name, part.words)


def given_by(command: Any, name: str, words: list[str]) -> dict[str, Any]:
    """What `words` give to a Typer command, by name; unset ones are absent."""
    try:
        context = command.make_context(f"editkit {name}", list(words))
        with context:
            given: dict[str, Any] = context.command.invoke(context)
    except typer.Exit as done:
        raise HelpShown from done
    except Exception as error:
        # Typer's own copy of Click is private: its usage errors are known by this method alone.
        if hasattr(error, "format_message"):
            text = " ".join(error.format_message().split())
            raise UsageError(f"{name}: {text[:1].lower()}{text[1:]}".rstrip(".")) from error
        raise
    return {name: value for name, value in given.items() if value is not None and value != []}


@cache
def _command(plugin: type[Plugin], first: bool) -> Any:
    """A Typer command whose options are the plugin's fields and those of the run; it returns what was given."""
    arguments = {"picture": "The picture to edit; - reads standard input."} if first else {}
    groups = {plugin.name: params(plugin), "the run": _run_params()}
    return typed_command(plugin.name, inspect.getdoc(plugin) or "", arguments, groups)


def typed_command(name: str, doc: str, arguments: dict[str, str], groups: dict[str, list[Param]]) -> Any:
    """A Typer command of required `arguments` (name to help) and options in titled groups; returns what was given."""

    def collect(**given: Any) -> dict[str, Any]:
        return given

    with_options(collect, arguments, groups)
    app = typer.Typer(add_completion=False)
    app.command(name=name, help=doc, context_settings={"help_option_names": ["-h", "--help"]})(collect)
    return typer.main.get_command(app)


def with_options(function: Callable[..., Any], arguments: dict[str, str], groups: dict[str, list[Param]]) -> None:
    """Give a function of **keywords the signature that Typer reads: `arguments`, then options in titled groups."""
    signature = [
        _keyword(key, Annotated[str, typer.Argument(help=text)], inspect.Parameter.empty)
        for key, text in arguments.items()
    ]
    for title, group in groups.items():
        signature.extend(_keyword(p.name, _annotated(p, title), None) for p in group)
    function.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in signature}


def parse_run(words: Sequence[str]) -> Line:
    """`run RECIPE PICTURE [options of the run]`: the options given here win over the recipe's, in every stage."""
    from editkit.editing import recipe

    arguments = {"recipe": "The recipe (YAML).", "picture": "The picture to edit; - reads standard input."}
    doc = "Run a recipe on a picture."
    given = given_by(typed_command("run", doc, arguments, {"the run": _run_params()}), "run", list(words))
    options = options_of(given)
    chain = recipe.read(given["recipe"], allow_code=options.allow_code)
    return Line(given["picture"], chain.with_options(options), _extras(given))


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _annotated(p: Param, panel: str) -> Any:
    """The Typer annotation of one parameter; every default is None, so that what was not given is known."""
    shown = "" if p.default in (None, ()) or p.kind == "flag" else f" (default: {p.default})"
    kind: Any = Literal[p.choices] if p.kind == "choice" else _TYPES[p.kind]
    option = typer.Option(*_flags(p), help=p.help + shown, show_default=False, metavar=p.metavar, rich_help_panel=panel)
    return Annotated[list[kind] | None if p.repeated else kind | None, option]


def _flags(p: Param) -> tuple[str, ...]:
    """The option's names."""
    short = {"output": "-o", "quiet": "-q"}.get(p.name)
    name = p.flag
    if p.kind == "flag" and p.default is True:
        name = f"{p.flag}/--no-{p.flag[2:]}"
    return (name, short) if short else (name,)


def _run_params() -> list[Param]:
    """The options of the run, on every edit command: where the result goes stands first."""
    own = params(Extras)
    return [*own[:2], *params(Options), *own[2:]]


def _all_params(plugin: type[Plugin]) -> list[Param]:
    return [*params(plugin), *_run_params()]


def _declare(plugin: type[Plugin], values: dict[str, Any]) -> Plugin:
    """The declaration, its errors in one line."""
    try:
        return plugin(**values)
    except ParameterError as error:
        raise UsageError(f"{plugin.name}: {explain(error)}") from error


def _extras(values: dict[str, Any]) -> Extras:
    try:
        return Extras(**{key: value for key, value in values.items() if key in Extras.model_fields})
    except ParameterError as error:
        raise UsageError(explain(error)) from error


def options_of(values: dict[str, Any]) -> Options:
    """The options of the run among `values`, their errors in one line."""
    try:
        return Options(**{key: value for key, value in values.items() if key in Options.model_fields})
    except ParameterError as error:
        raise UsageError(explain(error)) from error


def explain(error: ParameterError) -> str:
    """What is wrong with a parameter, in one line: option, what is allowed, what was got."""
    return f"{option(error.field) if error.field else 'the parameters'}: {error.reason}"


def option(field: str) -> str:
    """A field's name as an option."""
    return "--" + word(field).replace("_", "-")
