"""Statistics of the steps, accumulated on the device until they are read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class StepStatistics:
    """Sums and counts of the loss, of the gradient's norm, and of each task's loss."""

    def __init__(self, tasks: Sequence[str], device: torch.device) -> None:
        self._names = ("loss", "gradient", *tasks)
        self._found = torch.zeros(2, len(self._names), dtype=torch.float64, device=device)

    def add(self, each: Tensor, task: Tensor, norm: Tensor) -> None:
        """Add one step: each sample's loss (B,) and task (B,), the gradient's norm. Does not wait for the device."""
        sums = torch.zeros(len(self._names) - 2, dtype=torch.float64, device=each.device).index_add_(
            0, task, each.double()
        )
        counts = torch.zeros_like(sums).index_add_(0, task, torch.ones_like(each, dtype=torch.float64))
        one = torch.ones((), dtype=torch.float64, device=each.device)
        self._found[0] += torch.cat([torch.stack([each.double().mean(), norm.double()]), sums])
        self._found[1] += torch.cat([torch.stack([one, one]), counts])

    def read(self) -> dict[str, float]:
        """Return the means since the last call, of the tasks that occurred."""
        sums, counts = self._found.tolist()
        self._found.zero_()
        return {name: s / n for name, s, n in zip(self._names, sums, counts, strict=True) if n}
