"""Multistep samplers, which extrapolate linearly from the network's earlier estimates.

They are written in log-SNR lambda = log(alpha / sigma), as in diffusers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from editkit.diffusion.samplers import Memory, Normal, OneCall, Predict
from editkit.diffusion.schedule import Grid, Level

if TYPE_CHECKING:
    from torch import Tensor

MULTISTEP = Grid(spacing="linspace", counts_clean=True, finite=True)
"""The spacing of levels for the samplers that diffusers writes in log-SNR."""


@dataclass(frozen=True)
class DPMpp2M(OneCall):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, Algorithm 2).

    With lambda = log(alpha / sigma), h = lambda_s - lambda_t and r = (lambda_t - lambda_before) / h,
    x_s = (sigma_s / sigma_t) x_t - alpha_s (e^-h - 1) [x0 + (x0 - x0_before) / 2r]. It is of first order if there is no
    history, if the history's log-SNR is infinite, and in the last move.
    """

    name: ClassVar[str] = "dpm++2m"
    grid: ClassVar[Grid] = MULTISTEP

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        now = Estimate(t, predict(x_t, t).x0)
        h = s.log_snr - t.log_snr
        return (s.sigma / t.sigma) * x_t - s.alpha * math.expm1(-h) * now.extrapolate(h, memory), now


@dataclass(frozen=True, eq=False)
class Estimate:
    """Memory of a multistep sampler: the estimate x0 at a level."""

    t: Level
    x0: Tensor

    def extrapolate(self, h: float, before: Estimate | None) -> Tensor:
        """Extrapolate x0 to the middle of a move of length h in log-SNR, from this estimate and the one before.

        Returns this estimate if there is none before, or if h is infinite.
        """
        if before is None or not math.isfinite(h):
            return self.x0
        return self.x0 + (h / (2.0 * (self.t.log_snr - before.t.log_snr))) * (self.x0 - before.x0)


@dataclass(frozen=True)
class DPMpp2MSDE(OneCall):
    """Stochastic DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, appendix; diffusers' `sde-dpmsolver++`).

    With the estimate of dpm++2m, x_s = (sigma_s / sigma_t) e^-h x_t + alpha_s (1 - e^-2h) estimate
    + sigma_s sqrt(1 - e^-2h) z.
    """

    name: ClassVar[str] = "dpm++2m-sde"
    grid: ClassVar[Grid] = MULTISTEP

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        now = Estimate(t, predict(x_t, t).x0)
        h = s.log_snr - t.log_snr
        gone = -math.expm1(-2.0 * h)
        x_s = (s.sigma / t.sigma * math.exp(-h)) * x_t + s.alpha * gone * now.extrapolate(h, memory)
        return (x_s if s.sigma == 0.0 else x_s + s.sigma * math.sqrt(gone) * normal(t, s)), now


@dataclass(frozen=True)
class UniPC(OneCall):
    """UniPC of order 2 with B(h) = e^h - 1 (Zhao et al. 2023, arXiv:2302.04867): one network call a move.

    The prediction at t first corrects the move that led there; then dpm++2m's step leads to s. With h = lambda_t -
    lambda_p from the level p before, D = x0_t - x0_p and B = e^-h - 1, the corrector is x_t' = (sigma_t / sigma_p) x_p
    - alpha_t B [x0_p + rho_1 (x0_pp - x0_p) / r + rho_2 D], with pp the level before p, r = (lambda_pp - lambda_p) / h
    and the weights rho from the order conditions. Changes of the state between the moves, by plugins, are kept: the
    corrector adds the difference x_t' - (this sampler's own earlier result) to x_t.
    """

    name: ClassVar[str] = "unipc"
    grid: ClassVar[Grid] = MULTISTEP

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        last: PreviousMove | None = memory
        now = Estimate(t, predict(x_t, t).x0)
        if last is not None:
            corrected = last.correct(now)
            # if no plugin changed the state, use the corrector's result itself, without rounding of a difference
            x_t = corrected if x_t is last.x_s else x_t + (corrected - last.x_s)
        h = s.log_snr - t.log_snr
        before = None if last is None or not math.isfinite(h) else last.here
        x_s = (s.sigma / t.sigma) * x_t - s.alpha * math.expm1(-h) * now.extrapolate(h, before)
        return x_s, PreviousMove(x_t, x_s, now, before)


@dataclass(frozen=True, eq=False)
class PreviousMove:
    """UniPC's memory of a move from x_p to x_s: both states, the estimate at x_p, and the estimate before.

    `before` is None if the move was of first order.
    """

    x_p: Tensor
    x_s: Tensor
    here: Estimate
    before: Estimate | None

    def correct(self, now: Estimate) -> Tensor:
        """Correct x_s, given the estimate there."""
        p, x0_p, t = self.here.t, self.here.x0, now.t
        h = t.log_snr - p.log_snr
        if not math.isfinite(h):
            return self.x_s
        b = math.expm1(-h)
        estimate = x0_p + 0.5 * (now.x0 - x0_p)
        if self.before is not None and math.isfinite(self.before.t.log_snr):
            r = (self.before.t.log_snr - p.log_snr) / h
            phi_2 = b / -h - 1.0
            phi_3 = phi_2 / -h - 0.5
            b_1, b_2 = phi_2 / b, 2.0 * phi_3 / b
            rho_1 = (b_2 - b_1) / (r - 1.0)  # rho_1 + rho_2 = b_1, r rho_1 + rho_2 = b_2
            estimate = x0_p + (rho_1 / r) * (self.before.x0 - x0_p) + (b_1 - rho_1) * (now.x0 - x0_p)
        return (t.sigma / p.sigma) * self.x_p - t.alpha * b * estimate
