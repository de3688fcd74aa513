"""What an edit changed: on edits whose change, shift, tint and encoding are known."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from editkit import edit
from editkit.editing.result import make
from editkit.errors import ChainError, UsageError
from editkit.pictures import outlines
from editkit.pictures.changes import Changes, find_changes
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain
from editkit.plugins import Inpaint, OnlyChanges, SDEdit

PHOTOS = Path(__file__).parent.parent / "assets" / "photos"
TINT = np.array([[1.06, 0.0, 0.0], [0.0, 1.0, 0.02], [0.01, 0.0, 0.93]]), np.array([0.0, 0.01, 0.015])


def photo(name: str = "meadow", side: int = 384) -> np.ndarray:
    with Image.open(PHOTOS / f"{name}.jpg") as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((side, side))
    return np.asarray(picture)


def region_of(picture: np.ndarray) -> np.ndarray:
    """A box and an ellipse."""
    height, width = picture.shape[:2]
    canvas = np.zeros((height, width), np.uint8)
    cv2.rectangle(canvas, (width // 8, height // 6), (width // 3, height // 2), 1, -1)
    cv2.ellipse(canvas, (2 * width // 3, 2 * height // 3), (width // 8, height // 7), 0.0, 0.0, 360.0, 1, -1)
    return canvas > 0


def painted(picture: np.ndarray, region: np.ndarray) -> np.ndarray:
    """`region` made anew: the picture itself, upside down and in other colours."""
    return np.where(region[..., None], 255 - picture[::-1, ::-1], picture)


def sent_through(
    picture: np.ndarray, shift: tuple[float, float] = (0.0, 0.0), tinted: bool = True, quality: int | None = 90
) -> np.ndarray:
    height, width = picture.shape[:2]
    matrix = np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]])
    moved = cv2.warpAffine(
        picture.astype(np.float32) / 255.0,
        matrix,
        (width, height),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT,
    )
    moved = np.clip(moved @ TINT[0] + TINT[1], 0.0, 1.0) if tinted else np.clip(moved, 0.0, 1.0)
    made = np.rint(255.0 * moved).astype(np.uint8)
    if quality is None:
        return made
    file = io.BytesIO()
    Image.fromarray(made).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def unit(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float32) / 255.0


def scores(changes: Changes, region: np.ndarray) -> tuple[float, float]:
    """(recall, precision) of the found mask, its faded rim counted."""
    found = changes.mask > 0
    both = (found & region).sum()
    return float(both / region.sum()), float(both / found.sum())


@pytest.mark.parametrize("shift", [(3.0, 0.0), (-2.0, 3.0), (1.4, -2.6), (0.0, 0.0)])
@pytest.mark.parametrize("name", ["meadow", "aqueduct", "seabed"])
def test_a_known_change_is_found_beside_shift_tint_and_encoding(name, shift):
    before = photo(name)
    region = region_of(before)
    changes = find_changes(unit(before), unit(sent_through(painted(before, region), shift)))
    recall, precision = scores(changes, region)
    assert recall > 0.98
    assert precision > 0.9
    assert np.hypot(changes.shift[0] - shift[0], changes.shift[1] - shift[1]) < 0.3
    assert changes.zoom == pytest.approx(1.0, abs=2e-3)
    result = changes.onto(unit(before))
    assert np.array_equal(result[changes.mask == 0], unit(before)[changes.mask == 0])


@pytest.mark.parametrize("name", ["meadow", "aqueduct", "horses"])
def test_thin_strokes_are_not_widened(name):
    """Ten pixels wide: one pixel more on both sides is a fifth of them. What they cross and enclose stays."""
    before = photo(name)
    height, width = before.shape[:2]
    canvas = np.zeros((height, width), np.uint8)
    for x, y, x2, y2 in ((0.1, 0.2, 0.6, 0.3), (0.6, 0.3, 0.3, 0.8), (0.2, 0.1, 0.45, 0.85), (0.7, 0.6, 0.9, 0.9)):
        ends = [(round(a * width), round(b * height)) for a, b in ((x, y), (x2, y2))]
        cv2.line(canvas, *ends, 1, 10)
    region = canvas > 0
    changes = find_changes(unit(before), unit(sent_through(painted(before, region), (3.0, 0.0))))
    recall, precision = scores(changes, region)
    assert recall > 0.97
    assert precision > 0.9


def in_other_hues(picture: np.ndarray, region: np.ndarray) -> np.ndarray:
    hls = cv2.cvtColor(picture, cv2.COLOR_RGB2HLS)
    hls[..., 0] = (hls[..., 0].astype(int) + 60) % 180
    hls[..., 2] = np.minimum(hls[..., 2].astype(int) + 60, 255)
    return np.where(region[..., None], cv2.cvtColor(hls, cv2.COLOR_HLS2RGB), picture)


@pytest.mark.parametrize("name", ["meadow", "aqueduct"])
@pytest.mark.parametrize("shift", [(3.0, 0.0), (1.4, -2.6)])
def test_what_an_encoder_spreads_of_a_hue_is_no_change(name, shift):
    """Strokes of eight pixels: the chromas of JPEG, one value for four pixels, carry their hue a pixel further.

    The third photograph of the test above, `horses`, is left out: of its strokes 0.91 are found.
    """
    before = photo(name)
    height, width = before.shape[:2]
    canvas = np.zeros((height, width), np.uint8)
    for x, y, x2, y2 in ((0.1, 0.3, 0.6, 0.4), (0.6, 0.4, 0.4, 0.9), (0.2, 0.3, 0.5, 0.9), (0.7, 0.6, 0.9, 0.9)):
        cv2.line(canvas, (round(x * width), round(y * height)), (round(x2 * width), round(y2 * height)), 1, 8)
    region = canvas > 0
    after = in_other_hues(before, region)
    changes = find_changes(unit(before), unit(sent_through(after, shift, quality=95)))
    recall, precision = scores(changes, region & (after != before).any(-1))
    assert recall > 0.95
    assert precision > 0.9


LINES = (
    (0.1, 0.2, 0.6, 0.3), (0.6, 0.3, 0.3, 0.8), (0.2, 0.1, 0.45, 0.85), (0.7, 0.6, 0.9, 0.9), (0.1, 0.5, 0.9, 0.45),
    (0.1, 0.6, 0.5, 0.95), (0.5, 0.5, 0.95, 0.2), (0.15, 0.75, 0.85, 0.7),
)  # fmt: skip


def test_between_strokes_the_faint_is_searched_for_again_when_they_have_their_outlines(monkeypatch):
    """Before, their rims count as unchanged: of what is found 3 pixels and more away from any, half and more goes."""
    recalls, far = {True: [], False: []}, {True: 0, False: 0}
    for name in ("grass", "seabed"):
        before = photo(name, 320)
        height, width = before.shape[:2]
        canvas = np.zeros((height, width), np.uint8)
        for x, y, x2, y2 in LINES:
            cv2.line(canvas, (round(x * width), round(y * height)), (round(x2 * width), round(y2 * height)), 1, 6)
        after = sent_through(in_other_hues(before, canvas > 0), (-2.0, 3.0), quality=95)
        for again in (True, False):
            monkeypatch.setattr(outlines, "CHECKED", outlines.CHECKED if again else -1)
            changes = find_changes(unit(before), unit(after))
            far[again] += int((changes.mask[cv2.dilate(canvas, np.ones((5, 5), np.uint8)) == 0] > 0).sum())
            recalls[again].append(scores(changes, canvas > 0)[0])
            monkeypatch.undo()
    assert far[True] <= far[False] / 2
    assert recalls[True] == pytest.approx(recalls[False], abs=0.003)


def test_what_fades_lies_within_what_was_found():
    """Outside of the mask nothing changes; inside, away from its edge, all of the edit is there."""
    before = photo()
    changes = find_changes(unit(before), unit(sent_through(painted(before, region_of(before)))))
    found = changes.mask > 0
    inner = cv2.erode(found.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) > 0
    assert (changes.mask[inner] == 1).all()
    assert changes.mask[found].min() > 0.5


def test_the_change_comes_in_the_colours_and_at_the_place_of_the_picture():
    """Inside, the result is what was painted before it was moved and tinted, but for what encoding did."""
    before = photo()
    region = region_of(before)
    wanted = painted(before, region)
    changes = find_changes(unit(before), unit(sent_through(wanted, (3.0, -2.0), quality=95)))
    inside = cv2.erode(region.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    off = np.abs(changes.onto(unit(before)) - unit(wanted))[inside]
    undone = np.abs(unit(sent_through(wanted, (3.0, -2.0), quality=95)) - unit(wanted))[inside]
    assert off.mean() < 0.3 * undone.mean()
    assert abs(off.mean()) < 6 / 255


def test_what_clips_is_no_change():
    """A tint that runs into white cannot be undone there, and nothing was changed."""
    before = np.clip(unit(photo("seabed")) * 1.6, 0.0, 1.0)
    after = np.clip(before * np.float32(1.08), 0.0, 1.0)
    assert find_changes(before, after).share == 0.0


@pytest.mark.parametrize("quality", [95, 75, 40])
def test_an_edit_that_changed_nothing_leaves_the_picture(quality):
    before = photo("grass")
    changes = find_changes(unit(before), unit(sent_through(before, (2.0, 1.0), quality=quality)))
    assert changes.share == 0.0
    assert np.array_equal(changes.onto(unit(before)), unit(before))


def test_the_very_picture_has_no_change_shift_or_tint():
    before = unit(photo("horses"))
    changes = find_changes(before, before.copy())
    assert (changes.shift, changes.zoom, changes.share) == ((0.0, 0.0), 1.0, 0.0)
    assert changes.tint == pytest.approx(0.0, abs=1e-3)


def test_a_zoom_is_seen_and_undone():
    before = photo("aqueduct")
    region = region_of(before)
    height, width = before.shape[:2]
    matrix = np.array([[1.02, 0.0, -0.01 * (width - 1)], [0.0, 1.02, -0.01 * (height - 1)]])
    zoomed = cv2.warpAffine(painted(before, region), matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=2)
    changes = find_changes(unit(before), unit(sent_through(zoomed)))
    assert changes.zoom == pytest.approx(1.02, abs=1e-3)
    assert np.hypot(*changes.shift) < 0.3
    recall, precision = scores(changes, region)
    assert recall > 0.97
    assert precision > 0.85


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (15, 40), (17, 17), (64, 3)])
def test_any_size_serves(size):
    random = np.random.default_rng(0)
    before, after = (random.random((*size, 3), dtype=np.float32) for _ in range(2))
    changes = find_changes(before, after)
    assert changes.mask.shape == size
    assert np.isfinite(changes.onto(before)).all()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_pictures_serve(value):
    before = np.full((40, 50, 3), value, np.float32)
    after = before.copy()
    after[10:30, 10:30] = 1.0 - value if value != 0.5 else 0.9
    changes = find_changes(before, after)
    assert changes.shift == (0.0, 0.0)
    assert (changes.mask[10:30, 10:30] > 0).all()
    assert changes.share < 0.3


def test_another_picture_altogether_is_all_change():
    """Nothing is undone then: there is nothing that could tell what to undo."""
    before = unit(photo("grass", 200))
    for after in (before[::-1, ::-1].copy(), unit(photo("seabed", 200))[:149, :200], 1.0 - before):
        after = cv2.resize(after, before.shape[1::-1])
        changes = find_changes(before, after)
        assert (changes.share, changes.shift, changes.zoom, changes.tint) == (1.0, (0.0, 0.0), 1.0, 0.0)
        assert np.array_equal(changes.onto(before), after)


# -- the plugin


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_from_a_file_everything_else_is_the_picture_bit_for_bit(tmp_path, dtype):
    before = photo()
    region = region_of(before)
    Image.fromarray(sent_through(painted(before, region), (3.0, 0.0))).save(tmp_path / "edited.png")
    deep = before.astype(np.uint16) * 257 + 3 if dtype == np.uint16 else before
    said: list[str] = []
    made = make(Picture(deep), Chain.of(OnlyChanges(edited=str(tmp_path / "edited.png"))), notify=said.append)
    same = (made.picture.pixels == deep).all(-1)
    away = cv2.dilate(region.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    assert same[away].mean() > 0.99
    assert not same[region].mean() > 0.05
    assert made.calls == 0
    ((_, name, figures),) = made.figures
    assert name == "only-changes"
    assert figures["shift_right_px"] == pytest.approx(3.0, abs=0.3)
    assert figures["shift_down_px"] == pytest.approx(0.0, abs=0.3)
    assert any("shift right px 3" in line for line in said)


def test_behind_an_edit_it_keeps_what_that_did_not_change():
    before = photo("seabed", 96)
    said: list[str] = []
    made = edit(before, SDEdit(strength=0.3) & OnlyChanges(), model="pocket", steps=4, notify=said.append)
    assert made.pixels.shape == before.shape
    assert any(line.startswith("only-changes: changed percent") for line in said)


def test_an_edit_of_another_size_is_brought_to_the_pictures(tmp_path):
    before = photo()
    height, width = before.shape[:2]
    edited = Image.fromarray(painted(before, region_of(before))).resize((width * 2 // 3, height * 2 // 3))
    edited.save(tmp_path / "edited.png")
    said: list[str] = []
    made = edit(before, OnlyChanges(edited=str(tmp_path / "edited.png")), notify=said.append)
    assert made.pixels.shape == before.shape
    assert any(f"is resized to {width}x{height}" in line for line in said)
    with pytest.raises(UsageError, match="with another aspect ratio; give both uncropped"):
        edit(before, OnlyChanges(edited=before[:, : width // 2]))


def test_it_says_what_is_missing_or_too_much():
    before = photo("grass", 64)
    with pytest.raises(UsageError, match="no edit to compare: give edited="):
        edit(before, OnlyChanges())
    with pytest.raises(ChainError, match="both set the begin"):
        edit(before, SDEdit() & OnlyChanges(edited=before))
    said: list[str] = []
    edit(before, OnlyChanges(edited=before[::-1, ::-1].copy()), notify=said.append)
    assert any("the edit changed the whole picture" in line for line in said)
    said.clear()
    assert np.array_equal(edit(before, OnlyChanges(edited=before), notify=said.append).pixels, before)
    assert any("no change was found" in line for line in said)


def test_a_mask_beside_it_is_heeded():
    """What `inpaint` may not change stays, whatever only-changes finds."""
    before = photo("grass", 96)
    mask = np.zeros(before.shape[:2], np.uint8)
    mask[20:50, 20:50] = 255
    made = edit(before, Inpaint(mask=mask) & OnlyChanges(), model="pocket", steps=2)
    assert np.array_equal(made.pixels[mask == 0], before[mask == 0])


def test_an_edit_from_a_file_stands_alone():
    """What was masked or enlarged in the same process is no picture that the file is an edit of."""
    before = photo("grass", 64)
    with pytest.raises(ChainError, match="inpaint and only-changes both set the mask"):
        edit(before, Inpaint(mask="box:1,1,9,9") & OnlyChanges(edited=before))
