"""The studio's page in a real browser: Debian's Chromium, driven by Playwright with real pointer events."""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from studio_help import TOKEN, pixels, png, served
from test_door import SEPIA, distribution

from editkit.cli import run
from editkit.cli.studio import work
from editkit.cli.studio.work import Watcher
from editkit.errors import ParameterError
from editkit.pictures.picture import Picture
from editkit.plugin import registry

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("EDITKIT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium)")

PATIENCE = 40.0
"""Seconds that something may take on a busy machine before a test gives up."""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of several kinds."""
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
    with served(folder) as made:
        yield made


@pytest.fixture
def page(browser, address):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    made = context.new_page()
    made.set_default_timeout(PATIENCE * 1000)
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    opened(made, address)
    yield made
    context.close()
    assert not wrong


def opened(page: Any, address: str, path: str | None = None) -> None:
    """The page, and a picture of the folder in it."""
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    if path is not None:
        page.click(f'[data-path="{path}"]')
        page.wait_for_selector("#studio:not([data-empty])")
        until(page, f"studio.state.root?.path === {path!r} && studio.view.mask !== null")
        until(page, "Math.abs(studio.view.canvas.width / studio.view.ratio - studio.view.canvas.clientWidth) < 1")


def until(page: Any, expression: str) -> None:
    """Wait until something is so. The page's own policy forbids what Playwright's waiting does."""
    end = time.monotonic() + PATIENCE
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never: {expression}"
        page.wait_for_timeout(30)


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
    until(page, ENDED)
    edit = page.evaluate("studio.history.edits.get(studio.state.group[0])")
    assert edit["state"] == "done", edit
    until(page, f"studio.state.picture.id === {edit['id']!r} && document.getElementById('save') !== null")
    return str(edit["id"])


def saved(page: Any, folder: Path, name: str) -> Path:
    """The result, saved by the page's own dialog."""
    page.click("#save")
    page.fill("#save-name", name)
    page.click("#save-go")
    until(page, "!document.getElementById('sheet').open")
    return folder / name


@pytest.fixture
def unhurried(monkeypatch):
    """Edits take a while whatever the machine, so that somebody can watch them."""
    real = Watcher.__call__

    def slow(self, update):
        real(self, update)
        time.sleep(0.08)

    monkeypatch.setattr(Watcher, "__call__", slow)
    monkeypatch.setattr(work, "SHARE", 1.0)


@pytest.mark.parametrize("name", ["photo.png", "deep.png", "turned.jpg"])
def test_painting_at_two_zooms_runs_shows_estimates_compares_and_saves_every_other_pixel(
    page, address, folder, unhurried, name
):
    opened(page, address, name)
    method(page, "inpaint")
    drag(page, (30, 30), (50, 40))
    page.evaluate("studio.view.zoomTo(studio.view.z * 2.5)")
    page.wait_for_timeout(60)
    drag(page, (55, 60), (70, 62))
    marked = mask_of(page)
    assert marked[30, 30] == marked[60, 60] == 255
    fill(page, "steps", "20", ".options")
    ran(page)
    assert page.evaluate("studio.state.estimates") >= 3
    page.click("#compare")
    until(page, "studio.view.divider !== null && studio.view.before !== null")
    left, top, _, _, _, width, height = page.evaluate(PLACE)
    x, y = left + width / 2, top + height / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 100, y, steps=4)
    page.mouse.up()
    assert page.evaluate("studio.view.divider") > 0.55
    file = saved(page, folder, f"saved-{name}.png")
    before, after = Picture.read(folder / name), Picture.read(file)
    assert before.pixels.dtype == after.pixels.dtype
    assert before.pixels.shape[:2] == marked.shape
    assert np.array_equal(before.pixels[marked == 0], after.pixels[marked == 0])
    assert not np.array_equal(before.pixels[marked > 0], after.pixels[marked > 0])


def test_undo_and_redo_restore_the_mask_to_the_bit(page, address):
    opened(page, address, "photo.png")
    seen = [mask_of(page)]
    drag(page, (20, 20), (60, 30))
    seen.append(mask_of(page))
    page.keyboard.press("e")
    drag(page, (40, 10), (40, 50))
    seen.append(mask_of(page))
    page.keyboard.press("o")
    drag(page, (80, 40), (120, 90))
    seen.append(mask_of(page))
    page.keyboard.press("l")
    drag(page, (20, 70), (60, 75), (40, 110), steps=12)
    seen.append(mask_of(page))
    assert len({one.tobytes() for one in seen}) == 5
    for wanted in reversed(seen[:-1]):
        page.keyboard.press("Control+z")
        assert np.array_equal(mask_of(page), wanted)
    for wanted in seen[1:]:
        page.click("#redo")
        assert np.array_equal(mask_of(page), wanted)


