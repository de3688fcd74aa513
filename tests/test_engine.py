"""The loop: one backward pass, exact gradients, hooks that return values, errors that name who made them."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from toy import KNOWN, MASK, ExactClassifier, Nothing, Quadratic, model

from editkit import sample
from editkit.diffusion.multistep import DPMpp2M
from editkit.diffusion.noise import Streams
from editkit.diffusion.plan import Plan
from editkit.diffusion.schedule import VE, Cosine, Flow
from editkit.engine import loop
from editkit.engine.binding import Environment, prepare
from editkit.errors import HookError, UsageError
from editkit.models.leasing import Models
from editkit.models.schedules import make_schedule
from editkit.plugin import Hooks, Inputs, Opening, Plugin
from editkit.plugin.options import Options
from editkit.plugins import Inpaint


def _plugin(name="made", through="network", **methods):
    """A plugin whose hooks are the given functions."""
    hooks = type("MadeHooks", (Hooks,), {**methods, "through": through})
    return type("Made", (Plugin,), {"name": name, "hooks": lambda self: hooks, "__module__": __name__})()


def _process(plugins=(), steps=10, sampler="ddim", shape=(3, 4)):
    inputs = Inputs(model())
    with Models().borrow(inputs.model) as lease:
        around = Environment(Streams((0,)), torch.device("cpu"), lease)
        return prepare(inputs, plugins, Plan.uniform(steps), Options(sampler=sampler), shape, around)


def test_the_engine_is_a_generator_of_steps_that_can_be_left():
    states = []
    for state in loop.steps(_process(steps=10)):
        states.append(state)
        if len(states) == 4:
            break
    assert [s.move.t for s in states] == [10, 9, 8, 7]
    assert [s.index for s in states] == [1, 2, 3, 4]
    assert all(s.x.shape == (3, 4) and s.x0.shape == (3, 4) for s in states)


@pytest.mark.parametrize(("sampler", "calls"), [("ddim", 10), ("ddpm", 10), ("heun", 19), ("dpm++2m", 10)])
def test_network_calls_are_counted(sampler, calls):
    counted = []

    class Counting(type(model())):
        def __call__(self, x_t, level, conds):
            counted.append(level)
            return super().__call__(x_t, level, conds)

    exact = model()
    exact.__class__ = Counting
    last = []
    sample(exact, shape=(2, 4), sampler=sampler, steps=10, watch=last.append)
    assert len(counted) == last[-1].calls == calls


@pytest.mark.parametrize("through", ["network", "x0", "x_t"])
def test_one_backward_pass_however_many_energies(through, monkeypatch):
    passes = []
    real = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: passes.append(1) or real(*a, **k))

    def energy(self, step, x0):
        return ((step.x_t if through == "x_t" else x0) ** 2).sum(1)

    plugins = [_plugin(f"e{k}", through, energy=energy) for k in range(3)]
    sample(model(Flow()), plugins, shape=(5, 4), sampler="ddim", steps=10)
    assert len(passes) == (9 if through == "x_t" else 10)  # at t = 1 alpha_t is 0, and x_t says nothing


def test_energies_through_network_x0_and_x_t_share_the_pass(monkeypatch):
    passes = []
    real = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: passes.append(1) or real(*a, **k))
    plugins = [
        Quadratic(weight=0.1),
        ExactClassifier(scale=0.5),
        _plugin("cheap", "x0", energy=lambda self, step, x0: x0.sum(1)),
    ]
    sample(model(), plugins, shape=(5, 4), sampler="ddim", steps=10)
    assert len(passes) == 10


def test_the_gradient_rule_is_tweedies_formula_plus_the_score_term():
    """x0' - x0 = -(sigma_t^2 / alpha_t) dE/dx_t, dE/dx_t by finite differences in float64."""
    level = Cosine().level(0.5)
    x_t = torch.randn(1, 4, generator=torch.Generator().manual_seed(1))
    exact = model()
    seen = {}

    def spy(self, step, x0):
        if abs(step.t.t - 0.5) < 1e-9:
            seen.setdefault("x_t", step.x_t.clone())
            seen["after"] = x0.clone()
        return x0

    sample(exact, [Quadratic(weight=0.7, target=0.3), _plugin(clean=spy)], shape=(1, 4), sampler="ddim", steps=10)
    x_t = seen["x_t"]

    def energy(x):
        x0 = exact(x, level, (None,))[0].x0
        return float(0.7 * ((x0 - 0.3) ** 2).double().sum() / 2)

    h = 1e-2
    numeric = torch.tensor([(energy(x_t + h * e) - energy(x_t - h * e)) / (2 * h) for e in torch.eye(4)])
    plain = exact(x_t, level, (None,))[0].x0
    expected = plain - level.sigma**2 / level.alpha * numeric
    torch.testing.assert_close(seen["after"], expected, atol=2e-4, rtol=2e-4)


