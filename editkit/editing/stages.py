"""One stage of an edit, run pass by pass."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from editkit.common.device import pick_device, pick_dtype
from editkit.common.notify import Notify
from editkit.diffusion.capability import capability
from editkit.diffusion.convention import CONVENTIONS
from editkit.diffusion.model import Model, Notifies, Pass, TakesExamples
from editkit.diffusion.plan import Plan
from editkit.editing import canvas, cascade
from editkit.editing.coherence import misfit
from editkit.editing.previews import Look, look
from editkit.editing.settle import PassPlan, StagePlan
from editkit.engine import loop
from editkit.engine.binding import Around, prepare
from editkit.engine.energies import Bound
from editkit.engine.loop import Process, State
from editkit.errors import ChainError, HookError
from editkit.models.leasing import Lease
from editkit.models.memory import Tiles, afford_backward, available, settle
from editkit.pictures.boxes import Box
from editkit.pictures.filling import seamless
from editkit.pictures.picture import Picture, as_png
from editkit.pictures.resizing import pad, resize
from editkit.pictures.tensors import from_unit, to_unit
from editkit.plugin.protocol import Figures, Hooks, called
from editkit.plugin.step import Handed, Inputs

if TYPE_CHECKING:
    from PIL import Image

    from editkit.editing.drifting import Drift

Tell = Callable[[int, str, Figures], None]
"""Is told figures about a result: (stage, plugin, name -> value)."""

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
    look: Look | None = None

    def preview(self) -> Tensor | None:
        """The current estimate of the result, (1, 3, h, w) in [-1, 1], at the size of the pass: by a tiny decoder where
        there is one (`preview_decoder`).
        """
        decode = self.model.decode if self.look is None else self.look
        return None if self.state.x0 is None else decode(self.state.x0).clamp(-1, 1)

    @property
    def image(self) -> Image.Image | None:
        """The same as a Pillow image; None before there is an estimate."""
        from PIL import Image

        seen = self.preview()
        return None if seen is None else Image.fromarray(from_unit(seen.cpu(), np.dtype(np.uint8)))

    @property
    def fraction(self) -> float:
        """How much of the edit is done, 0 to 1: of the moves in this stage, and every stage counts the same."""
        passes = self.plan.passes
        within = float(sum(len(part.plan) for part in passes[: self.pass_]))
        within += len(passes[self.pass_].plan) * self.state.index / max(self.state.total, 1)
        draws = self.plan.options.draws
        whole = sum(len(part.plan) for part in passes)
        return (self.stage + (self.draw + within / max(whole, 1)) / draws) / self.stages

    def __repr__(self) -> str:
        names = " with ".join(plugin.name for plugin in self.plan.plugins)
        of = f", pass {self.pass_ + 1} of {len(self.plan.passes)}, stage {self.stage + 1} of {self.stages}"
        return f"<{names}: step {self.state.index} of {self.state.total}{of}, {self.fraction:.0%}>"

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows."""
        image = self.image
        return None if image is None else as_png(image)


def make_ready(model: Model, settled: StagePlan, notify: Notify) -> None:
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
    device = pick_device(settled.options.device)
    size, gpu = pick_dtype(settled.options.dtype, device).itemsize, device.type == "cuda"
    for part in settled.passes:
        if part.cost.deep:
            afford_backward(model, *_computed(settled, part.at, model.info.window), size, device)
    if tiles is not None:
        passes = [part.at for part in settled.passes]
        if settle(passes, size, available(device), notify, tiles.tile_side, gpu):
            tiles.tile()


def _computed(settled: StagePlan, at: Pass, window: int | None) -> tuple[int, int]:
    """(height, width) of what the network is asked for in a pass: windows that touch the mask, where there is one."""
    mask = settled.picture.mask
    if mask is None or window is None or not mask.any():
        return at.height, at.width
    down, across = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    beside = 1 + 2 * window
    return min(at.height, int(np.ptp(down)) + beside), min(at.width, int(np.ptp(across)) + beside)


