"""What commands do of themselves: `default_options`, guide per pixel, JPEG by the file's tables, lost pixels told."""

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from toy import Isotropic

from editkit import edit
from editkit.diffusion.model import ModelInfo
from editkit.editing.api import stream
from editkit.editing.settle import plan_stage, preferred_options
from editkit.errors import EditkitError, UsageError
from editkit.pictures.picture import Picture
from editkit.plugin import Options, Plugin
from editkit.plugin.chain import Stage
from editkit.plugins import Colorize, Denoise, Guide, Restore, SDEdit, Upscale
from editkit_plugins.noise_level import coarse_noise, estimated_noise
from editkit_plugins.restoring.jpeg import of_file, tables

INFO = ModelInfo("toy", "toy", sampler="ddim", steps=7)


def _wants(**options):
    wanted = Options(**options)
    return type("W", (Plugin,), {"name": "w", "default_options": lambda self, info: wanted, "__module__": __name__})()


def test_what_a_plugin_wants_yields_to_the_user_and_to_the_plugin_before_it():
    first, second = _wants(steps=3), _wants(steps=5, estimate="mean")
    assert preferred_options([], INFO, Options()).sampler == "ddim"
    both = preferred_options([first, second], INFO, Options(seed=9))
    assert (both.steps, both.estimate, both.sampler, both.seed) == (3, "mean", "ddim", 9)
    asked = preferred_options([first, second], INFO, Options(steps=8, sampler="heun"))
    assert (asked.steps, asked.estimate, asked.sampler) == (8, "mean", "heun")
    assert preferred_options([first], INFO, Options(sampler=None, steps=None)).steps == 3  # None says nothing


@pytest.mark.parametrize(
    ("plugin", "given", "steps", "draws"),
    [
        (Upscale(), {"model": "pocket"}, 1, 1),
        (Upscale(), {"model": "pocket", "steps": 6}, 6, 1),
        (Upscale(method="ddnm"), {"model": "pocket"}, 8, 1),
        (Colorize(), {}, 1, 1),
        (Restore(degradation="jpeg:20"), {"model": "pocket"}, 8, 8),
        (Restore(degradation="jpeg:20"), {"model": "pocket", "estimate": "sample"}, 8, 1),
        (Restore(degradation="mask", mask="box:1,1,5,5"), {}, 1, 1),
    ],
)
def test_the_steps_and_the_samples_that_serve_best(plugin, given, steps, draws):
    picture = Picture(np.zeros((32, 48, 3), np.uint8))
    settled = plan_stage(Stage((plugin,), Options(**given)), picture)
    assert settled.info.name == "pocket"
    assert settled.passes[0].at.steps == steps
    assert settled.options.draws == draws


@pytest.mark.parametrize("loss", ["color", "reference"])
def test_a_guide_moves_a_picture_of_any_size_as_far(loss):
    """The default weight is one for every pixel: x0 moves alike at four times the pixels (pixelwise exact model)."""
    moved = []
    for side in (16, 32):
        picture = np.full((side, side, 3), 90, np.uint8)
        guide = Guide(loss=loss, color="#a05030", reference=np.full((side, side, 3), 200, np.uint8))
        chain = SDEdit(strength=0.5) & guide
        plain = edit(picture, SDEdit(strength=0.5), model=Isotropic(), steps=8).pixels.mean((0, 1))
        moved.append(edit(picture, chain, model=Isotropic(), steps=8).pixels.mean((0, 1)) - plain)
    assert np.abs(moved[0]).max() > 3.0
    # the noise of 16x16 pixels has a mean of its own: sigma / 16 of what moves
    assert moved[1] == pytest.approx(moved[0], abs=0.25 * np.abs(moved[0]).max())


def test_a_guide_says_what_was_wanted_and_what_came():
    told = []
    picture = np.full((16, 16, 3), 90, np.uint8)
    chain = SDEdit(strength=0.5) & Guide(loss="color", color="#a05030") & Guide(loss="brightness", brightness=0.25)
    making = stream(picture, chain, model=Isotropic(), steps=4, tell=lambda *figures: told.append(figures))
    while True:
        try:
            next(making)
        except StopIteration as done:
            result = done.value.pixels
            break
    colour, brightness = (figures for _, name, figures in told if name == "guide")
    mean = result.reshape(-1, 3).mean(0)
    assert colour == {"mean_colour": "#" + "".join(f"{round(v):02x}" for v in mean), "wanted": "#a05030"}
    assert brightness["brightness"] == pytest.approx(result.mean() / 255.0, abs=1e-3)
    assert brightness["wanted"] == 0.25


