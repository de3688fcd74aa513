"""The user's own defaults and model names, from a file and from the environment.

`~/.config/editkit/config.toml` (or $XDG_CONFIG_HOME/editkit/config.toml)::

    [defaults]
    model = "sd15"
    steps = 30

    [models]
    sd15 = "stable-diffusion-v1-5/stable-diffusion-v1-5:fp16"

An environment variable for an option of the run, such as EDITKIT_STEPS=20, overrides the file; the command line
overrides both. Values from here are recorded in recipes and provenance as if they had been typed. `rerun` and the
Python API ignore both sources.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from editkit.common import places as folders
from editkit.common.small import read_limited_text
from editkit.common.spec import did_you_mean
from editkit.errors import ParameterError, UsageError
from editkit.plugin.chain import Chain
from editkit.plugin.options import Options
from editkit.plugin.outputs import Extras

OF_THE_RUN = tuple(name for name in Options.model_fields if name != "allow_code")
ABOUT_RESULTS = ("provenance", "quality", "backup", "quiet")
MAX_BYTES, LONGEST = 1 << 16, 2000
"""Largest size of the file in bytes, and of a line in characters."""

KNOWN = (*OF_THE_RUN, *ABOUT_RESULTS)
"""Names that may be set. Allowing code, and overwriting without a backup, are possible on the command line only."""


@dataclass(frozen=True)
class Settings:
    """The settings: option -> value, the source of each, and short names of models."""

    values: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)

    def with_defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Fill options that are not in `given` from the settings."""
        return self.resolved({**self.values, **given})

    def resolved(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Replace a short model name in `given` by the model."""
        model = str(given.get("model"))
        return {**given, "model": self.models[model]} if model in self.models else dict(given)

    def under_chain(self, chain: Chain) -> Chain:
        """Fill options that `chain` does not set from the settings."""
        first, *rest = chain.stages
        values = self.resolved({key: value for key, value in self.values.items() if key in OF_THE_RUN})
        return Chain((replace(first, options=Options(**values).merged(first.options)), *rest))


def place() -> Path:
    """Return the path of the settings file."""
    return folders.settings() / "config.toml"


def read() -> Settings:
    """Read the settings from file and environment.

    Raises:
        UsageError: a setting is invalid. The message gives the line and suggests the closest name.
    """
    text = _text()
    if max(map(len, text.splitlines()), default=0) > LONGEST:  # parsing dotted names takes quadratic time
        raise UsageError(f"{place()}: has a line of more than {LONGEST} characters")
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # includes numbers with thousands of digits
        raise UsageError(f"{place()}: is not TOML: {' '.join(str(error).split())[:200]}") from None
    _check(text, data, ("defaults", "models"))
    for name, table in data.items():
        if not isinstance(table, dict):
            raise UsageError(f"{place()}: {name} is a table: write [{name}] in a line, and its entries below")
    defaults, models = data.get("defaults", {}), data.get("models", {})
    _check(text, defaults, KNOWN)
    for name, model in models.items():
        if not isinstance(model, str):
            raise UsageError(f"{_position(text, name)}: {name} must be the name of a model, got {model!r}")
    values, places = dict(defaults), {name: _position(text, name) for name in defaults}
    for name in KNOWN:
        variable = f"EDITKIT_{name.upper()}"
        if os.environ.get(variable):
            values[name], places[name] = os.environ[variable], variable
    return Settings({name: _validate(name, values[name], places[name]) for name in values}, places, models)


def _text() -> str:
    try:
        return read_limited_text(place(), MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except PermissionError as error:  # a user without a home directory, with HOME of another user
        if not os.access(place().parent, os.X_OK):
            return ""
        raise UsageError(f"{place()}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{place()}: is not UTF-8 text; save it as such") from None
    except OSError as error:
        raise UsageError(f"{place()}: cannot be read: {error.strerror or error}") from None


def _check(text: str, data: Mapping[str, Any], known: Iterable[str]) -> None:
    known = tuple(known)
    for name in data:
        if name not in known:
            hint = did_you_mean(name, known) or f"; known are {', '.join(known)}"
            raise UsageError(f"{_position(text, name)}: {name} is unknown{hint}")


def _position(text: str, name: str) -> str:
    """Return the file and the line where `name` is set."""
    pattern = re.compile(rf"""\s*\[?\s*["']?{re.escape(name)}["']?\s*[=\].]""")
    line = next((k for k, line in enumerate(text.splitlines(), 1) if pattern.match(line)), None)
    return f"{place()}" + ("" if line is None else f", line {line}")


def _validate(name: str, value: Any, where: str) -> Any:
    """Validate and convert `value` for the option `name`."""
    try:
        made = Options(**{name: value}) if name in OF_THE_RUN else Extras(**{name: value})
    except ParameterError as error:
        raise UsageError(f"{where}: {name}: {error.reason}") from None
    return getattr(made, name)
