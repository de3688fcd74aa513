"""Ladders of levels: the tables themselves, and the identities of each family."""

from __future__ import annotations

import math
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch

from editkit import sample
from editkit.diffusion.convention import CONVENTIONS
from editkit.diffusion.samplers import SAMPLERS, load, make_sampler
from editkit.diffusion.schedule import LOUD, QUIET, VE, Cosine, Discrete, Flow, Grid, Spacing, progress
from editkit.errors import UsageError
from editkit.models import Gaussian
from editkit.models.schedules import clip_range, default_sampler, make_schedule

SD = {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
      "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}  # fmt: skip


class Given:
    """Noise that is given: a source of one stream."""

    generators = ()

    def __init__(self, noise: torch.Tensor) -> None:
        self.noise = noise

    def stream(self, owner: str) -> Given:
        return self

    def normal(self, shape: tuple[int, ...]) -> torch.Tensor:
        assert tuple(shape) == tuple(self.noise.shape)
        return self.noise


def times(schedule: Discrete, steps: int, spacing: Spacing, sampler: str = "ddim") -> list[float]:
    """Noisiest first, without the clean end."""
    return [level.t for level in schedule.levels(steps, spacing, load(sampler).grid)][:0:-1]


def plain(**config: object) -> Discrete:
    made = make_schedule({"_class_name": "DDPMScheduler", **config})
    assert isinstance(made, Discrete)
    return made


def test_tables_of_four_steps() -> None:
    assert times(plain(), 4, "leading") == [750, 500, 250, 0]
    assert times(plain(), 4, "trailing") == [999, 749, 499, 249]
    assert times(plain(), 4, "linspace") == [999, 666, 333, 0]
    assert times(plain(), 4, "linspace", "euler") == [999, 666, 333, 0]
    assert times(plain(), 3, "linspace", "euler") == [999, 499.5, 0]
    assert times(plain(), 4, "linspace", "dpm++2m") == [999, 749, 500, 250]
    assert times(plain(), 4, "leading", "dpm++2m") == [800, 600, 400, 200]
    assert times(plain(), 4, "trailing", "unipc") == [999, 749, 499, 249]
    assert times(plain(), 4, "leading", "lcm") == [999, 759, 499, 259]


def test_three_hundred_steps_start_at_the_noisiest_levels() -> None:
    """diffusers' leading takes every third time and starts at 897; `auto` spreads 300 times over all of them."""
    auto = times(plain(), 300, "auto")
    assert (auto[0], auto[1], auto[-1], len(auto)) == (996, 993, 0, 300)
    assert times(plain(), 300, "leading")[0] == 897
    scheduler = diffusers.DDPMScheduler(timestep_spacing="leading")
    scheduler.set_timesteps(300)
    assert times(plain(), 300, "leading") == scheduler.timesteps.tolist()


def test_auto_is_the_configuration_and_then_the_samplers_own() -> None:
    assert times(plain(timestep_spacing="trailing"), 4, "auto") == [999, 749, 499, 249]
    for sampler, own in (("ddim", "leading"), ("euler", "linspace"), ("dpm++2m", "linspace")):
        assert times(plain(), 20, "auto", sampler) == times(plain(), 20, own, sampler)


@pytest.mark.parametrize("sampler", SAMPLERS.names())
@pytest.mark.parametrize("spacing", ["auto", "leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_ladders_rise_in_noise(sampler: str, spacing: Spacing, steps: int) -> None:
    levels = plain(**SD).levels(steps, spacing, load(sampler).grid)
    assert len(levels) == steps + 1
    assert [level.index for level in levels] == list(range(steps + 1))
    assert all(a.sigma <= b.sigma for a, b in pairwise(levels))
    assert all(a.sigma < b.sigma for a, b in pairwise(levels[1:]))
    assert all(math.isclose(v.alpha**2 + v.sigma**2, 1.0, abs_tol=1e-12) for v in levels)


def test_more_steps_than_levels() -> None:
    for sampler in ("ddim", "dpm++2m"):
        assert len(set(times(plain(), 1000, "auto", sampler))) == 1000
    with pytest.raises(UsageError, match=r"1001.*1000 noise levels"):
        plain().levels(1001)
    for spacing in ("leading", "trailing", "linspace"):
        with pytest.raises(UsageError, match=r"1001.*1000 noise levels"):
            plain().levels(1001, spacing)
    for spacing in ("log-snr", "karras"):  # between the trained times, as many as are asked for
        assert len({level.sigma for level in plain().levels(1500, spacing)}) == 1501
    with pytest.raises(UsageError, match=r"51.*50 noise levels"):
        plain().levels(51, grid=load("lcm").grid)


def test_only_ddim_ends_where_the_configuration_says() -> None:
    schedule = plain(**SD)
    assert schedule.levels(10, grid=load("ddim").grid)[0].sigma == pytest.approx(math.sqrt(0.00085), rel=1e-4)
    assert schedule.levels(10, grid=load("ddpm").grid)[0].sigma == 0.0


def test_zero_terminal_snr() -> None:
    """alpha_t is exactly 0 for ddpm and ddim; samplers that work in log-SNR get 2^-12, as in diffusers."""
    schedule = plain(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    top = schedule.levels(10)[-1]
    assert (top.alpha, top.sigma, top.log_snr) == (0.0, 1.0, -math.inf)
    assert schedule.levels(10, grid=load("euler").grid)[-1].alpha == 2.0**-12


def test_where_a_process_starts() -> None:
    schedule = plain()
    for sampler, spacing, expected in [
        ("ddim", "linspace", 1.0), ("euler", "leading", 1.0), ("euler", "linspace", 0.5), ("heun", "trailing", 0.5),
        ("euler", "auto", 0.5), ("dpm++2m", "trailing", 1.0),
    ]:  # fmt: skip
        grid = make_sampler(sampler).grid
        level = schedule.levels(4, spacing, grid)[2]
        assert schedule.prior_scale(level, spacing, grid) == (1.0 if expected == 1.0 else level.sigma)


def test_identities_of_the_families() -> None:
    for v in Cosine().levels(7):
        assert v.alpha**2 + v.sigma**2 == pytest.approx(1.0)
    assert (Cosine().levels(7)[-1].alpha, Cosine().levels(7)[0].sigma) == (0.0, 0.0)
    for v in Flow(shift=3.0).levels(7):
        assert v.alpha + v.sigma == pytest.approx(1.0)
    assert [v.t for v in Flow().levels(4)] == [0, 250, 500, 750, 1000]
    assert [v.sigma for v in Flow(shift=3.0).levels(2)] == pytest.approx([0, 0.75, 1])
    sigmas = [v.sigma for v in VE(0.01, 100.0, rho=0.0).levels(5)]
    assert sigmas == pytest.approx([0, 0.01, 0.1, 1, 10, 100])
    assert all(v.alpha == 1.0 for v in VE().levels(5))
    karras = [v.sigma for v in VE().levels(3)]
    assert karras == pytest.approx([0, 0.002, ((0.002 ** (1 / 7) + 80 ** (1 / 7)) / 2) ** 7, 80])


def test_between_two_trained_times_sigma_over_alpha_is_linear() -> None:
    schedule = plain()
    a, b, c = (v.sigma / v.alpha for v in map(schedule.level, (10, 10.25, 11)))
    assert b == pytest.approx(0.75 * a + 0.25 * c)


def test_progress_is_linear_in_log_snr_and_clipped() -> None:
    levels = Cosine().levels(10)
    values = [progress(level, levels) for level in levels]
    assert (values[0], values[-1]) == (1.0, 0.0)
    assert all(a >= b for a, b in pairwise(values))
    assert progress(levels[5], levels) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", [Cosine(), VE(), VE(0.002, 80, 0.0), Flow(), Flow(3.0)])
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS.names() if name not in ("lcm", "sds")])
def test_every_sampler_on_every_family_finds_the_gaussian(schedule: object, sampler: str) -> None:
    """x0 ~ N(0.5, 0.2^2), exact denoiser, 300 steps: mean and deviation to a few per cent. (lcm is no solver of it: its
    network is a distilled one.)"""
    model = Gaussian(torch.full((1,), 0.5), torch.full((1, 1), 0.04), schedule)  # type: ignore[arg-type]
    x = sample(model, shape=(4000, 1), sampler=sampler, steps=300, device="cpu")
    assert bool(torch.isfinite(x).all())
    assert float(x.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(x.std()) == pytest.approx(0.2, rel=0.1)


def test_configurations() -> None:
    assert default_sampler({"_class_name": "DDPMScheduler", "variance_type": "fixed_large"}) == "ddpm:variance=large"
    assert default_sampler(SD) == "ddim"
    assert clip_range({"_class_name": "DDPMScheduler"}) == 1.0
    assert clip_range(SD) is None
    schedule = make_schedule({"_class_name": "DDPMScheduler", "trained_betas": np.linspace(0.1, 0.2, 10).tolist()})
    assert isinstance(schedule, Discrete)
    assert len(schedule.alphas_cumprod) == 10
    assert Grid().spacing == "leading"


@pytest.mark.parametrize("steps", [1000, 250, 7])
def test_the_cosine_table_is_diffusers_own(steps: int) -> None:
    from diffusers import DDPMScheduler

    from editkit.models.schedules import cosine_table

    theirs = DDPMScheduler(num_train_timesteps=steps, beta_schedule="squaredcos_cap_v2")
    betas, alphas_cumprod = cosine_table(steps)
    np.testing.assert_array_equal(betas, theirs.betas.numpy())
    np.testing.assert_array_equal(alphas_cumprod, theirs.alphas_cumprod.numpy())


RATIO = {"Cosine": Cosine(), "Flow": Flow(), "shifted": Flow(shift=3.0), "VE": VE()}


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 19])
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS.names() if name != "lcm"])
@pytest.mark.parametrize("said", ["leading", "linspace", None])
def test_few_steps_of_auto_begin_at_the_noisiest_level(said, sampler, steps):
    table = plain(**({} if said is None else {"timestep_spacing": said}))
    assert times(table, steps, "auto", sampler) == times(table, steps, "trailing", sampler)
    assert times(table, steps, "auto", sampler)[0] == 999
    named = CONVENTIONS["diffusers"].spacing("auto", table, load(sampler).grid)
    assert named == table.resolve("auto", load(sampler).grid)  # diffusers' own there


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler", "dpm++2m", "unipc"])
def test_few_steps_keep_the_mean(sampler):
    """A Gaussian's own E[x0 | x_T] from the noisiest level has the mean at once, in one step and in more."""
    table = plain(beta_schedule="squaredcos_cap_v2")
    for steps in (1, 2, 4, 8):
        x = sample(
            Gaussian(torch.tensor([3.0]), torch.tensor([[4.0]]), table), shape=(4000, 1), sampler=sampler, steps=steps
        )
        assert abs(float(x.mean()) - 3.0) < 5.0 * 2.0 / math.sqrt(4000)


