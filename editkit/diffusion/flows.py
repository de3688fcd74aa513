"""The noise levels of recent flow-matching models: their shift depends on the picture's size, for some on the steps
too.

t' = s t / (1 + (s - 1) t), t even from 1 / n to 1 (Esser et al. 2024, arXiv:2403.03206). The more tokens a picture has,
the more noise hides it, so s = e^mu grows with their number. It is computed in float32 and in the order of diffusers'
FlowMatchEulerDiscreteScheduler: a network is given sinusoids of 1000 t', in which an error in the seventh digit of t'
becomes one in the fifth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from editkit.diffusion.schedule import Flow, Grid, Level, Levels, Schedule, Spacing, is_even

USUAL_TOKENS = 4096
"""Of a picture of 1024 x 1024: where nobody says how large it is."""


ANY = Grid()
"""All samplers lay these levels alike."""


class Mu(Protocol):
    """The logarithm of the shift for a state of `tokens` tokens, walked in `steps` steps."""

    def __call__(self, tokens: int, steps: int) -> float: ...


@dataclass(frozen=True)
class Line:
    """mu on the line through (`few` tokens, `low`) and (`many`, `high`), beyond them too (FLUX.1, Qwen-Image)."""

    few: int = 256
    low: float = 0.5
    many: int = 4096
    high: float = 1.15

    def __call__(self, tokens: int, steps: int) -> float:
        slope = (self.high - self.low) / (self.many - self.few)
        return tokens * slope + (self.low - slope * self.few)


JUMP = 4300
"""Tokens above which FLUX.2's mu forgets the steps: with 4 of them the shift falls from 10.1 to 3.3 there."""


@dataclass(frozen=True)
class Empirical:
    """FLUX.2's: a line for 10 steps and one for 200, and between them a line in the steps (black-forest-labs/flux2,
    src/flux2/sampling.py).
    """

    def __call__(self, tokens: int, steps: int) -> float:
        of_200 = 0.00016927 * tokens + 0.45666666
        if tokens > JUMP:
            return of_200
        slope = (of_200 - (8.73809524e-05 * tokens + 1.89833333)) / 190.0
        return slope * steps + (of_200 - 200.0 * slope)


@dataclass(frozen=True)
class SizedFlow(Flow):
    """`Flow` whose `auto` levels are diffusers' for the transformers since FLUX.1: even from 1 to 1 / steps, shifted.

    Args:
        mu: gives the shift; None: it is `shift`, for every size.
        terminal: the least noisy level but the clean one is brought to this sigma, the others in proportion (Qwen).
        linear: the shift is mu, not e^mu.
        patch: values of the state a side of one token.
        tokens: of the state (`of_state`), those of references not counted.
    """

    mu: Mu | None = None
    terminal: float = 0.0
    linear: bool = False
    patch: int = 1
    tokens: int = USUAL_TOKENS

    def shift_for(self, steps: int) -> float:
        """s for so many steps."""
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
            if rest[-1] > 0.0:  # a single step has nothing to stretch
                sigmas = 1 - rest / (rest[-1] / (1 - self.terminal))
        sigmas = np.append(sigmas.astype(np.float32), np.float32(0.0))
        times = sigmas * np.float32(self.scale)
        pairs = zip(times[::-1], sigmas[::-1], strict=True)
        return tuple(Level(float(t), 1.0 - float(sigma), float(sigma), k) for k, (t, sigma) in enumerate(pairs))

    def _plain(self, steps: int, spacing: Spacing, grid: Grid) -> Levels:
        return super().levels(steps, spacing, grid)


def of_state(schedule: Schedule, height: int, width: int, shift: float | None) -> Schedule:
    """`schedule` for a state of `height` x `width`, as the network sees it at once; with `shift` that of every size,
    and nothing brought to a last level. Tables without a shift stay as they are (a chain may hand it on to one).
    """
    if isinstance(schedule, SizedFlow):
        tokens = (height // schedule.patch) * (width // schedule.patch)
        sized = replace(schedule, tokens=tokens)
        return sized if shift is None else replace(sized, shift=shift, mu=None, terminal=0.0)
    return replace(schedule, shift=shift) if isinstance(schedule, Flow) and shift is not None else schedule
