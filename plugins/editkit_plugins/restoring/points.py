"""A colour at a pixel, as set by the user."""

from __future__ import annotations

from typing import NamedTuple


class Point(NamedTuple):
    """The colour `rgb` (0 to 255 each) at column x and row y."""

    x: int
    y: int
    rgb: tuple[int, int, int]
