"""Runs one stage of an edit, pass by pass."""

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
from editkit.editing.cost import PassPlan
from editkit.editing.previews import PreviewDecoder, preview_decoder
from editkit.editing.settle import StagePlan
from editkit.engine import loop
from editkit.engine.binding import Environment, prepare
from editkit.engine.energies import Bound
from editkit.engine.loop import Process, State
from editkit.errors import ChainError, HookError
from editkit.models.leasing import Lease
from editkit.models.memory import Tiles, afford_backward, available, settle
from editkit.pictures.boxes import Box
from editkit.pictures.filling import blend_seamlessly
from editkit.pictures.picture import Picture, as_png
from editkit.pictures.resizing import pad, resize
from editkit.pictures.tensors import from_unit, to_unit
from editkit.plugin.protocol import Figures, Hooks, called
from editkit.plugin.step import Handed, Inputs

if TYPE_CHECKING:
    from PIL import Image

    from editkit.editing.drifting import Drift

Tell = Callable[[int, str, Figures], None]
"""Callback for figures about a result: (stage, plugin, name -> value)."""

Left = dict[Box, Handed]
"""Box of the picture -> the noisy state that a stage passes to the next one."""


@dataclass(frozen=True, eq=False)
class Update:
    """One step of an edit, as yielded by `stream`: stage, pass and sample (from 0), and the engine's state."""

    stage: int
    stages: int
    pass_: int
    plan: StagePlan
    state: State
    model: Model
    draw: int = 0
    look: PreviewDecoder | None = None

    def preview(self) -> Tensor | None:
        """Decode the current estimate of the result at the size of the pass: (1, 3, h, w) in [-1, 1].

        Uses a tiny decoder if there is one (`preview_decoder`). None before there is an estimate.
        """
        decode = self.model.decode if self.look is None else self.look
        return None if self.state.x0 is None else decode(self.state.x0).clamp(-1, 1)

    @property
    def image(self) -> Image.Image | None:
        """Return the same as a Pillow image; None before there is an estimate."""
        from PIL import Image

        seen = self.preview()
        return None if seen is None else Image.fromarray(from_unit(seen.cpu(), np.dtype(np.uint8)))

    @property
    def fraction(self) -> float:
        """Fraction of the edit that is done, 0 to 1, by the moves in this stage; all stages count equally."""
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
        """Return a PNG for notebooks."""
        image = self.image
        return None if image is None else as_png(image)


def make_ready(model: Model, settled: StagePlan, notify: Notify) -> None:
    """Prepare a model for a run: set its notices, and tile its decoder if memory is too small for one piece."""
    tells, learns, tiles = capability(model, Notifies), capability(model, TakesExamples), capability(model, Tiles)
    if tells is not None:
        tells.notify = notify
        for line in tells.chosen:
            notify(line)
    if learns is not None and settled.small is None:
        for part in settled.passes:
            examples = [canvas.size_at_scale(part.at, example.size) for example in settled.examples]
            learns.afford(part.at.height, part.at.width, examples)
    device = pick_device(settled.options.device)
    size, gpu = pick_dtype(settled.options.dtype, device).itemsize, device.type == "cuda"
    for part in settled.passes:
        if part.cost.deep:
            afford_backward(model, *_computed_size(settled, part.at, model.info.window), size, device)
    if tiles is not None:
        passes = [part.at for part in settled.passes]
        if settle(passes, size, available(device), notify, tiles.tile_side, gpu):
            tiles.tile()


