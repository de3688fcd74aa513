"""One guided, cleaned prediction at any state and level: the network's output after all plugins' hooks.

Every evaluation of the network passes through `Predictor.at`, so guidance works with every sampler. The gradient rule
is Tweedie's formula plus a score term, x0' = x0 + (sigma_t^2 / alpha_t) grad log p(y | x_t): classifier guidance
(Dhariwal & Nichol 2021, arXiv:2105.05233), CLIP guidance (Nichol et al. 2022, arXiv:2112.10741) and DPS (Chung et al.
2023, arXiv:2209.14687) in one rule, with one backward pass however many plugins give an energy, apart from those that
shape their own shift (`Hooks.shift`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import Model
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Level, Levels
from editkit.engine.acting import Acting, Where, finite, shaped, wrong
from editkit.engine.energies import FAINT, Bound, Energy, Range, clamped, faint_gradient, gradient, gradientless, moves
from editkit.plugin.protocol import Through
from editkit.plugin.step import Run, Step

Figures = tuple[tuple[str, float], ...]
"""(name, number) pairs."""

NOTHING = Conditioning()
"""What the model is told where no plugin tells it anything."""

Silent = frozenset[Run]
"""The runs of plugins that are waiting for a prediction themselves, and have no say in it."""


class Guided(NamedTuple):
    """A prediction, and what the energies said at it: (plugin, mean value), and the norms of their gradients by the
    plugins that shared a backward pass; both empty where nothing guided.
    """

    prediction: Prediction
    energies: Figures = ()
    gradients: Figures = ()


class Predictor:
    """The guided prediction of one process.

    Args:
        model: the network.
        run: the engine's own, for steps; each plugin sees its own instead.
        acting: the plugins, in the order they act, and how they are called.
    """

    def __init__(self, model: Model, run: Run, acting: Acting) -> None:
        self.model, self.run, self.acting = model, run, acting
        self.range = Range()

    def step(self, where: Where, level: Level, x: Tensor, silent: Silent = frozenset()) -> Step:
        """What hooks are given: the state x at `level`, and a way to ask for other predictions."""

        def ask(x: Tensor, level: Level, told: Conditioning | None, asker: Run) -> Prediction:
            return self.at(where, x, level, told, silent | {asker}).prediction

        return Step(self.run, where.move, level, x, where.index, where.total, ask)

    def at(
        self, where: Where, x_t: Tensor, level: Level, told: Conditioning | None = None, silent: Silent = frozenset()
    ) -> Guided:
        """The prediction at (x_t, level).

        Args:
            x_t: (batch, channels, ...), float32.
            level: its level; at the clean one the network is asked as at the one above, and x0 is x_t itself.
            told: what the model is told, and nothing else; None: what the plugins say.
            silent: plugins without a say.
        """
        asked, clean = askable(level, self.run.levels), level.sigma == 0.0
        with torch.no_grad():
            energies, through = _asked_of(self.acting.active("energy", where, silent), asked)
            x_t = x_t.detach().requires_grad_(bool(through & {"network", "x_t"}))
            step = self.step(where, asked, x_t, silent)
            with torch.set_grad_enabled("network" in through):
                pred = self._combined(where, step, silent) if told is None else self._network(where, step, (told,))[0]
            if self.model.clip is not None:
                pred = replace(pred, x0=clamped(pred.x0, self.model.clip))
            pred, said, gradients = self._guided(where, step, pred, energies) if energies else Guided(pred)
            x0 = self.acting.fold("clean", where, step, pred.x0, silent)
            if x0 is not pred.x0:
                pred = pred.with_x0(x0, x_t.detach(), asked)
            if clean:
                pred = replace(pred, x0=x_t.detach())
            return Guided(pred, said, gradients)

    def _network(self, where: Where, step: Step, conds: Sequence[Conditioning]) -> Sequence[Prediction]:
        predictions = self.acting.timed("model", "network", self.model, step.x_t, step.t, conds)
        finite(predictions[0].x0, None, "the model", where)
        return predictions

    def _combined(self, where: Where, step: Step, silent: Silent) -> Prediction:
        """The network's prediction(s), folded into one."""
        acting = self.acting
        cond = NOTHING
        for b in acting.active("condition", where, silent):
            cond = acting.call(b, "condition", where, b.hooks.condition, step.seen_by(b.hooks.run), cond)
        conds: Sequence[Conditioning] = (cond,)
        for b in acting.active("branches", where, silent):
            conds = acting.call(b, "branches", where, b.hooks.branches, step.seen_by(b.hooks.run), cond)
        predictions = self._network(where, step, conds)
        for b in acting.active("combine", where, silent):
            step = replace(step, told=tuple(conds))
            return acting.call(b, "combine", where, b.hooks.combine, step.seen_by(b.hooks.run), predictions)
        return predictions[0]

    def _guided(self, where: Where, step: Step, pred: Prediction, energies: Sequence[Bound]) -> Guided:
        """x0' = x0 - (sigma_t^2 / alpha_t) dE/dx_t, and the bounded form for energies of x0.

        `pred.x0` is clipped before and not after, as in guided-diffusion: eps' = eps - (alpha_t / sigma_t) (x0' - x0)
        has to follow what x0 was moved by, or the state moves against the guidance where x0 is saturated.
        """
        leaf = pred.x0.detach().requires_grad_()
        with torch.enable_grad():
            said = self._said(where, step, pred, leaf, energies)
        x0 = pred.x0.detach()
        self.range.begin(x0, self.model.data_std)
        if not said:
            return Guided(replace(pred, x0=x0, eps=pred.eps.detach()))
        dx0, gradients = self._moved(where, step, leaf, said)
        values = tuple((energy.name, float(energy.value.detach().mean())) for energy in said)
        variance = None if pred.variance is None else pred.variance.detach()
        deps = -(step.alpha_t / step.sigma_t) * dx0 if step.sigma_t > 0.0 else 0.0
        return Guided(Prediction(x0 + dx0, pred.eps.detach() + deps, variance), values, gradients)

    def _moved(self, where: Where, step: Step, leaf: Tensor, said: Sequence[Energy]) -> tuple[Tensor, Figures]:
        """(what the energies move x0 by, the norms of their gradients).

        ONE backward pass for all energies but those that are `alone`; each of these has its own, for `shift` to shape.
        """
        shared = [energy for energy in said if not energy.bound.plugin.alone()]
        groups = [[energy] for energy in said if energy.bound.plugin.alone()] + ([shared] if shared else [])
        dx0, norms = torch.zeros_like(leaf, requires_grad=False), []
        for k, group in enumerate(groups):
            last = k == len(groups) - 1 and len(group) == 1  # else the graph is needed again, if only to blame someone
            if step.alpha_t <= FAINT:
                grads = self.acting.timed("energies", "backward", faint_gradient, group, leaf)
            else:
                grads = self.acting.timed("energies", "backward", gradient, group, step.x_t, leaf, not last, str(where))
            norms.append(math.hypot(*(float(grad.norm()) for grad in grads if grad is not None)))
            moved = moves(grads, step.t, self.model.data_std)
            b = group[0].bound
            if b.plugin.alone():
                moved = self.acting.call(b, "shift", where, b.hooks.shift, step.seen_by(b.hooks.run), moved)
                finite(shaped(moved, leaf.shape, b, "shift", where), b, "shift", where)
            dx0 = dx0 + moved
        names = (" + ".join(energy.name for energy in group) for group in groups)
        return dx0, tuple(zip(names, norms, strict=True))

    def _said(
        self, where: Where, step: Step, pred: Prediction, leaf: Tensor, energies: Sequence[Bound]
    ) -> list[Energy]:
        """What each energy says of the estimate: one differentiable number an item."""
        said: list[Energy] = []
        seen: Counter[str] = Counter()
        for b in energies:
            seen[b.plugin.name] += 1
            x0 = pred.x0 if b.plugin.through() == "network" and step.alpha_t > FAINT else leaf
            value = self.acting.call(b, "energy", where, b.hooks.energy, step.seen_by(b.hooks.run), x0)
            if value is None:
                continue
            if value.shape != (x0.shape[0],):
                got, wanted = tuple(value.shape), (x0.shape[0],)
                raise wrong(b, "energy", f"has shape {got}; one number an item is needed, shape {wanted}", where)
            if not value.requires_grad:
                if step.alpha_t <= FAINT:
                    continue  # it may read x_t alone, which is not asked here
                raise wrong(b, "energy", gradientless(b), where)
            count = seen[b.plugin.name]
            name = b.plugin.name if count == 1 else f"{b.plugin.name}#{count}"
            said.append(Energy(b, name, finite(value, b, "energy", where)))
        return said


def _asked_of(energies: Sequence[Bound], level: Level) -> tuple[Sequence[Bound], frozenset[Through]]:
    """The energies that have a say at `level`, and what their gradients are taken through: where the signal is faint,
    all through x0, but for those that read x_t, which says nothing of it.
    """
    if level.alpha <= FAINT:
        energies = [b for b in energies if b.plugin.through() != "x_t"]
        return energies, frozenset({"x0"} if energies else ())
    return energies, frozenset(b.plugin.through() for b in energies)


def askable(level: Level, levels: Levels) -> Level:
    """The level a network is asked at: the least noisy one with noise, where a walk upward begins at the clean one."""
    return level if level.sigma > 0.0 else next((other for other in levels if other.sigma > 0.0), level)
