"""Layers that keep their weights in the processor's blocked layout.

oneDNN reorders a layer's weights into blocks before it multiplies, at every call: over a gigabyte for the UNet of
Stable Diffusion 1.5. These layers do it at the first call and keep the blocks in place of the plain weights.

- Convolutions: the multiplication is the same, so the results are equal to the last bit.
- Gates, `a * gelu(b)` of one matrix product (Shazeer 2020, GEGLU): two products instead of one. The product for b
  applies gelu and the product for a multiplies as they write their outputs, which saves two passes over all values. In
  bf16 this rounds less often, so the result is closer to the exact one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

_PACKING = Lock()
"""One thread packs a layer; the others wait and then find it packed."""


class _BlockedWeights(nn.Module):
    """A layer on the CPU that keeps its weights in blocks from its first call on."""

    plain: ClassVar[type[nn.Module]]
    blocks: tuple[Tensor, ...] | None
    """Parts of the weights, split along the output channels."""

    @property
    def weight(self) -> Tensor:
        """The plain weights; a copy once they are packed."""
        plain = self._parameters["weight"]  # read first: a packing thread sets the blocks, then removes these
        if plain is not None:
            return plain
        assert self.blocks is not None
        with torch.inference_mode(False):
            weight = torch.cat([part.to_dense() for part in self.blocks])
            # the layout before packing: a different order of the same numbers rounds gradients differently
            return weight.to(memory_format=torch.channels_last) if weight.ndim == 4 else weight

    def keep(self, order: Callable[[Tensor], Tensor], parts: int = 1) -> tuple[Tensor, ...]:
        """Return the blocks, which `order` makes at the first call."""
        if self.blocks is None:
            with _PACKING:
                if self.blocks is None:
                    with torch.inference_mode(False), torch.no_grad():
                        self.blocks = tuple(order(part.contiguous()) for part in self.weight.detach().chunk(parts))
                    self._parameters["weight"] = None
        return self.blocks

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight if keep_vars else self.weight.detach()

    def release(self) -> None:
        """Turn this into an ordinary layer again."""
        self._parameters["weight"] = nn.Parameter(self.weight, requires_grad=False)
        del self.blocks
        plain: Any = self.plain
        self.__class__ = plain

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _BlockedWeights:
        """Turn a layer into an ordinary one again if it is moved, converted or given another layout."""
        plain: Any = self.plain
        self.release()
        done: _BlockedWeights = plain._apply(self, fn, recurse)
        return done


def needs_plain_weights(x: Tensor) -> bool:
    """Return whether gradients are needed or torch.compile traces: neither supports blocks."""
    return bool((torch.is_grad_enabled() and x.requires_grad) or torch.compiler.is_compiling())


class Packed(_BlockedWeights, nn.Conv2d):  # type: ignore[override]
    """A convolution; it behaves as an ordinary one if gradients are needed, and when `weight` is read."""

    plain = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        if needs_plain_weights(input):
            return super().forward(input)
        how = (self.padding, self.stride, self.dilation, self.groups)
        order = torch.ops.mkldnn._reorder_convolution_weight
        (blocks,) = self.keep(lambda weight: order(weight, *how, list(input.shape)))
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(input, blocks, self.bias, *how, "none", [], "")
        return out


class PackedGate(_BlockedWeights, nn.Linear):  # type: ignore[override]
    """The matrix product of a GEGLU, (..., in) to (..., 2 out); an ordinary layer apart from `gated`."""

    plain = nn.Linear

    def gated(self, x: Tensor) -> Tensor:
        """Return `a * gelu(b)`, (..., out), where a and b are the two halves of this product."""
        order, product = torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise
        values, gates = self.keep(lambda weight: order(weight, x.numel() // x.shape[-1]), parts=2)
        a, b = (None, None) if self.bias is None else self.bias.chunk(2)
        out: Tensor = product(x, product(x, gates, b, "gelu", [], "none"), values, a, "mul")
        return out


def pack(network: Any) -> Any:
    """Let the convolutions of `network` (frozen, on the CPU) be packed at their first call if torch can; return it."""
    for module in network.modules() if has_onednn() else ():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            swap(module, Packed)
    return network


def unpack(network: nn.Module) -> Sequence[tuple[nn.Module, type[_BlockedWeights]]]:
    """Make every layer of `network` ordinary, for code that inspects layers; return those that were not, for `swap`."""
    kept = [(module, type(module)) for module in network.modules() if isinstance(module, _BlockedWeights)]
    for module, _ in kept:
        module.release()
    return kept


def has_onednn() -> bool:
    """Return whether this torch has the operators of oneDNN."""
    backend: Any = torch.backends.mkldnn
    return bool(backend.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise"))


def swap(module: nn.Module, kind: type[_BlockedWeights]) -> None:
    """Turn `module` into a layer that will keep its weights in blocks."""
    module.__class__ = kind
    cast(_BlockedWeights, module).blocks = None
