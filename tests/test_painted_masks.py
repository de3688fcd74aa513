"""Masks as people paint and name them: in a colour, in another Unicode form, beside or over what is transparent."""

import io
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editkit.batch.folder import Masks, items, listing, mask_of
from editkit.cli import run
from editkit.errors import PictureError, UsageError
from editkit.pictures.masks import read_mask
from editkit.pictures.picture import Picture
from editkit.plugin import hints, silent
from editkit_plugins.masks.drawn import brush, flood
from editkit_plugins.repair import Repair

SIZE = (64, 96)
PHOTO = Picture(np.zeros((*SIZE, 3), np.uint8))
Y, X = np.mgrid[: SIZE[0], : SIZE[1]]
DISC = np.hypot(X - 40, Y - 30) < 20
SOFT = np.clip(20.5 - np.hypot(X - 40, Y - 30), 0, 1)
COLOURS = [(255, 0, 0), (0, 255, 0), (128, 0, 0), (255, 0, 255), (250, 230, 20), (200, 90, 90)]
GROUNDS = {"black": 0, "white": 255}


def read(pixels, format="PNG", **options):
    file, said = io.BytesIO(), []
    Image.fromarray(pixels).save(file, format, **options)
    file.seek(0)
    return read_mask(file, PHOTO, notify=said.append), said


def drawn(colour, ground, cover):
    return np.rint(ground + cover[..., None] * (np.array(colour) - ground)).astype(np.uint8)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "GIF"])
def test_what_is_painted_in_one_colour_is_regenerated(colour, ground, format):
    mask, said = read(drawn(colour, GROUNDS[ground], DISC.astype(float)), format)
    np.testing.assert_array_equal(mask, DISC)
    assert any(f"painted in one colour on {ground}" in line for line in said)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("ground", GROUNDS.values())
def test_its_edges_are_as_soft_as_they_were_painted(colour, ground):
    mask, _ = read(drawn(colour, ground, SOFT))
    span = np.abs(np.array(colour) - ground).max()
    np.testing.assert_allclose(mask, SOFT, atol=1.5 / span)  # rounding to 8 bits, along the line


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("hidden", [0, 255, 77])
def test_paint_on_transparency_counts_as_its_alpha_does(colour, hidden):
    pixels = np.where(SOFT[..., None] > 0, np.array(colour), hidden)
    mask, said = read(np.dstack([pixels, np.rint(SOFT * 255)]).astype(np.uint8))
    np.testing.assert_allclose(mask, SOFT, atol=0.51 / 255)
    assert any("transparency" in line for line in said)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (255, 0, 255)])
@pytest.mark.parametrize("quality", [75, 95])
def test_a_jpeg_of_paint_is_a_mask_of_nought_and_one(colour, quality):
    """Halved colours smear the edge over two pixels; away from it nothing is doubtful."""
    large = np.kron(DISC, np.ones((4, 4)))
    file = io.BytesIO()
    Image.fromarray(drawn(colour, 0, large)).save(file, "JPEG", quality=quality)
    file.seek(0)
    mask = read_mask(file, Picture(np.zeros((4 * SIZE[0], 4 * SIZE[1], 3), np.uint8)))
    assert set(np.unique(mask)) == {0.0, 1.0}
    assert (mask != large).mean() < 0.02


def test_a_colour_all_over_is_a_full_mask():
    mask, said = read(np.full((*SIZE, 3), (200, 90, 90), np.uint8))
    assert mask.min() == 1.0
    assert any("covers the whole picture" in line for line in said)


def mixed(*parts):
    pixels = np.zeros((*SIZE, 3), np.uint8)
    for k, colour in enumerate(parts):
        pixels[8 * k : 8 * k + 8] = colour
    return pixels


TINT = (np.random.default_rng(0).integers(0, 256, SIZE)[..., None] * np.array([1.0, 0.8, 0.5])).astype(np.uint8)
LABELS = mixed((128, 0, 0), (0, 128, 0), (224, 224, 192))


