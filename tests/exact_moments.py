"""What a sampler makes of the toy's Gaussian, exactly: every move is affine there, so moments go through it without a
sample."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import torch
from torch import Tensor
from toy import COVARIANCE, MEAN

from editkit.diffusion.adaptive import Adaptive
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.samplers import Sampler, make_sampler
from editkit.diffusion.schedule import Level, Schedule

Moments = tuple[Tensor, Tensor]
EYE = torch.eye(4, dtype=torch.float64)


def exact_prediction(x: Tensor, at: Level) -> Prediction:
    """The toy's E[x0 | x_t] in float64, of each row of x."""
    mean = MEAN.double()
    x0 = mean + (x - at.alpha * mean) @ _gain(at)
    return Prediction(x0, (x - at.alpha * x0) / at.sigma)


@cache
def _gain(at: Level) -> Tensor:
    covariance = COVARIANCE.double()
    return at.alpha * covariance @ torch.linalg.inv(at.alpha**2 * covariance + at.sigma**2 * EYE)


def through(rule: Sampler, t: Level, s: Level, moments: Moments) -> Moments:
    """Mean (4,) and covariance (4, 4) of x_s where x_t has `moments`; rules without memory."""

    def walked(x: Tensor, loud: int | None = None) -> tuple[Tensor, int]:
        """(x_s of each row of x, how many draws were asked for); draw number `loud` is I, the others 0."""
        draws = 0

        def normal(t: Level, s: Level) -> Tensor:
            nonlocal draws
            draws += 1
            return EYE if draws - 1 == loud else torch.zeros_like(x)

        return rule.step(x, t, s, exact_prediction, normal, None)[0], draws

    mean, covariance = moments
    made, draws = walked(torch.cat([torch.zeros(1, 4, dtype=torch.float64), EYE]))
    shift, linear = made[0], made[1:] - made[0]
    covariance = linear.T @ covariance @ linear
    for k in range(draws):
        column = walked(torch.zeros(4, 4, dtype=torch.float64), k)[0] - shift
        covariance = covariance + column.T @ column
    return shift + mean @ linear, covariance


def moments_of(spec: str, table: Schedule, steps: int) -> Moments:
    """Of what the sampler `spec` makes of the table's noise."""
    rule = make_sampler(spec)
    if isinstance(rule, Adaptive):
        rule = rule.on(table)
    levels = table.levels(steps, grid=rule.grid)
    now = torch.zeros(4, dtype=torch.float64), table.prior_scale(levels[-1]) ** 2 * EYE
    for t, s in pairwise(levels[::-1]):
        now = through(rule, t, s, now)
    return now


def errors_of(spec: str, table: Schedule, steps: int) -> tuple[float, float]:
    """|m - m*| / sqrt(tr C*) and |C - C*| / |C*|."""
    mean, covariance = moments_of(spec, table, steps)
    right = COVARIANCE.double()
    return float((mean - MEAN).norm() / right.trace().sqrt()), float((covariance - right).norm() / right.norm())
