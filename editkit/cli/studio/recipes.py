"""Check recipes that come from a page, before any part of them is used.

A recipe may name masks and pictures of the studio's folder, and models that the studio was started with. It may not
name code, other files or folders, hub ids, or files to write.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editkit.cli.studio.config import Config
from editkit.common.named import has_escaping_path
from editkit.common.spec import name_of
from editkit.editing import recipe
from editkit.errors import EditkitError, RecipeError
from editkit.models.families import find_named
from editkit.pictures.shapes import is_words
from editkit.plugin.chain import Chain
from editkit.plugin.declaration import Declaration
from editkit.plugin.options import Options
from editkit.plugin.params import Param, names_weights, params

PICTURES = ("PICTURE", "MASK", "AREA", "HINT")
"""The metavars of parameters that name pictures to read."""

WRITTEN = ("FILE",)
"""The metavars of parameters that name files to write, or other files to read."""

LANGUAGE = ("prompt", "negative", "text", "avoid")
"""Keys whose values are free text."""


class NotAllowed(RecipeError):  # noqa: N818
    """A recipe asks for something that a page may not. `place`: where in the mapping."""

    def __init__(self, message: str, *place: str | int) -> None:
        super().__init__(message)
        self.place = place


@dataclass(frozen=True)
class RequestedEdit:
    """A chain that may be run.

    Args:
        as_written: with paths relative to the studio's folder, as in a command run there.
        real: with absolute paths.
    """

    as_written: Chain
    real: Chain

    @property
    def summary(self) -> str:
        """`inpaint with guide then sdedit`."""
        return " then ".join(" with ".join(p.name for p in stage.plugins) for stage in self.as_written.stages)

    @property
    def mapping(self) -> dict[str, Any]:
        """Return the chain as a recipe."""
        return recipe.to_mapping(self.as_written)


def parse_request(data: object, config: Config) -> RequestedEdit:
    """Build the chain that `data`, a recipe's mapping, describes.

    Raises:
        RecipeError: it is not a recipe. NotAllowed: it names something that a page may not name.
    """
    as_written = recipe.from_mapping(data)
    for number, stage in enumerate(as_written.stages):
        for k, plugin in enumerate(stage.plugins):
            place = ("stages", number, "plugins", k, plugin.name)
            for param in params(type(plugin)):
                if param.name in plugin.model_fields_set:
                    _check(param, getattr(plugin, param.name), config, (*place, param.key), plugin)
        _check_options(stage.options, config, ("stages", number, "options"))
    real = recipe.from_mapping(data, base=config.folder)
    fetch = Options(offline=not config.online)
    return RequestedEdit(as_written, real.with_options(fetch))


def _check(param: Param, value: Any, config: Config, place: tuple[str | int, ...], plugin: Declaration) -> None:
    """Check one parameter.

    Raises:
        NotAllowed: it names something that a page may not name.
    """
    texts = list(_texts(value))
    if not texts or param.kind == "choice" or value == param.default:
        return
    for text in texts:
        if param.metavar in WRITTEN:
            raise NotAllowed(f"{plugin.name}.{param.key} names a file to write, which a page may not do", *place)
        if names_weights(param, type(plugin).model_fields[param.name]):
            _check_weights(f"{plugin.name}.{param.key}", text, config, place)
        elif param.metavar in PICTURES:
            _check_picture(f"{plugin.name}.{param.key}", text, config, place)
        elif param.key not in LANGUAGE:
            _check_text(f"{plugin.name}.{param.key}", text, config, place)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _check_picture(name: str, text: str, config: Config, place: tuple[str | int, ...]) -> None:
    if text == "-" or has_escaping_path(text):
        raise NotAllowed(f"{name} names {text[:80]!r}; only pictures in the studio's folder can be read", *place)
    if is_words(text) or not _is_file(config.folder / text):
        _check_text(name, text, config, place)  # words, or a missing file, which is reported when it is read
    elif not (config.folder / text).resolve().is_relative_to(config.folder):
        raise NotAllowed(f"{name} names {text[:80]!r}, a link out of the studio's folder", *place)


def _check_text(name: str, text: str, config: Config, place: tuple[str | int, ...]) -> None:
    """Check a value that is not free text, and that its plugin may interpret in any way."""
    parts = [text, *text.split(":"), *text.split(",")]
    known = config.allows(text)
    if not known and (
        has_escaping_path(text) or any("/" in part or "\\" in part for part in parts) or _is_there(parts)
    ):
        raise NotAllowed(
            f"{name} names {text[:80]!r}, a file, a folder or a hub id; start the studio with --allow-model "
            f"{text[:80]!r} to allow it",
            *place,
        )


def _is_there(parts: list[str]) -> bool:
    """Whether any of them is a file or folder in the server's working folder."""
    return any(part.strip(". ") and os.path.lexists(part) for part in parts if "\0" not in part and len(part) < 4096)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _check_weights(name: str, text: str, config: Config, place: tuple[str | int, ...]) -> None:
    if not config.allows(text):
        raise NotAllowed(
            f"{name} names the network {text[:80]!r}; start the studio with --allow-model {text[:80]!r} to allow it",
            *place,
        )


def _check_options(options: Options, config: Config, place: tuple[str | int, ...]) -> None:
    """Check the options that name weights.

    Raises:
        NotAllowed: weights that the studio was not started with.
    """
    if options.model != "auto" and not _is_embedded(options.model):
        _check_weights("model", options.model, config, (*place, "model"))
    if options.transformer is not None:
        _check_weights("transformer", options.transformer, config, (*place, "transformer"))
    refiner = options.refiner
    if refiner is not None and not config.allows(refiner):
        _check_weights("refiner", refiner.rpartition(":")[0] or refiner, config, (*place, "refiner"))
    for lora in options.lora:
        if not config.allows(lora):
            _check_weights("lora", lora.rpartition(":")[0] or lora, config, (*place, "lora"))
    if options.sampler is not None and has_escaping_path(options.sampler):
        raise NotAllowed(f"sampler {name_of(options.sampler)[:80]!r} is not one of editkit's", *place, "sampler")


def _is_embedded(name: str) -> bool:
    try:
        return find_named(name) is not None
    except EditkitError:
        return False
