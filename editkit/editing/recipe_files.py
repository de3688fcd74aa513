"""Resolve the files that a recipe names, and check which ones it may name.

Names are relative to the recipe's own folder. A recipe may come from anyone, and the content of a file that it names
can end up in the result. So it may name only files in its folder or below (with all links resolved), and files that the
command names too; `--anywhere` allows all others. Networks (models, LoRAs, ControlNets ...) may be anywhere, because
users store them separately and they contain no pictures; networks outside the folder are reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from editkit.common.named import candidate_names, escapes_folder, file_strings, has_escaping_path, replace_names
from editkit.errors import EditkitError, RecipeError
from editkit.models import families
from editkit.plugin.chain import Chain, Stage
from editkit.plugin.declaration import Declaration
from editkit.plugin.options import Options
from editkit.plugin.params import Code, describe_param, has_marker, is_path, names_weights

NETWORKS = ("model", "transformer", "lora", "refiner")
"""Options that name networks."""


Move = Callable[[str], str | None]
"""A function from a name to the same file's name relative to another folder; None if the name is not a file."""


def from_folder(plugin: type[Declaration], key: str, value: Any, base: Path) -> Any:
    """Convert a recipe's value of `key`: file names relative to `base` become relative to the current folder."""
    if isinstance(value, list):
        return [from_folder(plugin, key, one, base) for one in value]
    if base == Path():
        return value
    if is_path(plugin, key, value):
        return value if Path(value).is_absolute() else str(base / value)
    return _each_file(plugin, key, value, resolver_from(base))


def to_folder(plugin: type[Declaration], key: str, value: Any, base: Path) -> Any:
    """Convert a value of `key`: file names relative to the current folder become relative to `base`."""
    if isinstance(value, list):
        return [to_folder(plugin, key, one, base) for one in value]
    if is_path(plugin, key, value):
        return os.path.relpath(value, base)
    return _each_file(plugin, key, value, relativiser_to(base))


def with_networks(chain: Chain, move: Move) -> Chain:
    """Return `chain` with the networks in its options renamed by `move`."""

    def moved(stage: Stage) -> Stage:
        given = stage.options.model_dump(include=stage.options.model_fields_set & {*NETWORKS})
        made = {key: _move_names(value, move) for key, value in given.items()}
        return replace(stage, options=stage.options.merged(Options(**made))) if made != given else stage

    return Chain(tuple(map(moved, chain.stages)))


def _move_names(value: Any, move: Move) -> Any:
    if isinstance(value, tuple):
        return tuple(_move_names(one, move) for one in value)
    return replace_names(value, move) if isinstance(value, str) else value


def _each_file(plugin: type[Declaration], key: str, value: Any, move: Move) -> Any:
    """Rename the files in `value` by `move`, if it is a string that is neither natural language nor code."""
    if has_marker(plugin, key, Code) or not [*file_strings(value, key)]:
        return value
    return _move_names(value, lambda name: move(name) if _is_written_as_file(name) else None)


def resolver_from(base: Path) -> Move:
    """Return a function from a name that exists relative to `base` to its name relative to the current folder."""

    def moved(name: str) -> str | None:
        there = base != Path() and not Path(name).is_absolute() and _exists(base, name)
        return str(base / name) if there else None

    return moved


def relativiser_to(base: Path) -> Move:
    """Return a function from a name that exists relative to the current folder to its name relative to `base`."""

    def moved(name: str) -> str | None:
        if base == Path() or not _exists(Path(), name):
            return None
        seen = os.path.relpath(name, base)
        return seen if "/" in seen else f"./{seen}"

    return moved


def _is_written_as_file(name: str) -> bool:
    return "/" in name or "." in name


def _exists(base: Path, name: str) -> bool:
    """Return whether `base` contains a file `name`, and no built-in network has that name."""
    try:
        return (_is_written_as_file(name) or families.find_named(name) is None) and os.path.exists(base / name)
    except (ValueError, EditkitError):
        return False


def check_reach(chain: Chain, recipe: Path, places: Iterable[str]) -> None:
    """Check that a recipe, read as `chain`, names only files in its folder and in `places`, which the command names.

    Raises:
        RecipeError: it names another file.
    """
    for text in files_elsewhere(chain, recipe, places):
        raise RecipeError(
            f"{recipe}: names {text[:80]!r}, which lies neither in its folder nor where the command points; add "
            f"--anywhere if you trust who wrote it"
        )


def files_elsewhere(chain: Chain, recipe: Path, places: Iterable[str]) -> list[str]:
    """Return the names in the recipe, read as `chain`, outside its folder and `places`, except networks."""
    allowed = tuple(os.path.realpath(place) for place in (str(recipe.parent), *places))
    return list(dict.fromkeys(_names_elsewhere(chain, allowed, networks=False)))


def networks_elsewhere(chain: Chain, recipe: str | Path) -> list[str]:
    """Return a message for each network outside its own folder that the recipe, read as `chain`, names."""
    found = _names_elsewhere(chain, (os.path.realpath(Path(recipe).parent),), networks=True)
    return [f"the recipe loads {text}, which lies out of its folder" for text in dict.fromkeys(found)]


def _names_elsewhere(chain: Chain, allowed: Sequence[str], *, networks: bool) -> Iterator[str]:
    """Yield the names in `chain` outside the `allowed` folders and files: its networks, or everything else."""
    for stage in chain.stages:
        for plugin in stage.plugins:
            kind = type(plugin)
            for key in plugin.model_fields_set:
                info, value = kind.model_fields[key], getattr(plugin, key)
                if names_weights(describe_param(key, info), info) is networks:
                    for one in value if isinstance(value, tuple) else (value,):
                        if not is_path(kind, key, one):
                            yield from _names_outside(one, key, allowed, networks)
                        elif _is_outside(one, allowed):
                            yield one
        for key, value in stage.options.model_dump(exclude_unset=True).items():
            if (key in NETWORKS) is networks:
                yield from _names_outside(value, key, allowed, networks)


def _names_outside(value: Any, key: str, allowed: Sequence[str], network: bool) -> Iterator[str]:
    """Yield the strings in a value that name a file outside `allowed`.

    For networks, only names that climb are examined; for other files, also the names of existing files.
    """
    for text in file_strings(value, key):
        parts = [] if not has_escaping_path(text) and network else [*candidate_names(text)]
        asked = (
            p for p in parts if escapes_folder(p) or (not network and _is_written_as_file(p) and _exists(Path(), p))
        )
        if any(_is_outside(part, allowed) for part in asked):
            yield text


def _is_outside(name: str, allowed: Sequence[str]) -> bool:
    try:
        real = os.path.realpath(name)
    except (OSError, ValueError):
        return False  # no file can have this name
    return name.startswith("~") or not any(Path(real).is_relative_to(place) for place in allowed)
