"""Degradations by name, as users write them: `gaussian:2`, `motion:15,30`, `jpeg:30`. No torch before one is made."""

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
    "jpeg": ("QUALITY",),  # or none: the file's own tables
    "quantise": ("LEVELS",),
}
"""What each kind takes behind its colon."""

_LIMITS = {
    "average": (2, 64), "bicubic": (1.0001, 64), "gaussian": (0.1, 100), "motion": (1, 1000), "jpeg": (1, 100),
    "quantise": (2, 256),
}  # fmt: skip
_WHOLE = ("average", "jpeg", "quantise")


@dataclass(frozen=True)
class Named:
    """A kind of degradation with its numbers (`kernel`: with the file's name)."""

    kind: str
    numbers: tuple[float, ...] = ()
    file: str = ""

    @property
    def linear(self) -> bool:
        return self.kind not in ("jpeg", "quantise")

    @property
    def reduces(self) -> float:
        """How many times smaller it makes a picture."""
        return self.numbers[0] if self.kind in ("average", "bicubic") else 1.0

    def side(self) -> int:
        """Pixels a side of a kernel that its numbers make; 0 for what has none, or has it in a file."""
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
        """The degradation for pictures of `size`, observed at (height, width).

        `keep` (h, w): pixels that a mask leaves. `file`: what the observation's file says of itself.
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
                return Jpeg(tables(int(self.numbers[0])) if self.numbers else of_file(file), size)
            case "quantise":
                return d.Quantise(int(self.numbers[0]), size)
            case _:
                return d.Blur(self.kernel(), size)

    def kernel(self) -> Tensor:
        """The blur's kernel, (kh, kw), sum 1."""
        import torch

        if self.kind == "gaussian":
            return kernels.gaussian(*self.numbers)
        if self.kind == "motion":
            return kernels.motion(*self.numbers)
        from editkit.plugin import Picture

        values = torch.from_numpy(Picture.read(self.file).pixels.astype(np.float64).mean(-1))
        if float(values.sum()) == 0.0:
            raise PictureError(f"{self.file}: a kernel needs something that is not black")
        return values / values.sum()


def parse(text: str) -> Named:
    """`text` as `Named`.

    Raises:
        ValueError: what is wrong and what is allowed, in one line.
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
