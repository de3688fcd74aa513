"""Graikos et al.'s Algorithm 1: its pseudo-code step for step, its gradient, where it ends, what it refuses."""

from typing import ClassVar

import pytest
import torch
from inverse import SIZE, STD, D, Impulses, correlated, matrix, mean, observation, operators
from test_restoring_deepinv import Recorded

from editkit import sample
from editkit.cli import run
from editkit.diffusion.schedule import Cosine
from editkit.errors import ChainError
from editkit.models import Gaussian
from editkit.pictures.picture import Picture
from editkit.plugin import Hooks, Plugin
from editkit_plugins.restoring.solving import Inverse

ISOTROPIC = STD**2 * torch.eye(D)


def objective(x, eps, t, covariance, A, y, sigma, weight):
    """weight |eps - eps_theta(x_t, t)|^2 - log c(x, y) of one picture (d,), float64, the denoiser exact."""
    m, C = mean().flatten().double(), covariance.double()
    x_t = t.alpha * x + t.sigma * eps
    eps_theta = t.sigma * torch.linalg.solve(t.alpha**2 * C + t.sigma**2 * torch.eye(D).double(), x_t - t.alpha * m)
    return weight * (eps - eps_theta).square().sum() + (y - A @ x).square().sum() / (2.0 * sigma**2)


def rate_of(A, sigma, weight, rate, std=STD):
    return rate / (weight / (2.0 * std**2) + float(A.singular.max()) ** 2 / sigma**2)


@pytest.mark.parametrize("weight", [1.0, 3.0])
@pytest.mark.parametrize("name", ["mask", "average", "gaussian blur"])
def test_every_step_is_the_papers(name, weight):
    """Algorithm 1 in float64 with autograd through the exact denoiser, by the same draws, on correlated data."""
    A, sigma, steps = operators()[name], 0.3, 12
    y = observation(A, correlated(), sigma)
    states = []
    plugin = Inverse(method="graikos", degradation=A, y=y, sigma=sigma, rate=0.8, lam=weight)
    model = Gaussian(mean(), correlated())
    sample(model, plugin, shape=(1, *SIZE), steps=steps, noise=Recorded(), watch=lambda s: states.append(s.x))
    draws, levels = Recorded(), Cosine().levels(steps)
    x = draws.normal((1, *SIZE)).flatten().double()  # x ~ N(0, I)
    for i in range(steps, 0, -1):  # for i = T ... 1
        eps = draws.normal((1, *SIZE)).flatten().double()
        x = x.requires_grad_()
        said = objective(x, eps, levels[i], correlated(), matrix(A), y.flatten().double(), sigma, weight)
        x = (x - rate_of(A, sigma, weight, 0.8, model.data_std) * torch.autograd.grad(said, x)[0]).detach()
        torch.testing.assert_close(states[steps - i].flatten().double(), x, atol=2e-4, rtol=2e-4)


def test_its_gradient_is_that_of_finite_differences():
    A, sigma = operators()["motion blur"], 0.4
    y, draws = observation(A, correlated(), sigma), Recorded()
    states = []
    plugin = Inverse(method="graikos", degradation=A, y=y, sigma=sigma, rate=1.0)
    model = Gaussian(mean(), correlated())
    sample(model, plugin, shape=(1, *SIZE), steps=3, noise=Recorded(), watch=lambda s: states.append(s.x))
    t = Cosine().levels(3)[2]
    draws.normal((1, *SIZE)), draws.normal((1, *SIZE))
    eps, x = draws.normal((1, *SIZE)).flatten().double(), states[0].flatten().double()
    found = (x - states[1].flatten().double()) / rate_of(A, sigma, 1.0, 1.0, model.data_std)
    h = 1e-5
    given = t, correlated(), matrix(A), y.flatten().double(), sigma, 1.0
    wanted = [
        (objective(x + h * e, eps, *given) - objective(x - h * e, eps, *given)) / (2.0 * h)
        for e in torch.eye(D).double()
    ]
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("sigma", [0.3, 0.6])
def test_what_is_not_seen_ends_at_the_mode_and_what_is_seen_between_it_and_y(sigma):
    """Its mean, exactly: unseen values at the prior's mode within 1 % of the data's deviation; seen ones where the
    prior's pull, whose weight falls with the levels, and y's leave them: nearer to y than the posterior's mean, by none
    more than y itself.
    """
    A = operators()["mask"]
    y = observation(A, ISOTROPIC, sigma)
    plugin = Inverse(method="graikos", degradation=A, y=y, sigma=sigma, rate=1.0)
    model = Gaussian(mean(), ISOTROPIC)
    found = sample(model, plugin, shape=(1, *SIZE), steps=220, noise=Impulses(0))[0].double()  # no noise: the mean
    seen = A.keep.expand(SIZE) > 0
    assert float((found - mean())[~seen].abs().max()) < 0.01 * STD
    share = STD**2 / (STD**2 + sigma**2)
    y_all, m = y[0].double().reshape(SIZE), mean().double()
    gone = ((found - m) / (y_all - m))[seen & ((y_all - m).abs() > 0.05)]
    assert float(gone.min()) > share - 0.02
    assert float(gone.max()) < 1.0 + 1e-3


