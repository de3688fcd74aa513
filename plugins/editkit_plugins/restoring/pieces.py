"""Functions of large pictures, a piece at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STRIP = 256
"""Rows at a time of what is done to rows by themselves."""


def pieces(function: Callable[..., Tensor], dim: int, step: int, *pictures: Tensor) -> Tensor:
    """What `function` makes of pictures, `step` channels (dim -3) or rows (dim -2) at a time: for functions that treat
    these by themselves and change no other side, with memory for one piece.
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
