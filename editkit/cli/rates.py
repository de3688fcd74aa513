"""How long edits took on this machine, so that `editkit plan` can say about how long the next one will take.

A small file in the cache folder, `rates.json`: kind of edit -> [work, seconds] of the latest ones. It is written
atomically after an edit and never waited for. Whatever else is found in it is ignored, and if it cannot be read or
written, nothing is known.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.common import places
from editkit.common.small import read_limited_bytes
from editkit.errors import EditkitError
from editkit.pictures.files.atomic import save_bytes

if TYPE_CHECKING:
    from editkit.editing.settle import StagePlan
    from editkit.editing.stages import Update

MOST_BYTES, KINDS, TIMES = 1 << 16, 64, 8
"""Largest size of the file, number of kinds of edits, and of times for each; the oldest are dropped."""

FAR = 3.0
"""A time is not used for an edit with more than this many times the work, or less than this part of it."""

Times = dict[str, list[tuple[float, float]]]


class Timed:
    """Notes the plans of an edit's stages while it runs."""

    def __init__(self) -> None:
        self.plans: dict[int, StagePlan] = {}

    def __call__(self, update: Update) -> None:
        self.plans[update.stage] = update.plan

    def keep(self, seconds: float) -> None:
        """Store the time of an edit of one stage; nothing is said if that is impossible."""
        if len(self.plans) != 1 or seconds <= 0.0:
            return
        (plan,) = self.plans.values()
        times, kind, work = _read(), _kind(plan), _work(plan)
        latest = [*times.pop(kind, []), (work, round(seconds, 3))][-TIMES:]
        kept = dict([*times.items(), (kind, latest)][-KINDS:])
        with suppress(OSError, EditkitError):
            _place().parent.mkdir(parents=True, exist_ok=True)
            save_bytes(_place(), json.dumps(kept).encode(), force=True)


def estimate(plan: StagePlan) -> float | None:
    """Return about how many seconds a stage takes, by the past edit of this kind with the closest work; None: unknown.

    Half of the past time is taken as proportional to the work: starting takes time too.
    """
    work = _work(plan)
    times = [(abs(math.log(work / past)), past, seconds) for past, seconds in _read().get(_kind(plan), [])]
    if not times:
        return None
    closest = min(off for off, _, _ in times)
    _, past, seconds = [one for one in times if one[0] == closest][-1]  # the latest of those that are as close
    return None if closest > math.log(FAR) else seconds * (1.0 + work / past) / 2.0


def _kind(plan: StagePlan) -> str:
    """Return what edits must have in common for their times to be compared."""
    options = plan.options
    names = " with ".join(plugin.name for plugin in plan.plugins)
    return f"{names} by {plan.info.name}, {options.device}, {options.dtype}, {options.backend}, {options.compile}"


def _work(plan: StagePlan) -> float:
    """Return the work of a stage in megapixels that its model computes, plus those of the result once; above 0."""
    calls = sum((part.cost.calls + part.cost.beside) * part.at.width * part.at.height for part in plan.passes)
    back = sum(part.cost.backward * part.at.width * part.at.height for part in plan.passes)
    whole = plan.picture.width * plan.picture.height
    return max(1, plan.options.draws * (calls + 2 * back) + whole) / 1e6


def _place() -> Path:
    return places.cache() / "rates.json"


def _read() -> Times:
    """Read the file; entries of any other form are left out."""
    try:
        found = json.loads(read_limited_bytes(_place(), MOST_BYTES))
        return {kind: times for kind, values in found.items() if (times := [*filter(None, map(_pair, values))])}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return {}


def _pair(value: object) -> tuple[float, float] | None:
    if not isinstance(value, list) or len(value) != 2 or not all(type(one) in (int, float) for one in value):
        return None
    work, seconds = map(float, value)
    return (work, seconds) if 0.0 < work < 1e12 and 0.0 < seconds < 1e9 else None
