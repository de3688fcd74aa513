"""`editkit plan`: show what an edit would do, and its cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from editkit.cli.console import out, row, say, table, write
from editkit.cli.edit import save_recipe
from editkit.cli.interpolate import plans as interpolated
from editkit.cli.options import HelpWasShown
from editkit.cli.video import check_for_videos
from editkit.cli.words import Line, parse
from editkit.editing.settle import StagePlan, plan_stages
from editkit.models import backends
from editkit.models.needs import Needs, bytes_of, gpu_cards, lines, needs
from editkit.pictures.files.clips import is_clip


def plan_command(words: list[str]) -> int:
    """`editkit plan <any edit command>`: show the plan and its cost, without weights and without torch."""
    from editkit.pictures.picture import Picture

    if not words or words[0] in ("-h", "--help"):
        write("usage: editkit plan PLUGIN PICTURE [options] [with PLUGIN ...] [then PLUGIN ...]")
        write("Shows the order of the hooks, the passes and the number of network calls, without loading weights.")
        return 0
    if words[0] == "interpolate":
        return _show(interpolated(words[1:], say), "--json" in words)
    try:
        line = parse(words)
    except HelpWasShown:
        return 0
    if is_clip(line.picture):
        return _of_clip(line)
    picture = Picture.read(line.picture)
    plans = plan_stages(line.chain, picture, say)
    save_recipe(line)
    return _show(plans, line.extras.json_)


def _of_clip(line: Line) -> int:
    """Show the plan of a video's first frame, and the number of frames."""
    from editkit.editing.video import Together, open_video
    from editkit.pictures.files.clips import Span

    extras = line.extras
    check_for_videos([line])
    begun = open_video(
        line.picture, line.chain, Span.of(extras.range, extras.stride), Together(track=extras.track), say
    )
    save_recipe(line)
    plans = plan_stages(begun.chain, begun.picture, say)
    if extras.json_:
        write(json.dumps({"frames": begun.frames, "copies": begun.copies, "first": [record(plan) for plan in plans]}))
        return 0
    many = "an unknown number of frames" if begun.frames is None else f"about {begun.frames} frames"
    what = "at most this, for areas that no other frame shows" if begun.copies else "this"
    write(f"{line.picture}: {many}, and for each {what}:")
    _show(plans, False)
    if begun.frames is not None:
        most = "at most " if begun.copies else ""
        write(f"the video: {most}about {begun.frames * sum(plan.calls for plan in plans)} network calls")
    return 0


def _show(plans: Sequence[StagePlan], as_json: bool) -> int:
    if as_json:
        write(json.dumps([record(plan) for plan in plans]))
        return 0
    for number, plan in enumerate(plans):
        _show_plan(plan, number, len(plans))
    if len(plans) > 1:
        guessed = any(plan.picture.mask is not None for plan in plans[1:])
        write(
            f"total: {'about ' if guessed else ''}{sum(p.calls for p in plans)} network calls, "
            f"{sum(p.backward for p in plans)} backward passes"
        )
        if guessed:
            write("a mask that a later stage detects in an earlier result is counted as detected in the input picture")
    return 0


def record(plan: StagePlan) -> dict[str, object]:
    found = _needs(plan)
    return {
        "model": plan.info.name,
        "sampler": plan.sampler,
        "plugins": [plugin.name for plugin in plan.plugins],
        "hooks": {hook: list(names) for hook, names in plan.table().items()},
        "passes": [
            {
                "box": [p.at.box.left, p.at.box.top, p.at.box.right, p.at.box.bottom],
                "window": p.at.window,
                "size": [p.at.width, p.at.height],
                "moves": len(p.plan),
                "network_calls": p.cost.calls,
                "backward": p.cost.backward,
            }
            for p in plan.passes
        ],
        "network_calls": plan.calls,
        "network_calls_beside": plan.beside,
        "backward_passes": plan.backward,
        "backward_passes_through_network": plan.deep,
        "memory": None
        if found is None
        else {**asdict(found), "gpus": {f"{card}": way for card, way in gpu_cards(found)}},
    }


def _needs(plan: StagePlan) -> Needs | None:
    """Return the memory that its model needs; None if it is unknown in advance, or negligible."""
    if not plan.diffuses:
        return None
    passes = [part.at for part in plan.passes]
    options = plan.options
    return needs(plan.info.name, passes, bytes_of(options.dtype), plan.info.transformer, options.quantize)


def _show_plan(plan: StagePlan, number: int, total: int) -> None:
    """Print the plan of a stage: hooks by plugin, passes, cost."""
    of = f"stage {number + 1} of {total}: " if total > 1 else ""
    write(f"{of}{plan.info.name} ({plan.info.family}), sampler {plan.sampler}")
    for box in dict.fromkeys(part.at.box for part in plan.passes):
        write(
            f"works on {box.width}x{box.height} of {plan.picture.width}x{plan.picture.height} pixels, "
            f"from {box.left},{box.top}"
        )
    hooks = table("hook", *[plugin.name for plugin in plan.plugins])
    for hook, names in plan.table().items():
        row(hooks, hook, *["x" if plugin.name in names else "" for plugin in plan.plugins])
    out().print(hooks)
    passes = table("pass", "size", "levels", "moves", "network calls", "backward passes")
    for k, part in enumerate(plan.passes):
        size = f"{part.at.width}x{part.at.height}"
        if part.at.window is not None:
            size += f" by windows of {part.at.window}"
        cells = (k + 1, size, part.at.steps, len(part.plan), part.cost.calls, part.cost.backward)
        row(passes, *[str(cell) for cell in cells])
    out().print(passes)
    deep = f", {plan.deep} of them through the network" if plan.backward else ""
    beside = f" (and {plan.beside} of plugins' own networks)" if plan.beside else ""
    found = _needs(plan)
    for line in () if found is None else lines(found, bytes_of(plan.options.dtype)):
        write(line)
    computed = backends.backend_line(plan.options.backend)
    if computed is not None and plan.diffuses:
        write(computed)
    write(f"{plan.calls} network calls{beside}, {plan.backward} backward passes{deep}")
