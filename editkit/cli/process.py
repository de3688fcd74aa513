"""Settings of a command's process, made before anything large is imported."""

from __future__ import annotations

import gc
import logging
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = 130

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's names of `mallopt`'s parameters (malloc.h)."""


class InterruptHandler:
    """What Ctrl-C and SIGTERM (by which a system asks a process to end) do in a command: the first one raises
    KeyboardInterrupt, so that half-written files are removed, except where that does harm.

    While a module is imported, the exception would end up in the middle of it: a traceback, a library that reports it
    as its own failure, an abort. Nothing has been begun then, so the process ends at once, with one line. A second
    Ctrl-C does not disturb what the first one lets clean up; a third ends the process in any case.

    Args:
        pressed: how often. Code that catches a KeyboardInterrupt can tell by it whether somebody pressed the key.
    """

    def __init__(self) -> None:
        self.pressed = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.pressed += 1
        if (self.pressed == 1 and _importing(frame)) or self.pressed > 2:
            os.write(2, b"interrupted\n")
            os._exit(INTERRUPTED)
        if self.pressed == 1:
            raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported in this frame or above it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def install_signal_handlers() -> None:
    """Install `InterruptHandler` for both signals, unless the process ignores them, as in the background."""
    handler = InterruptHandler()
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is usual:
            signal.signal(number, handler)


OF_EACH_OTHER = ("torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")
"""Loggers that warn where torchao is installed, whatever model is asked for: three lines before the one that counts."""


def configure_process(*, offline: bool = False) -> None:
    """Threads sleep while they wait, garbage is looked for less often, and freed memory is kept for the next step.
    Libraries that are imported later say nothing of each other. `offline`: nor do they ask the hub.
    """
    for name in OF_EACH_OTHER:
        logging.getLogger(name).setLevel(logging.ERROR)
    if offline:  # huggingface_hub reads it once, when it is imported
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    # Threads that spin while they wait make an edit take twenty times as long on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Large arrays on pages of 2 MB: a processor finds its way in them more quickly (a UNet's call by 4 to 14 %).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # oneDNN keeps the last 1024 kernels that it compiled, one for each shape of an input; shapes differ from picture to
    # picture, and from frame to frame of a video: 60 to 80 MB that help nobody. Compiling costs 0.6 % of a call.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    # Imports make half a million objects that stay: looking through them again and again takes a quarter of a start.
    gc.set_threshold(100_000, 50, 100)
    import ctypes

    # Each step frees arrays of a megabyte and asks for them again: from the system they come as thousands of faults.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 512 << 20)


def return_free_memory() -> None:
    """Return what is free to the system, if the C library can (glibc): what lies between objects that stay, too.

    For the time between two frames of a video: what one of them left is in pieces that the next one does not fit into.
    """
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def prepare_exit() -> None:
    """Nothing is looked through once more when the process ends, and signals come too late to stop anything."""
    gc.freeze()
    for number in (signal.SIGINT, signal.SIGTERM):
        if isinstance(signal.getsignal(number), InterruptHandler):
            signal.signal(number, signal.SIG_IGN)