def _computed_size(settled: StagePlan, at: Pass, window: int | None) -> tuple[int, int]:
    """Return (height, width) of what the network computes in a pass: with a mask only the windows that touch it."""
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
    """Run one stage on its picture, box by box: yield every step, and return the picture and the states that it leaves.

    A mean is taken over samples before `finish` and rounding.

    Args:
        settled: the plan of the stage.
        lease: the stage's model.
        number: number of the stage, of `stages`.
        notify: called with messages for the user.
        tell: called with figures about the result.
        handed: states that the stage before left.
        drift: motion of the noise, for a video's frame.
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
            image = _call_finish(bound, image)
        whole[box.rows, box.columns] = from_unit(image.cpu(), whole.dtype)
        for bound in process.bound:
            if type(bound.hooks).measure is not Hooks.measure:
                rounded = to_unit(whole[box.rows, box.columns]).to(image.device)
                tell(number, bound.plugin.name, called(bound.plugin, "measure", bound.hooks.measure, rounded))
    if picture.hidden is not None:  # it was not part of the edit: neither visible nor changed
        kept = picture.hidden if picture.mask is None else picture.hidden & (picture.mask == 0)
        whole[kept] = picture.pixels[kept]
    result = picture.with_pixels(whole)
    return (result if picture.mask is None else result.opaque_where(picture.mask).with_mask(None)), left


def _check_hand_over(settled: StagePlan, handed: Left) -> None:
    """Check that states can be passed on: one pass over each box, one sample, and the same boxes before and after.

    Raises:
        ChainError: they cannot be passed on. The message says what helps.
    """
    boxes = [part.at.box for part in settled.passes]
    names = " with ".join(plugin.name for plugin in settled.plugins)
    if handed and (len(set(boxes)) != len(boxes) or set(boxes) != set(handed)):
        raise ChainError(f"the stage before ends at noise, but {names} works on other boxes; use --canvas full")
    if any(part.plan.end > 0 for part in settled.passes):
        if len(set(boxes)) != len(boxes):
            raise ChainError(
                f"{names} ends at noise, but {settled.info.name} works in several passes, which pass on pictures only"
            )
        if settled.options.draws > 1:
            raise ChainError(f"{names} ends at noise, which cannot be averaged; leave --estimate mean out")


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
    """Draw one sample of a stage.

    Returns box -> (pixels (1, 3, h, w) at their own resolution, last process), and the states of boxes whose process
    ends at noise.
    """
    options, picture = settled.options, settled.picture
    device = pick_device(options.device)
    convention = CONVENTIONS[options.noise]
    noise = convention.noise(options.seed, number, draw)
    boxes = list(dict.fromkeys(part.at.box for part in settled.passes))
    own_noise = cache(lambda box, attempt: convention.of_pass(noise, options.seed, number, draw, box, attempt))
    made: dict[Box, tuple[Tensor, Process]] = {}
    left: Left = {}
    image: Tensor | None = None  # pixels of the last pass over this box; None before the first move
    tried: list[tuple[float, Tensor, Process]] = []
    shown = preview_decoder(settled, lease, device)
    for k, part in enumerate(settled.passes):
        before = None if image is None or part.at.strength == 1.0 else settled.passes[k - 1]
        box = part.at.box
        own = own_noise(boxes.index(box), part.attempt)
        if drift is not None:
            own = drift.move_noise(own, part.at, lease.model.info.multiple)
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
        around = Environment(own, device, lease, number, notify, handed.get(box))
        process = _prepare(inputs, settled, part.plan, around)
        if before is not None and image is not None:
            process = _refine(process, part, before, image)
        x: Tensor | None = None
        for state in loop.steps(process):
            x = state.x
            yield Update(number, stages, k, settled, state, process.model, draw, shown)
            del state  # else its estimate would stay in memory during the next step
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
            made[box] = canvas.to_native_resolution(image, part.at), process
            image = None
        elif inputs.original is not None and not (settled.diffuses and (part.plan.flow or box in made)):
            made[box] = inputs.original, process
    return made, left


def _call_finish(bound: Bound, image: Tensor) -> Tensor:
    """Call one plugin's `finish` on `image` (1, 3, h, w), and check the result."""
    made = called(bound.plugin, "finish", bound.hooks.finish, image)
    if made.shape != image.shape:
        raise HookError(
            f"plugin {bound.plugin.name}: finish returned shape {tuple(made.shape)} instead of {tuple(image.shape)}"
        )
    if made is not image and not bool(torch.isfinite(made.sum())):
        raise HookError(f"plugin {bound.plugin.name}: finish made NaN or infinity")
    return made


def _prepare(inputs: Inputs, settled: StagePlan, plan: Plan, around: Environment) -> Process:
    """Bind the plugins of one pass and compute its levels."""
    picture = inputs.picture
    assert picture is not None
    shape = (picture.shape[0], *inputs.model.shape(*picture.shape[-2:]))
    return prepare(inputs, settled.plugins, plan, settled.options, shape, around)


def _refine(process: Process, part: PassPlan, before: PassPlan, coarse: Tensor) -> Process:
    """Start `process` from the coarser pass's result, and hold it to its low frequencies.

    If the network works in windows, the coarser result is first adjusted in tone to match the known pixels.
    """
    run = replace(process.run, stream=process.run.noise.stream("canvas"))
    at, old, known, mask = part.at, before.at, process.run.inputs.picture, process.run.inputs.mask
    enlarged = resize(coarse[..., : old.height, : old.width], at.height, at.width)
    enlarged = pad(enlarged, process.model.info.multiple)
    if at.window is not None and known is not None and mask is not None:
        enlarged = blend_seamlessly(enlarged, known, mask).clamp(-1.0, 1.0)
    enlarged = process.model.encode(enlarged, run.stream)
    plugin, hooks = cascade.refining_plugin(run, enlarged, at, at.height / old.height)
    return replace(process, bound=(Bound(plugin, hooks), *process.bound))
