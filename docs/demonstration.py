"""The files that the pages' commands name, made from the demonstration pictures: `lay(folder)`.

tests/test_pages.py lays them small and runs every command of the pages on them; docs/make_sheets.py lays them at their
own size and makes the pages' pictures, by the same commands. The damage is that of benchmarks/damage.py, one seed each;
none was chosen from several.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

ROOT = Path(__file__).parent.parent
LEAST = 240
"""The longer side of what something is to be found in: a date is nine pixels high at least, a scratch 32 long."""

PHOTOS, MASKS = ROOT / "assets" / "photos", ROOT / "assets" / "masks"


def _damage() -> ModuleType:
    """benchmarks/damage.py, which is no package's."""
    spec = importlib.util.spec_from_file_location("damage", ROOT / "benchmarks" / "damage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photo(name: str, side: int | None) -> Image.Image:
    """A demonstration picture, at most `side` pixels on its longer side."""
    image = Image.open(PHOTOS / f"{name}.jpg").convert("RGB")
    if side is not None:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def mask(name: str, size: tuple[int, int]) -> Image.Image:
    """The mask of a demonstration picture at this size."""
    return Image.open(MASKS / f"{name}.png").convert("L").resize(size, Image.Resampling.NEAREST)


def lay(folder: Path, side: int | None = None) -> None:
    """Write all of them into `folder`."""
    damage = _damage()
    meadow, aqueduct, seabed = (photo(name, side) for name in ("meadow", "aqueduct", "seabed"))
    meadow.save(folder / "photo.jpg", quality=92)
    mask("meadow", meadow.size).save(folder / "mask.png")
    damaged = Image.open(ROOT / "assets" / "damaged" / "aqueduct.jpg").convert("RGB").resize(aqueduct.size)
    damaged.save(folder / "damaged.jpg", quality=93, subsampling=0)
    mask("aqueduct", aqueduct.size).save(folder / "damage.png")
    photo("grass", side).save(folder / "grass.jpg", quality=92)
    photo("horses", side).save(folder / "horses.jpg", quality=92)
    aqueduct.save(folder / "another.jpg", quality=92)
    seabed.save(folder / "sea.jpg", quality=92)
    larger = None if side is None else max(side, LEAST)
    Image.fromarray(_damaged(damage.scratched, photo("aqueduct", larger), 1)).save(folder / "scan.png")
    photo("meadow", larger).save(folder / "animal.jpg", quality=92)
    Image.fromarray(_damaged(damage.dated, photo("seabed", larger), 3)).save(folder / "dated.png")
    _lettered(photo("seabed", larger)).save(folder / "lettered.png")
    _degraded(folder, meadow, seabed)
    _marked(folder, photo("seabed", larger), damage)
    turned = meadow.convert("RGBA").rotate(4, Image.Resampling.BICUBIC, expand=True)
    turned.save(folder / "turned.png")
    (folder / "photos").mkdir()
    for name, image in (("meadow", meadow), ("horses", photo("horses", side))):
        image.save(folder / "photos" / f"{name}.jpg", quality=92)
        mask(name, image.size).save(folder / "photos" / f"{name}.mask.png")


def _damaged(maker: Callable[..., tuple[np.ndarray, np.ndarray]], image: Image.Image, seed: int) -> np.ndarray:
    made, _ = maker(np.asarray(image), np.random.default_rng(seed))
    return made


def _degraded(folder: Path, meadow: Image.Image, seabed: Image.Image) -> None:
    """What the pages restore."""
    rng = np.random.default_rng(0)
    half = (max(8, meadow.width // 2), max(8, meadow.height // 2))
    meadow.resize(half, Image.Resampling.BICUBIC).save(folder / "small.png")
    noisy = np.asarray(meadow) + rng.normal(0.0, 15.0, (meadow.height, meadow.width, 3))
    Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)).save(folder / "grainy.png")
    meadow.filter(ImageFilter.GaussianBlur(1.5)).save(folder / "blurred.png")
    seabed.save(folder / "compressed.jpg", quality=20)
    meadow.convert("L").save(folder / "grey.png")
    lost = rng.random((seabed.height, seabed.width)) < 0.5
    Image.fromarray(np.where(lost[..., None], 0, np.asarray(seabed)).astype(np.uint8)).save(folder / "holes.png")
    Image.fromarray(np.where(lost, 255, 0).astype(np.uint8)).save(folder / "lost.png")


def _marked(folder: Path, image: Image.Image, damage: ModuleType) -> None:
    """A watermark, and a picture that has it; one that is smaller where the picture is."""
    example = damage.mark(np.random.default_rng(2))
    fits = min(1.0, 0.6 * image.width / example.shape[1], 0.6 * image.height / example.shape[0])
    size = (max(4, round(example.shape[1] * fits)), max(4, round(example.shape[0] * fits)))
    stamp = Image.fromarray(example).resize(size, Image.Resampling.BOX)
    stamp.save(folder / "mark.png")
    made, _ = damage.watermarked(np.asarray(image), np.asarray(stamp), 0.5, np.random.default_rng(4))
    Image.fromarray(made).save(folder / "marked.png")


def _lettered(image: Image.Image) -> Image.Image:
    """White letters on it."""
    drawn = image.copy()
    ImageDraw.Draw(drawn).text(
        (image.width // 10, image.height // 10), "HOLIDAY 2003", "white", font_size=image.height // 10
    )
    return drawn
