"""`editkit train distill`: half the steps, the same samples (progressive distillation, Salimans & Ho 2022,
arXiv:2202.00512, Algorithm 2).

The student, initialised from the teacher, learns to do in one DDIM step what the teacher does in two. With t > m > s
the student's and the teacher's levels, and x_s the teacher's result, the estimate that leads there in one step is

    x~ = (x_s - (sigma_s / sigma_t) x_t) / (alpha_s - (sigma_s / sigma_t) alpha_t)

and the student learns F of (x~, eps~ = (x_t - alpha_t x~) / sigma_t). Levels have trailing spacing, and x0 is
clipped as in the sampler. Distilling the result again halves the steps again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from editkit.models.pocket.residual import Residual
from editkit.training import diffusion
from editkit.training.device import has_bf16
from editkit.training.draws import Draws
from editkit.training.fast import use_fast_operations
from editkit.training.loop import Batch
from editkit.training.network import Pocket, load, to_dtype, write_atomically
from editkit.training.prior import PriorLesson, losses
from editkit.training.settings import DistillSettings
from editkit.training.sheets import training_sheet

Estimate = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t) -> x0."""


def grid(steps: int, device: torch.device | None = None) -> Tensor:
    """Return the sampler's times, (steps + 1,): from 999 down to -1, which is clean."""
    return torch.linspace(diffusion.TRAIN_STEPS - 1, -1, steps + 1, device=device).round().long()


def levels(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma at each t (B,), 1 and 0 where t = -1; shaped to multiply pictures."""
    alpha, sigma = diffusion.tables_on(t.device)
    clean = (t < 0).view(-1, 1, 1, 1)
    at = t.clamp_min(0)
    return torch.where(clean, 1.0, diffusion.gather_levels(alpha, at)), torch.where(
        clean, 0.0, diffusion.gather_levels(sigma, at)
    )


def ddim(estimate: Estimate, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Take one deterministic step from x_t to x_s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(t), levels(s)
    x0 = estimate(x_t, t).clamp(-1, 1)
    return alpha_s * x0 + sigma_s / sigma_t * (x_t - alpha_t * x0)


def one_step_for_two(teacher: Estimate, x_t: Tensor, t: Tensor, m: Tensor, s: Tensor) -> Tensor:
    """Return x~, the estimate at t that leads in one step to the result of the teacher's steps t -> m -> s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(t), levels(s)
    x_s = ddim(teacher, ddim(teacher, x_t, t, m), m, s)
    share = sigma_s / sigma_t
    return (x_s - share * x_t) / (alpha_s - share * alpha_t)


class DistillLesson(PriorLesson):
    """The teacher's tasks at the student's levels; `settings.base` is the teacher."""

    def __init__(self, settings: DistillSettings) -> None:
        super().__init__(settings, settings.base)
        self.student_steps = settings.student_steps
        self.teacher: Pocket = load(settings.base).requires_grad_(False)
        if self.device.type == "cpu":
            use_fast_operations(self.teacher.unet)
        dtype = torch.bfloat16 if settings.in_bf16(has_bf16(self.device)) else torch.float32
        to_dtype(self.teacher, dtype, self.device)

    def at_levels(self, batch: Batch, step: int) -> Batch:
        """Replace the times by uniform draws from the student's grid."""
        source = Draws((self.settings.seed, step, 7), self.device)
        row = (self.student_steps * source.uniform(len(batch.t))).long()
        return replace(batch, t=grid(self.student_steps, self.device)[row])

    def draw(self, step: int) -> Batch:
        return self.at_levels(super().draw(step), step)

    def losses(self, network: Pocket, batch: Batch) -> Tensor:
        alpha_t, sigma_t = levels(batch.t)
        x_t = alpha_t * batch.x0 + sigma_t * batch.eps
        with torch.no_grad():
            x0 = one_step_for_two(self.estimate(batch), x_t, *self.spans(batch.t))
        eps = (x_t - alpha_t * x0) / sigma_t
        residual = Residual(batch.condition, batch.s, alpha_t, sigma_t)
        f_hat = network(residual.seen(x_t), batch.t, batch.task, batch.condition, batch.mask)
        return losses(replace(batch, x0=x0, eps=eps), residual, f_hat)

    def spans(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return t, the teacher's level in between, and the student's next."""
        fine = grid(2 * self.student_steps, self.device)
        row = (fine.unsqueeze(0) - t.unsqueeze(1)).abs().argmin(dim=1)
        return t, fine[row + 1], fine[row + 2]

    def estimate(self, batch: Batch) -> Estimate:
        """Return the teacher's estimate under the batch's conditions."""

        def x0(x_t: Tensor, t: Tensor) -> Tensor:
            residual = Residual(batch.condition, batch.s, *levels(t))
            z = residual.seen(x_t)
            return residual.x0(z, self.teacher(z, t, batch.task, batch.condition, batch.mask))

        return x0

    def validation(self) -> Iterator[Batch]:
        for k, batch in enumerate(super().validation()):
            yield self.at_levels(batch, k)

    def sheet(self, network: Pocket) -> Image.Image:
        return training_sheet(network, self.collection.heldout or self.collection.training, steps=self.student_steps)

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        super().export(folder, weights)
        wiring = json.loads((folder / "pocket.json").read_text()) | {"steps": self.student_steps}
        write_atomically(folder / "pocket.json", (json.dumps(wiring, indent=2) + "\n").encode())