@pytest.mark.parametrize("steps", [1, 2, 5, 30])
@pytest.mark.parametrize("spacing", ["log-snr", "karras"])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm++2m"])
@pytest.mark.parametrize("table", [*RATIO, "cosine", "SD", "zero-snr"])
def test_even_ladders_are_even(table, sampler, spacing, steps):
    tables = {"cosine": plain(beta_schedule="squaredcos_cap_v2"), "SD": plain(**SD),
              "zero-snr": plain(rescale_betas_zero_snr=True)}  # fmt: skip
    schedule = {**RATIO, **tables}[table]
    levels = schedule.levels(steps, spacing, load(sampler).grid)
    assert len(levels) == steps + 1
    assert (levels[0].alpha, levels[0].sigma) == (1.0, 0.0)
    top = levels[-1]
    noisiest = schedule.levels(steps, "trailing", load(sampler).grid)[-1]
    assert math.isclose(top.sigma, noisiest.sigma, rel_tol=1e-9)
    assert abs(top.alpha - noisiest.alpha) < 1e-9
    r = np.array([v.sigma / v.alpha for v in levels[1:] if v.alpha > 0.0 and (v is not top or steps == 1)])
    even = np.log(r) if spacing == "log-snr" else r ** (1 / 7)
    if len(even) > 2:
        assert np.allclose(np.diff(even), np.diff(even)[0], rtol=1e-6)
        assert np.all(np.diff(r) > 0.0)