class Along(Plugin):
    """Weighs the estimate by b: E = b . x0."""

    name: ClassVar[str] = "along"

    def hooks(self):
        return AlongHooks


class AlongHooks(Hooks[Along]):
    def energy(self, step, x0):
        return (DIRECTION * x0).flatten(1).sum(1)


DIRECTION = torch.linspace(-1.0, 1.0, D).reshape(SIZE)


def test_another_plugins_energy_has_its_own_gradient_of_x():
    """dE/dx = alpha_t (d x0_hat / d x_t)^T b, and x0_hat = m + alpha_t C S_t^-1 (x_t - alpha_t m)."""
    A, sigma = operators()["average"], 0.4
    y = observation(A, correlated(), sigma)
    plugin = Inverse(method="graikos", degradation=A, y=y, sigma=sigma, rate=0.5)
    model, first = Gaussian(mean(), correlated()), []
    for plugins in ([plugin], [plugin, Along(start=0.5)]):
        states = []
        sample(
            model,
            plugins,
            shape=(1, *SIZE),
            steps=4,
            noise=Recorded(),
            watch=lambda s, states=states: states.append(s.x),
        )
        first.append(states)
    t, C = Cosine().levels(4)[2], correlated().double()
    jacobian = t.alpha * C @ torch.linalg.inv(t.alpha**2 * C + t.sigma**2 * torch.eye(D).double())
    wanted = -rate_of(A, sigma, 1.0, 0.5, model.data_std) * t.alpha * jacobian.T @ DIRECTION.flatten().double()
    assert torch.equal(first[1][1], first[0][1])
    moved = (first[1][2] - first[0][2]).flatten().double()
    torch.testing.assert_close(moved, wanted, atol=1e-5, rtol=1e-3)


def test_out_of_its_window_y_alone_has_a_say():
    """Plain descent along -log c from there on: x <- x - lambda A^T (A x - y) / sigma^2."""
    A, sigma = operators()["mask"], 0.4
    y = observation(A, ISOTROPIC, sigma)
    plugin = Inverse(method="graikos", degradation=A, y=y, sigma=sigma, rate=0.5, stop=0.5)
    model, states = Gaussian(mean(), ISOTROPIC), []
    sample(model, plugin, shape=(1, *SIZE), steps=4, noise=Recorded(), watch=lambda s: states.append(s.x))
    x = states[1]
    for found in states[2:]:
        x = x - rate_of(A, sigma, 1.0, 0.5) / sigma**2 * A.adjoint(A.forward(x) - y)
        torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-5)


def test_what_it_refuses(tmp_path, monkeypatch, capsys):
    A = operators()["mask"]
    y = observation(A, ISOTROPIC, 0.0)
    with pytest.raises(ChainError, match="graikos needs the noise of y; give sigma="):
        sample(Gaussian(mean(), ISOTROPIC), Inverse(method="graikos", degradation=A, y=y), shape=(1, *SIZE), steps=3)
    monkeypatch.chdir(tmp_path)
    Picture(torch.full((16, 16, 3), 90, dtype=torch.uint8).numpy()).write("a.png")
    for words, said in (
        (["--degradation", "average:2"], "--method graikos needs the noise as a weight"),
        (["--degradation", "quantise:4"], "needs a linear degradation"),
    ):
        assert run(["restore", "a.png", "--method", "graikos", *words, "--steps", "2"]) in (1, 2)
        assert said in capsys.readouterr().err.strip().splitlines()[-1]
