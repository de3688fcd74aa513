"""Methods for inverse problems on Gaussians, where the posterior is known.

Every method here is affine in its noise, so its mean and covariance are exact numbers (`inverse.moments`).
"""

import math
from itertools import pairwise

import pytest
import torch
from inverse import SIZE, STD, D, correlated, errors, mean, moments, observation, operators, posterior

from editkit import sample
from editkit.diffusion.schedule import VE, Cosine, Flow
from editkit.errors import ChainError
from editkit.models import Gaussian
from editkit.plugins import Restore
from editkit_plugins.restoring import kernels
from editkit_plugins.restoring.degradations import Blur, Grey, Mask, Quantise
from editkit_plugins.restoring.solving import Inverse

OPERATORS = operators()
ISOTROPIC = STD**2 * torch.eye(D)
CORRELATED = correlated()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun", "dpm++2m"])
@pytest.mark.parametrize("name", OPERATORS)
def test_ddnm_is_consistent_to_a_millionth(name, sampler):
    A = OPERATORS[name]
    y = observation(A, CORRELATED, 0.0)
    plugin = Inverse(degradation=A, y=y)
    x = sample(Gaussian(mean(), CORRELATED), plugin, shape=(50, *SIZE), steps=12, sampler=sampler)
    kept = A.kept * (A.observe(A.forward(x)) - A.observe(y))
    assert float(kept.abs().square().sum().sqrt() / (y.norm() * 50**0.5)) < 1e-6


@pytest.mark.parametrize("sigma", [0.0, 0.1])
@pytest.mark.parametrize("name", OPERATORS)
def test_pigdm_is_within_two_percent_on_isotropic_gaussians(name, sigma):
    A = OPERATORS[name]
    y = observation(A, ISOTROPIC, sigma)
    plugin = Inverse(method="pigdm", degradation=A, y=y, sigma=sigma)
    got = moments(plugin, ISOTROPIC, 100, "dpm++2m")
    assert max(errors(got, posterior(A, y, ISOTROPIC, sigma))) < 0.02


@pytest.mark.parametrize("sigma", [0.0, 0.1])
@pytest.mark.parametrize("name", OPERATORS)
def test_pigdm_given_the_covariance_is_within_two_percent_on_every_gaussian(name, sigma):
    A = OPERATORS[name]
    y = observation(A, CORRELATED, sigma)
    plugin = Inverse(method="pigdm", degradation=A, y=y, sigma=sigma, covariance=CORRELATED)
    got = moments(plugin, CORRELATED, 100, "dpm++2m")
    assert max(errors(got, posterior(A, y, CORRELATED, sigma))) < 0.02


@pytest.mark.parametrize("table", [VE(), Flow()], ids=["VE", "flow"])
def test_pigdm_keeps_its_promise_on_other_tables(table):
    A = OPERATORS["average"]
    y = observation(A, ISOTROPIC, 0.1)
    plugin = Inverse(method="pigdm", degradation=A, y=y, sigma=0.1)
    x = sample(Gaussian(mean(), ISOTROPIC, table), plugin, shape=(4000, *SIZE), steps=100, sampler="dpm++2m")
    wanted = posterior(A, y, ISOTROPIC, 0.1)
    got = x.flatten(1).double().mean(0), torch.cov(x.flatten(1).double().T)
    assert errors(got, wanted)[0] < 0.03
    assert float(got[1].trace() / wanted[1].trace()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("method", "mean_bound", "covariance_bound"),
    [("ddnm", 0.45, 0.75), ("ddrm", 0.06, 0.3), ("diffpir", 0.15, 0.15), ("pigdm", 0.5, 0.25)],
)
def test_what_is_approximate_stays_as_near_as_the_table_says(method, mean_bound, covariance_bound):
    """The correlated prior, with and without noise; docs/restoration.md has every number."""
    for sigma in (0.0, 0.1):
        A = OPERATORS["mask"]
        y = observation(A, CORRELATED, sigma)
        plugin = Inverse(method=method, degradation=A, y=y, sigma=sigma, lam=1.0)
        got = errors(moments(plugin, CORRELATED, 100), posterior(A, y, CORRELATED, sigma))
        assert got[0] < mean_bound
        assert got[1] < covariance_bound


def test_without_noise_pigdm_on_an_isotropic_gaussian_is_ddnm():
    A = OPERATORS["bicubic"]
    y = observation(A, ISOTROPIC, 0.0)
    model = Gaussian(mean(), ISOTROPIC)
    one, two = (
        sample(model, Inverse(method=method, degradation=A, y=y), shape=(8, *SIZE), steps=20)
        for method in ("ddnm", "pigdm")
    )
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_dps_comes_near_the_observation_and_its_pull_is_zeta():
    A = OPERATORS["average"]
    y = observation(A, CORRELATED, 0.0)
    model = Gaussian(mean(), CORRELATED)

    def distance(zeta: float) -> float:
        x = sample(model, Inverse(method="dps", degradation=A, y=y, zeta=zeta), shape=(50, *SIZE), steps=100)
        return float((A.forward(x) - y).flatten(1).norm(dim=1).mean())

    free = sample(model, shape=(50, *SIZE), steps=100)
    without = float((A.forward(free) - y).flatten(1).norm(dim=1).mean())
    assert distance(0.7) < distance(0.14) < without
    assert distance(0.7) < 0.25 * without


