"""A browser, and a studio with some pictures in it."""

from __future__ import annotations

import os
import shutil

import cv2
import pytest
from PIL import Image
from studio_page import another, opened

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="package")
def browser():
    """Chromium: Debian's, driven by Playwright; one for all tests of the studio, each in a context of its own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    there = os.environ.get("EDITKIT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if there is None:
        pytest.skip("no Chromium here (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=there, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of several kinds."""
    from studio_help import pixels, png

    place = tmp_path_factory.mktemp("photos")
    (place / "photo.png").write_bytes(png(pixels(120, 160)))
    cv2.imwrite(str(place / "deep.png"), pixels(120, 160, deep=True)[..., ::-1])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(120, 160)).save(place / "turned.jpg", exif=exif, quality=95)
    (place / "<img src=x onerror=window.bad=1>.png").write_bytes(png(pixels(20, 24)))
    return place


@pytest.fixture(scope="module")
def address(folder):
    """Of a studio that serves it."""
    from studio_help import served

    with served(folder) as made:
        yield made


@pytest.fixture
def page(browser, address):
    """The page in a context of its own; nothing in it may go wrong."""
    with another(browser, viewport={"width": 1280, "height": 800}) as made:
        wrong: list[str] = []
        made.on("pageerror", lambda error: wrong.append(str(error)))
        opened(made, address)
        yield made
    assert not wrong


@pytest.fixture
def gate(monkeypatch):
    """Every edit waits here after each of its steps; each step shows an estimate."""
    from studio_help import Gate

    from editkit.cli.studio import work
    from editkit.cli.studio.work import Watcher

    real, made = Watcher.__call__, Gate()

    def held(self, update):
        real(self, update)
        made.wait(self.stop)

    monkeypatch.setattr(Watcher, "__call__", held)
    monkeypatch.setattr(work, "SHARE", 1e9)
    monkeypatch.setattr(work, "OFTEN", 0.0)
    yield made
    made.open()
