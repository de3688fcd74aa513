"""What restoration refuses, what it asks memory for, and what the command line says."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from toy import Isotropic
from toy_restoration import LUMA, measured, photo

from editkit import edit
from editkit.cli import run
from editkit.diffusion.model import ModelInfo
from editkit.editing.contract import ExactModel
from editkit.editing.settle import plan_stage
from editkit.errors import ChainError, EditkitError, ParameterError, PictureError, UsageError
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Stage
from editkit.plugin.options import Options
from editkit.plugins import Colorize, Denoise, Inpaint, Purify, Restore, Upscale
from editkit_plugins.denoise import apply_view
from editkit_plugins.restoring import memory
from editkit_plugins.restoring.named import NUMBERS, parse


class Latent(Isotropic):
    """Works on averages of 2x2 pixels."""

    info = ModelInfo("latent", "toy latents", sampler="ddpm", steps=4, multiple=2)

    def shape(self, height, width):
        return (3, height // 2, width // 2)

    def encode(self, image, stream=None):
        return torch.nn.functional.avg_pool2d(image, 2)

    def decode(self, x0):
        return torch.nn.functional.interpolate(x0, scale_factor=2.0, mode="nearest")


def test_on_latents_auto_is_dps_and_projections_are_refused():
    said = []
    assert edit(photo(), Restore(degradation="gaussian:1"), model=Latent(), notify=said.append) is not None
    assert "restore: method dps" in said
    with pytest.raises(ChainError, match='ddnm works on pixels, but latent .* on latents; use method="dps"'):
        edit(photo(), Restore(degradation="gaussian:1", method="ddnm"), model=Latent())


@pytest.mark.parametrize(
    "plugin",
    [Colorize(), Upscale(scale=2), Upscale(scale=2, method="dps"), Restore(degradation="average:2"),
     Restore(degradation="jpeg:40"), Restore(degradation="mask", mask="box:3,3,9,9")],
)  # fmt: skip
def test_what_a_decoder_makes_is_held_to_a_noiseless_observation(plugin):
    """The toy's decoder cannot show what is observed; the result does, to the rounding of the file."""
    given = photo() if not isinstance(plugin, Colorize) else np.repeat(photo()[..., :1], 3, axis=2)
    result, told = measured(given, plugin, Latent())
    ((_, _, figures),) = told
    assert figures["consistency_levels"] < 0.6
    if isinstance(plugin, Colorize):
        assert np.abs(result @ LUMA - given @ LUMA).max() <= 0.51


def test_methods_combine_with_others_or_say_why_not():
    with pytest.raises(ChainError, match="upscale and restore both set the"):
        edit(photo(), Upscale() & Restore(degradation="grey"), model=Isotropic())
    with pytest.raises(ChainError, match="inpaint and upscale both set the mask"):
        edit(photo(), Inpaint(mask="box:1,1,5,5") & Upscale(), model=Isotropic())


@pytest.mark.parametrize("scale", [1, 0.5, 0, -2])
def test_a_scale_of_one_or_less_is_refused(scale):
    with pytest.raises(ParameterError, match="greater than 1"):
        Upscale(scale=scale)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("blurry", "one of noise, mask, grey, average:N"),
        ("gaussian", "write gaussian:SIGMA"),
        ("gaussian:x", "write gaussian:SIGMA with numbers"),
        ("motion:3", "write motion:LENGTH,ANGLE"),
        ("kernel:", "write kernel:FILE"),
        ("average:1", "its first number must be 2 or more"),
        ("bicubic:1", "must be above 1"),
        ("jpeg:0", "1 or more and 100 or less"),
        ("jpeg:50.5", "a whole number"),
        ("motion:5,nan", "must be finite"),
        ("gaussian:-1", "0.1 or more"),
    ],
)
def test_a_degradation_that_is_none_is_refused_with_what_is_allowed(text, wrong):
    with pytest.raises(ValueError, match=wrong):
        parse(text)
    assert text.partition(":")[0] in NUMBERS or "one of" in wrong


@pytest.mark.parametrize(
    ("plugin", "wrong"),
    [
        (Restore(), "needs sigma=, the noise in levels of 255"),
        (Restore(degradation="mask"), "mask= goes with degradation= mask"),
        (Restore(degradation="grey", mask="box:1,1,3,3"), "mask= goes with degradation= mask"),
        (Restore(degradation="jpeg:30", sigma=5), "sigma= cannot be used with jpeg"),
        (Restore(degradation="gaussian:9"), "the kernel of gaussian:9 has 55x55 pixels and the picture 32x24"),
        (Restore(degradation="motion:40,0"), "the kernel of motion:40,0 has 41x41 pixels"),
        (Restore(degradation="jpeg:30", method="ddrm"), "needs a linear degradation; use method=.ddnm. or dps"),
        (Restore(degradation="mask", mask=np.zeros((9, 9), np.uint8)), "9x9"),
    ],
)
def test_what_cannot_be_restored_is_refused_in_one_line(plugin, wrong):
    with pytest.raises(EditkitError, match=wrong) as caught:
        edit(photo(), plugin, model=Isotropic(), steps=2)
    assert "\n" not in str(caught.value)


def test_a_result_that_does_not_fit_into_memory_is_refused_before_the_start(monkeypatch):
    monkeypatch.setattr(memory, "_free", lambda: 2**18)
    with pytest.raises(PictureError, match=r"upscale to 64x48 pixels needs about 0.0 GiB .* choose a smaller result"):
        edit(photo(), Upscale(), model=Isotropic())
    monkeypatch.setattr(memory, "_free", lambda: 2**16)
    for plugin in (Colorize(), Restore(degradation="gaussian:1")):
        with pytest.raises(PictureError, match=f"{plugin.name} to 32x24 pixels needs"):
            edit(photo(), plugin, model=Isotropic())


