"""Holes in photographs: editkit's fillers against the classical ones that need no weights.

    python benchmarks/holes.py --photos ../shared/photos
    python benchmarks/holes.py --photos ../shared/photos --fillers telea,ns,patches --sheet docs/holes
    python benchmarks/holes.py --photos ../shared/photos --what sizes,uncrops

Three things are measured, each of which `--what` can name alone: holes of three sizes and shapes (below), one hole at
five sizes of the picture (hole_sizes.py), pictures grown to 16:9 (hole_uncrops.py).

32 photographs fixed by name (assets/pocket/heldout.txt), scaled to a largest side of 384. Each gets a hole of 5, 15 and
30 % of its area; the shape (box, ellipse, strokes) changes with picture and size so that each occurs equally often
(`--full`: every shape with every size, 288 holes). Holes depend on the picture's name alone. The classical results
are cached: they do not change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import hole_sizes
import hole_uncrops
import numpy as np
from PIL import Image, ImageDraw, ImageOps

ROOT = Path(__file__).resolve().parent.parent
SIZES = (5, 15, 30)
SHAPES = ("box", "ellipse", "strokes")


@dataclass(frozen=True)
class Case:
    """One hole in one photograph."""

    photo: str
    percent: int
    shape: str
    side: int

    @property
    def key(self) -> str:
        return f"{Path(self.photo).stem}-{self.side}-{self.percent}-{self.shape}"


def cases(photos: list[str], side: int, full: bool) -> Iterator[Case]:
    for i, photo in enumerate(photos):
        for j, percent in enumerate(SIZES):
            for k, shape in enumerate(SHAPES):
                if full or k == (i + j) % len(SHAPES):
                    yield Case(photo, percent, shape, side)


def load(path: Path, side: int) -> np.ndarray:
    with Image.open(path) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def make_hole(case: Case, height: int, width: int) -> np.ndarray:
    """The hole of `case`, bool (height, width); about `percent` of the area."""
    digest = hashlib.blake2b(case.key.encode(), digest_size=8).digest()
    random = np.random.default_rng(int.from_bytes(digest, "big"))
    area = case.percent / 100.0 * height * width
    if case.shape == "strokes":
        return _strokes(random, area, height, width)
    if case.shape == "ellipse":
        area *= 4.0 / np.pi
    ratio = np.exp(random.uniform(-0.4, 0.4)) * width / height
    w = min(np.sqrt(area * ratio), 0.92 * width)
    h = min(area / w, 0.92 * height)
    x = random.uniform(0.04 * width, 0.96 * width - w)
    y = random.uniform(0.04 * height, 0.96 * height - h)
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    box = (round(x), round(y), round(x + w) - 1, round(y + h) - 1)
    (draw.rectangle if case.shape == "box" else draw.ellipse)(box, fill=255)
    return np.asarray(canvas) > 0


def _strokes(random: np.random.Generator, area: float, height: int, width: int) -> np.ndarray:
    """Brush strokes of one thickness, 2.5 to 7 % of the shorter side, until `area` is covered."""
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    short = min(height, width)
    thick = max(3, round(random.uniform(0.025, 0.07) * short))
    while True:
        x, y = random.uniform(0.05, 0.95) * width, random.uniform(0.05, 0.95) * height
        angle = random.uniform(0.0, 2.0 * np.pi)
        for _ in range(int(random.integers(4, 9))):
            angle += random.normal(0.0, 0.6)
            length = random.uniform(0.08, 0.18) * short
            to = (x + length * np.cos(angle), y + length * np.sin(angle))
            draw.line((x, y, *to), fill=255, width=thick)
            draw.ellipse((to[0] - thick / 2, to[1] - thick / 2, to[0] + thick / 2, to[1] + thick / 2), fill=255)
            x, y = to
            if (np.asarray(canvas) > 0).sum() >= area:
                return np.asarray(canvas) > 0


def fill(case: Case, filler: str, photos: Path) -> tuple[np.ndarray, float]:
    """The result of `filler` and the seconds it took; classical ones from the cache."""
    from fillers import CLASSICAL, FILLERS
    from measure import CACHE

    stored = CACHE / "classical" / f"{case.key}-{filler}.png"
    if filler in CLASSICAL and stored.exists() and stored.with_suffix(".json").exists():
        return np.asarray(Image.open(stored)), float(json.loads(stored.with_suffix(".json").read_text()))
    truth = load(photos / case.photo, case.side)
    hole = make_hole(case, *truth.shape[:2])
    hidden = truth.copy()
    hidden[hole] = 128
    start = time.perf_counter()
    filled = FILLERS[filler](hidden, hole)
    seconds = time.perf_counter() - start
    if (filled[~hole] != truth[~hole]).any():
        raise RuntimeError(f"{filler} changed pixels outside the hole of {case.key}")
    if filler in CLASSICAL:
        stored.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(filled).save(stored)
        stored.with_suffix(".json").write_text(json.dumps(seconds))
    return filled, seconds


def run_case(case: Case, fillers: list[str], photos: Path, keep: Path | None) -> dict[str, dict[str, float]]:
    """Scores of every filler on one hole."""
    import torch
    from measure import FeatureDistance, Scores, psnr, seam, sharpness

    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    truth = load(photos / case.photo, case.side)
    hole = make_hole(case, *truth.shape[:2])
    distance = FeatureDistance()
    features = distance.features(truth)
    scores = {}
    for filler in fillers:
        filled, seconds = fill(case, filler, photos)
        d = distance(distance.features(filled), features, hole)
        scores[filler] = asdict(
            Scores(d, psnr(filled, truth, hole), sharpness(filled, truth, hole), seam(filled, truth, hole), seconds)
        )
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            Image.fromarray(filled).save(keep / f"{case.key}-{filler}.png")
    return scores


def table(results: dict[Case, dict[str, dict[str, float]]], fillers: list[str]) -> str:
    """Means over the holes; sharpness and seam are medians."""
    lines = [f"{'filler':16s}{'hole':>8s}{'distance':>10s}{'PSNR':>8s}{'sharp':>8s}{'seam':>8s}{'seconds':>9s}"]
    groups: list[tuple[str, list[Case]]] = [
        (f"{p} %", [c for c in results if c.percent == p]) for p in SIZES if any(c.percent == p for c in results)
    ]
    groups += [(s, [c for c in results if c.shape == s]) for s in SHAPES if any(c.shape == s for c in results)]
    groups.append(("all", list(results)))
    for name, members in groups:
        for filler in fillers:
            rows = [results[c][filler] for c in members]
            mean = {k: float(np.mean([r[k] for r in rows])) for k in ("distance", "psnr", "seconds")}
            median = {k: float(np.median([r[k] for r in rows])) for k in ("sharpness", "seam")}
            lines.append(
                f"{filler:16s}{name:>8s}{mean['distance']:10.4f}{mean['psnr']:8.2f}"
                f"{median['sharpness']:8.2f}{median['seam']:8.2f}{mean['seconds']:9.2f}"
            )
        lines.append("")
    return "\n".join(lines)


def wins(results: dict[Case, dict[str, dict[str, float]]], fillers: list[str]) -> str:
    """How often each filler of ours is nearer to the truth than the best classical one."""
    from fillers import CLASSICAL

    rivals = [f for f in fillers if f in CLASSICAL]
    lines = []
    for ours in (f for f in fillers if f not in CLASSICAL):
        if not rivals:
            break
        photos = sorted({c.photo for c in results})

        def mean(filler: str, photo: str) -> float:
            return float(np.mean([results[c][filler]["distance"] for c in results if c.photo == photo]))

        pictures = sum(mean(ours, p) < min(mean(r, p) for r in rivals) for p in photos)
        holes = sum(s[ours]["distance"] < min(s[r]["distance"] for r in rivals) for s in results.values())
        each = ", ".join(f"{r} {sum(mean(ours, p) < mean(r, p) for p in photos)}" for r in rivals)
        lines.append(
            f"{ours}: nearer than the best classical filler of each picture on {pictures} of {len(photos)} "
            f"pictures ({100 * pictures / len(photos):.0f} %), of each single hole on {holes} of "
            f"{len(results)} ({100 * holes / len(results):.0f} %); pictures against each: {each}"
        )
    return "\n".join(lines)


def sheet(chosen: list[Case], fillers: list[str], photos: Path, kept: Path, path: Path, side: int = 224) -> None:
    """A contact sheet: one row a hole; the truth, the picture with its hole, each filler."""
    rows = []
    for case in chosen:
        truth = load(photos / case.photo, case.side)
        hole = make_hole(case, *truth.shape[:2])
        hidden = truth.copy()
        hidden[hole] = (255, 0, 160)
        pictures = [Image.fromarray(truth), Image.fromarray(hidden)]
        pictures += [Image.open(kept / f"{case.key}-{filler}.png") for filler in fillers]
        row = Image.new("RGB", (len(pictures) * (side + 4), side), "white")
        for k, picture in enumerate(pictures):
            small = ImageOps.contain(picture, (side, side), Image.Resampling.LANCZOS)
            row.paste(small, (k * (side + 4), (side - small.height) // 2))
        rows.append(row)
    out = Image.new("RGB", (rows[0].width, 16 + len(rows) * (side + 4)), "white")
    draw = ImageDraw.Draw(out)
    for k, name in enumerate(["truth", "hole", *fillers]):
        draw.text((k * (side + 4) + 4, 2), name, fill="black")
    for k, row in enumerate(rows):
        out.paste(row, (0, 16 + k * (side + 4)))
    path.parent.mkdir(parents=True, exist_ok=True)
    out.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--list", type=Path, default=ROOT / "assets" / "pocket" / "heldout.txt")
    parser.add_argument("--fillers", default="telea,ns,biharmonic,criminisi,matchpatch,patchmatch,patches")
    parser.add_argument("--what", default="holes,sizes,uncrops", help="what to measure, of these three")
    parser.add_argument("--sizes-side", type=int, default=256, help="the longest side that is taken 0.5 to 6 times")
    parser.add_argument("--sizes-subset", type=int, default=4, help="photographs of which that is done")
    parser.add_argument("--uncrops-side", type=int, default=1024, help="the longest side of what is grown")
    parser.add_argument("--side", type=int, default=384)
    parser.add_argument("--subset", type=int, help="only the first N photographs")
    parser.add_argument("--full", action="store_true", help="every shape with every size")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--sheet", type=Path, help="folder for contact sheets, 8 rows each")
    parser.add_argument("--keep", type=Path, help="folder for the filled pictures")
    parser.add_argument("--json", type=Path, help="write every score")
    arguments = parser.parse_args()

    lines = arguments.list.read_text().splitlines()
    photos = [line.strip() for line in lines if line.strip() and not line.startswith("#")][: arguments.subset]
    fillers = there(arguments.fillers.split(","))
    what = arguments.what.split(",")
    if "holes" in what:
        measure_holes(arguments, photos, fillers)
    if "sizes" in what:
        chosen = photos[: arguments.sizes_subset]
        print(hole_sizes.run(arguments.photos, chosen, fillers, arguments.sizes_side, arguments.keep), end="\n\n")
    if "uncrops" in what:
        print(hole_uncrops.run(arguments.photos, arguments.uncrops_side, arguments.sheet))


def there(fillers: list[str]) -> list[str]:
    """Those whose program or package is installed; what the others need is said."""
    from fillers import MISSING

    needs = {f: MISSING[f]() if f in MISSING else None for f in fillers}
    for filler, need in needs.items():
        if need is not None:
            print(f"{filler} is left out: it needs {need}", file=sys.stderr)
    return [f for f, need in needs.items() if need is None]


def measure_holes(arguments: argparse.Namespace, photos: list[str], fillers: list[str]) -> None:
    """The holes of three sizes and shapes: two tables, the scores as a file, the sheets."""
    todo = list(cases(photos, arguments.side, arguments.full))
    keep = arguments.keep or (arguments.sheet and Path("/tmp") / f"holes-{os.getpid()}")
    results = {}
    if arguments.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"  # two processes of two threads each are slower than two of one
        with ProcessPoolExecutor(arguments.jobs) as pool:
            pending = [pool.submit(run_case, case, fillers, arguments.photos, keep) for case in todo]
            results = {case: p.result() for case, p in zip(todo, pending, strict=True)}
    else:
        for case in todo:
            results[case] = run_case(case, fillers, arguments.photos, keep)
    print(table(results, fillers))
    print(wins(results, fillers))
    if arguments.json:
        rows = [{**asdict(case), "scores": scores} for case, scores in results.items()]
        arguments.json.write_text(json.dumps(rows, indent=1))
    if arguments.sheet:
        for k in range(0, len(todo), 8):
            path = arguments.sheet / f"sheet-{k // 8 + 1:02d}.png"
            sheet(todo[k : k + 8], fillers, arguments.photos, keep, path)


if __name__ == "__main__":
    main()
