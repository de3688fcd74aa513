"""`upconv`: the network that doubles a picture, as a model whose estimate depends on the small picture alone."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from editkit import edit
from editkit.diffusion.conditioning import Conditioning
from editkit.editing.settle import plan_stage
from editkit.errors import ModelError
from editkit.models import describe, load
from editkit.models.upconv import model as upconv
from editkit.models.upconv import network
from editkit.pictures.picture import Picture
from editkit.plugin import Options
from editkit.plugin.chain import Stage
from editkit.plugins import Guide, SDEdit, Upscale

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


def photo(width: int = 40, height: int = 30) -> np.ndarray:
    opened = Image.open(ROOT / "assets/photos/horses.jpg").convert("RGB")
    return np.asarray(opened.resize((width, height), Image.Resampling.BICUBIC))


def error(x: np.ndarray, truth: np.ndarray) -> float:
    return float(np.square(x.astype(float) - truth).mean())


@pytest.fixture(scope="module")
def model():
    return load(describe("upconv"), CPU, torch.float32)


def unit(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1.0


@pytest.mark.parametrize("scale", [2, 4])
def test_it_is_closer_to_the_truth_than_bicubic(scale):
    truth = photo(240, 180)
    small = Image.fromarray(truth).resize((240 // scale, 180 // scale), Image.Resampling.BICUBIC)
    plain = np.asarray(small.resize((240, 180), Image.Resampling.BICUBIC))
    made = edit(np.asarray(small), Upscale(scale=scale)).pixels
    assert error(made, truth) < error(plain, truth)


def test_tiles_equal_the_whole_picture(model, monkeypatch):
    bound = model.enlarging(unit(photo(37, 23)), 2)
    wanted = torch.empty(1, 3, 46, 74)
    whole = bound.sharpened(wanted)
    monkeypatch.setattr(network, "TILE", 8)
    # sums of up to 9 x 256 products of numbers near one, in another order: sqrt(2304) x 2^-24 of rounding, times ten
    torch.testing.assert_close(bound.sharpened(wanted), whole, atol=3e-5, rtol=0)


def test_it_is_the_network_of_its_weights_in_double_precision(model):
    """Against a float64 evaluation of the layers, with the picture's edge repeated."""
    small = unit(photo(16, 12))
    x = F.pad(small.double() / 2 + 0.5, (7,) * 4, mode="replicate")
    for layer in model.network.layers:
        x = F.leaky_relu(F.conv2d(x, layer.weight.double(), layer.bias.double()), 0.1)
    last = model.network.enlarge
    x = F.conv_transpose2d(x, last.weight.double(), last.bias.double(), stride=2, padding=3)
    exact = (2 * x - 1).clamp(-1, 1).float()
    torch.testing.assert_close(model.enlarging(small, 2).sharpened(exact), exact, atol=3e-5, rtol=0)


def test_the_estimate_depends_on_the_small_picture_alone(model):
    bound = model.enlarging(unit(photo(8, 8)), 2)
    lowres = bound.sharpened(torch.empty(1, 3, 16, 16))
    level = bound.schedule.level(0.6)
    x_t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    (made,) = bound(x_t, level, [Conditioning(lowres=lowres)])
    assert torch.equal(made.x0, lowres.expand(2, -1, -1, -1))
    torch.testing.assert_close(level.alpha * made.x0 + level.sigma * made.eps, x_t, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("scale", "times"), [(1.1, 1), (2.0, 1), (2.2, 1), (3.0, 2), (4.0, 2), (4.4, 2), (64.0, 6)])
def test_how_often_it_doubles(scale, times):
    assert network.doublings(scale) == times


@pytest.mark.parametrize(
    ("plugin", "name"),
    [
        (Upscale(), "upconv"),
        (Upscale(scale=3, kernel="average"), "upconv"),
        (Upscale(sigma=5), "pocket"),
        (Upscale(strength=0.5), "pocket"),
        (Upscale(method="ddrm"), "pocket"),
    ],
)
def test_it_is_the_default_where_a_mean_is_wanted(plugin, name):
    settled = plan_stage(Stage((plugin,), Options()), Picture(photo()))
    assert settled.info.name == name
    assert name == "pocket" or settled.passes[0].at.steps == 1


@pytest.mark.parametrize("threads", [2, 3])
def test_the_bytes_do_not_depend_on_the_number_of_threads(threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = edit(photo(), Upscale()).pixels
        torch.set_num_threads(threads)
        assert np.array_equal(edit(photo(), Upscale()).pixels, alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (50, 3)])
def test_pictures_of_any_size(size):
    width, height = size
    made = edit(photo(width, height), Upscale(scale=3)).pixels
    assert made.shape == (3 * height, 3 * width, 3)


def test_a_flat_picture_stays_flat():
    made = edit(np.full((9, 7, 3), (200, 90, 30), np.uint8), Upscale()).pixels.astype(int)
    assert np.abs(made - (200, 90, 30)).max() <= 1


def test_it_can_be_guided_in_its_step():
    plain = edit(photo(), Upscale()).pixels.mean()
    assert edit(photo(), Upscale() & Guide(brightness=0.9, weight=50.0)).pixels.shape == (60, 80, 3)
    free = edit(photo(), Upscale(project=False) & Guide(brightness=0.9)).pixels.mean()
    assert free > plain + 1.0
    with pytest.raises(ModelError, match="guided in one step only"):
        edit(photo(), Upscale() & Guide(brightness=0.9), model="upconv", steps=3)


def test_other_plugins_are_told_what_it_is_for():
    with pytest.raises(ModelError, match="use it with the plugin upscale"):
        edit(photo(), SDEdit(strength=0.5), model="upconv", steps=2)


def test_a_missing_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(upconv, "folder", lambda name: tmp_path / name)
    with pytest.raises(ModelError, match="not part of this installation"):
        upconv.make(upconv.info(), CPU, torch.float32)


def test_the_converter_reads_what_ncnn_wrote():
    """Two layers written by hand in ncnn's layout, read back under the network's names."""
    parameters = runpy.run_path(str(ROOT / "benchmarks/convert_upconv.py"))["parameters"]
    rng = np.random.default_rng(0)
    first, last = (rng.normal(size=shape).astype(np.float16) for shape in ((2, 3, 3, 3), (3, 2, 4, 4)))
    flag, bias = (0x01306B47).to_bytes(4, "little"), np.arange(3, dtype=np.float32)
    data = flag + first.tobytes() + bias[:2].tobytes() + flag + last.tobytes() + bias.tobytes()
    param = "7767517\n2 2\nConvolution a 1 1 x y 0=2 1=3 6=54\nDeconvolution b 1 1 y z 0=3 1=4 6=96\n"
    found = parameters(param, data)
    assert np.array_equal(found["layers.0.weight"].numpy(), first)
    assert np.array_equal(found["enlarge.weight"].numpy(), last.transpose(1, 0, 2, 3))
    assert np.array_equal(found["enlarge.bias"].numpy(), bias)
    with pytest.raises(ValueError, match="4 bytes are left"):
        parameters(param, data + bytes(4))
