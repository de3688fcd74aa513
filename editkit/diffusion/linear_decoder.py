"""A linear approximation of a latent model's decoder: pixels ~ enlarge(W x0 + b).

Guidance through the decoder needs its backward pass at every step. Colours are nearly linear in the latent, so a 3 x c
matrix, fitted by least squares to a few decoded latents, suffices for losses on colour, layout and rough shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.diffusion.space import space_of

if TYPE_CHECKING:
    from editkit.diffusion.model import Model

SIDE = 16
"""Side of the latents to which it is fitted."""


def linear_decoder(model: Model, shape: Sequence[int], known: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Fit a differentiable map from latents (b, c, h, w) to pixels (b, 3, H, W).

    Args:
        model: the model whose decoder is approximated. On pixels its decoder is returned, which is linear already.
        shape: shape of a state, (b, c, h, w).
        known: the edited picture in the model's space. W and b are fitted to it and to smooth noise.
    """
    factor = space_of(model).factor
    if factor == 1:
        return model.decode
    generator = torch.Generator().manual_seed(0)
    channels = shape[1]
    device = torch.device("cpu") if known is None else known.device
    coarse = torch.randn((4, channels, SIDE // 4, SIDE // 4), generator=generator)
    latents = [1.5 * F.interpolate(coarse, (SIDE, SIDE), mode="bicubic").to(device)]
    if known is not None:
        latents += [F.adaptive_avg_pool2d(known, min(2 * SIDE, *known.shape[-2:])), known[..., : 2 * SIDE, : 2 * SIDE]]
    rows, wanted = [], []
    with torch.no_grad():
        for z in latents:
            small = F.avg_pool2d(model.decode(z).clamp(-1.0, 1.0), factor)
            rows.append(F.pad(z.movedim(1, -1).reshape(-1, channels), (0, 1), value=1.0))
            wanted.append(small.movedim(1, -1).reshape(-1, 3))
        solved = torch.linalg.lstsq(torch.cat(rows).cpu(), torch.cat(wanted).cpu()).solution.to(device)

    def decode(x0: Tensor) -> Tensor:
        small = torch.einsum("bchw,ck->bkhw", x0, solved[:-1]) + solved[-1].view(1, 3, 1, 1)
        return F.interpolate(small, scale_factor=float(factor), mode="bilinear")

    return decode
