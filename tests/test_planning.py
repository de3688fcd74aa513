"""`editkit.editing.api.plan` says beforehand what `stream` then does."""

from __future__ import annotations

import numpy as np
import pytest

from editkit.editing.api import plan, stream
from editkit.editing.settle import plan_stage
from editkit.errors import ChainError, UsageError
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain
from editkit.plugins import Guide, Inpaint, SDEdit, Uncrop


def photo() -> Picture:
    rng = np.random.default_rng(0)
    return Picture(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "edits",
    [
        Chain.of(Inpaint(mask="box:4,4,16,12")) | SDEdit(strength=0.3),
        Chain.of(Uncrop(right=8)).using(steps=5) | SDEdit(strength=0.5),
    ],
)
def test_it_is_what_the_run_does(edits: Chain) -> None:
    plans = plan(photo(), edits, model="pocket", steps=4, device="cpu")
    seen = {}
    calls: dict[tuple[int, int], int] = {}
    for update in stream(photo(), edits, model="pocket", steps=4, device="cpu"):
        seen[update.stage] = update.plan
        calls[update.stage, update.pass_] = update.state.calls
    assert [p.options.steps for p in plans] == [edits.stages[0].options.steps or 4] * 2
    for stage, planned in enumerate(plans):
        assert planned.passes == seen[stage].passes
        assert planned.plugins == seen[stage].plugins
        assert (planned.info, planned.sampler) == (seen[stage].info, seen[stage].sampler)
        assert planned.picture.size == seen[stage].picture.size
        assert planned.calls == sum(made for (number, _), made in calls.items() if number == stage) > 0


def test_it_says_what_edit_would_say() -> None:
    lines: list[str] = []
    (planned,) = plan(photo(), SDEdit(strength=0.5), notify=lines.append, steps=10, tries=3)
    assert planned.calls == 5
    assert any("tries=3" in line for line in lines)


def test_what_edit_refuses_is_refused() -> None:
    with pytest.raises(UsageError, match="takes no text"):
        plan(photo(), SDEdit(), model="pocket", prompt="a cat")
    with pytest.raises(ChainError, match="both set the mask"):
        plan(photo(), Inpaint(mask="box:0,0,4,4") & Inpaint(mask="box:0,0,4,4"))


def test_a_window_that_holds_no_step_is_said():
    """Middles of 4 steps: 0.125, 0.375, 0.625, 0.875."""
    picture = Picture(np.zeros((16, 16, 3), np.uint8))
    for start, stop, idle in ((0.4, 0.6, True), (0.3, 0.6, False), (0.9, 1.0, True), (0.0, 1.0, False)):
        said = []
        stage = (SDEdit(strength=1.0) & Guide(start=start, stop=stop)).using(steps=4, model="pocket").stages[0]
        plan_stage(stage, picture, said.append)
        told = [line for line in said if line.startswith("guide does nothing: none of 4 steps has its middle")]
        assert bool(told) == idle, (start, stop, said)
