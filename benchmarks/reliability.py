"""What batches promise, each shown once at full size: kills, many files, a full disk, two at once.

`python benchmarks/reliability.py [--only kills,many,full,twice] [--many 5000] [--pictures 500 --broken 25 --kills 20]`
prints a line of JSON for each and exits with 1 where a promise was broken. A full disk is a tmpfs of a megabyte, which
needs root; without it that part is left out, and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from batch_kill import JOURNAL, results, run, start
from broken_folder import RECIPE, fill


def edited(root: Path, source: str, target: str, *options: str) -> tuple[int, str, float]:
    """`editkit batch` in a process of its own: exit code, what it said, seconds."""
    began, said = time.perf_counter(), root / "said.txt"
    code = start(["batch", *(str(root / n) for n in ("r.yaml", source, target)), "--quiet", *options], said).wait()
    return code, said.read_text(errors="replace"), time.perf_counter() - began


def kills(root: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Killed at random moments and resumed (`batch_kill.py`)."""
    return run(root, given.pictures, given.broken, given.kills, 1, 0)


def many(root: Path, given: argparse.Namespace) -> dict[str, Any]:
    """So many files, once and once more with nothing left to do; the most memory that either process held."""
    fill(root / "in", given.many, 0)
    code, said, seconds = edited(root, "in", "out")
    again, said_again, seconds_again = edited(root, "in", "out", "--resume")
    made = len(results(root / "out"))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    wrong = [] if (code, again, made) == (0, 0, given.many) else [said[-300:], said_again[-300:]]
    return {
        "files": given.many, "made": made, "seconds": round(seconds, 1), "seconds_to_resume": round(seconds_again, 1),
        "peak_MiB": peak, "wrong": wrong,
    }  # fmt: skip


def full(root: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Into a disk that is full after some results; after room is made, --resume completes it."""
    fill(root / "in", 600, 0)
    edited(root, "in", "whole")
    expected = results(root / "whole")
    (root / "small").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root / "small")]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return {"left_out": "a small disk needs root", "wrong": []}
    try:
        code, said, _ = edited(root, "in", "small/out")
        there = results(root / "small/out")
        wrong = [name for name, data in there.items() if data != expected[name]]
        grow = ["mount", "-o", "remount,size=64m", str(root / "small")]
        subprocess.run(grow, check=True)
        after, said_after, _ = edited(root, "in", "small/out", "--resume")
        if code == 0 or "Traceback" in said or after or results(root / "small/out") != expected:
            wrong += [f"full {code}: {said[-200:]}", f"room {after}: {said_after[-200:]}"]
    finally:
        subprocess.run(["umount", "-l", str(root / "small")], check=False)
    return {"files": len(expected), "there_when_full": len(there), "exit_code": code, "wrong": wrong}


def twice(root: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Two batches into one folder at the same time: one of them is refused or both go on, and the results are right."""
    fill(root / "in", 100, 0)
    edited(root, "in", "whole")
    words = ["batch", *(str(root / name) for name in ("r.yaml", "in", "out")), "--quiet"]
    both = [start([*words, *more], root / f"said{k}.txt") for k, more in enumerate(([], ["--resume"]))]
    codes = [process.wait() for process in both]
    said = [(root / f"said{k}.txt").read_text(errors="replace")[-200:] for k in range(2)]
    if any(codes):
        edited(root, "in", "out", "--resume")
    right = results(root / "out") == results(root / "whole")
    left = [p.name for p in (root / "out").rglob("*") if p.is_file() and p.suffix != ".png" and p.name != JOURNAL]
    wrong = [] if right and not left and not any("Traceback" in s for s in said) else [*said, *left]
    return {"exit_codes": codes, "said": said, "wrong": wrong}


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "kills": kills,
    "many": many,
    "full": full,
    "twice": twice,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="some of " + ", ".join(PARTS))
    for name, number in (("many", 5000), ("pictures", 500), ("broken", 25), ("kills", 20)):
        parser.add_argument(f"--{name}", type=int, default=number)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    bad = False
    for name in given.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "r.yaml").write_text(RECIPE)
            figures = PARTS[name](root, given)
        print(json.dumps({name: figures}), flush=True)
        bad |= bool(figures["wrong"])
    sys.exit(bad)


if __name__ == "__main__":
    main()
