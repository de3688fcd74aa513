"""Run batches: apply one recipe to every picture of a folder and write the results into another.

The work on one picture is a pure function, `Work`: an `Item` in, a `Result` with the file's bytes out; it writes
nothing and raises nothing. A small driver, `run`, hands items to an engine (`serial` and `processes` in engines.py, or
any function of the same type, such as the one on Ray Data) and writes the results. In a local folder only the driver
writes; in a store (`stores`) the workers write (`delivery`), and the driver gets only names.

A result is written in three steps: its bytes are written to a temporary file, one line is written to the journal
(append-only JSON lines, synced), and the file is renamed to the result's name. The line decides: with it, the picture
is done, and `resume` only has to rename the file if the process was killed in between; without it, the picture was
never made. So no result is ever incomplete, and no finished picture is made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.batch import ledger
from editkit.batch.catalog import Catalog
from editkit.batch.delivery import Delivery
from editkit.batch.engines import Engine, Result, StagedWork, serial
from editkit.batch.folder import Item, Listing, Masks, check_folders, items, listing
from editkit.batch.journal import Done, Failed, Journal, open_journal
from editkit.batch.manifest import ENDINGS
from editkit.batch.sheet import Sheet
from editkit.batch.sizes import most_at_once
from editkit.batch.sources import check_places, fill_catalog, is_plain
from editkit.batch.stores import is_address, local_path, open_store
from editkit.batch.work import Work, new_models
from editkit.common.notify import Notify, silent
from editkit.diffusion.samplers import make_sampler
from editkit.editing.settle import arrange, describe_model, for_own_model, options_of
from editkit.errors import RecipeError, UsageError
from editkit.pictures.files.formats import PICTURES
from editkit.pictures.shapes import path_exists
from editkit.plugin.chain import Chain
from editkit.plugin.masking import needs_mask, with_mask
from editkit.plugin.outputs import refuse_plugin_outputs

if TYPE_CHECKING:
    from editkit.models.leasing import Models


@dataclass
class Summary:
    """The outcome of a run: the number of pictures made now and before, and the failed ones with their reasons."""

    made: int
    before: int
    failed: dict[str, str]
    calls: int = 0

    @property
    def total(self) -> int:
        return self.made + self.before + len(self.failed)


# long: one parameter for each option of a batch
def batch(
    chain: Chain,
    source: Path | str,
    target: Path | str,
    *,
    masks: Masks | None = None,
    ending: str | None = ".png",
    provenance: bool = True,
    quality: int | None = None,
    engine: Engine | None = None,
    models: Models | None = None,
    resume: bool = False,
    force: bool = False,
    results: str | None = None,
    size: int = 1,
    anywhere: bool = False,
    begin: Callable[[int], None] | None = None,
    watch: Callable[[Result], None] | None = None,
    notify: Notify = silent,
) -> Summary:
    """Apply `chain` to every picture of `source`, and write the results into `target`.

    Args:
        source: a folder, an address (`stores`) or a manifest (`manifest`).
        target: a folder or an address.
        masks: where each picture's mask is; None: the chain's mask for all, or without one, files beside the pictures.
        ending: suffix of the results, which sets the format; None: each picture's own.
        provenance: store the provenance in each result.
        quality: quality of JPEG, WebP or AVIF results; None: as in each picture's file.
        engine: where the work is done; default: `serial`.
        models: loaded models; other processes load their own.
        resume: continue an interrupted run; finished pictures are skipped, failed ones are tried again.
        force: start again and replace existing results.
        results: name of a table of results in `target`: .jsonl or .parquet.
        size: batch size of the network; 0: as many pictures as memory allows.
        anywhere: allow a manifest to name pictures outside its folder and the given arguments.
        begin, watch: called with the number of pictures, and with each result.
        notify: called with notices about skipped files.

    Raises:
        UsageError: plugins, folders, masks or journal are inconsistent; nothing was written.
        ModelError: there is no such model.
        PictureError: the folder cannot be written to.
    """
    source, target = local_path(str(source)), local_path(str(target))
    offline = any(stage.options.offline for stage in chain.inherited().stages)
    plain = is_plain(source)
    if plain and is_plain(target):
        apart = masks.folder if masks is not None and force and not is_address(str(masks.folder or "")) else None
        check_folders(Path(source), Path(target), None if apart is None else Path(apart))
    else:
        check_places(source, target, offline)
    if masks is None and needs_mask(chain) and not source.endswith(ENDINGS):
        masks = Masks()
    if masks is not None:
        with_mask(chain, "")
    _check_chain(chain)
    size = size or most_at_once(chain)
    work = Work(chain, provenance, quality, models or new_models(size), size)
    identity = _identity(chain, Path(target), masks, ending, provenance, quality)
    table = Sheet.of(results, source, target, offline=offline, again=resume or force)
    with closing(Catalog()) as catalog, table as sheet:
        if plain and is_plain(target):
            found = listing(Path(source), leave_out=Path(target))
            todo: Sequence[Item] = items(found, Path(source), Path(target), masks, ending)
        else:
            found = fill_catalog(catalog, chain, source, target, masks, ending, offline, force, anywhere)
            todo = catalog.items(target)
        _report_skipped(found, source, notify)
        if not todo and not found.unreadable:
            raise UsageError(f"{source}: contains no pictures; their names end in {' '.join(sorted(PICTURES))}")
        if begin is not None:
            begin(len(todo))
        watch_both = _call_both(watch, sheet.take)
        if is_plain(target):
            with open_journal(Path(target), identity, resume=resume, force=force) as journal:
                summary = run(work, todo, journal, engine or serial, force=force, watch=watch_both)
                sheet.before(journal.done.values())
        else:
            at = open_store(target, offline=offline, results=True)
            with ledger.open_ledger(at, catalog, identity, resume=resume, force=force) as book:
                summary = run_into(
                    work,
                    catalog,
                    book,
                    engine or serial,
                    target,
                    fresh=not (resume or force),
                    force=force,
                    watch=watch_both,
                )
                book.flush()
                sheet.before(catalog.done())
        for name, error in found.unreadable.items():
            summary.failed[name] = error
            watch_both(Result(Item(name, "", "", ""), error=error))
    return summary


def _call_both(watch: Callable[[Result], None] | None, also: Callable[[Result], None]) -> Callable[[Result], None]:
    def call_both(result: Result) -> None:
        also(result)
        if watch is not None:
            watch(result)

    return call_both


def _check_chain(chain: Chain) -> None:
    """Check once for errors that concern every picture: conflicting plugins, unknown model or sampler."""
    refuse_plugin_outputs(chain, "a batch")
    for stage in chain.inherited().stages:
        info = describe_model(stage)
        plugins = arrange(stage, info, has_picture=True)
        make_sampler(options_of(plugins, info, for_own_model(stage)).sampler or info.sampler)


def _report_skipped(found: Listing, source: str, notify: Notify) -> None:
    """Report files that are not pictures, and links that lead back."""
    if found.others:
        more = f" and {len(found.others) - 3} more" if len(found.others) > 3 else ""
        notify(f"{source}: no pictures by their names, left out: {', '.join(found.others[:3])}{more}")
    for link in found.outside:
        notify(f"{link}: is a link that leads out of {source}; it is followed")
    for loop in found.loops:
        notify(f"{loop}: leads to a folder that is worked on already; left out")


def _identity(
    chain: Chain, target: Path, masks: Masks | None, ending: str | None, provenance: bool, quality: int | None
) -> dict[str, str | int]:
    """Return what the results depend on besides the pictures; a resumed run must have the same."""
    from editkit.editing.recipe import to_yaml

    try:
        text = to_yaml(chain.inherited(), target)
    except RecipeError:  # a callable or an array, possible only in Python, where the caller is responsible
        text = ""
    folder = None if masks is None else masks.folder
    where = "" if folder is None else str(folder if is_address(str(folder)) else Path(folder).resolve())
    identity = "\0".join((text, where, "" if masks is None else str(masks.pattern), str(ending), str(provenance)))
    identity += "" if quality is None else f"\0{quality}"
    return {"editkit": 1, "run": hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()}


def run(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    journal: Journal,
    engine: Engine,
    *,
    force: bool = False,
    watch: Callable[[Result], None] | None = None,
) -> Summary:
    """Make the pictures that the journal does not list as done.

    Args:
        work: `Work`, or any function like it.
        journal: the open journal, for reading and recording.
        force: replace results from before the run.
        watch: called with each result after it has been written.

    Raises:
        PictureError: the folder cannot be written to any more (a full disk); finished pictures stay.
    """
    todo, before = [], 0
    summary = Summary(0, 0, {})
    for item in items:
        if journal.settle(item.name, item.output):
            before += 1
        elif not force and path_exists(item.target):
            reason = f"{item.target}: exists already and is not of this run; move it away, or give --force"
            _write_result(journal, summary, Result(item, error=reason), watch)
        else:
            todo.append(item)
    summary.before = before
    with _results_of(engine, work, todo) as results:
        for result in results:
            _write_result(journal, summary, result, watch)
    return summary


def run_into(
    work: StagedWork,
    catalog: Catalog,
    book: ledger.Ledger,
    engine: Engine,
    target: str,
    *,
    fresh: bool = True,
    force: bool = False,
    watch: Callable[[Result], None] | None = None,
) -> Summary:
    """Like `run`, into a store, where the workers write the results.

    Args:
        fresh: files at the results' names are from before the run.

    Raises:
        PictureError: the store cannot be written to any more, or another run has taken it over.
    """
    summary = Summary(0, 0, {})
    catalog.is_there(name for name, _ in book.store.names() if not name.startswith(".editkit/"))
    summary.before = catalog.settle()
    if fresh:
        for name, output in catalog.refused():
            reason = f"{output}: exists already and is not of this run; move it away, or give --force"
            _record(book, summary, Result(Item(name, "", "", output), error=reason), watch)
    delivery = Delivery(work, book.store, book.lease.number, force)
    with _results_of(engine, delivery, catalog.items(target)) as results:
        for result in results:
            _record(book, summary, result, watch)
    return summary


def _record(book: ledger.Ledger, summary: Summary, result: Result, watch: Callable[[Result], None] | None) -> None:
    book.take(result)
    if result.error is not None:
        summary.failed[result.item.name] = result.error
    elif result.before:
        summary.before += 1
    else:
        summary.made += 1
        summary.calls += result.calls
    if watch is not None:
        watch(result)


@contextmanager
def _results_of(engine: Engine, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Iterator[Result]]:
    """Yield an engine's results; its workers end with an interrupted run."""
    results = engine(work, items)
    try:
        yield results
    finally:
        close = getattr(results, "close", None)
        if close is not None:
            close()


def _write_result(journal: Journal, summary: Summary, result: Result, watch: Callable[[Result], None] | None) -> None:
    """Write one result and record it in the journal."""
    item = result.item
    if result.error is None:
        wrong = journal.commit(Done(item.name, item.output, result.seed, "", 0), result.data, Path(item.target))
        result = result if wrong is None else replace(result, error=wrong, data=b"")
    if result.error is not None:
        journal.failed(Failed(item.name, result.error))
        summary.failed[item.name] = result.error
    else:
        result = replace(result, done=journal.done[item.name])
        summary.made += 1
        summary.calls += result.calls
    if watch is not None:
        watch(result)
