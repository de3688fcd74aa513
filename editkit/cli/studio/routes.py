"""The addresses of a studio, documented by OpenAPI (`/openapi.json`)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from editkit.cli.studio import forms, notations
from editkit.cli.studio.board import Event
from editkit.cli.studio.config import RefusedRequest
from editkit.cli.studio.records import ENDED
from editkit.cli.studio.studio import Studio
from editkit.editing import recipe

T = TypeVar("T")

PAUSE = 0.05
"""Seconds between two checks of the board."""

HEARTBEAT = 10.0
"""Seconds after which a silent stream sends a sign of life."""

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Tab = Annotated[str, Field(pattern=r"^[\w-]{1,64}$")]


class EditRequest(BaseModel):
    """An edit of a picture. `recipe` is the mapping of a recipe's YAML."""

    model_config = ConfigDict(extra="forbid")

    picture: Id
    recipe: dict[str, Any]
    mask: Id | None = None


class QueuedEditRequest(EditRequest):
    """An edit to run. `candidates`: the number of seeds, starting with its own. `tab`: the tab that asks."""

    candidates: int = Field(1, ge=1, le=16)
    tab: Tab | None = None


class MaskWordsRequest(BaseModel):
    """A mask in words, as `--mask` takes them."""

    model_config = ConfigDict(extra="forbid")

    picture: Id
    words: str = Field(max_length=200_000)


class TextRequest(BaseModel):
    """A command line, Python or YAML."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(max_length=notations.MOST)


class PathRequest(BaseModel):
    """A path in the studio's folder."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(min_length=1, max_length=1000)


class SaveRequest(PathRequest):
    """Where to save a result. `over`: replace an existing file, which is kept as FILE~."""

    quality: int | None = Field(None, ge=1, le=100)
    over: bool = False


class Calls:
    """Runs decoding, planning and writing in threads, only a few at once to bound memory."""

    def __init__(self) -> None:
        self.heavy = CapacityLimiter(2)
        self.uploads = asyncio.Semaphore(2)

    async def __call__(self, function: Callable[..., T], *args: Any) -> T:
        return await to_thread.run_sync(lambda: function(*args), limiter=self.heavy)


# long: a table of addresses
def pictures(studio: Studio, calls: Calls) -> APIRouter:
    """Pictures of the folder, uploaded pictures, and their previews."""
    router = APIRouter(tags=["pictures"])

    @router.get("/folder")
    async def listing() -> list[dict[str, Any]]:
        """List the pictures of the studio's folder."""
        return [dict(row) for row in await calls(studio.store.listing)]

    @router.get("/folder/thumb")
    async def thumb(path: Annotated[str, Query(max_length=1000)]) -> Response:
        """Return a thumbnail of a picture of the folder."""
        return _image(await calls(studio.views.thumb, path))

    @router.post("/pictures", status_code=201)
    async def send(request: Request, name: Annotated[str, Query(max_length=1000)] = "picture") -> dict[str, Any]:
        """Upload a picture: the file is the body, and is kept unchanged."""
        async with calls.uploads:
            data = await request.body()
            return (await calls(studio.store.add, name, data)).model_dump()

    @router.post("/pictures/open")
    async def opened(place: PathRequest) -> dict[str, Any]:
        """Open a picture of the folder."""
        return (await calls(studio.store.open, place.path)).model_dump()

    @router.get("/pictures/{picture}")
    async def one(picture: Id) -> dict[str, Any]:
        """Return the record of a picture; a result has the id of its edit."""
        return studio.store.picture(picture).model_dump()

    @router.get("/pictures/{picture}/preview")
    async def preview(picture: Id) -> Response:
        """Return the whole picture, at most 2048 pixels a side, 8 bits, sRGB."""
        return _image(await calls(studio.views.preview, picture))

    @router.get("/pictures/{picture}/tiles/{level}/{column}/{row}")
    async def tile(picture: Id, level: int, column: int, row: int) -> Response:
        """Return a tile of 512 pixels a side, each pixel the mean of 2^level x 2^level."""
        return _image(await calls(studio.views.tile, picture, level, column, row))

    return router


