"""`denoiser`, the embedded network that removes noise of a known level, and the edits that use it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from toy_training import photos

from editkit import edit
from editkit.diffusion.conditioning import Conditioning
from editkit.errors import EditkitError
from editkit.models.denoiser import model as denoiser
from editkit.models.denoiser.network import DenoiserNet
from editkit.models.leasing import Models
from editkit.pictures.quantisation import quantisation_noise
from editkit.plugins import Denoise, Inpaint, Restore, SDEdit
from editkit_plugins.restoring.jpeg import Jpeg, tables

__all__ = ["photos"]


@pytest.fixture(scope="module")
def network():
    return denoiser.make(denoiser.info(), torch.device("cpu"), torch.float32)


def scene(height=96, width=128):
    """(H, W, 3) of uint8: slopes, a disc and stripes."""
    y, x = np.mgrid[:height, :width]
    made = np.stack([60 + 0.9 * x, 190 - 0.8 * y, 90 + 0.4 * (x + y)], axis=-1)
    made[(y - height / 2) ** 2 + (x - width / 3) ** 2 < 500] = (230, 40, 60)
    stripes = (x // 6) % 2 == 0
    made[20:-20, -44:-20][stripes[20:-20, -44:-20]] *= 0.6
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


def noisy(sigma, truth=None):
    truth = scene() if truth is None else truth
    return np.clip(np.rint(truth + np.random.default_rng(0).normal(0, sigma, truth.shape)), 0, 255).astype(np.uint8)


def error(x, truth):
    return float(np.sqrt(np.square(x.astype(float) - truth).mean()))


def test_the_network_is_homogeneous():
    """Without biases, the noise in c y at c times the level is c times the noise in y."""
    torch.manual_seed(0)
    net = DenoiserNet((8, 16), 1, 2)
    for block in (*net.before, *net.after):
        torch.nn.init.normal_(block[0].second.weight, std=0.1)
    y, level = torch.randn(1, 3, 16, 24), torch.full((1, 1, 16, 24), 0.2)
    with torch.no_grad():
        torch.testing.assert_close(net(3.0 * y, 3.0 * level), 3.0 * net(y, level), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sigma", [15.0, 50.0])
def test_half_of_the_noise_goes_at_least(network, sigma):
    made = edit(noisy(sigma), Denoise(sigma=sigma, views=1)).pixels
    assert error(made, scene()) < 0.5 * error(noisy(sigma), scene())


def test_strips_give_what_the_whole_picture_gives(network, monkeypatch):
    """To a thousandth of a level: what lies beyond the halo hardly counts."""
    y = torch.from_numpy(noisy(15.0, scene(600, 40))).permute(2, 0, 1)[None].float() / 127.5 - 1.0
    parts = network.noise_in(y, 15 / 127.5)
    monkeypatch.setattr(denoiser, "STRIP", 1000)
    assert 127.5 * float((parts - network.noise_in(y, 15 / 127.5)).abs().max()) < 1e-3


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (17, 5)])
def test_pictures_of_any_size_are_denoised(size):
    pixels = np.full((*size, 3), 100, np.uint8)
    assert np.abs(edit(pixels, Denoise(sigma=10)).pixels.astype(int) - 100).max() < 12


def test_the_prediction_fits_the_state(network):
    level = network.schedule.level(0.1)
    x_t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.2
    (made,) = network(x_t, level, [Conditioning()])
    assert level.alpha * made.x0 + level.sigma * made.eps == pytest.approx(x_t, abs=1e-5)


@pytest.mark.parametrize(
    ("plugin", "match"),
    [
        (SDEdit(strength=0.8), r"removes noise of up to 80 levels of 255, and this starts from \d+"),
        (Inpaint(mask="box:20,20,30,30"), "it generates nothing"),
        (Restore(degradation="gaussian:1", method="wiener"), "wiener starts from noise"),
        (Restore(degradation="mask", mask="box:20,20,30,30"), "cannot invent lost pixels"),
    ],
)
def test_what_needs_more_noise_is_refused(plugin, match):
    with pytest.raises(EditkitError, match=match):
        edit(scene(), plugin, model="denoiser")


def test_little_noise_is_not_refused():
    assert edit(scene(), SDEdit(strength=0.1), model="denoiser", steps=20).pixels.shape == scene().shape


@pytest.mark.parametrize("quality", [15, 50])
def test_jpeg_comes_nearer_to_the_truth_and_stays_in_its_intervals(quality):
    truth, file = photograph(), io.BytesIO()
    Image.fromarray(truth).save(file, "JPEG", quality=quality, subsampling=0)
    shown = np.asarray(Image.open(file))
    made = edit(Image.open(file), Restore(degradation="jpeg"))
    assert error(made.pixels, truth) < 0.99 * error(shown, truth)
    again = io.BytesIO()
    Image.fromarray(made.pixels).save(again, "JPEG", quality=quality, subsampling=0)
    assert error(np.asarray(Image.open(again)), shown) < 3.0  # rounding to 8 bits moves few coefficients over an edge


def test_the_colours_of_a_file_that_halves_them_are_free_and_its_light_is_not():
    x, y = (torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(k)) - 0.5 for k in range(2))
    whole, halved = (Jpeg(tables(50), (3, 16, 24), halved=halved) for halved in (False, True))
    made, own = halved.coefficients(halved.project(x, y)), whole.coefficients(x)
    assert float((made[:, 1:] - own[:, 1:]).abs().max()) < 1e-2
    assert float((made[:, 0] - whole.coefficients(whole.project(x, y))[:, 0]).abs().max()) < 1e-2


def photograph():
    return np.asarray(Image.fromarray(scene(192, 256)).resize((128, 96), Image.Resampling.LANCZOS))


def test_quantisation_noise_grows_with_the_steps_and_stays_below_the_pictures_own():
    found = [quantisation_noise(tables(quality)[0].numpy()) for quality in (95, 75, 50, 30, 15, 5)]
    assert found == sorted(found)
    assert quantisation_noise(np.full(64, 2.0)) == pytest.approx(2.0 / 12**0.5, rel=0.02)
    assert quantisation_noise(np.full(64, 1e6)) < 128.0


@pytest.mark.parametrize("name", ["gaussian:1.5", "motion:9,25"])
def test_a_blur_comes_nearer_to_the_truth(name):
    import cv2

    from editkit_plugins.restoring.named import parse

    truth = scene(144, 192)
    kernel = parse(name).kernel().numpy()
    blurred = np.rint(cv2.filter2D(truth.astype(float), -1, kernel, borderType=cv2.BORDER_REFLECT)).clip(0, 255)
    inner = slice(16, -16)
    blurred, truth = blurred.astype(np.uint8)[inner, inner], truth[inner, inner]
    said: list[str] = []
    made = edit(blurred, Restore(degradation=name), notify=said.append).pixels
    assert "restore: method hqs" in said
    assert error(made[inner, inner], truth[inner, inner]) < 0.7 * error(blurred[inner, inner], truth[inner, inner])


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_threads():
    made, before, models = [], torch.get_num_threads(), Models()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made.append(edit(noisy(20.0), Denoise(views=1), models=models).pixels)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*made)


def test_it_is_trained_resumed_and_loaded(tmp_path, photos):
    from editkit.training.denoiser import DenoiserLesson
    from editkit.training.loop import Run
    from editkit.training.settings import Architecture, DenoiserSettings

    settings = DenoiserSettings(
        images=photos, output=tmp_path / "run", steps=4, batch=6, warmup=0, threads=1,
        optimizer="adamw", architecture=Architecture(window=32, channels=(8, 16), layers=1),
    )  # fmt: skip
    Run(settings.model_copy(update={"steps": 2}), DenoiserLesson(settings)).run()
    Run(settings, DenoiserLesson(settings), resume=True).run()
    export = tmp_path / "run" / "export"
    info = denoiser.describe(layout := denoiser.Layout("own", export))
    assert denoiser.matches(layout)
    assert info.multiple == 4
    assert edit(noisy(10.0), Denoise(sigma=10, views=1), model=str(export)).pixels.shape == scene().shape
    written = (export / "denoiser.json").read_text()
    for layers in (2, 10**9):
        (export / "denoiser.json").write_text(written.replace('"layers": 1', f'"layers": {layers}'))
        with pytest.raises(EditkitError, match=r"does not fit denoiser\.json"):
            edit(noisy(10.0), Denoise(sigma=10), model=str(export))
