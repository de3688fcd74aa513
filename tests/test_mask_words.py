"""Mask words of `editkit_plugins.masks`: what they draw and find, on pictures whose truth is known."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import damage

from editkit.cli import run
from editkit.errors import PictureError
from editkit.pictures.masks import read_mask
from editkit.pictures.picture import Picture
from editkit.pictures.shapes import ShapeError, from_words
from editkit_plugins.masks.drawn import brush
from editkit_plugins.masks.scratches import paths


def soft(seed: int = 0, height: int = 240, width: int = 320) -> np.ndarray:
    """A picture of soft colours, with no line and no spot in it."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    tones = cv2.GaussianBlur(noise, (0, 0), 20.0)
    return np.clip(np.rint(110 + 35 * tones / tones.std()), 40, 200).astype(np.uint8)


def near(mask: np.ndarray, pixels: int = 2) -> np.ndarray:
    return cv2.dilate((mask > 0).astype(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)) > 0


def found_and_false(mask: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """What of the truth lies within 2 pixels of the mask; what of the picture is marked 3 pixels off the truth."""
    return float(near(mask)[truth].mean()), float(((mask > 0) & ~near(truth, 3)).mean())


# -------------------------------------------------------------------------------------------------------------- drawn


def test_flood_is_what_is_joined_over_sides_within_the_tolerance():
    pixels = np.full((40, 60, 3), 100, np.uint8)
    pixels[:, 20] = 200  # a wall
    pixels[10, 5] = (110, 90, 100)
    pixels[11, 5] = (111, 100, 100)
    mask = from_words("flood:3,3~10", Picture(pixels)) > 0
    expected = np.zeros((40, 60), bool)
    expected[:, :20] = True
    expected[11, 5] = False
    assert (mask == expected).all()
    assert (from_words("flood:50%,50%~0", Picture(pixels)) > 0)[:, 21:].all()
    deep = Picture(pixels.astype(np.uint16) * 257)
    assert ((from_words("flood:3,3~10", deep) > 0) == expected).all()


def test_brush_is_the_line_as_thick_as_it_is_said():
    picture = Picture(np.zeros((40, 60, 3), np.uint8))
    mask = from_words("brush:10,20,50,20:4", picture) > 0
    y, x = np.mgrid[:40, :60] + 0.5
    away = np.hypot(x - np.clip(x, 10, 50), y - 20)
    assert (mask == (away <= 4)).all()
    disc = brush(picture, [(30.0, 20.0)], 6.0) > 0
    assert (disc == (np.hypot(x - 30, y - 20) <= 6)).all()
    bent = from_words("brush:10,10,50,10,50,30:3", picture)
    parts = [from_words(f"brush:{part}:3", picture) for part in ("10,10,50,10", "50,10,50,30")]
    assert (bent == np.maximum(*parts)).all()
    assert (from_words("brush:0,0,100%,100%:10%", picture) == from_words("brush:0,0,60,40:6", picture)).all()


def test_words_join_as_all_words_do():
    picture = Picture(soft())
    joined = from_words("brush:10,10,100,90:5-box:0,0,50,50&flood:60,60~255", picture)
    expected = from_words("brush:10,10,100,90:5", picture)
    expected[:50, :50] = 0
    assert (joined == expected).all()


@pytest.mark.parametrize(
    "words",
    [
        "flood:5", "flood:5,5~x", "flood:500,5", "flood:a,b", "brush:5,5", "brush:5,5,9:4", "brush:5,5:x", "brush:",
        "brush:900,900:3", "subject:1,2,3", "subject:0,0,320,240", "subject:400,0,500,9", "scratches:x", "scratches:0",
        "spots:99", "timestamp:1", "watermark", "watermark:",
    ],
)  # fmt: skip
def test_mistakes_are_named_in_one_line(words):
    with pytest.raises(ShapeError) as error:
        from_words(words, Picture(soft()))
    assert "\n" not in str(error.value)
    assert words.partition(":")[0] in str(error.value)
    assert error.value.exit_code == 2


# -------------------------------------------------------------------------------------------------------------- found


@pytest.mark.parametrize("tone", [250, 5])
@pytest.mark.parametrize(
    ("wide", "ends"), [(1, (40, 30, 280, 200)), (2, (20, 120, 300, 110)), (4, (150, 10, 170, 230))]
)
def test_scratches_are_found_to_their_ends(tone, wide, ends):
    pixels = soft()
    cover = np.zeros(pixels.shape[:2], np.uint8)
    cv2.line(cover, ends[:2], ends[2:], 255, wide, cv2.LINE_AA)
    spoiled, truth = damage.laid(pixels, 0.8 * cover / 255.0, np.float32(tone))
    found, false = found_and_false(from_words("scratches", Picture(spoiled)), truth)
    assert found > 0.9
    assert false < 0.01


def test_an_edge_is_no_scratch_and_no_spot():
    pixels = soft() // 2
    pixels[:, 150:] += 90
    assert not from_words("scratches", Picture(pixels)).any()
    assert not from_words("spots", Picture(pixels)).any()


def test_faint_scratches_are_found_by_the_eager():
    pixels = 100 + soft().astype(np.int32) // 8
    pixels[100:102, 30:290] += 7
    picture = Picture(pixels.astype(np.uint8))
    assert not from_words("scratches", picture).any()
    assert near(from_words("scratches:2", picture))[100:102, 40:280].mean() > 0.9


def test_paths_are_long_and_straight_enough():
    on = np.zeros((60, 80), np.uint8)
    on[20, 5:45] = 1  # 40 pixels
    on[40, 5:25] = 1  # 20 pixels
    on[30, 5:75:2] = 1  # gaps of one
    assert (paths(on, 0, 35) == on * (np.arange(60) < 35)[:, None]).all()
    assert not paths(on, 2, 35).any()
    for turn, line in ((1, (10, 10, 50, 50)), (2, (40, 5, 40, 55)), (3, (10, 50, 50, 10))):
        drawn = cv2.line(np.zeros((60, 80), np.uint8), line[:2], line[2:], 1)
        assert paths(drawn, turn, 25).sum() > 0.8 * drawn.sum()


def test_spots_are_found_and_a_line_is_none():
    pixels, truth = soft(1), np.zeros((240, 320), bool)
    rng = np.random.default_rng(0)
    for x, y in [(40, 40), (120, 60), (200, 150), (280, 90), (60, 180), (160, 210)]:
        cover = np.zeros(truth.shape, np.uint8)
        cv2.circle(cover, (x, y), int(rng.integers(2, 5)), 255, -1, cv2.LINE_AA)
        pixels, there = damage.laid(pixels, 0.9 * cover / 255.0, np.float32(rng.choice([5, 250])))
        truth |= there
    found, false = found_and_false(from_words("spots", Picture(pixels)), truth)
    assert found > 0.95
    assert false < 0.005
    line = soft(1)
    line[120:123] = 250
    assert not from_words("spots", Picture(line)).any()


@pytest.mark.parametrize("seed", range(6))
def test_a_date_near_a_corner_is_found(seed):
    spoiled, truth = damage.dated(soft(seed, 480, 640), np.random.default_rng(seed))
    found, false = found_and_false(from_words("timestamp", Picture(spoiled)), truth)
    assert found > 0.9
    assert false < 0.01


@pytest.mark.parametrize(("text", "blur"), [("'98  7 14", 1.0), ("'03 11 28", 1.0), ("2003 12 24", 0.6)])
def test_a_date_whose_glow_joins_its_signs_is_found(text, blur):
    """A diode's light spreads: around every stroke lies a warm halo of a good part of its brightness."""
    pixels, cover = soft(5, 480, 640), np.zeros((480, 640), np.float32)
    drawn = Image.new("L", (640, 480))
    ImageDraw.Draw(drawn).text((430, 435), text, fill=255, font=ImageFont.load_default(size=26))
    cover = cv2.GaussianBlur(np.asarray(drawn, np.float32) / 255.0, (0, 0), blur)
    glowing, _ = damage.laid(pixels, 0.6 * cv2.GaussianBlur(cover, (0, 0), 3.0), np.float32((255, 110, 20)))
    spoiled, truth = damage.laid(glowing, cover, np.float32((255, 140, 26)))
    found, false = found_and_false(from_words("timestamp", Picture(spoiled)), truth & (cover > 0.5))
    assert found > 0.9
    assert false < 0.02


def test_a_sign_of_a_date_that_touches_more_is_found_with_the_others():
    """Near the picture's lower edge, and one sign of it joined to that edge by a thread of its colour."""
    spoiled, cover = soft(5, 480, 640), np.zeros((480, 640), np.float32)
    drawn = Image.new("L", (640, 480))
    ImageDraw.Draw(drawn).text((430, 445), "'98 7 14 21", fill=255, font=ImageFont.load_default(size=26))
    cover = np.asarray(drawn, np.float32) / 255.0
    threaded = cover.copy()
    threaded[468:, 452:454] = 1.0
    for laid in (cover, threaded):
        made, _ = damage.laid(spoiled, laid, np.float32((255, 140, 26)))
        found, false = found_and_false(from_words("timestamp", Picture(made)), cover > 0.5)
        assert found > 0.95
        assert false < 0.02


def test_a_date_in_the_middle_is_none():
    spoiled, truth = damage.dated(soft(0, 480, 640), np.random.default_rng(0))
    rows, columns = (np.flatnonzero(truth.any(axis=a)) for a in (1, 0))
    moved = np.roll(spoiled, (240 - rows[0], 320 - int(columns.mean())), (0, 1))
    assert not from_words("timestamp", Picture(moved)).any()


@pytest.mark.parametrize(("opacity", "scale", "tiles"), [(0.2, 1.0, False), (0.5, 0.7, False), (0.4, 0.6, True)])
def test_a_watermark_is_found_wherever_it_is(tmp_path, opacity, scale, tiles):
    rng = np.random.default_rng(1)
    example = damage.mark(rng)
    Image.fromarray(example).save(tmp_path / "mark.png")
    ground = np.full((*example.shape[:2], 3), 30.0)
    flat, _ = damage.laid(ground.astype(np.uint8), example[..., 3] / 255.0, np.float32(255.0))
    Image.fromarray(flat).save(tmp_path / "flat.png")
    pixels = soft(2, 420, 560)
    spoiled, truth = damage.watermarked(pixels, example, opacity, rng, scale, tiles)
    for name in ("mark.png", "flat.png"):
        found, false = found_and_false(from_words(f"watermark:{tmp_path / name}", Picture(spoiled)), truth)
        assert found > 0.95
        assert false < 0.01
    assert not from_words(f"watermark:{tmp_path / 'mark.png'}", Picture(pixels)).any()


def test_a_mark_needs_a_ground_and_room(tmp_path):
    Image.new("RGB", (50, 40), "white").save(tmp_path / "blank.png")
    with pytest.raises(ShapeError, match="shows no mark"):
        from_words(f"watermark:{tmp_path / 'blank.png'}", Picture(soft()))
    large = np.zeros((900, 900, 3), np.uint8)
    large[5:-5, 5:-5] = 255
    large[200:700, 200:700] = 0
    Image.fromarray(large).save(tmp_path / "large.png")
    with pytest.raises(ShapeError, match="does not fit"):
        from_words(f"watermark:{tmp_path / 'large.png'}", Picture(soft()))
    with pytest.raises(PictureError, match="no such file"):
        from_words(f"watermark:{tmp_path / 'none.png'}", Picture(soft()))


def test_a_subject_is_cut_out_of_its_box_the_same_each_time():
    other = np.random.default_rng(3).integers(0, 60, (240, 320, 3)).astype(np.uint8) + np.array([150, 20, 10], np.uint8)
    spoiled, truth, box = damage.composed(soft(), other, np.random.default_rng(0))
    words = f"subject:{','.join(map(str, box))}"
    cv2.setRNGSeed(5)
    first = from_words(words, Picture(spoiled)) > 0
    cv2.setRNGSeed(6)
    assert (first == (from_words(words, Picture(spoiled)) > 0)).all()
    assert (first & truth).sum() / (first | truth).sum() > 0.95
    inside = np.zeros_like(truth)
    inside[box[1] : box[3], box[0] : box[2]] = True
    assert not (first & ~inside).any()


@pytest.mark.parametrize("word", ["scratches", "spots", "timestamp"])
def test_what_finds_nothing_is_an_error_and_nothing_is_written(word, tmp_path, capsys):
    with pytest.raises(PictureError, match="nothing of that kind"):
        read_mask(word, Picture(np.full((60, 80, 3), 128, np.uint8)))
    Image.new("RGB", (80, 60), "grey").save(tmp_path / "photo.png")
    photo, out = str(tmp_path / "photo.png"), tmp_path / "out.png"
    assert run(["inpaint", photo, "--mask", word, "-o", str(out)]) == 1
    assert "nothing of that kind" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("word", ["flood", "brush", "subject", "scratches", "spots", "timestamp", "watermark"])
def test_each_word_keeps_the_contract_of_masks(word, capsys):
    assert run(["plugins", "check", word]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (50, 3), (33, 31)])
@pytest.mark.parametrize("word", ["scratches", "spots", "timestamp"])
def test_any_size_and_depth(word, size):
    eight = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    masks = [from_words(word, Picture(pixels)) for pixels in (eight, eight.astype(np.uint16) * 257)]
    assert masks[0].shape == size
    assert (masks[0] == masks[1]).all()
