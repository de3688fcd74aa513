"""Score distillation and point estimates: closed forms on the toy's Gaussian, the papers' steps, what is refused."""

from itertools import pairwise

import pytest
import torch
from exact_moments import EYE, exact_prediction, through
from inverse import SIZE, STD, D, errors, mean, moments, observation, operators, posterior
from torch import nn
from toy import COVARIANCE, KNOWN, MASK, MEAN, ExactClassifier, given_y, model

import editkit
from editkit import sample
from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.samplers import make_sampler
from editkit.diffusion.schedule import VE, Cosine, Flow
from editkit.errors import ChainError, ModelError, UsageError
from editkit.models import Gaussian, GaussianMixture
from editkit.plugins import Inpaint
from editkit_plugins.restoring.degradations import Mask
from editkit_plugins.restoring.solving import Inverse

TABLES = {"VE": VE(0.02, 20.0), "VP": Cosine(), "flow": Flow()}
ISOTROPIC = STD**2 * torch.eye(D)


def settled(spec, table, steps, start=(2.0, 2.0, -2.0, 1.0)):
    """Mean and covariance of what `spec` makes of one picture, exactly."""
    rule, levels = make_sampler(spec), table.levels(steps)
    now = torch.tensor(start, dtype=torch.float64), 0.0 * EYE
    for t, s in pairwise(levels[::-1]):
        now = through(rule, t, s, now)
    return now


@pytest.mark.parametrize("spec", ["sds:rate=1", "sds:rate=0.2,weight=even"])
@pytest.mark.parametrize("table", TABLES)
def test_sds_ends_at_the_mode(table, spec):
    """Its results lie around the mode within 1 % of the data's deviation, closer together the smaller the rate."""
    found, covariance = settled(spec, TABLES[table], 400)
    size = float(COVARIANCE.trace()) ** 0.5
    assert float((found - MEAN).norm()) < 0.01 * size
    slower = settled(spec.replace("rate=1", "rate=0.5").replace("rate=0.2", "rate=0.1"), TABLES[table], 400)[1]
    assert float(slower.trace()) < 0.7 * float(covariance.trace()) < 0.2 * size**2


