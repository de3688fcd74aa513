"""The truth table (benchmarks/truth.py, docs/truth.md) in short: every cell has a bound.

Moments on Gaussians are exact, so bounds are those of the mathematics: the order of a sampler, what a table leaves out.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import truth

STEPS = (1, 2, 4, 8, 20, 50)
TABLES, SPECTRA = truth.tables(), truth.spectra()
ROUNDING = 2e-4
"""Of float32 states that go down from sigma = 80."""


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def falls(sampler: str, errors: dict[int, float]) -> bool:
    """Whether more steps have smaller errors; one that changes its sign is small twice, within the order's bound."""
    return all(b < a or b < truth.covariance_bound(sampler, n) for (_, a), (n, b) in pairwise(errors.items()))


@pytest.mark.parametrize("sampler", truth.samplers())
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_a_sampler_on_gaussians(spectrum, table, sampler):
    means, deviations = SPECTRA[spectrum]
    model = truth.gaussian(means, deviations, TABLES[table])
    wanted = means.double(), deviations.double() ** 2
    found = {steps: truth.moments(model, sampler, steps) for steps in STEPS}
    errors = {steps: got.errors(*wanted) for steps, got in found.items()}
    wild = sampler == "ddpm:variance=large" and table == "VE"  # Score SDE's predictor: for many steps
    for steps, (mean, covariance) in errors.items():
        assert mean < truth.mean_bound(sampler, TABLES[table], steps, *wanted) + ROUNDING, (steps, mean)
        assert wild or covariance < truth.covariance_bound(sampler, steps), (steps, covariance)
        assert wild or found[steps].reach < truth.REACH, (steps, found[steps].reach)
    assert errors[1][1] == pytest.approx(1.0, abs=1e-3)  # E[x0]: no variance
    assert falls(sampler, {steps: errors[steps][1] for steps in (8, 20, 50)}), errors


@pytest.mark.parametrize("sampler", truth.samplers())
@pytest.mark.parametrize("table", ["VE", "flow"])
def test_the_order_of_a_sampler(table, sampler):
    """On VE, whose log-SNR is finite, its own; on the flow table the first and the last move are of first order."""
    least = truth.ORDERS[sampler] if table == "VE" else min(truth.ORDERS[sampler], 1.5)
    assert truth.order(sampler, TABLES[table]) > least - 0.25


@pytest.mark.parametrize("spacing", ["log-snr", "karras"])
@pytest.mark.parametrize("table", TABLES)
def test_even_ladders_reach_data_of_any_size(table, spacing):
    """The first moves leave out what the data have at sigma / alpha = 80, the last ones what is below the lowest."""
    deviations = torch.tensor(truth.DEVIATIONS)
    model = truth.gaussian(torch.zeros(len(deviations)), deviations, TABLES[table])
    ratio = truth.moments(model, "dpm++2m", 50, spacing=spacing).variance / deviations.double() ** 2
    low = TABLES[table].levels(50, spacing)[1]
    quiet = (low.sigma / low.alpha) ** 2
    for deviation, kept in zip(truth.DEVIATIONS, ratio.tolist(), strict=True):
        left_out = deviation**2 / (deviation**2 + 80.0**2) + quiet / (quiet + deviation**2)
        assert abs(kept - 1.0) < truth.covariance_bound("dpm++2m", 50) + left_out, (deviation, kept)


@pytest.mark.parametrize("sampler", ["ddpm", "dpm++2m"])
@pytest.mark.parametrize("method", ["wiener", "pigdm"])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_a_method_that_is_exact_for_isotropic_data(sigma, table, method, sampler):
    *_, mean, variance = truth.problem("isotropic", TABLES[table], sigma)
    found = {
        steps: truth.solved(method, "isotropic", TABLES[table], sigma, steps, sampler).errors(mean, variance)
        for steps in (8, 20, 50)
    }
    for steps, (m, c) in found.items():
        assert m < truth.mean_bound(sampler, TABLES[table], steps, mean, variance) + ROUNDING
        assert c < truth.covariance_bound(sampler, steps)
    assert falls(sampler, {steps: c for steps, (_, c) in found.items()})


@pytest.mark.parametrize("table", TABLES)
def test_what_is_biased_by_design_is_so(table):
    """docs/truth.md and docs/restoration.md say it; a mend shall be seen here."""
    *_, mean, variance = truth.problem("isotropic", TABLES[table], 0.2)

    def solved(method: str, steps: int, eta: float | None = None) -> truth.Moments:
        return truth.solved(method, "isotropic", TABLES[table], 0.2, steps, "ddpm", eta)

    unseen = ~truth.SEEN.flatten()
    kept = float((solved("ddrm", 160, 0.85).variance / variance)[unseen].mean())
    assert kept == pytest.approx((1.0 + math.sqrt(1.0 - 0.85**2)) / 2.0, abs=0.12)
    assert solved("ddnm", 160).errors(mean, variance)[1] > 0.1
    many, few = (solved("wiener", steps).errors(mean, variance)[1] for steps in (160, 40))
    assert many < few / 2.0  # of first order: a quarter in the limit, where two halvings are left


@pytest.mark.parametrize("table", TABLES)
def test_ddrm_gains_by_more_steps(table):
    """Without an eta: where nothing is observed, (1 + c) / 2 of the variance, c = sqrt(1 - eta^2), eta^2 = 0.85^2
    sqrt(100 / steps); where y is, its mean, and half of the posterior's variance (`Ddrm`). What a finite number of
    steps takes off that is less than twice what it takes off by ddpm."""
    *_, mean, variance = truth.problem("isotropic", TABLES[table], 0.2)
    seen, errors = truth.SEEN.flatten(), []
    for steps in (100, 300, 1000):
        got = truth.solved("ddrm", "isotropic", TABLES[table], 0.2, steps, "ddpm")
        c, lost = math.sqrt(1.0 - 0.85**2 * math.sqrt(100 / steps)), 2.0 * truth.covariance_bound("ddpm", steps)
        kept = got.variance / variance
        assert (kept[~seen] > (1.0 + c) / 2.0 - lost).all(), steps
        assert (kept[~seen] < (1.0 + c) / 2.0 + 0.01).all(), steps
        assert ((kept[seen] - 0.5).abs() < lost).all(), steps
        assert got.errors(mean, variance)[0] < truth.mean_bound("ddpm", TABLES[table], steps, mean, variance) + lost
        errors.append(got.errors(mean, variance))
    assert errors[0][1] > errors[1][1] > errors[2][1]
    assert (got.variance / variance)[~seen].min() > 0.9  # at 1,000


@pytest.mark.parametrize("sampler", truth.samplers())
@pytest.mark.parametrize("table", TABLES)
def test_a_mixture_keeps_its_moments(table, sampler):
    mean, variance, share = truth.mixed(sampler, TABLES[table], 50)
    chance = 0.0 if sampler in truth.DETERMINISTIC else 5.0 / math.sqrt(truth.COUNT)
    assert mean < 0.06 + chance
    assert variance < (0.12 if truth.ORDERS[sampler] == 1 else 0.05) + 1.5 * chance
    assert share < 0.03 + 0.5 * chance
