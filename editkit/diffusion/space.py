"""The space of a model, as far as sizes of pictures are concerned. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Shaped(Protocol):
    """An object that knows the shape of its states, such as every `Model`."""

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return the shape of a state, (channels, ...), for a picture of `height` x `width` pixels."""
        ...


@dataclass(frozen=True)
class Space:
    """A model's space. `factor` is the downscaling to latents: 1 for pixels, 8 for most latent models."""

    factor: int

    @property
    def is_pixels(self) -> bool:
        """Whether its values are pixels (or not pictures at all) rather than latents."""
        return self.factor == 1


def space_of(model: Shaped) -> Space:
    """Return the space of `model`. If all states have the same shape, its values are not pictures: factor 1."""
    small, large = (model.shape(side, side)[-1] for side in (512, 1024))
    return Space(1 if small == large else max(1, 512 // small))
