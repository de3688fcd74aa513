"""ControlNets as a model sees them: features added to those of its network (Zhang et al. 2023, arXiv:2302.05543).

A plugin puts a `Control` into `Conditioning.control`. The model evaluates it, because only the model knows the inputs
of its network: the states of all branches of classifier-free guidance in one batch, each with its own text. Thus one
call of a ControlNet serves all branches that have it. ControlNets of transformers are called in the family's own way
(`BringsControl`); for most, the residuals of the conditional branch also serve the unconditional one, as in the
original pipelines (`with_wanted_words`).
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
    """A model that takes `control`; residuals must match its UNet's features."""

    unet: Any


@runtime_checkable
class Folded(TakesControl, Protocol):
    """A model whose UNet sees `unshuffle` x `unshuffle` values of the state as channels (pixel unshuffle)."""

    unshuffle: int


@dataclass(frozen=True, eq=False)
class ControlInputs:
    """Inputs of a transformer's ControlNet in addition to the state; they are converted to the model's space once.

    Args:
        hint: (batch or 1, 3, H, W) in [-1, 1], at the picture's size.
        picture: the edited picture, likewise; None if there is none.
        mask: (batch or 1, 1, H, W), 1 = regenerate; None: everything.
        region: the mask in the model's space.
        kind: number of the kind of hint, for a union ControlNet; None for a network with one kind.
    """

    hint: Tensor
    picture: Tensor | None = None
    mask: Tensor | None = None
    region: Tensor | None = None
    kind: int | None = None


@runtime_checkable
class BringsControl(Protocol):
    """A model (a transformer) whose ControlNets have their own class and calling convention."""

    transformer: Any

    def controlnet(self, config: Mapping[str, Any]) -> type[Any]:
        """Return the class of a ControlNet with this configuration.

        Raises:
            ModelError: the ControlNet was not made for this model. The message shows both.
        """
        ...

    def steered(
        self, network: Any, shown: ControlInputs, scale: float, wanted_only: bool, stream: Stream | None
    ) -> Control:
        """Bind `network`, of that class, to its inputs; `stream` is for sampling the encoder's posterior."""
        ...


@dataclass(frozen=True, eq=False)
class Given:
    """Inputs of a network at one step: all branches in one batch, the items of the first branch first.

    Args:
        x: the noisy state without channels that a model concatenates, (branches * batch, channels, h, w).
        t: training timestep of each item.
        words: encoded text, (branches * batch, tokens, width); None for a network without cross-attention.
        added: further embeddings, by diffusers' names (SDXL, FLUX.1).
        label: class numbers.
    """

    x: Tensor
    t: Tensor
    words: Tensor | None = None
    added: Mapping[str, Tensor] | None = None
    label: Tensor | None = None

    def rows(self, rows: Tensor) -> Given:
        """Select items of the batch."""
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
    """Features to add to those of a network.

    For a UNet: one tensor for each skip connection (`down`), and one for the middle block. For a transformer: one after
    each block, None where nothing is added.
    """

    down: tuple[Tensor | None, ...]
    mid: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors in `down`, in order, without None."""
        return [part for part in self.down if part is not None]

    def __add__(self, other: Residuals) -> Residuals:
        down = tuple(_sum(a, b) for a, b in zip(self.down, other.down, strict=True))
        return Residuals(down, _sum(self.mid, other.mid))

    def spread(self, rows: Tensor) -> Residuals:
        """Expand to a whole batch: these residuals where `rows` is True, zeros elsewhere."""

        def spread(part: Tensor | None) -> Tensor | None:
            if part is None:
                return None
            whole = part.new_zeros(len(rows), *part.shape[1:])
            whole[rows] = part
            return whole

        return Residuals(tuple(spread(part) for part in self.down), spread(self.mid))


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def stack_residuals(parts: Sequence[Residuals], copies: int) -> Residuals:
    """Concatenate the residuals of several branches in one batch, each expanded to `copies` items."""
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
    """Steers a network by residuals. `wanted_only`: with guidance, act on the conditional branch only."""

    @property
    def wanted_only(self) -> bool: ...

    def __call__(self, given: Given) -> Residuals:
        """Return the residuals of every item."""
        ...

    def cut(self, spots: Sequence[tuple[slice, slice]], size: Sequence[int]) -> Control:
        """Crop for windows of a state of `size`, given by rows and columns; windows are concatenated in the batch."""
        ...


def cut_like(value: Tensor, spots: Sequence[tuple[slice, slice]], size: Sequence[int]) -> Tensor:
    """Crop windows from a picture that covers a state of `size` (at an integer multiple), and concatenate them."""
    import torch

    k = value.shape[-1] // size[-1]
    return torch.cat([value[..., r.start * k : r.stop * k, c.start * k : c.stop * k] for r, c in spots])
