"""Estimates the memory of a result, and checks it against the free memory before anything is computed."""

from __future__ import annotations

from editkit.plugin import PictureError

COPIES = 14
"""Arrays of the size of the result that a process holds at once: x_t, x0, eps, noise, coefficients and so on."""

BY_METHOD = {"conditioned": 10, "ddnm": 10, "diffpir": 10, "ddrm": 10, "dps": 420, "graikos": 420, "hqs": 10,
             "pigdm": 420, "point": 10, "wiener": 10}  # fmt: skip
"""The same for each method, rounded up from measurements (docs/restoration.md). Methods with a backward pass through
the network store its activations: 230 to 410 arrays with `pocket`."""


def afford(what: str, width: int, height: int, copies: int = COPIES) -> None:
    """Raise PictureError if `copies` pictures of `width` x `height` pixels need more memory than is free.

    `what` names the result in the message.
    """
    needed = copies * 3 * 4 * width * height
    free = _free()
    if needed > free:
        have, want = f"{free / 2**30:.1f} GiB", f"{needed / 2**30:.1f} GiB"
        raise PictureError(
            f"{what} pixels needs about {want} in addition to the model, and {have} are free; choose a smaller result"
        )


def _free() -> int:
    """Return the bytes available without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)
