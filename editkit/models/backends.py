"""Check the backend of a model's networks (torch, or OpenVINO on the CPU), and the quantisation of their weights.

This module has the checks that run before the weights load; `editkit.models.fast.converted` does the work. No torch.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from typing import Literal, Protocol

from editkit.diffusion.model import ModelInfo
from editkit.errors import ExtraError, ModelError, UsageError
from editkit.models.files import overlay, quantising
from editkit.models.files.quantising import Quantize

Backend = Literal["torch", "openvino"]


def check(info: ModelInfo, backend: Backend, device: str, compiled: bool) -> None:
    """Check that `backend` can compute the networks of the model.

    Raises:
        ExtraError: OpenVINO is not installed.
        UsageError: the device is not the CPU, or torch compiles the network too.
        ModelError: the model has no network.
    """
    if backend == "torch":
        return
    if info.own_picture:
        raise ModelError(
            f"--backend {backend} computes networks, and {info.name} has none; leave it out, or choose another --model"
        )
    if device.partition(":")[0] not in ("cpu", "auto"):
        raise UsageError(f"--backend {backend} is for the CPU, and --device is {device}; leave one of them out")
    if compiled:
        raise UsageError(f"--backend {backend} and --compile are two ways of compiling the network; leave one out")
    if find_spec("openvino") is None:
        raise ExtraError("--backend openvino needs openvino, which is not installed: pip install 'editkit[openvino]'")


class BackendOptions(Protocol):
    """The options that decide whether weights can be quantised."""

    @property
    def quantize(self) -> Quantize: ...

    @property
    def backend(self) -> Backend: ...


def check_bits(info: ModelInfo, asked: BackendOptions) -> None:
    """Check that the model's linear layers can be quantised (`--quantize`).

    This reads no weights and does not connect to the internet.

    Raises:
        ExtraError: torchao is not installed.
        UsageError: OpenVINO is requested too.
        ModelError: the model is not a diffusers folder, or is quantised already.
    """
    if asked.quantize == "none":
        return
    from editkit.models.families import find_named
    from editkit.models.files.loading import find_layout

    word = f"--quantize {asked.quantize}"
    if find_named(info.name) is not None:
        raise ModelError(
            f"{word} is for models in diffusers folders, but {info.name} comes with editkit; leave it out, or choose "
            "another --model"
        )
    if asked.backend != "torch":
        raise UsageError(f"{word} needs --backend torch, and --backend is {asked.backend}; leave one of them out")
    over = None if info.transformer is None else overlay.transformer_file(info.transformer)
    try:
        layout = find_layout(info.name, offline=True, over=over)
    except ModelError as error:
        raise ModelError(f"{word} quantises weights while they are read from a folder; {error}") from error
    quantising.check(layout)


def backend_line(backend: Backend) -> str | None:
    """Return the line that `editkit plan` shows, or None for torch."""
    if backend == "torch":
        return None
    return (
        f"networks by OpenVINO {version('openvino').partition('-')[0]}, converted at their first use; by torch where "
        "gradients or image prompts are asked for; weights are in memory twice"
    )
