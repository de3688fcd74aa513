"""The studio in a real browser: tabs, reloads, a server that was killed, doors, and how it looks."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from studio_help import TOKEN, pixels, png, served
from studio_page import RUNNING, another, drag, fill, frames, method, opened, ran, until, watched

pytestmark = pytest.mark.loopback  # a browser


def test_two_tabs_work_at_once_and_their_results_stay_apart(browser, page, address, folder):
    with another(browser) as other:
        for one, path, seed in ((page, "photo.png", "1"), (other, "deep.png", "2")):
            opened(one, address, path)
            method(one, "sdedit")
            fill(one, "steps", "10", ".options")
            fill(one, "seed", seed, ".options")
        for one in (page, other):
            one.click("#go:enabled")
        for one, depth, seed in ((page, 8, 1), (other, 16, 2)):
            until(one, "studio.history.edits.get(studio.state.group[0])?.state === 'done'")
            edit = one.evaluate("studio.history.edits.get(studio.state.group[0])")
            assert (edit["result"]["depth"], edit["seed"]) == (depth, seed)
            until(one, f"studio.state.picture.id === {edit['id']!r}")


HELD = """studio.chain.take({editkit: 2, stages: [
    {plugins: [{sdedit: {strength: 1.0}}], options: {steps: 16, model: 'pocket'}}]})"""


def test_a_reload_finds_the_running_edit_and_stop_ends_it(page, address, gate):
    opened(page, address, "photo.png")
    page.evaluate(HELD)
    page.click("#go:enabled")
    until(page, RUNNING)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    until(page, RUNNING)
    assert page.is_visible("#progress progress")
    page.click("#stop")
    until(page, "studio.state.running.size === 0")
    assert page.evaluate("[...studio.history.edits.values()].at(-1).state") == "stopped"
    page.wait_for_selector("#go:enabled")


def test_names_and_prompts_are_never_run(page, address):
    name = "<img src=x onerror=window.bad=1>.png"
    assert name in page.inner_text("#welcome")
    page.locator(".tile", has_text=name).click()
    page.wait_for_selector("#studio:not([data-empty])")
    assert page.inner_text("#file-name") == name
    script = "<script>window.bad=1</script>"
    stage = {"plugins": [{"inpaint": {"mask": script}}], "options": {"prompt": script}}
    page.evaluate("(stage) => studio.chain.take({editkit: 2, stages: [stage]})", stage)
    until(page, "studio.chain.error !== null")  # the library has answered
    frames(page)
    assert page.evaluate("window.bad === undefined")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(page, address, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()

    def check(where: str) -> None:
        found = axe.run(page).response["violations"]
        assert not found, [(where, v["id"], [node["target"] for node in v["nodes"]][:4]) for v in found]

    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    check("welcome")
    opened(page, address, "photo.png")
    check("no chain")
    drag(page, (30, 30), (60, 40))
    method(page, "inpaint")
    page.click(".card-form summary")
    check("a card")
    fill(page, "steps", "3", ".options")
    ran(page)
    page.click("#compare")
    frames(page)
    check("comparing")
    for pane in ("history", "words", "models"):
        page.click(f"#tab-{pane}")
        frames(page)
        check(pane)
    page.click("#save")
    check("saving")
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 320, "height": 700})
    page.click("#tab-edit")
    check("320 pixels")


@pytest.mark.parametrize("width", [320, 768, 1280, 3840])
def test_nothing_runs_out_of_the_window(page, address, width):
    page.set_viewport_size({"width": width, "height": 800})
    opened(page, address, "photo.png")
    method(page, "inpaint")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("#go", "#tools", "#canvas", "#tab-models"):
        box = page.locator(name).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_a_killed_server_that_is_started_again_has_the_history(browser, tmp_path):
    folder, token = tmp_path / "photos", tmp_path / "token"
    folder.mkdir()
    (folder / "photo.png").write_bytes(png(pixels(60, 80)))
    token.write_text(TOKEN)

    def start() -> tuple[subprocess.Popen[str], str]:
        words = [sys.executable, str(Path(__file__).parent / "held_studio.py"), str(folder), "--token-file", str(token)]
        process = subprocess.Popen([*words, "--port", "0"], stdout=subprocess.PIPE, text=True)
        return process, process.stdout.readline().split()[-1]

    process, address = start()
    try:
        with another(browser) as page:
            opened(page, address, "photo.png")
            method(page, "sdedit")
            fill(page, "steps", "8", ".options")
            edit = ran(page)
            page.evaluate(HELD)
            page.evaluate("studio.state.goOn = false")
            page.click("#go:enabled")
            until(page, RUNNING)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process, address = start()
            opened(page, address, "photo.png")
            states = page.evaluate("[...studio.history.edits.values()].map((edit) => edit.state)")
            assert states == ["done", "interrupted"]
        result = folder / ".editkit-studio" / "edits" / edit / "result.png"
        assert hashlib.sha256(result.read_bytes()).hexdigest()
    finally:
        process.kill()
        process.wait()


def test_the_door_lets_in_whoever_knows_the_password(browser, folder):
    with served(folder, password="correct horse") as address, another(browser) as page:
        page.goto(address.replace(f"{TOKEN}/", ""))
        page.fill("#password", "correct horse")
        page.click("button")
        page.wait_for_selector("html[data-ready]")
        assert TOKEN in page.url


SHOTS = os.environ.get("EDITKIT_SCREENSHOTS")  # read here: no test sees EDITKIT_...


PHOTOS = Path(__file__).parents[2] / "assets" / "photos"


def test_how_it_looks(browser, gate, tmp_path):
    """The pictures of docs/studio.md: EDITKIT_SCREENSHOTS=docs/studio writes them there. Each shows what it should."""
    folder, shots = tmp_path / "photos", Path(SHOTS or tmp_path)
    shutil.copytree(PHOTOS, folder)
    with served(folder) as address, another(browser, viewport={"width": 1280, "height": 800}) as page:

        def look(name: str, *seen: str) -> None:
            for selector in seen:
                assert page.is_visible(selector), selector
            page.screenshot(path=shots / f"{name}.jpg", type="jpeg", quality=82)
            assert np.asarray(Image.open(shots / f"{name}.jpg")).std() > 5

        opened(page, address)
        loaded = "[...document.images].every((image) => image.complete && image.naturalWidth > 0)"
        until(page, f"document.images.length === 5 && {loaded}")
        look("welcome", ".welcome-card", ".tile")
        opened(page, address, "meadow.jpg")
        drag(page, (232, 210), (268, 236), (330, 206))
        method(page, "inpaint")
        page.mouse.move(5, 400)
        until(page, "document.querySelector('.cost').textContent.includes('network calls')")
        look("painted", ".chip", "#go", "#mask-share")
        page.emulate_media(color_scheme="dark")
        page.click("#go")
        watched(page, gate, 2)
        look("running", "#progress", "#stop")
        gate.open()
        until(page, "document.getElementById('compare') !== null")
        page.click("#compare")
        page.click("#tab-history")
        until(page, f"document.querySelectorAll('.node').length === 2 && {loaded}")
        look("compared", ".labels", ".tree")
        page.set_viewport_size({"width": 390, "height": 844})
        page.click("#tab-edit")
        frames(page)
        look("phone", "#go", "#tools")
