"""The reverse diffusion: one loop for every model, sampler and set of plugins.

Every evaluation of the network passes through `_Loop.predict`, so guidance works with every sampler. The gradient rule
is Tweedie's formula plus a score term, x0' = x0 + (sigma_t^2 / alpha_t) grad log p(y | x_t): classifier guidance
(Dhariwal & Nichol 2021, arXiv:2105.05233), CLIP guidance (Nichol et al. 2022, arXiv:2112.10741) and DPS (Chung et al.
2023, arXiv:2209.14687) in one rule, with one backward pass however many plugins give an energy, apart from those that
shape their own shift (`Hooks.shift`).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from editkit.energies import FAINT, Energy, Range, clamped, gradient, gradientless, moves
from editkit.energies import Bound as Bound
from editkit.errors import HookError
from editkit.models.base import Conditioning, Model, Prediction
from editkit.noise import Stream
from editkit.plan import Move, Plan
from editkit.plugin import Hooks, Run, Step, called
from editkit.samplers import Sampler
from editkit.schedule import Discrete, Level, Levels


@dataclass(frozen=True, eq=False)
class Process:
    """One reverse process, ready to run. `bound` is in the order the plugins act."""

    model: Model
    sampler: Sampler
    plan: Plan
    levels: Levels
    bound: tuple[Bound, ...]
    run: Run
    shape: tuple[int, ...]
    sampler_stream: Stream
    travel_stream: Stream


@dataclass(frozen=True, eq=False)
class State:
    """What the generator yields after each move: the state `x` at `level`, and the last estimate of x0.

    `index` counts the downward moves done, of `total`; `calls` the evaluations of the network so far; `energies` are
    the (plugin, mean value) of this move's last guided evaluation, `gradients` the norms of their gradients, by the
    plugins that shared a backward pass; both are empty where the move was not guided.
    `seconds` is where the time of this move went, by (plugin, hook); ("model", "network") and ("energies", "backward")
    are the engine's own.
    """

    move: Move
    level: Level
    x: Tensor
    x0: Tensor | None
    index: int
    total: int
    calls: int
    energies: tuple[tuple[str, float], ...] = ()
    gradients: tuple[tuple[str, float], ...] = ()
    seconds: tuple[tuple[tuple[str, str], float], ...] = ()


def steps(process: Process) -> Iterator[State]:
    """Run `process`, yielding a `State` after every move; stop early by leaving the loop."""
    yield from _Loop(process).states()


def run(process: Process, watch: Callable[[State], None] | None = None) -> Tensor:
    """Run `process` to its end: x_0, (batch, channels, ...), float32."""
    loop = _Loop(process)
    for state in loop.states():
        if watch is not None:
            watch(state)
    return loop.x


class _Loop:
    """The state of one run of the loop."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.total = len(process.plan.downward)
        self.index = 0
        self.calls = 0
        self.move = process.plan.moves[0] if process.plan.moves else Move(0, 0)
        self.x0: Tensor | None = None
        self.energies: tuple[tuple[str, float], ...] = ()
        self.gradients: tuple[tuple[str, float], ...] = ()
        self.range = Range()
        self.seconds: dict[tuple[str, str], float] = {}
        self.users = {
            name: tuple(b for b in process.bound if getattr(type(b.hooks), name) is not getattr(Hooks, name))
            for name in ("condition", "branches", "combine", "energy", "clean", "after")
        }
        self.x = self._begin()

    def states(self) -> Iterator[State]:
        p = self.process
        for move in p.plan:
            self.move, t, s = move, p.levels[move.t], p.levels[move.s]
            self.energies, self.gradients = (), ()
            if move.up:
                self.x = self._climb(t, s)
                p.sampler.reset()
            else:
                with torch.no_grad():
                    x_s = p.sampler(self.x, t, s, self.predict, self._normal(p.sampler_stream))
                    self.x = self._after(self._finite(x_s, None, "sampler"), s)
                if self.gradients:
                    self.range.check(x_s, s, [name for name, _ in self.gradients], self._at, p.run.notify)
                self.index += 1
            yield self._state(move, s)

    def _state(self, move: Move, s: Level) -> State:
        seconds = tuple(self.seconds.items())
        self.seconds.clear()
        return State(
            move, s, self.x, self.x0, self.index, self.total, self.calls, self.energies, self.gradients, seconds
        )

    def _climb(self, t: Level, s: Level) -> Tensor:
        """x at the noisier level s; drawn as diffusers' RePaint does where its order of draws is asked for."""
        p = self.process
        normal = self._normal(p.travel_stream)
        if p.run.options.noise != "diffusers" or not isinstance(p.model.schedule, Discrete):
            return renoise(self.x, t, s, normal())
        x = self.x
        for beta in p.model.schedule.repaint_betas(s, p.plan.steps):
            x = (1.0 - beta) ** 0.5 * x + beta**0.5 * normal()
        return x

    def predict(self, x_t: Tensor, level: Level) -> Prediction:
        """The guided, cleaned prediction at (x_t, level)."""
        self.x0 = None  # as large as the state: the last estimate need not lie beside the next
        with torch.no_grad():
            energies = self._active("energy") if level.alpha > FAINT else ()
            through = {b.plugin.through() for b in energies}
            x_t = x_t.detach().requires_grad_(bool(through & {"network", "x_t"}))
            step = Step(self.process.run, self.move, level, x_t, self.index, self.total)
            with torch.set_grad_enabled("network" in through):
                pred = self._combined(step)
            clip = self.process.model.clip
            if clip is not None:
                pred = replace(pred, x0=clamped(pred.x0, clip))
            if energies:
                pred = self._guided(step, pred, energies)
            x0 = self._fold("clean", step, pred.x0)
            if x0 is not pred.x0:
                pred = pred.with_x0(x0, x_t.detach(), level)
            self.x0 = pred.x0
            return pred

    def _combined(self, step: Step) -> Prediction:
        """The network's prediction(s), folded into one."""
        cond = Conditioning()
        for b in self._active("condition"):
            cond = self._call(b, "condition", b.hooks.condition, step.seen_by(b.hooks.run), cond)
        conds: Sequence[Conditioning] = (cond,)
        for b in self._active("branches"):
            conds = self._call(b, "branches", b.hooks.branches, step.seen_by(b.hooks.run), cond)
        self.calls += 1
        network = self.process.model
        predictions: Sequence[Prediction] = self._timed("model", "network", network, step.x_t, step.t, conds)
        self._finite(predictions[0].x0, None, "the model")
        for b in self._active("combine"):
            one: Prediction = self._call(b, "combine", b.hooks.combine, step.seen_by(b.hooks.run), predictions)
            return one
        return predictions[0]

    def _guided(self, step: Step, pred: Prediction, energies: Sequence[Bound]) -> Prediction:
        """x0' = x0 - (sigma_t^2 / alpha_t) dE/dx_t, and the bounded form for energies of x0.

        `pred.x0` is clipped before and not after, as in guided-diffusion: eps' = eps - (alpha_t / sigma_t) (x0' - x0)
        has to follow what x0 was moved by, or the state moves against the guidance where x0 is saturated.
        ONE backward pass for all energies but those that are `alone`; each of these has its own, for `shift` to shape.
        """
        leaf = pred.x0.detach().requires_grad_()
        with torch.enable_grad():
            asked = self._asked(step, pred, leaf, energies)
        x0 = pred.x0.detach()
        self.range.begin(x0, self.process.model.data_std)
        if not asked:
            return replace(pred, x0=x0, eps=pred.eps.detach())
        shared = [energy for energy in asked if not energy.bound.plugin.alone()]
        groups = [[energy] for energy in asked if energy.bound.plugin.alone()] + ([shared] if shared else [])
        dx0, norms = torch.zeros_like(x0), []
        for k, group in enumerate(groups):
            last = k == len(groups) - 1 and len(group) == 1  # else the graph is needed again, if only to blame someone
            grads = self._timed("energies", "backward", gradient, group, step.x_t, leaf, not last, self._at)
            norms.append(math.hypot(*(float(grad.norm()) for grad in grads if grad is not None)))
            moved = moves(grads, step.t, self.process.model.data_std)
            b = group[0].bound
            if b.plugin.alone():
                moved = self._call(b, "shift", b.hooks.shift, step.seen_by(b.hooks.run), moved)
                self._finite(self._shaped(moved, x0.shape, b, "shift"), b, "shift")
            dx0 = dx0 + moved
        self.energies = tuple((energy.name, float(energy.value.detach().mean())) for energy in asked)
        self.gradients = tuple(
            (" + ".join(e.name for e in group), norm) for group, norm in zip(groups, norms, strict=True)
        )
        variance = None if pred.variance is None else pred.variance.detach()
        deps = -(step.alpha_t / step.sigma_t) * dx0 if step.sigma_t > 0.0 else 0.0
        return Prediction(x0 + dx0, pred.eps.detach() + deps, variance)

    def _asked(self, step: Step, pred: Prediction, leaf: Tensor, energies: Sequence[Bound]) -> list[Energy]:
        """What each energy says of the estimate: one differentiable number an item."""
        asked: list[Energy] = []
        seen: Counter[str] = Counter()
        for b in energies:
            seen[b.plugin.name] += 1
            x0 = pred.x0 if b.plugin.through() == "network" else leaf
            value = self._call(b, "energy", b.hooks.energy, step.seen_by(b.hooks.run), x0)
            if value is None:
                continue
            if value.shape != (x0.shape[0],):
                got, wanted = tuple(value.shape), (x0.shape[0],)
                raise self._wrong(b, "energy", f"has shape {got}; one number an item is needed, shape {wanted}")
            if not value.requires_grad:
                raise self._wrong(b, "energy", gradientless(b))
            count = seen[b.plugin.name]
            name = b.plugin.name if count == 1 else f"{b.plugin.name}#{count}"
            asked.append(Energy(b, name, self._finite(value, b, "energy")))
        return asked

    def _begin(self) -> Tensor:
        """What the plugin with `begin` starts from, or noise of the schedule's scale."""
        p = self.process
        level = p.levels[p.plan.start]
        with torch.no_grad():
            for b in p.bound:
                x = self._call(b, "begin", b.hooks.begin)
                if x is not None:
                    return self._shaped(x.float(), p.shape, b, "begin")
            scale = p.model.schedule.prior_scale(level, p.run.options.spacing, p.sampler.grid)
            noise = p.run.opening.noise
            return noise if scale == 1.0 else scale * noise

    def _after(self, x_s: Tensor, s: Level) -> Tensor:
        if not self.users["after"]:
            return x_s
        return self._fold("after", Step(self.process.run, self.move, s, x_s, self.index, self.total), x_s)

    def _fold(self, name: str, step: Step, x: Tensor) -> Tensor:
        for b in self._active(name):
            out = self._call(b, name, getattr(b.hooks, name), step.seen_by(b.hooks.run), x)
            x = x if out is x else self._finite(self._shaped(out, x.shape, b, name), b, name)
        return x

    def _active(self, name: str) -> Sequence[Bound]:
        """The plugins that override `name` and act in this move."""
        return [b for b in self.users[name] if b.plugin.acts(self.index, self.total)]

    def _normal(self, stream: Stream) -> Callable[[], Tensor]:
        return lambda: stream.normal(self.x.shape).to(self.x.device)

    @property
    def _at(self) -> str:
        return f"step {self.index + 1} of {self.total}"

    def _call(self, b: Bound, name: str, hook: Callable[..., Any], *args: Any) -> Any:
        where = f" ({self._at})"
        return called(b.plugin, name, partial(self._timed, b.plugin.name, name, hook), *args, where=where)

    def _timed(self, who: str, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        out = function(*args, **kwargs)
        self.seconds[who, name] = self.seconds.get((who, name), 0.0) + time.perf_counter() - began
        return out

    def _shaped(self, x: Tensor, shape: Sequence[int], b: Bound, name: str) -> Tensor:
        if tuple(x.shape) != tuple(shape):
            raise self._wrong(b, name, f"returned shape {tuple(x.shape)} instead of {tuple(shape)}")
        return x

    def _finite(self, x: Tensor, b: Bound | None, name: str) -> Tensor:
        if bool(torch.isfinite(x.sum())):
            return x
        if b is not None:
            raise self._wrong(b, name, "made NaN or infinity")
        raise HookError(f"{name} made NaN or infinity at {self._at}; no picture was written")

    def _wrong(self, b: Bound, name: str, what: str) -> HookError:
        return HookError(f"plugin {b.plugin.name}: {name} {what} ({self._at})")


def renoise(x: Tensor, t: Level, s: Level, z: Tensor) -> Tensor:
    """The exact forward kernel x_s | x_t to a noisier level s.

    x_s = (alpha_s / alpha_t) x_t + sqrt(sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2) z.
    """
    ratio = s.alpha / t.alpha
    return ratio * x + math.sqrt(max(s.sigma**2 - ratio**2 * t.sigma**2, 0.0)) * z
