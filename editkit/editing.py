"""Edits from Python: `edit` a picture, `stream` its making, `sample` a model with plugins and no picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from editkit import canvas, engine, refine
from editkit.boxes import Box
from editkit.chain import Chain, Edits, Stage
from editkit.convention import CONVENTIONS
from editkit.device import pick_device, pick_dtype
from editkit.energies import Bound
from editkit.engine import Process, State
from editkit.errors import ChainError, HookError
from editkit.fit import misfit
from editkit.images import Picture, from_unit, to_unit
from editkit.models.base import Model, NoModel, Notifies, TakesExamples
from editkit.models.capability import capability
from editkit.models.leasing import Lease, Models
from editkit.models.memory import Tiles, available, settle
from editkit.models.setup import Setup
from editkit.noise import Noise, Stream
from editkit.notify import Notify, silent
from editkit.options import Options
from editkit.params import PictureSource
from editkit.plan import Plan
from editkit.plugin import Hooks, Inputs, Opening, Plugin, Run, called
from editkit.resizing import pad, resize
from editkit.run import Handed, Lends
from editkit.samplers import Sampler, make_sampler
from editkit.settle import PassPlan, StagePlan, arrange, plan_stage
from editkit.smooth import seamless

Tell = Callable[[int, str, Mapping[str, float]], None]
"""Is told figures about a result: (stage, plugin, name -> number)."""

Left = dict[Box, Handed]
"""The noisy states that a stage leaves to the next, by the part of the picture they are of."""


@dataclass(frozen=True, eq=False)
class Update:
    """One step of an edit as `stream` yields it: stage, pass and sample (from 0), and the engine's state."""

    stage: int
    stages: int
    pass_: int
    plan: StagePlan
    state: State
    model: Model
    draw: int = 0

    def preview(self) -> Tensor | None:
        """The current estimate of the result, (1, 3, h, w) in [-1, 1], at the size of the pass."""
        return None if self.state.x0 is None else self.model.decode(self.state.x0).clamp(-1, 1)


def edit(
    picture: PictureSource,
    edits: Edits,
    *,
    model: str | Model = "auto",
    notify: Notify | None = None,
    models: Models | None = None,
    **options: Any,
) -> Picture:
    """Edit one picture: `edit("photo.png", Inpaint(mask="m.png") & Guide(...) | SDEdit(), steps=30)`.

    Args:
        picture: a path, a PIL image, an array (h, w, 3) of uint8 or uint16, or a `Picture`.
        edits: a plugin, a chain made with `&` (with) and `|` (then), or lists of plugins.
        model: a name as for `--model`, or a model of one's own (for all stages).
        notify: is called with what a user should know (one line each).
        models: where loaded models are kept, for many pictures, one after another or at once; None: for this one.
        options: those of `Options`, for all stages that do not set their own.

    Returns:
        The edited picture; `write` saves it.

    Raises:
        EditkitError: with one line that says how to mend it.
    """
    making = stream(picture, edits, model=model, notify=notify, models=models, **options)
    while True:
        try:
            next(making)
        except StopIteration as done:
            result: Picture = done.value
            return result


def stream(
    picture: PictureSource,
    edits: Edits,
    *,
    model: str | Model = "auto",
    notify: Notify | None = None,
    models: Models | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> Generator[Update, None, Picture]:
    """As `edit`, step by step: a generator of `Update`s that returns the result. Leave the loop to stop.

    `tell` is given what plugins measure of the result (`Hooks.measure`).
    """
    notify = notify or silent

    def told(stage: int, plugin: str, figures: Mapping[str, float]) -> None:
        notify(f"{plugin}: " + ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items()))
        if tell is not None:
            tell(stage, plugin, figures)

    chain = Chain.of(edits)
    if isinstance(model, str) and model != "auto":
        options["model"] = model
    own = None if isinstance(model, str) else model
    first = Stage(chain.stages[0].plugins, Options(**options).merged(chain.stages[0].options))
    chain = Chain((first, *chain.stages[1:])).inherited()
    current = picture if isinstance(picture, Picture) else Picture.read(picture)
    models = models or Models(most=1)
    left: Left = {}
    for number, stage in enumerate(chain.stages):
        settled = plan_stage(stage, current, notify, None if own is None else own.info)
        with _leased(models, settled, own) as lease:
            if settled.diffuses:
                _ready(lease.model, settled, notify)
            current, left = yield from _stage(settled, lease, number, len(chain.stages), notify, told, left)
    if left:
        notify("the last stage ends at noise, which is no picture; `then` with an edit that goes on makes one of it")
    return current


