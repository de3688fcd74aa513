"""Noise levels of recent flow-matching models, whose shift depends on the picture's size and sometimes on the steps.

t' = s t / (1 + (s - 1) t), with t evenly spaced from 1 / n to 1 (Esser et al. 2024, arXiv:2403.03206). A picture with
more tokens needs more noise to be hidden, so s = e^mu grows with their number. Levels are computed in float32 and in
the same order as in diffusers' FlowMatchEulerDiscreteScheduler: the network's input are sinusoids of 1000 t', in which
an error in the seventh digit of t' becomes one in the fifth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from editkit.diffusion.schedule import Flow, Grid, Level, Levels, Schedule, Spacing, is_even

USUAL_TOKENS = 4096
"""Number of tokens of a 1024x1024 picture, the default if the size is unknown."""


ANY = Grid()
"""The levels are the same for all samplers."""


class Mu(Protocol):
    """Function that returns the logarithm of the shift for a state of `tokens` tokens and `steps` steps."""

    def __call__(self, tokens: int, steps: int) -> float: ...


@dataclass(frozen=True)
class Line:
    """mu on the line through (`few` tokens, `low`) and (`many` tokens, `high`), extrapolated (FLUX.1, Qwen-Image)."""

    few: int = 256
    low: float = 0.5
    many: int = 4096
    high: float = 1.15

    def __call__(self, tokens: int, steps: int) -> float:
        slope = (self.high - self.low) / (self.many - self.few)
        return tokens * slope + (self.low - slope * self.few)


JUMP = 4300
"""Number of tokens above which FLUX.2's mu ignores the steps: with 4 steps the shift drops there from 10.1 to 3.3."""


@dataclass(frozen=True)
class Empirical:
    """FLUX.2's mu: linear in the tokens for 10 and for 200 steps, and linear in the steps in between.

    Source: black-forest-labs/flux2, src/flux2/sampling.py.
    """

    def __call__(self, tokens: int, steps: int) -> float:
        of_200 = 0.00016927 * tokens + 0.45666666
        if tokens > JUMP:
            return of_200
        slope = (of_200 - (8.73809524e-05 * tokens + 1.89833333)) / 190.0
        return slope * steps + (of_200 - 200.0 * slope)


@dataclass(frozen=True)
class SizedFlow(Flow):
    """`Flow` with diffusers' levels for the transformers since FLUX.1 as `auto`: even from 1 to 1 / steps, shifted.

    Args:
        mu: computes the shift; None: it is `shift` for every size.
        terminal: if not 0, levels are stretched so that the last one before the clean level has this sigma (Qwen).
        linear: the shift is mu, not e^mu.
        patch: side of a token in values of the state.
        tokens: number of tokens of the state (set by `flow_for_state`), without those of references.
    """

    mu: Mu | None = None
    terminal: float = 0.0
    linear: bool = False
    patch: int = 1
    tokens: int = USUAL_TOKENS

    def shift_for(self, steps: int) -> float:
        """Return the shift s for `steps` steps."""
        if self.mu is None:
            return self.shift
        mu = self.mu(self.tokens, steps)
        return mu if self.linear else math.exp(mu)

    def levels(self, steps: int, spacing: Spacing = "auto", grid: Grid = ANY) -> Levels:
        if is_even(spacing) or spacing == "linspace":
            return replace(self, shift=self.shift_for(steps), mu=None)._plain(steps, spacing, grid)
        even = np.linspace(1.0, 1.0 / steps, steps).astype(np.float32)
        s = self.shift_for(steps)
        sigmas = s * even / (1 + (s - 1) * even) if self.mu is None else s / (s + (1 / even - 1))
        if self.terminal:
            rest = 1 - sigmas
            if rest[-1] > 0.0:  # a single step cannot be stretched
                sigmas = 1 - rest / (rest[-1] / (1 - self.terminal))
        sigmas = np.append(sigmas.astype(np.float32), np.float32(0.0))
        times = sigmas * np.float32(self.scale)
        pairs = zip(times[::-1], sigmas[::-1], strict=True)
        return tuple(Level(float(t), 1.0 - float(sigma), float(sigma), k) for k, (t, sigma) in enumerate(pairs))

    def _plain(self, steps: int, spacing: Spacing, grid: Grid) -> Levels:
        return super().levels(steps, spacing, grid)


def flow_for_state(schedule: Schedule, height: int, width: int, shift: float | None) -> Schedule:
    """Adapt `schedule` to a state of `height` x `width`, the size that the network sees at once.

    With `shift`, use that shift for every size, and do not stretch to a terminal level. Schedules without a shift are
    returned unchanged, since a chain may pass the option on to them.
    """
    if isinstance(schedule, SizedFlow):
        tokens = (height // schedule.patch) * (width // schedule.patch)
        sized = replace(schedule, tokens=tokens)
        return sized if shift is None else replace(sized, shift=shift, mu=None, terminal=0.0)
    return replace(schedule, shift=shift) if isinstance(schedule, Flow) and shift is not None else schedule
