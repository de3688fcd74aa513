"""upscale, restore, colorize, denoise, purify as users run them, on an exact model: shapes, consistency, refusals."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from toy import Isotropic

from editkit import edit
from editkit.cli import run
from editkit.diffusion.model import ModelInfo
from editkit.diffusion.schedule import Cosine
from editkit.editing.api import stream
from editkit.editing.contract import ExactModel
from editkit.editing.settle import plan_stage
from editkit.errors import ChainError, EditkitError, ParameterError, PictureError, UsageError
from editkit.pictures.picture import Picture
from editkit.pictures.tensors import from_unit, to_unit
from editkit.plugin.chain import Stage
from editkit.plugin.options import Options
from editkit.plugins import Colorize, Denoise, Inpaint, Purify, Restore, Upscale
from editkit_plugins.denoise import estimated_noise, ladder_from, turned
from editkit_plugins.restoring import memory
from editkit_plugins.restoring.named import NUMBERS, parse

LUMA = np.array([0.299, 0.587, 0.114])


def photo(height: int = 24, width: int = 32) -> np.ndarray:
    """Smooth, with an edge."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([6 * x + 20, 5 * y + 60, 120 + 60 * np.sin(x / 4.0)], -1)
    picture[: height // 2, : width // 3] *= 0.6
    return picture.clip(0, 255).round().astype(np.uint8)


def measured(picture, plugin, model=None, **options):
    """(result, what was measured of it)."""
    told = []
    making = stream(picture, plugin, model=model or Isotropic(), tell=lambda *figures: told.append(figures), **options)
    while True:
        try:
            next(making)
        except StopIteration as done:
            return done.value.pixels, told


@pytest.mark.parametrize(("scale", "size"), [(2, (64, 48)), (1.5, (48, 36)), (3.3, (106, 79))])
@pytest.mark.parametrize("method", ["auto", "ddnm", "pigdm", "ddrm", "diffpir"])
def test_an_enlarged_picture_made_small_again_is_the_picture(method, scale, size):
    result, told = measured(photo(), Upscale(scale=scale, method=method), steps=8)
    assert result.shape == (size[1], size[0], 3)
    ((_, name, figures),) = told
    assert name == "upscale"
    assert figures["consistency_levels"] < 6.0  # clipping and rounding; exactness before them: tests/test_restoring.py
    back = np.asarray(Image.fromarray(result).resize((32, 24), Image.Resampling.BICUBIC))
    assert np.abs(back.astype(float) - photo()).mean() < 4.0


def test_the_average_kernel_needs_a_whole_scale():
    result, _ = measured(photo(), Upscale(scale=2, kernel="average"), steps=8)
    assert result.shape == (48, 64, 3)
    with pytest.raises(UsageError, match="needs a whole scale, got 1.5"):
        edit(photo(), Upscale(scale=1.5, kernel="average"), model=Isotropic())


def test_a_cascade_is_two_stages_of_one_chain():
    chain = Upscale(scale=2) | Upscale(scale=2)
    assert edit(photo(), chain, model=Isotropic(), steps=3).pixels.shape == (96, 128, 3)


class Told(ExactModel):
    """Remembers what it was told."""

    def __call__(self, x_t, level, conds):
        self.conds = conds
        return super().__call__(x_t, level, conds)


def test_a_model_that_takes_lowres_is_told_the_small_picture_and_held_to_it():
    model = Told(frozenset({"lowres"}))
    _, told = measured(photo(), Upscale(), model=model, steps=4)
    assert model.conds[0].lowres.shape == (1, 3, 48, 64)
    assert told[0][2]["consistency_levels"] < 6.0
    _, free = measured(photo(), Upscale(project=False), model=model, steps=4)
    assert free[0][2]["consistency_levels"] > told[0][2]["consistency_levels"]
    with pytest.raises(ChainError, match='takes nothing, not lowres; use method="auto"'):
        edit(photo(), Upscale(method="conditioned"), model=Isotropic())
    with pytest.raises(UsageError, match="is not told a noise level"):
        edit(photo(), Upscale(noise_level=20), model=model, steps=2)


class Noisy(Told):
    """Takes a noised small picture and the level of its noise."""

    noise_levels = 350

    def noised(self, lowres, noise_level, z):
        return lowres + noise_level * z


def test_noise_conditioning_adds_the_noise_and_tells_it():
    model = Noisy(frozenset({"lowres"}))
    edit(photo(), Upscale(noise_level=3), model=model, steps=2)
    assert model.conds[0].noise_level == 3
    assert float(model.conds[0].lowres.std()) > 2.0
    with pytest.raises(UsageError, match="noise_level= is 350; this model has 0 to 349"):
        edit(photo(), Upscale(noise_level=350), model=model, steps=2)


def test_the_mean_of_samples_is_their_mean_and_costs_as_much():
    model, last = Isotropic(), {}
    plugin = Purify(sigma=20)
    making = stream(photo(), plugin, model=model, steps=3, seed=4, estimate="mean", samples=3)
    while True:
        try:
            update = next(making)
        except StopIteration as done:
            mean = done.value.pixels
            break
        last[update.draw] = from_unit(update.state.x, np.dtype(np.uint8)).astype(float)
    assert model.calls == 9
    each = np.stack([last[draw] for draw in range(3)])
    inside = (each > 0).all(0) & (each < 255).all(0)
    assert np.abs(mean - each.mean(0))[inside].max() <= 1.01
    assert np.array_equal(edit(photo(), plugin, model=model, steps=3, seed=4).pixels, each[0])
    options = Options(estimate="mean", samples=3, steps=3)
    plan = plan_stage(Stage((plugin,), options), Picture(photo()), info=model.info)
    assert plan.calls == 9


DEGRADATIONS = ["grey", "average:2", "bicubic:1.7", "gaussian:1.2", "motion:4,30", "jpeg:20", "quantise:6"]


@pytest.mark.parametrize("degradation", DEGRADATIONS)
def test_what_is_restored_explains_what_was_seen(degradation):
    scale = parse(degradation).reduces
    size = (3, 24, 32) if scale == 1.0 else (3, round(24 * scale), round(32 * scale))
    A = parse(degradation).made(size, (24, 32))
    truth = to_unit(photo(*size[1:]))
    y = from_unit(A.forward(truth).expand(1, 3, 24, 32), np.uint8)
    result, told = measured(y, Restore(degradation=degradation), steps=8)
    assert result.shape[:2] == size[1:]
    assert told[0][2]["consistency_levels"] < 6.0  # clipping and rounding


@pytest.mark.parametrize("method", ["auto", "wiener", "ddnm", "ddrm", "diffpir", "dps", "pigdm"])
def test_every_method_takes_noise_out(method):
    clean = np.full((24, 32, 3), 128, np.uint8)
    noisy = (clean + np.random.default_rng(0).normal(0, 20, clean.shape)).round().clip(0, 255).astype(np.uint8)
    plugin = Restore(degradation="noise", sigma=20, method=method)
    assert edit(noisy, plugin, model=Isotropic(), steps=20).pixels.shape == noisy.shape


def test_lost_pixels_are_made_anew_and_the_others_kept():
    result, _ = measured(photo(), Restore(degradation="mask", mask="box:4,4,12,10"), steps=8)
    kept = np.ones((24, 32), bool)
    kept[4:10, 4:12] = False
    assert np.abs(result[kept].astype(int) - photo()[kept]).max() <= 1
    assert not np.array_equal(result[~kept], photo()[~kept])


@pytest.mark.parametrize("model", [Isotropic(), Told(frozenset({"task"}))], ids=["solved", "told"])
def test_colours_keep_every_pixels_luma(model):
    grey = np.repeat((photo() @ LUMA).round().astype(np.uint8)[..., None], 3, -1)
    grey[0, :4], grey[1, :4] = 255, 0
    result, _ = measured(grey, Colorize(), model=model, steps=6)
    assert np.abs(result @ LUMA - grey[..., 0]).max() <= 0.5001
    assert np.array_equal((result @ LUMA).round(), grey[..., 0])
    assert np.ptp(result.astype(int), axis=-1).max() > 20


def test_a_colour_picture_is_said_to_be_one_and_goes_on_with_its_luma():
    said = []
    result = edit(photo(), Colorize(), model=Isotropic(), steps=4, notify=said.append).pixels
    assert any("has colours" in line for line in said)
    assert np.abs(result @ LUMA - photo() @ LUMA).max() <= 0.5001


def test_noise_is_estimated_from_the_finest_details():
    flat = np.full((200, 200, 3), 128.0)
    for sigma in (5.0, 25.0):
        noisy = (flat + np.random.default_rng(1).normal(0, sigma, flat.shape)).clip(0, 255).round().astype(np.uint8)
        assert estimated_noise(noisy) == pytest.approx(sigma, rel=0.05)
    assert estimated_noise(photo()) < 2.0
    assert estimated_noise((noisy.astype(np.uint16)) * 257) == pytest.approx(25.0, rel=0.05)


def test_one_step_from_the_right_level_is_the_posterior_mean():
    """On N(0, s^2) data with noise sigma: s^2 / (s^2 + sigma^2) y, in one call."""
    model = Isotropic()
    y = (127.5 + np.random.default_rng(0).normal(0, 70, (20, 20, 3))).clip(0, 255).round().astype(np.uint8)
    sigma = 25 / 127.5
    result = edit(y, Denoise(sigma=25, views=1), model=model).pixels
    assert model.calls == 1
    wanted = 127.5 + (y - 127.5) * model.data_std**2 / (model.data_std**2 + sigma**2)
    assert np.abs(result - wanted).max() <= 0.6
    sampled = edit(y, Denoise(sigma=25, sampled=True), model=model, steps=7)
    assert model.calls == 8
    assert sampled.pixels.shape == y.shape


@pytest.mark.parametrize("sampler", [None, "ddim"])
def test_a_sampled_denoising_has_the_spread_of_the_posterior(sampler):
    """N(y s^2 / (s^2 + sigma^2), s^2 sigma^2 / (s^2 + sigma^2)), of 4,800 independent values."""
    model, sigma = Isotropic(), 60 / 127.5
    y = np.full((40, 40, 3), 150, np.uint8)
    run = {} if sampler is None else {"sampler": sampler}
    made = edit(y, Denoise(sigma=60, sampled=True), model=model, steps=60, **run).pixels.astype(float)
    s2 = model.data_std**2
    spread = 127.5 * (s2 * sigma**2 / (s2 + sigma**2)) ** 0.5
    if sampler is None:  # ddpm
        assert abs(made.mean() - (127.5 + 22.5 * s2 / (s2 + sigma**2))) < 5.0 * spread / 4800**0.5 + 1.0
        assert made.std() == pytest.approx(spread, rel=0.1)
    else:  # a deterministic rule has one end, whatever is drawn
        assert made.std() < 1.0


def test_a_ladder_ends_at_the_asked_noise():
    levels = ladder_from(Cosine(), 0.3, Cosine().levels(5))
    assert len(levels) == 6
    assert levels[-1].sigma / levels[-1].alpha == pytest.approx(0.3)
    assert [level.index for level in levels] == list(range(6))
    assert levels[0].sigma == 0.0


def test_purifying_changes_more_the_deeper_it_goes():
    changes = []
    for sigma in (5, 40, 160):
        result = edit(photo(), Purify(sigma=sigma), model=Isotropic(), steps=6).pixels
        changes.append(np.abs(result.astype(float) - photo()).mean())
    assert changes == sorted(changes)


@pytest.mark.parametrize(
    ("plugin", "takes", "own", "asked", "walks"),
    [
        (Upscale(method="ddnm"), {"lowres"}, "ddim", None, "ddpm"),
        (Upscale(), {"lowres"}, "ddim", None, "ddim"),  # is told the small picture
        (Upscale(), set(), "ddim", None, "ddpm"),
        (Restore(degradation="grey"), set(), "ddim", None, "ddpm"),
        (Restore(degradation="grey"), set(), "euler", None, "euler"),
        (Restore(degradation="grey"), set(), "ddim", "heun", "heun"),
        (Purify(), set(), "ddim", None, "ddpm"),
        (Denoise(sigma=20), set(), "ddim", None, "ddim"),
        (Denoise(sigma=20, sampled=True), set(), "ddim", None, "ddpm"),
        (Denoise(sigma=20, sampled=True), set(), "euler", None, "euler"),
    ],
)
def test_methods_of_the_stochastic_process_walk_by_it_unless_asked_otherwise(plugin, takes, own, asked, walks):
    info = ModelInfo("toy", "toy", takes=frozenset(takes), sampler=own, steps=4)
    settled = plan_stage(Stage((plugin,), Options(sampler=asked)), Picture(photo()), info=info)
    assert settled.sampler == walks


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
    with pytest.raises(ChainError, match='ddnm works on pixels, latent .* on latents; use method="dps"'):
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
        (Restore(), "needs sigma=, the noise's size in levels of 255"),
        (Restore(degradation="mask"), "mask= with degradation= mask"),
        (Restore(degradation="grey", mask="box:1,1,3,3"), "mask= with degradation= mask"),
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


@pytest.mark.parametrize("plugin", [Denoise(sigma=20), Colorize(), Purify(), Upscale()])
def test_tasks_that_the_pictures_own_patches_cannot_do_are_a_networks_unless_asked_otherwise(plugin):
    said = []
    settled = plan_stage(Stage((plugin,), Options()), Picture(photo()), said.append)
    assert settled.info.name == "pocket"
    assert any(
        line.startswith("by pocket, which serves this better than patches; --model takes another") for line in said
    )
    assert plan_stage(Stage((plugin,), Options(model="patches")), Picture(photo())).info.name == "patches"
    assert plan_stage(Stage((Restore(degradation="gaussian:2"),), Options()), Picture(photo())).info.name == "patches"


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
    assert torch.equal(turned(turned(x, view), view, back=True), x)
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert len({tuple(turned(square, k).flatten().tolist()) for k in range(8)}) == 8


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