def _leased(models: Models, settled: StagePlan, own: Model | None) -> AbstractContextManager[Lease]:
    """The model of a stage: the caller's `own`, or a loaded one; none where nothing is denoised."""
    if not settled.diffuses:
        return models.borrow(NoModel(settled.info))
    if own is not None:
        return models.borrow(own)
    options = settled.options
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    return models.lease(settled.info, device, dtype, Setup.of(options), offline=options.offline)


def _ready(model: Model, settled: StagePlan, notify: Notify) -> None:
    """What a model must know before it runs: whom to tell, and whether its decoder fits into memory at once."""
    tells, learns, tiles = capability(model, Notifies), capability(model, TakesExamples), capability(model, Tiles)
    if tells is not None:
        tells.notify = notify
        for line in tells.chosen:
            notify(line)
    if learns is not None and settled.small is None:
        for part in settled.passes:
            examples = [canvas.beside(part.at, example.size) for example in settled.examples]
            learns.afford(part.at.height, part.at.width, examples)
    if tiles is not None:
        device = pick_device(settled.options.device)
        passes = [part.at for part in settled.passes]
        size, gpu = pick_dtype(settled.options.dtype, device).itemsize, device.type == "cuda"
        if settle(passes, size, available(device), notify, tiles.tile_side, gpu):
            tiles.tile()


def _stage(
    settled: StagePlan, lease: Lease, number: int, stages: int, notify: Notify, tell: Tell, handed: Left
) -> Generator[Update, None, tuple[Picture, Left]]:
    """Run one stage on its picture, box by box; nothing moves where no pass has a move.

    Where a mean is asked for it is taken of the samples before they are finished and rounded. `handed`: what the stage
    before left; what this one leaves comes back beside the picture.
    """
    picture, seeds = settled.picture, settled.options.seeds
    _check_hand_over(settled, handed)
    made: dict[Box, tuple[Tensor, Process]] = {}
    left: Left = {}
    for draw, seed in enumerate(seeds):
        drawn, left = yield from _sample(settled, lease, number, stages, draw, seed, notify, handed)
        for box, (image, process) in drawn.items():
            mean = image if draw == 0 else made[box][0] + (image - made[box][0]) / (draw + 1)
            made[box] = mean, process
    if not made:
        return picture.with_mask(None), left
    whole = picture.pixels.copy()
    for box, (image, process) in made.items():
        for bound in process.bound:
            image = _finished(bound, image)
        whole[box.rows, box.columns] = from_unit(image.cpu(), whole.dtype)
        for bound in process.bound:
            if type(bound.hooks).measure is not Hooks.measure:
                rounded = to_unit(whole[box.rows, box.columns]).to(image.device)
                tell(number, bound.plugin.name, called(bound.plugin, "measure", bound.hooks.measure, rounded))
    result = picture.with_pixels(whole)
    return (result if picture.mask is None else result.opaque_where(picture.mask).with_mask(None)), left


def _check_hand_over(settled: StagePlan, handed: Left) -> None:
    """A state is handed on whole: one pass over each box, one sample, the same boxes before and after.

    Raises:
        ChainError: it cannot be; says what helps.
    """
    boxes = [part.at.box for part in settled.passes]
    names = " with ".join(plugin.name for plugin in settled.plugins)
    if handed and (len(set(boxes)) != len(boxes) or set(boxes) != set(handed)):
        raise ChainError(f"the stage before ends at noise, and {names} works on other parts of it; use --canvas full")
    if any(part.plan.end > 0 for part in settled.passes):
        if len(set(boxes)) != len(boxes):
            raise ChainError(
                f"{names} ends at noise, and {settled.info.name} works in several passes, which hand on pictures only"
            )
        if len(settled.options.seeds) > 1:
            raise ChainError(f"{names} ends at noise, of which there is no mean; leave --estimate mean out")


