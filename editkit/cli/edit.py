"""The edit commands: check, edit, write, report."""

from __future__ import annotations

import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.cli.console import say, write
from editkit.cli.options import HelpWasShown
from editkit.cli.progress import edit_progress
from editkit.cli.rates import Timed
from editkit.cli.targets import check_targets, lines_of, target_of
from editkit.cli.video import check_for_videos, edit_clip
from editkit.cli.words import Line, parse, parse_run
from editkit.common.notify import Notify, silent
from editkit.errors import EditkitError, PictureError, UsageError
from editkit.pictures.files.clips import is_clip
from editkit.plugin.chain import Chain
from editkit.plugin.outputs import Extras, plugin_outputs, refuse_plugin_outputs
from editkit.plugin.params import outputs

if TYPE_CHECKING:
    from editkit.editing.result import Made, Watch
    from editkit.editing.watching.trace import Preview, Trace
    from editkit.models.leasing import Models
    from editkit.pictures.files.writing import Written
    from editkit.pictures.picture import Picture


def edit_command(words: list[str]) -> int:
    """`editkit PLUGIN PICTURE... [options] [with PLUGIN ...] [then PLUGIN ...]`."""
    try:
        return run_line(parse(words))
    except HelpWasShown:
        return 0


def run_command(words: list[str]) -> int:
    """`editkit run RECIPE PICTURE... [options]`."""
    try:
        line = parse_run(words)
    except HelpWasShown:
        return 0
    for message in line.elsewhere:
        notice_printer(line.extras)(message)
    return run_line(line)


def run_line(line: Line) -> int:
    """Run a parsed command line, for each of its pictures."""
    lines = lines_of(line)
    check_for_videos(lines)
    if line.extras.candidates is not None and len(lines) == 1:
        return _run_candidates(lines[0], line.extras.candidates)
    if len(lines) > 1:
        refuse_plugin_outputs(line.chain, "this command")
    targets = check_targets(lines)
    if line.extras.watch:
        return _watch_and_rerun(lines, targets)
    if len(lines) == 1:
        edit_one(lines[0], targets[0])
        return 0
    return _edit_many(lines, targets)


def edit_one(line: Line, target: str, models: Models | None = None, notify: Notify | None = None) -> None:
    """Edit one picture: check, edit, write, report."""
    from editkit.pictures.files.writing import check_output
    from editkit.pictures.picture import Picture

    extras = line.extras
    _check_distinct({"--output": target}, line)
    if is_clip(line.picture):
        edit_clip(line, target, models, notify or notice_printer(extras))
        return save_recipe(line)
    check_output(target, force=extras.force or extras.backup, quality=extras.quality)
    if extras.compare is not None:
        check_output(extras.compare, force=extras.force)
    watchers = _watchers(extras)
    picture = Picture.read(line.picture)
    began, timed = time.perf_counter(), Timed()
    made = run_edit(picture, line.chain, extras, [*watchers, timed], models, notify)
    seconds = time.perf_counter() - began
    timed.keep(seconds)
    written = _write_result(line, made, target)
    for watcher in watchers:
        watcher.close()
    if extras.compare is not None:
        from editkit.editing.watching import sheets

        sheets.save(sheets.compare(picture, made.picture, made.changeable), extras.compare, force=extras.force)
    save_recipe(line)
    _report(line, written, made, seconds)


def _watch_and_rerun(lines: Sequence[Line], targets: Sequence[str]) -> int:
    """Run each edit whenever its files change; after the first run its own result is overwritten."""
    from editkit.cli.watching import Stamp, file_states, run_on_changes
    from editkit.models.leasing import Models
    from editkit.pictures.files.writing import check_distinct

    if any("-" in (line.picture, target) for line, target in zip(lines, targets, strict=True)):
        raise UsageError("--watch needs files; standard input and output can be used only once")
    for line in lines:
        refuse_plugin_outputs(line.chain, "--watch")
    models, notify = Models(), notice_printer(lines[0].extras)
    own: dict[str, Stamp] = {}

    def job(line: Line, target: str, first: bool) -> None:
        extras = line.extras
        results = [path for path in (target, extras.preview, extras.trace, extras.compare, extras.save_recipe) if path]
        if not first:
            if file_states(results) != own[target]:
                raise PictureError(f"{target}: was changed by another program, and is not overwritten")
            extras = extras.model_copy(update={"force": True, "backup": False})
        edit_one(replace(line, extras=extras), target, models, notify)
        own[target] = file_states(results)

    pairs = list(zip(lines, targets, strict=True))
    watched = [[line.picture, *named_files(line.chain)] for line in lines]
    for target in targets:
        check_distinct({"--output": target}, itertools.chain(*watched))
    return run_on_changes([(read, functools.partial(job, *pair)) for read, pair in zip(watched, pairs, strict=True)])


