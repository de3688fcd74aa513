"""The two kinds of classifiers: p(y | x_t, t) of noisy states, and p(y | picture) of clean pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from editkit.diffusion.schedule import Level, Levels
from editkit.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

OWN = "EditkitClassifier"
"""The class name in the configurations that `editkit train classifier` saves."""

KINDS = "a folder, a hub id (owner/name), torchvision:NAME:FILE.safetensors or timm:NAME[:FILE.safetensors]"


@runtime_checkable
class Noisy(Protocol):
    """p(y | x_t, t), evaluated at the noisy state itself."""

    labels: Sequence[str]

    def at(self, x_t: Tensor, level: Level) -> Tensor:
        """Return the logits (batch, classes) of x_t (batch, channels, ...)."""
        ...

    def check(self, shape: Sequence[int], levels: Levels) -> None:
        """Raise ModelError if it was not trained for states of this shape or for these levels."""
        ...


@dataclass(frozen=True, eq=False)
class Clean:
    """p(y | picture), with the size and normalisation of its training.

    Args:
        network: (batch, channels, size, size), normalised -> logits.
        labels: names, indexed by class number.
        size: side of its input, in pixels.
        mean, std: of pixels in [0, 1], by channel.
    """

    network: Callable[[Tensor], Tensor]
    labels: Sequence[str]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Tensor) -> Tensor:
        """Return the logits (batch, classes) of pictures (batch, 3, h, w) in [-1, 1], resized to its size."""
        return self.through(self.network)(image)

    def through(self, part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return a part of the network (such as its trunk) as a function of pictures (batch, 3, h, w) in [-1, 1]."""
        return lambda image: part(self._normalise(image))

    def _normalise(self, image: Tensor) -> Tensor:
        import torch.nn.functional as F

        shrinks = min(image.shape[-2:]) > self.size
        image = F.interpolate(image, (self.size, self.size), mode="bicubic", antialias=shrinks, align_corners=False)
        mean, std = (image.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return ((image + 1.0) / 2.0 - mean) / std


@dataclass(frozen=True, eq=False)
class NoiseAware:
    """A network trained on x_t = alpha_t x0 + sigma_t eps with log(alpha_t / sigma_t) within `log_snr`.

    Its input is x_t / sqrt(alpha_t^2 + sigma_t^2) and the log-SNR, so schedules with the same log-SNR are equivalent.

    Args:
        network: (x, log_snr) -> logits, x (batch, channels, size, size), log_snr (batch,).
        labels: names, indexed by class number.
        channels, size: shape of the states it was trained on.
        log_snr: the lowest and highest log-SNR of its training.
        name: for messages.
    """

    network: Callable[[Tensor, Tensor], Tensor]
    labels: Sequence[str]
    channels: int
    size: int
    log_snr: tuple[float, float]
    name: str

    def at(self, x_t: Tensor, level: Level) -> Tensor:
        low, high = self.log_snr
        x = x_t / math.hypot(level.alpha, level.sigma)
        return self.network(x, x.new_full((len(x),), min(max(level.log_snr, low), high)))

    def check(self, shape: Sequence[int], levels: Levels) -> None:
        wanted = (self.channels, self.size, self.size)
        if tuple(shape[1:]) != wanted:
            raise ModelError(
                f"{self.name} was trained on states of {_format_shape(wanted)}, and these are "
                f"{_format_shape(shape[1:])}: noise cannot be resized; train one for this size "
                f"(editkit train classifier) or use an ordinary classifier"
            )
        low, high = self.log_snr
        noisiest = min(v.log_snr for v in levels if v.alpha > 0.0)
        if noisiest < low - 0.5:
            raise ModelError(
                f"{self.name} was not trained for this schedule: it knows log-SNR from {low:.1f} to {high:.1f}, and "
                f"the run begins at {noisiest:.1f}; train one with this --model (editkit train classifier), use an "
                f"ordinary classifier, or let it act later (--start)"
            )


def _format_shape(shape: Sequence[int]) -> str:
    return f"{shape[0]} channels of {'x'.join(str(side) for side in shape[1:])}"
