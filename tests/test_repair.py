"""`editkit repair`: what is damaged is found and filled, cast and fading are undone, every step can be left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from test_mask_words import damage, soft

from editkit import edit
from editkit.cli import run
from editkit.editing import contract
from editkit.pictures.files.provenance import read_provenance
from editkit.pictures.picture import Picture
from editkit.plugin import silent
from editkit.plugins import Guide
from editkit_plugins.repair import MADE, Repair, ends

STEPS = {"model": "patches", "steps": 6}


def scan() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scan, truth, where it is damaged): a soft picture with its black and white, scratches and blots."""
    truth = soft(4, 200, 280)
    truth[:30, :30], truth[-30:, -30:] = 0, 255  # more than a hundredth of it: walls
    rng = np.random.default_rng(0)
    spoiled, first = damage.scratched(truth, rng)
    spoiled, second = damage.spotted(spoiled, rng)
    return spoiled, truth, first | second


def error(x: np.ndarray, truth: np.ndarray) -> float:
    return float(np.square(x.astype(float) - truth).mean())


def test_damage_is_filled_and_the_rest_is_kept_bit_for_bit():
    spoiled, truth, where = scan()
    plugin = Repair(cast=False, fading=False)
    mask = plugin.open(Picture(spoiled), silent).mask
    made = edit(spoiled, plugin, **STEPS).pixels
    assert (made[mask == 0] == spoiled[mask == 0]).all()
    assert (mask[where] > 0).mean() > 0.8
    assert error(made[where], truth[where]) < error(spoiled[where], truth[where]) / 4  # 6 dB


@pytest.mark.parametrize(
    ("off", "on"), [("scratches", {"spots"}), ("spots", {"scratches"}), ("scratches spots", set())]
)
def test_each_finder_can_be_left_out(off, on):
    spoiled, _, _ = scan()
    told: list[str] = []
    plugin = Repair(**dict.fromkeys(off.split(), False))
    plugin.found(Picture(spoiled), told.append)
    assert {name for name in ("scratches", "spots") if name in " ".join(told)} == on


@pytest.mark.parametrize(("lines", "told"), [(2, False), (16, True)])
def test_much_that_is_found_is_told(lines, told):
    """A picture of many lines may have lines of its own: where a 20th of it would go, one is asked to look."""
    spoiled = soft(4, 200, 280) // 3
    spoiled[10 : 10 + 12 * lines : 12, 10:-10] = 250
    said: list[str] = []
    Repair(cast=False, fading=False).found(Picture(spoiled), said.append)
    assert any("that is a large share" in line for line in said) == told


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_straight_line_in_each_channel_is_undone(seed, deep):
    _, truth, _ = scan()
    aged = damage.faded(truth, np.random.default_rng(seed))
    picture = Picture(aged.astype(np.uint16) * 257 if deep else aged)
    made = Repair().toned(picture, np.zeros(aged.shape[:2]), silent).pixels / (257.0 if deep else 1.0)
    assert np.abs(made - truth).max() < MADE + 2.5  # a level of the scan is at most 1.8 of the truth
    assert np.abs(aged.astype(int) - truth).max() > 25


def test_cast_and_fading_are_undone_one_by_one():
    _, truth, _ = scan()
    aged = Picture(damage.faded(truth, np.random.default_rng(1)))
    nothing = np.zeros(truth.shape[:2])
    black, white = ends(aged.pixels.reshape(-1, 3).astype(np.float32))

    def after(**steps: bool) -> tuple[np.ndarray, np.ndarray]:
        return ends(Repair(**steps).toned(aged, nothing, silent).pixels.reshape(-1, 3).astype(np.float32))

    no_fading, no_cast = after(fading=False), after(cast=False)
    assert np.abs(no_fading[0] - black.mean()).max() <= 1
    assert np.abs(no_fading[1] - white.mean()).max() <= 1
    assert abs(no_cast[0].min() - MADE) <= 1
    assert abs(no_cast[1].max() - 255 + MADE) <= 1
    assert np.abs(np.ptp(no_cast[0]) - np.ptp(black)) <= 1
    assert np.abs(np.ptp(no_cast[1]) - np.ptp(white)) <= 1
    assert Repair(cast=False, fading=False).toned(aged, nothing, silent) is aged


def test_what_has_black_and_white_keeps_its_tones_and_so_does_a_flat_picture():
    _, truth, _ = scan()
    flat = np.full((60, 80, 3), 128, np.uint8) + np.random.default_rng(0).integers(0, 9, (60, 80, 3), dtype=np.uint8)
    for pixels in (truth, flat):
        picture = Picture(pixels)
        assert Repair().toned(picture, np.zeros(pixels.shape[:2]), silent) is picture