@pytest.mark.parametrize("std", [0.01, 0.03, 0.1, 1.0, 10.0, 30.0])
@pytest.mark.parametrize("table", ["Cosine", "Flow", "VE"])
def test_even_ladders_keep_the_variance_of_data_of_any_size(table, std):
    """Uniform in time, 50 steps of dpm++2m leave 0.09 of the variance at 0.01 on the cosine table.

    The first move, from noise alone to sigma / alpha = 80, or VE's own start, leaves out what is of the data there, and
    the last one, from 0.002, what is of noise.
    """
    left_out = std**2 / (std**2 + LOUD**2) + QUIET**2 / (std**2 + QUIET**2)
    g = Gaussian(torch.zeros(1), torch.tensor([[std**2]]), RATIO[table])
    for spacing in ("log-snr", "karras"):
        unit = Given(torch.tensor([[0.0], [1.0]]))
        one = sample(g, shape=(2, 1), sampler="dpm++2m", steps=50, spacing=spacing, noise=unit)
        gain = float(one[1] - one[0])  # the map is linear
        assert abs(gain**2 / std**2 - 1.0) < 0.03 + left_out, (spacing, gain**2 / std**2)


def test_a_distilled_model_has_its_trained_times_alone():
    with pytest.raises(UsageError, match="--spacing log-snr makes levels that a distilled model does not know"):
        plain(**SD).levels(4, "log-snr", load("lcm").grid)
