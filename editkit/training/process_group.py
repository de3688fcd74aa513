"""Several processes in one training run, on one machine or many, started by torchrun.

Every process draws the same batch, which is a function of the seed and the step alone, and takes its rows of it. What
they found is added up in one sum a step: the gradients, the loss of every sample, whether somebody was told to stop,
and the first one's clock. So all make the same update, and a run of one process with the same batch makes it too, but
for the order of the sums. The first process alone measures, logs and writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from editkit.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """This process's place among `count`, from 0."""

    place: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one measures and writes."""
        return self.place == 0

    def sum_over_processes(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over all processes into each tensor; one message for all of them."""
        if self.count == 1:
            return
        import torch.distributed as dist

        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def broadcast_first(self, value: T) -> T:
        """What the first process has."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        held: list[Any] = [value if self.first else None]
        dist.broadcast_object_list(held)
        return held[0]  # type: ignore[no-any-return]


ALONE = ProcessGroup()


@contextmanager
def join_process_group(batch: int, device: torch.device) -> Iterator[ProcessGroup]:
    """The place of this process: alone, or as torchrun's environment says.

    Raises:
        UsageError: more processes than samples in a batch; an environment that is not whole.
    """
    words = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    if words["WORLD_SIZE"] in (None, "1"):
        yield ALONE
        return
    missing = [name for name, value in words.items() if value is None]
    if missing:
        raise UsageError(f"WORLD_SIZE is set, and {' and '.join(missing)} are not; start it by torchrun, or unset it")
    count = int(words["WORLD_SIZE"] or 1)
    if count > batch:
        raise UsageError(f"--batch {batch}: is shared by {count} processes; give at least {count}, or start fewer")
    import torch.distributed as dist

    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()
