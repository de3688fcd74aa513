"""Colourisation of grey pictures.

The model is either conditioned on the luma (Palette, Saharia et al. 2022, arXiv:2111.05826), or it is the prior of an
inverse problem whose observation is the luma. Luma is exact: y = 0.299 R + 0.587 G + 0.114 B at every pixel. Every
estimate is shifted along the grey axis, x0 + y - luma(x0), which keeps its colour differences. The result is brought
into range by reducing saturation, never by changing luma.

Colours that the user sets at points (`--color-at x,y,#rrggbb`) spread over pixels of similar luma at the end of the
process; where no point reaches, the model's colours stay (`restoring.scribbles`). Luma stays exact.
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
from editkit_plugins.upscale import observed_picture

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.plugin import Conditioning, ModelInfo
    from editkit_plugins.restoring.problem import Problem


def parse_points(text: str, width: int, height: int) -> Point:
    """Parse `x,y,#rrggbb`. x and y are pixels, or per cent of `width` and `height`.

    Raises:
        ValueError: the text has another form.
    """
    x, y, colour = (*text.split(",", 2), "", "", "")[:3]
    found = [re.fullmatch(r"\s*(\d+(?:\.\d+)?)(%?)\s*", v) for v in (x, y)]
    if found[0] is None or found[1] is None:
        raise ValueError(f"is {text!r}; write x,y,#rrggbb, as in 100,40,#7a9cc6 or 50%,90%,green")
    at = [float(m[1]) * (n / 100.0 if m[2] else 1.0) for m, n in zip(found, (width, height), strict=True) if m]
    return Point(int(at[0]), int(at[1]), rgb(colour))


class Colorize(Solver):
    """Colourise a grey picture and keep its luma: converted to grey, the result is the input picture."""

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
        "auto", description="Condition the model on luma, or solve with it as prior; auto: as the model allows."
    )

    color_at: tuple[Annotated[str, Metavar("X,Y,#RRGGBB", path=False)], ...] = Field(
        (), description="Colour at a pixel; it spreads over pixels of similar luma; repeatable."
    )

    @field_validator("color_at")
    @classmethod
    def _check_points(cls, color_at: tuple[str, ...]) -> tuple[str, ...]:
        for one in color_at:
            parse_points(one, 1, 1)
        return color_at

    def default_model(self) -> str:
        """Return a network's name: the patches of a grey picture have no colours."""
        return "pocket"

    def default_options(self, info: ModelInfo) -> Options:
        """Use one step on `pocket`: its mean estimate is faint, but a single sample is wrong in whole regions."""
        return Options(steps=1) if self.nearest(info) else super().default_options(info)

    def open(self, picture: Picture, notify: Notify) -> Picture:
        for text in self.color_at:
            at = parse_points(text, picture.width - 1, picture.height - 1)
            if at.x >= picture.width or at.y >= picture.height:
                raise UsageError(
                    f"colorize --color-at {text}: the point lies outside the picture of "
                    f"{picture.width}x{picture.height}"
                )
        if not (picture.visible == picture.visible[..., :1]).all():
            notify("colorize: the picture has colours; they are discarded, and only its luma is used")
        self.afford(*picture.size)
        return picture

    def problem(self, run: Run) -> Problem:
        from editkit_plugins.restoring.degradations import Luma
        from editkit_plugins.restoring.problem import Problem
        from editkit_plugins.restoring.scribbles import HintedLuma

        source, size = observed_picture(run)
        A = Luma(size)
        y = A.forward(source)
        if self.color_at:
            A = HintedLuma(size, y, [parse_points(one, size[2] - 1, size[1] - 1) for one in self.color_at])
        return Problem(A, y)

    def condition_on(self, run: Run, y: Tensor) -> Callable[[Conditioning], Conditioning]:
        if run.model.info.name == "pocket":
            run.notify(
                "colorize: pocket is a small model and knows few colours: expect a faint tint; --steps 10 gives "
                "stronger colours, many of them wrong"
            )
        grey = run.inputs.place(y.expand(-1, 3, -1, -1))
        return lambda cond: replace(cond, known=grey, task="colorize")
