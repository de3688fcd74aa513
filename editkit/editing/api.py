"""Edits from Python: `edit` a picture, `plan` or `stream` its making, `sample` a model with plugins and no picture."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

from torch import Tensor

from editkit.common.device import pick_device, pick_dtype
from editkit.common.notify import Notify, silent
from editkit.diffusion.convention import CONVENTIONS
from editkit.diffusion.model import Model, NoModel
from editkit.diffusion.noise import Noise
from editkit.diffusion.plan import Plan
from editkit.diffusion.space import space_of
from editkit.editing.settle import StagePlan, arrange, plan_stage, plan_stages
from editkit.editing.stages import Left, Tell, Update, make_ready, run_stage
from editkit.engine import loop
from editkit.engine.binding import prepare
from editkit.engine.loop import State
from editkit.models.leasing import Lease, Models
from editkit.models.setup import Setup
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain, Edits, Stage
from editkit.plugin.options import Options
from editkit.plugin.params import PictureSource
from editkit.plugin.protocol import Figures, Plugin
from editkit.plugin.step import Inputs


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

    def told(stage: int, plugin: str, figures: Figures) -> None:
        said = {name: value if isinstance(value, str) else f"{value:.3g}" for name, value in figures.items()}
        notify(f"{plugin}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in said.items()))
        if tell is not None:
            tell(stage, plugin, figures)

    own = None if isinstance(model, str) else model
    chain = _asked(edits, model, options)
    current = picture if isinstance(picture, Picture) else Picture.read(picture)
    models = models or Models(most=1)
    left: Left = {}
    for number, stage in enumerate(chain.stages):
        settled = plan_stage(stage, current, notify, None if own is None else own.info)
        with _leased(models, settled, own) as lease:
            if settled.diffuses:
                make_ready(lease.model, settled, notify)
            current, left = yield from run_stage(settled, lease, number, len(chain.stages), notify, told, left)
    if left:
        notify("the last stage ends at noise, which is no picture; `then` with an edit that goes on makes one of it")
    return current


def plan(
    picture: PictureSource,
    edits: Edits,
    *,
    model: str | Model = "auto",
    notify: Notify | None = None,
    **options: Any,
) -> tuple[StagePlan, ...]:
    """What `edit` would do with the same arguments, and what it would cost, stage by stage. Loads no weights.

    Each `StagePlan` has the model, the sampler, the plugins in the order they act, the passes with their boxes, sizes
    and levels, and the number of network calls. A later stage is settled on the picture as it came, since the result of
    the stage before is not known: its size and its masks are right, its colours are not.

    Args:
        picture, edits, model, notify, options: as `edit` takes them.

    Raises:
        EditkitError: `edit` would be refused; with one line that says how to mend it.
    """
    own = None if isinstance(model, str) else model.info
    read = picture if isinstance(picture, Picture) else Picture.read(picture)
    return plan_stages(_asked(edits, model, options), read, notify or silent, own)


def _asked(edits: Edits, model: str | Model, options: Mapping[str, Any]) -> Chain:
    """The chain of `edits`, with what is asked for all its stages, which their own options win over."""
    chain = Chain.of(edits)
    named = {"model": model} if isinstance(model, str) and model != "auto" else {}
    first = Stage(chain.stages[0].plugins, Options(**{**options, **named}).merged(chain.stages[0].options))
    return Chain((first, *chain.stages[1:])).inherited()


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
        known = known.expand(*shape) if space_of(model).is_pixels else known.expand(shape[0], *known.shape[1:])
    if mask is not None:
        mask = mask.to(device)
    spec = chosen.sampler or "ddpm"
    convention = CONVENTIONS[chosen.noise]
    source = convention.noise(chosen.seed) if isinstance(noise, str) else noise
    with (models or Models(most=1)).borrow(model) as lease:
        fitted = lease.model.attach(known, mask)
        inputs = Inputs(fitted, known, mask, known, mask, source.stream("encode"), convention=convention)
        process = prepare(inputs, ordered, plan, spec, chosen, source, tuple(shape), device, 0, notify, lease=lease)
        return loop.run(process, watch)
