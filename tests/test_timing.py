"""The time that is left, from the first steps."""

from itertools import count

import numpy as np
import pytest
from toy import Isotropic

from editkit.editing.api import stream
from editkit.editing.watching.time_left import TimeLeft
from editkit.plugins import Inpaint, SDEdit


@pytest.mark.parametrize(("each", "expected"), [(10.0, ["about 170 s to go, at 10.0 s a step"]), (0.1, [])])
def test_what_is_left_is_said_once_where_it_is_worth_it(each, expected):
    said, ticks = [], count()
    watch = TimeLeft(said.append, lambda: each * next(ticks))
    for update in stream(np.zeros((16, 16, 3), np.uint8), SDEdit(strength=1.0), model=Isotropic(), steps=20):
        watch(update)
    assert said == [line.replace("170 s", "3 min") for line in expected]


def test_the_pass_that_costs_most_is_timed():
    said, ticks = [], count()
    watch = TimeLeft(said.append, lambda: 30.0 * next(ticks))
    mask = np.zeros((90, 90), np.uint8)
    mask[20:60, 20:60] = 255
    updates = list(stream(np.zeros((90, 90, 3), np.uint8), Inpaint(mask=mask), model="patches", steps=44))
    for update in updates:
        watch(update)
    assert len(said) == 1