def test_two_energies_equal_their_sum_and_commute():
    a, b = Quadratic(weight=0.2, target=1.0), Quadratic(weight=0.3, target=-1.0)
    both = _plugin(energy=lambda s, step, x0: 0.1 * ((x0 - 1) ** 2).sum(1) + 0.15 * ((x0 + 1) ** 2).sum(1))
    run = dict(shape=(50, 4), sampler="ddim", steps=20)
    one, two, sum_ = (sample(model(), p, **run) for p in ([a, b], [b, a], both))
    torch.testing.assert_close(one, two, atol=1e-6, rtol=0)
    torch.testing.assert_close(one, sum_, atol=1e-5, rtol=0)


def test_the_bounded_form_is_exact_for_an_isotropic_gaussian():
    """Energies of x0: s^2 sigma^2 / (s^2 alpha^2 + sigma^2) is Cov[x0 | x_t], as `network` would find it."""
    from editkit.models import Gaussian

    isotropic = Gaussian(torch.zeros(3), 0.49 * torch.eye(3))

    def energy(self, step, x0):
        return x0.sum(1)

    run = dict(shape=(20, 3), sampler="ddim", steps=20)
    exact = sample(isotropic, _plugin("g", "network", energy=energy), **run)
    cheap = sample(isotropic, _plugin("g", "x0", energy=energy), **run)
    torch.testing.assert_close(exact, cheap, atol=1e-4, rtol=1e-4)


def test_a_stream_belongs_to_its_plugin():
    """Adding a plugin does not change the noise of the others."""
    drawn = {}

    def draw(name):
        def after(self, step, x_s):
            drawn.setdefault(name, []).append(step.randn_like(x_s))
            return x_s

        return _plugin(name, after=after)

    run = dict(shape=(2, 4), sampler="ddpm", steps=5)
    alone = sample(model(), draw("a"), **run)
    first = drawn.pop("a")
    more = sample(model(), [draw("b"), draw("a"), draw("a")], **run)
    assert torch.equal(torch.stack(first), torch.stack(drawn["a"][::2]))
    assert not torch.equal(drawn["a"][0], drawn["a"][1])
    assert not torch.equal(drawn["a"][0], drawn["b"][0])
    assert torch.equal(alone, more)


def test_item_k_of_a_batch_has_the_noise_of_that_item_alone():
    run = dict(sampler="ddpm", steps=10)
    batch = sample(model(), shape=(3, 4), noise=Streams((5, 6, 7)), **run)
    alone = sample(model(), shape=(1, 4), noise=Streams((6,)), **run)
    torch.testing.assert_close(batch[1:2], alone, atol=1e-4, rtol=0)


def test_hooks_that_do_nothing_change_nothing():
    run = dict(shape=(7, 4), sampler="ddpm", steps=12)
    assert torch.equal(sample(model(), **run), sample(model(), Nothing(), **run))


def test_known_values_are_exact_and_the_inputs_untouched():
    known, mask = KNOWN.clone(), MASK.clone()
    x = sample(model(), Inpaint(), shape=(9, 4), known=known, mask=mask, steps=10)
    assert torch.equal(x[:, :2], KNOWN[:2].expand(9, 2))
    assert torch.equal(known, KNOWN)
    assert torch.equal(mask, MASK)


def test_windows_count_downward_moves():
    acted = []

    def after(self, step, x_s):
        acted.append(step.index)
        return x_s

    hooks = type("H", (Hooks,), {"after": after})
    kind = type("W", (Plugin,), {"name": "w", "hooks": lambda self: hooks, "__module__": __name__})
    sample(model(), kind(start=0.2, stop=0.5), shape=(1, 4), steps=10)
    assert acted == [2, 3, 4]


def test_progress_runs_from_zero_to_one():
    seen = []

    def after(self, step, x_s):
        seen.append((step.progress, step.is_last))
        return x_s

    sample(model(), _plugin(after=after), shape=(1, 4), steps=10)
    values = [p for p, _ in seen]
    assert values == sorted(values)
    assert values[-1] == 1.0
    assert all(0.0 <= p <= 1.0 for p in values)
    assert [last for _, last in seen] == [False] * 9 + [True]


def test_decoding_happens_once_a_step_however_many_ask():
    decoded = []

    class Decoding(type(model())):
        def decode(self, x0):
            decoded.append(1)
            return x0 * 2

    exact = model()
    exact.__class__ = Decoding
    ask = _plugin(energy=lambda self, step, x0: step.decode(x0).sum(1))
    sample(exact, [ask, ask, ask], shape=(1, 4), sampler="ddim", steps=10)
    assert len(decoded) == 10
    decoded.clear()  # an estimate with a graph and one without are two, in whatever order they are asked for
    cheap = _plugin(through="x0", energy=lambda self, step, x0: step.decode(x0).sum(1))
    sample(exact, [ask, cheap, ask, cheap], shape=(1, 4), sampler="ddim", steps=10)
    assert len(decoded) == 19  # at alpha 0 both are asked of the one without


