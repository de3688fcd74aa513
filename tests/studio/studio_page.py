"""What tests of the studio's page do in it: open a picture, paint, fill in forms, run, save."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

PATIENCE = 120.0
"""Seconds that something may take on a busy machine before a test gives up."""

RUNNING = "[...studio.state.running.values()].some((edit) => edit.fraction > 0)"
"""An edit runs, and the page knows how far it is."""


@contextmanager
def another(browser: Any, **given: Any) -> Iterator[Any]:
    """A page in a context of its own."""
    context = browser.new_context(**given)
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    try:
        yield page
    finally:
        context.close()


def opened(page: Any, address: str, path: str | None = None) -> None:
    """The page, and a picture of the folder in it."""
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    if path is not None:
        page.click(f'[data-path="{path}"]')
        page.wait_for_selector("#studio:not([data-empty])")
        until(page, f"studio.state.root?.path === {path!r} && studio.view.mask !== null")
        laid_out(page)


def until(page: Any, expression: str) -> None:
    """Wait until something is so. The page's own policy forbids what Playwright's waiting does."""
    end = time.monotonic() + PATIENCE
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never: {expression}"
        page.wait_for_timeout(30)


def laid_out(page: Any) -> None:
    """Wait until the canvas has the size of its place, and has been drawn."""
    canvas, ratio = "studio.view.canvas", "studio.view.ratio"
    for side, place in (("width", "clientWidth"), ("height", "clientHeight")):
        until(page, f"Math.abs({canvas}.{side} / {ratio} - {canvas}.{place}) < 1")
    frames(page)


def frames(page: Any) -> None:
    """Wait until whatever was asked for has been drawn: two frames."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


KEPT = "sessionStorage.getItem('mask') !== null && studio.state.mask?.version === studio.view.mask.version"
"""The studio has the mask as it is now, and a reload will ask for it."""


PLACE = """(() => {
    const place = document.getElementById('canvas').getBoundingClientRect(), view = studio.view;
    return [place.left, place.top, view.x, view.y, view.z, place.width, place.height];
})()"""


BYTES = """(() => {
    let text = '';
    const data = studio.view.mask.data;
    for (let k = 0; k < data.length; k += 8192) text += String.fromCharCode(...data.subarray(k, k + 8192));
    return btoa(text);
})()"""


ENDED = """studio.state.group.length > 0 && studio.state.group.every(
    (id) => !['waiting', 'running'].includes(studio.history.edits.get(id)?.state))"""


def at(page: Any, x: float, y: float) -> tuple[float, float]:
    """Where a point of the picture is in the window."""
    left, top, ox, oy, z, *_ = page.evaluate(PLACE)
    return left + ox + x * z, top + oy + y * z


def drag(page: Any, *points: tuple[float, float], steps: int = 5) -> None:
    """Press, move and let go, through points of the picture."""
    page.mouse.move(*at(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*at(page, *point), steps=steps)
    page.mouse.up()


def mask_of(page: Any) -> np.ndarray:
    """(H, W) uint8: the page's mask."""
    width, height = page.evaluate("[studio.view.mask.width, studio.view.mask.height]")
    return np.frombuffer(base64.b64decode(page.evaluate(BYTES)), np.uint8).reshape(height, width)


def method(page: Any, name: str) -> None:
    """The first card of the chain."""
    page.click(f'.begin [data-plugin="{name}"]')


def fill(page: Any, key: str, value: str, scope: str = ".card-form") -> None:
    """Enter a value of a card or of the run."""
    page.locator(f'{scope} .field[data-key="{key}"]').locator("input, textarea").last.fill(value)


def ran(page: Any) -> str:
    """Run what is on the page to its end; the edit's name."""
    page.click("#go:enabled")
    return finished(page)


def finished(page: Any) -> str:
    """Wait for the end of what runs; the edit's name."""
    until(page, ENDED)
    edit = page.evaluate("studio.history.edits.get(studio.state.group[0])")
    assert edit["state"] == "done", edit
    until(page, f"studio.state.picture.id === {edit['id']!r} && document.getElementById('save') !== null")
    return str(edit["id"])


def watched(page: Any, gate: Any, estimates: int) -> None:
    """Let what runs go, a step at a time, until the page has shown some estimates; it waits then."""
    for seen in range(1, estimates + 1):
        until(page, f"studio.state.estimates >= {seen}")
        if seen < estimates:
            gate.step()


def saved(page: Any, folder: Path, name: str) -> Path:
    """The result, saved by the page's own dialog."""
    page.click("#save")
    page.fill("#save-name", name)
    page.click("#save-go")
    until(page, "!document.getElementById('sheet').open")
    return folder / name
