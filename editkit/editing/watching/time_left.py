"""How much of an edit, a batch or a video is done, and how long the rest will take, in a line."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from editkit.editing.cost import PassPlan
    from editkit.editing.stages import Update


class TimeLeft:
    """The line about a running edit: which stage, how much of it is done, and how long it will take.

    The share that is done is counted by the pixels of the moves. During a move nothing is known, so the time that is
    left goes down with the clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.began = self.stage_began = self.seen = clock()
        self.stage, self.stages, self.done = 0, 1, 0.0

    def __call__(self, update: Update) -> None:
        if update.stage != self.stage:
            self.stage_began = self.seen
        self.stage, self.stages, self.done, self.seen = update.stage, update.stages, share_done(update), self.clock()

    def text(self) -> str:
        """Return the line."""
        now = self.clock()
        where = f"stage {self.stage + 1} of {self.stages}: " if self.stages > 1 else ""
        if not 0.0 < self.done < 1.0:
            return f"{where}still working, {in_words(now - self.began)} so far"
        whole = (self.seen - self.stage_began) / self.done
        left = self.stage_began + whole - now
        how_long = f", about {in_words(left)} left" if left >= 1.0 else ", nearly there"
        return f"{where}{self.done:.0%} done{how_long}{' in this stage' * (self.stages > self.stage + 1)}"


def share_done(update: Update) -> float:
    """Return the share of this stage that is done, 0 to 1, by the pixels of its moves."""
    passes, at = update.plan.passes, update.pass_
    within = update.state.index / max(update.state.total, 1)
    done = sum(_pixels(part) for part in passes[:at]) + within * _pixels(passes[at])
    whole = sum(_pixels(part) for part in passes)
    return (update.draw + done / max(whole, 1)) / update.plan.options.draws


class CountLines:
    """The line about a batch or a video: how many are done, of how many, and how long the rest will take.

    `total` is None if it is unknown.
    """

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.what, self.clock, self.began = what, clock, clock()
        self.total: int | None = None
        self.done, self.seen = 0, self.began

    def begin(self, total: int | None) -> None:
        self.total = total

    def advance(self) -> None:
        self.done, self.seen = self.done + 1, self.clock()

    def text(self) -> str:
        """Return the line."""
        now = self.clock()
        so_far = f", {in_words(now - self.began)} so far"
        if self.total is None:
            return f"{self.done} {self.what} done{so_far}"
        left = (self.seen - self.began) / max(self.done, 1) * self.total - (now - self.began)
        how_long = f", about {in_words(left)} left" if self.done and left >= 1.0 else so_far
        return f"{self.done} of {self.total} {self.what} done{how_long}"


def in_words(seconds: float) -> str:
    """Return a duration to the precision of an estimate: 7 s, 40 s, 3 min, 2 h."""
    if seconds < 10.0:
        return f"{max(seconds, 1.0):.0f} s"
    if seconds < 100.0:
        return f"{round(seconds / 5.0) * 5} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 5400.0 else f"{seconds / 3600.0:.0f} h"


def _pixels(part: PassPlan) -> int:
    """Return the total number of pixels in all moves of a pass."""
    return len(part.plan) * part.at.height * part.at.width
