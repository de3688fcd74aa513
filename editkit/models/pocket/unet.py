"""`pocket`'s network without diffusers: a UNet2DConditionModel with only the blocks that it uses.

Importing diffusers takes longer than an edit; the same network with the same names fits on a page. Weights,
configuration and results equal those of diffusers' class (a test compares them), which is used in training.

    x, conv_in, [ResNet blocks (attention at the lowest level), 2x down], ..., middle, [..., 2x up], ..., conv_out

Blocks after Ho et al. 2020 (arXiv:2006.11239), appendix B; pictures are (B, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editkit.errors import ModelError

_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "UNetMidBlock2D", "AttnUpBlock2D", "UpBlock2D")
_EPS = 1e-5


class Resnet(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + time)))."""

    def __init__(self, channels: int, out: int, time: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels, _EPS), nn.GroupNorm(groups, out, _EPS)
        self.conv1, self.conv2 = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, out)
        self.conv_shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(time))[:, :, None, None]
        out: Tensor = self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(h)))
        return out


class Attention(nn.Module):
    """x + softmax(q k^T / sqrt(d)) v over the pixels of norm(x), `heads` times."""

    def __init__(self, channels: int, width: int, groups: int) -> None:
        super().__init__()
        self.heads = channels // width
        self.group_norm = nn.GroupNorm(groups, channels, _EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            part(pixels).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.to_q, self.to_k, self.to_v)
        )
        mixed = self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        out: Tensor = x + mixed.transpose(1, 2).reshape(x.shape)
        return out


class Sample(nn.Module):
    """Halve or double the size, with a convolution."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else x)
        return out


class Block(nn.Module):
    """One level, downwards or upwards: ResNet blocks, optionally with attention, and a resampling layer."""

    def __init__(
        self, ins: Sequence[int], out: int, time: int, groups: int, head: int | None, down: bool, up: bool
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(channels, out, time, groups) for channels in ins])
        self.attentions = nn.ModuleList([Attention(out, head, groups) for _ in ins] if head else [])
        self.downsamplers = nn.ModuleList([Sample(out, up=False)] if down else [])
        self.upsamplers = nn.ModuleList([Sample(out, up=True)] if up else [])

    def one(self, k: int, x: Tensor, time: Tensor) -> Tensor:
        """Apply the k-th ResNet block, and the attention after it."""
        x = self.resnets[k](x, time)
        out: Tensor = self.attentions[k](x) if self.attentions else x
        return out


class PocketUNet(nn.Module):
    """(x, t, label) -> prediction, (B, out_channels, H, W).

    Raises:
        ModelError: the configuration has other blocks.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        used = {*config["down_block_types"], config["mid_block_type"], *config["up_block_types"]}
        if used - {*_BLOCKS}:
            raise ModelError(
                f"pocket's network has blocks of other kinds ({', '.join(sorted(used - {*_BLOCKS}))}); "
                f"known are {', '.join(_BLOCKS)}"
            )
        self.config = dict(config)
        channels, layers = list(config["block_out_channels"]), int(config["layers_per_block"])
        groups, head, time = config["norm_num_groups"], config["attention_head_dim"], 4 * channels[0]
        self.first, last = channels[0], len(channels) - 1
        self.conv_in = nn.Conv2d(config["in_channels"], channels[0], 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(channels[0], time), "linear_2": nn.Linear(time, time)}
        )
        self.class_embedding = nn.Embedding(config["num_class_embeds"], time)

        def attends(kind: str) -> int | None:
            return head if kind.startswith("Attn") else None

        self.down_blocks, skips, before = nn.ModuleList(), [channels[0]], channels[0]
        for level, (out, kind) in enumerate(zip(channels, config["down_block_types"], strict=True)):
            ins = [before, *[out] * (layers - 1)]
            self.down_blocks.append(Block(ins, out, time, groups, attends(kind), level < last, False))
            skips += [out] * (layers + (level < last))
            before = out
        self.mid_block = Block([before], before, time, groups, None, False, False)
        self.up_blocks = nn.ModuleList()
        for level, (out, kind) in enumerate(zip(channels[::-1], config["up_block_types"], strict=True)):
            ins = [inside + skips.pop() for inside in (before, *[out] * layers)]
            self.up_blocks.append(Block(ins, out, time, groups, attends(kind), False, level < last))
            before = out
        self.conv_norm_out = nn.GroupNorm(groups, channels[0], _EPS)
        self.conv_out = nn.Conv2d(channels[0], config["out_channels"], 3, padding=1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PocketUNet:
        """Build the network with random weights."""
        return cls(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.class_embedding.weight.dtype

    def forward(
        self, x: Tensor, t: Tensor, label: Tensor, down: Sequence[Tensor] | None = None, mid: Tensor | None = None
    ) -> Tensor:
        """x: (B, in_channels, H, W); t: (B,), training times; label: (B,), the task; `down` and `mid` (of a
        ControlNet) are added to the skip and middle features.
        """
        half = self.first // 2
        rates = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=x.device) / half)
        angles = t[:, None].float() * rates
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1).to(x.dtype)
        layers = self.time_embedding
        time = layers["linear_2"](F.silu(layers["linear_1"](waves))) + self.class_embedding(label)
        x = self.conv_in(x)
        skips = [x]
        for block in cast("list[Block]", list(self.down_blocks)):
            for k in range(len(block.resnets)):
                x = block.one(k, x, time)
                skips.append(x)
            for sampler in block.downsamplers:
                x = sampler(x)
                skips.append(x)
        x = self.mid_block.one(0, x, time)
        if down is not None:
            skips = [skip + more for skip, more in zip(skips, down, strict=True)]
        if mid is not None:
            x = x + mid
        for block in cast("list[Block]", list(self.up_blocks)):
            for k in range(len(block.resnets)):
                x = block.one(k, torch.cat([x, skips.pop()], dim=1), time)
            for sampler in block.upsamplers:
                x = sampler(x)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return out
