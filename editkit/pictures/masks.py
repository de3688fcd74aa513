"""Masks: white (1) = regenerate, black (0) = keep, in between = feathered; everywhere in editkit.

A mask is a file, an array, a Pillow image, or words such as `box:120,80,300,240` (see `pictures/shapes.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from editkit.errors import PictureError
from editkit.pictures.painted import read_painted_mask
from editkit.pictures.picture import Picture
from editkit.pictures.raster import Pixels, at_depth, largest
from editkit.pictures.shapes import Mask, ShapeError, as_mask, brightness, from_words, is_words, path_exists, words

if TYPE_CHECKING:
    from PIL import Image

Source: TypeAlias = "str | Path | NDArray[Any] | Image.Image | BinaryIO"

COLOURFUL, MOST_COLOUR = 0.2, 0.02
"""A pixel is colourful if its channels differ by more than this share of white; a picture with more than this share of
colourful pixels is not a mask."""

DARK = 1.0 / 8.0
"""If a mask has no brighter pixels, its values do not mean brightness."""

COMPRESSION = 16.0 / 255.0
"""Largest distance of JPEG noise from black or white; closer pixels count as black or white."""


def _ignore(message: str) -> None:
    """Ignore a message."""


def read_mask(
    source: Source | Sequence[Source],
    picture: Picture,
    *,
    invert: bool = False,
    notify: Callable[[str], None] = _ignore,
    models: Sequence[str] = (),
) -> Mask:
    """Read the mask of `picture` from a file, an array, a Pillow image or words (see `pictures/shapes.py`).

    Args:
        source: arrays are (H, W) bool, uint8, uint16, or floats in [0, 1]; also with channels, like a picture. For
            a list, the result is the union. A mask of the same aspect ratio in another size is resized, with a notice.
        invert: white = keep.
        notify: called with notices for the user, for example about a full mask or one without white.
        models: folders or files of networks for words such as `text:the dog`.

    Returns:
        (H, W) float32 in [0, 1], 1 = regenerate.

    Raises:
        PictureError: it cannot be read, has another shape than the picture, has colours, or is empty.
    """
    sources: Sequence[Source] = source if isinstance(source, list | tuple) else [cast(Source, source)]
    mask: Mask = np.max([load(one, picture, notify=notify, models=models) for one in sources], axis=0)
    name = " and ".join(one if isinstance(one, str) and is_words(one) else _name(one) for one in sources)
    if invert:
        mask = as_mask(1.0 - mask)
    check(mask, name, invert=invert, notify=notify)
    return mask


def load(
    source: Source,
    picture: Picture,
    *,
    notify: Callable[[str], None] = _ignore,
    models: Sequence[str] = (),
) -> Mask:
    """Read a mask like `read_mask`, but allow an empty one."""
    if isinstance(source, str) and is_words(source):
        return from_words(source, picture, models, notify)
    if isinstance(source, str) and re.match(r"[a-z]+:", source) and not path_exists(source):
        raise ShapeError(f"mask {source[:80]}: is neither a file nor a shape; shapes are {words()}")
    mask = _from_file(source, notify)
    if mask.shape == picture.pixels.shape[:2]:
        return mask
    resized = _resized(mask, picture)
    if resized is None:
        raise PictureError(_other_size(_name(source), mask, picture))
    notify(
        f"{_name(source)}: is {mask.shape[1]}x{mask.shape[0]} and was resized to the picture's "
        f"{picture.width}x{picture.height}"
    )
    return resized


def _resized(mask: Mask, picture: Picture) -> Mask | None:
    """Resize the mask to the picture's size if the aspect ratios agree to a pixel; else return None.

    In a black and white mask, every pixel that contains some white becomes white.
    """
    from PIL import Image

    (height, width), (wide, high) = mask.shape, picture.size
    if abs(width * high / height - wide) > 1.0 and abs(height * wide / width - high) > 1.0:
        return None
    hard = bool(np.isin(mask, (0.0, 1.0)).all())
    how = Image.Resampling.BOX if hard else Image.Resampling.BILINEAR
    resized = np.asarray(Image.fromarray(mask).resize((wide, high), how))
    return as_mask(resized > 0.0) if hard else as_mask(resized.clip(0.0, 1.0))


def _name(source: object) -> str:
    return f"mask {source}" if isinstance(source, str | Path) else "the mask"


def check(mask: Mask, name: str, *, invert: bool = False, notify: Callable[[str], None] = _ignore) -> None:
    """Raise an error for an empty mask; give a notice for a full one, or one that is nowhere at least half white."""
    top = float(mask.max())
    if top == 0.0:
        hint = "white is what is regenerated, see --invert-mask"
        if invert:
            hint = "it is inverted: leave --invert-mask out"
        elif is_words(name):
            hint = "nothing of that kind was found in the picture; docs/troubleshooting.md#nothing-found"
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


def _from_file(source: Source, notify: Callable[[str], None]) -> Mask:
    """Read the mask as the brightness of a picture, times its alpha if that varies."""
    if isinstance(source, np.ndarray) and (source.dtype == np.bool_ or np.issubdtype(source.dtype, np.floating)):
        return _from_numbers(source)
    picture = Picture.read(source)
    for notice in picture.meta.notices:
        notify(notice)
    coloured = read_painted_mask(picture)
    if coloured is not None:
        notify(f"{_name(source)}: {coloured[1]}")
        return coloured[0]
    top = float(largest(picture.pixels.dtype))
    mask = brightness(picture)
    varies = picture.alpha is not None and bool((picture.alpha != picture.alpha.flat[0]).any())
    alpha = picture.alpha / top if picture.alpha is not None and varies else None
    _check_grey(picture, alpha, source)
    if alpha is not None and float((mask * alpha).max()) < DARK:
        raise PictureError(
            f"{_name(source)}: is black wherever it is not transparent, so nothing of it is white; to regenerate what "
            f"is transparent: editkit mask {_file(source)} --from-alpha -o mask.png; what is painted: the same with "
            "--invert"
        )
    mask = _rescale_binary(mask, picture, source, notify)
    if alpha is not None:
        mask = as_mask(mask * alpha)
    if not picture.meta.lossless and picture.meta.format is not None:
        # otherwise every pixel with ringing from the compression would be regenerated
        mask = np.where(mask < COMPRESSION, 0.0, np.where(mask > 1.0 - COMPRESSION, 1.0, mask))
    return as_mask(mask)


def _rescale_binary(mask: Mask, picture: Picture, source: Source, notify: Callable[[str], None]) -> Mask:
    """Scale a mask of 0 and one small value (1, or 255 of 65535) to 0 and 1.

    Raises:
        PictureError: it has several small values, like a label map.
    """
    top = int(picture.pixels.max())
    if not picture.meta.lossless or not 0 < top < DARK * largest(picture.pixels.dtype):
        return mask
    levels = np.unique(picture.pixels[..., 0])
    if len(levels[levels > 0]) == 1:
        notify(f"{_name(source)}: has no value above {top}, so {top} is taken for white (regenerate)")
        return as_mask(mask > 0)
    raise PictureError(
        f"{_name(source)}: has {len(levels)} levels from {levels[0]} to {top} of {largest(picture.pixels.dtype)}, like "
        f"a label map; name those to regenerate, each with a --color: "
        f"editkit mask {_file(source)} --color '#010101~0' -o mask.png"
    )


def _file(source: Source) -> str:
    return str(source) if isinstance(source, str | Path) else "FILE"


def _check_grey(picture: Picture, alpha: NDArray[Any] | None, source: Source) -> None:
    """Refuse a mask with colours: a photograph instead of a mask, or a mask painted in several colours."""
    red, green, blue = (picture.pixels[..., k] for k in range(3))  # over the last axis reductions are slow
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    colourful = spread > COLOURFUL * largest(picture.pixels.dtype)
    share = float(np.mean(colourful if alpha is None else colourful & (alpha > 0)))
    if share > MOST_COLOUR:
        file = _file(source)
        see_through = "" if alpha is None else f"; for what is transparent in it: editkit mask {file} --from-alpha"
        raise PictureError(
            f"{_name(source)}: is in colours ({share:.0%} of it), so it is not a mask; white = regenerate, black = "
            f"keep. For one colour in it: editkit mask {file} --color red -o mask.png; for its brightness: "
            f"editkit mask {file} --add brightness -o mask.png{see_through}"
        )


def _from_numbers(array: NDArray[Any]) -> Mask:
    """Convert an array of booleans or floats."""
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


# ------------------------------------------------------------------------------------------------------ operations


def threshold(mask: Mask, level: float = 0.5) -> Mask:
    """Return 1 where the mask is at least `level`, else 0."""
    return as_mask(mask >= level)


def grow(mask: Mask, pixels: int) -> Mask:
    """Widen the mask by `pixels` in every direction (a disc): out(p) = max of the mask within that distance.

    `grow(mask, 0)` is the mask. For a mask of 0 and 1 the disc is exact; a soft mask grows by several small discs in
    turn.
    """
    if pixels < 0:
        raise PictureError(f"a mask grows by 0 or more pixels, got {pixels}")
    if pixels == 0 or not mask.any():
        return mask.copy()
    import cv2

    pixels = min(pixels, sum(mask.shape))  # a larger radius covers everything
    if np.isin(mask, (0.0, 1.0)).all():
        # the distance to the nearest 1; a large ellipse as a kernel would cost its area for every pixel
        distance = cv2.distanceTransform((mask == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return as_mask(distance <= pixels)
    grown = np.ascontiguousarray(mask, dtype=np.float32)
    while pixels > 0:
        step = min(pixels, 8)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * step + 1, 2 * step + 1))
        grown = np.asarray(cv2.dilate(grown, kernel), dtype=np.float32)
        pixels -= step
    return grown


def grow_rim(mask: Mask, most: int) -> Mask:
    """Widen every connected part of the mask by a sixth of its thickness, from 2 to `most` pixels.

    A thin stroke gets a thin rim; seven pixels around a scratch would cover its neighbourhood. The thickness is the
    diameter of the largest disc inside the part.
    """
    import cv2

    pieces, labels = cv2.connectedComponents((mask > 0).astype(np.uint8), connectivity=8)
    within = cv2.distanceTransform((mask > 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    reach = np.zeros(pieces, np.float32)
    np.maximum.at(reach, labels.ravel(), within.ravel())
    rims = np.clip(np.round(reach / 3.0).astype(int), 2, max(2, most))
    rims[0] = 0
    grown = mask.copy()
    for rim in np.unique(rims[1:]):
        grown = np.maximum(grown, grow(as_mask(mask * (rims == rim)[labels]), int(rim)))
    return as_mask(grown)


def connected_parts(mask: Mask, gap: int = 0) -> list[Mask]:
    """Return its 8-connected parts, the largest first. Gaps of about `gap` pixels are bridged, so that an object behind
    a leash or a twig is one part. Parts smaller than a hundredth of the largest are dropped as fragments of edges.
    """
    import cv2

    there = (mask > 0).astype(np.uint8)
    half = (gap + 1) // 2  # two parts that far apart touch if each grows by half of the gap
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * half + 1, 2 * half + 1))
    count, labels = cv2.connectedComponents(cv2.dilate(there, disc), connectivity=8)
    labels = np.where(there > 0, labels, 0)
    sizes = np.bincount(labels.ravel(), minlength=count)
    areas = {label: int(sizes[label]) for label in range(1, count)}
    least = 0.01 * max(areas.values(), default=0)
    kept = sorted((label for label, area in areas.items() if area >= least), key=lambda label: -areas[label])
    return [as_mask(mask * (labels == label)) for label in kept]


def feather_inside(mask: Mask, pixels: int) -> Mask:
    """Soften the edge over `pixels` inside the mask: what was 0 stays exactly 0.

    With d(p) the distance of a pixel's centre to the edge and R(p) the radius of the largest disc inside the mask that
    contains p, the result is mask * min(1, d / min(pixels, R / 2)): at least the inner half of any stroke, however
    thin, keeps its full value. The picture's own border is not an edge. `feather_inside(mask, 0)` is the mask.
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
    # the edge is half a pixel closer than the centre of the next pixel
    width = np.minimum(pixels, np.maximum(radius - 0.5, 0.5) / 2.0)
    ramp = np.clip((depth - 0.5) / width, 0.0, 1.0)
    return as_mask(mask * ramp)


def overlay(picture: Picture, mask: Mask) -> Pixels:
    """Draw the mask over the picture: masked pixels in red, the edge in white. Returns (H, W, 3) uint8."""
    pixels = at_depth(picture.pixels, np.uint8).astype(np.float32)
    weight = 0.6 * mask[..., None]
    tinted = pixels * (1.0 - weight) + np.array([255.0, 0.0, 0.0], dtype=np.float32) * weight
    inside = mask > 0
    edge = inside & ~_erode(inside)
    tinted[edge] = 255.0
    return np.asarray(np.rint(tinted), dtype=np.uint8)


def _erode(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels whose four neighbours are inside too; outside the picture counts as inside."""
    padded = np.pad(inside, 1, constant_values=True)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