def test_what_a_jpeg_or_a_quantised_picture_says_holds_after_ddnm():
    A = Quantise(6, SIZE)
    truth = torch.linalg.cholesky(CORRELATED) @ torch.randn(D, generator=torch.Generator().manual_seed(1))
    y = A.forward((mean() + truth.reshape(SIZE))[None])
    x = sample(Gaussian(mean(), CORRELATED), Inverse(degradation=A, y=y), shape=(20, *SIZE), steps=20)
    torch.testing.assert_close(A.forward(x), y.expand(20, *SIZE), atol=1e-5, rtol=0)
    with pytest.raises(ChainError, match="needs a linear degradation; use method=.ddnm. or dps"):
        sample(Gaussian(mean(), CORRELATED), Inverse(method="ddrm", degradation=A, y=y), shape=(1, *SIZE), steps=2)


def test_a_process_that_starts_from_the_guess_is_nearer_in_fewer_calls():
    """Chung et al. 2022: half the levels, from the noised A^+ y, are no worse than all of them."""
    A = OPERATORS["average"]
    y = observation(A, CORRELATED, 0.0)
    wanted = posterior(A, y, CORRELATED, 0.0)
    got = moments(Inverse(degradation=A, y=y, strength=0.5), CORRELATED, 100)
    assert errors(got, wanted)[0] < 0.4


@pytest.mark.parametrize("table", [Cosine(), Flow()])
def test_dps_pulls_as_far_by_heun_as_by_euler(table):
    """Heun's second evaluation stands at the level the move goes to; the energy is the move's all the same."""
    size = (1, 4, 4)
    plugin = Inverse(method="dps", degradation=Mask(torch.ones(1), size), y=torch.full((1, *size), 0.9), zeta=0.3)
    g, pull = Gaussian(torch.zeros(size), 0.25 * torch.eye(16), table), {}
    for name in ("euler", "heun"):
        run = {"shape": (64, *size), "sampler": name, "steps": 40, "seed": 1}
        pull[name] = float((sample(g, plugin, **run) - sample(g, **run)).mean())
    assert pull["heun"] == pytest.approx(pull["euler"], rel=0.2)


def test_diffpir_stays_in_range_at_pure_noise():
    """A noisy blur, 8 steps: the first estimate is not A^+ y with all its noise."""
    size, generator = (1, 16, 16), torch.Generator().manual_seed(0)
    A = Blur(kernels.gaussian(1.5), size)
    x = 0.5 * torch.randn(1, *size, generator=generator)
    y = A.forward(x) + 0.1 * torch.randn(1, *size, generator=generator)
    sizes = []
    made = sample(
        Gaussian(torch.zeros(size), 0.25 * torch.eye(256)), Inverse(method="diffpir", degradation=A, y=y, sigma=0.1),
        shape=(4, *size), steps=8,
        watch=lambda state: sizes.append(float(state.x.std() / math.hypot(0.5 * state.level.alpha, state.level.sigma))),
    )  # fmt: skip
    assert max(sizes) < 1.5
    assert float((made - x).square().mean().sqrt()) < 0.7


@pytest.mark.parametrize("sigma", [0.0, 0.1])
@pytest.mark.parametrize("name", OPERATORS)
def test_wiener_is_within_two_percent_on_isotropic_gaussians_and_gains_by_steps(name, sigma):
    A = OPERATORS[name]
    y = observation(A, ISOTROPIC, sigma)
    plugin, wanted = Inverse(method="wiener", degradation=A, y=y, sigma=sigma), posterior(A, y, ISOTROPIC, sigma)
    few, many = (errors(moments(plugin, ISOTROPIC, steps, "dpm++2m"), wanted) for steps in (20, 100))
    assert max(many) < 0.02
    assert max(many) <= max(few) + 1e-6


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun"])
def test_wiener_is_exact_as_the_steps_grow_with_any_sampler(sampler):
    A = OPERATORS["average"]
    y = observation(A, ISOTROPIC, 0.1)
    plugin, wanted = Inverse(degradation=A, y=y, sigma=0.1), posterior(A, y, ISOTROPIC, 0.1)
    found = [errors(moments(plugin, ISOTROPIC, steps, sampler), wanted) for steps in (25, 50, 100)]
    assert max(found[-1]) < 0.1  # of first order: ddpm and ddim
    assert all(max(b) < 0.7 * max(a) for a, b in pairwise(found))


