"""Parse the words of a command line into a chain: split at `with` and `then`, one Typer command for each plugin.

Typer ignores `chain=True` from 0.26 on, so this module does not use chain mode. It splits the words where the parser
expects no value (the arity of every option is known from the declarations), and parses each part with a command made
from the fields of its plugin (`editkit.cli.options`).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from editkit.cli.options import HELP_ALL, flags, given_by, typed_command
from editkit.cli.settings import read as own_settings
from editkit.errors import ParameterError, UsageError, short
from editkit.plugin import registry
from editkit.plugin.chain import Chain, Stage
from editkit.plugin.masking import with_mask
from editkit.plugin.options import Options
from editkit.plugin.outputs import NAMES_A_FILE, Extras
from editkit.plugin.params import Param, cli_name, params
from editkit.plugin.protocol import Plugin

COMMON = frozenset({"output", "force", "model", "prompt", "steps", "seed", "compare", "candidates"})
"""The options of a run that `--help` shows."""

AT_STEPS = frozenset({"condition", "branches", "combine", "energy", "shift", "clean", "after"})
"""The hooks that a plugin's window (--start, --stop) limits."""


MASK = Param("mask", "text", "Use this mask instead of the recipe's.", None, False, metavar="MASK", repeated=True)
"""For commands that read an edit from a recipe or a picture."""
ANYWHERE = Param("anywhere", "flag", "Allow the recipe to name files outside its own folder.", None, False)


@dataclass(frozen=True)
class Line:
    """A whole edit command."""

    pictures: tuple[str, ...]
    chain: Chain
    extras: Extras
    elsewhere: tuple[str, ...] = ()
    """Messages about networks that a recipe names outside its folder."""

    @property
    def picture(self) -> str:
        """Return the only picture.

        Raises:
            UsageError: there are several.
        """
        if len(self.pictures) != 1:
            raise UsageError(
                f"needs exactly one picture here, got {len(self.pictures)}: {', '.join(self.pictures[:3])}"
            )
        return self.pictures[0]


@dataclass(frozen=True)
class _Part:
    """One plugin with its words, and the joining word before it."""

    joint: Literal["", "with", "then"]
    plugin: type[Plugin]
    words: list[str]


def parse(words: Sequence[str], *, pictured: bool = True) -> Line:
    """Parse `words` (plugin, picture, options, `with`/`then` parts) into a chain. `pictured`: they include pictures.

    Raises:
        UsageError: one line with the mistake and what is allowed. HelpShown: a part asked for --help.
    """
    parts, settings = _split_parts(list(words)), own_settings()
    stages: list[Stage] = []
    pictures: list[str] = []
    extras: dict[str, Any] = {}
    for part in parts:
        given = _parse_part(part, first=part.joint == "" and pictured)
        pictures += given.pop("picture", [])
        plugin = _declare(part.plugin, {k: v for k, v in given.items() if k in part.plugin.model_fields})
        options = options_of(settings.resolved(given) if stages else settings.with_defaults(given))
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
    return Line(tuple(pictures), Chain(tuple(stages)).inherited(), _extras(settings.with_defaults(extras)))


def _split_parts(words: list[str]) -> list[_Part]:
    """Split the words of the plugins at `with` and `then`, except where an option expects a value."""
    parts: list[_Part] = []
    joint: Literal["", "with", "then"] = ""
    while True:
        if not words or words[0].startswith("-"):
            got = f", got {short(words[0])}" if words else ""
            raise UsageError(f"`{joint}` needs a plugin after it{got}; editkit plugins lists them")
        plugin = registry.load(words[0])
        valued = {flag for p in options_after(plugin) if p.takes_value for flag in flags(p)}
        k = 1
        while k < len(words) and words[k] not in ("with", "then"):
            k += 2 if words[k] in valued else 1
        parts.append(_Part(joint, plugin, words[1:k]))
        if k >= len(words):
            return parts
        joint = "with" if words[k] == "with" else "then"
        words = words[k + 1 :]


def _parse_part(part: _Part, first: bool) -> dict[str, Any]:
    """Parse the words of one part into values by field; unset fields are absent."""
    full = HELP_ALL in part.words
    words = ["--help" if word == HELP_ALL else word for word in part.words]
    return given_by(_command(part.plugin, first, full), part.plugin.name, words, after=_after_help(part.plugin, full))


