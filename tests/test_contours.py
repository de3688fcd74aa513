"""Contours that a hole interrupts: found, paired, and continued without a step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from editkit.models.patches.atlas import Atlas
from editkit.models.patches.continuing import Continuations, contours_through, divided_membrane
from editkit.models.patches.contours import BEND, Arrival, Contour, find_arrivals, find_contours, pair_arrivals
from editkit.models.patches.denoise import Bound, Settings


def scene(slope: float = 0.2, wire: bool = False, size: int = 120) -> np.ndarray:
    """Return (size, size, 3): bright sky over dark ground, or a bright wire on ground; both rise by `slope`."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    above = (y - size / 2) + slope * (x - size / 2)
    grain = np.random.default_rng(0).normal(0, 0.02, (size, size, 3))
    one = np.exp(-(above**2) / 2) if wire else 0.5 - 0.5 * np.tanh(above)
    tint = np.array([0.9, 1.0, 1.1])
    return (one[..., None] * tint - 0.5 + grain).clip(-1, 1).astype(np.float32)


def hole(size: int = 120) -> np.ndarray:
    region = np.zeros((size, size), bool)
    region[30:90, 45:80] = True
    return region


def as_tensors(image: np.ndarray, region: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(region)


@pytest.mark.parametrize("slope", [0.0, 0.2, -0.3, 1.0])
@pytest.mark.parametrize("wire", [False, True])
def test_an_interrupted_contour_is_joined_along_itself(slope, wire):
    image, region = as_tensors(scene(slope, wire), hole())
    (contour,) = contours_through(image, region)
    x, y = contour.path().T
    error = (y - 60) + slope * (x - 60)
    assert np.abs(error).max() / np.hypot(1, slope) < 1.5, "the path leaves the contour"


def test_a_texture_and_a_calm_picture_have_no_contours():
    region = hole()
    noise = np.random.default_rng(1).normal(0, 0.3, (120, 120, 3)).astype(np.float32).clip(-1, 1)
    assert find_contours(noise, region) == []
    assert find_contours(np.zeros((120, 120, 3), np.float32), region) == []
    assert find_arrivals(noise, np.zeros_like(region)) == []


def test_contours_of_other_colours_or_directions_are_not_joined():
    image = scene(0.0)
    image[:, 62:] = -image[:, 62:]  # dark over bright on the right
    picture, region = as_tensors(image, hole())
    assert contours_through(picture, region) == []
    shifted = scene(0.0)
    shifted[:, 62:] = np.roll(shifted[:, 62:], 25, axis=0)
    picture, region = as_tensors(shifted, hole())
    assert contours_through(picture, region) == []


def arrival(point: tuple[float, float], angle: float) -> Arrival:
    """Return an arrival at `point` that heads at `angle`; bright on its left."""
    heading = np.array([np.cos(angle), np.sin(angle)], np.float32)
    trace = np.array(point, np.float32) - np.arange(20)[:, None] * heading
    left = 1.0 if np.cos(angle) > 0 else -1.0
    profile = np.repeat(np.linspace(left, -left, 17)[:, None], 3, 1).astype(np.float32)
    return Arrival(np.array(point, np.float32), heading, trace.astype(np.float32), profile)


def test_pairs_do_not_cross_and_each_end_is_used_once():
    region = np.zeros((100, 100), bool)
    region[10:90, 20:80] = True
    left = [arrival((15, 40), 0.3), arrival((15, 60), -0.3)]
    right = [arrival((85, 40), np.pi - 0.3), arrival((85, 60), np.pi + 0.3)]
    found = pair_arrivals(left + right, region)
    ends = [id(end) for contour in found for end in (contour.first, contour.second)]
    assert len(ends) == len(set(ends))
    paths = [{tuple(p) for p in np.rint(c.path()).astype(int).tolist()} for c in found]
    assert len(paths) < 2 or not paths[0] & paths[1]
    assert pair_arrivals([arrival((15, 40), 2 * BEND), arrival((85, 40), np.pi)], region) == []


def test_a_path_starts_and_ends_at_its_arrivals_and_small_bends_are_reduced():
    for bend, most in ((0.03, 0.3), (0.3, 8.0)):
        path = Contour(arrival((0, 0), bend), arrival((100, 0), np.pi)).path()
        assert np.allclose(path[[0, -1]], [[0, 0], [100, 0]], atol=1e-4)
        assert np.abs(path[:, 1]).max() < most
    assert np.abs(path[:, 1]).max() > 2.0, "a clear bend is kept"


def test_candidates_lie_as_far_from_their_contour_as_asked():
    image, region = as_tensors(scene(0.2), hole())
    contours = contours_through(image, region)
    atlas = Atlas.of([image], [~region], 7)
    lines = Continuations.of(contours, region, 4, atlas)
    assert lines is not None
    assert bool((lines.number[~region] == 0).all())
    across = torch.tensor([-2.0, 0.0, 2.0])
    corners = lines.candidates(1, across)
    assert bool(atlas.complete[corners].all())
    middle = corners + atlas.offsets[24]
    y, x = (middle // atlas.width).double(), (middle % atlas.width).double()
    apart = ((y - 60) + 0.2 * (x - 60)) / np.hypot(1, 0.2)
    near = apart[:, :8]
    assert float((near.abs() - across[:, None].abs()).abs().max()) < 1.5
    assert Continuations.of([], region, 4, atlas) is None


def test_the_first_guide_is_divided_by_a_contour():
    image, region = as_tensors(scene(0.0), hole())
    guide = divided_membrane(image, region, contours_through(image, region))
    assert torch.equal(guide[:, ~region], image[:, ~region])
    assert float(guide[:, 55:58, 55:70].mean()) > 0.2
    assert float(guide[:, 63:66, 55:70].mean()) < -0.3


@pytest.mark.parametrize("wire", [False, True])
def test_what_is_copied_meets_the_contour_without_a_step(wire):
    """The queries beside the contour copy patches at the same distance from it."""
    image, region = as_tensors(scene(0.2, wire), hole())
    bound = Bound.of(image, region, Settings(exact=0))
    lines = bound.continuations
    assert lines is not None
    from editkit.models.patches.info import Ladder

    level = Ladder().levels(4)[-1]
    guide = image.masked_fill(region, 0.0)
    made = bound.denoise(guide.clone(), level, guide)
    if wire:
        crest = made[:, :, 45:80].mean(0).argmax(0)
        wanted = 60 - 0.2 * (torch.arange(45, 80) - 60)
        assert float((crest - wanted).abs().max()) < 1.5, "the wire has a step or a gap"
        return
    y, x = np.mgrid[:120, :120].astype(np.float32)
    apart = torch.from_numpy(((y - 60) + 0.2 * (x - 60)) / np.hypot(1, 0.2))
    truth = torch.from_numpy(scene(0.2)).permute(2, 0, 1)
    band = region & (apart.abs() < 2.5)
    error = (made - truth)[:, band].square().mean().sqrt()
    assert float(error) < 0.15, f"{float(error):.3f}: the contour is broken"