def test_what_is_drawn_is_what_the_library_draws_from_the_same_words(page, address, folder):
    from editkit.pictures.shapes import from_words

    opened(page, address, "photo.png")
    picture = Picture.read(folder / "photo.png")
    for key, points in (
        ("b", [(20.3, 20.7), (60, 31), (44, 52)]),
        ("r", [(70, 12), (110.6, 44.4)]),
        ("e", [(80, 10), (90, 60)]),
        ("o", [(15, 70), (66, 108.5)]),
        ("l", [(90, 70), (140, 80), (100, 110)]),
    ):
        page.keyboard.press(key)
        drag(page, *points)
    page.keyboard.press("w")
    page.mouse.click(*at(page, 150, 5))
    until(page, "studio.view.mask.words.includes('flood:')")
    words = page.evaluate("studio.view.mask.words")
    assert np.array_equal(mask_of(page), np.rint(255 * from_words(words, picture)).astype(np.uint8)), words


@pytest.mark.parametrize(("width", "height"), [(400, 250), (4000, 3000)])
@pytest.mark.parametrize("zoom", [0.1, 1.0, 8.0])
def test_a_stroke_lands_within_a_pixel_of_the_pointer(page, address, folder, width, height, zoom):
    name = f"flat{width}.png"
    if not (folder / name).exists():
        cv2.imwrite(str(folder / name), np.full((height, width, 3), 90, np.uint8))
    opened(page, address, name)
    page.evaluate(f"studio.tools.size = 6; studio.view.zoomTo({zoom})")
    page.wait_for_timeout(60)
    left, top, ox, oy, z, wide, high = page.evaluate(PLACE)
    assert z == zoom
    x, y = left + wide / 2 + 3, top + high / 2 - 2
    page.mouse.click(x, y)
    rows, columns = np.nonzero(mask_of(page))
    wanted = ((x - left - ox) / z, (y - top - oy) / z)
    assert abs(columns.mean() + 0.5 - wanted[0]) <= 1.0
    assert abs(rows.mean() + 0.5 - wanted[1]) <= 1.0


def test_what_is_seen_is_where_it_is_painted(page, address, folder):
    """A mark in the picture is found on the screen; a click on it marks that very pixel."""
    array = np.full((100, 150, 3), 60, np.uint8)
    array[37, 91] = 255
    (folder / "mark.png").write_bytes(png(array))
    opened(page, address, "mark.png")
    page.evaluate("studio.tools.size = 1; studio.view.zoomTo(8)")
    page.wait_for_timeout(200)
    page.mouse.move(5, 5)
    shot = cv2.imdecode(np.frombuffer(page.locator("#canvas").screenshot(), np.uint8), cv2.IMREAD_COLOR)
    box = page.locator("#canvas").bounding_box()
    shot = shot[:, : shot.shape[1]]
    bright = (shot.min(axis=2) > 240) & (np.arange(shot.shape[0])[:, None] < 600)
    count, _, stats, centres = cv2.connectedComponentsWithStats(bright.astype(np.uint8))
    (one,) = [k for k in range(1, count) if 40 <= stats[k, cv2.CC_STAT_AREA] <= 90]
    page.mouse.click(box["x"] + centres[one][0], box["y"] + centres[one][1])
    assert list(zip(*np.nonzero(mask_of(page)), strict=True)) == [(37, 91)]


def test_three_cards_give_the_bytes_of_the_command_that_the_page_shows(page, address, folder, monkeypatch):
    opened(page, address, "photo.png")
    drag(page, (30, 30), (60, 40))
    method(page, "inpaint")
    page.click('[data-focus="with-0"]')
    page.click('dialog[open] [data-plugin="guide"]')
    fill(page, "brightness", "0.6")
    page.click('[data-focus="then"]')
    page.click('dialog[open] [data-plugin="sdedit"]')
    fill(page, "strength", "0.2")
    fill(page, "steps", "5", ".options")
    fill(page, "seed", "11", ".options")
    page.click("#tab-words")
    for words in ("--strength=0.2", "--seed=11"):
        until(page, f"document.getElementById('said-command')?.textContent.includes({words!r})")
    command = page.inner_text("#said-command")
    ran(page)
    file = saved(page, folder, "three-cards.png")
    words = shlex.split(command)[1:]
    words[-1] = "--output=by-command.png"
    monkeypatch.chdir(folder)
    assert run([*words, "--quiet"]) == 0
    assert file.read_bytes() == (folder / "by-command.png").read_bytes()


