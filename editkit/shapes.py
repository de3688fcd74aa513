"""Masks in words: boxes, ellipses, polygons, colours, borders, and the photograph's own transparency::

    box:x0,y0,x1,y1        from pixel x0, y0 up to and without x1, y1; also in per cent: box:10%,10%,50%,50%
    ellipse:x0,y0,x1,y1    the ellipse in that box
    polygon:x0,y0,x1,y1,x2,y2 ...
    color:#rrggbb~20       pixels whose channels all lie within 20 of 255 of that colour (16 where no ~ is given)
    border:N               the outermost N pixels
    alpha                  where the photograph is transparent

joined by `+` (also) and `-` (but not): `box:0,0,90,90-ellipse:10,10,40,40+border:8`. A pixel belongs to a shape when
its centre does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from editkit.errors import PictureError
from editkit.images import Picture, largest
from editkit.spec import name_of

Mask = NDArray[np.float32]
"""(H, W) in [0, 1], 1 = regenerate."""

TOLERANCE = 16.0
"""Of `color:` where none is given, in levels of 255."""

SHAPES = "box: ellipse: polygon: color: border: alpha, joined by + or -"

_WORD = re.compile(r"([+-])(?=(?:box|ellipse|polygon|color|border):|alpha(?:$|[+-]))")
_IS_WORD = re.compile(r"(?:box|ellipse|polygon|color|border):|alpha(?:$|[+-])")


class ShapeError(PictureError):
    """Words that make no shape: wrong usage."""

    exit_code = 2


def as_mask(values: NDArray[Any]) -> Mask:
    """`values` as float32."""
    return np.asarray(values, dtype=np.float32)


def is_words(source: str) -> bool:
    """True for words, unless a file has that very name."""
    return _IS_WORD.match(source) is not None and not Path(source).exists()


def from_words(words: str, picture: Picture) -> Mask:
    """A mask from words, (H, W) of 0 and 1 (`alpha` may lie between).

    `+` is the union, max(a, b); `-` the difference, min(a, 1 - b); from left to right.
    """
    parts = _WORD.split(words)
    mask = _word(parts[0], picture)
    for sign, part in zip(parts[1::2], parts[2::2], strict=True):
        other = _word(part, picture)
        mask = np.maximum(mask, other) if sign == "+" else np.minimum(mask, 1.0 - other)
    return as_mask(mask)


def _word(text: str, picture: Picture) -> Mask:
    kind, _, values = text.partition(":")
    match kind:
        case "box":
            return box(picture, *_numbers(text, values, picture, 4))
        case "ellipse":
            return ellipse(picture, *_numbers(text, values, picture, 4))
        case "polygon":
            return polygon(picture, _numbers(text, values, picture, None))
        case "color":
            return color(picture, *_colour(text, values))
        case "border":
            return border(picture, _whole(text, values))
        case "alpha":
            return transparent(picture)
    raise ShapeError(f"{text!r}: is not a shape; use {SHAPES}")


def _numbers(text: str, values: str, picture: Picture, count: int | None) -> list[float]:
    """Coordinates in pixels: x, y, x, y ...; with % of the width or height."""
    numbers = []
    for index, value in enumerate(values.split(",")):
        extent = picture.height if index % 2 else picture.width
        try:
            stripped = value.strip()
            number = float(stripped[:-1]) * extent / 100.0 if stripped.endswith("%") else float(stripped)
        except ValueError:
            number = np.nan
        if not np.isfinite(number):
            raise ShapeError(f"{text!r}: {value.strip()!r} is not a number; write {name_of(text)}:x,y,x,y")
        numbers.append(number)
    if count is not None and len(numbers) != count:
        raise ShapeError(f"{text!r}: {count} numbers x0,y0,x1,y1 are needed, got {len(numbers)}")
    if count is None and (len(numbers) < 6 or len(numbers) % 2):
        raise ShapeError(f"{text!r}: a polygon needs x,y of three points or more, got {len(numbers)} numbers")
    return numbers


def _colour(text: str, values: str) -> tuple[tuple[int, int, int], float]:
    found = re.fullmatch(r"#?([0-9a-fA-F]{6})(?:~(\d+(?:\.\d+)?))?", values.strip())
    if not found:
        raise ShapeError(
            f"{text!r}: write color:#rrggbb or color:#rrggbb~tolerance (0 to 255), such as color:#00ff00~20"
        )
    red, green, blue = bytes.fromhex(found[1])
    return (red, green, blue), float(found[2] or TOLERANCE)


def _whole(text: str, values: str) -> int:
    if not re.fullmatch(r"0*[1-9]\d{0,8}", values.strip()):
        raise ShapeError(f"{text!r}: write border:N with N pixels, 1 or more")
    return int(values)


def box(picture: Picture, x0: float, y0: float, x1: float, y1: float) -> Mask:
    """1 where x0 <= x + 1/2 < x1 and y0 <= y + 1/2 < y1."""
    _lies_inside("box", picture, x0, y0, x1, y1)
    x, y = _centres(picture)
    return as_mask((x >= x0) & (x < x1) & (y >= y0) & (y < y1))


def ellipse(picture: Picture, x0: float, y0: float, x1: float, y1: float) -> Mask:
    """1 inside the ellipse that touches the four sides of that box."""
    _lies_inside("ellipse", picture, x0, y0, x1, y1)
    x, y = _centres(picture)
    along, down = (2.0 * x - x0 - x1) / (x1 - x0), (2.0 * y - y0 - y1) / (y1 - y0)
    return as_mask(along**2 + down**2 <= 1.0)


def polygon(picture: Picture, points: list[float]) -> Mask:
    """1 inside the polygon x0, y0, x1, y1 ... (even-odd rule: a polygon that crosses itself has holes)."""
    xs, ys = np.array(points[0::2]), np.array(points[1::2])
    _lies_inside("polygon", picture, xs.min(), ys.min(), xs.max(), ys.max())
    # each edge toggles, in every row it crosses, all pixels to the right of the crossing
    toggles = np.zeros((picture.height, picture.width + 1), dtype=np.int32)
    rows = np.arange(picture.height) + 0.5
    for xa, ya, xb, yb in zip(xs, ys, np.roll(xs, -1), np.roll(ys, -1), strict=True):
        crossed = (rows >= min(ya, yb)) & (rows < max(ya, yb))
        where = rows[crossed]
        at = xa + (where - ya) * (xb - xa) / (yb - ya) if where.size else where
        columns = np.clip(np.ceil(at - 0.5), 0, picture.width).astype(int)
        np.add.at(toggles, (np.flatnonzero(crossed), columns), 1)
    return as_mask(toggles.cumsum(axis=1)[:, :-1] % 2)


def color(picture: Picture, rgb: tuple[int, int, int], tolerance: float = TOLERANCE) -> Mask:
    """1 where every channel is within `tolerance` (of 255) of `rgb`."""
    scale = largest(picture.pixels.dtype) / 255.0
    wanted = np.array(rgb, dtype=np.float32) * scale
    near = np.abs(picture.pixels.astype(np.float32) - wanted).max(axis=2) <= tolerance * scale
    return as_mask(near)


def border(picture: Picture, pixels: int) -> Mask:
    """1 in the outermost `pixels` rows and columns."""
    mask = np.ones((picture.height, picture.width), dtype=np.float32)
    mask[pixels : picture.height - pixels, pixels : picture.width - pixels] = 0.0
    if 2 * pixels >= min(picture.size):
        mask[:] = 1.0
    return mask


def transparent(picture: Picture) -> Mask:
    """1 - alpha: what is transparent in the photograph is regenerated."""
    if picture.alpha is None:
        raise PictureError("alpha: the picture has no transparency; give a mask file or box:x0,y0,x1,y1")
    return as_mask(1.0 - picture.alpha / float(largest(picture.alpha.dtype)))


def _centres(picture: Picture) -> tuple[NDArray[Any], NDArray[Any]]:
    """x (1, W) and y (H, 1) of the pixels' centres."""
    return np.arange(picture.width)[None, :] + 0.5, np.arange(picture.height)[:, None] + 0.5


def _lies_inside(kind: str, picture: Picture, x0: float, y0: float, x1: float, y1: float) -> None:
    got = f"{kind}:{x0:g},{y0:g},{x1:g},{y1:g}"
    if x1 <= x0 or y1 <= y0:
        raise ShapeError(f"{got}: has no area; x1 must lie right of x0, and y1 below y0")
    if x0 >= picture.width or y0 >= picture.height or x1 <= 0 or y1 <= 0:
        raise ShapeError(f"{got}: lies outside the picture of {picture.width}x{picture.height}")
