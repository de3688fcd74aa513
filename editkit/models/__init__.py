"""Models: the protocol, the exact ones, the embedded ones, and adapters for what diffusers saves.

`describe` says what a model is without loading its weights; `load` loads them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.errors import ModelError
from editkit.models.base import Conditioning, Model, ModelInfo, Prediction
from editkit.models.setup import Setup, check, home, prepared

if TYPE_CHECKING:
    import torch

    from editkit.models.gaussian import Gaussian as Gaussian
    from editkit.models.gaussian import GaussianMixture as GaussianMixture

__all__ = [
    "Conditioning",
    "Gaussian",
    "GaussianMixture",
    "Model",
    "ModelInfo",
    "Prediction",
    "describe",
    "embedded",
    "load",
]

PLAIN = Setup()
"""Nothing but the model itself."""

EMBEDDED_DEFAULT = "patches"
"""What `--model auto` means; benchmarks/holes.py is the reason."""

PATCHES = ModelInfo(
    "patches", "the picture's own patches", takes=frozenset({"lowres", "examples"}), sampler="ddim", steps=22,
    own_picture=True,
)  # fmt: skip


def embedded() -> tuple[ModelInfo, ...]:
    """The models that come with editkit: nothing is downloaded."""
    from editkit.models import pocket

    return (PATCHES, describe("pocket")) if (pocket.folder() / "pocket.json").is_file() else (PATCHES,)


def describe(name: str, *, offline: bool = False) -> ModelInfo:
    """What is known of the model called `name` (see `Options.model`) without its weights.

    Raises:
        ModelError: it cannot be found, or is of a family that is not known.
    """
    if name == "auto":
        name = EMBEDDED_DEFAULT
    if name == "patches":
        return PATCHES
    from editkit.models.folder import describe_folder

    if name == "pocket":
        return replace(describe_folder(_pocket(), offline=True), name="pocket")
    return describe_folder(name, offline=offline)


def _pocket() -> str:
    """The folder of the embedded network."""
    from editkit.models import pocket

    path = pocket.folder()
    if not (path / "pocket.json").is_file():
        raise ModelError("model pocket did not come with this installation of editkit; use patches")
    return str(path)


def folder_of(name: str) -> Path:
    """Where the weights of the model called `name` lie on this machine, a folder or a file; nothing is fetched.

    Raises:
        ModelError: they are not here.
    """
    from editkit.models.loading import find

    if name == "pocket":
        return Path(_pocket())
    layout = find(name, offline=True)
    return layout.file or layout.path


def load(
    info: ModelInfo, device: torch.device, dtype: torch.dtype, *, offline: bool = False, setup: Setup = PLAIN
) -> Model:
    """The model that `describe` spoke of, with its weights, as `setup` asks for it.

    Raises:
        ModelError: weights missing, misshapen, or in a pickle.
    """
    from editkit.process import loading

    check(info, setup, device, offline)
    with loading():
        if info.own_picture:
            from editkit.models.patches import Patches

            return prepared(Patches(), setup, device, dtype, offline)
        from editkit.models.folder import load_folder

        where = _pocket() if info.name == "pocket" else info.name
        model = load_folder(where, info, home(setup, device), dtype, offline=offline)
        return prepared(model, setup, device, dtype, offline)


def __getattr__(name: str) -> Any:
    if name in ("Gaussian", "GaussianMixture"):
        from editkit.models import gaussian

        return getattr(gaussian, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
