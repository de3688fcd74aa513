"""Measures how well generated pixels continue the known ones, to choose between several tries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.pictures.filling import depth_in

SIDE = 7
"""Side of the patches that are compared, in pixels."""

FADE = 1.3
"""Factor by which a patch's weight decreases for each pixel of its centre's depth in the hole."""

MOST = 2_000
"""Largest number of known patches to compare with, evenly spaced."""


def misfit(image: Tensor, mask: Tensor) -> float:
    """Return the mean distance of the patches that touch the hole to their nearest known patch; less is better.

    E = sum_q w_q min_p |q - p|^2 / sum_q w_q, the coherence of Wexler et al. 2007, "Space-time completion of video",
    over squares q that touch `mask` (1, 1, h, w) > 0 and squares p that do not, w_q falling from the rim inwards.
    `image` is (1, c, h, w). The result is 0 if no patch is known, or none touches the hole.
    """
    height, width = image.shape[-2:]
    if min(height, width) < SIDE:
        return 0.0
    unknown = (mask > 0).float()
    touching = (F.max_pool2d(unknown, SIDE, 1) > 0).flatten()
    patches = F.unfold(image, SIDE)[0].T
    known = patches[~touching]
    if len(known) == 0 or not bool(touching.any()):
        return 0.0
    known = known[:: -(-len(known) // MOST)]
    depth = depth_in(unknown[0, 0] > 0)[SIDE // 2 :, SIDE // 2 :][: height - SIDE + 1, : width - SIDE + 1].flatten()
    weights = FADE ** -depth[touching]
    nearest = torch.cat([torch.cdist(some, known).min(1).values for some in torch.split(patches[touching], 1024)])
    return float((weights * nearest.square()).sum() / weights.sum())
