"""What lies under full transparency is no picture: it is not learned from, not enlarged into the rim, not copied into a
hole, and not changed. Pictures of another profile are converted before they are learned from. Dust is filled."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from editkit import edit
from editkit.errors import PictureError
from editkit.models.patches.binding import Smooth, bind
from editkit.models.patches.denoise import Bound, Settings
from editkit.pictures.files.colours import PRIMARIES, profile
from editkit.pictures.picture import Picture
from editkit.plugins import Denoise, Inpaint, SDEdit, Uncrop, Upscale
from editkit.training.pictures import load_collection

COLOUR = (230, 120, 90)
HIDDEN = [(0, 0, 0), (255, 255, 255), (0, 255, 0)]


def disc(hidden, dtype=np.uint8, side=40):
    """A cut-out of one colour with a soft rim, and `hidden` under what is fully transparent."""
    y, x = np.mgrid[0:side, 0:side]
    alpha = np.rint(np.clip(0.35 * side - np.hypot(x - side / 2, y - side / 2) + 0.5, 0, 1) * 255).astype(np.uint8)
    pixels = np.empty((side, side, 3), np.uint8)
    pixels[:] = COLOUR
    pixels[alpha == 0] = hidden
    scale = dtype(257) if dtype == np.uint16 else dtype(1)
    return Picture(pixels.astype(dtype) * scale, alpha.astype(dtype) * scale)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_visible_goes_on_under_transparency(dtype):
    picture = disc((0, 0, 0), dtype)
    scale = 257 if dtype == np.uint16 else 1
    np.testing.assert_array_equal(picture.visible, np.broadcast_to(np.array(COLOUR) * scale, picture.pixels.shape))
    assert picture.visible.dtype == dtype
    assert picture.hidden is not None
    np.testing.assert_array_equal(picture.hidden, picture.alpha == 0)


def test_nothing_is_hidden_where_all_is_seen_or_nothing_is():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    for alpha in (None, np.full((5, 6), 255, np.uint8), np.full((5, 6), 1, np.uint8), np.zeros((5, 6), np.uint8)):
        picture = Picture(pixels, alpha)
        assert picture.visible is pixels
        assert picture.hidden is None


def test_the_nearest_pixel_that_is_seen_is_taken():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    alpha = np.zeros((9, 11), np.uint8)
    alpha[2, 3] = alpha[7, 9] = 1
    seen = Picture(pixels, alpha).visible
    np.testing.assert_array_equal(seen[0, 0], pixels[2, 3])
    np.testing.assert_array_equal(seen[8, 10], pixels[7, 9])
    assert set(map(tuple, seen.reshape(-1, 3))) == {tuple(pixels[2, 3]), tuple(pixels[7, 9])}


EDITS = [
    (Upscale(scale=2), {"model": "pocket"}),
    (Upscale(scale=2), {"model": "patches"}),
    (Upscale(scale=2.5), {"model": "pocket", "steps": 2}),
    (Denoise(sigma=10.0), {}),
    (SDEdit(strength=0.3), {"model": "pocket", "steps": 2}),
    (Inpaint(mask="box:16,16,24,24"), {}),
    (Uncrop(right=8), {}),
]


@pytest.mark.parametrize(("plugin", "options"), EDITS, ids=lambda value: getattr(value, "name", ""))
def test_no_result_depends_on_what_is_hidden(plugin, options):
    """Bit for bit where anything is to be seen; and hidden pixels stay as they were where the size does."""
    made = [edit(disc(hidden), plugin, **options) for hidden in HIDDEN]
    for other in made[1:]:
        np.testing.assert_array_equal(made[0].alpha, other.alpha)
        shown = np.ones(made[0].pixels.shape[:2], bool) if other.alpha is None else other.alpha > 0
        np.testing.assert_array_equal(made[0].pixels[shown], other.pixels[shown])
    if made[0].size == (40, 40):
        for hidden, one in zip(HIDDEN, made, strict=True):
            before = disc(hidden)
            kept = (before.alpha == 0) & (one.alpha == 0)
            np.testing.assert_array_equal(one.pixels[kept], before.pixels[kept])


def test_a_hole_at_the_edge_of_what_is_seen_is_not_filled_from_beyond():
    y, x = np.mgrid[0:48, 0:64]
    pixels = np.stack([90 + x, 120 + y, 150 + 20 * np.sin(x / 3)], -1).clip(0, 255).astype(np.uint8)
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, 44:] = 0
    pixels[:, 44:] = 0
    made = edit(Picture(pixels, alpha), Inpaint(mask="box:26,14,44,34"))
    assert made.pixels[14:34, 26:44].max(-1).min() > 60
    np.testing.assert_array_equal(made.pixels[:, 44:], pixels[:, 44:])


def test_no_patch_is_taken_from_what_is_hidden():
    picture = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    unknown, unseen = torch.zeros(20, 30, dtype=torch.bool), torch.zeros(20, 30, dtype=torch.bool)
    unknown[8:10, 4:6], unseen[:, 15:] = True, True
    bound = bind(picture, unknown, Settings(), barred=unseen)
    assert isinstance(bound, Bound)
    assert (bound.atlas.corners % 30).max() == 15 - 7


@pytest.mark.parametrize("kind", ["dots", "mesh", "rows"])
def test_dust_and_meshes_are_filled(kind):
    """Nearer to the truth than the mean of what is known, by far: the truth is smooth, and a membrane between known
    neighbours has its error of second order."""
    y, x = np.mgrid[0:40, 0:48]
    truth = np.stack([60 + 3 * x, 40 + 4 * y, 120 + 40 * np.sin(x / 9)], -1).clip(0, 255).astype(np.uint8)
    mask = {
        "dots": np.random.default_rng(0).random((40, 48)) < 0.3,
        "mesh": (y % 6 == 0) | (x % 6 == 0),
        "rows": y % 3 > 0,
    }[kind]
    spoilt, said = truth.copy(), []
    spoilt[mask] = 0
    made = edit(Picture(spoilt), Inpaint(mask=mask), notify=said.append)
    error = np.abs(made.pixels.astype(float) - truth)[mask].mean()
    assert error < 6.0 < np.abs(truth[~mask].mean(0) - truth[mask]).mean()
    np.testing.assert_array_equal(made.pixels[~mask], truth[~mask])
    assert any("filled smoothly" in line for line in said)


def test_where_no_patch_is_known_the_model_is_the_membrane():
    picture = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
    unknown = torch.zeros(12, 12, dtype=torch.bool)
    unknown[::3] = True
    bound = bind(picture, unknown, Settings())
    assert isinstance(bound, Smooth)
    torch.testing.assert_close(bound.picture[:, ~unknown], picture[:, ~unknown], rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------ other profiles


WIDE = profile("wide", (0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001, 0.3457, 0.3585), lambda v: v**1.8)


def in_profile(pixels, icc):
    source = ImageCms.createProfile("sRGB")
    image = Image.fromarray(pixels)
    target = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return np.asarray(ImageCms.profileToProfile(image, source, target, outputMode="RGB"))


def saved(path, pixels, icc=None, **more):
    Image.fromarray(pixels).save(path, **({} if icc is None else {"icc_profile": icc}), **more)
    return path


def scene(side=32):
    y, x = np.mgrid[0:side, 0:side]
    return np.stack([170 + x, 90 + y, 60 + 0 * x], -1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_picture_of_another_profile_means_the_same(dtype):
    wide = in_profile(scene(), WIDE)
    scale = dtype(257) if dtype == np.uint16 else dtype(1)
    picture = Picture.read(wide.astype(dtype) * scale)
    picture = replace(picture, meta=replace(picture.meta, icc=WIDE))
    assert np.abs(wide.astype(int) - scene()).max() > 20
    back = picture.coloured_as(None)
    assert back.pixels.dtype == dtype
    assert np.abs(back.pixels // scale - scene().astype(float)).max() <= 3
    assert picture.coloured_as(picture.meta) is picture


def test_a_fill_has_the_photographs_colours_whatever_profile_the_other_picture_has(tmp_path):
    rng = np.random.default_rng(0)
    truth = (np.full((48, 64, 3), (210, 90, 40)) + rng.normal(0, 6, (48, 64, 1))).clip(0, 255).astype(np.uint8)
    truth[:, :12] = (60, 110, 160)
    other = saved(tmp_path / "other.png", in_profile(truth, WIDE), WIDE)
    made = edit(truth, Inpaint(mask="box:14,6,62,42", from_=(other,)))
    off = np.abs(made.pixels[6:42, 16:62].mean((0, 1)) - truth[6:42, 16:62].mean((0, 1))).max()
    assert off < 8


def test_training_learns_colours_and_not_what_is_hidden(tmp_path):
    saved(tmp_path / "plain.png", scene())
    saved(tmp_path / "wide.png", np.rot90(in_profile(scene(), WIDE)).copy(), WIDE)
    saved(tmp_path / "cut.png", np.dstack([disc((0, 255, 0)).pixels, disc((0, 255, 0)).alpha]))
    read = {p.name: p.levels[0].permute(1, 2, 0).numpy() for p in load_collection(tmp_path, 16).training}
    assert np.abs(read["wide.png"].astype(int) - np.rot90(scene())).max() <= 3
    assert (read["cut.png"] == COLOUR).all()


def test_numbers_that_are_hdr_are_not_taken_for_others(tmp_path):
    picture = Picture.read(scene())
    picture = replace(picture, meta=replace(picture.meta, chunks=((b"cICP", b"\11\20\0\1"),)))
    with pytest.raises(PictureError, match="HDR"):
        picture.coloured_as(None)
    assert picture.coloured_as(picture.meta) is picture
    assert PRIMARIES[9] != PRIMARIES[1]
