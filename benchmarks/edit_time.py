"""How long the default edit takes, and whether that follows the hole or the picture.

    python benchmarks/edit_time.py --photo ../shared/photos/Wall.jpg

1. A 512x512 picture with a 15 % hole, `editkit inpaint` as a whole process: seconds and peak memory.
2. The phases of the same edit: import, reading, editing, writing.
3. A hole of as many pixels in a 1024x1024 and in a 4096x4096 picture, alternating: the ratio of the edits' times.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageDraw

PHASES = """
import json, sys, time
start = time.perf_counter()
from editkit import edit
from editkit.pictures.picture import Picture
from editkit.pictures.masks import read_mask
from editkit.plugins import Inpaint
import torch
times = {"import": time.perf_counter() - start}
def phase(name, call):
    start = time.perf_counter()
    made = call()
    times[name] = time.perf_counter() - start
    return made
photo, mask, model, out = sys.argv[1:]
picture = phase("read", lambda: Picture.read(photo))
start = time.perf_counter()
mask = read_mask(mask, picture)
times["read"] += time.perf_counter() - start
result = phase("edit", lambda: edit(picture, Inpaint(mask=mask), model=model))
phase("write", lambda: result.write(out, force=True))
print(json.dumps(times))
"""


def case(photo: Path, side: int, area: int, folder: Path) -> tuple[Path, Path]:
    """The photograph's middle square at `side` pixels, and an elliptic mask of about `area` pixels in its middle."""
    with Image.open(photo) as opened:
        picture = opened.convert("RGB")
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    picture = picture.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.LANCZOS)
    mask, radius = Image.new("L", (side, side), 0), (area / 3.14159) ** 0.5
    middle = side / 2
    ImageDraw.Draw(mask).ellipse((middle - radius, middle - radius, middle + radius, middle + radius), fill=255)
    paths = folder / f"{side}.png", folder / f"{side}.mask.png"
    picture.save(paths[0])
    mask.save(paths[1])
    return paths


def phases(paths: tuple[Path, Path], model: str, folder: Path) -> dict[str, float]:
    words = [sys.executable, "-c", PHASES, *map(str, paths), model, str(folder / "out.png")]
    made = subprocess.run(words, check=True, capture_output=True, text=True)
    return dict(json.loads(made.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--model", default="patches")
    parser.add_argument("--repeats", type=int, default=3, help="of the third part; 0 leaves it out")
    arguments = parser.parse_args()
    area = round(0.15 * 512 * 512)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, middle, large = (case(arguments.photo, side, area, folder) for side in (512, 1024, 4096))
        command = ["inpaint", str(small[0]), "--mask", str(small[1]), "-o", str(folder / "o.png"), "--force", "--json"]
        command += ["--model", arguments.model]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "from editkit.cli import main; main()", *command], check=True)
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{os.getloadavg()[0]:.1f} processes wanted the machine's {os.cpu_count()} cores before")
        peak = after.ru_maxrss / 1024
        print(f"512x512, 15 %: {seconds:.1f} s, {cpu:.1f} processor seconds, peak {peak:.0f} MB, whole process")
        found = phases(small, arguments.model, folder)
        whole = sum(found.values())
        shares = ", ".join(f"{name} {100 * seconds / whole:.0f} %" for name, seconds in found.items())
        print(f"512x512, 15 %: {whole:.1f} s: {shares}")
        if not arguments.repeats:
            return
        times: dict[int, list[float]] = {1024: [], 4096: []}
        for _ in range(arguments.repeats):
            times[1024].append(phases(middle, arguments.model, folder)["edit"])
            times[4096].append(phases(large, arguments.model, folder)["edit"])
        a, b = (statistics.median(times[side]) for side in (1024, 4096))
        print(f"the same hole in 1024x1024: {a:.1f} s, in 4096x4096: {b:.1f} s, ratio {b / a:.2f}")


if __name__ == "__main__":
    main()
