"""The edit commands and `plan`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.chain import Chain, StagePlan, plan_stage
from editkit.cli.console import err, out, say, write
from editkit.cli.words import Extras, HelpShown, Line, parse, parse_run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.progress import Progress, TaskID

    from editkit.editing import Update
    from editkit.images import Picture
    from editkit.provenance import Provenance
    from editkit.writing import Written


def edit_command(words: list[str]) -> int:
    """`editkit PLUGIN PICTURE [options] [with PLUGIN ...] [then PLUGIN ...]`."""
    try:
        return make(parse(words))
    except HelpShown:
        return 0


def run_command(words: list[str]) -> int:
    """`editkit run RECIPE PICTURE [options]`."""
    try:
        return make(parse_run(words))
    except HelpShown:
        return 0


def make(line: Line) -> int:
    """Do what a line says: check, edit, write, report."""
    from editkit import recipe
    from editkit.images import Picture
    from editkit.writing import check_output

    target = _target(line)
    check_output(target, force=line.extras.force)
    picture = Picture.read(line.picture)
    began = time.perf_counter()
    made = _edit(picture, line.chain, line.extras)
    seconds = time.perf_counter() - began
    origin = _provenance(line, picture, made, target) if line.extras.provenance else None
    written = made.picture.write(target, force=line.extras.force, provenance=origin)
    if line.extras.save_recipe is not None:
        path = Path(line.extras.save_recipe)
        path.write_text(recipe.to_yaml(line.chain, path.parent), encoding="utf-8")
    _report(line, written, made.calls, seconds)
    return 0


@dataclass
class _Made:
    """What an edit made, and what is to be told of it."""

    picture: Picture
    calls: int = 0
    models: dict[int, str] = field(default_factory=dict)
    mask: NDArray[np.float32] | None = None


def _provenance(line: Line, picture: Picture, made: _Made, target: str) -> Provenance:
    """How `made` came about; paths are relative to where the result lies."""
    from editkit import recipe
    from editkit.provenance import Provenance

    base = Path() if target == "-" else Path(target).parent
    return Provenance.of(
        recipe.to_mapping(line.chain, base),
        models=tuple((name, None) for name in made.models.values()),
        seed=line.chain.stages[0].options.seed,
        picture=picture,
        name=line.picture,
        mask=made.mask,
    )


def _edit(picture: Picture, chain: Chain, extras: Extras) -> _Made:
    """Run the chain under a progress bar."""
    from editkit.editing import stream

    making = stream(picture, chain, notify=_quiet if extras.quiet else say)
    made = _Made(picture)
    with _bar(extras) as show:
        before, stage = 0, (-1, 0)
        while True:
            try:
                update = next(making)
            except StopIteration as done:
                made.picture = done.value
                return made
            if (update.stage, update.pass_) != stage:
                before, stage = 0, (update.stage, update.pass_)
                made.models[update.stage] = update.plan.info.name
                made.mask = update.plan.picture.mask if update.stage == 0 else made.mask
            made.calls += update.state.calls - before
            before = update.state.calls
            show(update, made.calls)


def _quiet(message: str) -> None:
    """Notices are not wanted."""


class _Show:
    """Moves the progress bar; does nothing without one."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.tasks: dict[int, TaskID] = {}

    def __call__(self, update: Update, calls: int) -> None:
        if self.progress is None:
            return
        if update.stage not in self.tasks:
            names = " + ".join(plugin.name for plugin in update.plan.plugins)
            self.tasks[update.stage] = self.progress.add_task(names, total=update.plan.moves, calls=0)
        self.progress.update(self.tasks[update.stage], advance=1, calls=calls)


