"""ControlNets as a model sees them: features added to those of its network (Zhang et al. 2023, arXiv:2302.05543).

A plugin puts a `Control` into `Conditioning.control`; the model evaluates it, because only the model knows what the
network is given: the states of all branches of classifier-free guidance in one batch, each with its own text. So one
call of a ControlNet serves all branches, and one that a branch does not have is not computed for it. ControlNets of a
transformer are called in the family's own way (`BringsControl`); of most the wanted text's residuals serve the unwanted
branch too, as in their makers' pipelines (`with_wanted_words`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.diffusion.noise import Stream


@runtime_checkable
class TakesControl(Protocol):
    """A model that takes `control`: what is added must fit its UNet's features."""

    unet: Any


@runtime_checkable
class Folded(TakesControl, Protocol):
    """One whose UNet sees `unshuffle` x `unshuffle` values of the state as channels of one."""

    unshuffle: int


@dataclass(frozen=True, eq=False)
class Shown:
    """What a ControlNet of a transformer is shown beside the state; it is brought to the model's space once.

    Args:
        hint: (batch or 1, 3, H, W) in [-1, 1], as large as the picture.
        picture: what is edited, likewise; None: there is none.
        mask: (batch or 1, 1, H, W), 1 = regenerate; None: all is.
        region: the mask in the model's space.
        kind: the number of the hint's kind, for a network that has several; None: it has one.
    """

    hint: Tensor
    picture: Tensor | None = None
    mask: Tensor | None = None
    region: Tensor | None = None
    kind: int | None = None


@runtime_checkable
class BringsControl(Protocol):
    """A model whose ControlNets are of a class of their own, and called in a way of their own: a transformer's."""

    transformer: Any

    def controlnet(self, config: Mapping[str, Any]) -> type[Any]:
        """The class of a ControlNet with this configuration.

        Raises:
            ModelError: it was not made for this model; says both.
        """
        ...

    def steered(self, network: Any, shown: Shown, scale: float, wanted_only: bool, stream: Stream | None) -> Control:
        """`network`, of that class, shown what is `shown`; `stream`: where its posterior is drawn from."""
        ...


@dataclass(frozen=True, eq=False)
class Given:
    """What a network is given at one step: all branches in one batch, the first branch's items first.

    Args:
        x: the noisy state without the channels that a model concatenates, (branches * batch, channels, h, w).
        t: the training time of each item.
        words: the encoded text, (branches * batch, tokens, width); None for a network without cross-attention.
        added: further embeddings by the names diffusers has for them (SDXL, FLUX.1).
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
    """Features that are added to those of a network: for a UNet one tensor for each skip connection and one for the
    middle; for a transformer one behind each of its blocks, None where nothing is added.
    """

    down: tuple[Tensor | None, ...]
    mid: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """What there is of `down`, in its order."""
        return [part for part in self.down if part is not None]

    def __add__(self, other: Residuals) -> Residuals:
        down = tuple(_sum(a, b) for a, b in zip(self.down, other.down, strict=True))
        return Residuals(down, _sum(self.mid, other.mid))

    def spread(self, rows: Tensor) -> Residuals:
        """For a whole batch: these where `rows` is True, zeros elsewhere."""

        def spread(part: Tensor | None) -> Tensor | None:
            if part is None:
                return None
            whole = part.new_zeros(len(rows), *part.shape[1:])
            whole[rows] = part
            return whole

        return Residuals(tuple(spread(part) for part in self.down), spread(self.mid))


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def beside_each_other(parts: Sequence[Residuals], copies: int) -> Residuals:
    """Those of several branches in one batch, the first branch's items first; a branch's are of `copies` items."""
    import torch

    def row(values: Sequence[Tensor | None]) -> Tensor | None:
        like = next((value for value in values if value is not None), None)
        if like is None:
            return None
        whole = [torch.zeros_like(like) if value is None else value for value in values]
        return torch.cat([value.expand(copies, *value.shape[1:]) for value in whole])

    down = tuple(row(values) for values in zip(*(part.down for part in parts), strict=True))
    return Residuals(down, row([part.mid for part in parts]))


class Control(Protocol):
    """Something that steers a network by residuals. `wanted_only`: in guidance, it acts on the wanted branch alone."""

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
