"""From the words of a command line to a chain: cut at `with` and `then`, one Typer command for each plugin.

Typer ignores `chain=True` from 0.26 on, so nothing here builds on chain mode: words are cut where the parser expects no
value (the arity of every option is known from the declarations), and each part is parsed by a command made from its
plugin's fields (`editkit.cli.options`).
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
from editkit.plugin.masking import masked
from editkit.plugin.options import Options
from editkit.plugin.outputs import NAMES_A_FILE, Extras
from editkit.plugin.params import Param, params, word
from editkit.plugin.protocol import Plugin

COMMON = frozenset({"output", "force", "model", "prompt", "steps", "seed", "compare", "candidates"})
"""The options of the run that `--help` shows."""

AT_STEPS = frozenset({"condition", "branches", "combine", "energy", "shift", "clean", "after"})
"""The hooks that a plugin's window (--start, --stop) is asked for."""


MASK = Param("mask", "text", "Another mask than the recipe's.", None, False, metavar="MASK", repeated=True)
"""For commands that read an edit from somewhere else."""
ANYWHERE = Param("anywhere", "flag", "The recipe may name files that lie out of its folder.", None, False)


@dataclass(frozen=True)
class Line:
    """A whole edit command."""

    pictures: tuple[str, ...]
    chain: Chain
    extras: Extras
    elsewhere: tuple[str, ...] = ()
    """What is to be said of the networks that a recipe names out of its folder."""

    @property
    def picture(self) -> str:
        """The one picture.

        Raises:
            UsageError: several are given.
        """
        if len(self.pictures) != 1:
            raise UsageError(f"one picture is needed here, got {len(self.pictures)}: {', '.join(self.pictures[:3])}")
        return self.pictures[0]


@dataclass(frozen=True)
class _Part:
    """One plugin with its words, and the word that stood before it."""

    joint: Literal["", "with", "then"]
    plugin: type[Plugin]
    words: list[str]


def parse(words: Sequence[str], *, pictured: bool = True) -> Line:
    """`words` (plugin, picture, options, `with`/`then` parts) as a chain. `pictured`: there are pictures in them.

    Raises:
        UsageError: in one line what is wrong and what is allowed. `HelpShown`: a part asked for --help.
    """
    parts, settings = _cut(list(words)), own_settings()
    stages: list[Stage] = []
    pictures: list[str] = []
    extras: dict[str, Any] = {}
    for part in parts:
        given = _parse_part(part, first=part.joint == "" and pictured)
        pictures += given.pop("picture", [])
        plugin = _declare(part.plugin, {k: v for k, v in given.items() if k in part.plugin.model_fields})
        options = options_of(settings.resolved(given) if stages else settings.under(given))
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
    return Line(tuple(pictures), Chain(tuple(stages)).inherited(), _extras(settings.under(extras)))


def _cut(words: list[str]) -> list[_Part]:
    """The words of each plugin: cut at `with` and `then` where no option waits for a value."""
    parts: list[_Part] = []
    joint: Literal["", "with", "then"] = ""
    while True:
        if not words or words[0].startswith("-"):
            got = f", got {short(words[0])}" if words else ""
            raise UsageError(f"`{joint}` needs a plugin behind it{got}; editkit plugins lists them")
        plugin = registry.load(words[0])
        valued = {flag for p in options_behind(plugin) if p.takes_value for flag in flags(p)}
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
    full = HELP_ALL in part.words
    words = ["--help" if word == HELP_ALL else word for word in part.words]
    return given_by(_command(part.plugin, first, full), part.plugin.name, words, after=_after_help(part.plugin, full))


@cache
def _command(plugin: type[Plugin], first: bool, full: bool) -> Any:
    """A Typer command whose options are the plugin's fields and those of the run."""
    own = sorted(params(plugin), key=lambda p: _depth(plugin, p.name))  # before what it shares with others
    pictures = "The picture to edit, or several, or a folder of them; - reads standard input."
    groups = {plugin.name: own, "the run": _run_params()}
    return typed_command(
        plugin.name,
        inspect.getdoc(plugin) or "",
        {"picture": pictures} if first else {},
        groups,
        several="picture",
        shown=None if full else _shown(plugin),
    )


def _depth(plugin: type[Plugin], field: str) -> int:
    """How many classes above `plugin` the field comes from."""
    kinds = enumerate(plugin.__mro__)
    return min(depth for depth, kind in kinds if field in vars(kind).get("__annotations__", {}))


def _shown(plugin: type[Plugin]) -> set[str]:
    """The options that are worth a look at first: the plugin's own, and the common ones that mean something for it."""
    own = {p.name for p in params(plugin)}
    if not steps_matter(plugin):
        own -= {"start", "stop"}
    return own | (COMMON if plugin.diffuses else COMMON - {*Options.model_fields})


def steps_matter(plugin: type[Plugin]) -> bool:
    """Whether the plugin acts at single steps, so that --start and --stop change something."""
    try:
        return bool(AT_STEPS & plugin(**plugin.example).uses())
    except Exception:  # a stranger's example that does not work: nothing is left out
        return True


def _after_help(plugin: type[Plugin], full: bool) -> str:
    lines = usage(plugin)
    more = [] if full else [f"\n{HELP_ALL} shows every option: samplers, devices, noise, previews ..."]
    return "\n".join(["Examples:", *(f"  editkit {line}" for line in lines), *more])


def usage(plugin: type[Plugin]) -> tuple[str, ...]:
    """Three commands with this plugin: its own, or made of its example."""
    if plugin.usage:
        return plugin.usage
    given = {word(key).replace("_", "-"): value for key, value in plugin.example.items()}
    options = "".join(f" --{key} {value}" for key, value in given.items())
    first = f"{plugin.name} photo.png{options}"
    return (first, f"plan {first}", f"sdedit photo.png with {plugin.name}{options}")


def parse_run(words: Sequence[str]) -> Line:
    """`run RECIPE PICTURE [options of the run]`: the options given here win over the recipe's, in every stage."""
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
        chain = masked(chain, given["mask"])
    elsewhere = tuple(recipe_files.networks_elsewhere(asked, given["recipe"]))
    return Line(tuple(given["picture"]), chain, _extras(settings.under(given)), elsewhere)


def _run_params() -> list[Param]:
    """The options of the run, on every edit command: where the result goes stands first."""
    own = params(Extras)
    return [*own[:4], *params(Options), *own[4:]]


def options_behind(plugin: type[Plugin]) -> list[Param]:
    """The options that may stand behind a plugin's name."""
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
