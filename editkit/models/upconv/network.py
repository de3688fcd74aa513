"""`upconv`: the embedded network that doubles a picture; its estimate is the mean of the possible sharp pictures.

Seven layers without noise input, waifu2x's "upconv 7" for photographs (after Dong et al. 2016, FSRCNN,
arXiv:1608.00367: the picture is enlarged by the last layer, so the others work at the small size):

    3 -> 16 -> 32 -> 64 -> 128 -> 128 -> 256, 3x3 without padding, each with leaky ReLU of slope 0.1;
    256 -> 3, transposed, 4x4, stride 2.

A network trained on squared errors returns E[x | y] for the small picture y. As a denoiser that is a model that y
says everything to and x_t nothing: E[x | x_t, y] = E[x | y] at every level, so one step is all there is. Larger
factors double again, and the rest of the factor is a bicubic resize.

A pixel depends on the seven nearest pixels of the small picture in each direction, so tiles with that margin equal the
whole picture, and memory for features does not grow with it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import ModelInfo, PixelSpace
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Cosine, Level
from editkit.errors import ModelError
from editkit.pictures.resizing import resize

if TYPE_CHECKING:
    from collections.abc import Iterator

CHANNELS = (3, 16, 32, 64, 128, 128, 256)
SLOPE = 0.1
MARGIN = 7
"""Pixels of the small picture on which an enlarged pixel depends, in each direction."""

TILE = 256
"""Side of a tile, in pixels of the small picture: 256 channels of it are 70 MB."""

SLIGHT = 0.15
"""A factor up to 2^SLIGHT = 1.11 beyond what is doubled is left to the bicubic resize."""


class Doubling(nn.Module):
    """(B, 3, h + 14, w + 14) in [0, 1] -> (B, 3, 2h, 2w): the picture without its margin, doubled."""

    def __init__(self) -> None:
        super().__init__()
        pairs = itertools.pairwise(CHANNELS)
        self.layers = nn.ModuleList(nn.Conv2d(before, after, 3) for before, after in pairs)
        self.enlarge = nn.ConvTranspose2d(CHANNELS[-1], 3, 4, stride=2, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.leaky_relu_(layer(x), SLOPE)
        out: Tensor = self.enlarge(x)
        return out


@dataclass(frozen=True, eq=False)
class Upconv(PixelSpace):
    """The network as a `Model`.

    Args:
        info: from `editkit.models.upconv.model.info`.
        network: on its device, in its dtype.
        small: the picture to enlarge, (1, 3, h, w) in [-1, 1]; None: none yet, so the model cannot be used.
    """

    info: ModelInfo
    network: Doubling
    small: Tensor | None = None

    @property
    def schedule(self) -> Cosine:
        return Cosine()  # its only step starts from pure noise, where guidance acts on x0 itself

    def enlarging(self, small: Tensor, scale: float) -> Upconv:
        """Return the model for enlargements of `small`, (1, 3, h, w)."""
        return replace(self, small=small)

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Upconv:
        """Return the model itself.

        Raises:
            ModelError: there is no picture to enlarge.
        """
        if self.small is None:
            raise ModelError(
                "model upconv only enlarges: use it with the plugin upscale, or another --model, as pocket"
            )
        return self

    def sharpened(self, lowres: Tensor) -> Tensor:
        """Return E[x | small] in the size of `lowres`, (1, 3, H, W)."""
        assert self.small is not None
        height, width = lowres.shape[-2:]
        x = self.small
        for _ in range(doublings(max(height / x.shape[-2], width / x.shape[-1]))):
            x = self._double(x)
        return resize(x, height, width).clamp(-1.0, 1.0)

    @torch.no_grad()
    def _double(self, small: Tensor) -> Tensor:
        """Double (1, 3, h, w) in tiles; the picture's edge is repeated beyond it."""
        _, _, height, width = small.shape
        padded = F.pad(small, (MARGIN,) * 4, mode="replicate")
        made = small.new_empty(1, 3, 2 * height, 2 * width)
        dtype = self.network.enlarge.weight.dtype
        for rows, columns in _tiles(height, width):
            shown = padded[..., rows.start : rows.stop + 2 * MARGIN, columns.start : columns.stop + 2 * MARGIN]
            part = self.network((0.5 * shown + 0.5).to(dtype, memory_format=torch.channels_last))
            made[..., 2 * rows.start : 2 * rows.stop, 2 * columns.start : 2 * columns.stop] = 2.0 * part.float() - 1.0
        return made.clamp_(-1.0, 1.0)

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        """Return E[x | y] = `cond.lowres` (from `sharpened`) for each conditioning; x_t is (b, 3, H, W).

        Raises:
            ModelError: a conditioning has no `lowres`, or a gradient in x_t is wanted.
        """
        if x_t.requires_grad:
            raise ModelError(
                "model upconv does not depend on the noisy state, so it is guided in one step only: leave --steps and "
                "--strength out, or use --model pocket"
            )
        if any(cond.lowres is None for cond in conds):
            raise ModelError("model upconv needs a small picture, and was given none; use it with the plugin upscale")
        means = [cond.lowres.expand_as(x_t).to(x_t) for cond in conds if cond.lowres is not None]
        return tuple(Prediction(x0, (x_t - level.alpha * x0) / max(level.sigma, 1e-8)) for x0 in means)


def doublings(scale: float) -> int:
    """Return how often to double for a factor of `scale`, above 1: at least once."""
    return max(1, math.ceil(math.log2(scale) - SLIGHT))


def _tiles(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of tiles that cover a picture."""
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            yield slice(top, min(top + TILE, height)), slice(left, min(left + TILE, width))
