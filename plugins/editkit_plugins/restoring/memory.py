"""What a result will take, and whether there is so much, before anything is computed."""

from __future__ import annotations

from editkit.plugin import PictureError

COPIES = 14
"""States of the size of the result that a process holds at once: x_t, x0, eps, noise, coefficients and their kin."""

BY_METHOD = {"conditioned": 10, "ddnm": 10, "diffpir": 10, "ddrm": 10, "dps": 420, "graikos": 420,
             "pigdm": 420, "point": 10, "wiener": 10}  # fmt: skip
"""The same of each method, rounded up from what was measured (docs/restoration.md). Those that go backward through the
network hold what it computed: 230 to 410 states with `pocket`."""


def afford(what: str, width: int, height: int, copies: int = COPIES) -> None:
    """Raises PictureError where a result of `width` x `height` pixels needs more memory than is free."""
    needed = copies * 3 * 4 * width * height
    free = _free()
    if needed > free:
        have, want = f"{free / 2**30:.1f} GiB", f"{needed / 2**30:.1f} GiB"
        raise PictureError(
            f"{what} pixels needs about {want} beside the model, and {have} are free; choose a smaller result"
        )


def _free() -> int:
    """Bytes that can be had without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)
