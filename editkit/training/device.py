"""What the processor can do."""

from __future__ import annotations

from pathlib import Path

import torch


def has_bf16() -> bool:
    """Whether this processor multiplies bf16 matrices itself (AVX512-bf16 or AMX), or there is a GPU that
    does.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "avx512_bf16" in flags.read_text()
