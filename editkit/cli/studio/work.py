"""Run one edit of the queue, from its record to its result in the folder, through the library."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from editkit.cli.studio.board import Board
from editkit.cli.studio.config import Config
from editkit.cli.studio.queue import Stop
from editkit.cli.studio.recipes import parse_request
from editkit.cli.studio.records import EditRecord
from editkit.cli.studio.store import Store, describe_picture
from editkit.common.extras import missing
from editkit.errors import EditkitError
from editkit.pictures.files.atomic import save_bytes
from editkit.pictures.picture import Picture, as_png
from editkit.plugin.options import Options

if TYPE_CHECKING:
    from PIL import Image

    from editkit.editing.result import Made
    from editkit.editing.stages import Update
    from editkit.models.leasing import Models

OFTEN = 0.15
"""Shortest time between two estimates, in seconds."""

SHARE = 0.1
"""Largest share of an edit's time that is spent on decoding estimates."""

SIDE = 1024
"""Longest side of an estimate, in pixels."""


class EditStopped(Exception):  # noqa: N818
    """The edit was told to stop."""


class Watcher:
    """Reports the progress of an edit to the board, and stops the edit on request."""

    def __init__(self, board: Board, edit: str, stop: Stop, clock: Callable[[], float] = time.monotonic) -> None:
        self.board, self.edit, self.stop, self.clock = board, edit, stop, clock
        self.began = clock()
        self.spent = 0.0
        self.shown = self.last_report = -1.0

    def __call__(self, update: Update) -> None:
        if self.stop:
            raise EditStopped
        now = self.clock()
        if now - self.last_report >= 0.1 or update.fraction >= 1.0:
            self.last_report = now
            left = (now - self.began) * (1.0 - update.fraction) / max(update.fraction, 1e-6)
            self.board.tell(
                self.edit, "progress", fraction=update.fraction, seconds_left=round(left, 1),
                stage=update.stage, stages=update.stages, step=update.state.index, steps=update.state.total,
            )  # fmt: skip
        if now - self.shown >= OFTEN and self.spent <= SHARE * (now - self.began):
            self.shown = now
            self._show(update)
            self.spent += self.clock() - now

    def _show(self, update: Update) -> None:
        image = update.image
        if image is None:
            return
        at = update.plan.passes[update.pass_].at
        box, picture = at.box, update.plan.picture
        image = image.crop((0, 0, min(at.width, image.width), min(at.height, image.height)))
        if picture.mask is not None:
            inside = np.rint(picture.mask[box.rows, box.columns] * 255.0).astype(np.uint8)
            image.putalpha(_alpha(inside, image.size))
        image.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        image.save(file, "WEBP", quality=80)
        self.board.show(
            self.edit,
            file.getvalue(),
            box=[box.left, box.top, box.right, box.bottom],
            size=[picture.width, picture.height],
            fraction=update.fraction,
        )


def _alpha(inside: np.ndarray[tuple[int, int], np.dtype[np.uint8]], size: tuple[int, int]) -> Image.Image:
    from PIL import Image

    return Image.fromarray(inside).resize(size, Image.Resampling.BOX)


class Maker:
    """Runs edits; one for all workers."""

    def __init__(self, config: Config, store: Store, board: Board, models: Models) -> None:
        self.config, self.store, self.board, self.models = config, store, board, models

    def __call__(self, id_: str, device: str, stop: Stop) -> None:
        """Run one edit; errors are written to its record."""
        edit = self._update_record(self.store.edit(id_), state="running")
        began = time.monotonic()
        notices: list[str] = []

        def notify(message: str) -> None:
            if message not in notices and len(notices) < 100:
                notices.append(message)
                self.board.tell(id_, "notice", text=message)

        try:
            done = self._run_edit(edit, device, stop, notify)
        except EditStopped:
            done = edit.model_copy(update={"state": "stopped"})
        except EditkitError as error:
            done = edit.model_copy(update={"state": "failed", "error": _error_line(error)})
        except Exception as error:  # a library failed: the server reports it and goes on
            extra = missing(error) if isinstance(error, ImportError) else None
            line = _error_line(extra) if extra is not None else f"{type(error).__name__}: {_error_line(error)}"
            done = edit.model_copy(update={"state": "failed", "error": line})
        seconds = round(time.monotonic() - began, 2)
        self._update_record(done, seconds=seconds, notices=tuple(notices))
        self.board.forget([id_])

    def dropped(self, id_: str) -> None:
        """Record that an edit was removed before it began."""
        self._update_record(self.store.edit(id_), state="stopped")

    def _update_record(self, edit: EditRecord, **changes: object) -> EditRecord:
        changed = edit.model_copy(update=changes)
        self.store.keep_edit(changed)
        self.board.tell(edit.id, "state", **changed.public_data())
        return changed

    def _run_edit(self, edit: EditRecord, device: str, stop: Stop, notify: Callable[[str], None]) -> EditRecord:
        from editkit.editing.result import make

        asked = parse_request(edit.recipe, self.config)
        source = self.store.picture(edit.picture)
        picture = self.source(edit.picture)
        for notice in picture.meta.notices:
            notify(notice)
        chain = asked.real if device == "auto" else asked.real.with_options(Options(device=device))
        watcher = Watcher(self.board, edit.id, stop)
        made = make(picture, chain, watch=watcher, notify=notify, models=self.models)
        if stop:
            raise EditStopped
        made.chain = asked.real.inherited()
        origin = made.provenance(source.path, self.config.folder)
        return self._write_result(edit, source.name, made, origin.to_text())

    def _write_result(self, edit: EditRecord, name: str, made: Made, origin: str) -> EditRecord:
        """Write the result to the folder and return its record."""
        from editkit.pictures.files.writing import write

        place = self.store.result_place(edit.id)
        result = made.to_write()
        file = place / "result.png"
        written = write(result, file, mask=result.mask, force=True, text=origin)
        if result.mask is not None:
            from PIL import Image

            save_bytes(
                place / "kept.png", as_png(Image.fromarray((result.mask > 0).astype(np.uint8) * 255)), force=True
            )
        stem = name.rpartition(".")[0] or name
        first = made.chain.stages[0].plugins[0].name
        path = file.relative_to(self.config.folder).as_posix()
        record = describe_picture(edit.id, f"{stem}.{first}.png", path, made.picture)
        record = record.model_copy(update={"notices": tuple(written.notices)})
        return edit.model_copy(
            update={
                "state": "done", "calls": made.calls, "kept": made.kept_deviation, "provenance": origin,
                "seed": made.chain.stages[0].options.seed, "result": record,
            }
        )  # fmt: skip

    def source(self, id_: str) -> Picture:
        """Return the picture with this id, as the command would read it."""
        return Picture.read(self.store.file(self.store.picture(id_)))


def _error_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:1000]
