"""Sheets of pictures with labels: candidates, grids, before and after. Drawn by Pillow; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from editkit.pictures.picture import Picture
from editkit.pictures.raster import Pixels, at_depth
from editkit.pictures.shapes import Mask

PAPER, INK, PALE = (255, 255, 255), (32, 33, 36), (120, 124, 130)
GAP = 10
LINE = 18
"""Height of a line of text, in pixels."""


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet, (h, w, 3) uint8, with its label."""

    label: str
    pixels: NDArray[np.uint8]


def font(size: int = 13) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)


def sheet(tiles: Sequence[Tile], columns: int | None = None, side: int = 320, title: str = "") -> Image.Image:
    """Arrange `tiles` in rows, each fitted into `side` pixels and labelled; small ones are enlarged by whole factors.

    Args:
        columns: default: about as many as rows.
    """
    columns = columns or math.ceil(math.sqrt(len(tiles)))
    pictures = [fit_to_side(tile.pixels, side) for tile in tiles]
    width = max([picture.width for picture in pictures] + [_widest_label(tiles, side)])
    height = max(picture.height for picture in pictures)
    rows = math.ceil(len(tiles) / columns)
    top = GAP + (LINE + GAP if title else 0)
    size = GAP + columns * (width + GAP), top + rows * (height + LINE + GAP)
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((GAP, GAP), clip_text(title, size[0] - 2 * GAP, 15), fill=INK, font=font(15))
    for k, (tile, picture) in enumerate(zip(tiles, pictures, strict=True)):
        x, y = GAP + (k % columns) * (width + GAP), top + (k // columns) * (height + LINE + GAP)
        page.paste(picture, (x, y))
        draw.text((x, y + height + 2), clip_text(tile.label, width), fill=INK, font=font())
    return page


def _widest_label(tiles: Sequence[Tile], side: int) -> int:
    """Return the width of the longest label, up to `side`."""
    return min(side, max(math.ceil(font().getlength(tile.label)) for tile in tiles))


def clip_text(text: str, width: float, size: int = 13) -> str:
    """Shorten `text` with an ellipsis if it is wider than `width` pixels."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def fit_to_side(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    """Shrink a picture to at most `side` pixels, or enlarge it by the largest whole factor that fits."""
    image = Image.fromarray(pixels)
    longest = max(image.size)
    if longest > side:
        factor = side / longest
        return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
    factor = side // longest
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def eight_bit(pixels: Pixels) -> NDArray[np.uint8]:
    """Convert pixels of 8 or 16 bits to uint8."""
    converted: NDArray[np.uint8] = at_depth(pixels, np.uint8)
    return converted


def compare(before: Picture, after: Picture, mask: Mask | None, side: int = 480) -> Image.Image:
    """Make a sheet: before, mask, after, and their difference, scaled so that its largest value is white.

    The label gives the largest difference, and the largest where the mask is 0.
    """
    from editkit.pictures.masks import overlay

    tiles = [Tile(f"before {before.width}x{before.height}", eight_bit(before.pixels))]
    if mask is not None and mask.shape == before.pixels.shape[:2]:
        tiles.append(Tile(f"mask: {float((mask > 0).mean()):.1%} may change", eight_bit(overlay(before, mask))))
    tiles.append(Tile(f"after {after.width}x{after.height}", eight_bit(after.pixels)))
    tiles.append(_difference(before, after, mask))
    return sheet(tiles, columns=2, side=side)


def _difference(before: Picture, after: Picture, mask: Mask | None) -> Tile:
    old, new = eight_bit(before.pixels), eight_bit(after.pixels)
    if old.shape != new.shape:
        old = np.asarray(Image.fromarray(old).resize(after.size, Image.Resampling.BICUBIC))
        return Tile("difference to the enlarged picture", np.abs(new.astype(np.int16) - old).astype(np.uint8))
    difference = np.abs(new.astype(np.int16) - old)
    largest = int(difference.max())
    shown = (difference * (255.0 / max(largest, 1))).astype(np.uint8)
    kept = ""
    if mask is not None and mask.shape == difference.shape[:2]:
        kept = f", outside the mask {int(difference[mask == 0].max(initial=0))}"
    return Tile(f"difference: up to {largest} of 255{kept}", shown)


def save(image: Image.Image, path: str | Path, *, force: bool = False) -> None:
    """Write a sheet atomically; the format follows from the name.

    Raises:
        PictureError: it cannot be written there.
    """
    Picture(np.asarray(image.convert("RGB"))).write(path, force=force)
