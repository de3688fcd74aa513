"""`denoiser`: the embedded network that removes noise of a known level (`editkit.models.denoiser.network`).

It estimates E[x0 | x_t] at levels up to `LOUDEST` only, so it generates nothing: a process must begin from a picture
that hardly differs from the result, as those of denoise, of JPEG and of sharpening do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import Model, ModelInfo, PixelSpace
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Cosine, Level
from editkit.errors import ModelError
from editkit.models import assets
from editkit.models.files.layout import Layout

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.models.denoiser.network import DenoiserNet

KNOWN = "denoiser (noise of a known level)"

FORMAT = 1
"""Format of denoiser.json."""

LOUDEST = 80.0
"""Greatest noise, in levels of 255, relative to the picture; trained up to 75."""

STRIP, HALO = 256, 64
"""Rows that are computed at a time, and rows of the picture beside them that the network sees: further ones change a
result by less than a thousandth of a level (tests/test_denoiser.py)."""


def matches(layout: Layout) -> bool:
    """Whether the folder was exported by `editkit train denoiser`."""
    return (layout.path / "denoiser.json").is_file()


def describe(layout: Layout) -> ModelInfo:
    """Describe the network by denoiser.json."""
    wiring = layout.json("denoiser.json")
    multiple = int(wiring["unshuffle"]) * 2 ** (len(wiring["channels"]) - 1)
    return ModelInfo(layout.name, KNOWN, sampler="ddim", steps=8, multiple=multiple, loudest=LOUDEST / 127.5)


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the network in `dtype`."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from editkit.models.denoiser.network import DenoiserNet

    wiring, file = layout.json("denoiser.json"), layout.path / "model.safetensors"
    if wiring.get("format") != FORMAT:
        raise ModelError(
            f"model {layout.name}: denoiser.json is of format {wiring.get('format')}, this editkit reads {FORMAT}; "
            "train it again, or use the editkit that made it"
        )
    try:
        found = {name: value.float() for name, value in load_file(file).items()}
        if wiring["layers"] * len(wiring["channels"]) > len(found):
            raise ValueError(f"{wiring['layers']} layers, but {len(found)} tensors")
        with torch.device("meta"):  # the configuration may ask for more memory than there is
            network = DenoiserNet(wiring["channels"], wiring["layers"], wiring["unshuffle"])
        network.load_state_dict(found, assign=True)
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"model {layout.name}: {file} does not fit denoiser.json ({reason}); train it again"
        ) from error
    network.to(device=device, dtype=dtype).to(memory_format=torch.channels_last)
    return Denoiser(info, network.requires_grad_(False).eval())


def info() -> ModelInfo:
    """Describe the embedded network."""
    return describe(assets.layout("denoiser", "pocket"))


def make(info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the embedded network."""
    return load(assets.layout("denoiser", "pocket"), info, device, dtype)


def weights() -> Path | None:
    """Return the embedded network's folder."""
    return assets.folder("denoiser")


class Denoiser(PixelSpace):
    """The network as a `Model`, with the cosine schedule up to `LOUDEST`.

    Args:
        info: from `describe`.
        network: on its device, in its dtype.
    """

    held = 200
    """Numbers that a backward pass holds for each value of x_t: 4 features of a quarter of the pixels in each of 30
    layers, and those of the lower levels."""

    def __init__(self, info: ModelInfo, network: DenoiserNet) -> None:
        self.info, self.network, self.schedule = info, network, Cosine()

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        """Predict at x_t (b, 3, h, w), at a level up to `LOUDEST`; no condition changes it."""
        ratio = level.sigma / level.alpha
        y = x_t / level.alpha
        noise = self.noise_in(y, ratio)
        made = Prediction(y - noise, noise / max(ratio, 1e-8))
        return (made,) * len(conds)

    def noise_in(self, y: Tensor, ratio: float) -> Tensor:
        """Return the estimate of the noise in y (b, 3, h, w) with standard deviation `ratio`, in strips."""
        import torch

        height, parts = y.shape[-2], []
        for first in range(0, height, STRIP):
            top, bottom = max(0, first - HALO), min(height, first + STRIP + HALO)
            made = self._of_strip(y[..., top:bottom, :], ratio)
            parts.append(made[..., first - top : first - top + min(STRIP, height - first), :])
        return torch.cat(parts, dim=-2)

    def _of_strip(self, y: Tensor, ratio: float) -> Tensor:
        """Return the noise in a strip, mirrored at its edges to whole multiples."""
        from editkit.models.denoiser.network import mirrored

        height, width = y.shape[-2:]
        wide = mirrored(y, -height % self.network.multiple, -width % self.network.multiple)
        wide = wide.to(self.network.dtype)
        made: Tensor = self.network(wide, wide.new_full((len(wide), 1, *wide.shape[-2:]), ratio))
        return made[..., :height, :width].float()

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Denoiser:
        return self
