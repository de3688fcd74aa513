"""Masks: white (1) = regenerate, black (0) = keep, between = feathered; everywhere in editkit.

A mask is a file, an array, a Pillow image, or words::

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
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from editkit.errors import PictureError
from editkit.images import Picture, largest

if TYPE_CHECKING:
    from PIL import Image

Mask = NDArray[np.float32]
"""(H, W) in [0, 1]."""

TOLERANCE = 16.0
"""Of `color:` where none is given, in levels of 255."""

COMPRESSION = 16.0 / 255.0
"""How far from black or white the noise of a JPEG mask may lie; within it, black and white are meant."""

SHAPES = "box: ellipse: polygon: color: border: alpha, joined by + or -"

_WORD = re.compile(r"([+-])(?=(?:box|ellipse|polygon|color|border):|alpha(?:$|[+-]))")
_IS_WORD = re.compile(r"(?:box|ellipse|polygon|color|border):|alpha(?:$|[+-])")


def _float(values: NDArray[Any]) -> Mask:
    return np.asarray(values, dtype=np.float32)


def _quiet(message: str) -> None:
    """Tell nobody."""


def read_mask(
    source: str | Path | NDArray[Any] | Image.Image | BinaryIO,
    picture: Picture,
    *,
    invert: bool = False,
    notify: Callable[[str], None] = _quiet,
) -> Mask:
    """The mask of `picture` from a file, an array, a Pillow image or words (see the module's text).

    Args:
        source: arrays are (H, W) bool, uint8, uint16, or floats in [0, 1]; also with channels, like a picture.
        invert: white = keep instead.
        notify: called with what the user should know: a full mask, one without any white.

    Returns:
        (H, W) float32 in [0, 1], 1 = regenerate.

    Raises:
        PictureError: cannot be read; another size than the picture; nothing in it to regenerate.
    """
    if isinstance(source, str) and is_words(source):
        mask = from_words(source, picture)
        name = source
    elif isinstance(source, str) and re.match(r"[a-z]+:", source) and not Path(source).exists():
        raise PictureError(f"mask {source}: is neither a file nor a shape; shapes are {SHAPES}")
    else:
        mask = _from_file(source, notify)
        name = f"mask {source}" if isinstance(source, str | Path) else "the mask"
        if mask.shape != picture.pixels.shape[:2]:
            raise PictureError(_other_size(name, mask, picture))
    if invert:
        mask = _float(1.0 - mask)
    check(mask, name, invert=invert, notify=notify)
    return mask


def is_words(source: str) -> bool:
    """True for words, unless a file has that very name."""
    return _IS_WORD.match(source) is not None and not Path(source).exists()


def check(mask: Mask, name: str, *, invert: bool = False, notify: Callable[[str], None] = _quiet) -> None:
    """An empty mask is an error; a full one, and one that is nowhere half white, a notice."""
    top = float(mask.max())
    if top == 0.0:
        hint = (
            "it is inverted: leave --invert-mask out" if invert else "white is what is regenerated, see --invert-mask"
        )
        raise PictureError(f"{name}: is empty, nothing is to be regenerated ({hint})")
    if mask.min() == 1.0:
        notify(f"{name}: covers the whole picture; nothing of it is kept")
    elif top < 0.5:
        notify(f"{name}: is nowhere brighter than {top:.0%}; white is what is regenerated, grey only partly")


def _other_size(name: str, mask: Mask, picture: Picture) -> str:
    height, width = mask.shape
    message = f"{name}: is {width}x{height}, the picture is {picture.width}x{picture.height}; "
    if (height, width) == picture.size and picture.meta.orientation > 4:
        return (
            message + "it lies on its side: draw it on the picture as viewers show it, turned by its EXIF orientation"
        )
    return message + f"they must be equal: resize the mask to {picture.width}x{picture.height} (without smoothing)"


def _from_file(source: str | Path | NDArray[Any] | Image.Image | BinaryIO, notify: Callable[[str], None]) -> Mask:
    """Brightness of a picture, times its alpha where that varies."""
    if isinstance(source, np.ndarray) and (source.dtype == np.bool_ or np.issubdtype(source.dtype, np.floating)):
        return _from_numbers(source)
    picture = Picture.read(source)
    for notice in picture.meta.notices:
        notify(notice)
    top = float(largest(picture.pixels.dtype))
    # whole numbers first: an equal grey stays what it is, so that white is exactly 1
    grey = picture.pixels.astype(np.int64) @ np.array([299, 587, 114])
    mask = grey / (1000.0 * top)
    if picture.alpha is not None and (picture.alpha != picture.alpha.flat[0]).any():
        mask = mask * (picture.alpha / top)
    if not picture.meta.lossless and picture.meta.format is not None:
        # without this every pixel that the compression's ringing touched would be regenerated, not kept
        mask = np.where(mask < COMPRESSION, 0.0, np.where(mask > 1.0 - COMPRESSION, 1.0, mask))
    return _float(mask)


def _from_numbers(array: NDArray[Any]) -> Mask:
    """Booleans and floats."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 or not array.size:
        raise PictureError(f"a mask array must be (height, width), got {array.shape}")
    mask = array.astype(np.float32)
    if not (np.isfinite(mask).all() and mask.min() >= 0.0 and mask.max() <= 1.0):
        raise PictureError(
            f"a mask of floats must lie in [0, 1], got {mask.min():g} to {mask.max():g}; divide it by its largest value"
        )
    return mask


# ----------------------------------------------------------------------------------------------------------- words


def from_words(words: str, picture: Picture) -> Mask:
    """A mask from words, (H, W) of 0 and 1 (`alpha` may lie between).

    `+` is the union, max(a, b); `-` the difference, min(a, 1 - b); from left to right.
    """
    parts = _WORD.split(words)
    mask = _word(parts[0], picture)
    for sign, part in zip(parts[1::2], parts[2::2], strict=True):
        other = _word(part, picture)
        mask = np.maximum(mask, other) if sign == "+" else np.minimum(mask, 1.0 - other)
    return _float(mask)


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
    raise PictureError(f"{text!r}: is not a shape; use {SHAPES}")


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
            raise PictureError(f"{text!r}: {value.strip()!r} is not a number; write {text.partition(':')[0]}:x,y,x,y")
        numbers.append(number)
    if count is not None and len(numbers) != count:
        raise PictureError(f"{text!r}: {count} numbers x0,y0,x1,y1 are needed, got {len(numbers)}")
    if count is None and (len(numbers) < 6 or len(numbers) % 2):
        raise PictureError(f"{text!r}: a polygon needs x,y of three points or more, got {len(numbers)} numbers")
    return numbers


def _colour(text: str, values: str) -> tuple[tuple[int, int, int], float]:
    found = re.fullmatch(r"#?([0-9a-fA-F]{6})(?:~(\d+(?:\.\d+)?))?", values.strip())
    if not found:
        raise PictureError(
            f"{text!r}: write color:#rrggbb or color:#rrggbb~tolerance (0 to 255), such as color:#00ff00~20"
        )
    red, green, blue = bytes.fromhex(found[1])
    return (red, green, blue), float(found[2] or TOLERANCE)


def _whole(text: str, values: str) -> int:
    if not re.fullmatch(r"0*[1-9]\d{0,8}", values.strip()):
        raise PictureError(f"{text!r}: write border:N with N pixels, 1 or more")
    return int(values)


# ---------------------------------------------------------------------------------------------------------- shapes


def box(picture: Picture, x0: float, y0: float, x1: float, y1: float) -> Mask:
    """1 where x0 <= x + 1/2 < x1 and y0 <= y + 1/2 < y1."""
    _lies_inside("box", picture, x0, y0, x1, y1)
    x, y = _centres(picture)
    return _float((x >= x0) & (x < x1) & (y >= y0) & (y < y1))


def ellipse(picture: Picture, x0: float, y0: float, x1: float, y1: float) -> Mask:
    """1 inside the ellipse that touches the four sides of that box."""
    _lies_inside("ellipse", picture, x0, y0, x1, y1)
    x, y = _centres(picture)
    along, down = (2.0 * x - x0 - x1) / (x1 - x0), (2.0 * y - y0 - y1) / (y1 - y0)
    return _float(along**2 + down**2 <= 1.0)


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
    return _float(toggles.cumsum(axis=1)[:, :-1] % 2)


def color(picture: Picture, rgb: tuple[int, int, int], tolerance: float = TOLERANCE) -> Mask:
    """1 where every channel is within `tolerance` (of 255) of `rgb`."""
    scale = largest(picture.pixels.dtype) / 255.0
    wanted = np.array(rgb, dtype=np.float32) * scale
    near = np.abs(picture.pixels.astype(np.float32) - wanted).max(axis=2) <= tolerance * scale
    return _float(near)


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
    return _float(1.0 - picture.alpha / float(largest(picture.alpha.dtype)))


def _centres(picture: Picture) -> tuple[NDArray[Any], NDArray[Any]]:
    """x (1, W) and y (H, 1) of the pixels' centres."""
    return np.arange(picture.width)[None, :] + 0.5, np.arange(picture.height)[:, None] + 0.5


def _lies_inside(kind: str, picture: Picture, x0: float, y0: float, x1: float, y1: float) -> None:
    got = f"{kind}:{x0:g},{y0:g},{x1:g},{y1:g}"
    if x1 <= x0 or y1 <= y0:
        raise PictureError(f"{got}: has no area; x1 must lie right of x0, and y1 below y0")
    if x0 >= picture.width or y0 >= picture.height or x1 <= 0 or y1 <= 0:
        raise PictureError(f"{got}: lies outside the picture of {picture.width}x{picture.height}")


# ------------------------------------------------------------------------------------------------------ operations


def threshold(mask: Mask, level: float = 0.5) -> Mask:
    """1 where the mask is at least `level`, else 0."""
    return _float(mask >= level)


def grow(mask: Mask, pixels: int) -> Mask:
    """The mask widened by `pixels` in every direction (a disc): out(p) = max of the mask within that distance.

    `grow(mask, 0)` is the mask. For a mask of 0 and 1 the disc is exact; a soft one grows by small discs, one after
    another.
    """
    if pixels < 0:
        raise PictureError(f"a mask grows by 0 or more pixels, got {pixels}")
    if pixels == 0 or not mask.any():
        return mask.copy()
    import cv2

    if np.isin(mask, (0.0, 1.0)).all():
        # the distance to the nearest 1; a large ellipse as a kernel would cost its area for every pixel
        distance = cv2.distanceTransform((mask == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return _float(distance <= pixels)
    grown = np.ascontiguousarray(mask, dtype=np.float32)
    while pixels > 0:
        step = min(pixels, 8)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * step + 1, 2 * step + 1))
        grown = np.asarray(cv2.dilate(grown, kernel), dtype=np.float32)
        pixels -= step
    return grown


def feather_inside(mask: Mask, pixels: int) -> Mask:
    """The mask with a soft edge of `pixels` that lies inside it: what was 0 stays exactly 0.

    With d(p) the distance of a pixel's centre to the edge and R(p) the radius of the largest disc inside the mask that
    holds p, the result is mask * min(1, d / min(pixels, R / 2)): at least the inner half of any stroke, however thin,
    keeps its full value. The picture's own border is no edge. `feather_inside(mask, 0)` is the mask.
    """
    if pixels < 0:
        raise PictureError(f"a feather is 0 or more pixels wide, got {pixels}")
    inside = mask > 0
    if pixels == 0 or inside.all() or not inside.any():
        return mask.copy()
    import cv2

    def distance(where: NDArray[np.bool_]) -> NDArray[np.float32]:
        return np.asarray(cv2.distanceTransform(where.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))

    depth = distance(inside)
    radius = depth.copy()
    level = 1.0
    while level < 2 * pixels:  # beyond that R / 2 exceeds `pixels`
        level = max(level + 1.0, 1.25 * level)
        centres = depth >= level
        if not centres.any():
            break
        reached = distance(~centres) < level
        radius[reached] = np.maximum(radius[reached], level)
    # a pixel's centre lies half a pixel nearer to the edge than to the centre of the next pixel
    width = np.minimum(pixels, np.maximum(radius - 0.5, 0.5) / 2.0)
    ramp = np.clip((depth - 0.5) / width, 0.0, 1.0)
    return _float(mask * ramp)
