"""What `editkit repair` finds on synthetic scans, kind by kind, and what it gains (truth from benchmarks/damage.py).

    python benchmarks/scans.py --photos ../shared/photos
    python benchmarks/scans.py --photos ../shared/photos --development 30 --no-fill

The scans are the photographs of assets/pocket/heldout.txt with a longer side of 512 or more, at 640 pixels, each with
scratches, a fold and blots, two of three with a torn corner or edge. `--development` takes that many of the other
photographs instead, on which thresholds are chosen. Of each kind, missed: what of its damage lies further than 2 pixels
from everything that was found; false: what of the picture this finder marks further than 2 pixels from any damage;
clean: what it marks in the undamaged photograph. Of spots also how many are found, and the separate false ones in one
picture. Of the whole, IoU, and PSNR in dB in the damaged pixels of the scan and of the result (without `--no-fill`).
`outside` counts pixels outside of the filled area that differ from the scan: 0 is promised.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import damage
import numpy as np
from masks import coloured, near, psnr
from PIL import Image

from editkit import edit
from editkit.models.leasing import Models
from editkit.pictures.picture import Picture
from editkit.pictures.shapes import from_words
from editkit.plugins import Repair

Array = np.ndarray
ROOT = Path(__file__).resolve().parent.parent
KINDS = ("scratches", "spots", "torn")
SIDE = 640


def photographs(folder: Path, development: int) -> dict[str, Array]:
    """Name -> (H, W, 3): the held-out photographs, or `development` of the others, evenly by their names."""
    held = {line for line in (ROOT / "assets/pocket/heldout.txt").read_text().split("\n") if line.endswith(".jpg")}
    names = sorted(p for p in folder.glob("*.jpg") if (p.name in held) == (not development))
    names = [p for p in names if max(Image.open(p).size) >= 512]
    if development:
        names = [names[len(names) * k // development] for k in range(development)]
    made = {}
    for path in names:
        image = Image.open(path).convert("RGB")
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        made[path.stem] = np.asarray(image)
    return made


def scan(pixels: Array, k: int) -> tuple[Array, dict[str, Array]]:
    """The damaged picture, and where each kind of damage is."""
    rng = np.random.default_rng(3000 + k)
    made, lines = damage.scratched(pixels, rng)
    made, dust = damage.spotted(made, rng)
    lost = np.zeros(lines.shape, bool)
    if k % 3:
        made, lost = damage.torn(made, rng)
    return made, {"scratches": lines, "spots": dust & ~lines, "torn": lost}


def specks(mask: Array, truth: Array) -> tuple[int, int]:
    """(blots, how many of them are found: more than half of one is near the mask)."""
    count, labels = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)
    seen = np.bincount(labels[near(mask)], minlength=count) > 0.5 * np.bincount(labels.ravel(), minlength=count)
    return count - 1, int(seen[1:].sum())


def false_marks(mask: Array, truth: Array) -> int:
    """How many separate areas of `mask` touch no damage, nor come within 2 pixels of any."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return count - 1 - len(set(np.unique(labels[near(truth)])) - {0})


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--photos", type=Path, required=True)
    asked.add_argument("--development", type=int, default=0, help="So many photographs that are not held out.")
    asked.add_argument("--count", type=int, default=0, help="Only the first so many.")
    asked.add_argument("--kinds", default=",".join(KINDS))
    asked.add_argument("--no-fill", action="store_true", help="Only what is found.")
    asked.add_argument("--sheet", type=Path, help="A folder for the scans, masks and results.")
    given = asked.parse_args()
    kinds, models, rows, totals = given.kinds.split(","), Models(), [], np.zeros(3, int)
    photos = list(photographs(given.photos, given.development).items())
    for k, (name, pixels) in enumerate(photos[: given.count or None]):
        spoiled, truth = scan(pixels, k)
        every = np.any(list(truth.values()), axis=0)
        found = {kind: from_words(kind, Picture(spoiled)) > 0 for kind in kinds}
        clean = {kind: from_words(kind, Picture(pixels)).mean() for kind in kinds}
        mask = np.any(list(found.values()), axis=0)
        row = [(mask & every).sum() / (mask | every).sum()]
        for kind in kinds:
            there = truth[kind]
            row.append((there & ~near(mask)).sum() / there.sum() if there.any() else np.nan)
            row += [(found[kind] & ~near(every)).mean(), clean[kind]]
        count, hit = specks(mask, truth["spots"])
        totals += count, hit, false_marks(found["spots"], every) if "spots" in found else 0
        row += [np.nan, np.nan, 0]
        made = spoiled
        if not given.no_fill:
            plugin = Repair(cast=False, fading=False)
            made = edit(spoiled, plugin, models=models).pixels
            filled = plugin.open(Picture(spoiled), lambda _: None).mask
            assert filled is not None
            row[-3:] = psnr(spoiled[every], pixels[every]), psnr(made[every], pixels[every]), 0
            row[-1] = int((made != spoiled).any(axis=2)[filled == 0].sum())
        rows.append(row)
        words = " ".join(f"{kind} {100 * row[3 * j + 1]:.0f}/{100 * row[3 * j + 2]:.2f}/{100 * row[3 * j + 3]:.2f}"
                         for j, kind in enumerate(kinds))  # fmt: skip
        print(
            f"{k:2d} {name[:34]:34s} IoU {row[0]:.2f} {words} {hit}/{count} dB {row[-3]:.1f} {row[-2]:.1f}", flush=True
        )
        if given.sheet is not None:
            given.sheet.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.hstack([spoiled, coloured(spoiled, mask, every), made])).save(
                given.sheet / f"{k:02d}.png"
            )
    report(np.array(rows), kinds, totals)


def report(table: Array, kinds: list[str], totals: Array) -> None:
    """Print the means over all scans."""
    mean = np.nanmean(table, axis=0)
    print(f"IoU {mean[0]:.2f} (median {np.median(table[:, 0]):.2f})")
    for j, kind in enumerate(kinds):
        missed, false, clean = mean[3 * j + 1 : 3 * j + 4]
        print(f"{kind:10s} missed {missed:.1%}, false {false:.2%} (worst {table[:, 3 * j + 2].max():.2%}), "
              f"clean {clean:.2%} (worst {table[:, 3 * j + 3].max():.2%})")  # fmt: skip
    print(f"{totals[1]} of {totals[0]} spots found, {totals[2] / len(table):.1f} false ones in a scan")
    gain = table[:, -2] - table[:, -3]
    if np.isfinite(gain).all():
        print(f"damaged pixels {mean[-3]:.1f} -> {mean[-2]:.1f} dB: +{gain.mean():.1f} in the mean, "
              f"+{np.median(gain):.1f} in the median, at least 6 on {(gain >= 6).sum()} of {len(gain)}; "
              f"outside {int(table[:, -1].sum())} pixels changed")  # fmt: skip


if __name__ == "__main__":
    main()
