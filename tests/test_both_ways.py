"""The walk in both directions, samplers of a method's own, predictions asked for, and states handed on."""

from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import COVARIANCE, MEAN, Isotropic, Quadratic, model

from editkit import edit, sample
from editkit.diffusion.noise import Streams
from editkit.diffusion.plan import Move, Plan
from editkit.diffusion.samplers import DDIM, SAMPLERS, OneCall, make_sampler
from editkit.diffusion.schedule import VE, Cosine, Flow
from editkit.editing.order import in_order
from editkit.editing.settle import arrange
from editkit.engine import loop
from editkit.engine.binding import Environment, prepare
from editkit.errors import ChainError, PluginError, UsageError
from editkit.pictures.picture import Picture
from editkit.plugin import CONDITIONS, Hooks, Inputs, Plugin, registry
from editkit.plugin.chain import Stage
from editkit.plugin.options import Options
from editkit.plugins import Colorize, Inpaint, Invert


def _plugin(name, base=Plugin, **given):
    """A plugin whose hooks and methods are the given functions; `plan` and class attributes go to the declaration."""
    own = {
        k: v for k, v in given.items() if k in ("plan", "open", "order", "holds", "offers", "acts_before", "acts_after")
    }
    hooks = type("MadeHooks", (Hooks,), {k: v for k, v in given.items() if k not in own})
    return type("Made", (base,), {"name": name, "hooks": lambda self: hooks, "__module__": __name__, **own})()


def _from_where_it_stands(self):
    """Holds the slot `begin`, so that nothing else starts it: the engine takes the picture, or what was handed on."""


UP = _plugin("up", plan=lambda self, plan: plan.encode(), begin=_from_where_it_stands)
ROUND = _plugin("round", plan=lambda self, plan: plan.encode() + plan, begin=_from_where_it_stands)
DOWN = _plugin("down", plan=lambda self, plan: plan, begin=_from_where_it_stands)


CPU = torch.device("cpu")


class LEASE:
    """Nothing is lent: no plugin here has a network of its own."""


# -- plans


@given(st.integers(1, 60), st.floats(0.0, 1.0))
def test_encoding_is_the_way_up_by_flow_moves(steps, strength):
    plan = Plan.uniform(steps).start_at(strength)
    up = plan.encode()
    assert [(move.t, move.s) for move in up] == [(k, k + 1) for k in range(plan.start)]
    assert all(move.flows and move.up for move in up)
    assert (up.start, up.end, up.top) == (0, plan.start, plan.start)
    there_and_back = up + plan
    assert all(a.s == b.t for a, b in pairwise(there_and_back.moves))
    assert len(there_and_back.flow) == 2 * plan.start


def test_a_noise_move_goes_up_and_ways_join_where_they_meet():
    with pytest.raises(UsageError, match="must go up"):
        Move(3, 2, "noise")
    with pytest.raises(UsageError, match="cannot continue"):
        _ = Plan.uniform(10) + Plan.uniform(10)  # ends at 0, begins at 10
    with pytest.raises(UsageError, match="cannot continue"):
        _ = Plan.uniform(10).encode() + Plan.uniform(11)


# -- walking up


def _encoded(table, sampler, steps, x0):
    """Where the flow carries x0 (b, d) on the exact Gaussian, and the level it ends at."""
    exact = model(table)
    inputs = Inputs(exact.attach(x0, None), x0, None, x0)
    up = Plan.uniform(steps).encode()
    around = Environment(Streams((0,)), x0.device, LEASE)
    process = prepare(inputs, (), up, Options(sampler=sampler), tuple(x0.shape), around)
    return loop.run(process), process.levels[-1]


def _exact_flow(x0, level):
    """The probability flow of N(m, C) in closed form: x_t = alpha m + C^-1/2 (alpha^2 C + sigma^2)^1/2 (x_0 - m)."""
    values, vectors = torch.linalg.eigh(COVARIANCE.double())
    scale = ((level.alpha**2 * values + level.sigma**2) / values).sqrt()
    moved = (x0.double() - MEAN.double()) @ vectors * scale @ vectors.T
    return (level.alpha * MEAN.double() + moved).float()


