"""Progressive distillation on a tiny network and painted pictures."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_training import TINY, generator, photos

from editkit.errors import EditkitError
from editkit.models import describe
from editkit.training import diffusion
from editkit.training.distill import DistillLesson, ddim, grid, one_step_for_two
from editkit.training.loop import Run
from editkit.training.network import build_unet, export
from editkit.training.settings import DistillSettings

pytestmark = pytest.mark.slow

__all__ = ["photos"]


def gaussian(x_t: Tensor, t: Tensor) -> Tensor:
    """The exact estimate for data of mean 0.2 and deviation 0.15."""
    alpha_t, sigma_t = (diffusion.gather_levels(z, t) for z in diffusion.tables())
    return 0.2 + alpha_t * 0.15**2 / (alpha_t**2 * 0.15**2 + sigma_t**2) * (x_t - alpha_t * 0.2)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_a_perfect_student_ends_where_its_teacher_ends(steps: int) -> None:
    fine = grid(2 * steps).tolist()
    between = {fine[2 * k]: (fine[2 * k + 1], fine[2 * k + 2]) for k in range(steps)}

    def student(x_t: Tensor, t: Tensor) -> Tensor:
        m, s = (torch.full_like(t, v) for v in between[int(t[0])])
        return one_step_for_two(gaussian, x_t, t, m, s)

    x = y = torch.randn(4, 3, 8, 8, generator=generator())
    for t, s in pairwise(fine):
        x = ddim(gaussian, x, torch.full((4,), t), torch.full((4,), s))
    for t, s in pairwise(grid(steps).tolist()):
        alpha, sigma = diffusion.tables()
        x0 = student(y, torch.full((4,), t))
        y = x0 if s < 0 else alpha[s] * x0 + sigma[s] / sigma[t] * (y - alpha[t] * x0)
    torch.testing.assert_close(y, x, atol=1e-3, rtol=1e-3)
    sampled = diffusion.sample(gaussian, (4, 3, 8, 8), 2 * steps, generator())
    torch.testing.assert_close(x, sampled, atol=1e-4, rtol=1e-4)


def test_a_student_learns_and_says_how_many_steps_it_takes(photos: Path) -> None:
    torch.manual_seed(0)
    base = photos.parent / "base"
    export(base, TINY, dict(build_unet(TINY).state_dict()))
    settings = DistillSettings(
        images=photos, output=photos.parent / "run", heldout=photos.parent / "heldout.txt", base=base, student_steps=4,
        steps=40, batch=8, warmup=2, threads=2, measure_every=20, sheet_every=1000, checkpoint_every=1000, dtype="fp32",
        learning_rate=1e-2, architecture=TINY,
    )  # fmt: skip
    lesson = DistillLesson(settings)
    assert set(lesson.draw(0).t.tolist()) <= set(grid(4).tolist())
    Run(settings, lesson).run()
    rows = [json.loads(line) for line in (settings.output / "log.jsonl").read_text().splitlines()]
    measured = [sum(row[k] for k in ("prior", "colorize")) for row in rows if row["kind"] == "validation"]
    assert measured[-1] < measured[0]
    assert describe(str(settings.output / "export")).steps == 4
    with pytest.raises(EditkitError, match="is not an exported network"):
        DistillLesson(settings.model_copy(update={"base": photos}))
