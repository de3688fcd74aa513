"""The input images of benchmarks/day.py: photographs as they are, and the same photographs spoiled.

`lay(photos, folder)` writes all of them. Damage is drawn once with fixed seeds; none was picked from several. Where a
truth exists, it lies beside as `truth-NAME`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import damage
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

ROOT = Path(__file__).resolve().parent.parent
Array = np.ndarray

PHOTOS = {
    "cow": "farm__cow", "narwhal": "world__narwhal", "victoria": "monument-india__victoriaMemorial",
    "windmill": "cat-renewable__windmill4", "chicken": "farm__chicken", "sunset": "sunset_by_Aitzol_Berasategi",
    "kingfisher": "erase__kingfisher", "gate": "monument-germany__brandenburgGate",
    "mountain": "picosdeeuropa_by_Aitzol_Berasategi", "palace": "monument-germany__schwerinPalace",
    "kangaroo": "world__kangaroo", "opera": "cat-monuments__operaHouse", "pyramid": "monument-egypt__redPyramid",
    "colosseum": "monument-wonders__colosseum", "bird": "world__scarlet_macaw",
}  # fmt: skip
"""Name in the commands -> photograph, as it is."""

GREY = {"owl": "farm__owl", "macaw": "world__scarlet_macaw", "sheep": "farm__sheep", "beach": "sea__sea1"}
SAMPLES = {"wall": "Wall", "bubbles": "Bubbles"}


def lay(photos: Path, folder: Path) -> None:
    """Write the inputs of all tasks into `folder`; needs the photographs of the folder's manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    _plain(photos, folder)
    _marked(photos, folder)
    _old(photos, folder)
    _restorations(photos, folder)


def _photo(photos: Path, name: str, side: int | None = None) -> Image.Image:
    image = Image.open(photos / f"{name}.jpg").convert("RGB")
    if side is not None:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _plain(photos: Path, folder: Path) -> None:
    """Photographs, their masks, soft enlargements, samples of texture, and a photograph that was turned."""
    for name, source in PHOTOS.items():
        shutil.copyfile(photos / f"{source}.jpg", folder / f"{name}.jpg")
    for name, source in GREY.items():
        _photo(photos, source, 640).convert("L").save(folder / f"{name}.png")
    for name, source in SAMPLES.items():
        _photo(photos, source).crop((100, 100, 356, 292)).save(folder / f"{name}.jpg", quality=95)
    Image.open(ROOT / "assets/photos/grass.jpg").convert("RGB").crop((0, 0, 256, 192)).save(folder / "grass.jpg")
    for name in ("aqueduct", "meadow", "horses"):
        shutil.copyfile(ROOT / f"assets/photos/{name}.jpg", folder / f"{name}.jpg")
        shutil.copyfile(ROOT / f"assets/masks/{name}.png", folder / f"{name}.png")
    shutil.copyfile(ROOT / "assets/damaged/aqueduct.jpg", folder / "damaged.jpg")
    for width in (4500, 6000):
        victoria = _photo(photos, PHOTOS["victoria"])
        size = (width, round(width * victoria.height / victoria.width))
        victoria.resize(size, Image.Resampling.BICUBIC).save(folder / f"victoria{width}.png", compress_level=1)
    turned = _photo(photos, "monument-france__chateaudeChenonceau", 1024)
    turned.convert("RGBA").rotate(5, Image.Resampling.BICUBIC, expand=True).save(folder / "rot.png")


def _marked(photos: Path, folder: Path) -> None:
    """A date, white letters, and a translucent watermark in rows."""
    made, _ = damage.dated(np.asarray(_photo(photos, "monument-egypt__meidumPyramid", 1024)), np.random.default_rng(1))
    Image.fromarray(made).save(folder / "dated.jpg", quality=92)
    lettered = _photo(photos, "world__lemur", 1024)
    draw = ImageDraw.Draw(lettered)
    draw.text((0.2 * lettered.width, 0.34 * lettered.height), "LEMUR PARK 2019", "white", font_size=64)
    lettered.save(folder / "lettered.png")
    example = damage.mark(np.random.default_rng(7))
    Image.fromarray(example).save(folder / "mark.png")
    castle = np.asarray(_photo(photos, "monument-germany__neuschwansteinCastle", 1024))
    made, _ = damage.watermarked(castle, example, 0.45, np.random.default_rng(7), tiles=True)
    Image.fromarray(castle).save(folder / "truth-marked.png")
    Image.fromarray(made).save(folder / "marked.png")


