"""Pictures as prompts, as a model sees them: tokens that its attention looks at beside the text's (IP-Adapter, Ye et
al. 2023, arXiv:2308.06721).

A plugin puts an `ImageTokens` into `Conditioning.image_prompts`. The model evaluates it, since only the model knows the
branches of guidance and the layers of its network. The network is not changed: the layers that look at the tokens are
handed in with the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from editkit.diffusion.control import cut_like

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class TakesImagePrompts(Protocol):
    """A model that takes `image prompt`: its network has layers whose attention can look at further tokens."""

    @property
    def denoiser(self) -> Any:
        """The network that is called at every step."""
        ...

    def places(self) -> Places:
        """Where an adapter can act."""
        ...


@dataclass(frozen=True)
class Places:
    """The layers of a network at which an adapter acts.

    Args:
        kind: the class of the network, as diffusers calls it.
        layers: (name, width) of each, in the order in which a file of an adapter has them.
        text: the width of the tokens that they look at.
    """

    kind: str
    layers: tuple[tuple[str, int], ...]
    text: int


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """One picture, or several that are looked at together, as a model's attention is to see them.

    Args:
        layers: an adapter's part of each layer, by the layer's name; the same object for the same adapter.
        tokens: (batch or 1, tokens, width), of the pictures.
        unwanted: as `tokens`, what the branch of guidance without the prompt looks at.
        scale: how strongly it is added to what the text contributes; 0: not at all.
        mask: (batch or 1, 1, h, w) of 0 and 1 over the whole picture, where it is added; None: everywhere.
    """

    layers: Mapping[str, Any]
    tokens: Tensor
    unwanted: Tensor
    scale: float = 1.0
    mask: Tensor | None = None

    def cut(self, spots: Sequence[tuple[slice, slice]], size: Sequence[int]) -> ImageTokens:
        """The same for windows of a state of `size`: rows and columns of each, one after the other in the batch."""
        import torch

        return replace(
            self,
            tokens=torch.cat([self.tokens] * len(spots)),
            unwanted=torch.cat([self.unwanted] * len(spots)),
            mask=None if self.mask is None else cut_like(self.mask, spots, size),
        )
