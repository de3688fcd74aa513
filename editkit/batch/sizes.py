"""The batch size of the network, and the memory that a worker's models need."""

from __future__ import annotations

from editkit.plugin.chain import Chain

MOST_HERE, MOST_GPU = 8, 32
"""Largest batch sizes; larger ones are not faster (measurements in docs/scale.md)."""


def most_at_once(chain: Chain) -> int:
    """Return the batch size that fits into half of the free memory, by the estimate of `editkit plan`: the bytes per
    pixel of a latent UNet at its training size. 1 for a model whose prior is the picture itself, which cannot be
    batched.
    """
    from editkit.common.device import pick_device
    from editkit.editing.settle import describe_model
    from editkit.models.memory import DENOISER, available

    found = []
    for stage in chain.inherited().stages:
        info = describe_model(stage)
        if info.own_picture:
            return 1
        device = pick_device(stage.options.device)
        needed = DENOISER[4] * (info.window or 512) ** 2
        most = MOST_HERE if device.type == "cpu" else MOST_GPU
        found.append(max(1, min(most, int(available(device) / 2 / needed))))
    return min(found)


def memory_of(chain: Chain) -> int:
    """Return the bytes that a worker needs for the models of `chain`, by the estimate of `editkit plan`: the weights of
    all stages, and the largest working memory of a stage at its model's training size. 0 for models that come with
    editkit, or whose weights are not on this machine.
    """
    from editkit.diffusion.model import Pass
    from editkit.editing.settle import describe_model
    from editkit.models.needs import bytes_of, needs
    from editkit.pictures.boxes import Box

    kept, working = dict[tuple[str, str | None, str], int](), 0
    for stage in chain.inherited().stages:
        info = describe_model(stage)
        side = info.window or 512
        once, packs = [Pass(Box(0, 0, side, side), side, side, 1)], stage.options.quantize
        found = needs(info.name, once, bytes_of(stage.options.dtype), info.transformer, packs)
        if found is not None:
            kept[info.name, info.transformer, packs] = found.network + found.readers + found.vae
            working = max(working, found.working)
    return sum(kept.values()) + working