@pytest.mark.parametrize("table", [VE(0.02, 20.0), Cosine(), Flow()], ids=["VE", "VP", "flow"])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun"])
def test_the_way_up_comes_near_the_exact_flow(table, sampler):
    """In 160 steps; what is left is the sampler's order, and on VE the step from clean to sigma_min."""
    x0 = MEAN + 0.5 * torch.randn((64, 4), generator=torch.Generator().manual_seed(1))
    x_t, level = _encoded(table, sampler, 160, x0)
    exact = _exact_flow(x0, level)
    error = float((x_t - exact).abs().mean() / exact.abs().mean())
    assert error < (0.005 if sampler == "heun" and not isinstance(table, VE) else 0.04)


@pytest.mark.parametrize(("sampler", "ratio"), [("ddim", 1.7), ("euler", 1.7), ("heun", 3.0)])
def test_there_and_back_is_the_identity_in_the_limit(sampler, ratio):
    """Halving the step divides the error of the round trip by 2 (first order) or more (second)."""
    x0 = MEAN + 0.5 * torch.randn((64, 4), generator=torch.Generator().manual_seed(1))
    errors = [
        float((sample(model(Flow()), ROUND, shape=(64, 4), known=x0, steps=n, sampler=sampler) - x0).abs().mean())
        for n in (40, 80, 160)
    ]
    assert errors[0] > ratio * errors[1] > ratio**2 * errors[2], errors


@pytest.mark.parametrize("name", [name for name in SAMPLERS.names() if name != "lcm"])
def test_who_cannot_walk_up_says_so(name):
    can = make_sampler(name).reversible
    assert can == (name in ("ddim", "euler", "heun", "ode"))
    run = dict(shape=(2, 4), known=MEAN, steps=4, sampler=name)
    if can:
        assert torch.isfinite(sample(model(), ROUND, **run)).all()
    else:
        with pytest.raises(ChainError, match=f"{name.replace('+', '.')}.* cannot do; use sampler= ddim"):
            sample(model(), ROUND, **run)
    assert not make_sampler("ddim:eta=0.5").reversible


def test_guidance_acts_on_the_way_up_too():
    plain = sample(model(), ROUND, shape=(8, 4), known=MEAN, steps=20, sampler="ddim")
    guided = sample(model(), (ROUND, Quadratic(weight=3.0)), shape=(8, 4), known=MEAN, steps=20, sampler="ddim")
    assert float((guided - plain).abs().max()) > 0.05


# -- samplers


@pytest.mark.parametrize("name", [name for name in SAMPLERS.names() if name != "lcm"])
def test_a_sampler_holds_nothing_between_runs(name):
    """The same object serves two processes that take turns, move by move."""
    alone = sample(model(), shape=(3, 4), steps=8, sampler=name)
    shared = make_sampler(name)
    runs = []
    for seed in (0, 1):
        inputs = Inputs(model())
        around = Environment(Streams((seed,)), CPU, LEASE)
        process = prepare(inputs, (), Plan.uniform(8), Options(sampler=name), (3, 4), around)
        runs.append(loop.steps(replace(process, sampler=shared)))
    for first, _ in zip(*runs, strict=True):
        last = first.x
    torch.testing.assert_close(last, alone, rtol=0, atol=0)


@pytest.mark.parametrize("sampler", ["unipc", "dpm++2m", "ddim", "heun", "euler"])
def test_what_after_does_to_the_state_is_not_lost(sampler):
    """A shift of the state by `after` arrives: the ends differ by what the same shift does under ddim, about."""

    def after(self, step, x_s):
        return x_s + 0.5 if step.index == 10 else x_s

    run = dict(shape=(16, 4), steps=20, seed=1)
    moved = {
        name: float((sample(model(), _plugin("push", after=after), sampler=name, **run)
                     - sample(model(), sampler=name, **run)).mean())
        for name in (sampler, "ddim")
    }  # fmt: skip
    assert moved[sampler] == pytest.approx(moved["ddim"], rel=0.2), moved


