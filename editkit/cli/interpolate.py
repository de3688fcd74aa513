"""`editkit interpolate A --to B`: pictures between two pictures, as a strip or an animation."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.cli.console import say, write
from editkit.cli.edit import notice_printer, watching
from editkit.cli.options import HelpWasShown
from editkit.cli.targets import target_of
from editkit.cli.words import Line, parse
from editkit.common.notify import Notify
from editkit.common.spec import did_you_mean
from editkit.editing.between import WAY, Mix, interpolation
from editkit.errors import UsageError
from editkit.pictures.files.clips import is_clip

if TYPE_CHECKING:
    from editkit.editing.between import Interpolation
    from editkit.editing.settle import StagePlan
    from editkit.pictures.files.provenance import Provenance

MOST = 1000
"""Largest number of pictures; all are in memory at the end."""

USAGE = """usage: editkit interpolate A --to B [--frames N] [--prompt-to TEXT] [--lerp] [options] [with ...] [then ...]

Maps both pictures to their noise, and interpolated noise back to pictures: N pictures (9) from A to B. They are
written side by side, or as an animation if the name ends in .webp. Not every model makes a new picture between two:
a small model fades from one to the other.

  --to B            the other picture
  --frames N        number of pictures, including the reconstructions of A and B (default: 9)
  --prompt-to TEXT  text that describes B, where --prompt describes A; the way down uses interpolated texts
  --lerp            interpolate noise linearly, not along the sphere: less contrast in the middle
  --refine N        fixed-point iterations in every move up; --strength X: how far up; both as in `editkit invert`

  editkit interpolate a.png --to b.png --frames 9
  editkit interpolate a.png --to b.png --model DIR --prompt "a cat" --prompt-to "a dog" -o between.webp
  editkit plan interpolate a.png --to b.png --steps 50

Options of the run (--steps, --sampler, --seed, -o ...) are those of every edit."""


@dataclass(frozen=True)
class InterpolateOptions:
    """The command's own options."""

    to: str
    frames: int = 9
    prompt_to: str | None = None
    mix: Mix = "slerp"


def interpolate_command(words: list[str]) -> int:
    """`editkit interpolate A --to B [options] [with PLUGIN ...] [then PLUGIN ...]`."""
    if not words or "-h" in words or "--help" in words:
        write(USAGE)
        return 0
    try:
        own, line = _read(words)
    except HelpWasShown:
        return 0
    return _make(own, line)


def plans(words: list[str], notify: Notify) -> list[StagePlan]:
    """What `editkit plan interpolate` shows."""
    own, line = _read(words)
    return _interpolation_of(own, line, notify).plans(notify)


def _read(words: list[str]) -> tuple[InterpolateOptions, Line]:
    """Parse the command's own options, before the first `with` or `then`, and the rest as an inversion."""
    end = next((k for k, word in enumerate(words) if word in ("with", "then")), len(words))
    first, found, rest = list(words[:end]), dict[str, str](), list[str]()
    while first:
        flag, equals, value = first.pop(0).partition("=")
        if flag == "--lerp":
            found[flag] = "lerp"
        elif flag in ("--to", "--frames", "--prompt-to"):
            if flag in found:
                raise UsageError(f"interpolate: {flag} is given twice")
            if not equals and not first:
                raise UsageError(f"interpolate: {flag} needs a value")
            found[flag] = value if equals else first.pop(0)
        else:
            rest.append(flag + equals + value)
    for flag in ("--way", "--save-noise", "--from-noise", "--null-text"):
        if any(word.partition("=")[0] == flag for word in rest):
            raise UsageError(f"interpolate: {flag} is for `editkit {WAY}`; leave it out")
    if "--to" not in found:
        raise UsageError(f"interpolate needs a second picture: --to B{did_you_mean('--to', rest) or ''}")
    if re.fullmatch("[0-9]{1,9}", frames := found.get("--frames", "9")) is None or not 2 <= int(frames) <= MOST:
        raise UsageError(f"interpolate: --frames is {frames[:80]}; a whole number from 2 to {MOST} is needed")
    own = InterpolateOptions(
        found["--to"],
        int(frames),
        found.get("--prompt-to"),
        "lerp" if "--lerp" in found else "slerp",
    )
    line = parse([WAY, *rest, *words[end:]])
    for name in (line.picture, own.to):
        if is_clip(name):
            raise UsageError(f"interpolate works on two pictures, and {name} is a video; give a picture of it")
    return own, line


