"""The space that a model works in, as far as sizes of pictures are concerned. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Shaped(Protocol):
    """Anything that knows the shape of its states, as every `Model` does."""

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """(channels, ...) of a picture of `height` x `width` pixels."""
        ...


@dataclass(frozen=True)
class Space:
    """A model's space. `factor`: pixels a side of one of its values: 1 for pixels, 8 for most latents."""

    factor: int

    @property
    def is_pixels(self) -> bool:
        """Whether its values are pixels, or no pictures at all; otherwise latents."""
        return self.factor == 1


def space_of(model: Shaped) -> Space:
    """The space of `model`. One whose states have one shape for every picture has values of its own: factor 1."""
    small, large = (model.shape(side, side)[-1] for side in (512, 1024))
    return Space(1 if small == large else max(1, 512 // small))