@contextmanager
def _bar(extras: Extras) -> Iterator[_Show]:
    """A bar with steps, network calls and time left; none where nobody looks."""
    if extras.quiet or extras.json_ or not err().is_terminal:
        yield _Show(None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("steps · {task.fields[calls]} network calls ·"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err(), transient=True) as progress:
        yield _Show(progress)


def _target(line: Line) -> str:
    """Where the result goes: beside the input as <stem>.<edit>.png unless said."""
    if line.extras.output is not None:
        return line.extras.output
    if line.picture == "-":
        return "-"
    path = Path(line.picture)
    return str(path.with_name(f"{path.stem}.{line.chain.stages[0].plugins[0].name}.png"))


def _report(line: Line, written: Written, calls: int, seconds: float) -> None:
    """What was done: one line of JSON, or one for people."""
    if line.extras.json_:
        record = {
            "output": written.path,
            "format": written.format,
            "bytes": written.bytes,
            "deviation": written.deviation,
            "stages": [[plugin.name for plugin in stage.plugins] for stage in line.chain.stages],
            "seed": line.chain.stages[0].options.seed,
            "network_calls": calls,
            "seconds": round(seconds, 2),
        }
        write(json.dumps(record))
        return
    if line.extras.quiet:
        return
    for notice in written.notices:
        say(notice)
    where = "standard output" if written.path == "-" else written.path
    lossy = f" · {written.format} changed pixels by up to {written.deviation}" if written.deviation else ""
    say(f"wrote {where} · {calls} network calls · {seconds:.1f} s{lossy}")


def plan_command(words: list[str]) -> int:
    """`editkit plan <any edit command>`: what would be done and what it costs. No weights, no torch."""
    from editkit.images import Picture

    if not words or words[0] in ("-h", "--help"):
        write("usage: editkit plan PLUGIN PICTURE [options] [with PLUGIN ...] [then PLUGIN ...]")
        write("Shows the order of the hooks, the passes and the number of network calls, without loading weights.")
        return 0
    try:
        line = parse(words)
    except HelpShown:
        return 0
    picture = Picture.read(line.picture)
    plans = []
    for number, stage in enumerate(line.chain.stages):
        if number and picture.mask is not None:
            picture = picture.with_mask(None)
        plans.append(plan_stage(stage, picture, say))
        picture = plans[-1].picture
    if line.extras.json_:
        write(json.dumps([_record(plan) for plan in plans]))
        return 0
    for number, plan in enumerate(plans):
        _show_plan(plan, number, len(plans))
    if len(plans) > 1:
        write(f"total: {sum(p.calls for p in plans)} network calls, {sum(p.backward for p in plans)} backward passes")
    return 0


def _record(plan: StagePlan) -> dict[str, object]:
    return {
        "model": plan.info.name,
        "sampler": plan.sampler,
        "plugins": [plugin.name for plugin in plan.plugins],
        "hooks": {hook: list(names) for hook, names in plan.table().items()},
        "box": [plan.frame.box.left, plan.frame.box.top, plan.frame.box.right, plan.frame.box.bottom],
        "passes": [
            {"size": [p.at.width, p.at.height], "moves": len(p.plan), "network_calls": p.calls, "backward": p.backward}
            for p in plan.passes
        ],
        "network_calls": plan.calls,
        "backward_passes": plan.backward,
    }


def _show_plan(plan: StagePlan, number: int, total: int) -> None:
    """Print one stage's plan: hook x plugin, passes, cost."""
    from rich.table import Table

    box = plan.frame.box
    of = f"stage {number + 1} of {total}: " if total > 1 else ""
    write(f"{of}{plan.info.name} ({plan.info.family}), sampler {plan.sampler}")
    write(
        f"works on {box.width}x{box.height} of {plan.picture.width}x{plan.picture.height} pixels, "
        f"from {box.left},{box.top}"
    )
    hooks = Table("hook", *[plugin.name for plugin in plan.plugins], box=None, pad_edge=False)
    for hook, names in plan.table().items():
        hooks.add_row(hook, *["x" if plugin.name in names else "" for plugin in plan.plugins])
    out().print(hooks)
    passes = Table("pass", "size", "levels", "moves", "network calls", "backward passes", box=None, pad_edge=False)
    for k, part in enumerate(plan.passes):
        size = f"{part.at.width}x{part.at.height}"
        row = (k + 1, size, part.at.steps, len(part.plan), part.calls, part.backward)
        passes.add_row(*[str(value) for value in row])
    out().print(passes)
    write(f"{plan.calls} network calls, {plan.backward} backward passes")
