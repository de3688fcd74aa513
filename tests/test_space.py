"""A model's space: pixels a side of one value."""

from __future__ import annotations

import pytest

from editkit.diffusion.space import Space, space_of


class _Shaped:
    def __init__(self, factor: int | None) -> None:
        self.factor = factor

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return (3, 8, 8) if self.factor is None else (4, height // self.factor, width // self.factor)


@pytest.mark.parametrize(("shaped", "factor"), [(1, 1), (4, 4), (8, 8), (16, 16), (None, 1)])
def test_pixels_a_side(shaped: int | None, factor: int) -> None:
    assert space_of(_Shaped(shaped)) == Space(factor)
    assert Space(factor).is_pixels == (factor == 1)
