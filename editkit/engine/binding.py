"""Preparation of a process: compute its noise levels and bind its plugins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from editkit.common.notify import Notify, silent
from editkit.diffusion.adaptive import Adaptive
from editkit.diffusion.capability import capability
from editkit.diffusion.convention import CONVENTIONS
from editkit.diffusion.distilling import PictureState
from editkit.diffusion.flows import flow_for_state
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.noise import Noise, Stream
from editkit.diffusion.plan import Plan
from editkit.diffusion.samplers import SAMPLERS, Sampler, make_sampler
from editkit.diffusion.schedule import Discrete, Level, Schedule
from editkit.diffusion.windows import Windowed
from editkit.engine.energies import Bound
from editkit.engine.loop import Process
from editkit.errors import ChainError, ModelError, UsageError
from editkit.plugin.options import Options
from editkit.plugin.protocol import Plugin, called
from editkit.plugin.step import Handed, Inputs, Lends, Opening, Run


@dataclass(frozen=True, eq=False)
class Environment:
    """The environment of a process, from the caller.

    It has the noise, the device, the lease of models, the number of the stage, the function that notifies the user, and
    the state that the stage before left (None: it left a picture, or there was no such stage).
    """

    noise: Noise
    device: torch.device
    lease: Lends
    stage: int = 0
    notify: Notify = silent
    handed: Handed | None = None


def prepare(
    inputs: Inputs, plugins: Sequence[Plugin], plan: Plan, options: Options, shape: tuple[int, ...], around: Environment
) -> Process:
    """Prepare a process: compute its levels, and bind every plugin with a noise stream of its own.

    Args:
        inputs: what it edits, with the model.
        plugins: in the order in which they act.
        plan: the moves, in indices of levels.
        options: the run's options; `sampler` must be set.
        shape: shape of the state, (batch, channels, ...) in the model's space.
        around: the environment, from the caller.

    Raises:
        ChainError: a plan that goes upward with a sampler that cannot, two plugins with a sampler of their own, a state
            from the stage before that is of another space.
    """
    assert options.sampler is not None
    model, convention, noise = inputs.model, CONVENTIONS[options.noise], around.noise
    sampler = convention.walked(make_sampler(options.sampler))
    if isinstance(sampler, Adaptive):
        sampler = sampler.on(model.schedule)
    _check_distilled(sampler, model, around.notify)
    spacing = convention.spacing(options.spacing, model.schedule, sampler.grid)
    options = options.model_copy(update={"spacing": spacing})
    levels = _schedule_for(model, shape, options).levels(plan.steps, spacing, sampler.grid)
    for plugin in plugins:
        levels = called(plugin, "levels", plugin.levels, levels, inputs)
    _check_loudest(model.info, levels[plan.start])
    _check_space(around.handed, model.info, shape)
    run = Run(
        model=model, levels=levels, plan=plan, inputs=inputs, options=options, noise=noise,
        stream=noise.stream("start"), device=around.device, shape=shape, stage=around.stage, notify=around.notify,
        opening=Opening(noise.stream("start"), shape, around.device), convention=convention, lease=around.lease,
        handed=around.handed,
    )  # fmt: skip
    bound = _bind_plugins(plugins, run)
    sampler, stream = _wrap_sampler(bound, sampler, noise)
    _check_upward_moves(plan, sampler)
    _check_clean(plan, sampler, plugins)
    return Process(
        model=model, sampler=sampler, plan=plan, levels=levels, bound=bound, run=run, shape=shape,
        convention=convention, sampler_stream=stream, travel_stream=noise.stream("travel"),
    )  # fmt: skip


def _schedule_for(model: Model, shape: tuple[int, ...], options: Options) -> Schedule:
    """Return the model's schedule for a state of `shape`, of which the network may see only windows."""
    windowed = capability(model, Windowed)
    height, width = shape[-2:] if len(shape) > 2 else (1, 1)
    if windowed is not None:
        height, width = min(height, windowed.window), min(width, windowed.window)
    return flow_for_state(model.schedule, height, width, options.shift)