def masks(studio: Studio, calls: Calls) -> APIRouter:
    """Masks: white = regenerate."""
    router = APIRouter(tags=["masks"])

    @router.post("/masks", status_code=201)
    async def send(request: Request, picture: Annotated[Id, Query()]) -> dict[str, Any]:
        """Upload a mask of a picture: a PNG (or another picture) of the same size is the body."""
        async with calls.uploads:
            data = await request.body()
            return await calls(studio.add_mask, picture, data)

    @router.post("/masks/words", status_code=201)
    async def worded(asked: MaskWordsRequest) -> dict[str, Any]:
        """Draw a mask in words, as `box:10,10,80,60+color:#ffffff~20`."""
        return await calls(studio.add_mask, asked.picture, asked.words)

    @router.get("/masks/{mask}")
    async def one(mask: Id) -> Response:
        """Return a mask as PNG."""
        return _image(await calls(studio.store.mask(mask).read_bytes))

    @router.get("/masks/{mask}/raw")
    async def raw(mask: Id) -> Response:
        """Return its bytes row by row, 0 to 255."""
        return Response(await calls(studio.raw_mask, mask), media_type="application/octet-stream")

    return router


# long: a table of addresses
def edits(studio: Studio, calls: Calls) -> APIRouter:
    """Edits: request, watch, stop, save."""
    router = APIRouter(tags=["edits"])

    @router.post("/edits", status_code=202)
    async def ask(asked: QueuedEditRequest) -> list[dict[str, Any]]:
        """Queue an edit."""
        made = await calls(studio.ask, asked.picture, asked.recipe, asked.mask, asked.tab, asked.candidates)
        return [edit.public_data() for edit in made]

    @router.get("/edits")
    async def all_of_them() -> list[dict[str, Any]]:
        """List all edits of the folder in the order of their requests; running ones with their progress."""
        return [{**studio.board.progress(edit.id), **edit.public_data()} for edit in studio.store.edits()]

    @router.get("/edits/{edit}")
    async def one(edit: Id) -> dict[str, Any]:
        """Return one edit, with its progress if it is running. `before`: how many run before it."""
        progress = studio.board.progress(edit)
        return {**progress, **studio.store.edit(edit).public_data(), "before": studio.queue.before(edit)}

    @router.post("/edits/{edit}/cancel")
    async def cancel(edit: Id) -> dict[str, Any]:
        """Remove it from the queue, or stop it at its next step."""
        studio.store.edit(edit)
        await calls(studio.queue.cancel, edit)
        return studio.store.edit(edit).public_data()

    @router.delete("/edits/{edit}", status_code=204)
    async def forget(edit: Id) -> None:
        """Delete an ended edit and its result."""
        await calls(studio.store.forget, edit)
        studio.board.tell(edit, "gone")

    @router.get("/edits/{edit}/events")
    async def events(edit: Id, request: Request) -> StreamingResponse:
        """Stream the server-sent events of one edit until it ends: state, progress, notice, estimate."""
        studio.store.edit(edit)
        return _stream_events(studio, request, f"of:{edit}", edit)

    @router.get("/edits/{edit}/estimates/{number}")
    async def estimate(edit: Id, number: int) -> Response:
        """Return the picture of one of the latest estimates; it covers the `box` of its event."""
        found = studio.board.estimate(edit, number)
        if found is None:
            raise RefusedRequest(404, "this estimate is no longer kept")
        return _image(found)

    @router.get("/edits/{edit}/result")
    async def result(
        edit: Id,
        format: Annotated[str, Query(max_length=16)] = "png",
        quality: Annotated[int | None, Query(ge=1, le=100)] = None,
    ) -> Response:
        """Return the result as a file: png, jpeg, tiff, webp."""
        data, name = await calls(studio.download, edit, format, quality)
        return _file(data, name)

    @router.post("/edits/{edit}/save")
    async def save(edit: Id, asked: SaveRequest) -> dict[str, Any]:
        """Write the result into the studio's folder; the suffix of the name sets the format."""
        return await calls(studio.save, edit, asked.path, asked.quality, asked.over)

    @router.get("/edits/{edit}/recipe")
    async def text(edit: Id) -> Response:
        """Return its recipe, for `editkit run`."""
        found = studio.store.edit(edit)
        words = recipe.to_yaml(recipe.from_mapping(found.recipe))
        return _file(words.encode(), "recipe.yaml")

    return router


