"""Progress in lines: how much is done, and the time that is left. The clock is the test's, and so are the beats."""

from queue import Queue
from threading import Event

import numpy as np
import pytest
from toy import Isotropic

from editkit.cli.progress import EVERY, now_and_then
from editkit.editing.api import stream
from editkit.editing.watching.time_left import CountLines, TimeLeft, in_words, share_done
from editkit.plugins import Inpaint, SDEdit

PICTURE = np.zeros((16, 16, 3), np.uint8)


class Now:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def test_the_share_and_the_time_that_is_left_are_said():
    """Ten seconds a step: the rest follows from the steps, and goes down with the clock while nothing is reported."""
    now = Now()
    lines = TimeLeft(now)
    now.at = 30.0
    assert lines.text() == "still working, 30 s so far", "no step is done yet"
    chain = SDEdit(strength=1.0) | SDEdit(strength=0.5)
    now.at = 0.0
    seen = []
    for update in stream(PICTURE, chain, model=Isotropic(), steps=20):
        now.at += 10.0
        lines(update)
        seen.append(lines.text())
    assert seen[4] == "stage 1 of 2: 25% done, about 2 min left in this stage"
    assert seen[18] == "stage 1 of 2: 95% done, about 10 s left in this stage"
    assert seen[20] == "stage 2 of 2: 10% done, about 90 s left"
    lines(update)
    assert lines.text() == "stage 2 of 2: still working, 5 min so far", "the end of the last stage is not in sight"


def test_time_that_is_left_goes_down_during_a_long_call():
    now = Now()
    lines = TimeLeft(now)
    updates = iter(stream(PICTURE, SDEdit(strength=1.0), model=Isotropic(), steps=4))
    now.at = 40.0
    lines(next(updates))
    said = []
    for now.at in (40.0, 80.0, 155.0, 180.0):
        said.append(lines.text())
    assert said == [f"25% done, {left}" for left in ("about 2 min left", "about 80 s left", "about 5 s left",
                                                     "nearly there")]  # fmt: skip


def test_large_passes_count_more_than_small_ones():
    mask = np.zeros((90, 90), np.uint8)
    mask[20:60, 20:60] = 255
    updates = list(stream(np.zeros((90, 90, 3), np.uint8), Inpaint(mask=mask), model="patches", steps=44))
    shares = [share_done(update) for update in updates]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    first = next(k for k, update in enumerate(updates) if update.pass_ == len(update.plan.passes) - 1)
    assert shares[first - 1] < first / len(updates), "the first passes are many steps on few pixels"


@pytest.mark.parametrize("total", [4, None])
def test_pictures_are_counted(total):
    now = Now()
    lines = CountLines("pictures", now)
    lines.begin(total)
    now.at = 20.0
    of = "" if total is None else " of 4"
    assert lines.text() == f"0{of} pictures done, 20 s so far"
    now.at = 60.0
    lines.advance()
    assert lines.text() == f"1{of} pictures done, {'60 s so far' if total is None else 'about 3 min left'}"


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (7.4, "7 s"), (42.0, "40 s"), (200.0, "3 min"),
                                                (9000.0, "2 h")])  # fmt: skip
def test_durations_are_as_precise_as_an_estimate(seconds, words):
    assert in_words(seconds) == words


class Beats(Event):
    """Waits for the test, not for the clock: each beat is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: Queue[bool] = Queue()
        self.waited: list[float] = []

    def wait(self, timeout=None):
        self.waited.append(timeout)
        return self.queue.get(timeout=60)

    def set(self):
        self.queue.put(True)


def test_a_line_comes_at_each_beat_and_none_before_the_first():
    said: Queue[str] = Queue()
    beats = Beats()
    with now_and_then(lambda: said.put("line"), beats):
        assert said.empty()
        for _ in range(2):
            beats.queue.put(False)
            assert said.get(timeout=60) == "line"
    assert said.empty()
    assert set(beats.waited) == {EVERY}


def test_a_closed_standard_error_ends_the_lines_and_not_the_edit():
    beats = Beats()

    def closed() -> None:
        raise BrokenPipeError

    with now_and_then(closed, beats):
        beats.queue.put(False)
