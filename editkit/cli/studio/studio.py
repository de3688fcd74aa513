"""The studio behind the routes. Reading, decoding and planning run in threads, a few at once."""

from __future__ import annotations

import contextlib
import io
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from editkit.cli.plan import record as planned
from editkit.cli.studio import notations
from editkit.cli.studio.board import Board
from editkit.cli.studio.config import Config, RefusedRequest
from editkit.cli.studio.queue import Queue
from editkit.cli.studio.recipes import RequestedEdit, parse_request
from editkit.cli.studio.records import EditRecord, PictureRecord, new_id
from editkit.cli.studio.store import OWN, Store
from editkit.cli.studio.views import Views
from editkit.cli.studio.work import Maker
from editkit.editing import recipe
from editkit.editing.settle import plan_stages
from editkit.errors import EditkitError, UsageError
from editkit.pictures import masks, shapes
from editkit.pictures.files.atomic import keep_backup
from editkit.pictures.files.formats import to_write
from editkit.pictures.files.writing import check_output, format_of, to_bytes, write
from editkit.pictures.picture import Picture, as_png
from editkit.pictures.raster import Raster, at_depth
from editkit.plugin.chain import Chain
from editkit.plugin.masking import with_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from editkit.models.leasing import Models

ALONE = "alone:"
"""Prefix of the tab of an edit that no tab requested: it takes turns by itself."""


class Studio:
    """One folder, its edits, and the workers that run them."""

    def __init__(self, config: Config, models: Models | None = None) -> None:
        from editkit.models.leasing import Models as Loaded

        self.config = config
        self.store = Store(config.folder, config.bounds)
        self.board = Board()
        self.views = Views(self.store, config.bounds.decoded)
        self.maker = Maker(config, self.store, self.board, models or Loaded())
        self.queue = Queue(config.bounds, self.maker, self.maker.dropped)
        self.tabs = Tabs(config.bounds.away)

    # asking for edits

    def ask(self, picture: str, data: object, mask: str | None, tab: str | None, candidates: int) -> list[EditRecord]:
        """Queue an edit, or several that differ in their seeds.

        Raises:
            EditkitError: the edit is invalid. Refused: it is not allowed, or too many edits wait.
        """
        source = self.store.picture(picture)
        asked = self._requested_edit(data, mask)
        group = new_id() if candidates > 1 else None
        edits = []
        for k in range(candidates):
            chain = _shift_seeds(asked.as_written, k) if k else asked.as_written
            edit = EditRecord(
                id=new_id(), picture=picture, parent=picture if source.id in self._edit_ids() else None,
                recipe=recipe.to_mapping(chain), tab=tab, group=group, created=time.time(),
                seed=chain.stages[0].options.seed, summary=asked.summary,
            )  # fmt: skip
            self.store.keep_edit(edit)
            try:
                self.queue.add(edit.id, tab or ALONE + edit.id)
            except RefusedRequest:
                self.maker.dropped(edit.id)
                self.store.forget(edit.id)
                raise
            self.board.tell(edit.id, "state", **edit.public_data())
            edits.append(edit)
        return edits

    def _edit_ids(self) -> frozenset[str]:
        return frozenset(edit.id for edit in self.store.edits())

    def _requested_edit(self, data: object, mask: str | None) -> RequestedEdit:
        if mask is not None:
            path = self.store.mask(mask).relative_to(self.config.folder).as_posix()
            data = recipe.to_mapping(with_mask(recipe.from_mapping(data), path))
        return parse_request(data, self.config)

    def plan(self, picture: str, data: object, mask: str | None) -> dict[str, Any]:
        """Return what an edit would do and cost; loads no weights."""
        notices: list[str] = []
        asked = self._requested_edit(data, mask)
        plans = plan_stages(asked.real.inherited(), self.maker.source(picture), notices.append)
        return {
            "stages": [planned(plan) for plan in plans],
            "calls": sum(plan.calls for plan in plans),
            "size": [plans[-1].picture.width, plans[-1].picture.height],
            "notices": notices,
        }

    def in_notations(self, picture: str, data: object, mask: str | None) -> dict[str, Any]:
        """Return the edit as a command line, as Python and as YAML, for the studio's folder."""
        source = self.store.picture(picture)
        asked = self._requested_edit(data, mask)
        name = f"{Path(source.name).stem}.{asked.as_written.stages[0].plugins[0].name}.png"
        return {**notations.write_forms(asked.as_written, source.path, name), "recipe": asked.mapping}

    # masks

    def add_mask(self, picture: str, source: bytes | str) -> dict[str, Any]:
        """Add a mask of a picture, from the bytes of a file or from words as `--mask` takes them."""
        if isinstance(source, str) and not shapes.is_words(source):
            raise UsageError(f"{source[:80]!r} does not describe a mask; write {shapes.words()[:300]}")
        if isinstance(source, str):
            parse_request({"editkit": 2, "stages": [{"plugins": [{"inpaint": {"mask": source}}]}]}, self.config)
        notices: list[str] = []
        given = source if isinstance(source, str) else io.BytesIO(source)
        mask = masks.load(given, self.maker.source(picture), notify=notices.append)
        eight = np.rint(mask * 255.0).astype(np.uint8)
        id_ = self.store.add_mask(as_png(Image.fromarray(eight)))
        path = self.store.mask(id_).relative_to(self.config.folder).as_posix()
        share = float(np.count_nonzero(eight)) / eight.size
        return {
            "id": id_,
            "path": path,
            "width": eight.shape[1],
            "height": eight.shape[0],
            "share": share,
            "notices": notices,
        }

    def raw_mask(self, id_: str) -> bytes:
        """Return the bytes of a mask, row by row, 0 to 255."""
        return _read_grey(self.store.mask(id_)).tobytes()

    # results

    def result(self, id_: str) -> tuple[EditRecord, PictureRecord]:
        """Return an edit and its result.

        Raises:
            Refused: it has no result.
        """
        edit = self.store.edit(id_)
        if edit.result is None:
            raise RefusedRequest(409, "this edit has no result")
        return edit, edit.result

    def _result_with_metadata(self, edit: EditRecord, result: PictureRecord) -> tuple[Raster, NDArray[np.bool_] | None]:
        """Return a result with its source's metadata, and what could change, as the command has it."""
        picture = Picture.read(self.store.file(result))
        with contextlib.suppress(EditkitError):  # if the source is gone, the result is returned without its metadata
            picture = replace(picture, meta=self.maker.source(edit.picture).meta)
        kept = self.store.result_place(edit.id) / "kept.png"
        return picture, _read_grey(kept) > 0 if kept.is_file() else None

    def download(self, id_: str, format: str, quality: int | None) -> tuple[bytes, str]:
        """Return a result in a file format, and a name for it."""
        edit, result = self.result(id_)
        row = to_write(format)
        picture, mask = self._result_with_metadata(edit, result)
        data, _, _ = to_bytes(picture, row.name, [], mask=mask, text=edit.provenance, quality=quality)
        return data, Path(result.name).stem + row.endings[0]

    def save(self, id_: str, path: str, quality: int | None, over: bool) -> dict[str, Any]:
        """Write a result into the folder. `over`: replace an existing file, which is kept as FILE~.

        Raises:
            Refused: the path is not in the folder. EditkitError: it cannot be written.
        """
        edit, result = self.result(id_)
        target = self._target(path)
        format_of(target)
        check_output(target, force=over, quality=quality)
        picture, mask = self._result_with_metadata(edit, result)
        if over and os.path.lexists(target):
            keep_backup(target)
        done = write(picture, target, mask=mask, force=over, text=edit.provenance, quality=quality)
        return {
            "path": path, "bytes": done.bytes, "format": done.format, "deviation": done.deviation,
            "kept": done.kept_deviation, "notices": list(done.notices),
        }  # fmt: skip

    def _target(self, path: str) -> Path:
        """Return the path in the folder for a new file.

        Raises:
            Refused: the path is not in the folder.
        """
        parts = path.split("/")
        hidden = any(part.startswith(".") or not part or "\\" in part or "\0" in part for part in parts)
        target = self.config.folder / path
        inside = not hidden and target.parent.is_dir() and target.parent.resolve().is_relative_to(self.config.folder)
        if not inside or OWN in parts or target.is_symlink():
            raise RefusedRequest(403, "results are written into the studio's folder; give a name, or FOLDER/NAME in it")
        return target