def _old(photos: Path, folder: Path) -> None:
    """A scan with scratches, a fold, dust, a torn white corner and a cast, its truth and the true mask."""
    rng = np.random.default_rng(5)
    truth = np.asarray(_photo(photos, "monument-germany__wormsCathedral", 640))
    scratched, lines = damage.scratched(truth, rng)
    spotted, spots = damage.spotted(scratched, rng)
    height, width = lines.shape
    side = 0.16 * width
    steps = np.linspace(0.0, 1.0, 24)
    ragged = np.stack([side * steps, side * (1.0 - steps)], -1) + rng.normal(0.0, 0.02 * side, (24, 2))
    corner = np.zeros((height, width), np.uint8)
    outline = np.concatenate([[[0.0, 0.0]], ragged[::-1]])
    cv2.fillPoly(corner, [np.rint(outline).astype(np.int32)], 255)
    spoiled = np.where(corner[..., None] > 0, np.uint8(247), spotted)
    Image.fromarray(truth).save(folder / "truth-old.png")
    Image.fromarray(spoiled).save(folder / "old.png")
    Image.fromarray(np.where(lines | spots | (corner > 0), 255, 0).astype(np.uint8)).save(folder / "oldmask.png")


def _restorations(photos: Path, folder: Path) -> None:
    """Small, noisy, blurred, compressed and incomplete images with their truths."""
    cat = _photo(photos, "farm__cat").resize((512, 288), Image.Resampling.LANCZOS)
    cat.save(folder / "truth-small.png")
    for name, factor in (("small", 2), ("tiny", 4)):
        cat.resize((512 // factor, 288 // factor), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    _noisy(folder, "dark", _photo(photos, "sunset_by_Aitzol_Berasategi", 512), 15.0, 1)
    _noisy(folder, "feathers", _photo(photos, "farm__owl"), 20.0, 2)
    iso = _photo(photos, "cat-animal-cat-portrait-mackerel", 512)
    iso.save(folder / "truth-iso.png")
    _high_iso(iso).save(folder / "iso.jpg", quality=90)
    blurred = _photo(photos, "world__hedgehog", 512)
    blurred.save(folder / "truth-blurred.png")
    blurred.filter(ImageFilter.GaussianBlur(2.0)).save(folder / "blurred.png")
    bridge = _photo(photos, "monument-france__pontduGard", 640)
    bridge.save(folder / "truth-moved.png")
    Image.fromarray(cv2.filter2D(np.asarray(bridge), -1, _motion(13, 25.0))).save(folder / "moved.png")
    facade = _photo(photos, "monument-france__reimsCathedral", 512)
    facade.save(folder / "truth-compressed.png")
    facade.save(folder / "compressed.jpg", quality=15)
    whole = _photo(photos, "world__hedgehog", 512)
    gone = np.random.default_rng(9).random((whole.height, whole.width)) < 0.5
    whole.save(folder / "truth-incomplete.png")
    Image.fromarray(np.where(gone[..., None], 0, np.asarray(whole)).astype(np.uint8)).save(folder / "incomplete.png")
    Image.fromarray(np.where(gone, 255, 0).astype(np.uint8)).save(folder / "lost.png")


def _noisy(folder: Path, name: str, truth: Image.Image, sigma: float, seed: int) -> None:
    truth.save(folder / f"truth-{name}.png")
    noise = np.random.default_rng(seed).normal(0.0, sigma, (truth.height, truth.width, 3))
    Image.fromarray(np.clip(np.rint(np.asarray(truth) + noise), 0, 255).astype(np.uint8)).save(folder / f"{name}.png")


def _high_iso(truth: Image.Image) -> Image.Image:
    """Poisson and read noise in linear light; the colour part blurred, as by a camera's demosaicing."""
    rng = np.random.default_rng(3)
    linear = (np.asarray(truth) / 255.0) ** 2.2
    noise = rng.normal(0.0, 1.0, linear.shape) * np.sqrt(linear / 150.0 + 0.02**2)
    grey = noise.mean(-1, keepdims=True)
    noise = grey + 1.4 * cv2.GaussianBlur(noise - grey, (0, 0), 0.8)
    return Image.fromarray(np.rint(255.0 * np.clip(linear + noise, 0.0, 1.0) ** (1 / 2.2)).astype(np.uint8))


def _motion(length: int, degrees: float) -> Array:
    """The kernel of a straight movement by `length` pixels, of sum 1: (length, length)."""
    kernel = np.zeros((length, length), np.float32)
    middle = (length - 1) / 2
    along = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]) * middle
    ends = np.rint((np.array([[middle, middle]]) + np.stack([-along, along])) * 16).astype(np.int32)
    cv2.line(kernel, ends[0].tolist(), ends[1].tolist(), 1.0, 1, cv2.LINE_AA, 4)
    return kernel / kernel.sum()
