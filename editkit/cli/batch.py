"""`editkit batch RECIPE IN OUT`, `editkit batch IN OUT -- PLUGIN ...`: a folder of pictures through one edit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from editkit.batch.driver import Summary, batch
from editkit.batch.engines import EngineResources, Result, engine_of
from editkit.batch.folder import Masks
from editkit.batch.sizes import memory_of
from editkit.batch.sources import is_manifest
from editkit.batch.stores import is_address, redact, scheme
from editkit.cli.console import err, say, write
from editkit.cli.options import HelpWasShown, given_by, typed_command
from editkit.cli.progress import now_and_then
from editkit.cli.settings import Settings
from editkit.cli.settings import read as read_settings
from editkit.cli.words import option_name, options_of, parse
from editkit.editing.watching.time_left import CountLines
from editkit.errors import UsageError
from editkit.pictures.files.formats import WRITABLE
from editkit.plugin.chain import Chain
from editkit.plugin.masking import map_masks
from editkit.plugin.options import Options
from editkit.plugin.params import Param, params

INTERRUPTED = 130
MOST_WORKERS = 256
MOST_AT_ONCE = 64

DOC = """Run a recipe, or the edit after --, on every picture in a folder.

editkit batch photos/ repaired/ -- inpaint --mask '{stem}.mask.png' --grow 3

A picture that fails is reported and does not stop the others. A journal in OUT records what is done: after an
interruption or an error, --resume continues and repeats nothing. Each picture has its own seed, from --seed
and its name.

