"""Classifiers that can guide: p(y | x_t, t) of noisy states, and p(y | picture) of clean ones.

Which of both a classifier is decides how it is asked (`Noisy`, `Clean`), and both give logits (batch, classes). They
come from a folder (`editkit train classifier` makes one; timm's layout as well), from a hub id, or as an architecture
of torchvision or timm with a file of weights. Weights are safetensors only. Nothing here imports torch when it is
loaded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from editkit.errors import ModelError, UsageError
from editkit.schedule import Level, Levels
from editkit.spec import nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

OWN = "EditkitClassifier"
"""The class name in the configuration of what `editkit train classifier` saves."""

KINDS = "a folder, a hub id (owner/name), torchvision:NAME:FILE.safetensors or timm:NAME[:FILE.safetensors]"


@runtime_checkable
class Noisy(Protocol):
    """p(y | x_t, t): asked of the noisy state itself."""

    labels: Sequence[str]

    def at(self, x_t: Tensor, level: Level) -> Tensor:
        """Logits (batch, classes) of x_t (batch, channels, ...)."""
        ...

    def check(self, shape: Sequence[int], levels: Levels) -> None:
        """Raises ModelError where it was not trained for states of this shape or for these levels."""
        ...


@dataclass(frozen=True, eq=False)
class Clean:
    """p(y | picture), with the size and normalisation it was trained with.

    Args:
        network: (batch, channels, size, size), normalised -> logits.
        labels: by number.
        size: the side it takes.
        mean, std: of pixels in [0, 1], by channel.
    """

    network: Callable[[Tensor], Tensor]
    labels: Sequence[str]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Tensor) -> Tensor:
        """Logits (batch, classes) of pictures (batch, 3, h, w) in [-1, 1], stretched to its size."""
        return self.through(self.network)(image)

    def through(self, part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """A part of the network (its trunk, say) as a function of pictures (batch, 3, h, w) in [-1, 1]."""
        return lambda image: part(self._prepared(image))

    def _prepared(self, image: Tensor) -> Tensor:
        import torch.nn.functional as F

        shrinks = min(image.shape[-2:]) > self.size
        image = F.interpolate(image, (self.size, self.size), mode="bicubic", antialias=shrinks, align_corners=False)
        mean, std = (image.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return ((image + 1.0) / 2.0 - mean) / std


@dataclass(frozen=True, eq=False)
class NoiseAware:
    """A network that was trained on x_t = alpha_t x0 + sigma_t eps at log(alpha_t / sigma_t) within `log_snr`.

    It sees x_t / sqrt(alpha_t^2 + sigma_t^2) and the log-SNR: two tables with the same log-SNR are the same to it.

    Args:
        network: (x, log_snr) -> logits, x (batch, channels, size, size), log_snr (batch,).
        labels: by number.
        channels, size: of the states it was trained on.
        log_snr: the lowest and highest it was trained at.
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
                f"{self.name} was trained on states of {_size(wanted)}, and these are {_size(shape[1:])}: noise cannot "
                f"be resized; train one for this size (editkit train classifier) or use an ordinary classifier"
            )
        low, high = self.log_snr
        noisiest = min(v.log_snr for v in levels if v.alpha > 0.0)
        if noisiest < low - 0.5:
            raise ModelError(
                f"{self.name} was not trained for this schedule: it knows log-SNR from {low:.1f} to {high:.1f}, and "
                f"the run begins at {noisiest:.1f}; train one with this --model (editkit train classifier), use an "
                f"ordinary classifier, or let it act later (--start)"
            )


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]} channels of {'x'.join(str(side) for side in shape[1:])}"


def is_noisy(source: Any) -> bool:
    """Whether a classifier's source is noise-aware, by its configuration alone; reads no weights."""
    if not isinstance(source, str):
        return hasattr(source, "at")
    file = Path(source).expanduser() / "config.json"
    try:
        return "log_snr" in json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def load_classifier(source: str, device: torch.device, *, offline: bool = False) -> Clean | NoiseAware:
    """The classifier called `source` (see `KINDS`), frozen.

    Raises:
        ModelError: not found, weights missing, misshapen or in a pickle; a channel count that pictures do not have.
    """
    from editkit.classifiers import loading

    library, _, rest = source.partition(":")
    if library in ("torchvision", "timm") and rest:
        name, _, file = rest.partition(":")
        return loading.by_architecture(library, name, file, device, offline=offline)
    return loading.from_folder(source, device, offline=offline)


def resolve(label: str, labels: Sequence[str]) -> int:
    """The number of a label given by number or name; case, underscores and what follows a comma do not matter.

    Raises:
        UsageError: none or several are called so; names the nearest.
    """
    if re.fullmatch(r"\d+", label) and label not in labels:
        if int(label) >= len(labels):
            raise UsageError(f"label {label}: the classifier has {len(labels)} labels, 0 to {len(labels) - 1}")
        return int(label)
    plain = [_plain(name) for name in labels]
    wanted = _plain(label)
    found = [k for k, name in enumerate(plain) if name == wanted]
    if len(found) > 1:
        numbers = ", ".join(map(str, found))
        raise UsageError(f"label {label!r}: several are called so, numbers {numbers}; give the number")
    if not found:
        inside = [name for name in plain if wanted in name.split() or wanted in name]
        near = nearest(wanted, plain, most=3, cutoff=0.5) or inside[:3]
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; it has {', '.join(plain[:5])} ..."
        raise UsageError(f"label {label!r}: the classifier has none of {len(labels)} called so{hint}")
    return found[0]


def _plain(name: str) -> str:
    return re.sub(r"[\s_]+", " ", name.split(",")[0]).strip().lower()
