"""Oklab, a colour space in which equal distances look about equal (Ottosson 2020).

L is lightness, 0 black to 1 white; a and b are the chroma: |(a, b)| is how colourful a colour is, and its angle the
hue. Images are (..., 3, h, w), in [-1, 1] as sRGB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
"""Linear sRGB -> responses of the cones."""

LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
"""Cube roots of the responses -> L, a, b."""

HALVINGS = 14
"""Number of halvings of the search for the largest chroma that a screen shows."""


def to_oklab(image: Tensor) -> Tensor:
    """Convert sRGB in [-1, 1] to Oklab; both (..., 3, h, w)."""
    u = (image + 1.0) / 2.0
    linear = ((u.clamp(min=0.04045) + 0.055) / 1.055).pow(2.4).where(u > 0.04045, u / 12.92)
    cones = _mix(LMS, linear)
    return _mix(LAB, cones.sign() * cones.abs().pow(1.0 / 3.0))


def from_oklab(lab: Tensor) -> Tensor:
    """Convert Oklab to sRGB in [-1, 1], beyond it where a screen cannot show the colour; both (..., 3, h, w)."""
    linear = _unmix(LMS, _unmix(LAB, lab).pow(3.0))
    u = (1.055 * linear.clamp(min=0.0031308).pow(1.0 / 2.4) - 0.055).where(linear > 0.0031308, 12.92 * linear)
    return 2.0 * u - 1.0


def from_oklab_in_gamut(lab: Tensor) -> Tensor:
    """Do the same, but within [-1, 1]: lightness and hue are kept, and chroma is reduced as far as necessary."""
    import torch

    lab = torch.cat([lab[..., :1, :, :].clamp(0.0, 1.0), lab[..., 1:, :, :]], -3)
    image = from_oklab(lab)
    outside = ((image < -1.0) | (image > 1.0)).any(-3)
    if bool(outside.any()):
        colours = lab.movedim(-3, -1)[outside].T[..., None]  # (3, n, 1)
        low, high = torch.zeros_like(colours[0]), torch.ones_like(colours[0])
        for _ in range(HALVINGS):
            middle = (low + high) / 2.0
            shown = from_oklab(torch.stack([colours[0], middle * colours[1], middle * colours[2]]))
            fits = ((shown >= -1.0) & (shown <= 1.0)).all(0)
            low, high = middle.where(fits, low), high.where(fits, middle)
        shown = from_oklab(torch.stack([colours[0], low * colours[1], low * colours[2]]))
        last = image.movedim(-3, -1).clone()
        last[outside] = shown[..., 0].T
        image = last.movedim(-1, -3)
    return image.clamp(-1.0, 1.0)


def _mix(matrix: tuple[tuple[float, ...], ...], image: Tensor) -> Tensor:
    """Multiply the colours of `image` (..., 3, h, w) by `matrix`."""
    import torch

    return torch.einsum("ij,...jhw->...ihw", image.new_tensor(matrix), image)


def _unmix(matrix: tuple[tuple[float, ...], ...], image: Tensor) -> Tensor:
    """Multiply the colours of `image` (..., 3, h, w) by the inverse of `matrix`."""
    import torch

    inverse = torch.linalg.inv(torch.tensor(matrix, dtype=torch.float64)).to(image)
    return torch.einsum("ij,...jhw->...ihw", inverse, image)
