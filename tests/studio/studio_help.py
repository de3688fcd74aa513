"""A studio in a folder of its own, for tests: in this process, without a socket."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

for library in ("fastapi", "uvicorn", "httpx"):
    pytest.importorskip(library, reason="the extra [studio] and httpx are not installed")

import uvicorn  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from editkit.cli.studio import listening  # noqa: E402
from editkit.cli.studio.config import Bounds, Config  # noqa: E402
from editkit.cli.studio.queue import Stop  # noqa: E402
from editkit.cli.studio.server import application  # noqa: E402

TOKEN = "test-token-of-a-studio-0123"
HOST = "127.0.0.1:8765"


def config(folder: Path, **given: Any) -> Config:
    """A studio's configuration. However long a page takes to load again, its tab does not count as closed."""
    bounds = Bounds(away=3600.0)
    return Config(**{"folder": folder.resolve(), "token": TOKEN, "port": 8765, "bounds": bounds, **given})


class Gate:
    """Where edits wait after every step, so that none ends before somebody has seen it. A stop lets them go, too."""

    def __init__(self) -> None:
        self._steps, self._opened = threading.Semaphore(0), threading.Event()

    def step(self) -> None:
        """One edit goes one step."""
        self._steps.release()

    def open(self) -> None:
        """Edits wait no more."""
        self._opened.set()

    def wait(self, stop: Stop) -> None:
        """As an edit does that may be stopped."""
        while not (stop or self._opened.is_set() or self._steps.acquire(timeout=0.01)):
            pass


@contextmanager
def client_of(settings: Config) -> Iterator[TestClient]:
    """A client of a running studio, which knows the token."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    with TestClient(application(settings), base_url=f"http://{HOST}", headers=headers) as client:
        yield client


def pixels(height: int = 48, width: int = 64, seed: int = 0, deep: bool = False) -> np.ndarray:
    """A smooth picture with some noise, (H, W, 3)."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    smooth = np.stack([x, y, 0.5 + 0.0 * x], axis=-1) * 0.8
    noisy = smooth + 0.2 * np.random.default_rng(seed).random((height, width, 3))
    return (noisy * (65535 if deep else 255)).astype(np.uint16 if deep else np.uint8)


def png(array: np.ndarray) -> bytes:
    """The bytes of a PNG file of 8 bits."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def recipe(*stages: dict[str, Any], **options: Any) -> dict[str, Any]:
    """A recipe of stages, each plugins by name; `options` are the first one's."""
    made: list[dict[str, Any]] = [{"plugins": [{name: values} for name, values in stage.items()]} for stage in stages]
    if options:
        made[0]["options"] = options
    return {"editkit": 2, "stages": made}


def opened(client: TestClient, path: str) -> str:
    """The name of a picture of the folder."""
    answer = client.post("/pictures/open", json={"path": path})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def asked(client: TestClient, picture: str, wanted: dict[str, Any], **given: Any) -> list[dict[str, Any]]:
    """Edits that were taken."""
    answer = client.post("/edits", json={"picture": picture, "recipe": wanted, **given})
    assert answer.status_code == 202, answer.text
    return list(answer.json())


def events(client: TestClient, edit: str) -> list[tuple[str, dict[str, Any]]]:
    """Everything that happened to an edit until it ended."""
    text = client.get(f"/edits/{edit}/events").text
    blocks = [block.splitlines() for block in text.split("\n\n") if "event:" in block]
    return [(b[1].removeprefix("event: "), json.loads(b[2].removeprefix("data: "))) for b in blocks]


def ended(client: TestClient, edit: str) -> dict[str, Any]:
    """An edit, once it has ended."""
    events(client, edit)
    return dict(client.get(f"/edits/{edit}").json())


@contextmanager
def served(folder: Path, **given: Any) -> Iterator[str]:
    """A studio of `folder` at a port of this machine, in a thread of this process; its address."""
    settings = config(folder, port=0, **given)
    sock = listening(settings)
    server = uvicorn.Server(uvicorn.Config(application(settings), log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/{TOKEN}/"
    finally:
        server.should_exit = True
        thread.join(15)
