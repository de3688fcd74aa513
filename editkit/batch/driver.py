"""Whole folders: every picture of one folder through one recipe into another.

The work on one picture is a pure function, `Work`: an `Item` in, a `Result` with the file's bytes out; it writes
nothing and raises nothing. A small driver, `run`, hands items to an engine (`serial` and `processes` in workers.py, or
anyone's function of the same type, such as one on Ray Data) and puts what comes back into place. Only the driver
writes.

A result gets into place in three steps: its bytes into a file of its own aside, one line in the journal (append-only
JSON lines, synced), then the file's name is changed to the result's. The line is what counts: with it, the picture is
done, and `resume` only has to change the name where a kill came between; without it, the picture was never made. So
nothing is ever half there, and nothing that is done is done again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.batch.engines import Engine, Result, serial
from editkit.batch.folder import Item, Listing, Masks, check_folders, items, listing
from editkit.batch.journal import Done, Failed, Journal, opened
from editkit.common.notify import Notify, silent
from editkit.diffusion.samplers import make_sampler
from editkit.editing.settle import arrange, model_name, suited
from editkit.errors import EditkitError, PictureError, RecipeError, UsageError
from editkit.pictures.files.formats import PICTURES
from editkit.pictures.shapes import is_words
from editkit.plugin.chain import Chain
from editkit.plugin.masking import masked, needs_mask
from editkit.plugin.outputs import write_nothing_beside

if TYPE_CHECKING:
    from editkit.models.leasing import Models


def _models() -> Models:
    from editkit.models.leasing import Models

    return Models()


@dataclass(frozen=True)
class Work:
    """The pure function: one item to one result. Can be sent to other processes; models are loaded once in each.

    Args:
        chain: what is done to every picture; its seeds are the run's.
        provenance: keep in each result how it was made.
        quality: of JPEG, WebP and AVIF; None: as each picture came.
        models: what was loaded for all of them.
    """

    chain: Chain
    provenance: bool = True
    quality: int | None = None
    models: Models = field(default_factory=_models, compare=False)

    def __call__(self, item: Item) -> Result:
        try:
            return self._made(item)
        except EditkitError as error:
            reason = " ".join(str(error).split())
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Result(item, seed=seeded(self.chain, item.name).stages[0].options.seed, error=reason)

    def _made(self, item: Item) -> Result:
        from editkit.editing.made import make
        from editkit.pictures.files.writing import format_of, to_bytes
        from editkit.pictures.picture import Picture

        picture = Picture.read(item.source)
        chain = seeded(self.chain, item.name)
        if item.mask is not None:
            if not is_words(item.mask) and not Path(item.mask).is_file():  # a named pipe would be waited for
                wrong = "no regular file" if Path(item.mask).exists() else "missing"
                raise PictureError(f"its mask is {wrong}: {item.mask}")
            chain = masked(chain, item.mask)
        notices = list(picture.meta.notices)
        made = make(picture, chain, notify=notices.append, models=self.models)
        target = Path(item.target)
        origin = made.provenance(item.source, target.parent) if self.provenance else None
        result, text = made.to_write(), None if origin is None else origin.to_text()
        data, deviation, _ = to_bytes(
            result, format_of(target), notices, mask=result.mask, text=text, quality=self.quality
        )
        return Result(item, data, chain.stages[0].options.seed, made.calls, deviation, tuple(notices))


def seeded(chain: Chain, name: str) -> Chain:
    """`chain` with a seed of its own for the picture called `name`: of the run's seed and the name alone, so that the
    same picture gets the same noise whatever else lies in the folder, and however often the run was broken off.
    """

    def own(seed: int) -> int:
        digest = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    return chain.with_seed(own)


@dataclass
class Summary:
    """What came of a run: how many were made now, and had been before; which failed and why, by name."""

    made: int
    before: int
    failed: dict[str, str]
    calls: int = 0

    @property
    def total(self) -> int:
        return self.made + self.before + len(self.failed)


def batch(
    chain: Chain,
    source: Path,
    target: Path,
    *,
    masks: Masks | None = None,
    ending: str | None = ".png",
    provenance: bool = True,
    quality: int | None = None,
    engine: Engine | None = None,
    models: Models | None = None,
    resume: bool = False,
    force: bool = False,
    begin: Callable[[int], None] | None = None,
    watch: Callable[[Result], None] | None = None,
    notify: Notify = silent,
) -> Summary:
    """Every picture of the folder `source` through `chain` into `target`.

    Args:
        masks: where each picture's mask is; None: what the chain says, for all, and where that says none, beside them.
        ending: of the results' names, which says the format; None: each picture's own.
        provenance: keep in each result how it was made.
        quality: of results that are JPEG, WebP or AVIF; None: as each picture came.
        engine: where the work is done; default: `serial`.
        models: what is loaded already; in other processes each loads its own.
        resume: go on with a run that was broken off; what is done is not done again, what failed is tried again.
        force: begin anew and replace results that are there.
        begin, watch: are told how many pictures there are, and each result.
        notify: is told what was left out.

    Raises:
        UsageError: plugins, folders, masks or journal that do not go together; nothing was written.
        ModelError: there is no such model.
        PictureError: the folder cannot be written to.
    """
    check_folders(source, target)
    if masks is None and needs_mask(chain):
        masks = Masks()
    if masks is not None:
        masked(chain, "")
    _settle(chain)
    found = listing(source, leave_out=target)
    _tell(found, source, notify)
    work = Work(chain, provenance, quality, models or _models())
    todo = items(found, source, target, masks, ending)
    if not todo and not found.unreadable:
        raise UsageError(f"{source}: holds no pictures; their names end in {' '.join(sorted(PICTURES))}")
    if begin is not None:
        begin(len(todo))
    with opened(
        target, _identity(chain, target, masks, ending, provenance, quality), resume=resume, force=force
    ) as journal:
        summary = run(work, todo, journal, engine or serial, force=force, watch=watch)
    for name, error in found.unreadable.items():
        summary.failed[name] = error
        if watch is not None:
            watch(Result(Item(name, "", "", ""), error=error))
    return summary


def _settle(chain: Chain) -> None:
    """Find once what would be wrong with every picture: plugins in conflict, no such model or sampler."""
    from editkit.models import describe

    write_nothing_beside(chain, "a batch")
    for stage in chain.inherited().stages:
        info = describe(model_name(stage), offline=stage.options.offline)
        plugins = arrange(stage, info, has_picture=True)
        make_sampler(suited(plugins, info, stage.options).sampler or info.sampler)


def _tell(found: Listing, source: Path, notify: Notify) -> None:
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
    where = "" if masks is None or masks.folder is None else str(masks.folder.resolve())
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
        elif not force and Path(item.target).exists():
            reason = f"{item.target}: exists already and is not of this run; move it away, or give --force"
            _take(journal, summary, Result(item, error=reason), watch)
        else:
            todo.append(item)
    summary.before = before
    results = engine(work, todo)
    try:
        for result in results:
            _take(journal, summary, result, watch)
    finally:
        close = getattr(results, "close", None)
        if close is not None:
            close()  # workers must not outlive a run that was broken off
    return summary


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
        summary.made += 1
        summary.calls += result.calls
    if watch is not None:
        watch(result)
