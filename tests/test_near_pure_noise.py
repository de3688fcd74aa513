"""Where a process begins at pure noise, or nearly so: samplers stay in range, and guidance has its limit."""

from typing import ClassVar

import pytest
import torch

from editkit import Hooks, Plugin, sample
from editkit.diffusion.convention import CONVENTIONS
from editkit.diffusion.samplers import SAMPLERS, Heun, make_sampler
from editkit.diffusion.schedule import Cosine, Flow
from editkit.models import Gaussian
from editkit.models.schedules import make_schedule

SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "timestep_spacing": "trailing"}
TABLES = {
    "cosine": Cosine(),
    "flow": Flow(),
    "discrete cosine": make_schedule({**SCHEDULER, "beta_schedule": "squaredcos_cap_v2"}),
    "zero terminal SNR": make_schedule({**SCHEDULER, "beta_schedule": "linear", "rescale_betas_zero_snr": True}),
}


@pytest.mark.parametrize("steps", [2, 4, 8, 25])
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS.names() if name != "lcm"])
@pytest.mark.parametrize("table", TABLES)
def test_a_unit_gaussian_stays_one(table, sampler, steps):
    """Its exact process keeps the deviation; a sampler may contract it, and none may blow it up."""
    sizes = []
    g = Gaussian(torch.zeros(1), torch.ones(1, 1), TABLES[table])
    sample(
        g, shape=(4000, 1), sampler=sampler, steps=steps, spacing="trailing",
        watch=lambda state: sizes.append(float(state.x.std()) / (state.level.alpha**2 + state.level.sigma**2) ** 0.5),
    )  # fmt: skip
    assert max(sizes) < 1.5


def test_heun_keeps_its_order_in_a_wide_move():
    """A deviation of 1 is kept by the exact process, and lost by euler as 1/steps."""
    errors = {}
    for name in ("euler", "heun"):
        g = Gaussian(torch.zeros(1), torch.ones(1, 1), TABLES["discrete cosine"])
        a, b = (sample(g, shape=(4000, 1), sampler=name, steps=steps).std() for steps in (25, 400))
        errors[name] = abs(float(a - b))
    assert errors["heun"] < 0.5 * errors["euler"]


def test_by_diffusers_convention_heun_corrects_wide_moves_too():
    assert CONVENTIONS["streams"].walked(Heun()) == Heun()
    assert CONVENTIONS["diffusers"].walked(Heun()) == make_sampler("heun:wide=karras")
    assert CONVENTIONS["diffusers"].walked(make_sampler("ddim:eta=1")) == make_sampler("ddim:eta=1")


class Observed(Plugin):
    """y = x + 0.3 n of N(0.5, 1): the exact likelihood of x_t."""

    name: ClassVar[str] = "observed"
    where: str = "network"

    def through(self):
        return self.where

    def hooks(self):
        return _ObservedHooks


class _ObservedHooks(Hooks[Observed]):
    def energy(self, step, x0):
        variance = step.sigma_t**2 / (step.alpha_t**2 + step.sigma_t**2) + 0.09
        return 0.5 * (1.7 - x0).square().sum(1) / variance


class Still:
    """Noise that is 0: an affine process ends at its mean."""

    generators = ()

    def stream(self, owner):
        return self

    def normal(self, shape):
        return torch.zeros(tuple(shape))


@pytest.mark.parametrize("where", ["network", "x0"])
@pytest.mark.parametrize("steps", [1, 8, 50])
@pytest.mark.parametrize("sampler", ["heun", "dpm++2m", "unipc"])
@pytest.mark.parametrize("table", TABLES)
def test_the_mean_of_a_guided_process_is_exact_from_its_first_move_on(table, sampler, steps, where):
    g = Gaussian(torch.tensor([0.5]), torch.ones(1, 1), TABLES[table])
    wanted = 0.5 + 1.2 / 1.09
    x = sample(g, Observed(where=where), shape=(1, 1), sampler=sampler, steps=steps, spacing="trailing", noise=Still())
    exact = table in ("cosine", "flow")
    assert float(x) == pytest.approx(wanted, abs=1e-5 if exact else 0.02)


def test_a_loss_without_a_derivative_at_the_mean_pulls_nowhere_yet():
    """A norm of what is 0 at the data's mean: the first move is unguided, the others are guided."""
    hooks = type("H", (Hooks,), {"energy": lambda self, step, x0: 0.01 * (x0 - 0.5).square().sum(1).sqrt()})
    plugin = type("P", (Plugin,), {"name": "p", "hooks": lambda self: hooks, "__module__": __name__})()
    g = Gaussian(torch.tensor([0.5]), torch.ones(1, 1))
    x = sample(g, plugin, shape=(4, 1), sampler="ddim", steps=5)
    assert bool(torch.isfinite(x).all())
    assert not torch.equal(x, sample(g, shape=(4, 1), sampler="ddim", steps=5))
