"""Group norms whose sums do not depend on the number of threads.

For channels-last pictures of at least 1024 pixels, torch's kernel gives each thread a share of the pixels and adds up
the partial sums, so the rounding depends on the number of threads. In bf16, a quarter of the bytes of an edit then
differed by up to 2 levels. Here the number of pixels determines the number of blocks, one thread computes the sum of a
block, and the sums of the blocks are added in order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from editkit.models.fast.packing import needs_plain_weights

SHARED = 1024
"""From this many pixels, torch's kernel splits a sum among threads."""

MOST = 64
"""Maximum number of blocks, and minimum number of pixels in a block."""


class SteadyGroupNorm(nn.GroupNorm):
    """torch's group norm with a fixed rounding of its sums; torch's own kernel if gradients are needed."""

    def forward(self, input: Tensor) -> Tensor:
        if needs_plain_weights(input) or self.weight is None or self.weight.requires_grad or not _splits_sums(input):
            return super().forward(input)
        batch, channels, height, width = input.shape
        pixels = height * width
        x = input.permute(0, 2, 3, 1).reshape(batch, pixels, channels).float()
        count, width_of = _block_count(pixels), channels // self.num_groups
        parts = x.view(batch * count, pixels // count, channels)
        square = parts * parts  # one array: the output reuses it
        sums = torch.stack((parts.sum(1), square.sum(1))).view(2, batch, count, self.num_groups, width_of)
        mean, squares = (sums.sum((2, 4)) / (pixels * width_of)).unbind()
        scale = torch.addcmul(squares, mean, mean, value=-1.0).clamp_min_(0.0).add_(self.eps).rsqrt_()
        factor = (scale[..., None] * self.weight.view(self.num_groups, width_of)).view(batch, 1, channels)
        shift = torch.addcmul(self.bias.float(), mean.repeat_interleave(width_of, 1)[:, None], factor, value=-1.0)
        out = torch.addcmul(shift, x, factor, out=square.view_as(x)).to(input.dtype)
        return out.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _splits_sums(x: Tensor) -> bool:
    """Return whether torch's kernel would split the sums of `x` among threads."""
    last = x.ndim == 4 and x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)
    return last and not x.is_contiguous() and x.shape[2] * x.shape[3] >= SHARED


def _block_count(pixels: int) -> int:
    """Return the number of blocks that `pixels` are split into: a power of two."""
    count = 1
    while count < MOST and pixels % (2 * count) == 0 and pixels // (2 * count) >= MOST:
        count *= 2
    return count


def use_steady_norms(network: Any) -> Any:
    """Replace the group norms of `network` (frozen) by `SteadyGroupNorm`, and return it."""
    for module in network.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = SteadyGroupNorm
    return network