def test_1d_2d_and_3d_samples_run():
    from editkit.models import Gaussian

    for size in [(6,), (2, 3), (1, 2, 3), (2, 1, 2, 2)]:
        d = int(torch.tensor(size).prod())
        exact = Gaussian(torch.zeros(size), torch.eye(d))
        for sampler in ("ddpm", "heun"):
            assert sample(exact, shape=(2, *size), sampler=sampler, steps=5).shape == (2, *size)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"after": lambda s, step, x: x[:, :2]}, r"plugin made: after returned shape \(2, 2\) instead of \(2, 4\)"),
        ({"after": lambda s, step, x: x * float("nan")}, r"plugin made: after made NaN or infinity \(step 1 of 5\)"),
        ({"clean": lambda s, step, x: x / 0}, r"plugin made: clean made NaN or infinity"),
        ({"energy": lambda s, step, x: x.sum()}, r"plugin made: energy has shape \(\); one number for each item"),
        ({"energy": lambda s, step, x: x.detach().sum(1)}, r"plugin made: energy does not depend on x0"),
        ({"energy": lambda s, step, x: (x * float("inf")).sum(1)}, r"plugin made: energy made NaN or infinity"),
        ({"after": lambda s, step, x: 1 / 0}, r"plugin made: after raised ZeroDivisionError: .* \(step 1 of 5\)"),
        ({"begin": lambda s: torch.zeros(1)}, r"plugin made: begin returned shape \(1,\) instead of \(2, 4\)"),
    ],
)
def test_a_hook_that_goes_wrong_is_named_with_its_step(methods, message):
    with pytest.raises(HookError, match=message):
        sample(model(), _plugin(**methods), shape=(2, 4), steps=5)


def test_a_gradient_that_is_nan_is_caught():
    plugin = _plugin("root", energy=lambda s, step, x0: (x0 - x0.detach()).abs().sqrt().sum(1))
    with pytest.raises(HookError, match=r"plugin root: the gradient of its energy is NaN or infinite \(step 2 of 5\)"):
        sample(model(), plugin, shape=(2, 4), steps=5)


def test_a_multistep_sampler_forgets_after_a_noise_move():
    """What it remembered is of a state that is gone: it gets nothing, as at the start."""
    given = []

    class Spy(DPMpp2M):
        def step(self, x_t, t, s, predict, normal, memory):
            given.append((t.index, memory is None))
            return super().step(x_t, t, s, predict, normal, memory)

    plan = Plan.uniform(10).travel(3, 2)
    loop.run(replace(_process(sampler="dpm++2m"), sampler=Spy(), plan=plan))
    first = [True, *(not a.flows for a, b in pairwise(plan.moves) if b.flows)]
    assert [empty for _, empty in given] == first
    assert sum(first) == 4  # at the start, and after each of three ways back up


def test_the_mean_is_kept_by_guidance_of_weight_zero():
    run = dict(shape=(20, 4), sampler="ddim", steps=10)
    torch.testing.assert_close(sample(model(), **run), sample(model(), Quadratic(weight=0.0), **run), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seeds", [(3,), (3, 4)])
def test_the_opening_noise_is_the_same_for_everyone_and_kept_for_nobody(seeds):
    stream = Streams(seeds).stream("start")
    opening = Opening(stream, (2, 3, 4), torch.device("cpu"))
    first = opening.noise
    assert opening.noise is first
    expected, after = first.clone(), stream.normal((2, 3, 4))
    del first
    assert torch.equal(opening.noise, expected)
    rest = stream.normal((2, 3, 4))
    fresh = Streams(seeds).stream("start")
    drawn = [fresh.normal((2, 3, 4)) for _ in range(3)]
    assert torch.equal(after, drawn[1])
    assert torch.equal(rest, drawn[2])  # drawing again leaves the stream where it was


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 10])
@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_windows_that_meet_share_no_step_and_leave_none_out(at, steps):
    kind = type(_plugin())
    one, two = kind(start=0.0, stop=at), kind(start=at, stop=1.0)
    assert all(one.acts(k, steps) != two.acts(k, steps) for k in range(steps))


def test_a_sampler_of_distilled_models_is_refused_where_there_are_no_trained_times():
    with pytest.raises(UsageError, match="sampler lcm needs a model distilled at discrete times, and gaussian has VE"):
        sample(model(VE()), shape=(2, 4), sampler="lcm", steps=4)
    said = []
    table = make_schedule({"_class_name": "DDPMScheduler", "num_train_timesteps": 1000})
    sample(model(table), shape=(2, 4), sampler="lcm", steps=4, notify=said.append)
    assert ["gaussian does not declare that it was distilled" in line for line in said] == [True]
