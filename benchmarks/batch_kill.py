"""500 pictures, 25 of them broken; killed with SIGKILL at 20 random moments and resumed each time.

Every result must equal the uninterrupted run's, none may be half-written, none made twice, and each broken picture
named. `python benchmarks/batch_kill.py [--pictures 500] [--broken 25] [--kills 20] [--workers 1]`; prints one line of
JSON, exits with 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).parent))

from broken_folder import RECIPE, fill

JOURNAL = "editkit-batch.jsonl"


class Process(Protocol):
    """A run that has been started: `subprocess.Popen`, or a fork of a test's own process."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...


def start(words: list[str], said: Path) -> Process:
    """Start `editkit WORDS`; what it says goes into the file `said`."""
    code = "from editkit.cli import main; main()"
    with said.open("wb") as file:
        return subprocess.Popen([sys.executable, "-c", code, *words], stderr=file, start_new_session=True)


def lines(folder: Path) -> list[dict[str, Any]]:
    """The journal's whole lines."""
    path = folder / JOURNAL
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def done(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines(folder) if line["state"] == "done"]


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def kill_at_random(process: Process, folder: Path, already: int, rng: random.Random, most: int) -> int:
    """Kill a run at a random moment within its next `most` pictures. How many were done when it died.

    The moment is a number of new lines in the journal and then a few milliseconds, so that every part of the work on a
    picture (reading, editing, encoding, the part, the line, the new name) is hit.
    """
    wanted = already + rng.randrange(most)
    path = folder / JOURNAL
    while process.poll() is None:
        if path.exists() and path.read_bytes().count(b'"done"') >= wanted + (wanted == 0):
            break
        time.sleep(0.002)
    time.sleep(rng.uniform(0.0, 0.06))
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)  # the driver alone: its workers must notice by themselves
    process.wait()
    return len(done(folder))


def run(
    root: Path,
    pictures: int,
    broken: int,
    kills: int,
    workers: int,
    seed: int,
    start: Callable[[list[str], Path], Process] = start,
) -> dict[str, Any]:
    """The figures, with `wrong`: what promises were broken."""
    rng = random.Random(seed)
    bad = fill(root / "in", pictures, broken)
    (root / "r.yaml").write_text(RECIPE)
    said = root / "said.txt"

    def words(out: str, *options: str) -> list[str]:
        folders = [str(root / name) for name in ("r.yaml", "in", out)]
        return ["batch", *folders, "--quiet", "--workers", str(workers), *options]

    began = time.perf_counter()
    code = start(words("whole"), said).wait()
    seconds = time.perf_counter() - began
    expected = results(root / "whole")
    wrong = []
    if code != 1 or len(expected) != pictures - broken:
        wrong.append(f"uninterrupted: exit code {code}, {len(expected)} results")
    named = {line.split(": ")[1] for line in said.read_text().splitlines() if line.startswith("failed: ")}
    if named != bad:
        wrong.append(f"named {sorted(named)}, broken were {sorted(bad)}")

    broken_off = root / "killed"
    at = []
    for k in range(kills):
        left = pictures - broken - (at[-1] if at else 0)
        process = start(words("killed", "--resume"), said)
        at.append(kill_at_random(process, broken_off, at[-1] if at else 0, rng, max(1, 2 * left // (kills - k + 1))))
        for name, data in results(broken_off).items():
            if data != expected.get(name):
                wrong.append(f"after kill {k + 1}: {name} is not what it should be")
    code = start(words("killed", "--resume"), said).wait()
    if code != 1:
        wrong.append(f"the last run ended with exit code {code}: {said.read_text()[-300:]}")
    if results(broken_off) != expected:
        wrong.append("the results differ from the uninterrupted run's")
    twice = [name for name, n in Counter(line["picture"] for line in done(broken_off)).items() if n > 1]
    if twice:
        wrong.append(f"made twice: {twice}")
    left_over = [p.name for p in broken_off.rglob("*") if p.is_file() and p.suffix != ".png" and p.name != JOURNAL]
    if left_over:
        wrong.append(f"left over: {left_over}")
    return {
        "pictures": pictures, "broken": broken, "results": len(results(broken_off)), "named": len(named & bad),
        "kills": kills, "done_at_kill": at, "workers": workers, "seconds_uninterrupted": round(seconds, 1),
        "exit_code": code, "made_twice": len(twice), "wrong": wrong[:20],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--broken", type=int, default=25)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), given.pictures, given.broken, given.kills, given.workers, given.seed)
    print(json.dumps(figures))
    sys.exit(bool(figures["wrong"]))


if __name__ == "__main__":
    main()
