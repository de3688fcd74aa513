"""A model's folder in the layout of diffusers, and reading its configuration: neither torch nor diffusers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from editkit.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class ReadsAhead(Protocol):
    """Reads components' tensors before they are asked for (`editkit.models.files.weights.Ahead`)."""

    def take(self, component: str, dtype: torch.dtype) -> dict[str, Tensor] | None:
        """All tensors of a component, once; None where it was not read ahead in this `dtype`."""
        ...


@dataclass(frozen=True)
class Layout:
    """A folder as diffusers saves it. `name` is what `--model` was given; `file`, if there is one, has the weights;
    `variant` is the copy of them that was asked for (`fp16`).

    `texts_on_disk`: text encoders are not to be held in memory (`memory.weigh`). `ahead`: weights that are being read.
    """

    name: str
    path: Path
    file: Path | None = None
    variant: str | None = None
    texts_on_disk: bool = False
    ahead: ReadsAhead | None = field(default=None, compare=False)

    @property
    def index(self) -> Mapping[str, Any]:
        """model_index.json, or an empty mapping for the folder of a single network."""
        return self.json("model_index.json") if (self.path / "model_index.json").is_file() else {}

    def has(self, component: str) -> bool:
        """True when the folder has this component, by its index or by its files."""
        listed = self.index.get(component)
        if isinstance(listed, list) and (not listed or listed[0] is None):
            return False
        return listed is not None or (self.path / component).is_dir()

    def config(self, component: str = "") -> Mapping[str, Any]:
        """The configuration of a component; of the folder itself for an empty name.

        Raises:
            ModelError: the component is missing or its configuration cannot be read.
        """
        names = ["scheduler_config.json", "config.json"] if component.endswith("scheduler") else ["config.json"]
        for name in names:
            if (self.path / component / name).is_file():
                return self.json(Path(component) / name)
        raise ModelError(f"{self.name}: {Path(component) / names[0]} is missing; the model folder is incomplete")

    def json(self, file: str | Path) -> Mapping[str, Any]:
        """One file of the folder.

        Raises:
            ModelError: it cannot be read.
        """
        try:
            values = json.loads((self.path / file).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"{self.name}: {file} cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise ModelError(f"{self.name}: {file} is no JSON object")
        return values
