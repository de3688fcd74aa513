"""Image prompts as a model sees them: tokens to which its attention attends in addition to those of the text.

IP-Adapter, Ye et al. 2023, arXiv:2308.06721. A plugin puts an `ImageTokens` into `Conditioning.image_prompts`. The
model evaluates it, since only the model knows the branches of guidance and the layers of its network. The network is
not modified: the adapter's layers are passed with the call.
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
    """A model that takes `image prompt`: its network has attention layers that can attend to further tokens."""

    @property
    def denoiser(self) -> Any:
        """The network that is evaluated at every step."""
        ...

    def places(self) -> Places:
        """Return the layers on which an adapter can act."""
        ...


@dataclass(frozen=True)
class Places:
    """The layers of a network on which an adapter acts.

    Args:
        kind: diffusers' name of the network's class.
        layers: (name, width) of each layer, in the order of an adapter's file.
        text: width of the tokens to which they attend.
    """

    kind: str
    layers: tuple[tuple[str, int], ...]
    text: int


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """The tokens of one image prompt, with the adapter's layers; several pictures can share one prompt.

    Args:
        layers: layer name -> the adapter's module for it; the same object for the same adapter.
        tokens: (batch or 1, tokens, width), tokens of the pictures.
        unwanted: the same for the unconditional branch of guidance.
        scale: weight of the contribution that is added to the text's; 0: none.
        mask: (batch or 1, 1, h, w) of 0 and 1 over the whole picture, 1 where it is added; None: everywhere.
    """

    layers: Mapping[str, Any]
    tokens: Tensor
    unwanted: Tensor
    scale: float = 1.0
    mask: Tensor | None = None

    def cut(self, spots: Sequence[tuple[slice, slice]], size: Sequence[int]) -> ImageTokens:
        """Crop for windows of a state of `size`, given by rows and columns; windows are concatenated in the batch."""
        import torch

        return replace(
            self,
            tokens=torch.cat([self.tokens] * len(spots)),
            unwanted=torch.cat([self.unwanted] * len(spots)),
            mask=None if self.mask is None else cut_like(self.mask, spots, size),
        )
