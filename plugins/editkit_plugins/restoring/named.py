"""Degradations by name, as users write them: `gaussian:2`, `motion:15,30`, `jpeg:30`.

torch is imported only when a degradation is created.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from editkit.plugin import PictureError
from editkit_plugins.restoring import kernels

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.plugin import Metadata
    from editkit_plugins.restoring.degradations import Degradation, Size

NUMBERS: dict[str, tuple[str, ...]] = {
    "noise": (),
    "mask": (),
    "grey": (),
    "average": ("N",),
    "bicubic": ("N",),
    "gaussian": ("SIGMA",),
    "motion": ("LENGTH", "ANGLE"),
    "kernel": ("FILE",),
    "jpeg": ("QUALITY",),  # may be omitted: the file's own tables
    "quantise": ("LEVELS",),
}
"""Kind -> its parameters after the colon."""

_LIMITS = {
    "average": (2, 64), "bicubic": (1.0001, 64), "gaussian": (0.1, 100), "motion": (1, 1000), "jpeg": (1, 100),
    "quantise": (2, 256),
}  # fmt: skip
_WHOLE = ("average", "jpeg", "quantise")


@dataclass(frozen=True)
class Named:
    """A kind of degradation with its parameters (`kernel`: with the file's name)."""

    kind: str
    numbers: tuple[float, ...] = ()
    file: str = ""

    @property
    def linear(self) -> bool:
        return self.kind not in ("jpeg", "quantise")

    @property
    def reduces(self) -> float:
        """Factor by which it downscales a picture."""
        return self.numbers[0] if self.kind in ("average", "bicubic") else 1.0

    def side(self) -> int:
        """Return the kernel's side in pixels; 0 without a kernel, or for a kernel from a file."""
        match self.kind:
            case "gaussian":
                return 2 * kernels.gaussian_radius(*self.numbers) + 1
            case "motion":
                return 2 * kernels.motion_radius(self.numbers[0]) + 1
            case _:
                return 0

    def made(
        self, size: Size, observed: tuple[int, int], keep: np.ndarray | None = None, file: Metadata | None = None
    ) -> Degradation:
        """Create the degradation for pictures of `size`, observed at (height, width).

        Args:
            keep: (h, w), True where a pixel is observed; for `mask`.
            file: metadata of the observation's file; for `jpeg` without a quality.

        Raises:
            UsageError: the degradation does not fit the size, or the file has no tables.
        """
        import torch

        from editkit_plugins.restoring import degradations as d
        from editkit_plugins.restoring.jpeg import Jpeg, of_file, tables

        match self.kind:
            case "noise":
                return d.Mask(torch.ones(1), size)
            case "mask":
                assert keep is not None
                return d.Mask(torch.from_numpy(keep)[None], size)
            case "grey":
                return d.Grey(size)
            case "average":
                return d.average(size, int(self.numbers[0]))
            case "bicubic":
                return d.bicubic(size, *observed)
            case "jpeg":
                if self.numbers:
                    return Jpeg(tables(int(self.numbers[0])), size)
                return Jpeg(of_file(file), size, halved=file is not None and (file.subsampling or 0) > 0)
            case "quantise":
                return d.Quantise(int(self.numbers[0]), size)
            case _:
                return d.Blur(self.kernel(), size)

    def kernel(self) -> Tensor:
        """Return the blur kernel, (kh, kw), with sum 1.

        Raises:
            PictureError: the kernel's file cannot be read, or is black.
        """
        import torch

        if self.kind == "gaussian":
            return kernels.gaussian(*self.numbers)
        if self.kind == "motion":
            return kernels.motion(*self.numbers)
        from editkit.plugin import Picture

        values = torch.from_numpy(Picture.read(self.file).pixels.astype(np.float64).mean(-1))
        if float(values.sum()) == 0.0:
            raise PictureError(f"{self.file}: all of the kernel is black; it needs pixels that are not black")
        return values / values.sum()


def parse(text: str) -> Named:
    """Parse a degradation, such as `gaussian:2`.

    Raises:
        ValueError: the text is not a valid degradation. The message is one line and says what is allowed.
    """
    kind, _, rest = text.partition(":")
    if kind not in NUMBERS:
        raise ValueError(f"degradation is {text!r}; one of {', '.join(map(_form, NUMBERS))} is needed")
    if kind == "kernel":
        if not rest:
            raise ValueError(f"degradation is {text!r}; write {_form(kind)}")
        return Named(kind, (), rest)
    try:
        numbers = tuple(float(part) for part in rest.split(",")) if rest else ()
    except ValueError:
        raise ValueError(f"degradation is {text!r}; write {_form(kind)} with numbers") from None
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"degradation is {text!r}; its numbers must be finite")
    if len(numbers) != len(NUMBERS[kind]) and text != "jpeg":
        raise ValueError(f"degradation is {text!r}; write {_form(kind)}")
    low, high = _LIMITS.get(kind, (0, 0))
    if numbers and not low <= numbers[0] <= high:
        what = "above 1" if kind == "bicubic" else f"{low} or more"
        raise ValueError(f"degradation is {text!r}; its first number must be {what} and {high} or less")
    if kind in _WHOLE and numbers and numbers[0] != int(numbers[0]):
        raise ValueError(f"degradation is {text!r}; it takes a whole number")
    return Named(kind, numbers)


def _form(kind: str) -> str:
    return f"{kind}:{','.join(NUMBERS[kind])}" if NUMBERS[kind] else kind
