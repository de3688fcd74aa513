"""Estimate the memory that each part of a model needs, for `editkit plan`, before weights load.

Sizes come from the headers of the files; no torch. Weights are counted in the dtype of the computation. The working
memory is the estimate of `editkit.models.memory`, measured with the networks of Stable Diffusion 1.5; it is rough for
other families.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from editkit.errors import ModelError
from editkit.models.families import find_named
from editkit.models.files import overlay
from editkit.models.files.layout import Layout
from editkit.models.files.loading import find_layout
from editkit.models.files.quantised import method
from editkit.models.files.quantising import Quantize
from editkit.models.memory import DECODER, DENOISER, sizes

if TYPE_CHECKING:
    from editkit.diffusion.model import Pass

CARDS = (8, 12, 16, 24, 48, 80)
"""Common sizes of GPU memory, in GB."""

ROOM = 0.92
"""The usable share of a GPU's memory; the rest is for the driver and other programs."""

Q4 = 4.5
"""Bits per number of GGUF's Q4_0 and Q4_K, including the scales of the blocks."""

LAYER = 1_000_000_000
"""Most bytes of layers on the GPU at once with `--offload group`."""


@dataclass(frozen=True)
class Needs:
    """The memory that a model needs, in bytes.

    Args:
        network: weights of the denoiser.
        readers: weights of the text encoders.
        vae: weights of the VAE.
        steps: working memory of the denoiser.
        decoding: working memory of the decoder.
        packed: whether the denoiser's weights are quantised already.
        unpacked: the denoiser's weights on a CPU, if they stay quantised only on a GPU.
        int8: the denoiser's weights with `--quantize int8`; None: they are quantised already.
    """

    network: int
    readers: int
    vae: int
    steps: int
    decoding: int
    packed: bool = False
    unpacked: int | None = None
    int8: int | None = None

    @property
    def working(self) -> int:
        """The larger of the two working memories."""
        return max(self.steps, self.decoding)

    def ways(self) -> tuple[tuple[str, int], ...]:
        """Return (what to do, bytes needed), the fastest first."""
        weights = self.network + self.vae
        return (
            ("as it is", weights + self.readers + self.working),
            ("as it is, text encoders read from disk", weights + self.working),
            ("--offload model", max(self.network + self.steps, self.readers, self.vae + self.decoding)),
            ("--offload group", LAYER + self.working),
        )

    def in_four_bits(self, itemsize: int) -> Needs:
        """Return the needs with a GGUF of about four bits per number (Q4_K: 4.5) as the network's weights."""
        return replace(self, network=math.ceil(self.network * Q4 / (8 * itemsize)), packed=True)

    def in_eight_bits(self) -> Needs:
        """Return the needs with `--quantize int8`, if the network is not quantised yet."""
        return self if self.int8 is None else replace(self, network=self.int8, packed=True, int8=None)

    def how(self, room: float) -> str | None:
        """Return the fastest way that fits into `room` bytes; None: none fits."""
        return next((way for way, needed in self.ways() if needed <= room), None)


def needs(
    name: str, passes: Sequence[Pass], itemsize: int, transformer: str | None = None, quantize: Quantize = "none"
) -> Needs | None:
    """Return the needs of the model `name` for `passes`, without connecting to the internet.

    None: the model comes with editkit, works on pixels, or its weights are not on this machine.

    Args:
        name: the model, as for --model.
        passes: the passes of the edit.
        itemsize: bytes per number.
        transformer: the file of its denoiser, if it has one of its own.
        quantize: quantisation of its linear layers.
    """
    if find_named(name) is not None:
        return None
    try:
        layout = find_layout(
            name, offline=True, over=None if transformer is None else overlay.transformer_file(transformer)
        )
        if not layout.has("vae"):
            return None
        packed = overlay.stays_packed(layout.over) or (layout.over is None and _packs(layout))
        small = None if packed or layout.file is not None else replace(layout, int8=True)
        layout = layout if quantize == "none" or small is None else small
        network, readers, vae = sizes(layout, itemsize)
        plain = sizes(layout, itemsize, gpu=False)[0]
        int8 = None if small is None else sizes(small, itemsize)[0]
    except ModelError:
        return None
    seen = max((at.window**2 if at.window else at.height * at.width for at in passes), default=0)
    pixels = max((at.height * at.width for at in passes), default=0)
    return Needs(
        network,
        readers,
        vae,
        seen * DENOISER[itemsize],
        pixels * DECODER[itemsize],
        packed or layout.int8,
        None if plain == network else plain,
        None if layout.int8 else int8,
    )


def _packs(layout: Layout) -> bool:
    """Return whether the folder's own denoiser is quantised."""
    own = [part for part in overlay.DENOISERS if layout.has(part) and layout.file is None]
    return any(method(layout, part) is not None for part in own)


def gpu_cards(found: Needs) -> list[tuple[int, str | None]]:
    """Return for each size of GPU (GB, the fastest way that fits or None)."""
    return [(card, found.how(ROOM * card * 1e9)) for card in CARDS]


def bytes_of(dtype: str) -> int:
    """Return the bytes per number of the option --dtype; `auto` counts as on a GPU."""
    return 4 if dtype == "fp32" else 2


def lines(found: Needs, itemsize: int) -> list[str]:
    """Return the lines for `editkit plan`."""
    import psutil

    parts = {
        "network": found.network, "text encoders": found.readers, "VAE": found.vae,
        "while it works about": found.working,
    }  # fmt: skip
    listed = ", ".join(f"{what} {gb(size)}" for what, size in parts.items() if size)
    free = int(psutil.virtual_memory().available)
    network = found.network if found.unpacked is None else found.unpacked
    fits = network + found.vae + found.working <= free
    how = "" if found.unpacked is None else f", {gb(network)} for the network, which is unpacked"
    rows = [
        f"memory, {itemsize} bytes per number{', the network packed' if found.packed else ''}: {listed}",
        f"GPU of {_by_card(found)}",
    ]
    if not found.packed and found.how(ROOM * CARDS[0] * 1e9) != found.ways()[0][0]:
        eight = found.in_eight_bits()
        if eight is not found:
            rows.append(f"with --quantize int8, about {gb(eight.network)}: GPU of {_by_card(eight)}")
        four = found.in_four_bits(itemsize)
        rows.append(
            f"with a GGUF of its network in 4 bits (--transformer FILE), about {gb(four.network)}: GPU of "
            f"{_by_card(four)}"
        )
    return [*rows, f"CPU, {gb(free)} of memory free{how}: {'as it is' if fits else 'too little'}"]


def _by_card(found: Needs) -> str:
    """Format the GPU sizes with the fastest way that fits each."""
    ways: dict[str, list[str]] = {}
    for card, way in gpu_cards(found):
        ways.setdefault(way or "too small", []).append(f"{card}")
    return "; ".join(f"{', '.join(sizes)} GB: {way}" for way, sizes in ways.items())


def gb(number: int) -> str:
    """Format bytes in GB, at least 0.1."""
    return f"{max(number / 1e9, 0.1):.1f} GB"
