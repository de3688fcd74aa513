"""Choose the device and the dtype of the network; nothing else chooses them.

x_t, schedule and sampler are always float32.
"""

from __future__ import annotations

from pathlib import Path

import torch

from editkit.errors import UsageError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(wanted: str = "auto") -> torch.device:
    """Return the device called `wanted`; `auto`: cuda, else mps, else cpu.

    Raises:
        UsageError: this machine has no such device.
    """
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there.insert(0, "cuda")
    if wanted == "auto":
        return torch.device(there[0])
    if wanted.split(":")[0] not in there:
        raise UsageError(f"--device is {wanted!r}; this machine has: {', '.join(there)}")
    return torch.device(wanted)


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Return the network's dtype; `auto`: bf16 if the device supports it in hardware, else fp32 (fp16 on mps).

    Raises:
        UsageError: fp16 on a CPU, where most operations do not support it.
    """
    if wanted == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        if device.type == "mps":
            return torch.float16
        return torch.bfloat16 if cpu_has_bf16() else torch.float32
    if wanted == "fp16" and device.type == "cpu":
        better = "bf16" if cpu_has_bf16() else "fp32"
        raise UsageError(f"--dtype is fp16, which a CPU computes slowly or not at all; use {better} or auto")
    return _DTYPES[wanted]


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices in hardware (avx512_bf16 or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
