"""Colour for grey pictures: the model is told the luma (Palette, Saharia et al. 2022, arXiv:2111.05826) or solves.

Luma is exact: y = 0.299 R + 0.587 G + 0.114 B at every pixel. Every estimate is moved along grey, x0 + y - luma(x0),
which keeps its colour differences; the end is brought into the range of a picture by taking colour away, not luma.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from editkit.plugin import Notify, Options, Picture, Run, Section, Slot
from editkit_plugins.restoring.solving import Solver
from editkit_plugins.upscale import observed

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.plugin import Conditioning, ModelInfo
    from editkit_plugins.restoring.problem import Problem


class Colorize(Solver):
    """Give a grey picture colours, and keep its luma: the result without colour is the picture that went in."""

    holds: ClassVar[frozenset[Slot]] = frozenset({"size"})
    name: ClassVar[str] = "colorize"
    group: ClassVar[Section] = "restore"
    usage: ClassVar[tuple[str, ...]] = (
        "colorize grey.png",
        "colorize grey.png --candidates 4",
        "colorize grey.png --estimate mean --samples 8",
    )
    offers: ClassVar[frozenset[str]] = frozenset({"task"})
    needs_picture: ClassVar[bool] = True

    method: Literal["auto", "conditioned", "ddnm"] = Field(
        "auto", description="Tell the model the luma, or solve with it as prior; auto: what the model can."
    )

    def default_model(self) -> str:
        """A network: a grey picture's own patches have no colours."""
        return "pocket"

    def default_options(self, info: ModelInfo) -> Options:
        """One step of `pocket`: the mean of all colours, faint, where one sample is bold and wrong in patches."""
        return Options(steps=1) if self.nearest(info) else super().default_options(info)

    def open(self, picture: Picture, notify: Notify) -> Picture:
        if not (picture.visible == picture.visible[..., :1]).all():
            notify("colorize: the picture has colours; they are left out, its luma is given new ones")
        self.afford(*picture.size)
        return picture

    def problem(self, run: Run) -> Problem:
        from editkit_plugins.restoring.degradations import Luma
        from editkit_plugins.restoring.problem import Problem

        source, size = observed(run)
        A = Luma(size)
        return Problem(A, A.forward(source))

    def told(self, run: Run, y: Tensor) -> Callable[[Conditioning], Conditioning]:
        if run.model.info.name == "pocket":
            run.notify(
                "colorize: pocket is small and knows few colours: expect a faint tone; with --steps 10 bolder ones, "
                "many of them wrong"
            )
        grey = run.inputs.place(y.expand(-1, 3, -1, -1))
        return lambda cond: replace(cond, known=grey, task="colorize")
