"""Tiny decoders for previews (TAESD and its like, Bohan 2023: https://github.com/madebyollin/taesd): diffusers'
AutoencoderTiny. They decode the same latents at a thousandth of the VAE's cost; results never use
them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.common.places import expand_path
from editkit.errors import ModelError, UsageError
from editkit.models.files.layout import Layout
from editkit.models.files.weights import PICKLES, compare, pickle_error, read, shapes

if TYPE_CHECKING:
    import torch

NAMES = ("taesd", "taesdxl", "taesd3", "taef1", "vae_tiny", "tiny_vae")
"""Subfolders of a model folder that may contain one."""

FIRST = "decoder.layers.0.weight"
"""The tensor whose shape gives the number of latent channels."""


def tiny_decoder_file(word: str) -> Path:
    """Return the folder or .safetensors file that `--preview-decoder` names.

    Raises:
        UsageError: it does not exist.
        ModelError: it is a pickle, or another network.
    """
    path = expand_path(word)
    try:
        there = path.exists()
    except (OSError, ValueError):
        there = False
    if not there:
        raise UsageError(f"--preview-decoder {word[:200]}: no such folder or file")
    if path.is_file() and path.suffix.lower() in PICKLES:
        raise ModelError(pickle_error(word, path))
    channels(path)
    return path


def decoder_beside(folder: Path) -> Path | None:
    """Return the tiny decoder in a model folder; None: there is none."""
    for name in NAMES:
        path = folder / name
        if (path / "config.json").is_file():
            return path
    return None


def channels(path: Path) -> int:
    """Return the number of latent channels that it takes.

    Raises:
        ModelError: it is not an AutoencoderTiny.
    """
    if path.is_dir():
        config = Layout(str(path), path).config()
        if config.get("_class_name") == "AutoencoderTiny":
            return int(config.get("latent_channels", 4))
        raise ModelError(f"--preview-decoder {path}: is a {config.get('_class_name')}; it must be an AutoencoderTiny")
    found = dict(shapes(path.name, path)).get(FIRST)
    if found is None or len(found) != 4:
        raise ModelError(f"--preview-decoder {path}: has no {FIRST}; it must have the weights of an AutoencoderTiny")
    return int(found[1])


def load(path: Path, device: torch.device) -> Any:
    """Load the decoder in float32, frozen.

    Raises:
        ModelError: weights are missing or have the wrong shape.
    """
    import torch
    from diffusers import AutoencoderTiny

    from editkit.models.files.loading import load_network

    if path.is_dir():
        return load_network(Layout(str(path), path), "", AutoencoderTiny, torch.float32, device)
    made = AutoencoderTiny(latent_channels=channels(path))
    expected = {key: tuple(value.shape) for key, value in made.state_dict().items()}
    compare(f"--preview-decoder {path.name}", dict(shapes(path.name, path)), expected)
    made.load_state_dict(dict(read(path.name, path, lambda _: torch.float32)), strict=False)
    return made.to(device).eval().requires_grad_(False)