def run_stage(
    settled: StagePlan,
    lease: Lease,
    number: int,
    stages: int,
    notify: Notify,
    tell: Tell,
    handed: Left,
    drift: Drift | None = None,
) -> Generator[Update, None, tuple[Picture, Left]]:
    """Run one stage on its picture, box by box; nothing moves where no pass has a move.

    Where a mean is asked for it is taken of the samples before they are finished and rounded. `handed`: what the stage
    before left; what this one leaves comes back beside the picture. `drift`: how noise has moved, for a video's frame.
    """
    picture = settled.picture
    _check_hand_over(settled, handed)
    made: dict[Box, tuple[Tensor, Process]] = {}
    left: Left = {}
    for draw in range(settled.options.draws):
        drawn, left = yield from _sample(settled, lease, number, stages, draw, notify, handed, drift)
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
    if picture.hidden is not None:  # it was no part of what was edited: neither shown to anybody nor changed
        kept = picture.hidden if picture.mask is None else picture.hidden & (picture.mask == 0)
        whole[kept] = picture.pixels[kept]
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
        if settled.options.draws > 1:
            raise ChainError(f"{names} ends at noise, of which there is no mean; leave --estimate mean out")


# long: a generator that yields every step of every pass; what goes from one pass to the next is seen in one place
def _sample(
    settled: StagePlan,
    lease: Lease,
    number: int,
    stages: int,
    draw: int,
    notify: Notify,
    handed: Left,
    drift: Drift | None,
) -> Generator[Update, None, tuple[dict[Box, tuple[Tensor, Process]], Left]]:
    """One sample of a stage: for each box its pixels (1, 3, h, w) at their own resolution, and the last process; and
    the states of boxes whose process ends at noise.
    """
    options, picture = settled.options, settled.picture
    device = pick_device(options.device)
    convention = CONVENTIONS[options.noise]
    noise = convention.noise(options.seed, number, draw)
    boxes = list(dict.fromkeys(part.at.box for part in settled.passes))
    own_noise = cache(lambda box, attempt: convention.of_pass(noise, options.seed, number, draw, box, attempt))
    made: dict[Box, tuple[Tensor, Process]] = {}
    left: Left = {}
    image: Tensor | None = None  # pixels of the last pass over this box; None until one has moved
    tried: list[tuple[float, Tensor, Process]] = []
    shown = look(settled, lease, device)
    for k, part in enumerate(settled.passes):
        before = None if image is None or part.at.strength == 1.0 else settled.passes[k - 1]
        box = part.at.box
        own = own_noise(boxes.index(box), part.attempt)
        if drift is not None:
            own = drift.over(own, part.at, lease.model.info.multiple)
        inputs = canvas.inputs(
            picture,
            part.at,
            lease.model,
            own.stream("encode"),
            device,
            settled.source,
            convention,
            settled.examples,
            None if before is None else before.at,
            settled.small,
        )
        around = Around(own, device, lease, number, notify, handed.get(box))
        process = _prepare(inputs, settled, part.plan, around)
        if before is not None and image is not None:
            process = _refine(process, part, before, image)
        x: Tensor | None = None
        for state in loop.steps(process):
            x = state.x
            yield Update(number, stages, k, settled, state, process.model, draw, shown)
            del state  # or its estimate would live through the next step
        if x is not None and part.plan.end > 0:
            left[box] = Handed(x, process.levels[part.plan.end], process.model.info.family)
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


def _prepare(inputs: Inputs, settled: StagePlan, plan: Plan, around: Around) -> Process:
    """Bind the plugins of one pass and lay its levels."""
    picture = inputs.picture
    assert picture is not None
    shape = (picture.shape[0], *inputs.model.shape(*picture.shape[-2:]))
    return prepare(inputs, settled.plugins, plan, settled.options, shape, around)


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
    plugin, hooks = cascade.refined(run, enlarged, at, at.height / old.height)
    return replace(process, bound=(Bound(plugin, hooks), *process.bound))
