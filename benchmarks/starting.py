"""How long whole commands take, from the shell's point of view: what is imported, loaded, computed and written.

    python benchmarks/starting.py --photo ../shared/photos/Wall.jpg
    python benchmarks/starting.py --photo NAME.jpg --python OTHER/bin/python --python NEW/bin/python --cases pocket

Each case is an edit of the photograph's middle square with an elliptic hole. Cases take turns, and so do the
interpreters that are given, each with an editkit of its own: a change is measured against what was before it. Medians
of `--repeats` in seconds, on the wall and of all processors; beside other programs only the latter says much.
`--model` adds the same edit with a model of your own.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from edit_time import case

SMALL, MIDDLE, LARGE = 512, 1024, 3072
AREA = round(0.15 * SMALL * SMALL)
"""Pixels of the hole, in every case."""

CASES = {
    "patches": (SMALL, ["--model", "patches"]),
    "pocket": (SMALL, ["--model", "pocket", "--steps", "8"]),
    "patches 1024": (MIDDLE, ["--model", "patches"]),
    "patches 3072": (LARGE, ["--model", "patches"]),
}


def timed(python: str, words: list[str], folder: Path) -> tuple[float, float]:
    """(seconds on the wall, seconds of all processors) of one command, started in `folder`: the present one may hold
    an editkit, which would be imported in the place of the interpreter's own.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [python, "-c", "from editkit.cli import main; main()", *words]
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--python", action="append", help="interpreters to compare; default: this one")
    parser.add_argument("--cases", default=",".join(CASES), help="some of: " + ", ".join(CASES))
    parser.add_argument("--model", help="a further case: the small picture by this model, in 8 steps")
    parser.add_argument("--repeats", type=int, default=9)
    chosen = parser.parse_args()
    cases = {name: CASES[name] for name in chosen.cases.split(",") if name}
    if chosen.model is not None:
        cases[chosen.model] = (SMALL, ["--model", chosen.model, "--steps", "8"])
    pythons = chosen.python or [sys.executable]
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = {side: case(chosen.photo, side, AREA, folder) for side in {side for side, _ in cases.values()}}
        for repeat in range(chosen.repeats + 1):
            for what, (side, options) in cases.items():
                photo, mask = map(str, made[side])
                for python in pythons:
                    words = ["inpaint", photo, "--mask", mask, "-o", str(folder / "o.png"), "--force", *options]
                    seconds = timed(python, words, folder)
                    if repeat:  # the first turn fills caches
                        found[what, python].append(seconds)
    print(f"{os.getloadavg()[0]:.1f} processes wanted the machine's {os.cpu_count()} cores in the last minute")
    middle: dict[tuple[str, str], tuple[float, ...]] = {
        key: tuple(statistics.median(column) for column in zip(*times, strict=True)) for key, times in found.items()
    }
    for (what, python), (wall, processor) in middle.items():
        least = min(wall for wall, _ in found[what, python])
        print(f"{what}: {wall:.2f} s (least {least:.2f}), {processor:.2f} processor seconds  {python}")
    for python in pythons:
        if {"patches 1024", "patches 3072"} <= cases.keys():
            pairs = zip(middle["patches 3072", python], middle["patches 1024", python], strict=True)
            ratios = [large / small for large, small in pairs]
            print(f"3072 px by 1024 px: {ratios[0]:.2f} on the wall, {ratios[1]:.2f} of processors  {python}")


if __name__ == "__main__":
    main()
