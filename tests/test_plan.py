"""Properties of plans: moves are adjacent, end at zero, and cost what is predicted."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit.diffusion.plan import Counting, Move, Plan
from editkit.diffusion.samplers import make_sampler
from editkit.editing.cost import Cost, cost
from editkit.plugin.options import Options

plans = st.builds(
    lambda steps, strength, jump, repeats: Plan.uniform(steps).start_at(strength).travel(jump, repeats),
    st.integers(1, 60), st.floats(0, 1), st.integers(1, 12), st.integers(1, 5),
)  # fmt: skip


@given(plans)
def test_moves_are_adjacent_by_one_level_and_end_at_zero(plan):
    for a, b in zip(plan.moves, plan.moves[1:], strict=False):
        assert a.s == b.t
    assert all(abs(move.t - move.s) == 1 for move in plan)
    assert not plan.moves or plan.moves[-1].s == 0
    assert all(0 <= move.s <= plan.start for move in plan)


@given(plans)
def test_every_move_up_is_walked_down_again(plan):
    ups = sum(move.up for move in plan)
    assert len(plan.flow) == plan.start + ups


@given(st.integers(1, 60), st.integers(1, 12))
def test_travelling_once_is_the_identity(steps, jump):
    assert Plan.uniform(steps).travel(jump, 1) == Plan.uniform(steps)


def test_repaints_numbers():
    plan = Plan.uniform(250).travel(10, 10)
    assert len(plan) == 4570
    assert len(plan.flow) == 2410


def test_a_small_travel_written_out():
    moves = [(4, 3), (3, 2), (2, 1), (1, 2), (2, 3), (3, 2), (2, 1), (1, 0)]
    made = tuple(Move(t, s, "flow" if s < t else "noise") for t, s in moves)
    assert Plan.uniform(4).travel(2, 2).moves == made


@pytest.mark.parametrize(("strength", "left"), [(1.0, 50), (0.75, 37), (0.3, 15), (0.01, 0), (0.0, 0)])
def test_strength_counts_as_diffusers_counts_it(strength, left):
    assert len(Plan.uniform(50).start_at(strength)) == left == int(50 * strength)
    up = Plan.uniform(50, Counting(up=True))
    assert len(up.start_at(strength)) == 50 - int(50 - 50 * strength)


@pytest.mark.parametrize("steps", [10, 50, 100, 1000])
@pytest.mark.parametrize("up", [False, True])
def test_a_strength_in_decimals_is_not_rounded_down_by_a_float(steps, up):
    """0.29 * 100 is 28.999999999999996; diffusers starts at 28, and --noise diffusers with it."""
    for k in range(101):
        exact = k * steps / 100
        expected = math.ceil(exact) if up else math.floor(exact)
        assert len(Plan.uniform(steps, Counting(up)).start_at(k / 100)) == expected
        walked = steps * (k / 100)
        floats = steps - int(steps - walked) if up else int(walked)
        assert len(Plan.uniform(steps, Counting(up, floats=True)).start_at(k / 100)) == floats
    assert Options(noise="diffusers").floats
    assert not Options().floats


@given(plans)
def test_starting_again_from_one_changes_nothing(plan):
    assert plan.start_at(1.0) == plan


@pytest.mark.parametrize(("sampler", "calls"), [("ddim", 10), ("heun", 19), ("dpm++2m", 10)])
def test_cost_of_a_plain_plan(sampler, calls):
    assert cost(Plan.uniform(10), (), make_sampler(sampler)) == Cost(calls, 0, 0)


@pytest.mark.parametrize(("steps", "jump"), [(250, 10), (100, 4), (22, 1), (5, 1)])
def test_repaints_default_jump_is_the_papers_share_of_the_levels(steps, jump):
    from editkit.plugins import Inpaint

    plan = Plan.uniform(steps)
    assert Inpaint(method="repaint", repeats=3).plan(plan) == plan.travel(jump, 3)
    assert len(Inpaint(method="repaint").plan(Plan.uniform(250))) == 4570


@pytest.mark.parametrize("strength", [0.1, 0.3, 0.55, 0.9])
def test_a_strength_after_travelling_never_climbs_above_its_start(strength):
    plan = Plan.uniform(10).travel(5, 3).start_at(strength)
    assert plan.top == plan.start == int(10 * strength)
    assert plan.end == 0
    assert all(a.s == b.t for a, b in zip(plan.moves, plan.moves[1:], strict=False))
