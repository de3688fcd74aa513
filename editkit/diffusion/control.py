"""ControlNets as a model sees them: features added to those of its UNet (Zhang et al. 2023, arXiv:2302.05543).

A plugin puts a `Control` into `Conditioning.control`; the model evaluates it, because only the model knows what the
network is given: the states of all branches of classifier-free guidance in one batch, each with its own text. So one
call of a ControlNet serves all branches, and one that a branch does not have is not computed for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class TakesControl(Protocol):
    """A model that takes `control`: what is added must fit its UNet's features."""

    unet: Any


@runtime_checkable
class Folded(TakesControl, Protocol):
    """One whose UNet sees `unshuffle` x `unshuffle` values of the state as channels of one."""

    unshuffle: int


@dataclass(frozen=True, eq=False)
class Given:
    """What a UNet is given at one step: all branches in one batch, the first branch's items first.

    Args:
        x: the noisy state without the channels that a model concatenates, (branches * batch, channels, h, w).
        t: the training time of each item.
        words: the encoded text, (branches * batch, tokens, width); None for a network without cross-attention.
        added: further embeddings by the names diffusers has for them (SDXL).
        label: class numbers.
    """

    x: Tensor
    t: Tensor
    words: Tensor | None = None
    added: Mapping[str, Tensor] | None = None
    label: Tensor | None = None

    def rows(self, rows: Tensor) -> Given:
        """Some of the items."""
        return replace(
            self,
            x=self.x[rows],
            t=self.t[rows],
            words=None if self.words is None else self.words[rows],
            added=None if self.added is None else {name: value[rows] for name, value in self.added.items()},
            label=None if self.label is None else self.label[rows],
        )


@dataclass(frozen=True, eq=False)
class Residuals:
    """Features to add to a UNet's: one tensor for each skip connection, and one for the middle."""

    down: tuple[Tensor, ...]
    mid: Tensor

    def __add__(self, other: Residuals) -> Residuals:
        down = tuple(a + b for a, b in zip(self.down, other.down, strict=True))
        return Residuals(down, self.mid + other.mid)

    def spread(self, rows: Tensor) -> Residuals:
        """For a whole batch: these where `rows` is True, zeros elsewhere."""

        def spread(part: Tensor) -> Tensor:
            whole = part.new_zeros(len(rows), *part.shape[1:])
            whole[rows] = part
            return whole

        return Residuals(tuple(spread(part) for part in self.down), spread(self.mid))


class Control(Protocol):
    """Something that steers a UNet by residuals. `wanted_only`: in guidance, it acts on the wanted branch alone."""

    @property
    def wanted_only(self) -> bool: ...

    def __call__(self, given: Given) -> Residuals:
        """The residuals of every item."""
        ...

    def cut(self, spots: Sequence[tuple[slice, slice]], size: Sequence[int]) -> Control:
        """The same for windows of a state of `size`: rows and columns of each, one after the other in the batch."""
        ...


def cut_like(value: Tensor, spots: Sequence[tuple[slice, slice]], size: Sequence[int]) -> Tensor:
    """Windows of a picture that covers a state of `size` (at a whole multiple of it), one after the other."""
    import torch

    k = value.shape[-1] // size[-1]
    return torch.cat([value[..., r.start * k : r.stop * k, c.start * k : c.stop * k] for r, c in spots])