def _check_upward_moves(plan: Plan, sampler: Sampler) -> None:
    """Check that the sampler is reversible if the plan goes upward."""
    if any(move.up for move in plan.flow) and not sampler.reversible:
        names = " or ".join(name for name in SAMPLERS.names() if make_sampler(name).reversible)
        raise ChainError(
            f"this maps a picture to its noise, which sampler {sampler.name} cannot do; use --sampler {names}"
        )


def _check_loudest(info: ModelInfo, start: Level) -> None:
    """Check that the process starts at a level that the model knows.

    Raises:
        ModelError: there is more noise than that.
    """
    if info.loudest is None or start.sigma <= 1.001 * info.loudest * start.alpha:
        return
    amount = f"{127.5 * start.sigma / start.alpha:.0f}" if start.sigma < 100.0 * start.alpha else "nothing but noise"
    raise ModelError(
        f"model {info.name} removes noise of up to {127.5 * info.loudest:.0f} levels of 255, and this starts from "
        f"{amount}: it generates nothing; use another --model, such as pocket"
    )


def _check_clean(plan: Plan, sampler: Sampler, plugins: Sequence[Plugin]) -> None:
    """Check that a sampler with clean states has no noise moves in its plan."""
    if not isinstance(sampler, PictureState) or all(move.flows and not move.up for move in plan):
        return
    plain = Plan.uniform(plan.steps, plan.counting)
    adding = [p.name for p in plugins if any(m.up or not m.flows for m in called(p, "plan", p.plan, plain))]
    raise ChainError(
        f"sampler {sampler.name} moves a clean picture, and {' and '.join(adding) or 'this plan'} needs noisy states "
        f"to go up from; use another --sampler"
    )


def _check_space(handed: Handed | None, info: ModelInfo, shape: tuple[int, ...]) -> None:
    """Check that a state from the stage before is in this model's space."""
    if handed is not None and tuple(handed.x.shape) != shape:
        raise ChainError(
            f"the stage before leaves a state of {tuple(handed.x.shape)} ({handed.family}), but {info.name} "
            f"({info.family}) works on {shape}; both stages need the same model family and size"
        )


def _bind_plugins(plugins: Sequence[Plugin], run: Run) -> tuple[Bound, ...]:
    """Bind every plugin, with a noise stream named after the plugin and its number among plugins of that name."""
    seen: Counter[str] = Counter()
    bound = []
    for plugin in plugins:
        own = replace(run, stream=run.noise.stream(f"{plugin.name}#{seen[plugin.name]}"))
        seen[plugin.name] += 1
        bound.append(Bound(plugin, called(plugin, "bind", plugin.bind, own)))
    return tuple(bound)


def _check_distilled(sampler: Sampler, model: Model, notify: Notify) -> None:
    """Check a sampler for distilled models: it needs a discrete schedule, and gives wrong results on other models.

    Raises:
        UsageError: the model's schedule is not discrete.
    """
    if not sampler.grid.distilled:
        return
    if not isinstance(model.schedule, Discrete):
        raise UsageError(
            f"sampler {sampler.name} needs a model distilled at discrete times, and {model.info.name} has "
            f"{type(model.schedule).__name__}; leave --sampler out"
        )
    if model.schedule.distilled is None:
        notify(
            f"{model.info.name} does not declare that it was distilled for sampler {sampler.name} (a LoRA may do so); "
            f"with other models its results are wrong"
        )


def _wrap_sampler(bound: Sequence[Bound], sampler: Sampler, noise: Noise) -> tuple[Sampler, Stream]:
    """Return the sampler of a process and its noise stream: a plugin's own, or the stage's as wrapped by plugins.

    Raises:
        ChainError: two plugins have a sampler of their own.
    """
    own = [(b, made) for b in bound if (made := called(b.plugin, "sampler", b.hooks.sampler)) is not None]
    if len(own) > 1:
        names = " and ".join(b.plugin.name for b, _ in own)
        raise ChainError(f"{names} both have a sampler of their own; put `then` between them, or leave one out")
    if own:
        return own[0][1], own[0][0].hooks.run.stream
    for b in bound:
        sampler = called(b.plugin, "walk", b.hooks.walk, sampler)
    return sampler, noise.stream("sampler")
