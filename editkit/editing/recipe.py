"""Recipes: a chain as YAML, and as the words of a command line. Python, YAML and the command line are equivalent.

::

    editkit: 2
    stages:
      - plugins:
          - inpaint: {mask: mask.png, feather: 4}
          - guide: {brightness: 0.9}
        options: {seed: 7, steps: 30}
      - plugins:
          - sdedit: {strength: 0.3}

Only explicitly set values are written, so that defaults may improve. Names of files that plugins write are left out,
since a recipe from somebody else must not choose them. The version identifies the noise scheme: a recipe that says
`editkit: 1` uses the streams of that version and gives the same bytes. Paths are relative to the recipe. Recipes are
untrusted: every key is checked, and code that one names is refused unless the caller allows it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from editkit.common.small import read_limited_bytes
from editkit.common.spec import did_you_mean
from editkit.editing import recipe_files
from editkit.errors import EditkitError, ParameterError, RecipeError, short
from editkit.plugin import registry
from editkit.plugin.chain import Chain, Stage
from editkit.plugin.declaration import Declaration
from editkit.plugin.options import Options
from editkit.plugin.params import Code, Param, cli_name, has_marker, outputs, params
from editkit.plugin.protocol import Plugin

VERSION = 2
"""Version of the format; 1 had the noise of `streams-1`."""

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
NOT_IN_RECIPES = frozenset({"allow_code", "offline", "preview_decoder"})
"""Options that only the local user may set, or on which no result depends."""

Place = tuple[str | int, ...]


def to_mapping(chain: Chain, base: Path | None = None) -> dict[str, Any]:
    """Convert `chain` to YAML values. `base`: paths are written relative to this folder; None: unchanged.

    Raises:
        RecipeError: a value, such as an array or a callable, cannot be written as text.
    """
    stages = []
    for stage in chain.stages:
        entry: dict[str, Any] = {"plugins": [{p.name: _values(p, base, outputs(type(p)))} for p in stage.plugins]}
        options = stage.options.model_dump(exclude_unset=True, exclude=set(NOT_IN_RECIPES))
        if options:
            entry["options"] = options
        stages.append(entry)
    return {"editkit": VERSION, "stages": stages}


def without_outputs(data: Mapping[str, Any]) -> dict[str, Any]:
    """Remove files that plugins would write from the values of a recipe; old provenance may contain them."""

    def kept(entry: Any) -> Any:
        if not isinstance(entry, Mapping) or len(entry) != 1:
            return entry
        name, values = next(iter(entry.items()))
        if not isinstance(values, Mapping) or name not in registry.names():
            return entry
        written = {cli_name(field) for field in outputs(registry.load(name))}
        return {name: {key: value for key, value in values.items() if key not in written}}

    stages = data.get("stages")
    if not isinstance(stages, list):
        return dict(data)
    made = [
        {**stage, "plugins": [kept(entry) for entry in stage["plugins"]]}
        if isinstance(stage, Mapping) and isinstance(stage.get("plugins"), list)
        else stage
        for stage in stages
    ]
    return {**data, "stages": made}


def to_yaml(chain: Chain, base: Path | None = None) -> str:
    """Convert `chain` to the text of a recipe; see `to_mapping`. `base`: the folder of the recipe."""
    chain = chain if base is None else recipe_files.with_networks(chain, recipe_files.relativiser_to(base))
    text: str = yaml.safe_dump(to_mapping(chain, base), sort_keys=False, allow_unicode=True)
    return text


def read(path: str | Path, *, allow_code: bool = False, anywhere: bool = False, places: Iterable[str] = ()) -> Chain:
    """Read a recipe file. Its relative paths are relative to the file.

    Args:
        allow_code: it may name code to import.
        anywhere: allow files outside its folder and outside `places` (see `recipe_files`).
        places: files and folders that the command line names.

    Raises:
        RecipeError: the recipe is invalid. The message gives the line and suggests the closest key.
    """
    path = Path(path)
    try:
        data = read_limited_bytes(path, MAX_BYTES, pipe=True)
    except OSError as error:
        raise RecipeError(
            f"{path}: {error.strerror or error}; a recipe file is needed, as --save-recipe writes one"
        ) from None
    try:
        chain = from_yaml(data.decode("utf-8"), base=path.parent, allow_code=allow_code)
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: is not text") from None
    except EditkitError as error:
        raise RecipeError(f"{path}: {error}") from error
    chain = recipe_files.with_networks(chain, recipe_files.resolver_from(path.parent))
    if not anywhere:
        recipe_files.check_reach(chain, path, places)
    return chain


class _Plain(yaml.SafeLoader):
    """YAML loader without aliases, which recipes do not need: a few nested ones can expand to gigabytes."""

    nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node and count it."""
        self.nodes += 1
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("has an alias (*name); write the value in its place")
        if self.nodes > MAX_NODES:
            raise yaml.YAMLError(f"has more than {MAX_NODES} values")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A mapping; of a key that stands twice a reader sees the one and YAML takes the other."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key, yaml.ScalarNode) else False:
                raise yaml.MarkedYAMLError(problem=f"has {key.value[:80]!r} twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def from_yaml(text: str, *, base: Path | None = None, allow_code: bool = False) -> Chain:
    """Parse the text of a recipe; see `from_mapping`."""
    try:
        node = yaml.compose(text, Loader=_Plain)
        data = yaml.load(text, Loader=_Plain)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())[:160]
        raise RecipeError(f"{where}is not YAML: {problem}") from None
    try:
        return from_mapping(data, base=base, allow_code=allow_code)
    except _PlacedError as wrong:
        line = _line(node, wrong.place)
        raise RecipeError(f"line {line}: {wrong}" if line else str(wrong)) from None


