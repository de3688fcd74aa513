"""Models: the protocol, exact models, the embedded models, and adapters for diffusers' model folders.

`describe` returns what is known about a model without loading its weights; `load` loads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.common.extras import explained
from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.prediction import Prediction
from editkit.errors import ModelError, UsageError
from editkit.models.files.layout import readable_errors
from editkit.models.setup import Setup, check, loading_device, prepare_model

if TYPE_CHECKING:
    import torch

    from editkit.diffusion.gaussian import Gaussian as Gaussian
    from editkit.diffusion.gaussian import GaussianMixture as GaussianMixture

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
"""The plain model, without additions."""

EMBEDDED_DEFAULT = "patches"
"""The model that `--model auto` chooses; see benchmarks/holes.py for the reason."""


def embedded() -> tuple[ModelInfo, ...]:
    """List the models that come with editkit and other packages; they need no download."""
    from editkit.models.families import Named, list_installed

    found = []
    for row in list_installed():
        try:
            found += [row.kind.info()] if isinstance(row.kind, Named) else []
        except ModelError:
            continue  # not part of this installation
    return tuple(found)


def describe(name: str, *, offline: bool = False, transformer: str | None = None) -> ModelInfo:
    """Describe the model called `name` (see `Options.model`) without loading its weights. `transformer`: a file with
    the weights of its denoiser (see `Options.transformer`).

    Raises:
        ModelError: it cannot be found, or its family is not known.
        UsageError: a transformer for a model without one, or a file that does not exist.
    """
    from editkit.models.families import describe_folder, find_named

    with explained(), readable_errors(name):
        model = find_named(EMBEDDED_DEFAULT if name == "auto" else name)
        if model is None:
            return describe_folder(name, offline=offline, transformer=transformer)
        if transformer is not None:
            raise UsageError(
                f"--transformer {transformer[:200]} is one network; its text encoders, VAE, scheduler and "
                "configuration are missing: give the folder or hub id that has them by --model"
            )
        return model.info()


def folder_of(name: str) -> Path | None:
    """Return the folder or file of the weights of the model called `name` on this machine, without downloading. None:
    it has no weights.

    Raises:
        ModelError: the weights are not on this machine.
    """
    from editkit.models.families import find_named
    from editkit.models.files.loading import find_layout

    model = find_named(name)
    if model is not None:
        return model.weights()
    layout = find_layout(name, offline=True)
    return layout.file or layout.path


def load(
    info: ModelInfo, device: torch.device, dtype: torch.dtype, *, offline: bool = False, setup: Setup = PLAIN
) -> Model:
    """Load the model that `describe` returned, with its weights, as `setup` asks.

    Raises:
        ModelError: weights are missing, have the wrong shape, or are in a pickle.
    """
    from editkit.common.process import loading
    from editkit.models.families import find_named, load_folder

    check(info, setup, device, offline)
    with explained(), loading(), readable_errors(info.name):
        own = find_named(info.name)
        if own is None:
            where = loading_device(setup, device)
            model = load_folder(info.name, info, where, dtype, offline=offline, quantize=setup.quantize)
        else:
            model = own.make(info, loading_device(setup, device), dtype)
        return prepare_model(model, setup, device, dtype, offline)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in ("Gaussian", "GaussianMixture"):
        from editkit.diffusion import gaussian

        return getattr(gaussian, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