def test_noise_is_asked_for_an_interval():
    asked = []

    class Spy(DDIM):
        def step(self, x_t, t, s, predict, normal, memory):
            def told(a, b):
                asked.append((a.index, b.index))
                return normal(a, b)

            return super().step(x_t, t, s, predict, told, memory)

    inputs = Inputs(model())
    around = Environment(Streams((0,)), CPU, LEASE)
    process = prepare(inputs, (), Plan.uniform(5), Options(sampler="ddim:eta=1"), (3, 4), around)
    loop.run(replace(process, sampler=Spy(eta=1.0)))
    assert asked == [(5, 4), (4, 3), (3, 2), (2, 1), (1, 0)]


class Jump(OneCall):
    """x_s = alpha_s x0: no noise at all."""

    name = "jump"

    def step(self, x_t, t, s, predict, normal, memory):
        return s.alpha * predict(x_t, t).x0, None


def test_a_method_may_bring_its_own_sampler_and_others_still_act():
    owner = _plugin("owner", sampler=lambda self: Jump())
    seen = []

    def after(self, step, x_s):
        seen.append(step.t.index)
        return x_s.clone().fill_(7.0) if step.t.index == 0 else x_s

    x = sample(model(), (owner, _plugin("other", after=after)), shape=(2, 4), steps=4, sampler="heun")
    assert seen == [3, 2, 1, 0]
    assert bool((x == 7.0).all())
    states = []
    sample(model(), owner, shape=(2, 4), steps=4, sampler="heun", watch=states.append)
    assert states[-1].calls == 4  # its own rule calls once a move; heun would have called 7 times
    with pytest.raises(ChainError, match="both set the sampler"):
        arrange(Stage((owner, _plugin("second", sampler=lambda self: Jump()))), model().info, has_picture=False)


def test_a_sampler_that_only_lays_the_levels_is_said():
    """A parameter of the user's is never passed over in silence."""
    picture, said = Picture(np.full((12, 10, 3), 9, np.uint8)), []
    owner = _plugin("owner", sampler=lambda self: Jump())
    edit(picture, owner, model=Isotropic(), steps=3, sampler="heun", notify=said.append)
    assert said == ["owner has a sampler of its own; sampler= heun only sets the spacing of the noise levels"]
    said.clear()
    edit(picture, owner, model=Isotropic(), steps=3, notify=said.append)
    assert said == []


# -- asking for predictions


def test_a_plugin_may_ask_for_a_prediction_anywhere():
    asked = {}

    def after(self, step, x_s):
        level = self.run.levels[3]
        asked[step.index] = step.predict(torch.ones_like(x_s), level).x0
        return x_s

    sample(model(), _plugin("asks", after=after), shape=(2, 4), steps=6, sampler="ddim")
    (expected,) = model()(torch.ones(2, 4), Cosine().levels(6)[3], (None,))
    assert len(asked) == 6
    assert all(torch.equal(x0, expected.x0) for x0 in asked.values())


def test_what_is_asked_for_is_guided_by_the_others_and_not_by_who_asks():
    """`clean` that asks would ask for ever if its own hook had a say."""
    depth = []

    def clean(self, step, x0):
        depth.append(1)
        return step.predict(step.x_t.detach(), step.t).x0 + 1.0

    asks = _plugin("asks", clean=clean, order=100)
    doubles = _plugin("doubles", clean=lambda self, step, x0: 2.0 * x0)
    states = []
    sample(model(), (doubles, asks), shape=(2, 4), steps=1, sampler="ddim", watch=states.append)
    (plain,) = model()(torch.zeros(2, 4), Cosine().levels(1)[1], (None,))
    assert len(depth) == 1
    torch.testing.assert_close(states[0].x0, 2.0 * MEAN.expand(2, 4) + 1.0)
    assert plain.x0.shape == (2, 4)
    assert states[-1].calls == 1  # what plugins ask for is theirs to count (`beside`)


# -- states handed on