def _file(quality, subsampling="4:4:4", mode="RGB"):
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(40, 215, (12, 16, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(smooth).convert(mode).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return Image.open(file)


@pytest.mark.parametrize("quality", [5, 30, 50, 75, 95])
def test_the_tables_of_a_file_are_those_of_its_quality(quality):
    assert torch.equal(of_file(Picture.read(_file(quality)).meta), tables(quality))
    grey = of_file(Picture.read(_file(quality, mode="L")).meta)
    assert torch.equal(grey[0], tables(quality)[0])


def test_jpeg_alone_is_jpeg_at_the_files_quality():
    by_file, by_name, other = (
        edit(_file(20), Restore(degradation=name), model=Isotropic(), steps=4, samples=2).pixels
        for name in ("jpeg", "jpeg:20", "jpeg:60")
    )
    assert np.array_equal(by_file, by_name)
    assert not np.array_equal(by_file, other)


def test_jpeg_alone_needs_a_jpeg_file():
    with pytest.raises(EditkitError, match="is not from one; give the quality, such as jpeg:30"):
        edit(np.zeros((16, 16, 3), np.uint8), Restore(degradation="jpeg"), model=Isotropic(), steps=2)
    with pytest.raises((UsageError, ValueError), match="write jpeg:QUALITY"):
        Restore(degradation="jpeg:1,2")


def test_lost_pixels_are_told_to_a_network_and_the_others_are_kept():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:48, :64]
    truth = np.stack([3 * x, 4 * y, 100 + 0 * x], -1).astype(np.uint8)
    lost = rng.random((48, 64)) < 0.5
    spoiled = np.where(lost[..., None], 0, truth).astype(np.uint8)
    restore = Restore(degradation="mask", mask=lost)
    made = edit(spoiled, restore)
    assert np.array_equal(made.pixels[~lost], truth[~lost])
    error = np.abs(made.pixels.astype(int) - truth)[lost].mean()
    assert error < 10.0  # black was 100 levels off; told the lost pixels it sees a ramp
    blind = edit(spoiled, Restore(degradation="mask", mask=lost, method="ddnm"), model="pocket", steps=1)
    assert np.abs(blind.pixels.astype(int) - truth)[lost].mean() > 2.0 * error


def test_only_lost_pixels_can_be_told():
    with pytest.raises(EditkitError, match="passes the lost pixels to a model; .*, not for gaussian:1"):
        edit(np.zeros((16, 16, 3), np.uint8), Restore(degradation="gaussian:1", method="conditioned"), model="pocket")


def test_denoise_says_where_noise_hides_from_the_finest_details():
    """White noise is as large at half the size (times 2); blurred noise of light is larger there, and is told; that of
    colours is counted.
    """
    rng = np.random.default_rng(0)
    white = rng.normal(0.0, 12.0, (256, 256, 3))
    blurred = cv2.GaussianBlur(white, (0, 0), 1.2)
    coarse = blurred * (12.0 / blurred.std())
    grey = coarse[..., :1].repeat(3, axis=-1)
    for noise, told in ((white, False), (grey, True), (coarse, False)):
        said = []
        pixels = (128.0 + noise).round().clip(0, 255).astype(np.uint8)
        Denoise().open(Picture(pixels), said.append)
        assert any("grain or texture coarser than a pixel" in line for line in said) == told
        if noise is white:  # the median over 49,152 coefficients and a quarter of them: one per cent and two
            assert coarse_noise(pixels) == pytest.approx(estimated_noise(pixels), rel=0.08)
            assert coarse_noise(pixels.astype(np.uint16) * 257) == pytest.approx(coarse_noise(pixels), rel=1e-6)


def test_a_result_that_does_not_explain_its_picture_is_told():
    said = []
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    blurred = Restore(degradation="gaussian:3", method="dps", sigma=0.3, zeta=1e-6)
    edit(pixels, blurred, model=Isotropic(), steps=2, notify=said.append)
    assert any("degraded again, differs from the input" in line for line in said)
    said.clear()
    smooth = cv2.GaussianBlur(pixels, (0, 0), 3.0)
    edit(smooth, Restore(degradation="noise", sigma=2), model=Isotropic(), steps=2, notify=said.append)
    assert not any("degraded again, differs from the input" in line for line in said)


@pytest.mark.parametrize(("sigma", "model"), [(None, "denoiser"), (40.0, "denoiser"), (45.0, "pocket")])
def test_a_blur_with_more_noise_than_denoiser_knows_is_left_to_pocket(sigma, model):
    restore = Restore(degradation="gaussian:2", **({} if sigma is None else {"sigma": sigma}))
    assert plan_stage(Stage((restore,)), Picture(np.full((32, 48, 3), 90, np.uint8))).info.name == model
