"""Masks: read from files, from words, grown and feathered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from toy_masks import blank

from editkit.errors import PictureError
from editkit.pictures.masks import feather_inside, grow, overlay, read_mask, threshold
from editkit.pictures.picture import Picture
from editkit.pictures.shapes import from_words, is_words


def half(width: int = 60, height: int = 40) -> NDArray[np.uint8]:
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 3] = 255
    return mask


MASKS = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
    lambda size: arrays(np.float32, size, elements=st.sampled_from([0.0, 0.0, 1.0]))
)


SOFT = st.tuples(st.integers(1, 16), st.integers(1, 16)).flatmap(
    lambda size: arrays(np.float32, size, elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
)

# ------------------------------------------------------------------------------------------------------------ reading


def test_white_is_regenerate_whatever_the_mode(tmp_path: Path) -> None:
    mask = half()
    expected = (mask / 255).astype(np.float32)
    image = Image.fromarray(mask)
    for name, converted in {
        "l.png": image,
        "1.png": image.convert("1"),
        "rgb.png": image.convert("RGB"),
        "p.png": image.convert("P"),
        "rgba.png": image.convert("RGBA"),  # an alpha that does not vary says nothing
        "16.png": Image.fromarray(mask.astype(np.uint16) * 257),
        "l.tif": image,
        "l.webp": image,
    }.items():
        options = {"lossless": True} if name.endswith("webp") else {}
        converted.save(tmp_path / name, **options)
        read = read_mask(str(tmp_path / name), blank())
        assert read.dtype == np.float32
        assert np.array_equal(read, expected), name
    for source in (mask, mask > 0, expected, expected.astype(np.float64), image, mask[..., None]):
        assert np.array_equal(read_mask(source, blank()), expected)


def test_every_grey_level_is_a_fraction() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(read_mask(levels, blank(16, 16)), (levels / 255.0).astype(np.float32))


def test_alpha_counts_only_where_it_varies(tmp_path: Path) -> None:
    rgba = np.zeros((40, 60, 4), np.uint8)
    rgba[..., :3] = 255
    rgba[:10, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "strokes.png")  # white paint on a transparent layer
    assert read_mask(tmp_path / "strokes.png", blank()).sum() == 600
    rgba[..., 3] = 0
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    told: list[str] = []
    assert read_mask(tmp_path / "clear.png", blank(), notify=told.append).all()
    assert "whole picture" in told[0]


def test_invert() -> None:
    assert np.array_equal(read_mask(half(), blank(), invert=True), 1.0 - read_mask(half(), blank()))


def test_orientation_of_the_mask_is_applied(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    lying = Image.fromarray(half()).transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / "m.png", exif=tags)
    assert np.array_equal(read_mask(tmp_path / "m.png", blank()), half() / 255)


def test_compression_noise_is_no_mask(tmp_path: Path) -> None:
    """Beside its edge a JPEG mask is not quite black; all of that would be regenerated, not kept."""
    mask = np.zeros((64, 96), np.uint8)
    mask[20:40, 30:60] = 255
    Image.fromarray(mask).save(tmp_path / "m.jpg", quality=90)
    assert ((np.asarray(Image.open(tmp_path / "m.jpg")) > 0) != (mask > 0)).any()
    read = read_mask(tmp_path / "m.jpg", blank(96, 64))
    assert np.array_equal(read > 0.5, mask > 0)
    assert ((read > 0) != (mask > 0)).mean() < 0.002


def test_mistakes_are_named(tmp_path: Path) -> None:
    Image.fromarray(half(30, 24)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no mask")
    cases: list[tuple[Any, str]] = [
        (tmp_path / "small.png", r"is 30x24, the picture is 60x40.*resize the mask to 60x40"),
        (tmp_path / "smal.png", r"did you mean .*small\.png"),
        (tmp_path / "text.png", r"not a picture"),
        (np.zeros((40, 60), np.uint8), r"empty.*--invert-mask"),
        (np.full((40, 60), 2.0), r"\[0, 1\].*divide"),
        (np.full((40, 60), np.nan), r"\[0, 1\]"),
        (np.zeros((40, 60, 3)), r"\(height, width\)"),
        (np.zeros((40, 60), np.int64), r"uint8 or uint16"),
    ]
    for source, words in cases:
        with pytest.raises(PictureError) as error:
            read_mask(source, blank())
        assert re.search(words, str(error.value)), str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(PictureError, match="leave --invert-mask out"):
        read_mask(np.full((40, 60), 255, np.uint8), blank(), invert=True)


def test_a_mask_drawn_on_the_picture_as_it_lies_in_the_file(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "photo.jpg", exif=tags)
    picture = Picture.read(tmp_path / "photo.jpg")
    assert picture.size == (40, 60)
    with pytest.raises(PictureError, match="on its side"):
        read_mask(half(), picture)


def test_dark_masks_are_told() -> None:
    told: list[str] = []
    read_mask(np.full((40, 60), 40, np.uint8) * (half() > 0), blank(), notify=told.append)
    assert "nowhere brighter than 16%" in told[0]


# -------------------------------------------------------------------------------------------------------------- words


@given(x0=st.integers(-9, 59), y0=st.integers(-9, 39), width=st.integers(1, 70), height=st.integers(1, 50))
@settings(deadline=None, max_examples=60)
def test_boxes_are_slices_and_polygons(x0: int, y0: int, width: int, height: int) -> None:
    x1, y1 = x0 + width, y0 + height
    if x1 <= 0 or y1 <= 0:
        return
    mask = from_words(f"box:{x0},{y0},{x1},{y1}", blank())
    expected = np.zeros((40, 60), np.float32)
    expected[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = 1.0
    assert np.array_equal(mask, expected)
    assert np.array_equal(mask, from_words(f"polygon:{x0},{y0},{x1},{y0},{x1},{y1},{x0},{y1}", blank()))
    round_ = from_words(f"ellipse:{x0},{y0},{x1},{y1}", blank())
    assert (round_ <= mask).all()


def test_shapes() -> None:
    circle = from_words("ellipse:10,5,40,35", blank())
    assert circle.sum() == pytest.approx(np.pi * 15**2, rel=0.02)
    triangle = from_words("polygon:0,0,40,0,0,40", blank())
    assert triangle.sum() == pytest.approx(800, rel=0.03)
    star = from_words("polygon:5,5,55,5,5,35,55,35", blank())  # crosses itself
    assert star[20, 30] == star[6, 30] - 1 or star[20, 10] == 0
    assert np.array_equal(from_words("box:10%,25%,50%,75%", blank()), from_words("box:6,10,30,30", blank()))
    edge = from_words("border:3", blank())
    assert edge.sum() == 60 * 40 - 54 * 34
    assert from_words("border:20", blank()).all()


def test_colour_with_tolerance() -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:10] = (0, 250, 5)
    pixels[10:20] = (0, 200, 0)
    for deep in (pixels, pixels.astype(np.uint16) * np.uint16(257)):
        picture = Picture(deep)
        assert from_words("color:#00ff00", picture).sum() == 600
        assert from_words("color:#00ff00~60", picture).sum() == 1200
        assert from_words("color:00fa05~0", picture).sum() == 600


def test_transparent_is_regenerated() -> None:
    alpha = np.full((40, 60), 255, np.uint8)
    alpha[:5] = 0
    alpha[5:6] = 51
    mask = read_mask("alpha", Picture(np.zeros((40, 60, 3), np.uint8), alpha))
    assert mask[:5].all()
    assert mask[5, 0] == pytest.approx(0.8)
    assert not mask[6:].any()


def test_union_and_difference_from_left_to_right() -> None:
    a, b, c = "box:5,5,30,30", "ellipse:20,10,50,35", "border:8"
    picture = blank()
    one, two, three = (from_words(word, picture) for word in (a, b, c))
    assert np.array_equal(from_words(f"{a}+{b}", picture), np.maximum(one, two))
    assert np.array_equal(from_words(f"{a}-{b}", picture), one * (1 - two))
    assert np.array_equal(from_words(f"{a}-{b}+{c}", picture), np.maximum(one * (1 - two), three))
    assert np.array_equal(from_words("box:-5,-5,10,10+box:-3,-3,1e-9,20-border:1", picture)[0], np.zeros(60))


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("box:1,2,3", "4 numbers"),
        ("box:a,2,3,4", "not a number"),
        ("box:nan,2,3,4", "not a number"),
        ("box:", "not a number"),
        ("box:30,2,3,4", "no area"),
        ("box:60,0,70,10", "outside the picture of 60x40"),
        ("ellipse:-9,-9,-1,-1", "outside"),
        ("polygon:1,1,2,2", "three points"),
        ("polygon:1,1,2,2,3", "three points"),
        ("polygon:1,1,2,1,3,1", "no area"),
        ("color:rde", "#rrggbb or as a name such as white; did you mean red"),
        ("color:#00ff00~-3", "tolerance"),
        ("border:0", "1 or more"),
        ("border:2.5", "1 or more"),
        ("border:99999999999999", "1 or more"),
        ("circle:1,2,3,4", "neither a file nor a shape"),
        ("alpha", "no transparency"),
        ("box:0,0,9,9-box:0,0,9,9", "empty"),
    ],
)
def test_words_that_are_wrong(words: str, hint: str) -> None:
    with pytest.raises(PictureError) as error:
        read_mask(words, blank())
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text(alphabet="boxelipsgncdra:#~+-0123456789,.%ef ", max_size=40))
@settings(deadline=None, max_examples=150)
def test_any_text_is_a_mask_or_a_clean_error(text: str) -> None:
    try:
        mask = read_mask(text, blank(9, 7))
    except PictureError:
        return
    assert mask.shape == (7, 9)


def test_a_file_named_like_words_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_words("alpha")
    Image.fromarray(half()).save(tmp_path / "alpha", format="PNG")
    assert not is_words("alpha")
    assert read_mask("alpha", blank()).sum() == 800
    assert not is_words("my-alpha.png")
    assert not is_words("box.png")


# --------------------------------------------------------------------------------------------------------- operations


@given(MASKS, st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_grow_is_the_disc(mask: NDArray[np.float32], pixels: int) -> None:
    grown = grow(mask, pixels)
    expected = np.zeros_like(mask)
    y, x = np.indices(mask.shape)
    for row, column in zip(*np.nonzero(mask), strict=True):
        expected[(y - row) ** 2 + (x - column) ** 2 <= pixels**2] = 1.0
    assert np.array_equal(grown, expected)


@given(SOFT, st.integers(0, 20))
@settings(deadline=None, max_examples=40)
def test_grow_of_soft_masks_widens(mask: NDArray[np.float32], pixels: int) -> None:
    grown = grow(mask, pixels)
    assert (grown >= mask).all()
    assert grown.max() == mask.max()
    assert pixels or np.array_equal(grown, mask)


@given(SOFT, st.integers(0, 12))
@settings(deadline=None, max_examples=100)
def test_feather_lies_inside(mask: NDArray[np.float32], pixels: int) -> None:
    before = mask.copy()
    feathered = feather_inside(mask, pixels)
    assert np.array_equal(mask, before)
    assert feathered.dtype == np.float32
    assert np.array_equal(feathered > 0, mask > 0)
    assert (feathered <= mask).all()
    assert pixels or np.array_equal(feathered, mask)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 9, 30])
@pytest.mark.parametrize("pixels", [1, 4, 16])
def test_a_thin_stroke_does_not_vanish(width: int, pixels: int) -> None:
    mask = np.zeros((60, 60), np.float32)
    mask[20 : 20 + width, 5:55] = 1.0
    feathered = feather_inside(mask, pixels)[:, 30]
    assert feathered.max() == 1.0
    assert (feathered == 1.0).sum() >= width / 2 - 1
    ramp = feathered[20 : 20 + (width + 1) // 2]
    assert (np.diff(ramp) >= 0).all()


def test_feather_has_the_asked_width_in_a_wide_mask_and_none_at_the_pictures_border() -> None:
    mask = np.zeros((100, 100), np.float32)
    mask[:, 40:] = 1.0
    row = feather_inside(mask, 8)[50]
    assert not row[:40].any()
    assert np.allclose(row[40:48], (np.arange(8) + 0.5) / 8)
    assert (row[48:] == 1.0).all()


def test_full_and_empty_masks_stay() -> None:
    for value in (0.0, 1.0):
        mask = np.full((7, 9), value, np.float32)
        assert np.array_equal(feather_inside(mask, 5), mask)
        assert np.array_equal(grow(mask, 5), mask)


def test_negative_widths_are_refused() -> None:
    mask = np.ones((4, 4), np.float32)
    with pytest.raises(PictureError, match="-1"):
        grow(mask, -1)
    with pytest.raises(PictureError, match="-2"):
        feather_inside(mask, -2)


def test_threshold() -> None:
    assert threshold(np.array([[0.2, 0.5, 0.9]], np.float32)).tolist() == [[0.0, 1.0, 1.0]]
    assert threshold(np.array([[0.2, 0.5, 0.9]], np.float32), 0.1).all()


def test_overlay_shows_the_mask_and_leaves_the_rest() -> None:
    picture = Picture.read(np.full((40, 60, 3), 1000, np.uint16))
    mask = from_words("box:10,10,30,30", picture)
    shown = overlay(picture, mask)
    assert shown.dtype == np.uint8
    assert (shown[mask == 0] == 4).all()
    assert shown[10, 10].tolist() == [255, 255, 255]
    assert shown[20, 20, 0] > 150
    assert shown[20, 20, 1] < 10
