"""What `pocket` learns: Algorithm 1 of Ho et al. 2020 (arXiv:2006.11239) for four tasks at once.

    repeat: x0 ~ photographs, t ~ stratified 0..999, eps ~ N(0, I)
            descend the gradient of  mean(where * weight * |F - F_hat(z, t, task, condition, mask)|^2)

with z and F of `residual`: around the condition c, with the deviation s. `where` is s divided by its mean over the
window: halfway between the error of x0 (s^2) and that of F (1); known pixels (s nearly 0) do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Generator, Tensor

from editkit.errors import EditkitError
from editkit.models.pocket.residual import TASKS, Residual, deviation
from editkit.training import diffusion
from editkit.training.conditions import SHARES, conditions, deal_tasks
from editkit.training.fast import hasten
from editkit.training.loop import Batch, generator_of
from editkit.training.network import Pocket, export, load
from editkit.training.pictures import crop, draw_batch, load_collection
from editkit.training.settings import PriorSettings
from editkit.training.sheets import training_sheet


def with_noise(
    x0: Tensor, task: Tensor, generator: Generator, moved: diffusion.Move = diffusion.residual_times
) -> Batch:
    """A batch of clean pictures (B, 3, H, W) and tasks (B,), with what the network is told, times (`moved` to where
    they count) and noise.
    """
    condition, mask = conditions(x0, task, generator)
    s = deviation(task, condition, mask)
    t = diffusion.stratified_times(len(x0), generator)
    t = moved(t, s.square().sum((1, 2, 3)) / s.sum((1, 2, 3)))
    return Batch(x0, t, torch.randn(x0.shape, generator=generator), task, condition, mask, s)


def seen(batch: Batch) -> tuple[Residual, Tensor]:
    """The residual of a batch, and z."""
    alpha_t, sigma_t = (diffusion.at(table, batch.t.cpu()).to(batch.t.device) for table in diffusion.tables())
    residual = Residual(batch.condition, batch.s, alpha_t, sigma_t)
    return residual, residual.seen(alpha_t * batch.x0 + sigma_t * batch.eps)


def losses(batch: Batch, residual: Residual, f_hat: Tensor) -> Tensor:
    """Loss of each sample (B,): weighted squared error of F."""
    error: Tensor = (f_hat - residual.target(batch.x0, batch.eps)).square().mean(dim=1, keepdim=True)
    where = batch.s / batch.s.mean(dim=(1, 2, 3), keepdim=True)
    each: Tensor = (error * where * diffusion.weight(residual.sigma)).mean(dim=(1, 2, 3))
    return each


class PriorLesson:
    """All tasks on all photographs; the whole UNet is trained, afresh or from an exported folder's weights."""

    def __init__(self, settings: PriorSettings, init_from: Path | None = None) -> None:
        self.settings = settings
        self.collection = load_collection(settings.images, settings.architecture.window, settings.heldout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = Pocket(settings.architecture) if init_from is None else load(init_from)
        if self.network.architecture != settings.architecture:
            raise EditkitError(
                f"{init_from}: is of another architecture than this run's; leave out the options that differ"
            )
        hasten(self.network.unet)

    def draw(self, step: int) -> Batch:
        generator, settings = generator_of(self.settings.seed, step), self.settings
        x0 = draw_batch(self.collection.training, settings.batch, settings.architecture.window, generator)
        return with_noise(x0, deal_tasks(settings.batch, generator, SHARES), generator)

    def losses(self, network: Pocket, batch: Batch) -> Tensor:
        residual, z = seen(batch)
        return losses(batch, residual, network(z, batch.t, batch.task, batch.condition, batch.mask))

    def validation(self) -> Iterator[Batch]:
        """Each task at the same times."""
        window = self.settings.architecture.window
        for task in range(len(TASKS)):
            for part in range(2):
                generator, crops = generator_of(0, part, stream=task + 1), generator_of(0, part, stream=99)
                x0 = torch.stack([crop(p, window, crops) for p in self.collection.heldout])
                yield with_noise(x0, torch.full((len(x0),), task), generator)

    def sheet(self, network: Pocket) -> Image.Image:
        return training_sheet(network, self.collection.heldout or self.collection.training)

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        export(folder, self.settings.architecture, weights)
