"""Where the answer is known: methods on an exact Gaussian against its closed-form posteriors.

20,000 samples, so the standard error of a mean is about 0.007; bounds are a few of those, for fixed seeds.
"""

import pytest
import torch
import toy
from toy import COVARIANCE, KNOWN, MASK, MEAN, ExactClassifier, ExactPosterior, given_known, given_y, model, moments

from editkit import sample
from editkit.diffusion.schedule import VE, Cosine, Flow
from editkit.models import GaussianMixture
from editkit.plugins import Inpaint

N = toy.N
TABLES = {"VP": Cosine(), "VE": VE(), "flow": Flow()}
SAMPLERS = ["ddpm", "ddim", "ddim:eta=1", "heun", "dpm++2m"]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("table", TABLES)
def test_unconditional_samples_have_the_moments_of_the_data(table, sampler):
    x = sample(model(TABLES[table]), shape=(N, 4), sampler=sampler, steps=100)
    mean, covariance = moments(x)
    assert (mean - MEAN).norm() < 0.04
    # First-order samplers contract the covariance by O(1/steps); VE spreads its 100 levels over a range of 40,000.
    slow = sampler in ("ddpm", "ddim", "ddim:eta=1")
    bound = (0.16 if table == "VE" else 0.06) if slow else 0.03
    assert (covariance - COVARIANCE).abs().max() < bound


@pytest.mark.parametrize("sampler", ["ddim", "dpm++2m", "heun"])
def test_deterministic_samplers_converge_at_their_order(sampler):
    """Halving the step halves the error of a first-order sampler, quarters that of a second-order one.

    On a table whose log-SNR is finite: at its infinite ends the first and last moves are of first order by design.
    """
    exact = model(VE(0.02, 20.0))
    truth = sample(exact, shape=(500, 4), steps=1280, sampler="heun")
    errors = [(sample(exact, shape=(500, 4), steps=n, sampler=sampler) - truth).abs().mean() for n in (20, 40, 80)]
    slopes = [float(torch.log2(a / b)) for a, b in zip(errors, errors[1:], strict=False)]
    wanted = 1.0 if sampler == "ddim" else 2.0
    assert all(abs(slope - wanted) < 0.25 for slope in slopes), (slopes, errors)


class Travel(Inpaint):
    """RePaint's travelling alone, without replacement."""

    name = "travel"

    def hooks(self):
        from editkit.plugin import Hooks

        return Hooks


@pytest.mark.parametrize("sampler", ["ddpm", "dpm++2m"])
def test_travelling_changes_nothing_where_nothing_is_replaced(sampler):
    plain = sample(model(), shape=(N, 4), sampler=sampler, steps=100)
    x = sample(model(), Travel(method="repaint", jump=5, repeats=4), shape=(N, 4), sampler=sampler, steps=100)
    assert (moments(x)[0] - MEAN).norm() < 0.03
    assert (moments(x)[1] - moments(plain)[1]).abs().max() < 0.06


def test_repaints_bias_falls_with_repeats_and_never_reaches_zero():
    wanted, _ = given_known()

    def bias(repeats: int) -> float:
        plugin = Inpaint(method="repaint", jump=5, repeats=repeats)
        x = sample(model(), plugin, shape=(4000, 4), known=KNOWN, mask=MASK, steps=100)
        assert torch.equal(x[:, :2], KNOWN[:2].expand(4000, 2))
        return float((x.mean(0)[2:] - wanted).norm())

    errors = [bias(r) for r in (1, 4, 10, 40)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.28
    assert 0.01 < errors[-1] < 0.06


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("table", TABLES)
def test_an_exact_posterior_hook_gives_the_posterior(table, sampler):
    x = sample(model(TABLES[table]), ExactPosterior(), shape=(N, 4), sampler=sampler, steps=100)
    wanted, covariance = given_known()
    assert (x.mean(0)[2:] - wanted).norm() < 0.015
    assert (torch.cov(x[:, 2:].T) - covariance).abs().max() < 0.03


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("table", TABLES)
def test_an_exact_classifier_energy_gives_the_posterior(table, sampler):
    x = sample(model(TABLES[table]), ExactClassifier(), shape=(N, 4), sampler=sampler, steps=200)
    mean, covariance = given_y()
    # VE starts from N(0, sigma_max^2) without the data's mean, of which sqrt(C) / sigma_max is left at the end.
    left = float(torch.linalg.eigvalsh(covariance).max().sqrt() * mean.norm()) / VE().sigma_max
    assert (x.mean(0) - mean).norm() < 0.025 + (left if table == "VE" else 0.0)
    assert (torch.cov(x.T) - covariance).abs().max() < 0.045


def test_a_mixture_keeps_the_weights_of_its_components():
    means = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, -3.0]])
    covariances = 0.05 * torch.eye(2).expand(3, 2, 2)
    mixture = GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), means, covariances)
    x = sample(mixture, shape=(N, 2), sampler="heun", steps=100)
    nearest = torch.cdist(x, means).argmin(1)
    shares = torch.bincount(nearest, minlength=3) / N
    assert (shares - torch.tensor([0.5, 0.3, 0.2])).abs().max() < 0.015


def test_the_mixture_of_one_is_the_gaussian_and_its_estimate_the_formula():
    x_t = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    level = Cosine().level(0.4)
    mixture = GaussianMixture(torch.ones(2), MEAN.expand(2, 4), COVARIANCE.expand(2, 4, 4))
    (a,), (b,) = model()(x_t, level, (None,)), mixture(x_t, level, (None,))
    torch.testing.assert_close(a.x0, b.x0, atol=1e-5, rtol=1e-5)
    alpha, sigma = level.alpha, level.sigma
    gain = alpha * COVARIANCE @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(4))
    torch.testing.assert_close(a.x0, MEAN + (x_t - alpha * MEAN) @ gain.T, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alpha * a.x0 + sigma * a.eps, x_t, atol=1e-5, rtol=1e-5)


def test_the_sampler_with_the_smaller_bias_is_named():
    """Where known values are put back, ddim leaves the rest far too widely spread, ddpm little so; that is said."""
    said = []

    def spread(sampler):
        x = sample(
            model(),
            Inpaint(),
            shape=(N, 4),
            known=KNOWN[None],
            mask=MASK,
            sampler=sampler,
            steps=50,
            notify=said.append,
        )
        return float(torch.cov(x[:, 2:].T).trace() / given_known()[1].trace())

    assert abs(spread("ddpm") - 1.0) < 0.75 * abs(spread("ddim") - 1.0)
    assert sum("sampler ddpm blends in better than ddim" in line for line in said) == 1