# long: a table of addresses
def about(studio: Studio, calls: Calls) -> APIRouter:
    """What is available, what an edit would do, and how to write it."""
    router = APIRouter(tags=["about"])

    @router.get("/plugins")
    async def plugins() -> dict[str, Any]:
        """Return the plugins with their fields, the options of a run, and the words for masks."""
        return {"plugins": await calls(forms.plugins), "options": forms.options(), "words": forms.words()}

    @router.get("/models")
    async def models() -> list[dict[str, Any]]:
        """List the models that may be named here."""
        return await calls(forms.models, studio.config)

    @router.get("/status")
    async def status() -> dict[str, Any]:
        """Return the state of the studio."""
        return await calls(forms.status, studio.config)

    @router.post("/plan")
    async def plan(asked: EditRequest) -> dict[str, Any]:
        """Return what an edit would do and cost; an error names its place in the recipe."""
        return await calls(studio.plan, asked.picture, asked.recipe, asked.mask)

    @router.post("/said")
    async def written(asked: EditRequest) -> dict[str, Any]:
        """Return an edit as a command line, as Python and as YAML."""
        return await calls(studio.in_notations, asked.picture, asked.recipe, asked.mask)

    @router.post("/read")
    async def read(asked: TextRequest) -> dict[str, Any]:
        """Read a command line, Python or YAML into a recipe's mapping."""
        return await calls(notations.parse_text, asked.text)

    @router.get("/events")
    async def events(request: Request, tab: Annotated[Tab, Query()]) -> StreamingResponse:
        """Stream the server-sent events of all edits while a tab is open; `Last-Event-ID` resumes."""
        return _stream_events(studio, request, tab, None)

    return router


def _stream_events(studio: Studio, request: Request, tab: str, edit: str | None) -> StreamingResponse:
    """Open a stream; their number is limited."""
    if len(studio.tabs) >= studio.config.bounds.streams:
        raise RefusedRequest(503, f"{studio.config.bounds.streams} streams are open already; close a tab")
    last = request.headers.get("last-event-id", "")
    begin = int(last) if last.isdigit() and len(last) < 16 else (0 if edit is not None else studio.board.last)
    stream = _events(studio, tab, begin, edit)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _events(studio: Studio, tab: str, last: int, edit: str | None) -> AsyncIterator[str]:
    """Yield events after number `last` as text, until the edit ends or the client disconnects."""
    studio.tabs.come(tab)
    silent = time.monotonic()
    try:
        yield ": here\n\n"
        while True:
            ended = edit is not None and (edit not in _ids(studio) or studio.store.edit(edit).state in ENDED)
            found, lost = studio.board.since(last, edit)
            if lost:
                yield f"id: {studio.board.last}\nevent: lost\ndata: {{}}\n\n"
            for event in found:
                yield _text(event)
            last = found[-1].number if found else (studio.board.last if lost else last)
            if ended:
                return
            if found:
                silent = time.monotonic()
            elif time.monotonic() - silent > HEARTBEAT:
                silent = time.monotonic()
                yield ": here\n\n"
            await asyncio.sleep(PAUSE)
    finally:
        studio.tabs.go(tab, time.monotonic())


def _ids(studio: Studio) -> frozenset[str]:
    return frozenset(edit.id for edit in studio.store.edits())


def _text(event: Event) -> str:
    data = json.dumps({**event.data, "edit": event.edit, "number": event.number})
    return f"id: {event.number}\nevent: {event.kind}\ndata: {data}\n\n"


def _image(data: bytes) -> Response:
    kind = "image/webp" if data[:4] == b"RIFF" else "image/png"
    return Response(data, media_type=kind, headers={"cache-control": "private, max-age=3600"})


def _file(data: bytes, name: str) -> Response:
    """Build a download. Names come from `safe_name` or the folder; the header leaves out what is not ASCII."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_. ") else "_" for c in name)
    headers = {"content-disposition": f'attachment; filename="{plain}"'}
    return Response(data, media_type="application/octet-stream", headers=headers)
