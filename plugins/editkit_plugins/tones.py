"""Guide copied content: adjust its tones to minimise a loss, and keep its texture.

A model whose prior is the picture itself only copies: no gradient makes it draw another colour. So its result is
multiplied by a gain that varies smoothly and fades out at the rim of the hole,

    u' = (u + E) exp(g) - E,  u = (x + 1) / 2,  g(x, y, channel) smooth,

where g minimises  STRONG * amount * loss(x') + mean g^2. With a gain instead of an offset, dark pixels stay dark and
the contrast of texture scales with its brightness, as under another light.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STRONG = 100.0
"""Weight of the loss relative to the squared gain."""

DARK = 0.06
"""E in the formula, which lets a gain lighten even black."""

CELLS = 12
"""Number of grid points of the gain along the longer side, with bicubic interpolation in between."""

ROUNDS = 40
"""Maximum number of L-BFGS iterations."""

RIM = 0.2
"""Width of the fade at the rim, relative to the depth of the hole."""

LEAST = 3.0
"""Smallest width of the fade, in pixels."""


def adjust_tones(image: Tensor, hole: Tensor | None, loss: Callable[[Tensor], Tensor], amount: float) -> Tensor:
    """Adjust the tones of `image` inside `hole`.

    Args:
        image: (1, 3, h, w) in [-1, 1].
        hole: (h, w), bool; None: everywhere.
        loss: maps the pixels of its `interior`, (1, 3, 1, n), to one number.
        amount: strength of the loss.
    """
    import torch
    import torch.nn.functional as F

    height, width = image.shape[-2:]
    fade = image.new_ones(height, width) if hole is None else _fade(hole)
    at = torch.ones_like(fade, dtype=torch.bool) if hole is None else hole
    if not bool(at.any()):
        return image
    inside = at if hole is None else interior(hole)
    cells = [max(2, round(CELLS * n / max(height, width))) for n in (height, width)]
    g = torch.zeros(1, 3, *cells, device=image.device, requires_grad=True)
    before = image.detach().float()

    def with_gain() -> Tensor:
        gain = F.interpolate(g, (height, width), mode="bicubic", align_corners=True) * fade
        return ((before + 1.0) / 2.0 + DARK) * torch.exp(gain) - DARK

    optimizer = torch.optim.LBFGS([g], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        seen = (2.0 * with_gain() - 1.0).clamp(-1.0, 1.0)[..., inside][:, :, None]
        value = STRONG * amount * loss(seen).sum() + g.square().mean()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        made = (2.0 * with_gain() - 1.0).clamp(-1.0, 1.0).to(image)
    return made.where(at, image)


def interior(hole: Tensor) -> Tensor:
    """Return the part of `hole` (h, w) that is more than half adjusted: what the loss sees.

    Over the whole hole, the middle would overshoot to make up for the rim.
    """
    return _fade(hole) >= 0.5


def _fade(hole: Tensor) -> Tensor:
    """Return weights (h, w): 0 outside `hole`, rising smoothly to 1 inside."""
    import cv2
    import torch

    depth = torch.from_numpy(cv2.distanceTransform(hole.byte().cpu().numpy(), cv2.DIST_L2, 3)).to(hole.device)
    rise = (depth / max(LEAST, RIM * float(depth.max()))).clamp(0.0, 1.0)
    return rise * rise * (3.0 - 2.0 * rise)
