"""How many pictures go through the network at once."""

from __future__ import annotations

from editkit.plugin.chain import Chain

MOST_HERE, MOST_GPU = 8, 32
"""More is no faster: docs/scale.md has the figures of this processor."""


def most_at_once(chain: Chain) -> int:
    """As many as half of the free memory holds, by what `editkit plan` counts with: the bytes a pixel of a latent UNet
    at the size its model was trained at. 1 for a model whose prior is the picture itself: there is nothing to share.
    """
    from editkit.common.device import pick_device
    from editkit.editing.settle import described
    from editkit.models.memory import DENOISER, available

    found = []
    for stage in chain.inherited().stages:
        info = described(stage)
        if info.own_picture:
            return 1
        device = pick_device(stage.options.device)
        needed = DENOISER[4] * (info.window or 512) ** 2
        most = MOST_HERE if device.type == "cpu" else MOST_GPU
        found.append(max(1, min(most, int(available(device) / 2 / needed))))
    return min(found)
