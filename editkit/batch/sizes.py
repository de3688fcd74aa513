"""How many pictures go through the network at once, and what memory a worker's models need."""

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


def memory_of(chain: Chain) -> int:
    """Bytes that a worker needs for the models of `chain`, as `editkit plan` counts them: weights of all stages, which
    are kept, and the most that one of them needs while it works, at the size its model was trained at. 0: models that
    come with editkit, or whose weights are not on this machine.
    """
    from editkit.diffusion.model import Pass
    from editkit.editing.settle import described
    from editkit.models.needs import bytes_of, needs
    from editkit.pictures.boxes import Box

    kept, working = dict[tuple[str, str | None, str], int](), 0
    for stage in chain.inherited().stages:
        info = described(stage)
        side = info.window or 512
        once, packs = [Pass(Box(0, 0, side, side), side, side, 1)], stage.options.quantize
        found = needs(info.name, once, bytes_of(stage.options.dtype), info.transformer, packs)
        if found is not None:
            kept[info.name, info.transformer, packs] = found.network + found.readers + found.vae
            working = max(working, found.working)
    return sum(kept.values()) + working
