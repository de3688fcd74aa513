"""Whole folders: every picture of one folder through one recipe into another.

The work on one picture is a pure function, `Work`: an `Item` in, a `Result` with the file's bytes out; it writes
nothing and raises nothing. A small driver, `run`, hands items to an engine (`serial` and `processes` in engines.py, or
anyone's function of the same type, such as the one on Ray Data) and puts what comes back into place. In a folder of
this machine only the driver writes; in a store (`stores`) whoever does the work writes it there (`delivery`), and the
driver is told names.

A result gets into place in three steps: its bytes are written to a temporary file, one line is written to the journal
(append-only JSON lines, synced), and the file is renamed to the result's name. The line decides: with it, the picture
is done, and `resume` only has to rename the file if a kill came between; without it, the picture was never made. So no
result is ever incomplete, and nothing that is done is done again.
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
from editkit.batch.engines import Engine, Result, Staged, serial
from editkit.batch.folder import Item, Listing, Masks, check_folders, items, listing
from editkit.batch.journal import Done, Failed, Journal, opened
from editkit.batch.manifest import ENDINGS
from editkit.batch.sheet import Sheet
from editkit.batch.sizes import most_at_once
from editkit.batch.sources import cataloged, check_places, is_plain
from editkit.batch.stores import is_address, local, store
from editkit.batch.work import Work, new_models
from editkit.common.notify import Notify, silent
from editkit.diffusion.samplers import make_sampler
from editkit.editing.settle import arrange, described, for_own_model, options_of
from editkit.errors import RecipeError, UsageError
from editkit.pictures.files.formats import PICTURES
from editkit.pictures.shapes import is_there
from editkit.plugin.chain import Chain
from editkit.plugin.masking import masked, needs_mask
from editkit.plugin.outputs import write_nothing_beside

if TYPE_CHECKING:
    from editkit.models.leasing import Models


@dataclass
class Summary:
    """The outcome of a run: how many were made now, how many had been made before; which failed and why, by name."""

    made: int
    before: int
    failed: dict[str, str]
    calls: int = 0

    @property
    def total(self) -> int:
        return self.made + self.before + len(self.failed)


# long: every way of going through a folder is a parameter
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
    """Every picture of the folder `source` through `chain` into `target`.

    Args:
        source: a folder, an address (`stores`) or a manifest (`manifest`).
        target: a folder or an address.
        masks: where each picture's mask is; None: what the chain says, for all, and where that says none, beside them.
        ending: of the results' names, which says the format; None: each picture's own.
        provenance: keep in each result how it was made.
        quality: of results that are JPEG, WebP or AVIF; None: as each picture came.
        engine: where the work is done; default: `serial`.
        models: what is loaded already; in other processes each loads its own.
        resume: go on with a run that was broken off; what is done is not done again, what failed is tried again.
        force: begin anew and replace results that are there.
        results: the name of a table of what was made, in `target`: .jsonl or .parquet.
        size: pictures that are in the network at once; 0: as many as there is memory for.
        anywhere: a manifest may name pictures that lie neither in its folder nor where the arguments point.
        begin, watch: are told how many pictures there are, and each result.
        notify: is told what was left out.

    Raises:
        UsageError: plugins, folders, masks or journal that do not go together; nothing was written.
        ModelError: there is no such model.
        PictureError: the folder cannot be written to.
    """
    source, target = local(str(source)), local(str(target))
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
        masked(chain, "")
    _settle(chain)
    size = size or most_at_once(chain)
    work = Work(chain, provenance, quality, models or new_models(size), size)
    identity = _identity(chain, Path(target), masks, ending, provenance, quality)
    table = Sheet.of(results, source, target, offline=offline, again=resume or force)
    with closing(Catalog()) as catalog, table as sheet:
        if plain and is_plain(target):
            found = listing(Path(source), leave_out=Path(target))
            todo: Sequence[Item] = items(found, Path(source), Path(target), masks, ending)
        else:
            found = cataloged(catalog, chain, source, target, masks, ending, offline, force, anywhere)
            todo = catalog.items(target)
        _tell(found, source, notify)
        if not todo and not found.unreadable:
            raise UsageError(f"{source}: contains no pictures; their names end in {' '.join(sorted(PICTURES))}")
        if begin is not None:
            begin(len(todo))
        told = _both(watch, sheet.take)
        if is_plain(target):
            with opened(Path(target), identity, resume=resume, force=force) as journal:
                summary = run(work, todo, journal, engine or serial, force=force, watch=told)
                sheet.before(journal.done.values())
        else:
            at = store(target, offline=offline, results=True)
            with ledger.opened(at, catalog, identity, resume=resume, force=force) as book:
                summary = run_into(
                    work, catalog, book, engine or serial, target, fresh=not (resume or force), force=force, watch=told
                )
                book.flush()
                sheet.before(catalog.done())
        for name, error in found.unreadable.items():
            summary.failed[name] = error
            told(Result(Item(name, "", "", ""), error=error))
    return summary


def _both(watch: Callable[[Result], None] | None, also: Callable[[Result], None]) -> Callable[[Result], None]:
    def told(result: Result) -> None:
        also(result)
        if watch is not None:
            watch(result)

    return told


def _settle(chain: Chain) -> None:
    """Find once what would be wrong with every picture: plugins in conflict, no such model or sampler."""
    write_nothing_beside(chain, "a batch")
    for stage in chain.inherited().stages:
        info = described(stage)
        plugins = arrange(stage, info, has_picture=True)
        make_sampler(options_of(plugins, info, for_own_model(stage)).sampler or info.sampler)


def _tell(found: Listing, source: str, notify: Notify) -> None:
    """What is no picture, and what leads back."""
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
    """What the results depend on besides the pictures: a run is resumed only with the same."""
    from editkit.editing.recipe import to_yaml

    try:
        text = to_yaml(chain.inherited(), target)
    except RecipeError:  # a callable or an array: from Python only, where the caller knows
        text = ""
    folder = None if masks is None else masks.folder
    where = "" if folder is None else str(folder if is_address(str(folder)) else Path(folder).resolve())
    said = "\0".join((text, where, "" if masks is None else str(masks.pattern), str(ending), str(provenance)))
    said += "" if quality is None else f"\0{quality}"
    return {"editkit": 1, "run": hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()}


def run(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    journal: Journal,
    engine: Engine,
    *,
    force: bool = False,
    watch: Callable[[Result], None] | None = None,
) -> Summary:
    """Make what the journal does not hold yet.

    Args:
        work: `Work`, or any function like it.
        journal: open; says what is done, and takes what comes.
        force: replace results that were there before the run.
        watch: is called with each result, after it is in place.

    Raises:
        PictureError: the folder cannot be written to any more (a full disk): what is done stays done.
    """
    todo, before = [], 0
    summary = Summary(0, 0, {})
    for item in items:
        if journal.settle(item.name, item.output):
            before += 1
        elif not force and is_there(item.target):
            reason = f"{item.target}: exists already and is not of this run; move it away, or give --force"
            _take(journal, summary, Result(item, error=reason), watch)
        else:
            todo.append(item)
    summary.before = before
    with _from(engine, work, todo) as results:
        for result in results:
            _take(journal, summary, result, watch)
    return summary


def run_into(
    work: Staged,
    catalog: Catalog,
    book: ledger.Ledger,
    engine: Engine,
    target: str,
    *,
    fresh: bool = True,
    force: bool = False,
    watch: Callable[[Result], None] | None = None,
) -> Summary:
    """The same into a store, where whoever does the work puts the result into place.

    Args:
        fresh: what lies at a result's name was there before the run.

    Raises:
        PictureError: the store cannot be written to any more, or another run has taken it over.
    """
    summary = Summary(0, 0, {})
    catalog.is_there(name for name, _ in book.store.names() if not name.startswith(".editkit/"))
    summary.before = catalog.settle()
    if fresh:
        for name, output in catalog.refused():
            reason = f"{output}: exists already and is not of this run; move it away, or give --force"
            _noted(book, summary, Result(Item(name, "", "", output), error=reason), watch)
    delivery = Delivery(work, book.store, book.lease.number, force)
    with _from(engine, delivery, catalog.items(target)) as results:
        for result in results:
            _noted(book, summary, result, watch)
    return summary


def _noted(book: ledger.Ledger, summary: Summary, result: Result, watch: Callable[[Result], None] | None) -> None:
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
def _from(engine: Engine, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Iterator[Result]]:
    """An engine's results; its workers do not outlive a run that was broken off."""
    results = engine(work, items)
    try:
        yield results
    finally:
        close = getattr(results, "close", None)
        if close is not None:
            close()


def _take(journal: Journal, summary: Summary, result: Result, watch: Callable[[Result], None] | None) -> None:
    """Put one result into place and into the journal."""
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
