"""Degradations of padded pictures: they act on the observed part only."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from editkit_plugins.restoring.degradations import Degradation, Linear, Size


class _CroppedLinear(Linear):
    """`inner`, applied to the upper left part of a larger picture."""

    def __init__(self, inner: Linear, height: int, width: int) -> None:
        super().__init__((inner.size[0], height, width), inner.observed)
        self.inner, self.singular, self.alike = inner, inner.singular, inner.alike

    def analyse(self, x: Tensor) -> Tensor:
        return self.inner.analyse(_cut(x, self.inner.size))

    def synthesise(self, z: Tensor) -> Tensor:
        return _pad(self.inner.synthesise(z), self.size)

    def observe(self, y: Tensor) -> Tensor:
        return self.inner.observe(y)

    def render(self, z: Tensor) -> Tensor:
        return self.inner.render(z)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        return _project(self, x, y)


class _Cropped(Degradation):
    """The same for a degradation that is not linear."""

    def __init__(self, inner: Degradation, height: int, width: int) -> None:
        super().__init__((inner.size[0], height, width), inner.observed)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.forward(_cut(x, self.inner.size))

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        return _project(self, x, y)

    def guess(self, y: Tensor) -> Tensor:
        guessed = self.inner.guess(y)
        return F.pad(guessed, _margins(self.inner.size, self.size), mode="replicate")


def crop_to_fit(degradation: Degradation, height: int, width: int) -> Degradation:
    """Adapt `degradation` to pictures that were padded on the right and below, to `height` x `width`."""
    if degradation.size[1:] == (height, width):
        return degradation
    if isinstance(degradation, Linear):
        return _CroppedLinear(degradation, height, width)
    return _Cropped(degradation, height, width)


def _project(outer: _CroppedLinear | _Cropped, x: Tensor, y: Tensor) -> Tensor:
    """Project the part of x that `outer.inner` sees."""
    part = _cut(x, outer.inner.size)
    return x + _pad(outer.inner.project(part, y) - part, outer.size)


def _cut(x: Tensor, size: Size) -> Tensor:
    return x[..., : size[1], : size[2]]


def _margins(small: Size, large: Size) -> tuple[int, int, int, int]:
    return (0, large[2] - small[2], 0, large[1] - small[1])


def _pad(x: Tensor, size: Size) -> Tensor:
    return F.pad(x, (0, size[2] - x.shape[-1], 0, size[1] - x.shape[-2]))
