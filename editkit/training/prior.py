"""The objective of `pocket`: Algorithm 1 of Ho et al. 2020 (arXiv:2006.11239) for four tasks at once.

    repeat: x0 ~ photographs, t ~ stratified 0..999, eps ~ N(0, I)
            descend the gradient of  mean(where * weight * |F - F_hat(z, t, task, condition, mask)|^2)

with z and F of `residual`: around the condition c, with the deviation s. `where` is s divided by its mean over the
window: halfway between the error of x0 (s^2) and that of F (1); known pixels (s nearly 0) do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from editkit.errors import EditkitError
from editkit.models.pocket.residual import TASKS, Residual
from editkit.training import diffusion
from editkit.training.conditions import SHARES, draw_conditions
from editkit.training.device import device_of
from editkit.training.draws import Draws, Source, split_count
from editkit.training.fast import use_fast_operations
from editkit.training.loop import Batch
from editkit.training.network import Pocket, export, load
from editkit.training.pictures import load_collection, windows
from editkit.training.settings import PriorSettings
from editkit.training.sheets import training_sheet
from editkit.training.store import Store


def with_noise(
    x0: Tensor, counts: Sequence[int], source: Source, moved: diffusion.Move = diffusion.residual_times
) -> Batch:
    """Make a batch from clean pictures (B, 3, H, W), the first counts[0] for the first task and so on, with conditions,
    times (mapped by `moved`) and noise.
    """
    task, condition, mask, s = draw_conditions(x0, counts, source)
    t = diffusion.stratified_times(len(x0), source)
    t = moved(t, s.square().sum((1, 2, 3)) / s.sum((1, 2, 3)))
    return Batch(x0, t, source.normal(*x0.shape), task, condition, mask, s)


def one_task_counts(task: int, count: int) -> list[int]:
    """Return `counts` for a batch of one task."""
    return [count if index == task else 0 for index in range(len(TASKS))]


def batch_residual(batch: Batch) -> tuple[Residual, Tensor]:
    """Return the residual of a batch, and z."""
    alpha_t, sigma_t = (diffusion.gather_levels(table, batch.t) for table in diffusion.tables_on(batch.t.device))
    residual = Residual(batch.condition, batch.s, alpha_t, sigma_t)
    return residual, residual.seen(alpha_t * batch.x0 + sigma_t * batch.eps)


def losses(batch: Batch, residual: Residual, f_hat: Tensor) -> Tensor:
    """Return the loss of each sample (B,): weighted squared error of F."""
    error: Tensor = (f_hat - residual.target(batch.x0, batch.eps)).square().mean(dim=1, keepdim=True)
    where = batch.s / batch.s.mean(dim=(1, 2, 3), keepdim=True)
    each: Tensor = (error * where * diffusion.weight(residual.sigma)).mean(dim=(1, 2, 3))
    return each


class PriorLesson:
    """Trains the whole UNet for all tasks, from random weights or those of an exported folder."""

    tasks = TASKS

    def __init__(self, settings: PriorSettings, init_from: Path | None = None) -> None:
        self.settings, self.device = settings, device_of(settings)
        self.collection = load_collection(settings.images, settings.architecture.window, settings.heldout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = Pocket(settings.architecture) if init_from is None else load(init_from)
        if self.network.architecture != settings.architecture:
            raise EditkitError(
                f"{init_from}: is of another architecture than this run's; leave out the options that differ"
            )
        if self.device.type == "cpu":
            use_fast_operations(self.network.unet)
        self.store = Store(self.collection.training, settings.architecture.window, self.device)

    def draw(self, step: int) -> Batch:
        source, batch = Draws((self.settings.seed, step), self.device), self.settings.batch
        return with_noise(self.store.draw(batch, source), split_count(batch, SHARES, source), source)

    def losses(self, network: Pocket, batch: Batch) -> Tensor:
        residual, z = batch_residual(batch)
        return losses(batch, residual, network(z, batch.t, batch.task, batch.condition, batch.mask))

    @cached_property
    def measured(self) -> list[Tensor]:
        """Return two windows of each held-out photograph, (photographs, 3, window, window) each."""
        held, window = self.collection.heldout, self.settings.architecture.window
        return [windows(held, window, part).to(self.device) for part in range(2)]

    def validation(self) -> Iterator[Batch]:
        """Yield each task on the same windows."""
        for task in range(len(TASKS)):
            for part, x0 in enumerate(self.measured):
                yield with_noise(x0, one_task_counts(task, len(x0)), Draws((0, part, task + 1), self.device))

    def sheet(self, network: Pocket) -> Image.Image:
        return training_sheet(network, self.collection.heldout or self.collection.training)

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        export(folder, self.settings.architecture, weights)
