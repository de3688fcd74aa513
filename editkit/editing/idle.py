"""Options that change nothing: the plan of a stage is compared with the plan without each option that was given.

Only options that act through the plan alone are compared (`BY_PLAN`); if both plans are equal, so are the results. Of
plugins' own parameters, the plugin knows which ones have no effect with the others (`Plugin.idle`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from editkit.common.notify import Notify
from editkit.diffusion.model import ModelInfo
from editkit.diffusion.samplers import Sampler
from editkit.plugin.chain import Stage
from editkit.plugin.options import Options
from editkit.plugin.params import cli_name
from editkit.plugin.protocol import Plugin, called

if TYPE_CHECKING:
    from editkit.editing.cost import PassPlan

BY_PLAN = ("steps", "sampler", "canvas", "crop_padding")
"""Options of the run that change the result only through the plan."""


@dataclass(frozen=True)
class Settled:
    """The options of a stage with all preferences, its sampler, and its planned passes."""

    options: Options
    sampler: Sampler
    passes: tuple[PassPlan, ...]

    @property
    def moves(self) -> int:
        """Largest number of moves of a pass that call the network."""
        return max((len(part.plan.flow) for part in self.passes), default=0)

    def signature(self) -> list[tuple[Any, ...]]:
        """Return what determines the result, apart from the sampler: boxes, sizes and moves of all passes."""
        return [
            (part.at if part.plan.moves else replace(part.at, steps=0), part.plan.moves, part.attempt, part.cost)
            for part in self.passes
        ]


def report_idle(
    stage: Stage,
    plugins: Sequence[Plugin],
    info: ModelInfo,
    settled: Settled,
    settle: Callable[[Stage], Settled],
    masked: bool,
    notify: Notify,
) -> None:
    """Report the options of `stage`, and the parameters of its plugins, that were given and change nothing.

    `settle` plans the passes of a stage that differs from this one in its options only. `masked`: the image has a mask.
    """
    for plugin in plugins:
        idle = called(plugin, "idle", plugin.idle, info)
        for name in sorted(plugin.model_fields_set & set(idle)):
            value, usual = getattr(plugin, name), type(plugin).model_fields[name].get_default(call_default_factory=True)
            if type(value) is not type(usual) or value != usual:  # pixels in memory cannot be compared
                notify(f"{plugin.name}: {_shown(name, value)} has no effect: {idle[name]}")
    asked = stage.options.model_dump(exclude_unset=True, exclude=set(stage.inherited))
    for name in BY_PLAN:
        if asked.get(name) is None:
            continue
        left = Options(**stage.options.model_dump(exclude_unset=True, exclude={name}))
        without = settle(replace(stage, options=left))
        for why in _reasons(name, plugins, info, settled, without, masked):
            notify(f"{_shown(name, asked[name])} changes nothing here: {why}")
    if "samples" in asked and settled.options.estimate != "mean":
        notify(f"--samples {asked['samples']} has no effect without --estimate mean")


def _reasons(
    name: str, plugins: Sequence[Plugin], info: ModelInfo, settled: Settled, without: Settled, masked: bool
) -> Iterator[str]:
    """Yield one reason if the option `name` changes nothing, in words; nothing if it has an effect."""
    names = " with ".join(plugin.name for plugin in plugins)
    if settled.signature() != without.signature():
        return
    if not any(plugin.diffuses for plugin in plugins):
        yield f"{names} calls no network"
    elif name == "sampler":
        yield from _sampler_reasons(names, plugins, info, settled, without)
    elif name == "steps":
        if settled.moves:  # otherwise the strength leaves no level, which is reported with the remedy
            steps = max(part.at.steps for part in settled.passes)
            yield f"{names} by {info.name} takes {steps} {'step' if steps == 1 else 'steps'} anyway"
    else:
        yield ("the same part of the image is worked on anyway" if masked else "without a mask, all of it is worked on")


def _sampler_reasons(
    names: str, plugins: Sequence[Plugin], info: ModelInfo, settled: Settled, without: Settled
) -> Iterator[str]:
    """Yield why --sampler changes nothing: it is the usual one, or the only step is the same with every sampler.

    The step to a clean level returns x0 with every sampler. The last level of models that take text may not be clean.
    """
    own = any("sampler" in plugin.claims() for plugin in plugins)  # reported by `notices.report_own_sampler`
    if settled.options.sampler == without.options.sampler:
        yield f"{names} by {info.name} uses it anyway"
    elif not own and settled.moves == 1 and "prompt" not in info.takes and settled.sampler.grid == without.sampler.grid:
        yield f"{names} by {info.name} takes a single step, which is the same with every sampler"


def _shown(name: str, value: object) -> str:
    """Return an option with its value, as on the command line; a flag without."""
    flag = "--" + cli_name(name).replace("_", "-")
    if isinstance(value, bool):
        return flag if value else "--no-" + flag[2:]
    return f"{flag} {value}" if isinstance(value, int | float | str) and len(str(value)) <= 40 else flag
