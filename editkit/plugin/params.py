"""Maps each pydantic field to an option, a recipe key and a row in the docs.

Parameters that are pictures or masks have the types `PictureSource` and `MaskSource`: a path or words on the command
line and in recipes; in Python also an array, a PIL image or a `Picture`.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from editkit.errors import short


@dataclass(frozen=True)
class Metavar:
    """The name of a parameter's value in help texts.

    `words` says which values of a picture field are not paths. `repeated`: the option may be given several times; the
    value is then a tuple. `path`: whether the value may name a file at all.
    """

    name: str
    words: Callable[[str], bool] | None = None
    repeated: bool = False
    path: bool = True


@dataclass(frozen=True)
class Code:
    """Marks a field whose text may name code to import; recipes that do so are refused without --allow-code."""


@dataclass(frozen=True)
class Output:
    """Marks a field that names a file to write.

    The file is checked with the command's other outputs before the edit starts. The field is left out of recipes and
    provenance: text from others must not decide which files are written.
    """


def outputs(declaration: type[BaseModel]) -> tuple[str, ...]:
    """Return the fields of `declaration` that name files to write."""
    return tuple(
        name for name, info in declaration.model_fields.items() if any(isinstance(m, Output) for m in info.metadata)
    )


@dataclass(frozen=True)
class Weights:
    """Marks a field whose text names weights to load, if its metavar does not show it; a server may restrict them."""


NETWORKS = ("CLASSIFIER", "DIR_OR_ID", "DIR")
"""Metavars of parameters that name networks; other such parameters are marked with `Weights`."""


def names_weights(param: Param, info: FieldInfo) -> bool:
    """Whether a parameter, with the field `info`, names weights to load."""
    return param.metavar in NETWORKS or any(isinstance(m, Weights) for m in info.metadata)


def _source(value: Any) -> Any:
    """Convert a path to text, keep other sources, and refuse numbers and the like."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str | bytes) or hasattr(value, "shape") or hasattr(value, "size"):
        return value
    raise ValueError(f"is {short(value)}; a path, an array or a PIL image is needed")


PictureSource = Annotated[Any, BeforeValidator(_source), Metavar("PICTURE")]
"""A picture: a path (`-`: standard input), a PIL image, an array (h, w, 3) of uint8 or uint16, or a `Picture`."""


def _sources(value: Any) -> Any:
    """Validate one source, or a list of several as a tuple."""
    if not isinstance(value, list | tuple):
        return _source(value)
    if not value:
        raise ValueError("is an empty list; at least one mask is needed")
    return _source(value[0]) if len(value) == 1 else tuple(_source(one) for one in value)


MaskSource = Annotated[Any, BeforeValidator(_sources), Metavar("MASK", repeated=True)]
"""A mask, white = regenerate: a `PictureSource`, words such as `box:x0,y0,x1,y1`, or a list of these (their union)."""

AreaSource = Annotated[Any, BeforeValidator(_sources), Metavar("AREA", repeated=True)]
"""The same as `MaskSource`, for an area that is not the edit's mask, such as `--not-from`."""

Kind = Literal["flag", "int", "float", "text", "choice"]


@dataclass(frozen=True)
class Param:
    """A field, as the command line and the docs see it."""

    name: str
    kind: Kind
    help: str
    default: Any
    required: bool
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    repeated: bool = False

    @property
    def key(self) -> str:
        """Name of the field in recipes."""
        return cli_name(self.name)

    @property
    def flag(self) -> str:
        """Long name of the option."""
        return "--" + self.key.replace("_", "-")

    @property
    def takes_value(self) -> bool:
        return self.kind != "flag"


def cli_name(name: str) -> str:
    """Return a field's name outside Python, without the underscore that reserved words need: `from_` is `from`."""
    return name.rstrip("_")


def params(declaration: type[BaseModel]) -> list[Param]:
    """Return the fields of `declaration`, in order, with `start` and `stop` last."""
    fields = dict(declaration.model_fields)
    last = [(name, fields.pop(name)) for name in ("start", "stop") if name in fields]
    return [describe_param(name, info) for name, info in [*fields.items(), *last]]


def describe_param(name: str, info: FieldInfo) -> Param:
    """Convert one field to a `Param`."""
    kind, choices, repeated = _kind(info.annotation)
    marker = next((m for m in info.metadata if isinstance(m, Metavar)), None) or _nested_metavar(info)
    if marker is not None and kind in ("int", "float"):
        kind = "text"  # a number with its own notation, such as 4x
    text = " ".join(filter(None, (info.description, _bounds(info))))
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    metavar, several = (None, False) if marker is None else (marker.name, marker.repeated)
    return Param(name, kind, text, default, info.is_required(), choices, metavar, repeated or several)


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...], bool]:
    """Return (kind, choices, repeated) of a field's type; anything but numbers, flags and choices is text."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        inner = [a for a in get_args(annotation) if a is not type(None)]
        return _kind(inner[0]) if len(inner) == 1 else ("text", (), False)
    if origin in (tuple, list):
        kind, choices, _ = _kind(get_args(annotation)[0])
        return kind, choices, True
    if origin is Literal:
        return "choice", tuple(str(a) for a in get_args(annotation)), False
    kinds: dict[Any, Kind] = {bool: "flag", int: "int", float: "float"}
    return kinds.get(annotation, "text"), (), False


def _nested_metavar(info: FieldInfo) -> Metavar | None:
    """Return the marker of an optional source, which is inside the union."""
    for member in get_args(info.annotation):
        if get_origin(member) is Annotated:
            for marker in get_args(member)[1:]:
                if isinstance(marker, Metavar):
                    return marker
    return None


def _bounds(info: FieldInfo) -> str:
    """Return the allowed range as text."""
    low = next((f"{m.ge}" for m in info.metadata if isinstance(m, at.Ge)), None)
    above = next((f"above {m.gt}" for m in info.metadata if isinstance(m, at.Gt)), None)
    high = next((f"{m.le}" for m in info.metadata if isinstance(m, at.Le)), None)
    below = next((f"below {m.lt}" for m in info.metadata if isinstance(m, at.Lt) and m.lt != 2**63), None)
    if low and high:
        return f"[{low} to {high}]"
    words = [f"{low} or more" if low else above, f"{high} or less" if high else below]
    text = ", ".join(word for word in words if word)
    return f"[{text}]" if text else ""


def has_marker(plugin: type[BaseModel], key: str, kind: type) -> bool:
    """Whether the field `key` has a marker of `kind`, possibly inside an optional."""
    info = plugin.model_fields.get(key)
    if info is None:
        return False
    if any(isinstance(m, kind) for m in info.metadata):
        return True
    return kind is Metavar and any(p.name == key and p.metavar is not None for p in params(plugin))


def is_path(plugin: type[BaseModel], key: str, value: object) -> bool:
    """Whether `value` is the path of a picture or mask (not words such as box:..., not standard input)."""
    from editkit.pictures.shapes import is_words

    if not isinstance(value, str) or not has_marker(plugin, key, Metavar) or value == "-" or is_words(value):
        return False
    info = plugin.model_fields[key]
    markers = [*(m for m in info.metadata if isinstance(m, Metavar)), _nested_metavar(info)]
    return all(m is None or (m.path and not (m.words is not None and m.words(value))) for m in markers)
