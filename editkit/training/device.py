"""The device of a training, and which number formats its processor supports."""

from __future__ import annotations

from pathlib import Path

import torch

from editkit.errors import EditkitError
from editkit.training.settings import Settings


def device_of(settings: Settings) -> torch.device:
    """Return the device of the settings. Raises EditkitError if it does not exist."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise EditkitError("--device cuda: this machine has no CUDA device; use cpu or auto")
    asked = settings.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if asked else "cpu")


def has_bf16(device: torch.device) -> bool:
    """Whether the device supports bf16 matrix products (a CPU: AVX512-bf16 or AMX)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "avx512_bf16" in flags.read_text()
