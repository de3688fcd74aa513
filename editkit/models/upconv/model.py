"""The embedded network `upconv` by name: its description, without torch, and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from editkit.diffusion.model import Model, ModelInfo
from editkit.errors import ModelError
from editkit.models.assets import folder

if TYPE_CHECKING:
    import torch


def info() -> ModelInfo:
    """Describe the embedded network."""
    return ModelInfo("upconv", "upconv (doubles pictures)", takes=frozenset({"lowres"}), steps=1)


def make(info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the embedded network.

    Raises:
        ModelError: it is not part of this installation.
    """
    import torch

    from editkit.models.files.weights import check, read
    from editkit.models.upconv.network import Doubling, Upconv

    file = folder("upconv") / "upconv.safetensors"
    if not file.is_file():
        raise ModelError("model upconv is not part of this installation of editkit; use --model pocket")
    with torch.device("meta"):
        network = Doubling()
    check(info.name, "network", {key: tuple(value.shape) for key, value in network.state_dict().items()}, file)
    network.load_state_dict(dict(read(info.name, file, lambda _: dtype)), assign=True)
    network = network.to(device).eval().requires_grad_(False)  # `read` gives channels-last convolutions
    return Upconv(info, network)


def weights() -> Path | None:
    """Return the embedded network's folder."""
    return folder("upconv")
