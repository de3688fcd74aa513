"""`editkit train controlnet`: a ControlNet for `pocket` (Zhang et al. 2023, arXiv:2302.05543).

A copy of the UNet's encoder takes z, the network's conditions, and a hint h; its features are added to those of the
frozen UNet through 1x1 convolutions initialised with zeros, so that training starts from the unchanged network:

    F_hat = unet(z, t, task, condition, mask; features + zero_conv(encoder(z + embed(h), t, task)))

The hints come from the project's own detectors. They are computed for every halving of a photograph and then cropped
and resized like the picture. For two photographs in three, a level's hint is a reduced one of one or two levels above,
as in the coarse passes of an edit with a large picture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import ControlNetModel
from PIL import Image
from torch import Generator, Tensor, nn

from editkit.models.pocket.residual import TASKS
from editkit.pictures.filling import smooth_fill
from editkit.plugin import hints
from editkit.training.device import device_of
from editkit.training.diffusion import middle_times
from editkit.training.draws import Draws, Seeded, split_count
from editkit.training.fast import use_fast_operations
from editkit.training.loop import Batch
from editkit.training.masks import box
from editkit.training.network import Pocket, load, write_atomically
from editkit.training.pictures import Collection, Photograph, halve, load_collection, windows
from editkit.training.prior import batch_residual, losses, one_task_counts, with_noise
from editkit.training.settings import ControlSettings
from editkit.training.sheets import grid, solve
from editkit.training.store import Store

SHARES = (0.30, 0.64, 0.0, 0.06)
"""Share of each task in a batch; upscaling has none, because the picture already determines the edges."""
REACH = 3
"""The hint of a level is detected fewer than this many levels above it."""


class Steered(nn.Module):
    """(z, t, task, condition, mask, hint) -> F; hint (B, 3, window, window) in [0, 1]."""

    def __init__(self, pocket: Pocket, controlnet: ControlNetModel | None = None) -> None:
        super().__init__()
        self.pocket = pocket.requires_grad_(False)
        self.controlnet = new_controlnet(pocket) if controlnet is None else controlnet

    @property
    def learner(self) -> nn.Module:
        controlnet: nn.Module = self.controlnet
        return controlnet

    def forward(self, z: Tensor, t: Tensor, task: Tensor, condition: Tensor, mask: Tensor, hint: Tensor) -> Tensor:
        folded = self.pocket.fold(z, condition, mask)
        down, mid = self.controlnet(
            folded, t, None, controlnet_cond=hint.to(folded.dtype), class_labels=task, return_dict=False
        )
        return self.pocket.of_folded(folded, t, task, tuple(down), mid)


@dataclass(frozen=True)
class Hinted:
    """A network with its ControlNet and hint; called like a `Pocket`."""

    steered: Steered
    hint: Tensor

    @property
    def device(self) -> torch.device:
        return self.steered.pocket.device

    def __call__(self, z: Tensor, t: Tensor, task: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        f: Tensor = self.steered(z, t, task, condition, mask, self.hint.to(z.device))
        return f


def new_controlnet(pocket: Pocket) -> ControlNetModel:
    """Build a ControlNet: the UNet's encoder with its weights, zero convolutions, and an embedding that reduces a hint
    to the UNet's size, with one halving for each factor 2 of the unshuffle.
    """
    halvings = pocket.architecture.unshuffle.bit_length() - 1
    channels = tuple(16 * 2**k for k in range(halvings + 1))
    return ControlNetModel.from_unet(pocket.unet, conditioning_embedding_out_channels=channels)


def with_hints(photograph: Photograph, detect: hints.Detect, rise: int) -> Photograph:
    """Add three channels to each level: the hint, detected up to `rise` levels above."""
    own = [
        torch.from_numpy(detect(level.permute(1, 2, 0).contiguous().numpy())).permute(2, 0, 1)
        for level in photograph.levels
    ]
    levels = []
    for k, level in enumerate(photograph.levels):
        hint = own[max(0, k - rise)]
        for _ in range(k - max(0, k - rise)):
            hint = halve(hint)
        levels.append(torch.cat([level, hint]))
    return replace(photograph, levels=tuple(levels))


def add_hints(collection: Collection, control: str) -> Collection:
    """Add hints to the collection; a detector may not download weights here."""
    detect = hints.prepare_detector(hints.make(control), offline=True)
    training = tuple(with_hints(p, detect, i % REACH) for i, p in enumerate(collection.training))
    heldout = tuple(with_hints(p, detect, 0) for p in collection.heldout)
    return replace(collection, training=training, heldout=heldout)


def split(both: Tensor) -> tuple[Tensor, Tensor]:
    """Split (B, 6, H, W) in [-1, 1] into x0 in [-1, 1] and hint in [0, 1]."""
    return both[:, :3], (both[:, 3:] + 1) / 2


class ControlLesson:
    """Trains the ControlNet; the network is read from `settings.base` and stays frozen."""

    tasks = TASKS

    def __init__(self, settings: ControlSettings) -> None:
        self.settings, self.device = settings, device_of(settings)
        pocket = load(settings.base)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = Steered(pocket)
        if self.device.type == "cpu":
            use_fast_operations(pocket.unet)
            use_fast_operations(self.network.controlnet)
        window = settings.architecture.window
        self.collection = add_hints(load_collection(settings.images, window, settings.heldout), settings.control)
        self.store = Store(self.collection.training, window, self.device)

    def draw(self, step: int) -> Batch:
        source, batch = Draws((self.settings.seed, step), self.device), self.settings.batch
        x0, hint = split(self.store.draw(batch, source))
        return replace(with_noise(x0, split_count(batch, SHARES, source), source, middle_times), hint=hint)

    def losses(self, network: Steered, batch: Batch) -> Tensor:
        residual, z = batch_residual(batch)
        return losses(batch, residual, network(z, batch.t, batch.task, batch.condition, batch.mask, batch.hint))

    def windows(self, count: int, part: int) -> tuple[Tensor, Tensor]:
        """Return x0 and hint of random windows, one of each of the first held-out photographs."""
        shown = (self.collection.heldout or self.collection.training)[:count]
        return split(windows(shown, self.settings.architecture.window, part))

    def validation(self) -> Iterator[Batch]:
        """Yield inpainting and prior batches of the same windows."""
        x0, hint = (part.to(self.device) for part in self.windows(len(self.collection.heldout), 0))
        for name in ("inpaint", "prior"):
            task = TASKS.index(name)
            yield replace(
                with_noise(x0, one_task_counts(task, len(x0)), Draws((0, 0, task + 1), self.device)), hint=hint
            )

    def sheet(self, network: Steered, columns: int = 16, steps: int = 10) -> Image.Image:
        """Draw rows: truth, hint, a filled hole without and with the hint, the prior without and with it."""
        x0, hint = self.windows(columns, 7)
        mask = box(len(x0), x0.shape[-1], Seeded(Generator().manual_seed(7)))
        filled, zero, one = smooth_fill(x0, mask), torch.zeros_like(x0), torch.ones_like(mask)
        rows = [x0, hint * 2 - 1]
        for task, condition, where in (("inpaint", filled, mask), ("prior", zero, one)):
            for asked in (network.pocket, Hinted(network, hint)):
                rows.append(solve(asked, task, condition, where, Generator().manual_seed(8), steps))
        return grid(rows)

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write a folder in diffusers' layout, in fp16, with steers.json: detector and hash of the base."""
        from safetensors.torch import save

        model = self.network.controlnet
        half = {name: weights[name].detach().to(torch.float16).contiguous() for name in model.state_dict()}
        config = {key: value for key, value in model.config.items() if not key.startswith("_")}
        base = (self.settings.base / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
        facts = {"control": self.settings.control, "base": "pocket", "sha256": hashlib.sha256(base).hexdigest()}
        for name, value in (("config.json", config | {"_class_name": "ControlNetModel"}), ("steers.json", facts)):
            write_atomically(folder / name, (json.dumps(value, indent=2) + "\n").encode())
        write_atomically(folder / "diffusion_pytorch_model.safetensors", save(half, {"format": "pt"}))
