"""The adaptive sampler: closed forms, tolerances, calls, the times of its table, and what it says where it fails."""

import math
import re

import numpy as np
import pytest
import torch
from exact_moments import errors_of, exact_prediction
from toy import MEAN, Isotropic, model

from editkit import edit, sample
from editkit.diffusion.adaptive import ODE, Adaptive
from editkit.diffusion.plan import Move
from editkit.diffusion.samplers import make_sampler
from editkit.diffusion.schedule import VE, Cosine, Discrete, Flow
from editkit.editing.api import plan as planned
from editkit.errors import EditkitError, UsageError
from editkit.models import GaussianMixture
from editkit.pictures.picture import Picture
from editkit.plugins import Invert

TABLES = {
    "VE": VE(0.02, 200.0), "VP": Cosine(), "flow": Flow(), "shifted": Flow(shift=3.0),
    "discrete": Discrete(np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))),
}  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_mean_and_covariance_within_one_per_cent_whatever_the_ladder(table, steps):
    """From the top of the table. VE's starts at 200: what it still has of the picture there is no noise."""
    assert max(errors_of("ode", TABLES[table], steps)) < 0.01


@pytest.mark.parametrize("table", ["VP", "flow"])
def test_a_mixture_has_its_weights_and_moments(table):
    """0.3 N(-2, 0.25) + 0.7 N(1, 0.25) by 20,000 samples: mean 0.1, variance 2.14, 30 % below -0.5."""
    mixture = GaussianMixture(
        torch.tensor([0.3, 0.7]), torch.tensor([[-2.0], [1.0]]), torch.full((2, 1, 1), 0.25), TABLES[table]
    )
    x = sample(mixture, shape=(20_000, 1), sampler="ode", steps=2).double()
    spread = math.sqrt(2.14 / 20_000)
    assert abs(float(x.mean()) - 0.1) < 4.0 * spread
    assert float(x.var()) == pytest.approx(2.14, rel=0.03)
    assert abs(float((x < -0.5).double().mean()) - 0.3) < 4.0 * math.sqrt(0.21 / 20_000)


def test_the_smaller_the_tolerance_the_nearer_and_the_dearer():
    def made(rtol):
        states = []
        x = sample(
            model(), shape=(8, 4), sampler=f"ode:rtol={rtol},atol={rtol}", steps=1, watch=states.append
        )  # fmt: skip
        return x, states[-1].calls

    exact, dearest = made(1e-7)
    errors, calls = [], []
    for rtol in (1e-2, 1e-3, 1e-4):
        x, n = made(rtol)
        errors.append(float((x - exact).abs().max()))
        calls.append(n)
    assert errors[0] > errors[1] > errors[2]
    assert calls[0] < calls[1] < calls[2] < dearest
    assert calls[0] >= ODE().calls(Move(1, 0))


def test_the_network_is_told_the_times_of_its_own_table():
    """Of every level between two of the ladder, and none beyond its ends."""
    for table in TABLES.values():
        told = []
        exact = model(table)

        class Spied(type(exact)):
            def __call__(self, x_t, level, conds, told=told):
                told.append(level)
                return super().__call__(x_t, level, conds)

        exact.__class__ = Spied
        sample(exact, shape=(2, 4), sampler="ode", steps=2)
        levels = table.levels(2, grid=ODE.grid)
        for level in told:
            right = table.level(level.t)
            assert math.atan2(right.sigma, right.alpha) == pytest.approx(math.atan2(level.sigma, level.alpha), abs=1e-6)
            assert level.t <= levels[-1].t
        assert len({level.t for level in told}) > 6


def test_there_and_back_within_its_tolerance():
    x = MEAN + 0.5 * torch.randn((16, 4), generator=torch.Generator().manual_seed(1))
    for table in TABLES.values():
        back = sample(model(table), Invert(), shape=(16, 4), known=x, sampler="ode:rtol=1e-6,atol=1e-6", steps=4)
        assert float((back - x).abs().max()) < 2e-3


@pytest.mark.parametrize(("steps", "level"), [(1, "from level 1 to 0"), (4, "from level 4 to 3")])
def test_a_tolerance_that_is_not_reached_says_where(steps, level):
    words = rf"sampler ode: rtol=1e-10,atol=1e-10 is not reached {level} in 40 network calls: it got to sigma / alpha"
    with pytest.raises(EditkitError, match=words):
        sample(model(), shape=(2, 4), sampler="ode:rtol=1e-10,atol=1e-10,most=40", steps=steps)


def test_the_plan_says_the_fewest():
    photo, told = Picture(np.full((8, 8, 3), 90, np.uint8)), []
    (stage,) = planned(photo, Invert(), model=Isotropic(), sampler="ode", steps=3, notify=told.append)
    assert stage.calls == 6 * 7 + 2
    assert told == ["sampler ode calls the network as often as its tolerances need; the plan shows the minimum"]
    exact = Isotropic()
    edit(photo, Invert(), model=exact, sampler="ode", steps=3)
    assert exact.calls >= stage.calls


def test_without_a_table_times_go_with_the_angle():
    """As they do on the cosine table: the rule alone and on its table are the same."""
    levels = Cosine().levels(2)
    x = torch.randn((5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rule, told = make_sampler("ode"), []
    assert isinstance(rule, Adaptive)
    assert not isinstance(make_sampler("heun"), Adaptive)

    def predict(x, level):
        told.append(level)
        return exact_prediction(x, level)

    alone, on_it = (r.step(x, levels[2], levels[1], predict, None, None)[0] for r in (rule, rule.on(Cosine())))
    torch.testing.assert_close(alone, on_it, rtol=1e-6, atol=1e-6)
    assert all(level.t == pytest.approx(2.0 / math.pi * math.atan2(level.sigma, level.alpha)) for level in told)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("ode:rtol=0", "rtol is 0.0; allowed: above 0, below 1"),
        ("ode:atol=1", "atol is 1.0; allowed: above 0, below 1"),
        ("ode:most=6", "most is 6.0; 7 calls or more are needed"),
        ("ode:most=9.5", "most is 9.5; 7 calls"),
        ("ode:tol=1", "has no parameter 'tol=1'"),
    ],
)
def test_what_cannot_be_is_refused(spec, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        make_sampler(spec)