Exit code 1 if any picture failed.
"""

ARGUMENTS = {
    "recipe": "The recipe (YAML; see --save-recipe).",
    "source": "The folder of pictures, with its subfolders; an address, archive or manifest (docs/scale.md).",
    "target": "The folder for the results, or an address.",
}

INLINE = {name: ARGUMENTS[name] for name in ("source", "target")}
"""Arguments if the edit is given after `--`."""

PARAMS = [
    Param("mask", "text", "Each picture's mask: {stem}.mask.png, a file for all, or words.", None, False, (), "MASK"),
    Param(
        "masks", "text", "The folder or address the masks are in; default: beside the pictures.", None, False, (), "DIR"
    ),
    Param("workers", "int", "Number of parallel processes.", 1, False),
    Param(
        "engine",
        "text",
        "Execution engine (see editkit plugins); default: serial, or processes for several workers.",
        None,
        False,
        (),
        "NAME[:ARGUMENT]",
    ),
    Param("batch_size", "text", "Pictures in the network at once: a number, or auto (by memory).", "1", False, (), "N"),
    Param("actors", "text", "Engines on a cluster: number of parallel actors.", None, False, (), "N[:MOST]"),
    Param("gpus_per_actor", "float", "GPUs of each actor; default: one if the edit runs on a GPU.", None, False),
    Param("resume", "flag", "Continue the run whose journal is in OUT.", None, False),
    Param("force", "flag", "Start again and overwrite existing results.", None, False),
    Param(
        "anywhere",
        "flag",
        "Allow a recipe or a manifest to name files outside its own folder and those of IN, OUT and --masks.",
        None,
        False,
    ),
    Param("results", "text", "Name of a table of results to write in OUT, .jsonl or .parquet.", None, False),
    Param("format", "text", "File format of the results; keep: that of each picture.", ".png", False),
    Param("quality", "int", "Quality of JPEG, WebP and AVIF results, 1 to 100.", None, False),
    Param("provenance", "flag", "Store in each result how it was made.", True, False),
    Param("quiet", "flag", "Print nothing but errors.", None, False),
    Param("json_", "flag", "Print one line of JSON about the run to standard output.", None, False),
]


# long: every option goes to one parameter
def batch_command(words: list[str]) -> int:
    """`editkit batch RECIPE IN OUT [options]`, or with the edit behind `--` instead of RECIPE."""
    groups = {"the batch": PARAMS, "the run": params(Options)}
    at = words.index("--") if "--" in words else None
    try:
        inline = None if at is None else _parse_inline(words[at + 1 :])
        command = typed_command("batch", DOC, ARGUMENTS if at is None else INLINE, groups)
        given = given_by(command, "batch", words[:at])
    except HelpWasShown:
        return 0
    settings = read_settings()
    options = options_of(settings.resolved(given))
    workers = given.get("workers", 1)
    if not 1 <= workers <= MOST_WORKERS:
        raise UsageError(f"--workers: must be 1 to {MOST_WORKERS}, got {workers}")
    if given.get("resume") and given.get("force"):
        raise UsageError("--resume continues a run, --force starts again; give one of them")
    if given.get("anywhere") and inline is not None and not is_manifest(given["source"]):
        raise UsageError(
            f"--anywhere: is for a recipe or a manifest, but {redact(given['source'])} is none; leave it out"
        )
    chain, pattern = _chain_and_masks(given, inline, settings, options)
    name = given.get("engine") or ("serial" if workers == 1 else "processes")
    engine = engine_of(name, _engine_resources(chain, workers, given, options.device))
    size = _batch_size(given.get("batch_size", "1"), given.get("engine") or "", workers)
    masks = _masks(given.get("mask", pattern), given.get("masks"))
    report = _Report(given.get("quiet", False), given.get("json_", False))
    with report.bar():
        try:
            summary = batch(
                chain,
                given["source"],
                given["target"],
                masks=masks,
                ending=_ending(given.get("format", ".png")),
                provenance=given.get("provenance", True),
                quality=given.get("quality"),
                engine=engine,
                resume=given.get("resume", False),
                force=given.get("force", False),
                results=given.get("results"),
                size=size,
                anywhere=given.get("anywhere", False),
                begin=lambda total: report.begin(None if given.get("resume") else total),
                watch=report.watch,
                notify=report.notice,
            )
        except KeyboardInterrupt:
            say(f"interrupted; {report.made} results are complete, --resume continues")
            return INTERRUPTED
    return _print_summary(summary, chain, given["target"], report)


def _parse_inline(words: list[str]) -> Chain:
    """Parse the edit after `--`; output options belong to the batch."""
    line = parse(words, pictured=False)
    given_here = line.extras.model_fields_set - read_settings().values.keys()
    if given_here:
        name = min(given_here)
        raise UsageError(
            f"{option_name(name)}: is not allowed after --, where only the edit is; see editkit batch --help"
        )
    return line.chain


def _chain_and_masks(
    given: dict[str, Any], inline: Chain | None, settings: Settings, options: Options
) -> tuple[Chain, str | None]:
    """Return the chain for every picture, and the pattern of their masks if there is one."""
    from editkit.editing import recipe, recipe_files

    if inline is None:
        places = [place for place in (given["source"], given.get("masks")) if place and not is_address(place)]
        anywhere = given.get("anywhere", False)
        asked = recipe.read(given["recipe"], allow_code=options.allow_code, anywhere=anywhere, places=places)
        for network in recipe_files.networks_elsewhere(asked, given["recipe"]):
            say(network)
        return settings.under_chain(asked).with_options(options), None
    patterns: list[str] = []

    def taken(mask: object) -> object:
        if isinstance(mask, str) and "{" in mask:
            patterns.append(mask)
            return None
        return mask

    chain = map_masks(inline, taken).with_options(options)
    if len(patterns) > 1:
        raise UsageError(f"one pattern of masks is allowed in a batch, got {' and '.join(patterns)}")
    return chain, next(iter(patterns), None)


def _batch_size(given: str, engine: str, workers: int) -> int:
    """`8`; 0 for auto."""
    if given != "auto" and not (given.isdigit() and 1 <= int(given) <= MOST_AT_ONCE):
        raise UsageError(f"--batch-size: must be 1 to {MOST_AT_ONCE}, or auto, got {given!r}")
    if given != "1" and (engine.startswith("processes") or (not engine and workers > 1)):
        raise UsageError("--batch-size: works with one process and with --engine ray; leave --workers out")
    return 0 if given == "auto" else int(given)


def _engine_resources(chain: Chain, workers: int, given: dict[str, Any], device: str) -> EngineResources:
    """Return where the engine works; the memory of its actors is computed if there may be any."""
    actors, gpus = _actors(given.get("actors")), given.get("gpus_per_actor")
    remote = (given.get("engine") or "").partition(":")[0] not in ("", "serial", "processes")
    return EngineResources(workers, actors, gpus, device, memory_of(chain) if remote else 0)


def _actors(given: str | None) -> tuple[int, int] | None:
    """`4`, or `2:16` for a pool that grows."""
    if given is None:
        return None
    least, colon, most = given.partition(":")
    if not (least.isdigit() and (most.isdigit() if colon else True) and 1 <= int(least) <= int(most or least)):
        raise UsageError(f"--actors: must be a number from 1, or two as 2:16, got {given!r}")
    return int(least), int(most or least)


def _masks(pattern: str | None, folder: str | None) -> Masks | None:
    if folder is not None and not is_address(folder) and not Path(folder).is_dir():
        raise UsageError(f"--masks {folder}: is not a folder")
    if folder is None and pattern is not None and scheme(pattern) and "{" in pattern:
        at = pattern.partition("{")[0].rpartition("/")[0]
        folder, pattern = at, pattern[len(at) + 1 :]
    return None if pattern is None and folder is None else Masks(pattern, folder)


def _ending(given: str) -> str | None:
    """.png for png; None for keep."""
    ending = "." + given.lower().removeprefix(".")
    if ending != ".keep" and ending not in WRITABLE:
        raise UsageError(f"--format: must be keep or one of {' '.join(WRITABLE)}, got {given!r}")
    return None if ending == ".keep" else ending


class _Report:
    """Reports progress: by a bar on a terminal, elsewhere by a line now and then."""

    def __init__(self, quiet: bool, as_json: bool) -> None:
        self.quiet = quiet
        self.as_json = as_json
        self.made = 0
        self.told: set[str] = set()
        self.begin: Callable[[int | None], None] = lambda total: None
        self.advance: Callable[[], None] = lambda: None

    @contextmanager
    def bar(self) -> Iterator[None]:
        if self.quiet or self.as_json:
            yield
            return
        if not err().is_terminal:
            lines = CountLines("pictures")
            self.begin, self.advance = lines.begin, lines.advance
            with now_and_then(lambda: say(lines.text())):
                yield
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=err(), transient=True) as progress:
            task = progress.add_task("pictures", total=None)
            self.begin = lambda total: progress.update(task, total=total)
            self.advance = lambda: progress.advance(task)
            yield

    def watch(self, result: Result) -> None:
        self.advance()
        if result.error is not None:
            say(f"failed: {result.item.name}: {result.error}")
            return
        self.made += 1
        for notice in result.notices:
            self.notice(notice, result.item.name)

    def notice(self, text: str, name: str | None = None) -> None:
        """Report a notice once, even if it applies to many pictures."""
        if self.quiet or self.as_json or text in self.told:
            return
        self.told.add(text)
        say(text if name is None else f"{name}: {text} (reported once)")


def _print_summary(summary: Summary, chain: Chain, target: str, report: _Report) -> int:
    """Print a summary, and return 1 if anything failed."""
    if report.as_json:
        record = {
            "output": target,
            "made": summary.made,
            "before": summary.before,
            "failed": summary.failed,
            "seed": chain.stages[0].options.seed,
            "network_calls": summary.calls,
        }
        write(json.dumps(record))
    elif not report.quiet or summary.failed:
        before = f", {summary.before} were done before" if summary.before else ""
        failed = f", {len(summary.failed)} failed (listed above; --resume tries them again)" if summary.failed else ""
        say(f"{target}: {summary.made} of {summary.total} made{before}{failed}")
    return 1 if summary.failed else 0
