"""Files that a recipe names: where they are looked for, and which it may name.

Names are relative to the recipe's own folder. A recipe may come from anybody, and the content of a file that it names
can end up in the result. So it may name files in its folder or below (with all links resolved), and files that the
command names too; `--anywhere` allows all others. Networks (models, LoRAs, ControlNets ...) may be anywhere, because
people keep them apart and they hold no picture; those outside the folder are reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from editkit.common.named import climbs, leads_out, named, replaced, texts
from editkit.errors import EditkitError, RecipeError
from editkit.models import families
from editkit.plugin.chain import Chain, Stage
from editkit.plugin.declaration import Declaration
from editkit.plugin.options import Options
from editkit.plugin.params import Code, is_path, marked, names_weights, param

NETWORKS = ("model", "transformer", "lora", "refiner")
"""Options that name networks."""


Move = Callable[[str], str | None]
"""What a name is called seen from elsewhere; None: it names no file."""


def from_folder(plugin: type[Declaration], key: str, value: Any, base: Path) -> Any:
    """A recipe's value of `key`, whose files are seen from the folder `base`, seen from the present one."""
    if isinstance(value, list):
        return [from_folder(plugin, key, one, base) for one in value]
    if base == Path():
        return value
    if is_path(plugin, key, value):
        return value if Path(value).is_absolute() else str(base / value)
    return _each_file(plugin, key, value, below(base))


def to_folder(plugin: type[Declaration], key: str, value: Any, base: Path) -> Any:
    """A value of `key`, whose files are seen from the present folder, seen from `base`."""
    if isinstance(value, list):
        return [to_folder(plugin, key, one, base) for one in value]
    if is_path(plugin, key, value):
        return os.path.relpath(value, base)
    return _each_file(plugin, key, value, seen_from(base))


def with_networks(chain: Chain, move: Move) -> Chain:
    """`chain` with the networks that its options name called as `move` says."""

    def moved(stage: Stage) -> Stage:
        given = stage.options.model_dump(include=stage.options.model_fields_set & {*NETWORKS})
        made = {key: _moved(value, move) for key, value in given.items()}
        return replace(stage, options=stage.options.merged(Options(**made))) if made != given else stage

    return Chain(tuple(map(moved, chain.stages)))


def _moved(value: Any, move: Move) -> Any:
    if isinstance(value, tuple):
        return tuple(_moved(one, move) for one in value)
    return replaced(value, move) if isinstance(value, str) else value


def _each_file(plugin: type[Declaration], key: str, value: Any, move: Move) -> Any:
    """`value` with the files that it names called as `move` says, where it is a text and neither language nor code."""
    if marked(plugin, key, Code) or not [*texts(value, key)]:
        return value
    return _moved(value, lambda name: move(name) if _is_written_as_file(name) else None)


def below(base: Path) -> Move:
    """How a file is called from the present folder which is there when it is seen from `base`."""

    def moved(name: str) -> str | None:
        there = base != Path() and not Path(name).is_absolute() and _is_there(base, name)
        return str(base / name) if there else None

    return moved


def seen_from(base: Path) -> Move:
    """How a file is called from `base` which is there when it is seen from the present folder."""

    def moved(name: str) -> str | None:
        if base == Path() or not _is_there(Path(), name):
            return None
        seen = os.path.relpath(name, base)
        return seen if "/" in seen else f"./{seen}"

    return moved


def _is_written_as_file(name: str) -> bool:
    return "/" in name or "." in name


def _is_there(base: Path, name: str) -> bool:
    """Whether there is a file `name` in `base`, and no embedded network of that name."""
    try:
        return (_is_written_as_file(name) or families.named(name) is None) and os.path.exists(base / name)
    except (ValueError, EditkitError):
        return False


def check_reach(chain: Chain, recipe: Path, places: Iterable[str]) -> None:
    """Refuse a recipe, read as `chain`, that names a file out of its folder and of `places`, which the command names.

    Raises:
        RecipeError: it does.
    """
    for text in files_elsewhere(chain, recipe, places):
        raise RecipeError(
            f"{recipe}: names {text[:80]!r}, which lies neither in its folder nor where the command points; add "
            f"--anywhere if you trust who wrote it"
        )


def files_elsewhere(chain: Chain, recipe: Path, places: Iterable[str]) -> list[str]:
    """What the recipe, read as `chain`, names out of its folder and of `places`, but for networks."""
    allowed = tuple(os.path.realpath(place) for place in (str(recipe.parent), *places))
    return list(dict.fromkeys(_elsewhere(chain, allowed, networks=False)))


def networks_elsewhere(chain: Chain, recipe: str | Path) -> list[str]:
    """A line for each network that the recipe, read as `chain`, names out of its own folder."""
    found = _elsewhere(chain, (os.path.realpath(Path(recipe).parent),), networks=True)
    return [f"the recipe loads {text}, which lies out of its folder" for text in dict.fromkeys(found)]


def _elsewhere(chain: Chain, allowed: Sequence[str], *, networks: bool) -> Iterator[str]:
    """What `chain` names out of the folders and files `allowed`: its networks, or all else."""
    for stage in chain.stages:
        for plugin in stage.plugins:
            kind = type(plugin)
            for key in plugin.model_fields_set:
                info, value = kind.model_fields[key], getattr(plugin, key)
                if names_weights(param(key, info), info) is networks:
                    for one in value if isinstance(value, tuple) else (value,):
                        if not is_path(kind, key, one):
                            yield from _out_of(one, key, allowed, networks)
                        elif _is_out(one, allowed):
                            yield one
        for key, value in stage.options.model_dump(exclude_unset=True).items():
            if (key in NETWORKS) is networks:
                yield from _out_of(value, key, allowed, networks)


def _out_of(value: Any, key: str, allowed: Sequence[str], network: bool) -> Iterator[str]:
    """The texts in a value that may name a file elsewhere. What is no network is looked for, too."""
    for text in texts(value, key):
        parts = [] if not leads_out(text) and network else [*named(text)]
        asked = (p for p in parts if climbs(p) or (not network and _is_written_as_file(p) and _is_there(Path(), p)))
        if any(_is_out(part, allowed) for part in asked):
            yield text


def _is_out(name: str, allowed: Sequence[str]) -> bool:
    try:
        real = os.path.realpath(name)
    except (OSError, ValueError):
        return False  # no file is called so
    return name.startswith("~") or not any(Path(real).is_relative_to(place) for place in allowed)