def test_a_command_that_is_pasted_becomes_cards(page, address):
    opened(page, address, "photo.png")
    page.click("#tab-words")
    page.fill(
        "#paste",
        "editkit inpaint x.png --mask box:10,10,40,40 --seed 9 with guide --brightness 0.7 then sdedit --strength 0.3",
    )
    page.click("#paste-go")
    until(page, "studio.chain.cards.map((card) => card.name).join() === 'inpaint,guide,sdedit'")
    assert page.evaluate("studio.chain.stages[0].options") == {"seed": 9}
    page.click("#tab-words")
    until(page, "document.getElementById('said-python')?.textContent.includes('Inpaint(mask=')")


def test_a_strangers_plugin_appears_with_its_form_and_its_own_error(browser, folder, tmp_path, monkeypatch):
    distribution(tmp_path, "my-sepia", SEPIA, "sepia = my_sepia:Sepia")
    monkeypatch.syspath_prepend(str(tmp_path))
    with served(folder) as address:
        page = browser.new_page()
        opened(page, address, "photo.png")
        method(page, "sepia")
        fill(page, "strength_of_tint", "7")
        page.wait_for_selector('.field[data-key="strength_of_tint"].wrong')
        shown = page.inner_text('.field[data-key="strength_of_tint"] .field-error')
        with pytest.raises(ParameterError) as own:
            registry.load("sepia")(strength_of_tint=7)
        assert own.value.reason in shown
        fill(page, "strength_of_tint", "0.5")
        fill(page, "steps", "20", ".options")
        until(page, "document.querySelector('.wrong') === null")
        ran(page)
        page.close()


def test_two_tabs_work_at_once_and_their_results_stay_apart(browser, page, address, folder):
    other = browser.new_context().new_page()
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
    other.context.close()


LONG = """studio.chain.take({editkit: 2, stages: [
    {plugins: [{sdedit: {strength: 1.0}}], options: {steps: 1000, model: 'pocket'}}]})"""


def test_a_reload_finds_the_running_edit_and_stop_ends_it(page, address):
    opened(page, address, "photo.png")
    page.evaluate(LONG)
    page.click("#go:enabled")
    until(page, "[...studio.state.running.values()].some((edit) => edit.fraction > 0)")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    until(page, "[...studio.state.running.values()].some((edit) => edit.fraction > 0)")
    assert page.is_visible("#progress progress")
    page.click("#stop")
    until(page, "studio.state.running.size === 0")
    assert page.evaluate("[...studio.history.edits.values()].at(-1).state") == "stopped"
    page.wait_for_selector("#go:enabled")


def test_painting_survives_a_reload(page, address):
    opened(page, address, "photo.png")
    method(page, "inpaint")
    drag(page, (30, 30), (60, 40))
    painted = mask_of(page)
    until(page, "sessionStorage.getItem('mask') !== null")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    until(page, "studio.view.mask?.count > 0")
    assert np.array_equal(mask_of(page), painted)
    assert page.evaluate("studio.chain.cards[0].name") == "inpaint"


def test_names_and_prompts_are_never_run(page, address):
    name = "<img src=x onerror=window.bad=1>.png"
    assert name in page.inner_text("#welcome")
    page.locator(".tile", has_text=name).click()
    page.wait_for_selector("#studio:not([data-empty])")
    assert page.inner_text("#file-name") == name
    script = "<script>window.bad=1</script>"
    stage = {"plugins": [{"inpaint": {"mask": script}}], "options": {"prompt": script}}
    page.evaluate("(stage) => studio.chain.take({editkit: 2, stages: [stage]})", stage)
    page.wait_for_timeout(600)
    assert page.evaluate("window.bad === undefined")


def test_the_keyboard_alone_opens_paints_chooses_and_runs(page, address):
    page.focus('[data-path="photo.png"]')
    page.keyboard.press("Enter")
    until(page, "studio.view.mask !== null")
    page.focus("#canvas")
    for key in ("ArrowLeft", "Enter", "ArrowLeft", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    assert page.evaluate("studio.view.mask.count") > 100
    page.focus('[data-plugin="inpaint"]')
    page.keyboard.press("Enter")
    page.wait_for_selector("#go:enabled")
    page.keyboard.press("Control+Enter")
    until(page, "studio.history.edits.get(studio.state.group[0])?.state === 'done'")


def test_touch_paints_with_one_finger_and_zooms_with_two(browser, address):
    context = browser.new_context(has_touch=True, viewport={"width": 420, "height": 800})
    page = context.new_page()
    opened(page, address, "photo.png")
    devtools = context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        given = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(points)]
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": given})

    a, b = at(page, 50, 50), at(page, 90, 60)
    touch("touchStart", a)
    touch("touchMove", b)
    touch("touchEnd")
    until(page, "studio.view.mask.count > 0")
    painted, z = page.evaluate("[studio.view.mask.count, studio.view.z]")
    touch("touchStart", a)
    touch("touchStart", a, b)
    touch("touchMove", (a[0] - 60, a[1]), (b[0] + 60, b[1]))
    touch("touchEnd")
    until(page, f"studio.view.z > {z} * 1.3")
    assert page.evaluate("studio.view.mask.count") == painted
    context.close()


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
    page.wait_for_timeout(50)
    check("comparing")
    for pane in ("history", "words", "models"):
        page.click(f"#tab-{pane}")
        page.wait_for_timeout(120)
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


