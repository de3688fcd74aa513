"""The backend that computes a model's networks: torch, or on request OpenVINO on the CPU.

This module has the checks before the weights load; the work is done in `editkit.models.fast.converted`. No torch.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from typing import Literal

from editkit.diffusion.model import ModelInfo
from editkit.errors import ExtraError, ModelError, UsageError

Backend = Literal["torch", "openvino"]


def check(info: ModelInfo, backend: Backend, device: str, compiled: bool) -> None:
    """Check whether `backend` can compute the networks of the model.

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


def line(backend: Backend) -> str | None:
    """Return the line that `editkit plan` shows, if any."""
    if backend == "torch":
        return None
    return (
        f"networks by OpenVINO {version('openvino').partition('-')[0]}, converted at their first use; by torch where "
        "gradients or image prompts are asked for; weights are in memory twice"
    )
