"""`colorize --color-at`: colours at points are spread where luma is about equal, and luma stays exact."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from editkit import edit
from editkit.cli import run
from editkit.errors import EditkitError
from editkit_plugins.colorize import Colorize, parse_points
from editkit_plugins.restoring.points import Point
from editkit_plugins.restoring.scribbles import FAR, reach, spread

LUMA = np.array([0.299, 0.587, 0.114])


def halves() -> np.ndarray:
    """(H, W, 3) grey: a dark and a light half, each with a bit of shading."""
    grey = np.full((64, 96), 80.0) + np.arange(96)[None, :] / 8.0
    grey[:, 48:] += 90
    return np.rint(grey).astype(np.uint8)[..., None].repeat(3, 2)


def test_a_way_costs_what_luma_changes_on_it():
    luma = np.zeros((20, 30), np.float32)
    luma[:, 15:] = 0.5
    way = reach(luma, 3, 10)
    step = way[10, 4]
    assert way[10, 3] == 0
    assert way[0, 14] == pytest.approx(21 * step, rel=1e-4)
    assert way[10, 20] == pytest.approx(0.5 + 17 * step, rel=1e-4)
    ring = np.zeros((31, 31), np.float32)
    ring[5:26, 5:26] = 1.0
    ring[8:23, 8:23] = 0.0
    ring[15, 20:27] = 0.0  # the only way in
    assert reach(ring, 0, 0)[15, 15] < 1.5  # through the ring it would be 2 and the steps


def test_each_half_takes_the_colour_of_its_point_and_luma_is_exact():
    grey = halves()
    plugin = Colorize(color_at=("10,30,#704030", "80,30,#a0b0d0"))
    made = edit(grey, plugin).pixels.astype(float)
    assert np.abs(made @ LUMA - grey[..., 0]).max() <= 1.0  # each channel is rounded
    for columns, rgb in ((slice(0, 44), (0x70, 0x40, 0x30)), (slice(52, 96), (0xA0, 0xB0, 0xD0))):
        wanted = np.array(rgb) - np.dot(rgb, LUMA)
        got = made[:, columns] - (made[:, columns] @ LUMA)[..., None]
        assert np.abs(np.median(got, axis=(0, 1)) - wanted).max() < 4


def test_beyond_the_reach_the_models_colours_stay():
    grey = np.zeros((64, 64, 3), np.uint8)
    grey[:, 32:] = 250
    luma = grey[..., 0].astype(np.float32) / 255.0
    steep = luma.copy()
    steep[:, 20:24] = 1.0  # up, down and up again: further than `FAR`
    _, share = spread(steep, [Point(5, 5, (200, 0, 0))])
    assert FAR < 2.9
    assert share[5, 5] == 1
    assert not share[:, 32:].any()
    without, with_hint = edit(halves(), Colorize()).pixels, edit(halves(), Colorize(color_at=("5,5,red",))).pixels
    assert (without[5, 5] != with_hint[5, 5]).any()


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("10,20,#ff0000", (10, 20)),
        ("50%,0%,red", (100, 0)),
        (" 100% , 100% ,white", (200, 100)),
        ("7.9,3,#0f0", (7, 3)),
    ],
)
def test_points_are_pixels_or_per_cent(text, point):
    assert parse_points(text, 200, 100)[:2] == point


@pytest.mark.parametrize("text", ["10,20", "x,20,red", "10,20,rod", "", "10;20;red", "-1,2,red"])
def test_what_is_no_point_is_refused(text):
    with pytest.raises(EditkitError):
        Colorize(color_at=(text,))


def test_on_the_command_line_several_and_one_outside(tmp_path, capsys):
    Image.fromarray(halves()).save(tmp_path / "grey.png")
    grey, out = str(tmp_path / "grey.png"), tmp_path / "out.png"
    assert run(["colorize", grey, "--color-at", "10,30,#704030", "--color-at", "90%,50%,skyblue", "-o", str(out)]) == 0
    made = np.asarray(Image.open(out)).astype(int)
    assert made[30, 10, 0] > made[30, 10, 2] + 20
    assert made[30, 86, 2] > made[30, 86, 0] + 20
    assert run(["colorize", grey, "--color-at", "200,30,red", "-o", str(tmp_path / "no.png")]) == 2
    assert "outside the picture of 96x64" in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()
