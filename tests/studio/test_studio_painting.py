"""The studio in a real browser: painting, and what is painted is what is edited."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from studio_help import png
from studio_page import (
    KEPT,
    PLACE,
    another,
    at,
    drag,
    fill,
    finished,
    frames,
    laid_out,
    mask_of,
    method,
    opened,
    saved,
    until,
    watched,
)

from editkit.pictures.picture import Picture

pytestmark = pytest.mark.loopback  # a browser


@pytest.mark.parametrize("name", ["photo.png", "deep.png", "turned.jpg"])
def test_painting_at_two_zooms_runs_shows_estimates_compares_and_saves_every_other_pixel(
    page, address, folder, gate, name
):
    opened(page, address, name)
    method(page, "inpaint")
    drag(page, (30, 30), (50, 40))
    page.evaluate("studio.view.zoomTo(studio.view.z * 2.5)")
    frames(page)
    drag(page, (55, 60), (70, 62))
    marked = mask_of(page)
    assert marked[30, 30] == marked[60, 60] == 255
    fill(page, "steps", "8", ".options")
    page.click("#go:enabled")
    watched(page, gate, 3)
    gate.open()
    finished(page)
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


CENTRE = """(() => {
    const { data, width } = studio.view.mask;
    let n = 0, x = 0, y = 0;
    for (let k = 0; k < data.length; k++) if (data[k]) { n++; x += k % width; y += Math.floor(k / width); }
    return [x / n, y / n];
})()"""
"""Of what is painted, (column, row)."""


@pytest.mark.parametrize(("width", "height"), [(400, 250), (4000, 3000)])
@pytest.mark.parametrize("zoom", [0.1, 1.0, 8.0])
def test_a_stroke_lands_within_a_pixel_of_the_pointer(page, address, folder, width, height, zoom):
    name = f"flat{width}.png"
    if not (folder / name).exists():
        cv2.imwrite(str(folder / name), np.full((height, width, 3), 90, np.uint8))
    opened(page, address, name)
    page.evaluate(f"studio.tools.size = 6; studio.view.zoomTo({zoom})")
    frames(page)
    left, top, ox, oy, z, wide, high = page.evaluate(PLACE)
    assert z == zoom
    x, y = left + wide / 2 + 3, top + high / 2 - 2
    page.mouse.click(x, y)
    column, row = page.evaluate(CENTRE)
    wanted = ((x - left - ox) / z, (y - top - oy) / z)
    assert abs(column + 0.5 - wanted[0]) <= 1.0
    assert abs(row + 0.5 - wanted[1]) <= 1.0


def test_what_is_seen_is_where_it_is_painted(page, address, folder):
    """A mark in the picture is found on the screen; a click on it marks that very pixel."""
    array = np.full((100, 150, 3), 60, np.uint8)
    array[37, 91] = 255
    (folder / "mark.png").write_bytes(png(array))
    opened(page, address, "mark.png")
    page.evaluate("studio.tools.size = 1; studio.view.zoomTo(8)")
    page.mouse.move(5, 5)
    frames(page)
    shot = cv2.imdecode(np.frombuffer(page.locator("#canvas").screenshot(), np.uint8), cv2.IMREAD_COLOR)
    box = page.locator("#canvas").bounding_box()
    shot = shot[:, : shot.shape[1]]
    bright = (shot.min(axis=2) > 240) & (np.arange(shot.shape[0])[:, None] < 600)
    count, _, stats, centres = cv2.connectedComponentsWithStats(bright.astype(np.uint8))
    (one,) = [k for k in range(1, count) if 40 <= stats[k, cv2.CC_STAT_AREA] <= 90]
    page.mouse.click(box["x"] + centres[one][0], box["y"] + centres[one][1])
    assert list(zip(*np.nonzero(mask_of(page)), strict=True)) == [(37, 91)]


def test_painting_survives_a_reload(page, address):
    opened(page, address, "photo.png")
    method(page, "inpaint")
    drag(page, (30, 30), (60, 40))
    painted = mask_of(page)
    until(page, KEPT)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    until(page, "studio.view.mask?.count > 0")
    assert np.array_equal(mask_of(page), painted)
    assert page.evaluate("studio.chain.cards[0].name") == "inpaint"


def test_the_keyboard_alone_opens_paints_chooses_and_runs(page, address):
    page.focus('[data-path="photo.png"]')
    page.keyboard.press("Enter")
    until(page, "studio.view.mask !== null")
    laid_out(page)
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
    with another(browser, has_touch=True, viewport={"width": 420, "height": 800}) as page:
        touched(page, address)


def touched(page, address):
    opened(page, address, "photo.png")
    devtools = page.context.new_cdp_session(page)

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
