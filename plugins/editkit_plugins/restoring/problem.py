"""The inverse problem that a solver receives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from editkit_plugins.restoring.degradations import Degradation


@dataclass(frozen=True, eq=False)
class Problem:
    """An inverse problem y = A(x) + sigma n, in the model's range.

    `y` is (batch or 1, *A.observed); `covariance` is that of the data, (d, d).
    """

    A: Degradation
    y: Tensor
    sigma: float = 0.0
    covariance: Tensor | None = None
