"""`editkit plan`: show what an edit would do, and its cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from editkit.cli import rates
from editkit.cli.console import out, row, say, table, write
from editkit.cli.edit import save_recipe
from editkit.cli.interpolate import plans as interpolated
from editkit.cli.options import HelpWasShown
from editkit.cli.video import check_for_videos
from editkit.cli.words import Line, parse
from editkit.editing.settle import StagePlan, plan_stages
from editkit.editing.watching.time_left import in_words
from editkit.models import backends
from editkit.models.needs import Needs, bytes_of, gpu_cards, lines, needs
from editkit.pictures.files.clips import is_clip

DETAILS = "--details"

Show = Callable[[StagePlan, int, int], None]
"""Prints the plan of a stage: (plan, its number from 0, number of stages)."""


def plan_command(words: list[str]) -> int:
    """`editkit plan <any edit command>`: show the plan and its cost, without weights and without torch."""
    from editkit.pictures.picture import Picture

    details = DETAILS in words
    words = [word for word in words if word != DETAILS]
    if not words or words[0] in ("-h", "--help"):
        write("usage: editkit plan [--details] PLUGIN PICTURE [options] [with PLUGIN ...] [then PLUGIN ...]")
        write("Says what an edit would do, where, with which model, and about how long it takes; loads no weights.")
        write("--details adds tables of hooks, passes, moves and backward passes; --json has all of it for programs.")
        return 0
    show = _show_details if details else _show_sentences
    if words[0] == "interpolate":
        return _show(interpolated(words[1:], say), "--json" in words, show)
    try:
        line = parse(words)
    except HelpWasShown:
        return 0
    if is_clip(line.picture):
        return _of_clip(line, show)
    picture = Picture.read(line.picture)
    plans = plan_stages(line.chain, picture, say)
    save_recipe(line)
    return _show(plans, line.extras.json_, show)


def _of_clip(line: Line, show: Show) -> int:
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
    _show(plans, False, show)
    if begun.frames is not None:
        most = "at most " if begun.copies else ""
        write(f"the video: {most}about {begun.frames * sum(plan.calls for plan in plans)} network calls")
    return 0


def _show(plans: Sequence[StagePlan], as_json: bool, show: Show) -> int:
    if as_json:
        write(json.dumps([record(plan) for plan in plans]))
        return 0
    for number, plan in enumerate(plans):
        show(plan, number, len(plans))
    if len(plans) > 1:
        guessed = any(plan.picture.mask is not None for plan in plans[1:])
        write(
            f"total: {'about ' if guessed else ''}{sum(p.calls for p in plans)} network calls"
            + (f", {sum(p.backward for p in plans)} backward passes" if show is _show_details else _time_of(plans))
        )
        if guessed:
            write("a mask that a later stage detects in an earlier result is counted as detected in the input picture")
    if show is _show_sentences:
        unknown = any(rates.estimate(plan) is None for plan in plans)
        if unknown:
            edit = "an edit of this kind and size" if len(plans) == 1 else "edits of each stage by itself"
            write(f"How long it takes is not known yet; after {edit}, it is said here.")
        write(f"{DETAILS} adds tables of every hook and pass.")
    return 0


def _time_of(plans: Sequence[StagePlan]) -> str:
    """Return about how long all stages take, in words; empty if that is not known of each."""
    times = [rates.estimate(plan) for plan in plans]
    known = [seconds for seconds in times if seconds is not None]
    return f", about {in_words(sum(known))}" if len(known) == len(times) else ""


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


def _show_sentences(plan: StagePlan, number: int, total: int) -> None:
    """Say in plain sentences what a stage does, where, with what, and at what cost."""
    names = " with ".join(plugin.name for plugin in plan.plugins)
    of = f"Stage {number + 1} of {total}: " if total > 1 else ""
    info = plan.info
    kind = "" if info.family.startswith(info.name) else f", {info.family}"
    write(f"{of}{names}{f', by the model {info.name}{kind}' if plan.diffuses else ''}.")
    write(_where(plan))
    if not plan.diffuses:
        write("No network is called.")
    else:
        passes = len(plan.passes)
        how = f" in {passes} passes, from coarse to fine" if passes > 1 and plan.info.passes is not None else ""
        write(f"{plan.calls} {'network call' if plan.calls == 1 else 'network calls'}{how}{_further(plan)}.")
    seconds = rates.estimate(plan)
    if seconds is not None:
        write(f"About {in_words(seconds)}, as earlier edits of this kind took on this machine.")
    for line in _resources(plan):
        write(line)


def _where(plan: StagePlan) -> str:
    """Say on which part of the image a stage works, and what it may change."""
    picture = plan.picture
    size = f"{picture.width}x{picture.height}"
    grown = "" if picture.size == plan.source.size else f" (it is {plan.source.width}x{plan.source.height} now)"
    if picture.mask is None:
        return f"Works on the whole image, {size} pixels{grown}."
    share = float((picture.mask > 0).mean())
    if share == 0.0:
        return f"Nothing is marked in the image, {size} pixels{grown}."
    amount = f"{share:.0%}" if share >= 0.01 else "less than 1 %"
    boxes = list(dict.fromkeys(part.at.box for part in plan.passes))
    around = ", ".join(f"{box.width}x{box.height}" for box in boxes[:3]) + (" ..." if len(boxes) > 3 else "")
    looks = f", and looks at {around} pixels around that" if boxes else ""
    return f"Works on {amount} of the image, {size} pixels{grown}{looks}."


def _further(plan: StagePlan) -> str:
    """Name further costs of a stage, in words."""
    parts = [f"{plan.beside} more by plugins"] if plan.beside else []
    if plan.backward:
        parts.append(f"{plan.backward} gradients, each as slow as one or two calls")
    return f", and {' and '.join(parts)}" if parts else ""


def _resources(plan: StagePlan) -> list[str]:
    """Return lines about memory and the backend, if there is anything to say."""
    found = _needs(plan)
    told = [] if found is None else list(lines(found, bytes_of(plan.options.dtype)))
    computed = backends.backend_line(plan.options.backend)
    return told if computed is None or not plan.diffuses else [*told, computed]


def _show_details(plan: StagePlan, number: int, total: int) -> None:
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
    for line in _resources(plan):
        write(line)
    write(f"{plan.calls} network calls{beside}, {plan.backward} backward passes{deep}")