def test_without_noise_wiener_is_ddnm():
    A = OPERATORS["bicubic"]
    y = observation(A, CORRELATED, 0.0)
    run = {"shape": (8, *SIZE), "steps": 20}
    one, two = (
        sample(Gaussian(mean(), CORRELATED), Inverse(method=method, degradation=A, y=y), **run)
        for method in ("ddnm", "wiener")
    )
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["auto", "wiener"])
def test_a_weak_observation_with_noise_does_not_run_away(method):
    """s = 0.02, sigma_y = 0.1, y = 2 sigma_y: the posterior is 0.10 +- 0.50; 1,000 steps of DDNM+ give 8.4 +- 0.06."""
    s, sigma = 0.02, 0.1
    A, y = Grey((3, 1, 1), (s, 0.0, 0.0)), torch.full((1, 1, 1, 1), 2 * sigma)
    prior = Gaussian(torch.zeros(3, 1, 1), 0.25 * torch.eye(3))
    wanted = 0.25 * s / (s * s * 0.25 + sigma**2) * 2 * sigma
    for steps in (8, 100):
        plugin = Inverse(method=method, degradation=A, y=y, sigma=sigma)
        x = sample(prior, plugin, shape=(3000, 3, 1, 1), steps=steps)[:, 0]
        assert abs(float(x.mean()) - wanted) < 5.0 * 0.5 / math.sqrt(3000)
    assert abs(float(x.std()) - 0.5) < 0.04


def test_ddrm_weighs_a_weak_observation_in_many_steps():
    """s = 0.02, sigma_y = 0.1, y = 2 sigma_y: the paper's eta gives 0.9, 1.4 and 2.7 in 30, 100 and 1,000 steps."""
    s, sigma = 0.02, 0.1
    A, y = Grey((3, 1, 1), (s, 0.0, 0.0)), torch.full((1, 1, 1, 1), 2 * sigma)
    prior, wanted = (
        Gaussian(torch.zeros(3, 1, 1), 0.25 * torch.eye(3)),
        0.25 * s / (s * s * 0.25 + sigma**2) * 2 * sigma,
    )
    for steps in (21, 100):
        plugin = Inverse(method="ddrm", degradation=A, y=y, sigma=sigma)
        x = sample(prior, plugin, shape=(3000, 3, 1, 1), steps=steps)[:, 0]
        assert abs(float(x.mean()) - wanted) < 5.0 * 0.5 / math.sqrt(3000), steps
        assert float(x.std()) == pytest.approx(0.5 / math.sqrt(2.0), abs=0.05)  # half of the posterior's variance


@pytest.mark.parametrize("steps", [8, 20])
def test_up_to_its_papers_steps_ddrm_is_its_papers(steps):
    A = OPERATORS["any kernel"]
    y, run = observation(A, CORRELATED, 0.1), {"shape": (4, *SIZE), "steps": steps, "seed": 1}
    plugin = Inverse(method="ddrm", degradation=A, y=y, sigma=0.1)
    ours, papers = (
        sample(Gaussian(mean(), CORRELATED), plugin.model_copy(update=given), **run) for given in ({}, {"eta": 0.85})
    )
    assert torch.equal(ours, papers)


@pytest.mark.parametrize(
    ("method", "sigma", "steps", "said"),
    [
        ("ddnm", 0.1, 8, "ddnm treats the observation's noise as new noise at every step"),
        ("ddnm", 0.0, 8, None),
        ("ddrm", 0.1, 21, "ddrm was designed for about 20 steps"),
        ("ddrm", 0.1, 20, None),
        ("ddrm", 0.0, 100, None),
        ("wiener", 0.1, 100, None),
        ("auto", 0.1, 8, "inverse: method wiener"),
        ("auto", 0.0, 8, "inverse: method ddnm"),
    ],
)
def test_who_asks_for_what_steps_make_worse_is_told(method, sigma, steps, said):
    A, told = OPERATORS["grey"], []
    plugin = Inverse(method=method, degradation=A, y=observation(A, ISOTROPIC, sigma), sigma=sigma)
    sample(Gaussian(mean(), ISOTROPIC), plugin, shape=(1, *SIZE), steps=steps, notify=told.append)
    assert (said is None and told == []) or any(said in line for line in told)


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ({"degradation": "noise", "sigma": 10}, "wiener"),
        ({"degradation": "noise", "sigma": 20}, "ddrm"),
        ({"degradation": "average:2", "sigma": 5}, "wiener"),
        ({"degradation": "average:2", "sigma": 10}, "ddrm"),
        ({"degradation": "gaussian:1.5"}, "wiener"),
        ({"degradation": "gaussian:1.5", "sigma": 5}, "wiener"),
        ({"degradation": "average:2"}, "ddnm"),
        ({"degradation": "jpeg:30"}, "ddnm"),
    ],
)
def test_what_auto_takes(given, method):
    assert Restore(**given).solved() == method
