"""The device of a training, and which number formats its processor supports."""

from __future__ import annotations

from pathlib import Path

import torch

from editkit.errors import EditkitError
from editkit.training.settings import Settings


def device_of(settings: Settings) -> torch.device:
    """The device that the settings ask for. Raises EditkitError where there is no such one."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise EditkitError("--device cuda: this machine has no CUDA device; use cpu or auto")
    asked = settings.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if asked else "cpu")


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices itself (a processor: AVX512-bf16 or AMX)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "avx512_bf16" in flags.read_text()
