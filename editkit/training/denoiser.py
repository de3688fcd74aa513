"""The objective of `denoiser`: the noise of spoiled photographs, at all strengths alike.

    repeat: x0 ~ photographs, (y, level) ~ `spoiling`
            descend the gradient of  mean(log(|y - x0 - N(y, level)|^2 / (level^2 + ROUNDED^2) + FLOOR))

The squared error of a window divided by the noise's own; its logarithm is the PSNR, up to a factor (Chen et al. 2022,
arXiv:2204.04676, train with it), so that windows with much noise or texture do not outweigh the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from editkit.models.denoiser.network import DenoiserNet
from editkit.training.device import device_of
from editkit.training.draws import Draws, split_count
from editkit.training.network import write_atomically
from editkit.training.pictures import load_collection, windows
from editkit.training.settings import Architecture, DenoiserSettings
from editkit.training.sheets import grid
from editkit.training.spoiling import KINDS, SHARES, spoil
from editkit.training.store import Store

ROUNDED = 0.29 / 127.5
"""Standard deviation of rounding to 8 bits; pictures with less noise than that count as having so much."""

FLOOR = 0.02
"""Windows of which less than this part of the noise is left do not count more than others."""


@dataclass(frozen=True)
class Spoiled:
    """A batch: clean pictures and noisy ones (B, 3, H, W), levels (B, 1, 1, 1), and kinds of noise (B,)."""

    x0: Tensor
    y: Tensor
    level: Tensor
    task: Tensor

    def part(self, first: int, workers: int) -> Spoiled:
        rows = slice(first, None, workers)
        return Spoiled(self.x0[rows], self.y[rows], self.level[rows], self.task[rows])


class Learner(nn.Module):
    """The network as the loop trains it: (y, level) -> noise, with one level for each picture."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.net = DenoiserNet(architecture.channels, architecture.layers, architecture.unshuffle)

    @property
    def learner(self) -> nn.Module:
        """The part to train."""
        return self.net

    def forward(self, y: Tensor, level: Tensor) -> Tensor:
        dtype = self.net.conv_in.weight.dtype
        made: Tensor = self.net(y.to(dtype), level.to(dtype).expand(-1, 1, *y.shape[2:]))
        return made.float()


class DenoiserLesson:
    """Trains the network from random weights."""

    tasks = KINDS

    def __init__(self, settings: DenoiserSettings) -> None:
        self.settings, self.device = settings, device_of(settings)
        self.collection = load_collection(settings.images, settings.architecture.window, settings.heldout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = Learner(settings.architecture)
        self.store = Store(self.collection.training, settings.architecture.window, self.device)

    def draw(self, step: int) -> Spoiled:
        source, batch = Draws((self.settings.seed, step), self.device), self.settings.batch
        counts = split_count(batch, SHARES, source)
        x0 = self.store.draw(batch, source)
        return Spoiled(x0, *spoil(x0, counts, source))

    def losses(self, network: Learner, batch: Spoiled) -> Tensor:
        error = network(batch.y, batch.level) - (batch.y - batch.x0)
        part = error.square().mean((1, 2, 3)) / (batch.level.view(-1).square() + ROUNDED**2)
        each: Tensor = (part + FLOOR).log()
        return each

    @cached_property
    def measured(self) -> list[Tensor]:
        """Return two windows of each held-out photograph, (photographs, 3, window, window) each."""
        held, window = self.collection.heldout, self.settings.architecture.window
        return [windows(held, window, part).to(self.device) for part in range(2)]

    def validation(self) -> Iterator[Spoiled]:
        """Yield each kind of noise on the same windows."""
        for kind in range(len(KINDS)):
            for part, x0 in enumerate(self.measured):
                counts = [len(x0) if index == kind else 0 for index in range(len(KINDS))]
                yield Spoiled(x0, *spoil(x0, counts, Draws((0, part, kind + 1), self.device)))

    @torch.no_grad()
    def sheet(self, network: Learner) -> Image.Image:
        """Draw rows: truth, then for each kind of noise the spoiled and the cleaned pictures."""
        collection, window = self.collection, self.settings.architecture.window
        x0 = windows((collection.heldout or collection.training)[:16], window, 0).to(self.device)
        rows = [x0]
        for kind in range(len(KINDS)):
            counts = [len(x0) if index == kind else 0 for index in range(len(KINDS))]
            y, level, _ = spoil(x0, counts, Draws((1, kind), self.device))
            rows += [y, y - network(y, level)]
        return grid([row.cpu() for row in rows])

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write denoiser.json and the weights in fp16."""
        from safetensors.torch import save

        half = {name: value.detach().to(torch.float16).contiguous() for name, value in weights.items()}
        shape = self.settings.architecture
        described = {
            "format": 1,
            "input": ["y", "level"],
            "input_note": "y in [-1, 1]; level: the noise's standard deviation in the same unit, one channel",
            "output": "the noise: y minus the clean picture",
            "kinds": list(KINDS),
            "unshuffle": shape.unshuffle,
            "channels": list(shape.channels),
            "layers": shape.layers,
        }
        write_atomically(folder / "model.safetensors", save(half, {"format": "pt"}))
        write_atomically(folder / "denoiser.json", (json.dumps(described, indent=2) + "\n").encode())
