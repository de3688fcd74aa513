"""The section `training` of gpu.py: windows a second of `editkit train prior`, as its loop takes its steps."""

from __future__ import annotations

import logging
import shutil
from functools import partial
from typing import Any

from gpu import Bench, Jobs, Row

SIZES: dict[str, tuple[int, tuple[int, ...], int]] = {
    "today's, 64 px": (64, (64, 128, 256), 1),
    "large, 128 px": (128, (96, 160, 256, 288), 1),
}
"""Window, channels, blocks of a level."""
TINY = {"tiny": (16, (32, 32), 1)}


def waiting(run: Any) -> int:
    """How often a step waits for the device, as PyTorch counts it: 0 is what the loop promises."""
    import warnings
    from concurrent.futures import ThreadPoolExecutor

    import torch

    with ThreadPoolExecutor(2) as pool, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run.step(pool, pool.submit(run.lesson.draw, 7))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in found)


def speed(bench: Bench, size: tuple[int, tuple[int, ...], int], batch: int, compiled: bool, steps: int) -> Row:
    """Steps as `Run` takes them, after two that are not counted (they compile, and choose convolutions)."""
    from concurrent.futures import ThreadPoolExecutor

    from editkit.training.loop import Run
    from editkit.training.prior import PriorLesson
    from editkit.training.settings import Architecture, PriorSettings

    logging.getLogger("editkit.training").setLevel(logging.ERROR)
    window, channels, layers = size
    architecture = Architecture(window=window, channels=channels, layers=layers)
    settings = PriorSettings(
        images=bench.photos, output=bench.work / "run", batch=batch, architecture=architecture, compile=compiled,
        device="cuda" if bench.cuda else "cpu",
    )  # fmt: skip
    run = Run(settings, PriorLesson(settings))

    def step() -> None:
        with ThreadPoolExecutor(2) as pool:
            run.step(pool, pool.submit(run.lesson.draw, 0))

    first = bench.seconds(step) + bench.seconds(step)

    def several() -> None:
        with ThreadPoolExecutor(max(2, run.workers + 1)) as pool:
            following = pool.submit(run.lesson.draw, 0)
            for k in range(steps):
                drawn, following = following, pool.submit(run.lesson.draw, k + 1)
                run.step(pool, drawn)

    peak = bench.memory(lambda: None if bench.tiny else step())
    seconds = bench.seconds(several)
    waits = waiting(run) if bench.cuda else 0
    drawing = bench.seconds(lambda: run.lesson.draw(5), 3)
    shutil.rmtree(settings.output, ignore_errors=True)
    return {
        "windows_a_second": batch * steps / seconds, "step_ms": 1e3 * seconds / steps, "draw_ms": 1e3 * drawing,
        "first_two_s": first, "parameters_M": sum(p.numel() for p in run.lesson.network.parameters()) / 1e6,
        "loss": run.gathered.read()["loss"], "peak_GiB": peak, "waits": waits,
    }  # fmt: skip


def eager(bench: Bench) -> Jobs:
    steps = 2 if bench.tiny else 12
    for name, size in (TINY if bench.tiny else SIZES).items():
        for batch in (4,) if bench.tiny else (512, 2048) if size[0] == 64 else (256, 512):
            yield f"{name}, batch {batch}", partial(speed, bench, size, batch, False, steps)


def compiled(bench: Bench) -> Jobs:
    """A minute or two before the first step; in a test nothing is compiled, there is no time for it."""
    for name, size in (TINY if bench.tiny else SIZES).items():
        batch = 4 if bench.tiny else 2048 if size[0] == 64 else 512
        yield (
            f"{name}, batch {batch}, compiled",
            partial(speed, bench, size, batch, not bench.tiny, 2 if bench.tiny else 12),
        )
