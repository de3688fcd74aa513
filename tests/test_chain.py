"""Chains with something changed: seeds, options, one plugin's parameter."""

from __future__ import annotations

import pytest

from editkit.errors import ParameterError
from editkit.plugin.chain import Chain
from editkit.plugin.options import Options
from editkit.plugins import Inpaint, SDEdit

FIRST, SECOND = Inpaint(mask="m.png"), SDEdit(strength=0.3)


def chain() -> Chain:
    return Chain.of(FIRST).using(seed=3, steps=20) | Chain.of(SECOND).using(seed=5)


def test_seeds_are_changed_stage_by_stage() -> None:
    made = chain().with_seed(lambda seed: seed + 10)
    assert [stage.options.seed for stage in made.stages] == [13, 15]
    assert [stage.options.steps for stage in made.stages] == [20, 20]
    assert [stage.options.seed for stage in chain().stages] == [3, 5]


def test_an_option_wins_in_every_stage_and_the_rest_stays() -> None:
    made = chain().with_options(Options(steps=7))
    assert [stage.options.steps for stage in made.stages] == [7, 7]
    assert [stage.options.seed for stage in made.stages] == [3, 5]
    assert "steps" in made.stages[1].inherited
    assert "seed" not in made.stages[1].inherited


def test_one_parameter_of_one_plugin_is_changed() -> None:
    twice = chain() | SDEdit(strength=0.3)
    made = twice.with_field(SECOND, "strength", "0.6")
    assert [stage.plugins[0] for stage in made.stages] == [FIRST, SDEdit(strength=0.6), SDEdit(strength=0.3)]
    assert made.stages[1].options == twice.stages[1].options
    masked = chain().with_field(FIRST, "mask", "other.png").stages[0].plugins[0]
    assert masked.model_fields_set == {"mask"}


def test_what_cannot_be_set_is_refused() -> None:
    with pytest.raises(ParameterError):
        chain().with_field(SECOND, "strength", 7)
    with pytest.raises(ValueError, match="sdedit is not in this chain"):
        chain().with_field(SDEdit(strength=0.3), "strength", 0.5)
