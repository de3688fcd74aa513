"""The work on one picture: a pure function from an `Item` to a `Result` with the file's bytes. It writes nothing and
raises nothing.

It has three stages, so that one picture is read and another one's result is encoded while a third is in the network:
`read` decodes, `edit` runs the networks, `pack` encodes. Called, it does all three.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from editkit.batch.engines import Result
from editkit.batch.folder import Item
from editkit.batch.manifest import with_columns
from editkit.batch.stores import is_address, read_from, redact
from editkit.errors import EditkitError, PictureError
from editkit.pictures.shapes import is_words
from editkit.plugin.chain import Chain
from editkit.plugin.masking import with_mask

if TYPE_CHECKING:
    from editkit.editing.result import Made
    from editkit.models.leasing import Models
    from editkit.pictures.picture import Picture


T = TypeVar("T")


def new_models(size: int = 1) -> Models:
    """What nothing is loaded into yet, for so many pictures at once; torch is imported now."""
    from editkit.models.leasing import Models
    from editkit.models.sharing import SharingLoad

    return Models() if size == 1 else Models(load=SharingLoad())


@dataclass(frozen=True)
class Opened:
    """A picture that was read, with what is done to it. `aside`: a folder for a mask that came from a store."""

    item: Item
    picture: Picture
    chain: Chain
    aside: str | None = None


@dataclass(frozen=True)
class Edited:
    """A picture that was made and is not encoded yet."""

    item: Item
    made: Made
    seed: int
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """The pure function: one item to one result. Can be sent to other processes; models are loaded once in each.

    Args:
        chain: what is done to every picture; its seeds are the run's.
        provenance: keep in each result how it was made.
        quality: of JPEG, WebP and AVIF; None: as each picture came.
        models: what was loaded for all of them.
        size: pictures that are in the network at once.
    """

    chain: Chain
    provenance: bool = True
    quality: int | None = None
    models: Models = field(default_factory=new_models, compare=False)
    size: int = 1

    def __call__(self, item: Item) -> Result:
        return self.pack(self.edit(self.read(item)))

    def read(self, item: Item) -> Opened | Result:
        """The picture, decoded."""
        return self._catch_errors(item, lambda: self._read(item))

    def edit(self, opened: Opened | Result) -> Edited | Result:
        """What the networks make of it; a failure stays one."""
        if isinstance(opened, Result):
            return opened
        try:
            return self._catch_errors(opened.item, lambda: self._edit(opened))
        finally:
            if opened.aside is not None:
                shutil.rmtree(opened.aside, ignore_errors=True)

    def edit_many(self, opened: Sequence[Opened | Result]) -> list[Edited | Result]:
        """The same for several pictures at once; calls of the network that are of one size are one (`size`)."""
        from editkit.models.sharing import SharingLoad

        load = self.models.load
        ready = [one for one in opened if isinstance(one, Opened)]
        if len(ready) < 2 or not isinstance(load, SharingLoad):
            return [self.edit(one) for one in opened]

        def one(each: Opened) -> Edited | Result:
            with load.meeting.member():
                return self.edit(each)

        load.meeting.expect(len(ready))
        with ThreadPoolExecutor(len(ready)) as pool:
            made = pool.map(one, ready)
            return [next(made) if isinstance(each, Opened) else each for each in opened]

    def pack(self, edited: Edited | Result) -> Result:
        """The file's bytes; a failure stays one."""
        if isinstance(edited, Result):
            return edited
        return self._catch_errors(edited.item, lambda: self._pack(edited))

    def _catch_errors(self, item: Item, made: Callable[[], T]) -> T | Result:
        try:
            return made()
        except EditkitError as error:
            reason = " ".join(str(error).split())
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Result(item, seed=with_own_seed(self.chain, item.name).stages[0].options.seed, error=reason)

    def _read(self, item: Item) -> Opened:
        from editkit.pictures.picture import Picture

        if not is_address(item.source) and Path(item.source).exists() and not Path(item.source).is_file():
            raise PictureError("is not a regular file")  # a row may name a pipe, which would be waited for
        picture = read_address(item.source) if is_address(item.source) else Picture.read(item.source)
        chain, aside = with_columns(with_own_seed(self.chain, item.name), item.columns), None
        if item.mask is not None:
            mask = item.mask
            if is_address(mask) and not is_words(mask):
                mask, aside = _fetch_mask(mask)
            elif not is_words(mask) and not Path(mask).is_file():  # a named pipe would be waited for
                wrong = "not a regular file" if Path(mask).exists() else "missing"
                raise PictureError(f"its mask is {wrong}: {mask}")
            chain = with_mask(chain, mask)
        return Opened(item, picture, chain, aside)

    def _edit(self, opened: Opened) -> Edited:
        from editkit.editing.result import make

        notices = list(opened.picture.meta.notices)
        made = make(opened.picture, opened.chain, notify=notices.append, models=self.models)
        return Edited(opened.item, made, opened.chain.stages[0].options.seed, tuple(notices))

    def _pack(self, edited: Edited) -> Result:
        from editkit.pictures.files.writing import format_of, to_bytes

        item, made, notices = edited.item, edited.made, list(edited.notices)
        target = Path(item.target)
        origin = made.provenance(redact(item.source), target.parent) if self.provenance else None
        result, text = made.to_write(), None if origin is None else origin.to_text()
        data, deviation, _ = to_bytes(
            result, format_of(target), notices, mask=result.mask, text=text, quality=self.quality
        )
        figures = tuple((f"{plugin}.{name}", value) for _, plugin, of in made.figures for name, value in of.items())
        return Result(item, data, edited.seed, made.calls, deviation, tuple(notices), figures=figures)


def read_address(address: str) -> Picture:
    """The picture at an address."""
    from editkit.pictures.files.reading import decode
    from editkit.pictures.picture import Picture

    raster = decode(*read_from(address))
    return Picture(raster.pixels, raster.alpha, raster.meta)


def _fetch_mask(mask: str) -> tuple[str, str]:
    """A mask that lies in a store as a file of its own name, since plugins read files; and the folder around it."""
    try:
        data, name = read_from(mask)
    except PictureError as error:
        raise PictureError(f"its mask is missing: {error}") from None
    folder = tempfile.mkdtemp(prefix="editkit-mask-")
    path = Path(folder) / name.rpartition("/")[2]
    path.write_bytes(data)
    return str(path), folder


def with_own_seed(chain: Chain, name: str) -> Chain:
    """`chain` with a seed of its own for the picture called `name`: of the run's seed and the name alone, so that the
    same picture gets the same noise whatever else lies in the folder, and however often the run was broken off.
    """

    def own(seed: int) -> int:
        digest = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    return chain.with_seed(own)


def without_data(result: Result) -> Result:
    """A result whose bytes are where they belong: without them."""
    return replace(result, data=b"")