def _edit_many(lines: Sequence[Line], targets: Sequence[str]) -> int:
    """Edit several pictures independently; one that fails is reported and does not stop the others."""
    from editkit.models.leasing import Models

    extras = lines[0].extras
    for name in ("preview", "trace", "compare", "candidates", "save_recipe"):
        if getattr(extras, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} is for one picture, got {len(lines)}")
    models, notify, failed = Models(), notice_printer(extras), 0
    for line, target in zip(lines, targets, strict=True):
        try:
            edit_one(line, target, models, notify)
        except EditkitError as error:
            failed += 1
            say(f"failed: {line.picture}: {' '.join(str(error).split())}")
    if failed or not (extras.quiet or extras.json_):
        say(f"{len(lines) - failed} of {len(lines)} made" + (f", {failed} failed (listed above)" if failed else ""))
    return 1 if failed else 0


def _check_distinct(results: Mapping[str, str | None], line: Line) -> None:
    """Check that outputs of a command are different files, do not overwrite inputs, and that the recipe can be written.

    Only the result may be one of the input files.
    """
    from editkit.pictures.files.writing import check_distinct, check_place

    extras = line.extras
    others = {
        "--preview": extras.preview,
        "--trace": extras.trace,
        "--compare": extras.compare,
        "--save-recipe": extras.save_recipe,
    }
    made = plugin_outputs(line.chain)
    check_distinct({**results, **others, **made}, [line.picture, *named_files(line.chain)], first=next(iter(results)))
    if extras.save_recipe is not None:
        check_place(extras.save_recipe, force=extras.force)
    for flag, path in made.items():
        check_place(path, force=True)
        if os.path.lexists(path):
            raise PictureError(f"{flag} {path}: exists already, and --force is for --output; give another name")


def named_files(chain: Chain) -> Iterator[str]:
    """Yield the files that the plugins' parameters name and read."""
    for stage in chain.stages:
        for plugin in stage.plugins:
            for key in plugin.model_fields_set:
                value = getattr(plugin, key)
                if key in outputs(type(plugin)):
                    continue
                for one in value if isinstance(value, (tuple, list)) else (value,):
                    if isinstance(one, (str, Path)) and len(str(one)) < 4096 and os.path.isfile(one):
                        yield str(one)


def _watchers(extras: Extras) -> list[Preview | Trace]:
    """Return the previews and traces that the options ask for."""
    if extras.preview is None and extras.trace is None:
        return []
    from editkit.editing.watching.trace import Preview, Trace

    watchers: list[Preview | Trace] = []
    if extras.preview is not None:
        watchers.append(Preview(extras.preview, force=extras.force))
    if extras.trace is not None:
        watchers.append(Trace(extras.trace, force=extras.force))
    return watchers


@contextmanager
def watching(extras: Extras) -> Iterator[list[Watch]]:
    """Yield the callbacks for every step, for edits other than plain chains; output of plugins is redirected."""
    watchers = _watchers(extras)
    with edit_progress(extras) as show, redirect_stdout(sys.stderr):
        yield [show, *watchers]
    for watcher in watchers:
        watcher.close()


def run_edit(
    picture: Picture,
    chain: Chain,
    extras: Extras,
    watchers: Sequence[Watch] = (),
    models: Models | None = None,
    notify: Notify | None = None,
) -> Made:
    """Run the chain with a progress bar; notices are printed, or go to `notify`."""
    from editkit.editing.result import make as make_one

    notify = notify or notice_printer(extras)
    for notice in picture.meta.notices:
        notify(notice)
    # output of plugins must not mix with a picture or JSON on standard output
    with edit_progress(extras) as show, redirect_stdout(sys.stderr):
        return make_one(picture, chain, watch=[show, *watchers], notify=notify, models=models)


def notice_printer(extras: Extras) -> Notify:
    """Return a function that prints each notice once; nothing with --quiet."""
    return silent if extras.quiet else functools.cache(say)


def _write_result(line: Line, made: Made, target: str) -> Written:
    """Write the result; paths in its provenance are relative to its folder."""
    extras = line.extras
    base, source = Path() if target == "-" else Path(target).parent, line.picture
    if extras.backup and os.path.lexists(target):
        from editkit.pictures.files.atomic import keep_backup

        kept = keep_backup(Path(target))
        source = str(kept) if os.path.realpath(source) == os.path.realpath(target) else source
    origin = made.provenance(source, base) if extras.provenance else None
    return made.write(target, force=extras.force or extras.backup, provenance=origin, quality=extras.quality)


