"""A model folder in diffusers' layout; reads its configuration without torch or diffusers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from editkit.common import trust
from editkit.common.small import read_limited_bytes
from editkit.errors import EditkitError, ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class ReadsAhead(Protocol):
    """Reads the tensors of components in advance (`editkit.models.files.weights.Ahead`)."""

    def take(self, component: str, dtype: torch.dtype) -> dict[str, Tensor] | None:
        """Return all tensors of a component, once; None if they were not read in advance in this `dtype`."""
        ...


def explain_mistake(file: Path) -> str | None:
    """Explain why a file is not weights or a configuration, and what to do: a Git LFS pointer, a web page, empty.
    None: nothing of the kind.
    """
    if file.exists() and not file.is_file():
        return "is not a regular file"
    try:
        with file.open("rb") as data:
            begin = data.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if begin.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer instead of the file; run `git lfs pull` in its folder"
    if begin[:1] == b"<":
        return "is a web page (HTML or XML), perhaps a saved login page; download it again"
    return None if begin else "is empty; download it again"


def suggest_folder(folder: Path) -> str:
    """Suggest the folder that may be meant if `folder` contains no model: a subfolder of the hub's cache, the parent of
    a component, or one of several subfolders. Empty: no suggestion.
    """
    if (folder.parent / "model_index.json").is_file():
        return f"it is part of the model {folder.parent}"
    kept = folder / "snapshots" if (folder / "snapshots").is_dir() else folder
    near = [kept, *sorted(kept.glob("models--*/snapshots"))[:20]]
    found = [file.parent for place in near for file in sorted(place.glob("*/model_index.json"))[:3]]
    cached = " (the hub's cache keeps each revision so)" if found and found[0].parent.name == "snapshots" else ""
    return f"give {' or '.join(str(place) for place in found[:3])}{cached}" if found else ""


@contextmanager
def readable_errors(name: str) -> Iterator[None]:
    """Turn any exception about an invalid model configuration into an error for the user.

    Raises:
        ModelError: an exception was raised.
    """
    try:
        yield
    except (EditkitError, ImportError, MemoryError):
        raise
    except Exception as error:  # libraries have no common error class
        reason = " ".join(str(error).split())[:160] or "no reason given"
        raise ModelError(
            f"model {name}: its configuration is not usable ({type(error).__name__}: {reason}); is the folder "
            "complete, and of only one model?"
        ) from error


@dataclass(frozen=True)
class Layout:
    """A folder as diffusers saves it. `name` is the value of `--model`; `file`, if any, has the weights; `variant` is
    the requested copy of the weights (`fp16`); `over` is a file with the denoiser's weights.

    `texts_on_disk`: do not keep text encoders in memory (`memory.weigh`). `ahead`: weights that are being read.
    `int8`: quantise the denoiser while it is read (`quantising`).
    """

    name: str
    path: Path
    file: Path | None = None
    variant: str | None = None
    over: Path | None = None
    texts_on_disk: bool = False
    ahead: ReadsAhead | None = field(default=None, compare=False)
    int8: bool = False

    @property
    def index(self) -> Mapping[str, Any]:
        """Return model_index.json, or an empty mapping for the folder of a single network."""
        return self.json("model_index.json") if (self.path / "model_index.json").is_file() else {}

    def has(self, component: str) -> bool:
        """Whether the folder has this component, by its index or its files."""
        listed = self.index.get(component)
        if isinstance(listed, list) and (not listed or listed[0] is None):
            return False
        return listed is not None or (self.path / component).is_dir()

    def is_of(self, component: str, kind: str) -> bool:
        """Whether the folder is a pipeline whose `component` is of diffusers' class `kind`."""
        return bool(self.index) and self.has(component) and self.config(component).get("_class_name") == kind

    def require(self, *components: str) -> None:
        """Check that all these components exist.

        Raises:
            ModelError: some are missing; the message names them.
        """
        missing = [part for part in components if not self.has(part)]
        if missing:
            raise ModelError(f"model {self.name}: {', '.join(missing)} missing; the model folder is incomplete")

    def config(self, component: str = "") -> Mapping[str, Any]:
        """Return the configuration of a component; of the folder itself for an empty name.

        Raises:
            ModelError: the component is missing or its configuration cannot be read.
        """
        names = ["scheduler_config.json", "config.json"] if component.endswith("scheduler") else ["config.json"]
        for name in names:
            if (self.path / component / name).is_file():
                return self.json(Path(component) / name)
        raise ModelError(f"{self.name}: {Path(component) / names[0]} is missing; the model folder is incomplete")

    def json(self, file: str | Path) -> Mapping[str, Any]:
        """Read one JSON file of the folder.

        Raises:
            ModelError: it cannot be read, or one of its keys selects code to run.
        """
        try:
            values = json.loads(read_limited_bytes(self.path / file))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(
                f"{self.name}: {file} {explain_mistake(self.path / file) or f'cannot be read: {error}'}"
            ) from error
        if not isinstance(values, dict):
            raise ModelError(f"{self.name}: {file} is not a JSON object")
        trust.check_network_config(self.name, str(file), values)
        return values
