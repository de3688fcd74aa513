"""What a model says of a noisy state, and what its network's output means.

Epsilon-, v-, flow- and sample-prediction are converted here, once, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from editkit.diffusion.schedule import Level

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of x_t = alpha_t * x0 + sigma_t * eps.

    Args:
        x0: the estimated clean sample, (batch, channels, ...).
        eps: the estimated noise, the same shape.
        variance: for a model that has learned its reverse variance, v in [0, 1], which interpolates between the logs of
            the smallest and the largest one (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15).
        output, kind: what the network itself gave and what it means, for combiners that work on that (`convert`).
    """

    x0: Float[Tensor, "b c *size"]
    eps: Float[Tensor, "b c *size"]
    variance: Float[Tensor, "b c *size"] | None = None
    output: Float[Tensor, "b c *size"] | None = None
    kind: PredictionType | None = None

    def with_x0(self, x0: Tensor, x_t: Tensor, level: Level) -> Prediction:
        """Another estimate of x0; eps = (x_t - alpha_t x0) / sigma_t follows."""
        if level.sigma <= 0.0:
            return replace(self, x0=x0)
        return replace(self, x0=x0, eps=x_t.sub(x0, alpha=level.alpha).div_(level.sigma))


def convert(output: Tensor, x_t: Tensor, level: Level, kind: PredictionType) -> Prediction:
    """A network's output as a `Prediction`.

    epsilon: x0 = (x_t - sigma_t out) / alpha_t. v (Salimans & Ho 2022, arXiv:2202.00512): x0 = alpha_t x_t -
    sigma_t out, eps = sigma_t x_t + alpha_t out. flow (x_t = (1 - t) x0 + t eps, out = eps - x0): x0 = x_t - t out,
    eps = x_t + (1 - t) out. sample: x0 = out.
    """
    alpha, sigma = level.alpha, level.sigma
    match kind:
        case "epsilon":
            return Prediction((x_t - sigma * output) / alpha, output, None, output, kind)
        case "v_prediction":
            x0, eps = alpha * x_t - sigma * output, sigma * x_t + alpha * output
            return Prediction(x0, eps, None, output, kind)
        case "flow_prediction":
            return Prediction(x_t - sigma * output, x_t + alpha * output, None, output, kind)
        case "sample":
            return Prediction(output, (x_t - alpha * output) / sigma, None, output, kind)


def output_of(x0: Tensor, eps: Tensor, level: Level, kind: PredictionType) -> Tensor:
    """What a network would have to give for `convert` to make these estimates of it: its inverse."""
    match kind:
        case "epsilon":
            return eps
        case "v_prediction":
            return level.alpha * eps - level.sigma * x0
        case "flow_prediction":
            return eps - x0
        case "sample":
            return x0
