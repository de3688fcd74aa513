"""The network that `editkit train classifier` trains: a CNN conditioned on the noise level.

Residual blocks with group normalisation, each scaled and shifted by an embedding of the log-SNR (Perez et al. 2018,
arXiv:1709.07871; the downsampling trunk of Dhariwal & Nichol 2021, arXiv:2105.05233, without attention).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8


class Block(nn.Module):
    """(b, c_in, h, w), (b, e) -> (b, c_out, h, w)."""

    def __init__(self, c_in: int, c_out: int, e: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, c_in), nn.GroupNorm(GROUPS, c_out)
        self.conv1, self.conv2 = nn.Conv2d(c_in, c_out, 3, padding=1), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.film = nn.Linear(e, 2 * c_out)
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.film(e)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h) * (1.0 + scale) + shift))
        out: Tensor = self.skip(x) + h
        return out


class Network(nn.Module):
    """(x, log_snr) -> logits; x (b, channels, size, size), log_snr (b,).

    Args:
        width: channels of the first of `stages` stages; each further stage doubles them and halves the side.
    """

    def __init__(self, channels: int, classes: int, width: int = 32, stages: int = 3) -> None:
        super().__init__()
        e = 4 * width
        self.register_buffer("frequencies", torch.logspace(-1.5, 1.0, width), persistent=False)
        self.embed = nn.Sequential(nn.Linear(2 * width, e), nn.SiLU(), nn.Linear(e, e), nn.SiLU())
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        widths = [width * 2**k for k in range(stages)]
        self.blocks = nn.ModuleList(Block(a, b, e) for a, b in zip([width, *widths[:-1]], widths, strict=True))
        self.norm = nn.GroupNorm(GROUPS, widths[-1])
        self.head = nn.Linear(widths[-1], classes)

    def features(self, x: Tensor, log_snr: Tensor) -> Tensor:
        """Return the input of the last layer, (b, width * 2^(stages - 1))."""
        waves = log_snr[:, None] * self.get_buffer("frequencies")
        e = self.embed(torch.cat([waves.sin(), waves.cos()], dim=1))
        h = self.stem(x)
        for k, block in enumerate(self.blocks):
            h = block(F.avg_pool2d(h, 2) if k else h, e)
        return F.silu(self.norm(h)).mean((2, 3))

    def forward(self, x: Tensor, log_snr: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x, log_snr))
        return logits