@pytest.mark.parametrize(
    "pixels",
    [TINT, 255 - TINT, LABELS, mixed((255, 0, 0), (255, 255, 255)), mixed((255, 0, 0), (0, 0, 255)),
     np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8),
     np.dstack([mixed((255, 0, 0), (255, 255, 255), (0, 0, 255)), np.where(Y < 24, 255, 0).astype(np.uint8)])],
)  # fmt: skip
def test_what_is_not_plainly_painted_is_asked_about(pixels):
    with pytest.raises(PictureError, match=r"is in colours .* editkit mask"):
        read(pixels)


# --------------------------------------------------------------------------------------------------- names of masks


@pytest.mark.parametrize("photo", ["NFC", "NFD"])
@pytest.mark.parametrize("mask", ["NFC", "NFD"])
@pytest.mark.parametrize("ending", [".mask.png", ".mask.PNG", ".MASK.png"])
def test_a_mask_is_found_in_any_unicode_form_and_capitals_of_its_ending(tmp_path, monkeypatch, photo, mask, ending):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    word = "caf\u00e9 \u304c \u1e69"
    Path("in", unicodedata.normalize(photo, word) + ".png").write_bytes(b"x")
    Path("in", unicodedata.normalize(mask, word) + ending).write_bytes(b"x")
    Path("in/other.png").write_bytes(b"x")
    work = items(listing(Path("in")), Path("in"), Path("out"), Masks())
    named = {item.name: item.mask for item in work}
    lost = ending == ".MASK.png"  # within a name capitals are a difference
    assert len(work) == (3 if lost else 2)
    first = next(name for name in named if "caf" in name and "ASK" not in name)
    assert lost or os.path.isfile(named[first])
    assert not os.path.exists(named["other.png"])
    found = mask_of(Masks("{stem}.mask.png"), Path(unicodedata.normalize(photo, word) + ".png"), Path("in"))
    assert os.path.isfile(found) != lost


def test_of_two_that_could_be_meant_neither_is_taken(tmp_path):
    for name in ("\u00e9.png", "\u00e9.mask.PNG", "e\u0301.mask.png"):
        (tmp_path / name).write_bytes(b"x")
    work = items(listing(tmp_path), tmp_path, tmp_path / "out", Masks("e\u0301.mask.png"))  # the very name is there
    assert {Path(item.mask).name for item in work if item.mask} == {"e\u0301.mask.png"}
    with pytest.raises(UsageError, match="could be meant"):
        items(listing(tmp_path), tmp_path, tmp_path / "out", Masks("{stem}.mask.png"))


def test_a_batch_in_two_forms_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("in/e\u0301.png")
    hole = np.zeros((16, 16), np.uint8)
    hole[4:9, 4:9] = 255
    Image.fromarray(hole).save("in/\u00e9.mask.PNG")
    assert run(["batch", "in", "out", "--", "inpaint", "--steps", "1", "--model", "pocket"]) == 0
    assert [path.suffix for path in Path("out").glob("*.png")] == [".png"]


# ------------------------------------------------------------------------------------- what lies under transparency


def shown(hidden, kind=0):
    """A photograph half of which is transparent, with `hidden` there."""
    pixels = np.random.default_rng(3).integers(90, 160, (*SIZE, 3)).astype(np.uint8)
    pixels[20:24, 4:44] = 250
    pixels[:, 48:] = hidden
    if kind:
        pixels[::7, 48:] = 255 - pixels[::7, 48:]
    alpha = np.full(SIZE, 255, np.uint8)
    alpha[:, 48:] = 0
    return Picture(pixels, alpha)


HIDDEN = [shown(0), shown(255), shown((255, 0, 0), 1), shown(np.random.default_rng(5).integers(0, 256, (64, 48, 3)), 1)]