def _interpolation_of(own: InterpolateOptions, line: Line, notify: Notify) -> Interpolation:
    from editkit.pictures.picture import Picture

    pictures = Picture.read(line.picture), Picture.read(own.to)
    return interpolation(*pictures, line.chain, frames=own.frames, prompt_to=own.prompt_to, mix=own.mix, notify=notify)


def _make(own: InterpolateOptions, line: Line) -> int:
    from editkit.editing.between import run_interpolation, strip
    from editkit.editing.watching.trace import encode_animation
    from editkit.models.leasing import Models
    from editkit.pictures.files.atomic import save_bytes
    from editkit.pictures.files.writing import check_distinct, check_output

    extras, target = line.extras, target_of(line, "interpolate")
    for name in ("compare", "candidates", "save_recipe", "preview"):
        if getattr(extras, name) is not None:
            raise UsageError(f"interpolate: leave --{name.replace('_', '-')} out")
    if target == "-":
        raise UsageError("interpolate: name a file with -o; standard output is for one picture")
    check_output(target, force=extras.force)
    check_distinct({"--output": target, "--trace": extras.trace}, [line.picture, own.to])
    notify, began, calls = notice_printer(extras), time.perf_counter(), 0
    asked = _interpolation_of(own, line, notify)
    with watching(extras) as watchers:
        making, before = run_interpolation(asked, Models(), notify), (0, 0)
        while True:
            try:
                update = next(making)
            except StopIteration as done:
                frames = done.value
                break
            now = (update.stage, update.state.calls)
            calls += now[1] - (before[1] if now[0] == before[0] and now[1] >= before[1] else 0)
            before = now
            for each in watchers:
                each(update)
    if Path(target).suffix.lower() == ".webp":
        save_bytes(Path(target), encode_animation([frame.pil for frame in frames], back=True), force=extras.force)
    else:
        origin = _strip_provenance(asked, own, line, Path(target).parent) if extras.provenance else None
        strip(frames).write(target, force=extras.force, provenance=origin)
    if not extras.quiet:
        say(f"wrote {target} · {len(frames)} pictures · {calls} network calls · {time.perf_counter() - began:.1f} s")
    return 0


def _strip_provenance(asked: Interpolation, own: InterpolateOptions, line: Line, base: Path) -> Provenance:
    """Return the provenance of the strip; paths are written relative to `base`."""
    from editkit.editing import recipe
    from editkit.editing.named_weights import named_weights
    from editkit.editing.settle import describe_model
    from editkit.models.files.fingerprint import fingerprint
    from editkit.pictures.files.provenance import Between, Provenance, hash_pixels
    from editkit.plugin.options import Options

    models = [describe_model(stage) for stage in asked.chain.with_options(Options(offline=True)).stages]
    made = Provenance.of(
        recipe.to_mapping(asked.chain, base),
        models=tuple((info.name, fingerprint(info)) for info in models),
        files=named_weights(asked.chain),
        seed=asked.chain.stages[0].options.seed,
        picture=asked.a,
        name=line.picture,
    )
    to = None if own.to == "-" else Path(own.to).name
    between = Between(to=to, to_hash=hash_pixels(asked.b), frames=own.frames, prompt_to=own.prompt_to, mix=own.mix)
    return made.model_copy(update={"between": between})
