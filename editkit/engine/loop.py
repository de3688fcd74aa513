"""The loop over a plan, the same for every model, sampler and set of plugins.

A flow move is made by the sampler, downward or upward. Every prediction that it asks for passes through the plugins
(`editkit.engine.predictor`). A noise move is made by the forward kernel. After each flow move plugins may change the
state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from editkit.diffusion.convention import Convention
from editkit.diffusion.distilling import PictureState
from editkit.diffusion.model import Model
from editkit.diffusion.noise import Stream
from editkit.diffusion.plan import Move, Plan
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.samplers import Memory, Sampler
from editkit.diffusion.schedule import Level, Levels
from editkit.engine.acting import ActivePlugins, FlowMove, check_finite, check_shape
from editkit.engine.energies import Bound as Bound
from editkit.engine.predictor import Figures, Predictor
from editkit.plugin.step import Run


@dataclass(frozen=True, eq=False)
class Process:
    """A process that is ready to run. `bound` is in the order in which the plugins act."""

    model: Model
    sampler: Sampler
    plan: Plan
    levels: Levels
    bound: tuple[Bound, ...]
    run: Run
    shape: tuple[int, ...]
    convention: Convention
    sampler_stream: Stream
    travel_stream: Stream


@dataclass(frozen=True, eq=False)
class State:
    """The state `x` at `level` after a move, and the last estimate of x0, as yielded by `steps`.

    `index` counts the flow moves done, of `total`, and `calls` the evaluations of the network so far. `energies` holds
    (plugin, mean value) for this move's last guided evaluation, and `gradients` the norms of their gradients, by
    plugins that shared a backward pass; both are empty if the move was not guided. `seconds` is the time spent in this
    move, by (plugin, hook); ("model", "network") and ("energies", "backward") are the engine's own.
    """

    move: Move
    level: Level
    x: Tensor
    x0: Tensor | None
    index: int
    total: int
    calls: int
    energies: Figures = ()
    gradients: Figures = ()
    seconds: tuple[tuple[tuple[str, str], float], ...] = ()


def steps(process: Process) -> Iterator[State]:
    """Run `process` and yield a `State` after every move; leave the loop to stop early."""
    yield from _Walk(process).states()


def run(process: Process, watch: Callable[[State], None] | None = None) -> Tensor:
    """Run `process` to its end and return x at the plan's last level, (batch, channels, ...), float32."""
    walk = _Walk(process)
    for state in walk.states():
        if watch is not None:
            watch(state)
    return walk.x


class _Walk:
    """The current state of one process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.acting = ActivePlugins(process.bound)
        self.predictor = Predictor(process.model, process.run, self.acting)
        self.total = len(process.plan.flow)
        self.index = 0
        self.calls = 0
        self.memory: Memory = None
        self.energies: Figures = ()
        self.gradients: Figures = ()
        self.x0: Tensor | None = None
        first = process.plan.moves[0] if process.plan.moves else Move(0, 0)
        self.where = FlowMove(first, 0, self.total)
        self.x = self._begin()
        with torch.no_grad():
            process.convention.before_first_step(process.run.inputs)

    def states(self) -> Iterator[State]:
        p = self.process
        for move in p.plan:
            t, s = p.levels[move.t], p.levels[move.s]
            self.where, self.energies, self.gradients = FlowMove(move, self.index, self.total), (), ()
            if move.flows:
                self._flow(t, s)
                self.index += 1
            else:
                normal = partial(self._normal(p.travel_stream), t, s)
                self.x = p.convention.climb(self.x, t, s, p.model.schedule, p.plan.steps, normal)
                self.memory = None
            yield self._state(move, s)

    def _flow(self, t: Level, s: Level) -> None:
        """Make the sampler's move from t to s, then call the plugins' `after` hooks."""
        p = self.process
        with torch.no_grad():
            x_s, self.memory = p.sampler.step(self.x, t, s, self._predict, self._normal(p.sampler_stream), self.memory)
            self.x = check_finite(x_s, None, "sampler", self.where)
            if self.acting.users["after"]:
                stands = p.levels[0] if isinstance(p.sampler, PictureState) else s
                self.x = self.acting.fold("after", self.where, self.predictor.step(self.where, stands, x_s), x_s)
        if self.gradients:
            guides = [name for name, _ in self.gradients]
            self.predictor.range.check(x_s, s, guides, str(self.where), p.run.notify)

    def _predict(self, x_t: Tensor, level: Level) -> Prediction:
        """Return the guided prediction at (x_t, level), for the sampler."""
        self.x0 = None  # as large as the state: free the last estimate before the next is made
        self.calls += 1
        guided = self.predictor.at(self.where, x_t, level)
        self.x0 = guided.prediction.x0
        if guided.energies:
            self.energies, self.gradients = guided.energies, guided.gradients
        return guided.prediction

    def _state(self, move: Move, s: Level) -> State:
        seconds = tuple(self.acting.seconds.items())
        self.acting.seconds.clear()
        return State(
            move, s, self.x, self.x0, self.index, self.total, self.calls, self.energies, self.gradients, seconds
        )

    def _begin(self) -> Tensor:
        """Return the initial state.

        It is that of the plugin with `begin`; else the state that the stage before left; else the picture itself if the
        plan begins at the clean level; else noise of the schedule's scale. A sampler with clean states has its own
        start.
        """
        p = self.process
        level = p.levels[p.plan.start]
        if isinstance(p.sampler, PictureState):
            return self._picture(p.sampler)
        with torch.no_grad():
            p.convention.before_start(p.run.inputs)
            for b in self.acting.users["begin"]:
                x = self.acting.call(b, "begin", self.where, b.hooks.begin)
                if x is not None:
                    return check_shape(x.float(), p.shape, b, "begin", self.where)
            if p.run.handed is not None:
                return p.run.handed.at(level)
            known = p.run.inputs.known if level.sigma == 0.0 else None
            if known is not None:
                return known.expand(p.shape).float()
            scale = p.model.schedule.prior_scale(level, p.run.options.spacing, p.sampler.grid)
            noise = p.run.opening.noise
            return noise if scale == 1.0 else scale * noise

    def _picture(self, sampler: PictureState) -> Tensor:
        """Return the clean picture from which a sampler with clean states starts."""
        p = self.process
        known = p.run.inputs.start
        known = None if known is None else known.expand(p.shape).float()
        return sampler.start(known, lambda: p.model.data_std * p.run.opening.noise)

    def _normal(self, stream: Stream) -> Callable[[Level, Level], Tensor]:
        """Return a function that draws fresh noise of the state's shape for an interval."""
        return lambda t, s: stream.normal(self.x.shape).to(self.x.device)
