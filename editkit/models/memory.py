"""Estimate the memory of a latent model, before its weights are loaded and before it runs.

Weights are counted from the headers of their files. The memory of the computation was measured with the networks of
Stable Diffusion 1.5 on a CPU (docs/diffusers.md): bytes per pixel, for half and single precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from editkit.diffusion.capability import capability
from editkit.diffusion.model import HoldsStates
from editkit.errors import ModelError
from editkit.models.files import quantising
from editkit.models.files.layout import Layout
from editkit.models.files.overlay import DENOISERS, list_tensors
from editkit.models.files.quantised import method, must_unpack, plain_numbers
from editkit.models.files.weights import NUMBERS, Stored, read_stored, weight_files

if TYPE_CHECKING:
    import torch

    from editkit.common.notify import Notify
    from editkit.diffusion.model import Model, Pass

DECODER = {2: 1_000, 4: 3_500}
"""Bytes per pixel of a decoding VAE, by the size of a number."""

DENOISER = {2: 1_200, 4: 2_400}
"""Bytes per pixel of a latent UNet with both branches of guidance."""

_READERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


@runtime_checkable
class Tiles(Protocol):
    """A model whose decoder can work in tiles of `tile_side` pixels per side; None if it only works in one piece."""

    @property
    def tile_side(self) -> int | None: ...

    def tile(self) -> None:
        """Decode and encode large pictures in tiles from now on."""
        ...


def estimate_memory(layout: Layout, itemsize: int, free: int, beside: int = 0, gpu: bool = False) -> bool:
    """Check before reading whether the weights fit. True: only without the text encoders, which must then stay on disk.

    Args:
        layout: a model's folder.
        itemsize: bytes of one of its numbers.
        free: free bytes.
        beside: further bytes that any computation needs; text encoders stay on disk for them too.
        gpu: whether it is a GPU's memory.

    Raises:
        ModelError: they do not fit; the message says what is needed, what is free, and what helps.
    """
    network, readers, vae = sizes(layout, itemsize, gpu)
    needed = network + vae
    if needed + readers + (beside if readers else 0) <= free:
        return False
    if readers and needed <= free:
        return True
    of_what = " without the text encoders" if readers else ""
    raise ModelError(
        f"model {layout.name}: its weights need {_gb(needed)} of memory{of_what}, and {_gb(free)} are free; "
        f"what helps: {_options_for(itemsize, gpu)}{_packing(layout)}a smaller --model, closing other programs"
    )


def _packing(layout: Layout) -> str:
    """Suggest fewer bits if a denoiser's weights are not quantised."""
    parts = [part for part in DENOISERS if layout.file is None and layout.index and layout.has(part)]
    plain = parts and layout.over is None and all(method(layout, part) is None for part in parts)
    gguf = "a GGUF of its network (--transformer FILE.gguf), "
    return ("" if layout.int8 else "--quantize int8, ") + gguf if plain else ""


def sizes(layout: Layout, itemsize: int, gpu: bool = True) -> tuple[int, int, int]:
    """Return the bytes of the denoiser, the text encoders, and the VAE, from the headers of their files, with numbers
    of `itemsize` bytes. Quantised weights stay so, except those that are unpacked without a `gpu`. A single file counts
    as the denoiser. `layout.int8`: the denoiser's linear layers are quantised.

    Raises:
        ModelError: there are no weights, or they cannot be read.
    """
    if layout.file is not None:
        return _bytes(read_stored(layout.name, layout.file), itemsize), 0, 0

    def of(parts: Sequence[str]) -> int:
        return sum(_of(layout, part, itemsize, gpu) for part in parts if layout.has(part))

    own = quantising.denoisers(layout)
    if layout.int8:
        files = [weight_files(layout, part)[0] for part in own] if layout.over is None else [layout.over]
        denoiser = sum(quantising.size(list_tensors(layout.name, file), itemsize) for file in files)
    else:
        denoiser = of(own) if layout.over is None else _bytes(list_tensors(layout.name, layout.over), itemsize)
    return (denoiser, of(_READERS), of(("vae",))) if layout.index else (denoiser, 0, 0)


def _options_for(itemsize: int, gpu: bool) -> str:
    """Return the options that reduce memory, for messages."""
    return ("" if itemsize == 2 else "--dtype bf16, ") + ("--offload model, " if gpu else "")


def _of(layout: Layout, part: str, itemsize: int, gpu: bool) -> int:
    if must_unpack(layout, part, gpu):
        return itemsize * plain_numbers(layout, part)
    tensors = read_stored(layout.name, weight_files(layout, part)[0])
    return _bytes(tensors, itemsize) if method(layout, part) is None else sum(one.size for one in tensors)


def _bytes(tensors: Iterable[Stored], itemsize: int) -> int:
    return sum(itemsize * math.prod(one.shape) if one.kind in NUMBERS else one.size for one in tensors)


def settle(
    passes: Sequence[Pass], itemsize: int, free: int, notify: Notify, side: int | None, gpu: bool = False
) -> bool:
    """Decide, with a notice, whether the decoder must work in tiles because memory is too small for the whole picture.

    Args:
        passes: the planned passes of a loaded latent model.
        itemsize: bytes of one of its numbers.
        free: free bytes.
        side: side of a tile, in pixels; None: the decoder has no tiles.
        gpu: whether it is a GPU's memory.

    Raises:
        ModelError: it does not fit in tiles either; the message says what is needed, what is free, and what helps.
    """
    pixels = max((at.height * at.width for at in passes), default=0)
    seen = max((at.window**2 if at.window else at.height * at.width for at in passes), default=0)
    network, decoder = seen * DENOISER[itemsize], pixels * DECODER[itemsize]
    tiles = decoder if side is None else min(decoder, side**2 * DECODER[itemsize])
    if max(network, decoder) <= free:
        return False
    if max(network, tiles) <= free:
        notify(f"decoding in tiles of {side}: the whole picture would need {_gb(decoder)}, and {_gb(free)} are free")
        return True
    raise ModelError(
        f"this needs about {_gb(max(network, tiles))} of memory in addition to the model, and {_gb(free)} are free; "
        f"what helps: {_options_for(itemsize, gpu)}--canvas crop or auto, a smaller picture, closing other programs"
    )


def afford_backward(model: Model, height: int, width: int, itemsize: int, device: torch.device) -> None:
    """Refuse a backward pass through the network at this size if memory is too small, for models that report their use.

    Raises:
        ModelError: it does not fit; the message says what is needed and what is free.
    """
    holds = capability(model, HoldsStates)
    needed = 0 if holds is None else holds.held * itemsize * 3 * height * width
    free = available(device)
    if needed > free:
        raise ModelError(
            f"{model.info.name} on {width}x{height} pixels: the backward pass needs about {_gb(needed)} of "
            f"memory, and {_gb(free)} are free; use a smaller picture, or a smaller mask with --canvas crop"
        )


def available(device: torch.device) -> int:
    """Return the free bytes on the networks' device."""
    import psutil
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _gb(number: int) -> str:
    return f"{number / 1e9:.1f} GB"