def test_every_form_sends_what_its_declaration_takes_and_shows_its_error(page, address):
    opened(page, address, "photo.png")
    declared = page.evaluate("[...studio.chain.declared.values()]")
    assert {row["name"] for row in declared if not row.get("broken")} == set(registry.names())
    for row in declared:
        bounded = next(
            (f for f in row["fields"] if f["own"] and f["kind"] in ("int", "float") and f["low"] is not None), None
        )
        name = row["name"]
        page.evaluate("(name) => { studio.chain.stages = []; studio.chain.add(name, null); }", name)
        values = page.evaluate("studio.chain.recipe('box:1,1,9,9').stages[0].plugins[0]")[name]
        required = {f["key"] for f in row["fields"] if f["required"]}
        try:
            registry.load(name)(**values)
        except ParameterError as error:  # it needs more than its defaults: the page says what
            until(page, f"document.getElementById('panel').textContent.includes({error.reason!r})")
            continue
        if bounded is None or required:
            continue
        wrong = bounded["low"] - 1
        page.evaluate("() => document.querySelectorAll('.card-form details').forEach((one) => { one.open = true; })")
        fill(page, bounded["key"], f"{wrong:g}")
        page.wait_for_selector(f'.field[data-key="{bounded["key"]}"].wrong')
        with pytest.raises(ParameterError) as own:
            registry.load(name)(**{bounded["name"]: int(wrong) if bounded["kind"] == "int" else wrong})
        assert own.value.reason.split(", got")[0] in page.inner_text(
            f'.field[data-key="{bounded["key"]}"] .field-error'
        )


def test_a_killed_server_that_is_started_again_has_the_history(browser, tmp_path):
    folder, token = tmp_path / "photos", tmp_path / "token"
    folder.mkdir()
    (folder / "photo.png").write_bytes(png(pixels(60, 80)))
    token.write_text(TOKEN)

    def start() -> tuple[subprocess.Popen[str], str]:
        code = "from editkit.cli import main; main()"
        words = [sys.executable, "-c", code, "studio", str(folder), "--port", "0", "--token-file", str(token)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        return process, process.stdout.readline().split()[-1]

    process, address = start()
    page = browser.new_page()
    try:
        opened(page, address, "photo.png")
        method(page, "sdedit")
        fill(page, "steps", "8", ".options")
        edit = ran(page)
        page.evaluate(LONG)
        page.evaluate("studio.state.goOn = false")
        page.click("#go:enabled")
        until(page, "[...studio.state.running.values()].some((edit) => edit.fraction > 0)")
        process.send_signal(signal.SIGKILL)
        process.wait()
        process, address = start()
        opened(page, address, "photo.png")
        states = page.evaluate("[...studio.history.edits.values()].map((edit) => edit.state)")
        assert states == ["done", "interrupted"]
        result = folder / ".editkit-studio" / "edits" / edit / "result.png"
        assert hashlib.sha256(result.read_bytes()).hexdigest()
    finally:
        page.close()
        process.terminate()
        process.wait()


def test_the_door_lets_in_whoever_knows_the_password(browser, folder):
    with served(folder, password="correct horse") as address:
        page = browser.new_page()
        page.goto(address.replace(f"{TOKEN}/", ""))
        page.fill("#password", "correct horse")
        page.click("button")
        page.wait_for_selector("html[data-ready]")
        assert TOKEN in page.url
        page.close()


SHOTS = os.environ.get("EDITKIT_SCREENSHOTS")  # read here: no test sees EDITKIT_...
PHOTOS = Path(__file__).parent.parent / "assets" / "photos"


def test_how_it_looks(browser, unhurried, tmp_path):
    """The pictures of docs/studio.md: EDITKIT_SCREENSHOTS=docs/studio writes them there. Each shows what it should."""
    folder, shots = tmp_path / "photos", Path(SHOTS or tmp_path)
    shutil.copytree(PHOTOS, folder)
    with served(folder) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 800})

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
        until(page, "studio.state.estimates >= 2 && studio.state.running.size > 0")
        look("running", "#progress", "#stop")
        until(page, "document.getElementById('compare') !== null")
        page.click("#compare")
        page.click("#tab-history")
        until(page, f"document.querySelectorAll('.node').length === 2 && {loaded}")
        look("compared", ".labels", ".tree")
        page.set_viewport_size({"width": 390, "height": 844})
        page.click("#tab-edit")
        page.wait_for_timeout(100)
        look("phone", "#go", "#tools")
        page.close()
