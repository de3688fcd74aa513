"""upscale, restore, colorize, denoise, purify on models whose answers are known."""

import numpy as np
import pytest
from PIL import Image
from toy import Isotropic
from toy_restoration import LUMA, measured, photo

from editkit import edit
from editkit.diffusion.model import ModelInfo
from editkit.diffusion.schedule import Cosine
from editkit.editing.api import stream
from editkit.editing.contract import ExactModel
from editkit.editing.settle import plan_stage
from editkit.errors import ChainError, UsageError
from editkit.pictures.picture import Picture
from editkit.pictures.tensors import from_unit, to_unit
from editkit.plugin.chain import Stage
from editkit.plugin.options import Options
from editkit.plugins import Colorize, Denoise, Purify, Restore, Upscale
from editkit_plugins.denoise import ladder_from
from editkit_plugins.noise_level import estimated_noise
from editkit_plugins.restoring.named import parse


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


class Conditioned(ExactModel):
    """Remembers what it was told."""

    def __call__(self, x_t, level, conds):
        self.conds = conds
        return super().__call__(x_t, level, conds)


def test_a_model_that_takes_lowres_is_told_the_small_picture_and_held_to_it():
    model = Conditioned(frozenset({"lowres"}))
    _, told = measured(photo(), Upscale(), model=model, steps=4)
    assert model.conds[0].lowres.shape == (1, 3, 48, 64)
    assert told[0][2]["consistency_levels"] < 6.0
    _, free = measured(photo(), Upscale(project=False), model=model, steps=4)
    assert free[0][2]["consistency_levels"] > told[0][2]["consistency_levels"]
    with pytest.raises(ChainError, match='takes nothing, not lowres; use method="auto"'):
        edit(photo(), Upscale(method="conditioned"), model=Isotropic())
    with pytest.raises(UsageError, match="does not take a noise level"):
        edit(photo(), Upscale(noise_level=20), model=model, steps=2)


class Noisy(Conditioned):
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


@pytest.mark.parametrize("model", [Isotropic(), Conditioned(frozenset({"task"}))], ids=["solved", "told"])
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
