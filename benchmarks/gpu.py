"""What editkit does on a GPU, in one command of a few minutes: a table, and JSON that is written anew after every row.

    python benchmarks/gpu.py --minutes 4 --json gpu.json --photos ../shared/photos
    python benchmarks/gpu.py --device cpu --tiny --json gpu.json            # the same code in seconds, to try it

Sections in the order of their worth; what does not fit into the minutes is left out and says so, what fails is a row
with its error. `--only parity,edits` chooses. docs/gpu.md says how a quarter of an hour with a GPU is used.

    parity     every kind of edit on the device against this machine's processor: fp32 differences, bf16 and fp16
    training   windows a second of `editkit train prior`
    edits      whole edits after loading against diffusers' pipelines: random weights, real sizes, 1024 px
    training2  `training` by torch.compile
    hooks      what three idle plugins cost at a step of 20 ms
    patches    the model without a network on the device and on the processor
    compiled   `edits` by torch.compile
    offload    `edits` with networks that rest in main memory
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

Row = dict[str, Any]
Jobs = Iterator[tuple[str, Callable[[], Row]]]
"""Names, and what measures them; a job sees what the jobs before it left in its section."""


@dataclass(frozen=True)
class Bench:
    """What every section is told."""

    device: str
    tiny: bool
    photos: Path
    work: Path

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    def wait(self) -> None:
        """Until the device has done what it was given."""
        import torch

        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, job: Callable[[], object], repeats: int = 1) -> float:
        """The median of `repeats` times that a job took."""
        import statistics

        found = []
        for _ in range(repeats):
            self.wait()
            began = time.perf_counter()
            job()
            self.wait()
            found.append(time.perf_counter() - began)
        return statistics.median(found)

    def memory(self, job: Callable[[], object]) -> float:
        """GiB that a job needs at most beyond what lies on the GPU before it; 0 without a GPU."""
        import torch

        if not self.cuda:
            job()
            return 0.0
        self.wait()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        self.wait()
        return (torch.cuda.max_memory_allocated() - before) / 2**30


def sections() -> dict[str, Callable[[Bench], Jobs]]:
    """Imported late, so that a section that cannot be imported is a row too."""

    def parity(bench: Bench) -> Jobs:
        import gpu_parity

        yield from gpu_parity.jobs(bench)

    def of_training(name: str) -> Callable[[Bench], Jobs]:
        def section(bench: Bench) -> Jobs:
            import gpu_training

            yield from getattr(gpu_training, name)(bench)

        return section

    def of_edits(name: str) -> Callable[[Bench], Jobs]:
        def section(bench: Bench) -> Jobs:
            import gpu_edits

            yield from getattr(gpu_edits, name)(bench)

        return section

    return {
        "parity": parity, "training": of_training("eager"), "edits": of_edits("edits"),
        "training2": of_training("compiled"), "hooks": of_edits("hooks"), "patches": of_edits("patches"),
        "compiled": of_edits("compiled"), "offload": of_edits("offload"),
    }  # fmt: skip


class Record:
    """The rows so far, on the disk after each."""

    def __init__(self, file: Path, facts: Row) -> None:
        self.file, self.facts = file, facts
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        self.rows.append(row)
        told = "  ".join(
            f"{key} {_short(value)}" for key, value in row.items() if key not in ("section", "what", "trace")
        )
        print(f"{row['section']:<9} {row['what']:<44} {told}", flush=True)
        aside = self.file.with_suffix(".part")
        aside.write_text(json.dumps({"facts": self.facts, "rows": self.rows}, indent=1) + "\n")
        os.replace(aside, self.file)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class OutOfTimeError(Exception):
    """The minutes are over."""


def _over(number: int, frame: FrameType | None) -> None:
    raise OutOfTimeError("out of time")


def measured(job: Callable[[], Row], left: float) -> Row:
    """What a job found, or its error; it is broken off after `left` seconds."""
    if left < 1.0:
        return {"left_out": "no time"}
    signal.signal(signal.SIGALRM, _over)
    signal.setitimer(signal.ITIMER_REAL, left)
    try:
        began = time.perf_counter()
        return job() | {"took": round(time.perf_counter() - began, 2)}
    except OutOfTimeError:
        return {"left_out": "broken off: no time"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300], "trace": traceback.format_exc()[-1500:]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def facts(device: str) -> Row:
    """What it ran on."""
    import torch

    import editkit

    found: Row = {
        "editkit": editkit.__version__, "torch": torch.__version__,
        "python": platform.python_version(), "device": device, "cores": os.cpu_count(),
    }  # fmt: skip
    if device.startswith("cuda"):
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def quiet(tiny: bool) -> None:
    """No progress bars and advice of the libraries'; tiny: one thread, since others wait for nothing but each other."""
    import diffusers
    import torch
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    if tiny:
        torch.set_num_threads(1)


def run(bench: Bench, minutes: float, record: Record, only: list[str]) -> None:
    """Every section that fits into the minutes."""
    end = time.monotonic() + 60 * minutes
    for name, section in sections().items():
        if name not in only:
            continue
        jobs = section(bench)
        while True:
            try:
                what, job = next(jobs)
            except StopIteration:
                break
            except Exception as error:
                trace = traceback.format_exc()[-1500:]
                record.add(
                    {"section": name, "what": "-", "error": f"{type(error).__name__}: {error}"[:300], "trace": trace}
                )
                break
            record.add({"section": name, "what": what, **measured(job, end - time.monotonic())})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny networks and pictures: a check that it runs")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--photos", type=Path, default=ROOT / "assets" / "photos")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    parser.add_argument("--only", default=",".join(sections()), help="sections, with commas between")
    asked = parser.parse_args()
    quiet(asked.tiny)
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(asked.device, asked.tiny, asked.photos.resolve(), Path(work))
        record = Record(asked.json.resolve(), facts(asked.device))
        run(bench, asked.minutes, record, asked.only.split(","))
    return 1 if any("error" in row for row in record.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
