"""Estimation of an edit's remaining time, from its first steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from editkit.common.notify import Notify

if TYPE_CHECKING:
    from editkit.editing.settle import PassPlan
    from editkit.editing.stages import Update


class TimeLeft:
    """Reports the estimated remaining time once per stage, unless it is too short to matter.

    The first steps of the most expensive pass are timed, without the very first, which includes warm-up. The cost of
    other passes is taken to be proportional to their pixels.
    """

    TIMED = 2
    """Steps."""

    WORTH = 20.0
    """Seconds."""

    def __init__(self, notify: Notify, clock: Callable[[], float] = time.perf_counter) -> None:
        self.notify, self.clock = notify, clock
        self.seen: dict[int, list[float]] = {}

    def __call__(self, update: Update) -> None:
        passes = update.plan.passes
        if update.pass_ != max(range(len(passes)), key=lambda k: _pixels(passes[k])):
            return
        times = self.seen.setdefault(update.stage, [])
        times.append(self.clock())
        if len(times) != self.TIMED + 1:
            return
        each = (times[-1] - times[0]) / self.TIMED
        part = passes[update.pass_]
        after = sum(_pixels(later) for later in passes[update.pass_ + 1 :]) / _pixels(part) * len(part.plan)
        left = (len(part.plan) - self.TIMED - 1 + after) * each
        if left >= self.WORTH:
            how_long = f"{left:.0f} s" if left < 120.0 else f"{left / 60.0:.0f} min"
            self.notify(f"about {how_long} to go, at {each:.1f} s a step")


def _pixels(part: PassPlan) -> int:
    """Return the total number of pixels in all moves of a pass."""
    return len(part.plan) * part.at.height * part.at.width