def test_a_stage_that_ends_at_noise_hands_its_state_on():
    """Up in one stage, down in the next: as up and down in one, to the bit; and no rounding of pixels between."""
    picture = Picture(np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8))

    def away(edits, steps):
        made = edit(picture, edits, model=Isotropic(), steps=steps, sampler="ddim")
        return made.pixels.astype(int) - picture.pixels

    assert np.array_equal(away(UP | DOWN, 6), away(ROUND, 6))
    assert np.abs(away(UP | DOWN, 60)).max() < np.abs(away(UP | DOWN, 6)).max() / 4


def test_a_state_that_does_not_fit_is_refused_in_one_line():
    picture = Picture(np.zeros((12, 10, 3), np.uint8))
    down = _plugin("down", plan=lambda self, plan: plan.start_at(0.5), begin=_from_where_it_stands)
    with pytest.raises(ChainError, match="the stage before ends where sigma / alpha is"):
        edit(picture, UP | down, model=Isotropic(), steps=6, sampler="ddim")
    with pytest.raises(ChainError, match="cannot be averaged"):
        edit(picture, UP, model=Isotropic(), steps=6, sampler="ddim", estimate="mean")


def test_noise_at_the_end_is_said_and_the_picture_stays():
    picture, said = Picture(np.full((12, 10, 3), 9, np.uint8)), []
    made = edit(picture, UP, model=Isotropic(), steps=6, sampler="ddim", notify=said.append)
    assert np.array_equal(made.pixels, picture.pixels)
    assert any("ends at noise" in line for line in said)


# -- claims and order


def test_order_is_joined_by_relations():
    first, last = _plugin("first", order=50), _plugin("last", acts_after=frozenset({"first"}))
    assert [p.name for p in in_order([last, first])] == ["first", "last"]
    early = _plugin("early", order=90, acts_before=frozenset({"first"}))
    assert [p.name for p in in_order([first, last, early])] == ["early", "first", "last"]
    a, b = _plugin("a", acts_before=frozenset({"b"})), _plugin("b", acts_before=frozenset({"a"}))
    behind = _plugin("behind", order=-5, acts_after=frozenset({"b"}))
    with pytest.raises(ChainError, match="^(a and b|b and a) must each act before the other"):
        in_order([a, b, behind])


def test_order_is_joined_by_what_plugins_offer_whoever_wrote_them():
    depth = _plugin("depth", order=500, offers=frozenset({"depth"}))
    of_depth, of_any = (
        _plugin("one", acts_after=frozenset({"depth"})),
        _plugin("any", acts_after=frozenset({CONDITIONS})),
    )
    other = _plugin("other", order=600, offers=frozenset({"label"}))
    placed = [p.name for p in in_order([of_any, of_depth, other, depth])]
    assert placed == ["depth", "one", "other", "any"]
    with pytest.raises(ChainError, match="^(any and more|more and any) must each act before the other"):
        in_order([of_any, depth, _plugin("more", offers=frozenset({"x"}), acts_after=frozenset({"any"}))])


@pytest.mark.parametrize("name", [name for name in registry.names() if registry.load(name).offers])
def test_inversion_acts_after_all_that_tell_the_model_something(name):
    """Null text is learnt beside what they tell it (`invert`)."""
    kind = registry.load(name)
    assert [p.name for p in in_order([Invert(), kind(**kind.example)])] == [name, "invert"]


def test_looking_at_the_picture_claims_no_mask_and_setting_one_must_be_said():
    assert Colorize().claims() == {"begin", "size"}  # it needs the size that came, and sets no mask
    assert "mask" in Inpaint(mask="box:1,1,4,4").claims()

    def opened(self, picture, notify):
        return picture.with_mask(np.ones(picture.pixels.shape[:2], np.float32))

    picture = Picture(np.zeros((12, 10, 3), np.uint8))
    with pytest.raises(PluginError, match="sneaky: open sets the mask without declaring it"):
        edit(picture, _plugin("sneaky", open=opened), model=Isotropic(), steps=2)


def test_a_declaration_without_hooks_may_plan():
    class Half(Plugin):
        """Half of the way."""

        name: ClassVar[str] = "half"

        def plan(self, plan):
            return plan.start_at(0.5)

    states = []
    sample(model(), Half(), shape=(2, 4), steps=8, watch=states.append)
    assert len(states) == 4
