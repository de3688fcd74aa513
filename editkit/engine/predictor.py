"""The guided prediction at any state and level: the network's output after all plugins' hooks.

Every evaluation of the network goes through `Predictor.at`, so guidance works with every sampler. The gradient rule is
Tweedie's formula plus a score term, x0' = x0 + (sigma_t^2 / alpha_t) grad log p(y | x_t). It covers classifier guidance
(Dhariwal & Nichol 2021, arXiv:2105.05233), CLIP guidance (Nichol et al. 2022, arXiv:2112.10741) and DPS (Chung et al.
2023, arXiv:2209.14687). All energies share one backward pass, except those of plugins that modify their own shift
(`Hooks.shift`).
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
from editkit.engine.acting import ActivePlugins, FlowMove, check_finite, check_shape, hook_error
from editkit.engine.energies import (
    FAINT,
    Bound,
    Energy,
    StateRangeCheck,
    clamp_straight_through,
    faint_gradient,
    gradient,
    missing_gradient,
    shift_of_x0,
)
from editkit.plugin.protocol import Through
from editkit.plugin.step import Run, Step

Figures = tuple[tuple[str, float], ...]
"""(name, number) pairs."""

NOTHING = Conditioning()
"""The conditioning if no plugin adds anything."""

Silent = frozenset[Run]
"""The runs of plugins that wait for this prediction themselves; their hooks are skipped."""


class Guided(NamedTuple):
    """A prediction with its energies, (plugin, mean value), and the norms of their gradients.

    Gradients are listed by the plugins that shared a backward pass. Both are empty without guidance.
    """

    prediction: Prediction
    energies: Figures = ()
    gradients: Figures = ()


class Predictor:
    """The guided prediction of one process.

    Args:
        model: the network.
        run: the engine's own run, for steps; each plugin sees its own run instead.
        acting: the plugins, in the order in which they act.
    """

    def __init__(self, model: Model, run: Run, acting: ActivePlugins) -> None:
        self.model, self.run, self.acting = model, run, acting
        self.range = StateRangeCheck()

    def step(self, where: FlowMove, level: Level, x: Tensor, silent: Silent = frozenset()) -> Step:
        """Return the step for hooks: the state x at `level`, with `predict` for further predictions."""

        def ask(x: Tensor, level: Level, conditioning: Conditioning | None, asker: Run) -> Prediction:
            return self.at(where, x, level, conditioning, silent | {asker}).prediction

        return Step(self.run, where.move, level, x, where.index, where.total, ask)

    def at(
        self,
        where: FlowMove,
        x_t: Tensor,
        level: Level,
        conditioning: Conditioning | None = None,
        silent: Silent = frozenset(),
    ) -> Guided:
        """Return the guided prediction at (x_t, level).

        Args:
            where: the flow move.
            x_t: (batch, channels, ...), float32.
            level: its level. At the clean level the network is evaluated at the next one, and x0 is x_t itself.
            conditioning: the only conditioning to use; None: that of the plugins.
            silent: plugins whose hooks are skipped.
        """
        asked, clean = nearest_noisy_level(level, self.run.levels), level.sigma == 0.0
        with torch.no_grad():
            energies, through = _acting_energies(self.acting.active("energy", where, silent), asked)
            x_t = x_t.detach().requires_grad_(bool(through & {"network", "x_t"}))
            step = self.step(where, asked, x_t, silent)
            with torch.set_grad_enabled("network" in through):
                pred = (
                    self._combine(where, step, silent)
                    if conditioning is None
                    else self._network(where, step, (conditioning,))[0]
                )
            if self.model.clip is not None:
                pred = replace(pred, x0=clamp_straight_through(pred.x0, self.model.clip))
            pred, values, gradients = self._guide(where, step, pred, energies) if energies else Guided(pred)
            x0 = self.acting.fold("clean", where, step, pred.x0, silent)
            if x0 is not pred.x0:
                pred = pred.with_x0(x0, x_t.detach(), asked)
            if clean:
                pred = replace(pred, x0=x_t.detach())
            return Guided(pred, values, gradients)

    def _network(self, where: FlowMove, step: Step, conds: Sequence[Conditioning]) -> Sequence[Prediction]:
        predictions = self.acting.timed("model", "network", self.model, step.x_t, step.t, conds)
        check_finite(predictions[0].x0, None, "the model", where)
        return predictions

    def _combine(self, where: FlowMove, step: Step, silent: Silent) -> Prediction:
        """Evaluate the network on all branches, and combine the predictions."""
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

    def _guide(self, where: FlowMove, step: Step, pred: Prediction, energies: Sequence[Bound]) -> Guided:
        """Return x0' = x0 - (sigma_t^2 / alpha_t) dE/dx_t, or the bounded form for energies of x0.

        `pred.x0` is clipped before and not after, as in guided-diffusion: eps' = eps - (alpha_t / sigma_t) (x0' - x0)
        must follow the shift of x0, or the state moves against the guidance where x0 is saturated.
        """
        leaf = pred.x0.detach().requires_grad_()
        with torch.enable_grad():
            evaluated = self._evaluate_energies(where, step, pred, leaf, energies)
        x0 = pred.x0.detach()
        self.range.begin(x0, self.model.data_std)
        if not evaluated:
            return Guided(replace(pred, x0=x0, eps=pred.eps.detach()))
        dx0, gradients = self._total_shift(where, step, leaf, evaluated)
        values = tuple((energy.name, float(energy.value.detach().mean())) for energy in evaluated)
        variance = None if pred.variance is None else pred.variance.detach()
        deps = -(step.alpha_t / step.sigma_t) * dx0 if step.sigma_t > 0.0 else 0.0
        return Guided(Prediction(x0 + dx0, pred.eps.detach() + deps, variance), values, gradients)

    def _total_shift(
        self, where: FlowMove, step: Step, leaf: Tensor, evaluated: Sequence[Energy]
    ) -> tuple[Tensor, Figures]:
        """Return the shift of x0 by all energies, and the norms of their gradients.

        There is one backward pass for all energies except those that are `alone`: each of these has its own, so that
        `shift` can modify it.
        """
        shared = [energy for energy in evaluated if not energy.bound.plugin.alone()]
        groups = [[energy] for energy in evaluated if energy.bound.plugin.alone()] + ([shared] if shared else [])
        dx0, norms = torch.zeros_like(leaf, requires_grad=False), []
        for k, group in enumerate(groups):
            last = k == len(groups) - 1 and len(group) == 1  # else the graph is needed again
            if step.alpha_t <= FAINT:
                grads = self.acting.timed("energies", "backward", faint_gradient, group, leaf)
            else:
                grads = self.acting.timed("energies", "backward", gradient, group, step.x_t, leaf, not last, str(where))
            norms.append(math.hypot(*(float(grad.norm()) for grad in grads if grad is not None)))
            moved = shift_of_x0(grads, step.t, self.model.data_std)
            b = group[0].bound
            if b.plugin.alone():
                moved = self.acting.call(b, "shift", where, b.hooks.shift, step.seen_by(b.hooks.run), moved)
                check_finite(check_shape(moved, leaf.shape, b, "shift", where), b, "shift", where)
            dx0 = dx0 + moved
        names = (" + ".join(energy.name for energy in group) for group in groups)
        return dx0, tuple(zip(names, norms, strict=True))

    def _evaluate_energies(
        self, where: FlowMove, step: Step, pred: Prediction, leaf: Tensor, energies: Sequence[Bound]
    ) -> list[Energy]:
        """Evaluate each energy at the estimate: one differentiable number for each item."""
        evaluated: list[Energy] = []
        seen: Counter[str] = Counter()
        for b in energies:
            seen[b.plugin.name] += 1
            x0 = pred.x0 if b.plugin.through() == "network" and step.alpha_t > FAINT else leaf
            value = self.acting.call(b, "energy", where, b.hooks.energy, step.seen_by(b.hooks.run), x0)
            if value is None:
                continue
            if value.shape != (x0.shape[0],):
                got, wanted = tuple(value.shape), (x0.shape[0],)
                raise hook_error(b, "energy", f"has shape {got}; one number for each item is needed, {wanted}", where)
            if not value.requires_grad:
                if step.alpha_t <= FAINT:
                    continue  # it may depend on x_t only, which is not used here
                raise hook_error(b, "energy", missing_gradient(b), where)
            count = seen[b.plugin.name]
            name = b.plugin.name if count == 1 else f"{b.plugin.name}#{count}"
            evaluated.append(Energy(b, name, check_finite(value, b, "energy", where)))
        return evaluated


def _acting_energies(energies: Sequence[Bound], level: Level) -> tuple[Sequence[Bound], frozenset[Through]]:
    """Return the energies that act at `level`, and how they are differentiated.

    Where the signal is faint, all are differentiated in x0; energies of x_t do not act, since x_t is pure noise there.
    """
    if level.alpha <= FAINT:
        energies = [b for b in energies if b.plugin.through() != "x_t"]
        return energies, frozenset({"x0"} if energies else ())
    return energies, frozenset(b.plugin.through() for b in energies)


def nearest_noisy_level(level: Level, levels: Levels) -> Level:
    """Return the level at which to evaluate the network: the least noisy one with noise instead of the clean one."""
    return level if level.sigma > 0.0 else next((other for other in levels if other.sigma > 0.0), level)
