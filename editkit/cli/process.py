"""What a command's process sets for itself before anything large is imported."""

from __future__ import annotations

import ctypes
import gc
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's names of `mallopt`'s parameters (malloc.h)."""


def settle(*, offline: bool = False) -> None:
    """Threads sleep while they wait, garbage is looked for less often, and freed memory is kept for the next step.
    `offline`: whatever library is imported later, the hub is not asked.
    """
    if offline:  # huggingface_hub reads it once, when it is imported
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    # Threads that spin while they wait make an edit take twenty times as long on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Large arrays on pages of 2 MB: a processor finds its way in them more quickly (a UNet's call by 4 to 14 %).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Imports make half a million objects that stay: looking through them again and again takes a quarter of a start.
    gc.set_threshold(100_000, 50, 100)
    # Each step frees arrays of a megabyte and asks for them again: from the system they come as thousands of faults.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 512 << 20)


def leave() -> None:
    """Nothing is looked through once more when the process ends."""
    gc.freeze()