@pytest.mark.parametrize("word", ["scratches", "scratches:10", "spots:10", "timestamp", "subject:2,12,40,40",
                                  "flood:8,22~30", "flood:70,30", "color:white", "brightness"])  # fmt: skip
def test_no_mask_in_words_depends_on_what_is_hidden(word):
    masks = [read_mask(f"{word}+box:0,0,2,2", photo) for photo in HIDDEN]
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])
    if "flood:70" not in word:
        assert not masks[0][:, 48:].any()
    else:  # where it points at nothing, nothing is what is joined to it
        assert masks[0][:, 48:].all()


@pytest.mark.parametrize("name", ["canny", "lineart", "scribble", "tile", "luma", "blur", "palette"])
def test_no_hint_depends_on_what_is_hidden(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    made = []
    for k, photo in enumerate(HIDDEN):
        photo.write(f"{k}.png")
        assert run(["hint", f"{k}.png", "--control", name, "-o", f"h{k}.png"]) == 0
        made.append(np.asarray(Image.open(f"h{k}.png")))
    for hint in made[1:]:
        np.testing.assert_array_equal(hint, made[0])
    np.testing.assert_array_equal(made[0], hints.detect(hints.make(name), HIDDEN[0].visible))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("hidden", [0, 1])
def test_a_hint_s_file_is_black_where_it_is_transparent(dtype, hidden):
    from editkit_plugins.controlnet import _on_black

    top = np.iinfo(dtype).max
    lines = np.where(DISC, 1, hidden).astype(dtype) * top
    hint = _on_black(Picture(np.repeat(lines[..., None], 3, axis=-1), DISC.astype(dtype) * top))
    np.testing.assert_array_equal(hint[..., 0], DISC.astype(dtype) * top)


def test_repair_reads_black_and_white_from_what_is_seen():
    toned = [Repair(scratches=False, spots=False).open(photo, silent).pixels[:, :48] for photo in HIDDEN]
    for pixels in toned[1:]:
        np.testing.assert_array_equal(pixels, toned[0])


# ------------------------------------------------------------------------------------------- time and memory of words


def test_looking_for_damage_asks_for_memory_first(monkeypatch):
    monkeypatch.setattr("editkit_plugins.restoring.memory._free", lambda: 100_000)
    for word in ("scratches", "spots"):
        with pytest.raises(PictureError, match="needs about"):
            read_mask(word, PHOTO)


def test_a_wide_brush_draws_each_pixel_once(monkeypatch):
    """However many strokes of whatever width: the work is counted, not timed."""
    drawn_rows = []
    real = np.hypot
    monkeypatch.setattr(np, "hypot", lambda a, b: drawn_rows.append(1) or real(a, b))
    points = [(float(k % 90), float(k % 60)) for k in range(3000)]
    assert brush(PHOTO, points, 1e9).all()
    assert len(drawn_rows) <= 2


@pytest.mark.parametrize("radius", ["1e5", "9" * 400, "0.4", "50%"])
def test_a_brush_of_any_radius_is_drawn_or_refused(radius):
    try:
        assert read_mask(f"brush:10,10,{'9' * 300},40:{radius}", PHOTO).any()
    except PictureError as error:
        assert len(str(error)) < 400


def test_a_brush_is_the_union_of_its_discs():
    line = brush(PHOTO, [(10, 12), (70, 40)], 6)
    discs = np.max([brush(PHOTO, [(10 + 60 * k / 600, 12 + 28 * k / 600)], 6) for k in range(601)], axis=0)
    assert (line >= discs).all()
    assert (line != discs).mean() < 0.002  # between two of 601 discs


def test_flood_of_what_is_seen_stops_where_nothing_is():
    photo = Picture(np.full((*SIZE, 3), 9, np.uint8), np.where(X < 48, 255, 0).astype(np.uint8))
    np.testing.assert_array_equal(flood(photo, 3, 3), X < 48)
    np.testing.assert_array_equal(flood(photo, 90, 3), X >= 48)
