"""`texture` says if its sample has a layout, which texture cannot repeat; of even samples it says nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from editkit.editing.api import plan
from editkit.pictures.picture import Picture
from editkit.plugins import Texture
from editkit_plugins.texture import LAYOUT, layout_share

PHOTOS = Path(__file__).parent.parent / "assets" / "photos"


def notices(pixels: np.ndarray) -> list[str]:
    lines: list[str] = []
    plan(pixels, Texture(size="32x32"), notify=lines.append)
    return [line for line in lines if "layout" in line]


@pytest.mark.parametrize("name", ["horses", "aqueduct", "seabed"])
def test_a_scene_has_a_layout(name: str) -> None:
    assert len(notices(Picture.read(PHOTOS / f"{name}.jpg").pixels)) == 1


@pytest.mark.parametrize("at", [(0, 0), (40, 90), (70, 150)])
def test_grass_has_none(at: tuple[int, int]) -> None:
    y, x = at
    assert notices(Picture.read(PHOTOS / "grass.jpg").pixels[y : y + 160, x : x + 200]) == []


def test_the_share_is_that_of_the_cells() -> None:
    """Flat cells of different tones: all contrast is between them. The same cells everywhere: none is."""
    rng = np.random.default_rng(0)
    flat = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((20, 20, 1))).astype(np.uint8)
    assert layout_share(flat) == pytest.approx(1.0, abs=1e-6)
    assert layout_share(np.tile(rng.integers(0, 255, (20, 20, 3)).astype(np.uint8), (4, 4, 1))) < LAYOUT / 2
    assert layout_share(np.full((20, 20, 3), 7, np.uint16)) == 0.0
