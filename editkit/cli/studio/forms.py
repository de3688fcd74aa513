"""The data for the page's forms: plugins, options, mask words and models, from their declarations."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from editkit.cli.studio.config import Config
from editkit.cli.studio.recipes import WRITTEN
from editkit.editing.recipe import NOT_IN_RECIPES
from editkit.errors import EditkitError
from editkit.models import describe, embedded
from editkit.models.lora import is_lora
from editkit.pictures import shapes
from editkit.plugin import registry
from editkit.plugin.options import Options
from editkit.plugin.params import Code, Param, names_weights, params
from editkit.plugin.protocol import Plugin
from editkit.plugin.sections import Section


def plugins() -> list[dict[str, Any]]:
    """Return every installed plugin with its fields; broken ones with the reason."""
    order = {section: k for k, section in enumerate(get_args(Section))}
    rows = [_plugin(row.name, row.kind, row.distribution, row.broken) for row in registry.list_installed()]
    return sorted(rows, key=lambda row: (order.get(row["group"], len(order)), row["name"]))


def _plugin(name: str, kind: type[Plugin] | None, distribution: str, broken: str | None) -> dict[str, Any]:
    if kind is None:
        return {"name": name, "from": distribution, "broken": broken, "group": "other", "fields": [], "help": ""}
    own = vars(kind).get("__annotations__", {})
    return {
        "name": name,
        "from": distribution,
        "group": kind.group,
        "help": inspect.getdoc(kind) or "",
        "masks": "mask" in kind.holds,
        "fields": [
            {**row, "own": row["name"] in own or row["required"] or row["key"] == "mask"} for row in fields(kind)
        ],
    }


def fields(kind: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the parameters of a declaration that a page may set."""
    return [_field(p, kind.model_fields[p.name]) for p in params(kind) if p.metavar not in WRITTEN]


def _field(p: Param, info: FieldInfo) -> dict[str, Any]:
    """Describe one parameter; `kind` names its input control."""
    weights = names_weights(p, info)
    low, high = _range_of(info, "ge", "gt"), _range_of(info, "le", "lt")
    return {
        "key": p.key,
        "name": p.name,
        "flag": p.flag,
        "kind": "weights" if weights else _input_format(p),
        "help": p.help,
        "default": list(p.default) if isinstance(p.default, tuple) else _plain(p.default),
        "required": p.required,
        "choices": list(p.choices),
        "repeated": p.repeated,
        "low": low,
        "high": high,
        "code": any(isinstance(m, Code) for m in info.metadata),
    }


def _input_format(p: Param) -> str:
    """Return flag, int, float, choice, text, mask, picture, weights, lora, or color where the default is a colour."""
    if p.metavar == "FILE[:WEIGHT]":
        return "lora"
    if p.metavar in ("MASK", "AREA"):
        return "mask"
    if p.metavar == "PICTURE":
        return "picture"
    if isinstance(p.default, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", p.default):
        return "color"
    return p.kind


def _range_of(info: FieldInfo, *names: str) -> float | None:
    """Return the bound called one of `names` (ge, gt ...), also of an optional number, whose bounds are nested."""
    for marker in [*info.metadata, *(m for member in get_args(info.annotation) for m in get_args(member)[1:])]:
        for one in getattr(marker, "metadata", None) or [marker]:
            for name in names:
                value = getattr(one, name, None)
                if isinstance(value, int | float):
                    return float(value) if abs(value) < 2**53 else None
    return None


def _plain(value: Any) -> Any:
    """Return `value` if JSON can represent it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str | list) else str(value)


def options() -> list[dict[str, Any]]:
    """Return the options of a run that a page may set."""
    return [row for row in fields(Options) if row["key"] not in NOT_IN_RECIPES]


def words() -> list[dict[str, str]]:
    """Return the words that draw masks."""
    rows = shapes.list_installed()
    return [{"name": row.name, "form": row.kind.form, "help": row.kind.summary} for row in rows if row.kind is not None]


def models(config: Config) -> list[dict[str, Any]]:
    """Return the models and LoRAs that a recipe may name here and what each needs; unusable ones with the reason."""
    found: list[dict[str, Any]] = [{"name": "auto", "family": "", "takes": [], "lora": False, "why": None}]
    for info in embedded():
        found.append(_model(info.name, info))
    for name in config.models:
        if is_lora(name):
            found.append({"name": name, "family": "", "takes": [], "lora": True, "why": None})
            continue
        try:
            found.append(_model(name, describe(name, offline=not config.online)))
        except EditkitError as error:
            why = " ".join(str(error).split())
            found.append({"name": name, "family": "", "takes": [], "lora": False, "why": why})
    return found


def _model(name: str, info: Any) -> dict[str, Any]:
    return {
        "name": name, "family": info.family, "takes": sorted(info.takes), "sampler": info.sampler, "steps": info.steps,
        "window": info.window, "lora": False, "why": None,
    }  # fmt: skip


def status(config: Config) -> dict[str, Any]:
    """Return the studio's folder, device and memory, and whether models may be downloaded."""
    import psutil
    import torch

    from editkit.common.device import pick_device
    from editkit.pictures.files.provenance import versions

    device, memory = pick_device("auto"), psutil.virtual_memory()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "version": versions()["editkit"], "folder": config.folder.name, "device": name, "offline": not config.online,
        "memory_free": int(memory.available), "memory": int(memory.total), "most_bytes": config.bounds.upload,
        "most_pixels": config.bounds.pixels,
    }  # fmt: skip
