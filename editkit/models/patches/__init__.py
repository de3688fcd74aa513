"""`patches`: the picture as its own prior. `info` describes the model without torch; `model` is the denoiser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from editkit.common.moved import forward
from editkit.diffusion.model import Model, ModelInfo
from editkit.models.patches.info import PATCHES

if TYPE_CHECKING:
    import torch


class Embedded:
    """`--model patches`."""

    def info(self) -> ModelInfo:
        return PATCHES

    def make(self, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
        from editkit.models.patches.model import Patches

        return Patches()

    def weights(self) -> Path | None:
        return None


EMBEDDED = Embedded()


__getattr__ = forward(__name__)  # names from when this was one module, for one release
