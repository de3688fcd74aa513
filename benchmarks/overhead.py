"""What hooks cost that do nothing: the engine with plugins against a bare loop over the same network.

    python benchmarks/overhead.py

Alternates the two in one run and compares medians, so that the machine's moods hit both. The network is a small one
with random weights (a forward pass of some tens of milliseconds); what is measured is plumbing, not quality. On a busy
machine that ratio wavers by more than the plumbing costs, so the plumbing is also timed alone, with a network that
costs nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from editkit import Hooks, Plugin, sample
from editkit.diffusion.model import ModelInfo, PixelSpace
from editkit.diffusion.prediction import convert
from editkit.diffusion.schedule import Cosine

ROUNDS, STEPS, SHAPE = 11, 20, (1, 3, 64, 64)


class Network(PixelSpace):
    """A few convolutions that predict eps."""

    info = ModelInfo("small", "random weights")
    schedule = Cosine()
    clip = None

    def __init__(self) -> None:
        torch.manual_seed(0)
        width = 48
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.SiLU()]
        for _ in range(6):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1)).eval()

    def __call__(self, x_t, level, conds):
        return (convert(self.net(x_t), x_t, level, "v_prediction"),)

    def attach(self, picture, mask):
        return self


class Free(Network):
    """A network that costs nothing: what is left is the engine."""

    def __init__(self) -> None:
        self.net = nn.Identity()


class Idle(Plugin):
    """Every per-step hook, doing nothing."""

    name: ClassVar[str] = "idle"

    def hooks(self) -> type[Hooks[Idle]]:
        return _IdleHooks


class _IdleHooks(Hooks[Idle]):
    def condition(self, step, cond):
        return cond

    def clean(self, step, x0):
        return x0

    def after(self, step, x_s):
        return x_s


def bare(model: Network) -> Tensor:
    """ddim without engine, plan or hooks."""
    levels = model.schedule.levels(STEPS)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SHAPE, generator=generator)
    with torch.no_grad():
        for t, s in zip(levels[:0:-1], levels[-2::-1], strict=True):
            pred = convert(model.net(x), x, t, "v_prediction")
            x = s.alpha * pred.x0 + s.sigma * pred.eps
    return x


def median_seconds(jobs: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Median processor seconds of each job, run in turn."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            began = time.process_time()
            job()
            times[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def jobs(model: Network) -> dict[str, Callable[[], Tensor]]:
    """The three things that are compared."""
    run = partial(sample, shape=SHAPE, sampler="ddim", steps=STEPS)
    idle = [Idle(), Idle(), Idle()]
    return {
        "bare loop": lambda: bare(model),
        "engine": lambda: run(model),
        "engine, 3 idle plugins": lambda: run(model, idle),
    }


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    network = median_seconds(jobs(Network()), ROUNDS)
    plumbing = median_seconds(jobs(Free()), 20 * ROUNDS)
    base, free = network["bare loop"], plumbing["bare loop"]
    print(f"{'':<24}{'with the network':>28}{'plumbing alone':>20}{'its share':>12}")
    for name in network:
        step, extra = network[name] / STEPS, (plumbing[name] - free) / STEPS
        share = extra / (base / STEPS)
        ratio = network[name] / base
        print(f"{name:<24}{step * 1e3:12.2f} ms a step{ratio:7.4f}x{extra * 1e6:17.0f} us{share:11.2%}")


if __name__ == "__main__":
    main()