@cache
def _command(plugin: type[Plugin], first: bool, full: bool) -> Any:
    """Build a Typer command whose options are the plugin's fields and those of the run."""
    own = sorted(params(plugin), key=lambda p: _definition_depth(plugin, p.name))  # its own options first
    pictures = "The picture to edit, or several, or a folder of them; - reads standard input."
    groups = {plugin.name: own, "the run": _run_params()}
    return typed_command(
        plugin.name,
        inspect.getdoc(plugin) or "",
        {"picture": pictures} if first else {},
        groups,
        several="picture",
        shown=None if full else _default_options(plugin),
    )


def _definition_depth(plugin: type[Plugin], field: str) -> int:
    """Return how many classes above `plugin` the field is defined."""
    kinds = enumerate(plugin.__mro__)
    return min(depth for depth, kind in kinds if field in vars(kind).get("__annotations__", {}))


def _default_options(plugin: type[Plugin]) -> set[str]:
    """Return the options to show by default: the plugin's own, and the common ones that apply to it."""
    own = {p.name for p in params(plugin)}
    if not steps_matter(plugin):
        own -= {"start", "stop"}
    return own | (COMMON if plugin.diffuses else COMMON - {*Options.model_fields})


def steps_matter(plugin: type[Plugin]) -> bool:
    """Whether the plugin acts at single steps, so that --start and --stop have an effect."""
    try:
        return bool(AT_STEPS & plugin(**plugin.example).uses())
    except Exception:  # the example of a third-party plugin fails: show all options
        return True


def _after_help(plugin: type[Plugin], full: bool) -> str:
    lines = usage(plugin)
    more = [] if full else [f"\n{HELP_ALL} shows every option: samplers, devices, noise, previews ..."]
    return "\n".join(["Examples:", *(f"  editkit {line}" for line in lines), *more])


def usage(plugin: type[Plugin]) -> tuple[str, ...]:
    """Return example commands with this plugin: its own, or three made from its example."""
    if plugin.usage:
        return plugin.usage
    given = {cli_name(key).replace("_", "-"): value for key, value in plugin.example.items()}
    options = "".join(f" --{key} {value}" for key, value in given.items())
    first = f"{plugin.name} photo.png{options}"
    return (first, f"plan {first}", f"sdedit photo.png with {plugin.name}{options}")


def parse_run(words: Sequence[str]) -> Line:
    """Parse `run RECIPE PICTURE [options of the run]`; these options override the recipe's in every stage."""
    from editkit.editing import recipe, recipe_files

    arguments = {"recipe": "The recipe (YAML).", "picture": "The picture to edit, or several, or a folder of them."}
    groups = {"run": [MASK, ANYWHERE], "the run": _run_params()}
    command = typed_command("run", "Run a recipe on a picture.", arguments, groups, several="picture")
    given = given_by(command, "run", list(words))
    settings = own_settings()
    options = options_of(settings.resolved(given))
    anywhere, places = given.get("anywhere", False), given["picture"]
    asked = recipe.read(given["recipe"], allow_code=options.allow_code, anywhere=anywhere, places=places)
    chain = settings.under_chain(asked).with_options(options)
    if "mask" in given:
        chain = with_mask(chain, given["mask"])
    elsewhere = tuple(recipe_files.networks_elsewhere(asked, given["recipe"]))
    return Line(tuple(given["picture"]), chain, _extras(settings.with_defaults(given)), elsewhere)


def _run_params() -> list[Param]:
    """Return the options of the run, for every edit command; --output comes first."""
    own = params(Extras)
    return [*own[:4], *params(Options), *own[4:]]


def options_after(plugin: type[Plugin]) -> list[Param]:
    """Return the options that may follow a plugin's name."""
    return [*params(plugin), *_run_params()]


def _declare(plugin: type[Plugin], values: dict[str, Any]) -> Plugin:
    """Build the declaration; report errors in one line."""
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
    """Build the options of the run from `values`; report errors in one line."""
    try:
        return Options(**{key: value for key, value in values.items() if key in Options.model_fields})
    except ParameterError as error:
        raise UsageError(explain(error)) from error


def explain(error: ParameterError) -> str:
    """Describe an invalid parameter in one line: the option, what is allowed, what was given."""
    return f"{option_name(error.field) if error.field else 'the parameters'}: {error.reason}"


def option_name(field: str) -> str:
    """Return the option name of a field."""
    return "--" + cli_name(field).replace("_", "-")
