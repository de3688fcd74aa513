"""Previews of a running edit, by a tiny decoder if there is one, else by the model's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editkit.errors import ModelError
from editkit.models import folder_of
from editkit.models.latent import tiny
from editkit.models.leasing import Lease

if TYPE_CHECKING:
    from editkit.editing.settle import StagePlan

SIDE = 64
"""Side in pixels with which a model is queried for its channels."""


@dataclass(frozen=True)
class PreviewDecoder:
    """Decodes an estimate by the tiny decoder at `path`, loaded on first use: (1, 3, h, w) in about [-1, 1]."""

    path: Path
    lease: Lease
    device: torch.device

    def __call__(self, x0: Tensor) -> Tensor:
        network = self.lease.network(tiny.load, self.path, self.device)
        with torch.no_grad():
            made: Tensor = network.decode(x0.to(self.device, torch.float32)).sample
        return made


def preview_decoder(settled: StagePlan, lease: Lease, device: torch.device) -> PreviewDecoder | None:
    """Return the decoder for previews of this stage; None: the model's own decoder.

    It is the tiny decoder of the option `preview_decoder`, else a fitting one in the model's folder.

    Raises:
        ModelError: the requested decoder is for other latents.
    """
    asked = settled.options.preview_decoder
    if not settled.diffuses:
        return None
    path = tiny.tiny_decoder_file(asked) if asked is not None else _decoder_beside(settled.info.name)
    if path is None:
        return None
    multiple = settled.info.multiple
    has, reads = lease.model.shape(SIDE * multiple, SIDE * multiple)[0], tiny.channels(path)
    if has == reads:
        return PreviewDecoder(path, lease, device)
    if asked is None:
        return None
    raise ModelError(
        f"--preview-decoder {asked} reads latents of {reads} channels, but those of {settled.info.name} "
        f"({settled.info.family}) have {has}; leave it out"
    )


def _decoder_beside(name: str) -> Path | None:
    try:
        folder = folder_of(name)
    except ModelError:  # a model object
        return None
    return tiny.decoder_beside(folder) if folder is not None and folder.is_dir() else None
