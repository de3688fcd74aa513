"""Coarse-to-fine cascade: a finer pass starts from the enlarged result of the coarser pass and keeps its structure.

It starts at a noise level that keeps structure, and the model is conditioned on the coarser picture (`lowres`, as in
the cascades of Ho et al. 2022, arXiv:2106.15282). A model that does not take `lowres` can be held to the low
frequencies instead (ILVR, Choi et al. 2021, arXiv:2108.02938).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import Pass
from editkit.pictures.resizing import resize
from editkit.plugin.protocol import Hooks, Plugin
from editkit.plugin.step import Run, Step

if TYPE_CHECKING:
    from torch import Tensor


class Refine(Plugin):
    """Start from the enlarged coarser pass, and condition the model on it or hold its low frequencies."""

    name: ClassVar[str] = "canvas"
    order: ClassVar[int] = -100
    hold: float = 1.0
    factor: float = 1.6

    def hooks(self) -> type[Hooks[Refine]]:
        return _RefineHooks


class _RefineHooks(Hooks[Refine]):
    coarse: Tensor

    @classmethod
    def made(cls, plugin: Refine, run: Run, coarse: Tensor) -> _RefineHooks:
        """Create the hooks; `coarse` is the coarser pass's result at this pass's size, in the model's space."""
        made = cls(plugin, run)
        made.coarse = coarse
        return made

    def begin(self) -> Tensor:
        return self.run.noised(self.coarse, self.run.levels[self.run.plan.start])

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        if "lowres" not in self.run.model.info.takes or cond.lowres is not None:
            return cond
        return replace(cond, lowres=self.coarse)

    def clean(self, step: Step, x0: Tensor) -> Tensor:
        if "lowres" in self.run.model.info.takes or step.sigma_t <= self.plugin.hold:
            return x0
        return x0 + self._low(self.coarse) - self._low(x0)

    def _low(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        small = resize(x, max(1, round(height / self.plugin.factor)), max(1, round(width / self.plugin.factor)))
        return resize(small, height, width)


def refining_plugin(run: Run, coarse: Tensor, at: Pass, factor: float) -> tuple[Refine, Hooks[Refine]]:
    """Return the canvas's own declaration and hooks for a finer pass."""
    plugin = Refine(hold=at.hold, factor=factor)
    return plugin, _RefineHooks.made(plugin, run, coarse)