@pytest.mark.parametrize(
    ("black", "white"),
    [((5, 5, 5), (225, 225, 225)), ((40, 40, 40), (250, 250, 250)), ((90, 95, 90), (220, 220, 215)),
     ((40, 45, 42), (130, 130, 130)), ((40, 40, 78), (200, 210, 205))],
)  # fmt: skip
def test_without_evidence_at_both_ends_nothing_is_touched(black, white):
    """Black as black is, white as white is, a fog, a close-up, one channel far off: none is a faded print's."""
    _, truth, _ = scan()
    low, high = np.float32(black), np.float32(white)
    pixels = np.rint(low + truth / 255.0 * (high - low)).astype(np.uint8)
    picture = Picture(pixels)
    assert Repair().toned(picture, np.zeros(pixels.shape[:2]), silent) is picture


def test_a_scene_that_thins_out_at_both_ends_has_not_faded():
    """No wall at either end: the ends are the scene's, not the print's."""
    bell = np.clip(np.random.default_rng(0).normal(128, 26, (80, 90, 1)), 0, 255).repeat(3, 2).astype(np.uint8)
    assert 20 <= ends(bell.reshape(-1, 3).astype(np.float32))[0].min() <= 75
    assert Repair().toned(Picture(bell), np.zeros(bell.shape[:2]), silent).pixels is bell


def test_a_picture_of_one_colour_is_no_cast_beyond_the_limit():
    """A red picture: its channels' whites are far apart, and stay so."""
    tones = soft(5)[..., :1].astype(np.float32)
    span = (tones - tones.min()) / np.ptp(tones)
    red = np.rint(span * np.float32([250, 120, 100])).astype(np.uint8)
    made = Repair().toned(Picture(red), np.zeros(red.shape[:2]), silent).pixels
    assert np.ptp(ends(made.reshape(-1, 3).astype(np.float32))[1]) > 100


def test_a_picture_without_damage_stays_and_it_is_said():
    whole, told = soft(4)[:100, :100] // 4 + 100, list[str]()
    assert (edit(whole, Repair(), notify=told.append, **STEPS).pixels == whole).all()
    assert any("nothing to repair" in line and "inpaint" in line for line in told)


def test_guidance_beside_it_looks_at_everything_where_nothing_was_found():
    whole = soft(4)[:60, :60] // 4 + 100
    assert edit(whole, Repair() & Guide(), model=contract.ExactModel(), steps=2).pixels.shape == whole.shape


def test_tones_alone_are_undone_where_nothing_is_damaged():
    _, truth, _ = scan()
    aged = damage.faded(truth, np.random.default_rng(2))
    plugin = Repair(scratches=False, spots=False)
    made = edit(aged, plugin, **STEPS).pixels
    assert (made == plugin.toned(Picture(aged), np.zeros(aged.shape[:2]), silent).pixels).all()


def test_the_mask_is_saved_and_nothing_else_is_overwritten(tmp_path, capsys):
    spoiled, _, _ = scan()
    photo, found, out = (str(tmp_path / name) for name in ("scan.png", "found.png", "out.png"))
    Image.fromarray(spoiled).save(photo)
    words = ["repair", photo, "--no-cast", "--no-fading", "--save-mask", found, "--steps", "4"]
    assert run(["plan", *words]) == 0
    assert not (tmp_path / "found.png").exists()
    assert run([*words, "-o", out]) == 0
    assert "pixels outside the mask: identical" in capsys.readouterr().err
    saved = np.asarray(Image.open(found)) > 0
    expected = Repair(cast=False, fading=False).open(Picture(spoiled), silent).mask > 0
    assert (saved.reshape(*saved.shape[:2], -1)[..., 0] == expected).all()
    assert "save_mask" not in json.dumps(read_provenance(out).recipe)
    assert run([*words, "-o", str(tmp_path / "again.png")]) == 1
    assert "found.png: exists already" in capsys.readouterr().err
    other = str(tmp_path / "other.png")
    assert run(["inpaint", photo, "--mask", found, "--steps", "4", "-o", other]) == 0
    assert (np.asarray(Image.open(other)) == np.asarray(Image.open(out))).all()
    assert not (tmp_path / "again.png").exists()


def test_the_last_line_says_that_pixels_outside_changed(tmp_path, capsys):
    spoiled, _, _ = scan()
    Image.fromarray(damage.faded(spoiled, np.random.default_rng(3))).save(tmp_path / "scan.png")
    words = ["repair", str(tmp_path / "scan.png"), "--steps", "4", "-o", str(tmp_path / "out.png")]
    assert run(words) == 0
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "pixels outside the mask: changed by up to" in last
    assert "by the edit" in last
    assert run([*words[:-1], str(tmp_path / "two.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept_deviation"] > 20