def _sample(
    settled: StagePlan, lease: Lease, number: int, stages: int, draw: int, seed: int, notify: Notify, handed: Left
) -> Generator[Update, None, tuple[dict[Box, tuple[Tensor, Process]], Left]]:
    """One sample of a stage: for each box its pixels (1, 3, h, w) at their own resolution, and the last process; and
    the states of boxes whose process ends at noise.
    """
    options, picture = settled.options.model_copy(update={"seed": seed}), settled.picture
    settled = replace(settled, options=options)
    device = pick_device(options.device)
    convention = CONVENTIONS[options.noise]
    noise = convention.noise(seed, number)
    made: dict[Box, tuple[Tensor, Process]] = {}
    left: Left = {}
    image: Tensor | None = None  # pixels of the last pass over this box; None until one has moved
    tried: list[tuple[float, Tensor, Process]] = []
    for k, part in enumerate(settled.passes):
        before = None if image is None or part.at.strength == 1.0 else settled.passes[k - 1]
        inputs = canvas.inputs(
            picture, part.at, lease.model, noise.stream("encode"), device, settled.source, convention,
            settled.examples, None if before is None else before.at, settled.small,
        )
        own = convention.again(noise, seed, number, part.attempt) if part.attempt else noise
        process = _prepare(inputs, settled, part.plan, own, number, notify, lease, handed.get(part.at.box))
        if before is not None and image is not None:
            process = _refine(process, part, before, image)
        x: Tensor | None = None
        for state in engine.steps(process):
            x = state.x
            yield Update(number, stages, k, settled, state, process.model, draw)
            del state  # or its estimate would live through the next step
        if x is not None and part.plan.end > 0:
            left[part.at.box] = Handed(x, process.levels[part.plan.end], process.model.info.family)
        elif x is not None:
            image = process.model.decode(x)
        after = settled.passes[k + 1] if k + 1 < len(settled.passes) else None
        again = after is not None and after.attempt > 0
        if image is not None and inputs.mask is not None and (again or part.attempt):
            tried.append((misfit(image, inputs.mask), image, process))
            if again:
                continue
            _, image, process = min(tried, key=lambda one: one[0])
            tried = []
        box = part.at.box
        if image is not None and (after is None or after.at.box != box):
            made[box] = canvas.native(image, part.at), process
            image = None
        elif not settled.diffuses and inputs.original is not None:
            made[box] = inputs.original, process
    return made, left


def _finished(bound: Bound, image: Tensor) -> Tensor:
    """`image` (1, 3, h, w) after one plugin's `finish`, of the same size and finite."""
    made = called(bound.plugin, "finish", bound.hooks.finish, image)
    if made.shape != image.shape:
        raise HookError(
            f"plugin {bound.plugin.name}: finish returned shape {tuple(made.shape)} instead of {tuple(image.shape)}"
        )
    if made is not image and not bool(torch.isfinite(made.sum())):
        raise HookError(f"plugin {bound.plugin.name}: finish made NaN or infinity")
    return made


def _prepare(
    inputs: Inputs, settled: StagePlan, plan: Plan, noise: Noise, number: int, notify: Notify, lease: Lease,
    handed: Handed | None,
) -> Process:  # fmt: skip
    """Bind the plugins of one pass and lay its levels."""
    picture = inputs.picture
    assert picture is not None
    shape = (picture.shape[0], *inputs.model.shape(*picture.shape[-2:]))
    return prepare(
        inputs, settled.plugins, plan, settled.sampler, settled.options, noise, shape, picture.device, number, notify,
        lease=lease, handed=handed,
    )  # fmt: skip


def _refine(process: Process, part: PassPlan, before: PassPlan, coarse: Tensor) -> Process:
    """`process`, started from the coarser pass's result and held to its low frequencies.

    A network that works by windows made it of other windows: its tones are first bent to meet the known pixels.
    """
    run = replace(process.run, stream=process.run.noise.stream("canvas"))
    at, old, known, mask = part.at, before.at, process.run.inputs.picture, process.run.inputs.mask
    enlarged = resize(coarse[..., : old.height, : old.width], at.height, at.width)
    enlarged = pad(enlarged, process.model.info.multiple)
    if at.window is not None and known is not None and mask is not None:
        enlarged = seamless(enlarged, known, mask).clamp(-1.0, 1.0)
    enlarged = process.model.encode(enlarged, run.stream)
    plugin, hooks = refine.refined(run, enlarged, at, at.height / old.height)
    return replace(process, bound=(Bound(plugin, hooks), *process.bound))