class _PlacedError(RecipeError):
    """An error at one position in the mapping."""

    def __init__(self, message: str, *place: str | int) -> None:
        super().__init__(message)
        self.place: Place = place


def from_mapping(data: object, *, base: Path | None = None, allow_code: bool = False) -> Chain:
    """Convert a recipe's values to a chain. `base`: folder to which relative paths refer.

    Raises:
        RecipeError: a key or plugin is unknown, a value is invalid, or it names code without `allow_code`.
    """
    if not isinstance(data, Mapping):
        raise _PlacedError(f"a recipe is a mapping with the keys editkit and stages, got {type(data).__name__}")
    _known_keys(data, ("editkit", "stages"))
    version = data.get("editkit")
    if version not in (1, VERSION):
        raise _PlacedError(f"a recipe says `editkit: {VERSION}`, got {short(version)}", "editkit")
    stages = data.get("stages")
    if not isinstance(stages, list) or not stages:
        raise _PlacedError("stages must be a list with at least one stage", "stages")
    made = tuple(_stage(stage, base, allow_code, ("stages", k)) for k, stage in enumerate(stages))
    return Chain(made if version == VERSION else tuple(_with_noise_of_before(made)))


def _with_noise_of_before(stages: Iterable[Stage]) -> Iterator[Stage]:
    """Set the noise streams of `editkit: 1` on the first stage; later stages inherit them."""
    for number, stage in enumerate(stages):
        is_set = "noise" in stage.options.model_fields_set
        if stage.options.noise == "streams" and (is_set or number == 0):
            stage = replace(stage, options=stage.options.merged(Options(noise="streams-1")))
        yield stage


def _stage(data: object, base: Path | None, allow_code: bool, place: Place) -> Stage:
    if not isinstance(data, Mapping):
        raise _PlacedError("a stage is a mapping with the keys plugins and options", *place)
    _known_keys(data, ("plugins", "options"), *place)
    entries = data.get("plugins")
    if not isinstance(entries, list) or not entries:
        raise _PlacedError("plugins must be a list with at least one plugin", *place, "plugins")
    plugins = tuple(_plugin(e, base, allow_code, (*place, "plugins", k)) for k, e in enumerate(entries))
    return Stage(plugins, _options(data.get("options") or {}, (*place, "options")))


