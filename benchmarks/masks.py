"""What mask words find, and what `editkit repair` gains, on damage whose truth is known (benchmarks/damage.py).

    python benchmarks/masks.py --photos ../shared/photos
    python benchmarks/masks.py --photos ../shared/photos --count 20 --tasks scratches,repair --sheet /tmp/sheets

`--count` photographs of at least 600 pixels, evenly from the folder in the order of their names, each damaged with its
own seed. Of masks: IoU; missed: what of the damage lies further than 2 pixels from the mask (that is what `--grow 2`
reaches); false: what of the picture is marked further than 2 pixels from any damage; clean: what is marked in the
undamaged photograph. Of repair: PSNR in dB within the damaged pixels, of the scan and of the result, by the default
filler; `outside`: how many pixels outside of what was filled differ from the scan (0 is promised without cast and
fading); `all`: PSNR over the whole picture where the scan had a cast and was faded as well.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import damage
import numpy as np
from PIL import Image

from editkit import edit
from editkit.models.leasing import Models
from editkit.pictures.picture import Picture
from editkit.pictures.shapes import from_words
from editkit.plugins import Repair

Array = np.ndarray
OPACITIES, SCALES = (0.2, 0.35, 0.6), (1.0, 0.7, 1.4, 1.0)


def near(mask: Array) -> Array:
    return cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0


def psnr(x: Array, y: Array) -> float:
    return float(10.0 * np.log10(255.0**2 / max(np.square(x.astype(float) - y).mean(), 1e-9)))


def case(task: str, photos: list[Array], k: int, folder: Path) -> tuple[Array, Array, str]:
    """Photograph k damaged as the task says, the truth, and the words that should find it."""
    rng, pixels = np.random.default_rng(k), photos[k]
    if task == "watermark":
        example = damage.mark(rng)
        Image.fromarray(example).save(folder / "mark.png")
        made = damage.watermarked(pixels, example, OPACITIES[k % 3], rng, SCALES[k % 4], k % 5 == 0)
        return *made, f"watermark:{folder / 'mark.png'}"
    if task == "subject":
        spoiled, truth, box = damage.composed(pixels, photos[(k + 1) % len(photos)], rng)
        return spoiled, truth, f"subject:{','.join(map(str, box))}"
    maker = {"scratches": damage.scratched, "spots": damage.spotted, "timestamp": damage.dated}[task]
    return *maker(pixels, rng), task


def coloured(pixels: Array, mask: Array, truth: Array) -> Array:
    """Green: found, red: found and none, blue: missed."""
    seen = pixels.copy()
    seen[mask & truth], seen[mask & ~truth], seen[~mask & truth] = (0, 255, 0), (255, 0, 0), (0, 0, 255)
    return seen


def masks(task: str, photos: list[Array], sheet: Callable[[str, list[Array]], None]) -> None:
    rows, seen = [], []
    with tempfile.TemporaryDirectory() as folder:
        for k, pixels in enumerate(photos):
            spoiled, truth, words = case(task, photos, k, Path(folder))
            began = time.perf_counter()
            mask = from_words(words, Picture(spoiled)) > 0
            seconds = time.perf_counter() - began
            clean = np.nan if task == "subject" else float(from_words(words, Picture(pixels)).mean())
            iou = (mask & truth).sum() / (mask | truth).sum()
            rows.append((iou, (truth & ~near(mask)).sum() / truth.sum(), (mask & ~near(truth)).mean(), clean, seconds))
            seen.append(coloured(spoiled, mask, truth))
    table = np.array(rows)
    iou, missed, false, clean, seconds = table.mean(axis=0)
    print(
        f"{task:10s} IoU {iou:.2f} (median {np.median(table[:, 0]):.2f}), missed {missed:.1%} (median "
        f"{np.median(table[:, 1]):.1%}), false {false:.2%}, clean {clean:.2%}, {seconds:.1f} s",
        flush=True,
    )
    sheet(task, seen)


def scanned(pixels: Array, k: int) -> tuple[Array, Array]:
    """A scan with scratches, a fold and blots."""
    rng = np.random.default_rng(1000 + k)
    scratched, first = damage.scratched(pixels, rng)
    spoiled, second = damage.spotted(scratched, rng)
    return spoiled, first | second


def repair(photos: list[Array], sheet: Callable[[str, list[Array]], None]) -> None:
    rows, seen, models = [], [], Models()
    for k, pixels in enumerate(photos):
        spoiled, truth = scanned(pixels, k)
        plugin = Repair(cast=False, fading=False)
        began = time.perf_counter()
        made = edit(spoiled, plugin, models=models).pixels
        seconds = time.perf_counter() - began
        filled = plugin.open(Picture(spoiled), lambda _: None).mask
        assert filled is not None
        outside = int((made != spoiled).any(axis=2)[filled == 0].sum())
        before, after = psnr(spoiled[truth], pixels[truth]), psnr(made[truth], pixels[truth])
        aged = damage.faded(spoiled, np.random.default_rng(2000 + k))
        young = edit(aged, Repair(), models=models).pixels
        rows.append((before, after, outside, psnr(aged, pixels), psnr(young, pixels), seconds))
        print(
            f"repair {k:2d}: damaged pixels {before:.1f} -> {after:.1f} dB ({after - before:+.1f}), outside {outside}, "
            f"all {rows[-1][3]:.1f} -> {rows[-1][4]:.1f} dB, {seconds:.1f} s",
            flush=True,
        )
        seen += [aged, spoiled, made, young]
    table = np.array(rows)
    gain = table[:, 1] - table[:, 0]
    print(
        f"repair     damaged pixels: +{gain.mean():.1f} dB in the mean, +{np.median(gain):.1f} in the median, at least "
        f"6 on {(gain >= 6).sum()} of {len(gain)}; outside {int(table[:, 2].sum())} pixels changed; all "
        f"{table[:, 3].mean():.1f} -> {table[:, 4].mean():.1f} dB; {table[:, 5].mean():.1f} s",
        flush=True,
    )
    sheet("repair", seen)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--photos", type=Path, required=True)
    asked.add_argument("--count", type=int, default=20)
    asked.add_argument("--tasks", default="scratches,spots,timestamp,watermark,subject,repair")
    asked.add_argument("--side", type=int, default=1024, help="Larger photographs are made this large.")
    asked.add_argument("--sheet", type=Path, help="A folder for sheets.")
    given = asked.parse_args()
    names = sorted(p for p in given.photos.iterdir() if p.suffix == ".jpg" and max(Image.open(p).size) >= 600)
    names = [names[len(names) * k // given.count] for k in range(given.count)]
    photos = []
    for name in names:
        image = Image.open(name).convert("RGB")
        image.thumbnail((given.side, given.side), Image.Resampling.LANCZOS)
        photos.append(np.asarray(image))

    def sheet(task: str, seen: list[Array]) -> None:
        if given.sheet is not None:
            given.sheet.mkdir(parents=True, exist_ok=True)
            tiles = [cv2.resize(one, (480, 360), interpolation=cv2.INTER_AREA) for one in seen]
            tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 4)
            rows = [np.hstack(tiles[k : k + 4]) for k in range(0, len(tiles), 4)]
            Image.fromarray(np.vstack(rows)).save(given.sheet / f"{task}.png")

    for task in given.tasks.split(","):
        if task == "repair":
            repair(photos, sheet)
        else:
            masks(task, photos, sheet)


if __name__ == "__main__":
    main()