def prepare(
    inputs: Inputs,
    plugins: Sequence[Plugin],
    plan: Plan,
    sampler_spec: str,
    options: Options,
    noise: Noise,
    shape: tuple[int, ...],
    device: torch.device,
    stage: int = 0,
    notify: Notify = silent,
    *,
    lease: Lends,
    handed: Handed | None = None,
) -> Process:
    """A process ready to run: levels laid, every plugin bound with a noise stream of its own.

    Raises:
        ChainError: a plan that goes upward with a sampler that cannot, two plugins with a sampler of their own, a state
            from the stage before that is of another space.
    """
    model, sampler, convention = inputs.model, make_sampler(sampler_spec), CONVENTIONS[options.noise]
    spacing = convention.spacing(options.spacing, model.schedule, sampler.grid)
    options = options.model_copy(update={"spacing": spacing})
    levels = model.schedule.levels(plan.steps, spacing, sampler.grid)
    for plugin in plugins:
        levels = called(plugin, "levels", plugin.levels, levels, inputs)
    if handed is not None and tuple(handed.x.shape) != shape:
        raise ChainError(
            f"the stage before leaves a state of {tuple(handed.x.shape)} ({handed.family}), and {model.info.name} "
            f"({model.info.family}) works on {shape}; both need one space: the same model family and size"
        )
    run = Run(
        model=model, levels=levels, plan=plan, inputs=inputs, options=options, noise=noise,
        stream=noise.stream("start"), device=device, shape=shape, stage=stage, notify=notify,
        opening=Opening(noise.stream("start"), shape, device), convention=convention, lease=lease, handed=handed,
    )  # fmt: skip
    seen: Counter[str] = Counter()
    bound = []
    for plugin in plugins:
        own = replace(run, stream=noise.stream(f"{plugin.name}#{seen[plugin.name]}"))
        seen[plugin.name] += 1
        bound.append(Bound(plugin, called(plugin, "bind", plugin.bind, own)))
    sampler, stream = _walked_by(bound, sampler, noise)
    if any(move.up for move in plan.flow) and not sampler.reversible:
        raise ChainError(
            f"this goes from a picture to its noise, which sampler {sampler.name} cannot; use --sampler ddim, euler or "
            f"heun"
        )
    return Process(
        model=model, sampler=sampler, plan=plan, levels=levels, bound=tuple(bound), run=run, shape=shape,
        convention=convention, sampler_stream=stream, travel_stream=noise.stream("travel"),
    )  # fmt: skip


def _walked_by(bound: Sequence[Bound], sampler: Sampler, noise: Noise) -> tuple[Sampler, Stream]:
    """The sampler of a process and the stream it draws from: a plugin's own one, or the stage's.

    Raises:
        ChainError: two plugins have one.
    """
    own = [(b, made) for b in bound if (made := called(b.plugin, "sampler", b.hooks.sampler)) is not None]
    if len(own) > 1:
        names = " and ".join(b.plugin.name for b, _ in own)
        raise ChainError(f"{names} both walk by a sampler of their own; put `then` between them, or leave one out")
    return (own[0][1], own[0][0].hooks.run.stream) if own else (sampler, noise.stream("sampler"))


def sample(
    model: Model,
    plugins: Plugin | Sequence[Plugin] = (),
    *,
    shape: Sequence[int],
    known: Tensor | None = None,
    mask: Tensor | None = None,
    watch: Callable[[State], None] | None = None,
    notify: Notify = silent,
    noise: Noise | Literal["streams", "diffusers"] = "streams",
    models: Models | None = None,
    **options: Any,
) -> Tensor:
    """One reverse process in the model's own space, without pictures: for research and tests.

    Args:
        model: anything that keeps the `Model` protocol, as `editkit.models.Gaussian`.
        plugins: one or several declarations (with).
        shape: (batch, channels, ...): 1-D, 2-D, 3-D, whatever the model takes.
        known, mask: for plugins that need them: a clean sample, and where to regenerate it (1), broadcastable to
            `shape`; pixels, for a model of latents.
        watch: is called with the engine's `State` after every move.
        models: where networks of plugins are kept.
        noise: where random numbers come from: as the option of that name, one draw for the whole batch; or a source.
        options: `sampler` (default ddpm), `steps` (100), `seed` (0), `spacing`, `device`.

    Returns:
        x_0 of `shape`, float32.
    """
    mode = noise if isinstance(noise, str) else "streams"
    chosen = Options(**{"sampler": "ddpm", "steps": 100, "noise": mode, **options})
    wanted = [plugins] if isinstance(plugins, Plugin) else list(plugins)
    ordered = arrange(Stage(tuple(wanted), chosen), model.info, has_picture=False)
    device = pick_device(chosen.device)
    plan = Plan.uniform(chosen.steps or 100, model.info.rounds_up)
    for plugin in ordered:
        plan = plugin.plan(plan)
    if known is not None:
        known = known.to(device)
        known = known.expand(shape[0], *known.shape[1:]) if "prompt" in model.info.takes else known.expand(*shape)
    if mask is not None:
        mask = mask.to(device)
    spec = chosen.sampler or "ddpm"
    convention = CONVENTIONS[chosen.noise]
    source = convention.noise(chosen.seed) if isinstance(noise, str) else noise
    with (models or Models(most=1)).borrow(model) as lease:
        fitted = lease.model.attach(known, mask)
        inputs = Inputs(fitted, known, mask, known, mask, source.stream("encode"), convention=convention)
        process = prepare(inputs, ordered, plan, spec, chosen, source, tuple(shape), device, 0, notify, lease=lease)
        return engine.run(process, watch)