def _read_grey(file: Path) -> NDArray[np.uint8]:
    """Read a mask that the studio wrote, (H, W); like any picture, since the folder may be somebody else's."""
    return at_depth(Picture.read(file).pixels[..., 0], np.dtype(np.uint8))


def _shift_seeds(chain: Chain, by: int) -> Chain:
    """Return `chain` with `by` added to every seed."""
    return chain.with_seed(lambda seed: (seed + by) % 2**63)


class Tabs:
    """Tracks the open tabs, so that the edits of a closed one leave the queue.

    Args:
        away: seconds without a stream after which a tab counts as closed; a reload interrupts the stream briefly.
    """

    def __init__(self, away: float) -> None:
        self.away = away
        self._streams: dict[str, int] = {}
        self._left: dict[str, float] = {}

    def __len__(self) -> int:
        return sum(self._streams.values())

    def come(self, tab: str) -> None:
        """Record that a stream of `tab` begins."""
        self._streams[tab] = self._streams.get(tab, 0) + 1
        self._left.pop(tab, None)

    def go(self, tab: str, now: float) -> None:
        """Record that a stream of `tab` has ended."""
        self._streams[tab] -= 1
        if not self._streams[tab]:
            del self._streams[tab]
            self._left[tab] = now

    def closed(self, now: float) -> list[str]:
        """Return the tabs that have been away too long; each is returned once."""
        gone = [tab for tab, since in self._left.items() if now - since >= self.away]
        for tab in gone:
            del self._left[tab]
        return gone


def one_line(error: BaseException) -> dict[str, Any]:
    """Describe an error: one line, and its place in the recipe if known."""
    place = getattr(error, "place", None)
    answer: dict[str, Any] = {"error": " ".join(str(error).split())[:2000]}
    return {**answer, "place": list(place)} if isinstance(place, tuple) else answer
