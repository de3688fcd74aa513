"""`density`: bits of pictures against an exact law, the map against its closed form, and what it says of latents."""

import io
import json
import math
import re

import diffusers
import numpy as np
import pytest
import tiny_latent
import torch
from PIL import Image
from toy import Isotropic

from editkit import density
from editkit.cli import run
from editkit.diffusion.schedule import VE, Flow
from editkit.editing.picture_density import SCALES
from editkit.errors import EditkitError, ModelError, UsageError
from editkit.pictures.picture import Picture

RNG = np.random.default_rng(0)
PHOTO = Picture(RNG.integers(60, 190, (12, 10, 3), dtype=np.uint8))


def gaussian_bits(pixels, deviation=0.5):
    """-log2 of N(0, s^2)'s density a value, and 7 for 256 levels in [-1, 1]."""
    x = pixels.astype(np.float64) / 127.5 - 1.0
    nats = 0.5 * math.log(2.0 * math.pi * deviation**2) + (x**2).mean() / (2.0 * deviation**2)
    return nats / math.log(2.0) + 7.0


@pytest.mark.parametrize("table", [None, VE(), Flow()], ids=["VP", "VE", "flow"])
def test_bits_of_a_gaussian_s_pictures(table):
    model = Isotropic()
    if table is not None:
        model.schedule = table
    found = density(PHOTO, model=model, steps=60, probes=3)
    # a value drawn in its cube of side 2 / 255 has 0.00002 of variance more: nothing beside these bits
    assert found.bits == pytest.approx(gaussian_bits(PHOTO.pixels), abs=0.01)
    assert found.error == pytest.approx(0.0, abs=1e-6)  # a trace of a multiple of one is exact by every sign
    assert (found.size, found.latent) == ((3, 12, 10), False)


def test_what_is_far_from_the_law_has_more_bits():
    bits = [density(np.full((8, 8, 3), v, np.uint8), model=Isotropic(), steps=30).bits for v in (128, 160, 230, 255)]
    assert bits == sorted(bits)


@pytest.mark.parametrize("value", [20, 128, 230])
def test_the_map_is_the_score_s_norm(value):
    """r |x| / (r^2 + s^2), root mean square over the levels: on N(0, s^2), within the cube's width."""
    pixels = np.full((8, 8, 3), 128, np.uint8)
    pixels[2:4, 3:5] = value
    model = Isotropic()
    made = density(pixels, model=model, steps=8).map
    ratios = [v.sigma / v.alpha for v in model.schedule.levels(24, "log-snr")[1:] if v.alpha > 0.0]
    gains = [
        (r * math.hypot(1.0, r) / math.hypot(1.0, r) / (r**2 + 0.25)) ** 2
        for r in ratios
        if SCALES[0] <= r <= SCALES[1]
    ]
    slope = math.sqrt(np.mean(gains))
    wanted = slope * abs(value / 127.5 - 1.0)
    assert made[2:4, 3:5] == pytest.approx(np.full((2, 2), wanted), abs=slope / 255.0 + 1e-5)
    if value != 128:
        assert made[2:4, 3:5].min() > 5.0 * np.median(made)
    picture = density(pixels, model=Isotropic(), steps=8).picture()
    assert picture.size == (8, 8)
    assert picture.pixels.max() == 255


def test_the_error_is_that_of_the_probes():
    from tiny import TinyModel

    tiny = TinyModel({"beta_schedule": "linear"}, "epsilon")
    few = density(PHOTO, model=tiny, steps=4, probes=4)
    again = density(PHOTO, model=tiny, steps=4, probes=4)
    assert few.error > 0.0
    assert few.bits == again.bits
    assert density(PHOTO, model=tiny, steps=4, probes=4, seed=1).bits != few.bits
    assert density(PHOTO, model=tiny, steps=4, probes=1).error is None


def test_only_whole_multiples_count():
    class Even(Isotropic):
        info = type(Isotropic.info)("even", "exact Gaussian", multiple=8)

    said = []
    found = density(PHOTO, model=Even(), steps=8, notify=said.append)
    assert found.size == (3, 8, 8)
    assert found.map.shape == (12, 10)
    assert said == ["only 8x8 of 10x12 pixels are used: the model needs multiples of 8"]
    with pytest.raises(UsageError, match="5x5, and the model works on multiples of 8"):
        density(np.zeros((5, 5, 3), np.uint8), model=Even())


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    path = tmp_path_factory.mktemp("sd")
    return str(tiny_latent.save_sd(path, diffusers.DDIMScheduler.from_config(tiny_latent.SD)))


def test_of_latents_it_says_that_it_is_theirs(sd):
    photo, said = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8), []
    found = density(photo, model=sd, steps=4, probes=2, notify=said.append, offline=True, device="cpu", prompt="a cat")
    assert found.latent
    assert found.size == (4, 8, 8)
    assert found.map.shape == (64, 64)
    assert math.isfinite(found.bits)
    assert any(re.search("this is the density of the latent, 4 x 8 x 8 values, not of pixels", line) for line in said)


def test_what_cannot_be_is_refused():
    with pytest.raises(ModelError, match="patches learns from the picture itself"):
        density(PHOTO, model="patches")
    with pytest.raises(UsageError, match="prompt= is given, but isotropic takes no text"):
        density(PHOTO, model=Isotropic(), prompt="x")
    with pytest.raises(UsageError, match="needs 4 steps or more and 1 probe or more; got 3"):
        density(PHOTO, model=Isotropic(), steps=3)


def test_the_command_prints_bits_and_writes_a_map(tmp_path, capsys):
    path = tmp_path / "a.png"
    Image.fromarray(torch.zeros(16, 16, 3, dtype=torch.uint8).numpy() + 90).save(path)
    words = ["density", str(path), "--steps", "4", "--probes", "2", "--device", "cpu"]
    assert run(words) == 0
    line = capsys.readouterr().err
    assert re.search(r"\d\.\d{3} \+- \d\.\d{3} bits per dimension, of 3 x 16 x 16 pixel values · map in", line)
    with Image.open(tmp_path / "a.density.png") as made:
        assert made.size == (16, 16)
    assert run(words) == 1
    assert "exists already" in capsys.readouterr().err
    assert run([*words, "--force", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["values"] == [3, 16, 16]
    assert math.isfinite(told["bits_per_dimension"])
    assert run(["density", "-"]) == 2
    capsys.readouterr()
    assert run([*words, "-o", "-", "--json"]) == 2
    assert "--json and the map cannot both go to standard output" in capsys.readouterr().err
    assert issubclass(UsageError, EditkitError)


def test_the_map_goes_to_standard_output(tmp_path, capfdbinary):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(path)
    assert run(["density", str(path), "--steps", "4", "--probes", "1", "--device", "cpu", "-o", "-"]) == 0
    said = capfdbinary.readouterr()
    with Image.open(io.BytesIO(said.out)) as made:
        assert made.size == (16, 16)
    assert b"map in standard output" in said.err
