"""Colour for grey pictures: the model is told the luma (Palette, Saharia et al. 2022, arXiv:2111.05826) or solves.

Luma is exact: y = 0.299 R + 0.587 G + 0.114 B at every pixel. Every estimate is moved along grey, x0 + y - luma(x0),
which keeps its colour differences; the end is brought into the range of a picture by taking colour away, not luma.

Colours that the user names at points (`--color-at x,y,#rrggbb`) are spread where luma is about equal, at the end, and
the model's stay where no point reaches (`restoring.scribbles`). Luma is exact as without.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from editkit.pictures.colors import rgb
from editkit.plugin import Metavar, Notify, Options, Picture, Run, Section, Slot, UsageError
from editkit_plugins.restoring.points import Point
from editkit_plugins.restoring.solving import Solver
from editkit_plugins.upscale import observed

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.plugin import Conditioning, ModelInfo
    from editkit_plugins.restoring.problem import Problem


def pointed(text: str, width: int, height: int) -> Point:
    """x, y in pixels and the colour of `x,y,#rrggbb`; x and y may be per cent.

    Raises:
        ValueError: it is written otherwise.
    """
    x, y, colour = (*text.split(",", 2), "", "", "")[:3]
    found = [re.fullmatch(r"\s*(\d+(?:\.\d+)?)(%?)\s*", v) for v in (x, y)]
    if found[0] is None or found[1] is None:
        raise ValueError(f"is {text!r}; write x,y,#rrggbb, as in 100,40,#7a9cc6 or 50%,90%,green")
    at = [float(m[1]) * (n / 100.0 if m[2] else 1.0) for m, n in zip(found, (width, height), strict=True) if m]
    return Point(int(at[0]), int(at[1]), rgb(colour))


class Colorize(Solver):
    """Give a grey picture colours, and keep its luma: the result without colour is the picture that went in."""

    holds: ClassVar[frozenset[Slot]] = frozenset({"size"})
    name: ClassVar[str] = "colorize"
    group: ClassVar[Section] = "restore"
    usage: ClassVar[tuple[str, ...]] = (
        "colorize grey.png",
        "colorize grey.png --color-at 100,40,#7a9cc6 --color-at 50%,90%,#5a7a3a",
        "colorize grey.png --estimate mean --samples 8",
    )
    offers: ClassVar[frozenset[str]] = frozenset({"task"})
    needs_picture: ClassVar[bool] = True

    method: Literal["auto", "conditioned", "ddnm"] = Field(
        "auto", description="Tell the model the luma, or solve with it as prior; auto: what the model can."
    )

    color_at: tuple[Annotated[str, Metavar("X,Y,#RRGGBB", path=False)], ...] = Field(
        (), description="The colour at a pixel, spread to where luma is about equal; several: give it again."
    )

    @field_validator("color_at")
    @classmethod
    def _pointed(cls, color_at: tuple[str, ...]) -> tuple[str, ...]:
        for one in color_at:
            pointed(one, 1, 1)
        return color_at

    def default_model(self) -> str:
        """A network: a grey picture's own patches have no colours."""
        return "pocket"

    def default_options(self, info: ModelInfo) -> Options:
        """One step of `pocket`: the mean of all colours, faint, where one sample is bold and wrong in patches."""
        return Options(steps=1) if self.nearest(info) else super().default_options(info)

    def open(self, picture: Picture, notify: Notify) -> Picture:
        for text in self.color_at:
            at = pointed(text, picture.width - 1, picture.height - 1)
            if at.x >= picture.width or at.y >= picture.height:
                raise UsageError(
                    f"colorize --color-at {text}: lies outside the picture of {picture.width}x{picture.height}"
                )
        if not (picture.visible == picture.visible[..., :1]).all():
            notify("colorize: the picture has colours; they are left out, its luma is given new ones")
        self.afford(*picture.size)
        return picture

    def problem(self, run: Run) -> Problem:
        from editkit_plugins.restoring.degradations import Luma
        from editkit_plugins.restoring.problem import Problem
        from editkit_plugins.restoring.scribbles import HintedLuma

        source, size = observed(run)
        A = Luma(size)
        y = A.forward(source)
        if self.color_at:
            A = HintedLuma(size, y, [pointed(one, size[2] - 1, size[1] - 1) for one in self.color_at])
        return Problem(A, y)

    def told(self, run: Run, y: Tensor) -> Callable[[Conditioning], Conditioning]:
        if run.model.info.name == "pocket":
            run.notify(
                "colorize: pocket is small and knows few colours: expect a faint tone; with --steps 10 bolder ones, "
                "many of them wrong"
            )
        grey = run.inputs.place(y.expand(-1, 3, -1, -1))
        return lambda cond: replace(cond, known=grey, task="colorize")
