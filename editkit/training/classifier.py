"""Train a classifier on folders of pictures: p(y | x_t, t) for a model's schedule, or p(y | picture).

    repeat: (x0, y) ~ pictures, level t ~ uniform over the schedule's, eps ~ N(0, I)
            descend the gradient of  -log p(y | alpha_t x0 + sigma_t eps, log-SNR_t)

(Dhariwal & Nichol 2021, arXiv:2105.05233, section 4.) One process, one optimizer, minutes for small pictures.
"""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from editkit.diffusion.model import Model
from editkit.errors import EditkitError
from editkit.models.classifiers.kinds import OWN
from editkit.models.classifiers.network import Network
from editkit.pictures.files.formats import PHOTOGRAPHS
from editkit.pictures.picture import Picture
from editkit.pictures.raster import at_depth
from editkit.pictures.tensors import to_unit
from editkit.training.network import write_atomically
from editkit.training.settings import ClassifierSettings

log = logging.getLogger("editkit.training")

LEVELS = 1000
LOG_SNR = 10.0
"""Beyond this the noise is below the resolution of 8 bits."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Pictures (n, 3, size, size) in [-1, 1], their class numbers (n,), and the classes' names."""

    x: Tensor
    y: Tensor
    labels: tuple[str, ...]


def read_folders(folder: Path, size: int) -> Labelled:
    """Read the pictures in `folder`'s subfolders, whose names are the labels, as squares of `size`.

    Raises:
        EditkitError: there are fewer than two labels, or a label has no pictures.
    """
    try:
        labels = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise EditkitError(f"{folder}: {error.strerror or error}") from error
    if len(labels) < 2:
        raise EditkitError(f"{folder}: has {len(labels)} folders; --images needs one folder a label, two or more")
    pictures, classes = [], []
    for number, label in enumerate(labels):
        files = sorted(f for f in (folder / label).iterdir() if f.suffix.lower() in PHOTOGRAPHS)
        if not files:
            raise EditkitError(f"{folder / label}: has no pictures ({', '.join(PHOTOGRAPHS)})")
        pictures += [_read_square(file, size) for file in files]
        classes += [number] * len(files)
    return Labelled(torch.cat(pictures), torch.tensor(classes), tuple(labels))


def _read_square(file: Path, size: int) -> Tensor:
    """Read the centre square, resized: (1, 3, size, size)."""
    from editkit.pictures.resizing import resize

    image = to_unit(at_depth(Picture.read(file).coloured_as(None).visible, np.uint8))
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[..., top : top + side, left : left + side], size, size).clamp(-1.0, 1.0)


def train(data: Labelled, settings: ClassifierSettings, model: Model | None = None) -> tuple[Network, dict[str, Any]]:
    """Train (the network, its configuration). With `model` it is noise-aware, in the model's space and for its
    schedule.

    Raises:
        EditkitError: the loss is not finite.
    """
    x = data.x if model is None else torch.cat([model.encode(part) for part in torch.split(data.x, 64)])
    table = None if model is None else _level_table(model)
    torch.manual_seed(settings.seed)
    network = Network(x.shape[1], len(data.labels), settings.width, settings.stages)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps)
    generator = Generator().manual_seed(settings.seed)
    began, seen, right = time.monotonic(), 0.0, 0.0
    for step in range(1, settings.steps + 1):
        rows = torch.randint(len(x), (settings.batch,), generator=generator)
        x_t, log_snr = _add_noise(x[rows], table, settings.flip, generator)
        logits = network(x_t, log_snr)
        loss = F.cross_entropy(logits, data.y[rows])
        if not bool(torch.isfinite(loss)):
            raise EditkitError(f"step {step}: the loss is not finite; lower --learning-rate")
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        rate.step()
        seen, right = seen + 1.0, right + float((logits.argmax(1) == data.y[rows]).float().mean())
        if step % 250 == 0 or step == settings.steps:
            log.info("step %d: right %.3f", step, right / seen)
            seen = right = 0.0
        if settings.minutes is not None and time.monotonic() - began > 60.0 * settings.minutes:
            log.info("stopped at step %d (time limit)", step)
            break
    config = {
        "_class_name": OWN, "labels": list(data.labels), "channels": x.shape[1], "size": x.shape[-1],
        "width": settings.width, "stages": settings.stages,
    }  # fmt: skip
    if table is not None:
        config["log_snr"] = [float(table[0].min()), float(table[0].max())]
    return network.eval().requires_grad_(False), config


def _level_table(model: Model) -> tuple[Tensor, Tensor, Tensor]:
    """Return (log-SNR, alpha_t, sigma_t) of the model's noise levels, scaled to alpha^2 + sigma^2 = 1."""
    levels = [v for v in model.schedule.levels(LEVELS) if v.alpha > 0.0 and v.log_snr < LOG_SNR]
    norms = [math.hypot(v.alpha, v.sigma) for v in levels]
    return (
        torch.tensor([v.log_snr for v in levels]),
        torch.tensor([v.alpha / n for v, n in zip(levels, norms, strict=True)]),
        torch.tensor([v.sigma / n for v, n in zip(levels, norms, strict=True)]),
    )


def _add_noise(
    x0: Tensor, table: tuple[Tensor, Tensor, Tensor] | None, flip: bool, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Return (x_t, log-SNR) for a batch; without a table, the clean pictures and 0."""
    if flip:
        mirrored = torch.rand(len(x0), generator=generator) < 0.5
        x0 = torch.where(mirrored.view(-1, 1, 1, 1), x0.flip(-1), x0)
    if table is None:
        return x0, torch.zeros(len(x0))
    k = torch.randint(len(table[0]), (len(x0),), generator=generator)
    alpha, sigma = table[1][k].view(-1, 1, 1, 1), table[2][k].view(-1, 1, 1, 1)
    return alpha * x0 + sigma * torch.randn(x0.shape, generator=generator), table[0][k]


FILES = ("model.safetensors", "config.json")
"""The files that `save` writes."""


def save(network: Network, config: dict[str, Any], folder: Path) -> None:
    """Write config.json and model.safetensors (16-bit), each atomically."""
    from safetensors.torch import save as packed

    weights = {name: value.detach().half().contiguous() for name, value in network.state_dict().items()}
    write_atomically(folder / "model.safetensors", packed(weights, {"format": "pt"}))
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"  # labels are folder names, which may have any bytes
    write_atomically(folder / "config.json", text.encode("utf-8", "backslashreplace"))
