"""A model's prediction at a noisy state, and the conversion from its network's output.

Epsilon-, v-, flow- and sample-prediction are converted here, and nowhere else.
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
    """A model's prediction at x_t = alpha_t * x0 + sigma_t * eps.

    Args:
        x0: the estimated clean sample, (batch, channels, ...).
        eps: the estimated noise, of the same shape.
        variance: for a model with learned reverse variance, v in [0, 1], which interpolates between the logarithms of
            the smallest and the largest variance (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15).
        output, kind: the network's own output and its prediction type, for guidance that combines outputs (`convert`).
    """

    x0: Float[Tensor, "b c *size"]
    eps: Float[Tensor, "b c *size"]
    variance: Float[Tensor, "b c *size"] | None = None
    output: Float[Tensor, "b c *size"] | None = None
    kind: PredictionType | None = None

    def with_x0(self, x0: Tensor, x_t: Tensor, level: Level) -> Prediction:
        """Return the prediction with another x0, and eps = (x_t - alpha_t x0) / sigma_t."""
        if level.sigma <= 0.0:
            return replace(self, x0=x0)
        return replace(self, x0=x0, eps=x_t.sub(x0, alpha=level.alpha).div_(level.sigma))


def convert(output: Tensor, x_t: Tensor, level: Level, kind: PredictionType) -> Prediction:
    """Convert a network's output, (batch, channels, ...), to a `Prediction`.

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
    """Return the network output that `convert` maps to these estimates; its inverse."""
    match kind:
        case "epsilon":
            return eps
        case "v_prediction":
            return level.alpha * eps - level.sigma * x0
        case "flow_prediction":
            return eps - x0
        case "sample":
            return x0
