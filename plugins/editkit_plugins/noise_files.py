"""Noise files: the state at the top of an inversion, its settings, and the learnt null-text embeddings."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.plugin import Run, UsageError
from editkit_plugins.null_text import NullText, empty_prompt, guided_by

if TYPE_CHECKING:
    from torch import Tensor

VERSION = "1"
"""Version of the file format."""


def check_free(path: str) -> None:
    """Raise UsageError if `path` exists."""
    if os.path.lexists(path):
        raise UsageError(f"--save-noise {path}: exists already; give another name")


def noise_settings(run: Run) -> dict[str, Any]:
    """Return the settings that the noise depends on. If one of them changes, the way down does not lead back."""
    from editkit.models.files.fingerprint import fingerprint

    original = run.inputs.original
    level = run.levels[run.plan.top]
    return {
        "version": VERSION,
        "model": run.model.info.name,
        "weights": fingerprint(run.model.info),
        "size": None if original is None else [original.shape[-1], original.shape[-2]],
        "shape": list(run.shape),
        "steps": run.plan.steps,
        "level": run.plan.top,
        "ratio": math.atan2(level.sigma, level.alpha),
        "sampler": run.options.sampler,
        "spacing": run.options.spacing,
        "prompt": run.options.prompt,
    }


SAID = {"model": "model", "weights": "weights", "size": "size", "shape": "shape", "steps": "--steps",
        "level": "--strength", "sampler": "--sampler", "spacing": "--spacing"}  # fmt: skip
"""Setting that must be equal -> its name in messages. The prompt may differ."""


def save(path: str, x: Tensor, run: Run, learner: NullText | None = None) -> None:
    """Write the state `x` (batch, channels, ...) at the top of the plan, and the learnt embeddings, atomically.

    Raises:
        PictureError: the file cannot be written, or exists already.
    """
    from safetensors.torch import save as as_bytes

    from editkit.pictures.files.atomic import save_bytes

    settings, tensors = noise_settings(run), {"x": x.detach().cpu().contiguous()}
    if learner is not None:
        settings["guidance"] = learner.scale
        tensors |= {f"null {index}": e.cpu().contiguous() for index, e in learner.learnt.items()}
    save_bytes(Path(path), as_bytes(tensors, {"editkit-noise": json.dumps(settings)}))


def read_learned(path: str, run: Run) -> dict[int, Tensor]:
    """Read the learnt null-text embeddings: level index -> (batch, tokens, width), on the run's device.

    The result is empty if the file has none.

    Raises:
        UsageError: the file cannot be read, or its embeddings are for another guidance scale or another model.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            settings = json.loads((file.metadata() or {}).get("editkit-noise", "null"))
            kept = {int(k.split()[1]): file.get_tensor(k) for k in list(file.keys()) if k.startswith("null ")}
    except (OSError, SafetensorError, ValueError, IndexError, RecursionError) as error:
        raise UsageError(f"--from-noise {path}: cannot be read: {error}") from None
    if not kept or not isinstance(settings, dict):
        return {}
    scale, text = guided_by(run), empty_prompt(run).embeds
    if settings.get("guidance") != scale:
        raise UsageError(
            f"--from-noise {path}: its embeddings were learnt for --guidance-scale {str(settings.get('guidance'))[:20]}"
            f", and here it is {scale:g}"
        )
    for e in kept.values():
        if e.shape[1:] != text.shape[1:] or not (e.is_floating_point() and bool(e.isfinite().all())):
            raise UsageError(f"--from-noise {path}: is damaged: embeddings of shape {tuple(text.shape)} are needed")
    return {index: e.to(run.device, text.dtype) for index, e in kept.items()}


def load_noise(path: str, run: Run) -> Tensor:
    """Read the noise from a file: (batch, channels, ...), on the run's device.

    Raises:
        UsageError: it is not a noise file, or belongs to another model, size, plan or version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            settings = json.loads((file.metadata() or {}).get("editkit-noise", "null"))
            x: Tensor | None = file.get_tensor("x") if settings is not None else None
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise UsageError(f"--from-noise {path}: cannot be read: {error}") from None
    if settings is None or x is None:
        raise UsageError(f"--from-noise {path}: not a noise file; invert --save-noise writes one")
    here = noise_settings(run)
    if not isinstance(settings, dict) or settings.get("version") != VERSION:
        version = str(settings.get("version") if isinstance(settings, dict) else settings)[:80]
        raise UsageError(f"--from-noise {path}: has version {version}, and this editkit reads {VERSION}")
    for key, word in SAID.items():
        if settings.get(key) != here[key]:
            raise UsageError(
                f"--from-noise {path}: its {word} is {str(settings.get(key))[:80]}, and here it is {here[key]}"
            )
    if tuple(x.shape) != tuple(run.shape) or not (x.is_floating_point() and bool(x.isfinite().all())):
        raise UsageError(f"--from-noise {path}: is damaged: numbers of shape {run.shape} are needed")
    ratio = settings.get("ratio")
    if not isinstance(ratio, float) or not abs(ratio - here["ratio"]) <= 1e-4:
        raise UsageError(f"--from-noise {path}: its noise has another level; use the same --spacing and model")
    return x.to(run.device)
