"""Why pictures at once gain much with one network and little with another, on a CPU.

    python benchmarks/roofline.py [--threads 1] [--repeats 15]

For `pocket` and for a tiny Stable Diffusion of random weights: arithmetic a second with 1, 2, 4 and 8 pictures in a
call beside the processor's ceiling (the better of a matrix product of 1024 x 1024 and a convolution of 256 channels by
256), the share of a call that convolutions and matrix products take, and what sharing gives: what 8 reach, as times
what 1 reaches. Each figure is the best of so many repeats, in turns, since neighbours on a machine only make it worse.
docs/scale.md has what came.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from editkit.diffusion.conditioning import Conditioning
from editkit.models import describe, load

SIZES = (1, 2, 4, 8)
DENSE = ("convolution", "mm", "attention", "linear")
"""Words in the names of operations whose arithmetic is what a processor is fastest at."""


def fused(x: Any, weight: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
    """Operations of a convolution that torch does not count: two for each weight that an output value sees."""
    outputs, seen = 1, 1
    for n in out_shape:
        outputs *= n
    for n in weight[1:]:
        seen *= n
    return 2 * outputs * seen


COUNTS = {torch.ops.mkldnn._convolution_pointwise: fused}


def best(what: Callable[[], object], repeats: int) -> float:
    """Processor seconds, the least."""
    found = []
    for _ in range(repeats):
        began = time.process_time()
        what()
        found.append(time.process_time() - began)
    return min(found)


def most_a_second(repeats: int) -> float:
    """GFLOP a second of what a processor is best at."""
    square, x = torch.randn(1024, 1024), torch.randn(1, 256, 64, 64)
    weight = torch.randn(256, 256, 3, 3)
    product = 2 * 1024**3 / 1e9 / best(lambda: square @ square, repeats)
    return max(product, 2 * 256 * 256 * 9 * 64**2 / 1e9 / best(lambda: torch.conv2d(x, weight, padding=1), repeats))


def share_of_arithmetic(call: Callable[[], object]) -> float:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    events = seen.key_averages()
    dense = sum(e.self_cpu_time_total for e in events if any(word in e.key for word in DENSE))
    return float(dense / sum(e.self_cpu_time_total for e in events))


def measure(name: str, model: Any, shape: tuple[int, ...], repeats: int, ceiling: float) -> None:
    level, cond = model.schedule.levels(10)[6], [Conditioning()]
    states = {n: torch.randn(n, *shape) for n in SIZES}
    calls: dict[int, Callable[[], object]] = {n: partial(model, states[n], level, cond) for n in SIZES}
    rates: dict[int, float] = {}
    shares: dict[int, float] = {}
    for n, call in calls.items():
        call()
        with FlopCounterMode(display=False, custom_mapping=COUNTS) as counted:
            call()
        rates[n] = counted.get_total_flops() / 1e9
        shares[n] = round(share_of_arithmetic(call), 2)
    each = rates[1]
    took = {n: min(best(call, 1) for _ in range(repeats)) for n, call in calls.items()}
    rates = {n: rates[n] / took[n] for n in SIZES}
    figures = {
        "what": name, "gflop_each": round(each, 2), "ms_each": {n: round(1e3 * took[n] / n, 2) for n in SIZES},
        "gflop_a_second": {n: round(rates[n]) for n in SIZES}, "ceiling": round(ceiling),
        "of_the_ceiling": {n: round(rates[n] / ceiling, 2) for n in SIZES}, "share_of_arithmetic": shares,
        "times_by_8": round(rates[8] / rates[1], 2),
    }  # fmt: skip
    print(json.dumps(figures), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cpu = torch.device("cpu")
    with torch.no_grad():
        ceiling = most_a_second(3 * given.repeats)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        from diffusers import DDIMScheduler
        from tiny_latent import SD, save_sd

        pocket = load(describe("pocket"), cpu, torch.float32).attach(None, None)
        tiny = load(describe(str(save_sd(Path(folder) / "sd", DDIMScheduler(**SD)))), cpu, torch.float32)
        for name, model, shape in (("pocket", pocket, (3, 64, 64)), ("tiny SD", tiny, (4, 20, 20))):
            measure(name, model, shape, given.repeats, ceiling)


if __name__ == "__main__":
    main()
