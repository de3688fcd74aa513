"""Classifiers for guidance: p(y | x_t, t) of noisy states, and p(y | picture) of clean pictures.

The kind decides how a classifier is called (`Noisy`, `Clean`); both give logits (batch, classes). They
come from a folder (made by `editkit train classifier`, or in timm's layout), from a hub id, or as an architecture
of torchvision or timm with a file of weights. Weights are safetensors only. Nothing here imports torch when it is
loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from editkit.common.places import expand_path
from editkit.common.small import read_limited_bytes
from editkit.common.spec import nearest
from editkit.errors import UsageError
from editkit.models.classifiers.kinds import Clean, NoiseAware

if TYPE_CHECKING:
    import torch


def is_noisy(source: Any) -> bool:
    """Whether a classifier is noise-aware; reads only its configuration."""
    if not isinstance(source, str):
        return hasattr(source, "at")
    file = expand_path(source) / "config.json"
    try:
        return "log_snr" in json.loads(read_limited_bytes(file))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def load_classifier(source: str, device: torch.device, *, offline: bool = False) -> Clean | NoiseAware:
    """Load the classifier called `source` (see `KINDS`), frozen.

    Raises:
        ModelError: not found; weights missing, of the wrong shape or in a pickle; not for 3 channels.
    """
    from editkit.models.classifiers import loading

    library, _, rest = source.partition(":")
    if library in ("torchvision", "timm") and rest:
        name, _, file = rest.partition(":")
        return loading.by_architecture(library, name, file, device, offline=offline)
    return loading.from_folder(source, device, offline=offline)


def resolve_label(label: str, labels: Sequence[str]) -> int:
    """Return the number of a label given by number or name; case, underscores and text after a comma are ignored.

    Raises:
        UsageError: no label or several have this name; the message lists the nearest.
    """
    if re.fullmatch(r"\d+", label) and label not in labels:
        if int(label) >= len(labels):
            raise UsageError(f"label {label}: the classifier has {len(labels)} labels, 0 to {len(labels) - 1}")
        return int(label)
    plain = [_normalised(name) for name in labels]
    wanted = _normalised(label)
    found = [k for k, name in enumerate(plain) if name == wanted]
    if len(found) > 1:
        numbers = ", ".join(map(str, found))
        raise UsageError(f"label {label!r}: several labels have this name: {numbers}; give the number")
    if not found:
        inside = [name for name in plain if wanted in name.split() or wanted in name]
        near = nearest(wanted, plain, most=3, cutoff=0.5) or inside[:3]
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; it has {', '.join(plain[:5])} ..."
        raise UsageError(f"label {label!r}: none of the {len(labels)} labels has this name{hint}")
    return found[0]


def _normalised(name: str) -> str:
    return re.sub(r"[\s_]+", " ", name.split(",")[0]).strip().lower()