def save_recipe(line: Line) -> None:
    """Write the chain to --save-recipe, if given."""
    if line.extras.save_recipe is None:
        return
    from editkit.editing import recipe, recipe_files
    from editkit.pictures.files.atomic import save_bytes

    path = Path(line.extras.save_recipe)
    for text in recipe_files.files_elsewhere(line.chain, path, line.pictures)[:1]:
        notice_printer(line.extras)(
            f"{path} names {text[:80]}, which lies out of its folder: editkit run takes it with --anywhere"
        )
    text = recipe.to_yaml(line.chain, path.parent)
    save_bytes(path, text.encode("utf-8", "surrogateescape"), force=line.extras.force)


def _run_candidates(line: Line, count: int) -> int:
    """Run the edit with `count` consecutive seeds, and make a sheet of the results."""
    from editkit.editing.watching import sheets
    from editkit.models.leasing import Models
    from editkit.pictures.files.writing import check_output
    from editkit.pictures.picture import Picture

    extras, target = line.extras, target_of(line)
    if target == "-" or extras.preview or extras.trace or extras.compare:
        raise UsageError("--candidates writes several pictures: name a file, without --preview, --trace and --compare")
    refuse_plugin_outputs(line.chain, "--candidates")
    path = Path(target)
    lines = [replace(line, chain=_shift_seeds(line.chain, k)) for k in range(count)]
    seeds = [one.chain.stages[0].options.seed for one in lines]
    names = [str(path.with_name(f"{path.stem}.seed{seed}{path.suffix}")) for seed in seeds]
    overview = str(path.with_name(f"{path.stem}.sheet.png"))
    results = {f"--seed {seed}": name for seed, name in zip(seeds, names, strict=True)}
    _check_distinct({**results, "the sheet": overview}, line)
    for name in (*names, overview):
        check_output(name, force=extras.force or extras.backup, quality=extras.quality)
    picture = Picture.read(line.picture)
    models, notify = Models(), notice_printer(extras)
    tiles = []
    for one, seed, name in zip(lines, seeds, names, strict=True):
        began = time.perf_counter()
        made = run_edit(picture, one.chain, extras, models=models, notify=notify)
        _report(one, _write_result(one, made, name), made, time.perf_counter() - began)
        tiles.append(sheets.Tile(f"seed {seed}", sheets.eight_bit(made.picture.pixels)))
    sheets.save(sheets.sheet(tiles), overview, force=extras.force)
    save_recipe(line)
    if not extras.quiet and not extras.json_:
        say(f"wrote {overview} · {count} candidates")
    return 0


def _shift_seeds(chain: Chain, by: int) -> Chain:
    """`chain` with `by` added to every seed."""
    return chain.with_seed(lambda seed: (seed + by) % 2**63)


def _report(line: Line, written: Written, made: Made, seconds: float) -> None:
    """Report the result: in one line of JSON, or in one line of text."""
    if line.extras.json_:
        record = {
            "output": written.path,
            "format": written.format,
            "bytes": written.bytes,
            "deviation": written.deviation,
            "kept_deviation": _largest_deviation(written, made),
            "stages": [[plugin.name for plugin in stage.plugins] for stage in line.chain.stages],
            "seed": line.chain.stages[0].options.seed,
            "network_calls": made.calls,
            "measured": [{"stage": stage, "plugin": plugin, **figures} for stage, plugin, figures in made.figures],
            "seconds": round(seconds, 2),
        }
        tell = say if written.path == "-" else write  # standard output is the picture's alone
        tell(json.dumps(record))
        return
    if line.extras.quiet:
        return
    for notice in written.notices:
        say(notice)
    where = "standard output" if written.path == "-" else written.path
    say(f"wrote {where} · {made.calls} network calls · {seconds:.1f} s{_deviation_text(written, made)}")


def _largest_deviation(written: Written, made: Made) -> int | None:
    """Return the largest deviation of pixels outside the masks from the input, in the decoded file."""
    if made.kept_deviation is None or written.kept_deviation is None:
        return None
    return made.kept_deviation + written.kept_deviation


def _deviation_text(written: Written, made: Made) -> str:
    kept = _largest_deviation(written, made)
    if kept == 0:
        return " · pixels outside the mask: identical"
    if made.kept_deviation:
        return f" · pixels outside the mask: changed by up to {kept} by the edit"
    if kept is not None:
        return f" · {written.format} changed pixels outside the mask by up to {kept}"
    return f" · {written.format} changed pixels by up to {written.deviation}" if written.deviation else ""
