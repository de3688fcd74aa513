"""Which patches are compared, and the pixels between them."""

from __future__ import annotations

import pytest
import torch

from editkit.models.patches.atlas import Atlas
from editkit.models.patches.places import PixelsBetween, compared_patches, sample_offsets
from editkit.models.patches.search import Queries, Sources, grow_coherent_matches


def placed(region: torch.Tensor, side: int, stride: int) -> tuple[torch.Tensor, PixelsBetween]:
    corners, _, _ = compared_patches(region, side, region.shape[1], stride)
    return corners, PixelsBetween.of(corners, region, region.shape[1], side, stride)


def test_every_pixel_lies_between_the_compared_patches_around_it():
    """A pixel's four compared patches contain it near their middles; pixels too near the border have none."""
    height, width, side, stride = 23, 31, 7, 3
    region = torch.zeros(height, width, dtype=torch.bool)
    region[0:17, 9:24] = True
    corners, between = placed(region, side, stride)
    assert len(between.corners) == int(region[3:-3, 3:-3].sum())
    apart = between.corners[:, None] - corners[between.around]
    down = torch.round(apart / width).long()
    assert int(down.abs().max()) <= stride
    assert int((apart - down * width).abs().max()) <= stride


def test_only_pixels_with_sources_that_differ_have_a_choice():
    """Patches of one coherent piece leave none; at a border of two pieces, both are candidates."""
    x = torch.rand(3, 20, 60, generator=torch.Generator().manual_seed(0))
    known = torch.ones(20, 60, dtype=torch.bool)
    known[5:15, 5:25] = False
    corners, between = placed(~known, 7, 3)
    atlas = Atlas.of([x], [known], 7)
    one = corners + 26
    _, choices = between.choices(one, corners, atlas)
    assert choices.shape == (0, 4)
    left = corners % 60 < 12
    two = torch.where(left, corners + 26, corners + 28)
    found, choices = between.choices(two, corners, atlas)
    assert len(found) > 0
    assert {int(v) for v in (choices - found[:, None]).unique()} == {26, 28}
    assert bool(atlas.complete[choices].all())


@pytest.mark.parametrize(
    ("depth", "off", "goes_on"), [(12.0, 0.0, True), (12.0, 0.5, False), (5.0, 0.0, False)], ids=["deep", "tone", "rim"]
)
def test_texture_of_the_right_tone_grows_further_inside_a_hole(depth, off, goes_on):
    """A patch ten times as far as the nearest one continues its neighbour's source, if tone and depth allow it."""
    x = torch.rand(3, 20, 60, generator=torch.Generator().manual_seed(1))
    atlas = Atlas.of([x], [torch.ones(20, 60, dtype=torch.bool)], 7)
    plain = Atlas.of([x * 0.0], [torch.ones(20, 60, dtype=torch.bool)], 7)
    nearest, neighbours = torch.tensor([65, 100]), torch.zeros(2, 8, dtype=torch.long)
    handed = int(nearest[0]) + 3
    values = atlas.patches(torch.tensor([65, 100]))
    apart = float((values[1] - atlas.patches(torch.tensor([handed]))[0]).square().sum())
    queries = Queries(
        values, torch.full((2, 49), 10.0 / apart), torch.full((2, 9, 3), off), 0.0, neighbours, torch.full((8,), 3),
        busy=torch.tensor([[-4.6, 1.0], [-4.6, 1.0]]),
    )  # fmt: skip
    sources = Sources(atlas, plain, atlas.corners, sample_offsets(atlas.offsets.view(7, 7)))
    grown = grow_coherent_matches(queries, sources, nearest, torch.tensor([1.0, depth]), torch.tensor([0.0, 3.0]), 1.0)
    assert int(grown[1]) == (handed if goes_on else 100)
