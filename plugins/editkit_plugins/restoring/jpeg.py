"""JPEG as a degradation: a decoded JPEG determines an interval for every DCT coefficient.

The model is Y'CbCr of BT.601, 8x8 blocks, the tables of the standard's annex K scaled by quality as in libjpeg, and no
chroma subsampling (4:4:4). The observation is the decoded picture before rounding to 8 bits, so A is idempotent:
A(A(x)) = A(x). Kawar et al. 2022 ("JPEG Artifact Correction using DDRM", arXiv:2209.11888) use the decoder as A^+ and
set x0 + y - A(x0). The projection here is the closest picture with the same quantised coefficients instead.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.plugin import Metadata, UsageError
from editkit_plugins.restoring.degradations import Degradation, Size
from editkit_plugins.restoring.pieces import STRIP, pieces

_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8 for _ in range(4)),
)  # fmt: skip
_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def tables(quality: int) -> Tensor:
    """Return the quantisation steps of Y', Cb, Cr at `quality` 1 to 100: (3, 8, 8), each at least 1."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = torch.tensor([_LUMA, _CHROMA, _CHROMA])
    return ((base * scale + 50) // 100).clamp(1, 255).float()


def of_file(file: Metadata | None) -> Tensor:
    """Return the quantisation steps stored in a JPEG file: (3, 8, 8).

    Raises:
        UsageError: the picture is not from a JPEG file.
    """
    if file is None or not file.quantization:
        raise UsageError(
            "restore: --degradation jpeg reads the tables of a JPEG file, but the picture is not from one; give the "
            "quality, such as jpeg:30"
        )
    luma, *others = file.quantization
    chroma = others[0] if others else luma
    return torch.tensor([luma, chroma, chroma], dtype=torch.float32).reshape(3, 8, 8)


def _dct() -> Tensor:
    """Return the matrix of the orthonormal DCT-II of 8 values, (8, 8)."""
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)[None, :]
    matrix = torch.cos(math.pi * (2 * n + 1) * k / 16) * 0.5
    matrix[0] *= math.sqrt(0.5)
    return matrix


class Jpeg(Degradation):
    """JPEG compression of pictures with three channels in [-1, 1]; `steps` (3, 8, 8) as from `tables`.

    `halved`: the file stores its colours at half the size, so that only the luma's intervals are known.
    """

    def __init__(self, steps: Tensor, size: Size, halved: bool = False) -> None:
        super().__init__(size, size)
        self.halved = halved
        self.steps = steps[:, None, None, :, :]
        self._dct = _dct()
        self._ycc = torch.tensor(_YCC)
        self._rgb = torch.linalg.inv(self._ycc.double()).float()

    def coefficients(self, x: Tensor) -> Tensor:
        """Return the DCT coefficients in levels of 255, (batch, 3, rows, columns, 8, 8).

        Edges are replicated to whole blocks.
        """
        height, width = x.shape[-2:]
        levels = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate") * 127.5 - 0.5  # 0 to 255, less 128
        ycc = torch.einsum("ij,bjhw->bihw", self._ycc, levels)
        rows, columns = ycc.shape[-2] // 8, ycc.shape[-1] // 8
        blocks = ycc.reshape(len(x), 3, rows, 8, columns, 8).transpose(-3, -2)
        made: Tensor = self._dct @ blocks @ self._dct.T
        return made

    def picture(self, coefficients: Tensor, height: int) -> Tensor:
        """Invert `coefficients`: (batch, 3, height, w)."""
        blocks = self._dct.T @ coefficients @ self._dct
        ycc = blocks.transpose(-3, -2).flatten(-2).flatten(-3, -2)
        rgb = torch.einsum("ij,bjhw->bihw", self._rgb, ycc)
        made: Tensor = (rgb[..., :height, : self.size[2]] + 0.5) / 127.5
        return made

    def forward(self, x: Tensor) -> Tensor:
        return self.picture((self.coefficients(x) / self.steps).round() * self.steps, x.shape[-2])

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """Clamp every coefficient of x to the interval from which y's coefficient was rounded.

        The result is the closest picture in Y'CbCr, where the intervals are defined.
        """
        return pieces(self._within, -2, STRIP, x, y)

    def _within(self, x: Tensor, y: Tensor) -> Tensor:
        seen = (self.coefficients(y) / self.steps).round() * self.steps
        half = 0.5 * self.steps * (1.0 - 1e-3)
        own = self.coefficients(x)
        made = torch.minimum(torch.maximum(own, seen - half), seen + half)
        if self.halved:
            made[:, 1:] = own[:, 1:]
        return self.picture(made, x.shape[-2])

    def guess(self, y: Tensor) -> Tensor:
        return y
