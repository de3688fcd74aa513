"""Patches of other pictures (`--from`), and whole canvases of them (`texture`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from toy import Isotropic

from editkit import edit
from editkit.cli.words import parse
from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import Example, Pass
from editkit.editing import recipe
from editkit.editing.canvas import example, size_at_scale
from editkit.editing.settle import plan_stage
from editkit.errors import ChainError, ModelError, ParameterError, PictureError
from editkit.models.patches.denoise import Bound, Settings
from editkit.models.patches.info import FEWEST, PATCH, Ladder, ladder
from editkit.models.patches.model import Patches
from editkit.pictures.boxes import Box
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain
from editkit.plugin.options import Options
from editkit_plugins.inpaint import Inpaint
from editkit_plugins.texture import Texture
from editkit_plugins.uncrop import Uncrop

RED, BLUE = np.array([200, 30, 30], np.uint8), np.array([30, 30, 200], np.uint8)


def stripes(height: int, width: int, period: int = 8) -> np.ndarray:
    """Red and blue columns."""
    return np.where((np.arange(width) // (period // 2) % 2 == 0)[None, :, None], RED, BLUE).repeat(height, 0)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("mirror", [False, True])
def test_patches_of_an_example_are_sources_like_the_pictures_own(mirror):
    """The posterior mean over both equals that over one picture which holds both, where no patch reaches over."""
    x, other = (torch.rand(3, *size, generator=torch.Generator().manual_seed(size[0])) for size in ((11, 9), (14, 8)))
    unknown = torch.zeros(11, 9, dtype=torch.bool)
    unknown[4:7, 4:6] = True
    settings = Settings(side=3, mirror=mirror)
    bound = Bound.of(x, unknown, settings, [Example(other)])
    alone = Bound.of(x, unknown, settings)
    own, more = len(alone.atlas.corners), 12 * 6 * (2 if mirror else 1)
    assert len(bound.atlas.corners) == own + more
    there = bound.atlas.patches(bound.atlas.corners).flatten(1)
    every = other.unfold(1, 3, 1).unfold(2, 3, 1).permute(1, 2, 3, 4, 0).reshape(-1, 27)
    assert all((there - patch).abs().sum(1).min() == 0.0 for patch in every[::7])


def test_without_examples_nothing_is_another():
    x, unknown = torch.rand(3, 20, 20), torch.zeros(20, 20, dtype=torch.bool)
    unknown[5:8, 5:8] = True
    level = Ladder().levels(6)[3]
    x_t = torch.randn(1, 3, 20, 20)
    mask = unknown[None, None].float()
    plain = Patches().attach(x[None], mask)(x_t, level, (Conditioning(),))[0].x0
    given = Patches().given([], None).attach(x[None], mask)(x_t, level, (Conditioning(),))[0].x0
    assert torch.equal(plain, given)


def test_what_the_picture_does_not_show_comes_from_the_other_one():
    """A grey picture with the ends of stripes: only the other picture shows how they go on."""
    pixels = np.full((40, 48, 3), 128, np.uint8)
    pixels[:14] = stripes(14, 48)
    hidden = pixels.copy()
    hidden[14:] = 0
    mask = np.zeros((40, 48), np.uint8)
    mask[14:30] = 255
    alone, both = (
        edit(hidden, Inpaint(mask=mask, from_=given, fill="smooth"), seed=1).pixels
        for given in ((), (stripes(40, 64),))
    )
    assert np.array_equal(both[mask == 0], hidden[mask == 0])
    near = np.s_[16:22]
    truth = stripes(40, 48)
    error = [np.abs(made[near].astype(int) - truth[near]).mean() for made in (alone, both)]
    assert error[1] < 15
    assert error[1] <= error[0]


def test_an_example_is_scaled_with_the_passes_and_blurred_as_the_coarser_pass_blurs():
    box = Box(10, 20, 110, 100)
    coarse, fine = Pass(box, 40, 50, 4), Pass(box, 80, 100, 4)
    other = Picture(noise(60, 30))
    assert size_at_scale(coarse, other.size) == (15, 30)
    small, large = (example(other, at, before, torch.device("cpu")) for at, before in ((coarse, None), (fine, coarse)))
    assert small.lowres is None
    assert small.image.shape == (3, 30, 15)
    assert large.image.shape == large.lowres.shape == (3, 60, 30)
    means = large.image.view(3, 30, 2, 15, 2).mean((2, 4))
    assert torch.allclose(means, small.image, atol=1e-5)
    assert large.lowres.diff().abs().mean() < large.image.diff().abs().mean()


def test_the_first_pass_has_enough_to_learn_from():
    hole = np.ones((300, 400), bool)
    rungs = ladder(Box(0, 0, 400, 300), 22, 22, hole, [(60, 50)])
    width, height = size_at_scale(rungs[0], (60, 50))
    assert (width - PATCH + 1) * (height - PATCH + 1) >= FEWEST
    assert rungs[0].width < 400
    assert rungs[-1].width == 400


def test_it_is_said_in_python_recipes_and_words(tmp_path):
    chain = Chain.of(Inpaint(mask="box:1,1,5,5", from_=("a/one.png", "two.png")))
    (entry,) = recipe.to_mapping(chain)["stages"][0]["plugins"]
    assert entry["inpaint"]["from"] == ["a/one.png", "two.png"]
    assert recipe.from_yaml(recipe.to_yaml(chain)).stages[0].plugins == chain.stages[0].plugins
    words = recipe.to_words(chain, "photo.png")
    assert "--from=a/one.png" in words
    assert parse(words).chain.stages[0].plugins == chain.stages[0].plugins
    below = recipe.from_mapping(recipe.to_mapping(chain), base=tmp_path)
    assert below.stages[0].plugins[0].from_ == (str(tmp_path / "a/one.png"), str(tmp_path / "two.png"))
    assert recipe.to_mapping(below, tmp_path) == recipe.to_mapping(chain)


def test_what_went_in_is_in_the_provenance_and_found_changed_by_rerun(tmp_path, capsys):
    from editkit.cli import run
    from editkit.pictures.files.provenance import hash_pixels, read_provenance

    picture, other = tmp_path / "p.png", tmp_path / "other.png"
    Image.fromarray(noise(20, 24)).save(picture)
    Image.fromarray(stripes(20, 24)).save(other)
    words = ["inpaint", str(picture), "--mask", "box:4,4,9,9", "--steps", "2", "--quiet"]
    assert run([*words, "--from", str(other), "-o", str(tmp_path / "o.png")]) == 0
    found = read_provenance(tmp_path / "o.png")
    assert found.example_hashes == (hash_pixels(Picture.read(other)),)
    assert found.recipe["stages"][0]["plugins"][0]["inpaint"]["from"] == ["other.png"]
    assert run(["rerun", str(tmp_path / "o.png"), "-o", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "o.png").read_bytes()
    Image.fromarray(noise(20, 24, 5)).save(other)
    assert run(["rerun", str(tmp_path / "o.png"), "-o", str(tmp_path / "third.png")]) == 1
    assert "another picture" in capsys.readouterr().err


def test_what_cannot_be_learned_from_is_refused_before_anything_runs(tmp_path, monkeypatch):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for name in ("broken.png", "missing.png"):
        with pytest.raises(PictureError, match=name):
            edit(noise(20, 20), Inpaint(mask="box:2,2,6,6", from_=(tmp_path / name,)))
    with pytest.raises(ChainError, match="inpaint has pictures to learn from, but .* does not learn from pictures"):
        edit(noise(20, 20), Inpaint(mask="box:2,2,6,6", from_=(noise(9, 9),)), model=Isotropic())
    with pytest.raises(ChainError, match="texture needs a model that takes examples"):
        edit(noise(20, 20), Texture(size="20x20"), model=Isotropic())
    with pytest.raises(ParameterError):
        Inpaint(from_=(3,))
    with pytest.raises(PictureError, match="a texture of 20000x20000 pixels needs about .* GiB"):
        edit(noise(30, 30), Texture(size="20000x20000"))
    from editkit.models.patches import model

    monkeypatch.setattr(model, "available", lambda device: 1 << 20)
    with pytest.raises(ModelError, match="64x48 pixels and 1 other picture need about .* MiB, and 1 MiB are free"):
        edit(noise(30, 30), Texture(size="64x48"))


@pytest.mark.parametrize("size", ["48x40", "20x70", "7x9"])
def test_a_texture_is_made_of_the_picture_alone_at_any_size(size):
    made = edit(stripes(30, 40), Texture(size=size), seed=2).pixels
    width, height = (int(side) for side in size.split("x"))
    assert made.shape == (height, width, 3)
    assert np.minimum(*(np.abs(made.astype(int) - colour).max(-1) for colour in (RED, BLUE))).mean() < 12


def test_a_texture_keeps_its_statistics_at_the_finest_scale():
    """Noise stays noise: as rough as the picture, where averages of patches would be flat."""
    source = (noise(40, 40).astype(int) // 2 + 60).astype(np.uint8)
    made = edit(source, Texture(size="64x56"), seed=3).pixels
    rough = [np.abs(np.diff(p.astype(int), axis=1)).mean() for p in (source, made)]
    assert 0.8 < rough[1] / rough[0] < 1.1
    assert np.abs(made.mean((0, 1)) - source.mean((0, 1))).max() < 12


def test_a_mask_of_everything_is_filled_from_another_picture():
    """`auto` stays with patches: there is something to learn from."""
    chain = Inpaint(mask="box:0,0,30,30", from_=(stripes(30, 30),))
    assert plan_stage(Chain.of(chain).stages[0], Picture(noise(30, 30))).info.name == "patches"
    made = edit(noise(30, 30), chain).pixels
    assert np.minimum(*(np.abs(made.astype(int) - colour).max(-1) for colour in (RED, BLUE))).mean() < 12


def test_uncrop_takes_them_too():
    made = edit(stripes(24, 24), Uncrop(right=8, from_=(stripes(24, 40),)), steps=4).pixels
    assert made.shape == (24, 32, 3)


@pytest.mark.parametrize("size", ["wide", "0x10", "10x", "99999x10", "10*10", "20001x5"])
def test_a_size_that_makes_no_sense_is_refused(size):
    with pytest.raises(ParameterError, match="write width x height"):
        Texture(size=size)


def test_sixteen_bits_stay_sixteen_bits():
    source = noise(20, 20).astype(np.uint16) * 257
    assert edit(source, Texture(size="16x16"), steps=2).pixels.dtype == np.uint16


def test_the_plan_of_a_texture_counts_its_passes():
    stage = Chain.of(Texture(size="200x100")).stages[0]
    settled = plan_stage(stage, Picture(noise(60, 60)))
    assert settled.table()["examples"] == ("texture",)
    assert (settled.picture.width, settled.picture.height) == (200, 100)
    assert settled.options == Options(sampler=settled.info.sampler)
