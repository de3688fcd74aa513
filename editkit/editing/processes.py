"""A process in a model's own space, without pictures, for `sample` and `distill`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from editkit.common.device import pick_device
from editkit.common.notify import Notify
from editkit.diffusion.convention import CONVENTIONS, NoiseName
from editkit.diffusion.model import Model
from editkit.diffusion.noise import Noise
from editkit.diffusion.plan import Counting, Plan
from editkit.diffusion.space import space_of
from editkit.editing.settle import arrange
from editkit.engine.binding import Environment, prepare
from editkit.engine.loop import Process
from editkit.models.leasing import Models
from editkit.plugin.chain import Stage
from editkit.plugin.options import Options
from editkit.plugin.protocol import Plugin
from editkit.plugin.step import Inputs


@contextmanager
def process_of(
    model: Model,
    plugins: Plugin | Sequence[Plugin],
    shape: Sequence[int],
    known: Tensor | None,
    mask: Tensor | None,
    notify: Notify,
    noise: Noise | NoiseName,
    models: Models | None,
    options: Mapping[str, Any],
) -> Iterator[Process]:
    """Prepare a process; borrowed networks are returned at the end. The arguments are those of `sample`."""
    mode = noise if isinstance(noise, str) else "streams"
    chosen = Options(**{"steps": 100, "noise": mode, **options, "sampler": options.get("sampler") or "ddpm"})
    wanted = [plugins] if isinstance(plugins, Plugin) else list(plugins)
    ordered = arrange(Stage(tuple(wanted), chosen), model.info, has_picture=False)
    device = pick_device(chosen.device)
    plan = Plan.uniform(chosen.steps or 100, Counting(model.info.rounds_up, chosen.floats))
    for plugin in ordered:
        plan = plugin.plan(plan)
    if known is not None:
        known = known.to(device)
        known = known.expand(*shape) if space_of(model).is_pixels else known.expand(shape[0], *known.shape[1:])
    if mask is not None:
        mask = mask.to(device)
    convention = CONVENTIONS[chosen.noise]
    source = convention.noise(chosen.seed) if isinstance(noise, str) else noise
    with (models or Models(most=1)).borrow(model) as lease:
        fitted = lease.model.attach(known, mask)
        inputs = Inputs(fitted, known, mask, known, mask, source.stream("encode"), convention=convention)
        around = Environment(source, device, lease, notify=notify)
        yield prepare(inputs, ordered, plan, chosen, tuple(shape), around)