@pytest.mark.parametrize("table", ["VP", "flow"])
def test_sds_is_the_papers_step(table):
    """theta <- theta - rate w(t) (eps_hat - eps), w = sigma^2 of the table that keeps variance (eq. 3)."""
    rule, t = make_sampler("sds:rate=0.7"), TABLES[table].levels(10)[6]
    x = torch.randn((8, 4), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    eps = torch.randn((8, 4), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x_t = t.alpha * x + t.sigma * eps
    w = t.sigma**2 / (t.alpha**2 + t.sigma**2)
    wanted = x - 0.7 * w * (exact_prediction(x_t, t).eps - eps)
    found, memory = rule.step(x, t, t, exact_prediction, lambda t, s: eps, None)
    assert memory is None
    assert torch.allclose(found, wanted, atol=1e-12)


def test_guidance_moves_the_mode():
    """With an exact likelihood it ends at the mode of p(x | y), within chance and 1 %."""
    found = sample(model(), ExactClassifier(), shape=(4000, 4), sampler="sds:rate=0.2,weight=even", steps=200)
    wanted, covariance = given_y()
    size = float(covariance.trace()) ** 0.5
    spread = float(torch.cov(found.T).trace()) ** 0.5
    assert float((found.mean(0) - wanted).norm()) < 0.01 * size + 4.0 * spread / 4000**0.5
    assert spread < size


MEANS = torch.tensor([[1.5, 1.5, 0.0, 0.0], [-1.5, -1.0, 0.5, 0.0]])


def mixture():
    """Two components so far apart that each one's mean is a mode."""
    return GaussianMixture(torch.tensor([0.3, 0.7]), MEANS, mixture_covariances())


def mixture_covariances():
    return torch.stack([0.04 * torch.eye(4), 0.09 * torch.eye(4)])


def test_of_a_mixture_sds_ends_at_its_modes():
    """Every result is at one of them; the mean of those at each is that mode, within 1 % of the data and chance."""
    found = sample(mixture(), shape=(2000, 4), known=torch.zeros(1, 4), sampler="sds:rate=0.5", steps=150)
    apart = torch.cdist(found, MEANS)
    assert float(apart.amin(1).max()) < 1.0
    for k, mode in enumerate(MEANS):
        there = found[apart.argmin(1) == k]
        chance = float(there.std(0).norm()) / len(there) ** 0.5
        assert len(there) > 20
        assert float((there.mean(0) - mode).norm()) < 0.01 * float(mode.norm()) + 4.0 * chance


@pytest.mark.parametrize("k", [0, 1])
def test_a_point_estimate_under_a_mixture_is_of_the_component_that_was_seen(k):
    """Two of four values are seen, with noise: the others end at the mode of that component, within 1 %."""
    size = (1, 2, 2)
    prior = GaussianMixture(torch.tensor([0.3, 0.7]), MEANS.reshape(2, *size), mixture_covariances())
    A = Mask(torch.tensor([[[True, True], [False, False]]]), size)
    y = A.forward(MEANS[k].reshape(1, *size) + 0.05)
    plugin = Inverse(method="point", degradation=A, y=y, sigma=0.1, rate=0.1)
    found = sample(prior, plugin, shape=(200, *size), steps=150).reshape(200, 4)
    chance = float(found[:, 2:].std(0).norm()) / 200**0.5
    assert float((found[:, 2:].mean(0) - MEANS[k, 2:]).norm()) < 0.01 * float(MEANS[k].norm()) + 4.0 * chance
    assert float((found[:, :2].mean(0) - MEANS[k, :2]).abs().max()) < 0.1


def test_known_values_come_back_without_noise():
    found = sample(model(), Inpaint(), shape=(3, 4), known=KNOWN[None], mask=MASK, sampler="sds", steps=20)
    assert torch.equal(found[:, :2], KNOWN[:2].expand(3, 2))


@pytest.mark.parametrize("sigma", [0.1, 0.5])
@pytest.mark.parametrize("name", operators())
def test_a_point_estimate_is_the_posteriors_mode(name, sigma):
    A = operators()[name]
    y = observation(A, ISOTROPIC, sigma)
    plugin = Inverse(method="point", degradation=A, y=y, sigma=sigma, rate=0.2)
    got, wanted = moments(plugin, ISOTROPIC, 60), posterior(A, y, ISOTROPIC, sigma)
    assert errors(got, wanted)[0] < 0.01
    assert float(got[1].trace()) < 0.5 * float(wanted[1].trace())


def test_a_point_estimate_without_noise_explains_what_was_observed():
    A = operators()["average"]
    y = observation(A, ISOTROPIC, 0.0)
    x = sample(
        Gaussian(mean(), ISOTROPIC), Inverse(method="point", degradation=A, y=y, rate=1.0), shape=(2, *SIZE), steps=5
    )
    assert torch.allclose(A.forward(x), y.expand(2, *y.shape[1:]), atol=1e-4)


class Picture4(nn.Module):
    """The identity generator: its parameters are the picture."""

    def __init__(self, n=1, at=0.0):
        super().__init__()
        self.x = nn.Parameter(torch.full((n, 4), at))

    def forward(self, k):
        return self.x


def test_distill_by_plain_descent_is_sds():
    generator = Picture4(5, 2.0)
    watched = []
    rate = torch.optim.SGD(generator.parameters(), lr=0.5)
    out = editkit.distill(model(), generator, steps=12, seed=3, optimizer=rate, window=(0.0, 1.0), watch=watched.append)
    wanted = sample(model(), known=torch.full((1, 4), 2.0), shape=(5, 4), seed=3, steps=12, sampler="sds:rate=0.5")
    assert out is generator
    assert torch.allclose(generator.x, wanted, atol=1e-5)
    assert [w.index for w in watched] == list(range(12))
    assert watched[0].level.sigma > watched[-1].level.sigma


@pytest.mark.parametrize("order", ["annealed", "random"])
def test_distill_finds_the_mode_by_adam(order):
    generator = Picture4(64)
    editkit.distill(model(), generator, steps=400, rate=0.02, order=order, seed=1, weight="even")
    assert float((generator.x.mean(0) - MEAN).detach().norm()) < 0.1 * float(COVARIANCE.trace()) ** 0.5


def test_distill_repeats():
    first, again, other = (
        editkit.distill(model(), Picture4(2), steps=5, seed=seed, order="random").x.detach() for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_distill_tells_the_model_what_the_view_is():
    asked = []

    class Viewed(Gaussian):
        def __call__(self, x_t, level, conds):
            asked.extend(float(cond.guidance) for cond in conds)
            return super().__call__(x_t, level, conds)

    prior = Viewed(MEAN, COVARIANCE)
    editkit.distill(prior, Picture4(), steps=3, told=lambda k: Conditioning(guidance=float(k)))
    assert asked == [0.0, 1.0, 2.0]


class Wrong(Picture4):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, k):
        return self.what(self.x, k)


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (lambda x, k: x.repeat(k + 1, 1), ModelError, r"shape \(2, 4\) at step 1 and \(1, 4\) before"),
        (lambda x, k: x / 0.0 if k else x, ModelError, "NaN or infinity at step 1"),
        (lambda x, k: x.detach(), ModelError, "has no gradient"),
        (lambda x, k: "x", ModelError, "returned str at step 0"),
    ],
)
def test_what_a_generator_may_not_give(what, error, message):
    with pytest.raises(error, match=message):
        editkit.distill(model(), Wrong(what), steps=3)