def _plugin(data: object, base: Path | None, allow_code: bool, place: Place) -> Plugin:
    if isinstance(data, str):
        data = {data: {}}
    if not isinstance(data, Mapping) or len(data) != 1:
        raise _PlacedError("a plugin is written as `name: {parameter: value}`", *place)
    name, values = next(iter(data.items()))
    try:
        declaration = registry.load(str(name))
    except EditkitError as error:
        raise _PlacedError(str(error), *place, name) from error
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise _PlacedError(f"the parameters of {name} must be a mapping, got {short(values)}", *place, name)
    fields = {cli_name(field): field for field in declaration.model_fields}
    _known_keys(values, tuple(fields), *place, name)
    for key in outputs(declaration):
        if cli_name(key) in values:
            message = f"{name}.{cli_name(key)} names a file to write, which a recipe must not do"
            raise _PlacedError(
                f"{message}; give --{cli_name(key).replace('_', '-')} on the command line", *place, name, key
            )
    given = {fields[str(key)]: value for key, value in values.items()}
    if base is not None:
        given = {key: recipe_files.from_folder(declaration, key, value, base) for key, value in given.items()}
    for key, value in given.items():
        if has_marker(declaration, key, Code) and isinstance(value, str) and ":" in value and not allow_code:
            raise _PlacedError(
                f"{name}.{key} names code ({value[:80]}); add --allow-code if you trust it", *place, name, key
            )
    try:
        return declaration(**given)
    except ParameterError as error:
        raise _PlacedError(f"{name}: {_format_error(error)}", *place, name, *_error_key(error)) from error


def _options(data: object, place: Place) -> Options:
    if not isinstance(data, Mapping):
        raise _PlacedError(f"options must be a mapping, got {short(data)}", *place)
    _known_keys(data, tuple(k for k in Options.model_fields if k not in NOT_IN_RECIPES), *place)
    try:
        return Options(**{str(k): v for k, v in data.items()})
    except ParameterError as error:
        raise _PlacedError(_format_error(error), *place, *_error_key(error)) from error


def _known_keys(data: Mapping[Any, Any], known: Iterable[str], *place: str | int) -> None:
    known = tuple(known)
    for key in data:
        if key not in known:
            hint = did_you_mean(str(key), known) or f"; allowed: {', '.join(known)}"
            raise _PlacedError(f"unknown key {short(key)}{hint}", *place, key)


def _format_error(error: ParameterError) -> str:
    return f"{cli_name(error.field)}: {error.reason}" if error.field else error.reason


def _error_key(error: ParameterError) -> Place:
    return (cli_name(error.field),) if error.field else ()


def _line(node: yaml.Node | None, place: Place) -> int | None:
    """Return the line (from 1) of the value or key at `place`."""
    for step in place:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if getattr(k, "value", None) == str(step)), None)
            if found is None:
                break
            node = found[1] if step != place[-1] else found[0]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
        else:
            break
    return None if node is None else node.start_mark.line + 1


def _values(plugin: Declaration, base: Path | None, without: Container[str] = ()) -> dict[str, Any]:
    """Return the explicitly set parameters as YAML values, except those named in `without`."""
    values: dict[str, Any] = {}
    for key in type(plugin).model_fields:
        if key not in plugin.model_fields_set or key in without:
            continue
        value = getattr(plugin, key)
        if isinstance(value, tuple):
            value = list(value)
        if not _is_plain(value):
            raise RecipeError(
                f"{plugin.name}.{key} is {type(value).__name__}, which cannot be written into a recipe; "
                f"use a file or module:function"
            )
        values[cli_name(key)] = value if base is None else recipe_files.to_folder(type(plugin), key, value, base)
    return values


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def to_words(chain: Chain, picture: str) -> list[str]:
    """Convert `chain` to the words of a command line after `editkit`, for `picture`.

    Raises:
        RecipeError: a value cannot be written as a word.
    """
    words: list[str] = []
    for number, stage in enumerate(chain.stages):
        for k, plugin in enumerate(stage.plugins):
            if number or k:
                words.append("with" if k else "then")
            words.append(plugin.name)
            if not number and not k:
                words.append(picture)
            fields = {p.key: p for p in params(type(plugin))}
            for key, value in _values(plugin, None).items():
                words += _option(fields[key], value)
            if k == 0:
                options = {p.name: p for p in params(Options)}
                for key, value in stage.options.model_dump(exclude_unset=True).items():
                    words += _option(options[key], value)
    return words


def _option(p: Param, value: Any) -> list[str]:
    """Write one option as words; `--flag=value`, so that a value may begin with a dash."""
    if value is None or (p.kind == "flag" and value is p.default):
        return []
    if isinstance(value, bool):
        return [p.flag if value else f"--no-{p.flag[2:]}"]
    if isinstance(value, list):
        return [word for v in value for word in _option(p, v)]
    return [f"{p.flag}={value}"]
