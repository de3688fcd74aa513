"""Textures that go on at their edges, and sizes in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_conveniences import RNG, here, pixels

from editkit.cli import run
from editkit.pictures.picture import Picture
from editkit.plugins import Uncrop, Upscale
from editkit_plugins.tiling import cheapest_path, tileable

__all__ = ["here"]


def test_the_cheapest_path_is_the_cheapest_of_all_that_close() -> None:
    cost = RNG.random((5, 4)).astype(np.float32)
    begin = int(cost[0].argmin())

    def paths(at: int, rows: int) -> Iterator[tuple[int, ...]]:
        if rows == 0:
            yield ()
            return
        for aside in (-1, 0, 1):
            if 0 <= at + aside < 4:
                yield from ((at + aside, *rest) for rest in paths(at + aside, rows - 1))

    closed = [path for rest in paths(begin, 4) if abs((path := (begin, *rest))[-1] - begin) <= 1]
    costs = {path: sum(float(cost[y, x]) for y, x in enumerate(path)) for path in closed}
    assert tuple(cheapest_path(cost)) == min(costs, key=lambda path: costs[path])


def test_a_tile_has_no_seam_and_is_made_of_the_texture() -> None:
    waves = RNG.normal(size=(64, 80, 3)).astype(np.float32)
    for axis in (0, 1):
        for _ in range(6):  # smooth, and not periodic
            waves = (waves[:-1] + waves[1:]) / 2 if axis == 0 else (waves[:, :-1] + waves[:, 1:]) / 2

    def steps(texture: np.ndarray) -> np.ndarray:
        """How much the wrapped edges differ, beside how much neighbours within do."""
        within = [np.abs(np.diff(texture, axis=axis)).mean() for axis in (0, 1)]
        wrapped = [np.abs(texture[0] - texture[-1]).mean(), np.abs(texture[:, 0] - texture[:, -1]).mean()]
        return np.array(wrapped) / within

    made = tileable(waves)
    assert made.shape == waves.shape
    assert (steps(waves) > 2.0).all()  # two pixels that are far apart
    assert (steps(made) < 1.25).all()
    assert np.isin(made, waves).all()
    seams = [np.abs(np.diff(made, axis=axis)).mean() for axis in (0, 1)]
    assert max(seams) < 1.2 * max(np.abs(np.diff(waves, axis=axis)).mean() for axis in (0, 1))


def test_the_command_makes_a_tile(here: Path, capsys) -> None:
    for words in ([], ["--tile"]):
        assert run(["texture", "a.png", "--size", "32x24", "--steps", "2", "-o", f"t{len(words)}.png", *words]) == 0
    assert pixels("t1.png").shape == pixels("t0.png").shape
    assert (pixels("t1.png") != pixels("t0.png")).any()
    assert run(["texture", "a.png", "--size", "32x12", "--tile"]) == 2
    assert "needs at least 16x16 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("plugin", "size"),
    [
        (Uncrop(left="10%", bottom=4), (44, 36)),
        (Uncrop(aspect="1.5"), (48, 32)),
        (Uncrop(aspect="3/2"), (48, 32)),
        (Uncrop(size="50x40"), (50, 40)),
        (Upscale(scale="3x"), (120, 96)),
        (Upscale(size="80x80"), (80, 64)),
    ],
)
def test_sizes_in_words(here: Path, plugin, size) -> None:
    assert plugin.open(Picture.read("a.png"), print).size == size


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["uncrop", "a.png", "--left", "10q"], "write pixels, 0 to 20000, or per cent of the picture, such as 10%"),
        (["uncrop", "a.png", "--left", "3", "--size", "50x40"], "borders, an --aspect or a --size; give only one"),
        (["uncrop", "a.png", "--size", "30x40"], "--size 30x40 is smaller than the picture, 40x32"),
        (["uncrop", "a.png", "--aspect", "nan"], "write width:height, such as 16:9, or a number"),
        (["upscale", "a.png", "--size", "30x40"], "--size 30x40 is no larger than the picture, 40x32"),
        (["upscale", "a.png", "--size", "80x80", "--scale", "2"], "--scale or --size, not both"),
        (["upscale", "a.png", "--scale", "0.5x"], "must be greater than 1"),
    ],
)
def test_sizes_that_cannot_be(here: Path, capsys, words, said) -> None:
    assert run(words) == 2
    assert said in capsys.readouterr().err