def test_a_generator_with_nothing_to_train():
    with pytest.raises(UsageError, match="no parameters to train"):
        editkit.distill(model(), nn.Identity(), steps=3)


def test_a_window_without_a_level():
    with pytest.raises(UsageError, match="contains none of 4 levels"):
        editkit.distill(model(), Picture4(), steps=4, window=(0.2, 0.3))


def test_a_plugin_that_needs_noisy_states_is_named():
    with pytest.raises(ChainError, match=r"sds moves a clean picture, and inpaint needs noisy states"):
        sample(model(), Inpaint(method="repaint"), shape=(1, 4), known=KNOWN[None], mask=MASK, sampler="sds", steps=10)


@pytest.mark.parametrize("spec", ["sds:rate=0", "sds:rate=3", "sds:weight=odd", "sds:rate=1.5,weight=even"])
def test_values_that_sds_does_not_take(spec):
    with pytest.raises(UsageError, match="sampler sds"):
        make_sampler(spec)


class Waves(nn.Module):
    """A generator that is not linear in its parameters."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([0.3, -0.8, 1.1]))

    def forward(self, k):
        a, b, c = self.theta
        return torch.stack([a * b, torch.sin(c), torch.exp(0.3 * a), b * c + a * a])[None]


def test_the_gradient_of_a_generator_is_that_of_finite_differences():
    """dx/dtheta, applied to w (eps_hat - eps) = w alpha / sigma (x - x0_hat): the network is not differentiated."""
    generator, states = Waves(), []
    theta = generator.theta.detach().clone()
    editkit.distill(
        model(), generator, steps=1, seed=4, optimizer=torch.optim.SGD([generator.theta], lr=1.0), watch=states.append
    )
    (at,) = states
    w = at.level.sigma**2 / (at.level.alpha**2 + at.level.sigma**2)
    pulled = w * at.level.alpha / at.level.sigma * (at.x - at.x0).double()
    apart, exact = 1e-5, Waves().double()
    for k in range(3):
        ends = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                exact.theta.copy_(theta.double() + sign * apart * (torch.arange(3) == k))
                ends.append(float((pulled * exact(0)).sum()))
        gradient = float((theta - generator.theta.detach())[k])
        assert (ends[0] - ends[1]) / (2.0 * apart) == pytest.approx(gradient, abs=1e-5)


class Coordinates(nn.Module):
    """A network from a pixel's place to its colour."""

    def __init__(self, side):
        super().__init__()
        torch.manual_seed(0)
        at = torch.linspace(-1.0, 1.0, side)
        place = torch.stack(torch.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)
        waves = place @ torch.randn(2, 24) * 3.0
        self.register_buffer("seen", torch.cat([waves.sin(), waves.cos()], 1))
        self.net = nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 3))
        self.side = side

    def forward(self, k):
        return self.net(self.seen).T.reshape(1, 3, self.side, self.side)


@pytest.mark.parametrize("kind", ["picture", "network of coordinates"])
def test_distill_fits_a_picture_to_one_of_the_pictures_of_the_prior(kind):
    """At least 10 dB nearer to one of two than their mean is."""
    side = 16
    at = torch.linspace(-1.0, 1.0, side)
    y, x = torch.meshgrid(at, at, indexing="ij")
    crops = torch.stack([torch.stack([x, y, x * y]), torch.stack([torch.sin(3 * y), -x, y * y - 0.5])]) * 0.8
    prior = GaussianMixture(torch.ones(2), crops, 0.02**2 * torch.eye(3 * side * side).expand(2, -1, -1))
    generator = Coordinates(side)
    if kind == "picture":
        generator = Picture4()
        generator.x = nn.Parameter(torch.zeros(1, 3, side, side))
    editkit.distill(prior, generator, steps=300, seed=1, rate=0.02)
    error = (generator(0).detach() - crops).square().mean((1, 2, 3)).min()
    assert float(error) < 0.1 * float((crops.mean(0) - crops).square().mean())
