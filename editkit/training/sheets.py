"""Sheets of samples: small pictures in rows."""

from __future__ import annotations

from typing import Protocol

import torch
from PIL import Image
from torch import Generator, Tensor

from editkit.models.pocket.residual import TASKS, Residual, deviation, luma
from editkit.training import diffusion
from editkit.training.conditions import blur, inpaint_condition
from editkit.training.draws import Seeded
from editkit.training.network import Pocket
from editkit.training.pictures import Photograph, crop


def to_image(picture: Tensor) -> Image.Image:
    """Convert (3, H, W) in [-1, 1] to an RGB image."""
    data = ((picture.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(data.permute(1, 2, 0).contiguous().numpy())


def grid(rows: list[Tensor], gap: int = 2) -> Image.Image:
    """Arrange rows of pictures, each (N, 3, H, W), on white."""
    width = max(len(row) * (row.shape[-1] + gap) for row in rows) - gap
    height = sum(row.shape[-2] + gap for row in rows) - gap
    sheet = Image.new("RGB", (width, height), "white")
    y = 0
    for row in rows:
        for i, picture in enumerate(row):
            sheet.paste(to_image(picture), (i * (row.shape[-1] + gap), y))
        y += row.shape[-2] + gap
    return sheet


class ConditionalNetwork(Protocol):
    """(z, t, task, condition, mask) -> F."""

    @property
    def device(self) -> torch.device: ...

    def __call__(self, z: Tensor, t: Tensor, task: Tensor, condition: Tensor, mask: Tensor) -> Tensor: ...


@torch.no_grad()
def solve(
    network: ConditionalNetwork,
    task: str,
    condition: Tensor,
    mask: Tensor,
    generator: Generator,
    steps: int = 20,
    eta: float = 0.0,
) -> Tensor:
    """Sample x0 of a task for a batch of conditions; known pixels (mask 0) are restored."""
    device, label = network.device, torch.full((len(condition),), TASKS.index(task))
    s = deviation(label, condition, mask)

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        residual = Residual(condition, s, *(diffusion.gather_levels(table, t) for table in diffusion.tables()))
        z = residual.seen(x_t)
        f = network(*(part.to(device) for part in (z, t, label, condition, mask))).cpu()
        return residual.x0(z, f)

    x0 = diffusion.sample(predict, tuple(condition.shape), steps, generator, eta)
    return torch.where(mask > 0, x0, condition)


def training_sheet(
    network: Pocket, photographs: tuple[Photograph, ...], columns: int = 16, steps: int = 20
) -> Image.Image:
    """Draw rows: truth, inpainting (condition, sample), upscaling x2, x4 (condition, sample), colourisation,
    prior.
    """
    crops, generator = Generator().manual_seed(7), Generator().manual_seed(8)
    window = network.architecture.window
    x0 = torch.stack([crop(photographs[i % len(photographs)], window, crops) for i in range(columns)])
    one = torch.ones_like(x0[:, :1])
    condition, mask = inpaint_condition(x0, Seeded(generator))
    shown = torch.where(mask > 0, condition, x0)
    rows = [x0, shown, solve(network, "inpaint", condition, mask, generator, steps)]
    for factor in (2.0, 4.0):
        small = blur(x0, torch.full((columns,), factor))
        rows += [small, solve(network, "upscale", small, one, generator, steps)]
    rows.append(solve(network, "colorize", luma(x0), one, generator, steps))
    rows.append(solve(network, "prior", torch.zeros_like(x0), one, generator, steps))
    return grid(rows)
