"""Edits whose change is known: what `only-changes` finds of it, on photographs.

    python benchmarks/changes.py --photos ../shared/photos

The 32 photographs of benchmarks/holes.py, at a largest side of 768. In each a region of 5, 15 or 30 % is repainted (a
box, an ellipse, strokes of 2.5 to 7 % of the shorter side: holes.py's own holes), with another of the photographs, or
(`hue`) by turning its colours. The whole is moved by up to 3.6 pixels, tinted by a matrix and an offset, and written as
JPEG. recall: of what was repainted, the part that the found mask holds; precision: of the found mask, the part that was
repainted; both count every pixel that may change, the faded rim too. A pixel that was repainted with its own value did
not change, and is not counted for recall (white paper stays white in other hues); nor is one that the shift moved out
of the frame, since no pixel of the edit shows it. shift: the distance of the shift that is said from the true one, in
pixels. kept: whether every other pixel is the photograph's own.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from holes import ROOT, SHAPES, SIZES, Case, load, make_hole
from PIL import Image

from editkit.pictures.changes import find_changes

SHIFTS = ((3.0, 0.0), (-2.0, 3.0), (1.4, -2.6), (0.0, 0.0))
TINT = np.array([[1.06, 0.0, 0.0], [0.0, 1.0, 0.02], [0.01, 0.0, 0.93]]), np.array([0.0, 0.01, 0.015])
"""Of RGB: a matrix from the right, and an offset."""


@dataclass(frozen=True)
class Score:
    """Of one edit: see the module."""

    name: str
    shape: str
    recall: float
    precision: float
    shift: float
    kept: bool


def painted(before: np.ndarray, other: np.ndarray, region: np.ndarray, how: str) -> np.ndarray:
    """`before` (H, W, 3) with `region` made anew."""
    if how == "hue":
        hls = cv2.cvtColor(before, cv2.COLOR_RGB2HLS).astype(int)
        hls[..., 0] = (hls[..., 0] + 60) % 180
        hls[..., 2] = np.clip(hls[..., 2] + 60, 0, 255)
        anew = cv2.cvtColor(hls.astype(np.uint8), cv2.COLOR_HLS2RGB)
    else:
        anew = np.asarray(Image.fromarray(other).resize(before.shape[1::-1], Image.Resampling.LANCZOS))
    return np.where(region[..., None], anew, before)


def sent_through(picture: np.ndarray, shift: tuple[float, float], quality: int) -> np.ndarray:
    """`picture` moved by `shift` (x, y), tinted and encoded."""
    height, width = picture.shape[:2]
    matrix = np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]])
    unit = picture.astype(np.float32) / 255.0
    moved = cv2.warpAffine(unit, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    tinted = np.clip(moved @ TINT[0] + TINT[1], 0.0, 1.0)
    file = io.BytesIO()
    Image.fromarray(np.rint(255.0 * tinted).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def inside(shift: tuple[float, float], height: int, width: int) -> np.ndarray:
    """(height, width): whether a pixel is still in the frame after `shift` (x, y)."""
    ys, xs = np.mgrid[0:height, 0:width]
    x, y = xs + shift[0], ys + shift[1]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def measured(photos: Path, names: list[str], side: int, how: str, quality: int) -> Iterator[Score]:
    """One score for each photograph."""
    for i, name in enumerate(names):
        before, other = (load(photos / one, side) for one in (name, names[(i + 1) % len(names)]))
        shape, shift = SHAPES[i // len(SIZES) % len(SHAPES)], SHIFTS[i % len(SHIFTS)]
        region = make_hole(Case(name, SIZES[i % len(SIZES)], shape, side), *before.shape[:2])
        anew = painted(before, other, region, how)
        after = sent_through(anew, shift, quality)
        unit = before.astype(np.float32) / 255.0
        changes = find_changes(unit, after.astype(np.float32) / 255.0)
        found = changes.mask > 0
        another = (anew != before).any(-1) & inside(shift, *before.shape[:2])
        kept = bool((changes.onto(unit)[~found] == unit[~found]).all())
        yield Score(
            name,
            shape,
            float((found & another).sum()) / float(another.sum()),
            float((found & region).sum()) / max(float(found.sum()), 1.0),
            float(np.hypot(changes.shift[0] - shift[0], changes.shift[1] - shift[1])),
            kept,
        )


def table(scores: list[Score], title: str) -> str:
    """Means and worst ones by shape, and how many reach 0.98, 0.9 and 0.3 pixels."""
    lines = []
    for shape in (*SHAPES, "all"):
        rows = [score for score in scores if shape in (score.shape, "all")]
        recall, precision, shift = (np.array([getattr(row, key) for row in rows]) for key in KEYS)
        reach = [int((recall > 0.98).sum()), int((precision > 0.9).sum()), int((shift < 0.3).sum())]
        kept = sum(row.kept for row in rows)
        lines.append(
            f"| {title} | {shape} | {recall.mean():.4f} ({recall.min():.3f}) | {precision.mean():.3f} "
            f"({precision.min():.3f}) | {shift.mean():.2f} ({shift.max():.2f}) | {reach[0]}, {reach[1]}, {reach[2]} of "
            f"{len(rows)} | {kept} |"
        )
    return "\n".join(lines)


KEYS = ("recall", "precision", "shift")


def missed(scores: list[Score]) -> str:
    """Name the photographs that miss one of the three, with their numbers."""
    bad = [score for score in scores if score.recall <= 0.98 or score.precision <= 0.9 or score.shift >= 0.3]
    lines = [f"missed: {s.name}, {s.shape}: {s.recall:.3f}, {s.precision:.3f}, {s.shift:.2f} px" for s in bad]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--list", type=Path, default=ROOT / "assets" / "pocket" / "heldout.txt")
    parser.add_argument("--side", type=int, default=768)
    parser.add_argument("--quality", default="95,90,60")
    parser.add_argument("--how", default="other,hue", help="what is painted, of these two")
    parser.add_argument("--subset", type=int, help="only the first N photographs")
    parser.add_argument(
        "--others", type=int, metavar="N", help="every Nth of those that are not on the list, 32 at most"
    )
    parser.add_argument("--first", type=int, default=0, metavar="K", help="with --others: from the Kth of them on")
    arguments = parser.parse_args()
    lines = arguments.list.read_text().splitlines()
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if arguments.others is not None:
        there = {path.name for path in arguments.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")}
        names = sorted(there - set(names))[arguments.first :: arguments.others][:32]
    names = names[: arguments.subset]
    print("| painted, JPEG | region | recall (worst) | precision (worst) | shift (worst) | reach | kept |")
    print("|---|---|---|---|---|---|---|")
    for how in arguments.how.split(","):
        for quality in map(int, arguments.quality.split(",")):
            scores = list(measured(arguments.photos, names, arguments.side, how, quality))
            print(table(scores, f"{how}, {quality}"), flush=True)
            print(missed(scores), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
