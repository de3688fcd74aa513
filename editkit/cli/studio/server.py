"""The server: access control, routes, page, one-line errors, start and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import PurePosixPath

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from editkit.cli.studio import routes
from editkit.cli.studio.config import Config, RefusedRequest
from editkit.cli.studio.guard import Guard
from editkit.cli.studio.studio import Studio, one_line
from editkit.errors import EditkitError
from editkit.models.leasing import Models

KINDS = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml", ".json": "application/json",
}  # fmt: skip


def application(config: Config, models: Models | None = None) -> Guard:
    """Build the server of a studio as an ASGI application. Its workers start and stop with it."""
    studio = Studio(config, models)

    @contextlib.asynccontextmanager
    async def alive(app: FastAPI) -> AsyncIterator[None]:
        studio.queue.start(await asyncio.to_thread(devices))
        watch = asyncio.create_task(_close_tabs(studio))
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.to_thread(studio.queue.end)

    app = FastAPI(
        title="editkit studio", description=__doc__ or "", docs_url=None, redoc_url=None, lifespan=alive,
        redirect_slashes=False,
    )  # fmt: skip
    calls = routes.Calls()
    for part in (routes.pictures, routes.masks, routes.edits, routes.about):
        app.include_router(part(studio, calls))
    _errors(app)
    _page(app, config)
    app.state.studio = studio
    return Guard(app, config)


def devices() -> tuple[str, ...]:
    """Return the devices for edits: every GPU, or else the one device. Imports torch before the first edit needs it."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(f"cuda:{k}" for k in range(count)) if count > 1 else ("auto",)


async def _close_tabs(studio: Studio) -> None:
    """Check every second for closed tabs."""
    while True:
        await asyncio.sleep(1.0)
        for tab in studio.tabs.closed(time.monotonic()):
            await asyncio.to_thread(studio.queue.close, tab)


def _errors(app: FastAPI) -> None:
    """Answer every error with a status and one line."""

    @app.exception_handler(EditkitError)
    async def ours(request: Request, error: EditkitError) -> JSONResponse:
        return JSONResponse(one_line(error), error.status if isinstance(error, RefusedRequest) else 422)

    @app.exception_handler(RequestValidationError)
    async def asked(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")[:200]
        return JSONResponse({"error": f"{where}: {first['msg']}" if where else str(first["msg"])}, 422)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code)

    @app.exception_handler(OSError)
    async def unusable(request: Request, error: OSError) -> JSONResponse:
        return JSONResponse({"error": f"{error.strerror or 'a file cannot be used'}; choose another name"}, 422)

    @app.exception_handler(RecursionError)
    async def deep(request: Request, error: RecursionError) -> JSONResponse:
        return JSONResponse({"error": "the request is nested too deeply"}, 422)

    @app.exception_handler(MemoryError)
    async def large(request: Request, error: MemoryError) -> JSONResponse:
        return JSONResponse({"error": "there is not enough memory for this"}, 507)


def _page(app: FastAPI, config: Config) -> None:
    """Add the routes of the page and its files, which are served only by known names."""
    place = files("editkit.cli.studio") / "page"
    known = {entry.name: entry for entry in place.iterdir() if entry.is_file()}

    def served(name: str) -> Response:
        return Response(known[name].read_bytes(), media_type=KINDS.get(PurePosixPath(name).suffix, "text/plain"))

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        if not request.scope.get("studio.in_path"):
            return served("login.html") if config.password is not None else served("index.html")
        return served("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in known:
            raise RefusedRequest(404, "the page has no such file")
        return served(name)

    @app.get("/login.css", include_in_schema=False)
    async def style() -> Response:
        return served("studio.css")

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        from urllib.parse import parse_qs

        word = parse_qs((await request.body()).decode("utf-8", "replace")).get("password", [""])[0]
        if not config.is_password(word):
            raise RefusedRequest(401, "wrong password")
        return Response(status_code=303, headers={"location": f"/{config.token}/"})
