"""Piecewise evaluation of functions of large pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STRIP = 256
"""Rows processed at a time, where rows are independent."""


def pieces(function: Callable[..., Tensor], dim: int, step: int, *pictures: Tensor) -> Tensor:
    """Apply `function` to `pictures`, `step` channels (dim -3) or rows (dim -2) at a time, to save memory.

    The function must treat the channels or rows independently, and keep the size of the other dimensions.
    """
    length = pictures[0].shape[dim]
    if length <= step:
        return function(*pictures)
    whole: Tensor | None = None
    for first in range(0, length, step):
        count = min(step, length - first)
        part = function(*(picture.narrow(dim, first, count) for picture in pictures))
        if whole is None:
            size = list(part.shape)
            size[dim] = length
            whole = part.new_empty(size)
        whole.narrow(dim, first, count).copy_(part)
    assert whole is not None
    return whole