@pytest.mark.parametrize(
    ("plugin", "copies"),
    [
        (Upscale(), 10),
        (Upscale(sigma=5), 10),
        (Upscale(method="dps"), 420),
        (Restore(degradation="average:2"), 10),
        (Restore(degradation="jpeg:30"), 10 / 4),
        (Denoise(sigma=20), 14 / 4),
    ],
)
def test_memory_is_asked_for_as_the_method_needs_it(plugin, copies, monkeypatch):
    needed = copies * 3 * 4 * 64 * 48
    monkeypatch.setattr(memory, "_free", lambda: needed)
    plugin.open(Picture(photo()), print)
    monkeypatch.setattr(memory, "_free", lambda: needed - 1)
    with pytest.raises(PictureError, match="pixels needs about"):
        plugin.open(Picture(photo()), print)


def test_purify_asks_for_memory_too(monkeypatch):
    monkeypatch.setattr(memory, "_free", lambda: 14 * 3 * 4 * 32 * 24 - 1)
    with pytest.raises(PictureError, match="purify of 32x24 pixels needs about"):
        edit(photo(), Purify(), model=Isotropic(), steps=2)


@pytest.mark.parametrize(
    ("plugin", "network"),
    [(Denoise(sigma=90), "pocket"), (Colorize(), "pocket"), (Purify(), "pocket"), (Upscale(), "upconv")],
)
def test_tasks_that_the_pictures_own_patches_cannot_do_are_a_networks_unless_asked_otherwise(plugin, network):
    said = []
    settled = plan_stage(Stage((plugin,), Options()), Picture(photo()), said.append)
    assert settled.info.name == network
    told = f"using model {network}, which is better here than patches; --model chooses"
    assert any(line.startswith(told) for line in said)
    assert plan_stage(Stage((plugin,), Options(model="patches")), Picture(photo())).info.name == "patches"
    assert plan_stage(Stage((Restore(degradation="average:2"),), Options()), Picture(photo())).info.name == "patches"


@pytest.mark.parametrize(
    ("plugin", "steps"), [(Denoise(), 8), (Restore(degradation="jpeg:20"), 1), (Restore(degradation="gaussian:2"), 8)]
)
def test_little_noise_is_removed_by_the_network_for_it(plugin, steps):
    settled = plan_stage(Stage((plugin,), Options()), Picture(photo()))
    assert settled.info.name == "denoiser"
    assert settled.passes[0].at.steps == steps
    assert settled.options.draws == 1


def test_the_command_line_says_and_prints_consistency(tmp_path, capsys):
    path, out = tmp_path / "small.png", tmp_path / "large.png"
    Image.fromarray(photo()).save(path)
    words = ["upscale", str(path), "--scale", "1.5", "--model", "patches", "--steps", "2", "-o", str(out)]
    assert run(words) == 0
    assert "upscale: consistency levels" in capsys.readouterr().err
    assert run([*words, "--json", "--force"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["measured"][0]["plugin"] == "upscale"
    assert record["measured"][0]["consistency_levels"] < 6.0
    assert Image.open(out).size == (48, 36)
    for wrong in (["--scale", "1"], ["--sigma", "-3"]):
        assert run(["upscale", str(path), *wrong]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("view", range(8))
def test_views_of_a_picture_are_eight_and_are_undone(view):
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert torch.equal(apply_view(apply_view(x, view), view, back=True), x)
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert len({tuple(apply_view(square, k).flatten().tolist()) for k in range(8)}) == 8


class Lopsided(ExactModel):
    """Its estimate leans to the right."""

    def __call__(self, x_t, level, conds):
        (made, *_) = super().__call__(x_t, level, conds)
        ramp = torch.linspace(-0.2, 0.2, x_t.shape[-1])
        return (replace(made, x0=made.x0 + ramp),) * len(conds)


def test_denoising_is_the_mean_over_views_of_the_picture():
    picture = np.full((24, 32, 3), 128, np.uint8)
    model = Lopsided()
    one = edit(picture, Denoise(sigma=20, views=1), model=model).pixels
    assert np.ptp(one) > 40
    assert model.calls == 1
    assert np.ptp(edit(picture, Denoise(sigma=20), model=model).pixels) <= 1
    assert model.calls == 9
    planned = plan_stage(Stage((Denoise(sigma=20),), Options()), Picture(picture), info=model.info)
    assert planned.beside == 7


def test_tapering_takes_the_ringing_of_a_blur_from_the_edges():
    """What a lens makes, blurred past its edges, of a picture whose opposite edges differ."""
    y, x = np.mgrid[0:64, 0:64]
    scene = np.stack([60 + 2.2 * y, 40 + 2.8 * x, 90 + 60 * np.sin(x / 5.0)], -1)
    seen = np.stack([cv2.GaussianBlur(scene[..., k], (0, 0), 2.0) for k in range(3)], -1)
    blurred = seen[8:-8, 8:-8].clip(0, 255).round().astype(np.uint8)

    def wrong(taper):
        plugin = Restore(degradation="gaussian:2", taper=taper)
        return np.abs(edit(blurred, plugin, model=Isotropic(), steps=10).pixels - scene[8:-8, 8:-8]).mean()

    assert wrong(True) < 0.7 * wrong(False)
    with pytest.raises(UsageError, match="taper=True is for blurs"):
        edit(blurred, Restore(degradation="average:2", taper=True), model=Isotropic())
