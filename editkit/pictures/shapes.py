"""Masks in words: boxes, ellipses, polygons, colours, borders, and the photograph's own transparency::

    box:x0,y0,x1,y1        from pixel x0, y0 up to but without x1, y1; also in per cent: box:10%,10%,50%,50%
    ellipse:x0,y0,x1,y1    the ellipse in that box
    polygon:x0,y0,x1,y1,x2,y2 ...
    color:#rrggbb~20       pixels whose channels all lie within 20 of 255 of that colour (16 where no ~ is given); also
                           by name: color:white
    brightness             the photograph's own brightness: white = regenerate
    border:N               the outermost N pixels
    alpha                  where the photograph is transparent

    flood:x,y~20           what is joined to pixel x, y by about its colour
    brush:x,y,x,y...:r     a stroke of radius r
    subject:x0,y0,x1,y1    what stands in that box, by OpenCV's GrabCut; background: what does not
    scratches  spots  timestamp  watermark:example.png  faces  lettering    what is found in the picture
    text:the dog  point:x,y    by a network that `--mask-model` names

joined by `+` (also), `-` (but not) and `&` (only where also): `box:0,0,90,90-ellipse:10,10,40,40+border:8`, and "this
colour within this box" is `color:white&box:0,0,50%,20%`. They count from left to right. A pixel belongs to a shape when
its centre does. Further words come in through entry points (group `editkit.masks`), each a `Shape`; those of the last
five lines are in `editkit_plugins.masks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from editkit.common.entries import Group, InstalledEntry
from editkit.common.notify import Notify, silent
from editkit.errors import ModelError, PictureError, PluginError, short
from editkit.pictures.colors import rgb
from editkit.pictures.picture import Picture
from editkit.pictures.raster import Raster, largest

Mask = NDArray[np.float32]
"""(H, W) in [0, 1], 1 = regenerate."""

TOLERANCE = 16.0
"""Default tolerance of `color:`, in levels of 255."""

GROUP = "editkit.masks"
MASKS = Group(GROUP, "mask", "editkit plugins")


@dataclass(frozen=True)
class Shape:
    """A word that draws a mask; an entry point of the group refers to one.

    Args:
        name: its word, the name of the entry point.
        form: how it is written, such as `box:x0,y0,x1,y1`, for messages.
        draw: (picture, what stands behind the colon, "" for nothing) -> (H, W) in [0, 1], 1 = regenerate. Raises
            ShapeError where the words make no sense.
        summary: a line for `editkit plugins`.
        example: a valid text after the colon for a picture of 64x48, for the contract's checks; None: it needs a user's
            file.
        finds: whether it searches for something, so that its mask may be empty.
        api: the version of this protocol.
    """

    name: str
    form: str
    draw: Callable[[Picture, str], Mask]
    summary: str = ""
    example: str | None = ""
    finds: bool = False
    api: int = 1


@dataclass(frozen=True)
class NetworkShape(Shape):
    """A word that can use a network from `--mask-model`.

    Args:
        ask: like `draw`, with the folders or files of `--mask-model` as third argument. `draw` is used without.
    """

    ask: Callable[[Picture, str, Sequence[str]], Mask] = field(kw_only=True)


@dataclass(frozen=True)
class TellingShape(Shape):
    """A word that says what it found.

    Args:
        tell: like `draw`, with a function for one-line notices as third argument. `draw` says nothing.
    """

    tell: Callable[[Picture, str, Notify], Mask] = field(kw_only=True)


def load(name: str) -> Shape:
    """Return the shape called `name`.

    Raises:
        UsageError: there is none (the message suggests the nearest).
        PluginError: it cannot be imported, or is not a `Shape`.
    """
    return cast(Shape, MASKS.check_attributes(MASKS.load(name), name, ("name", "form", "draw", "summary")))


def list_installed() -> list[InstalledEntry[Shape]]:
    """List all installed shapes; broken ones with the reason."""
    return MASKS.list_installed(load)


def words() -> str:
    """Return the installed words, for messages."""
    return f"{' '.join(f'{name}:' for name in MASKS.names())}, joined by + (also), - (but not), & (only where also)"


JOINED: dict[str, Callable[[Mask, Mask], Mask]] = {
    "+": np.maximum,
    "-": lambda mask, other: np.minimum(mask, np.float32(1.0) - other),
    "&": np.minimum,
}
"""The operators that join two masks."""


class ShapeError(PictureError):
    """The words do not describe a shape; a usage error."""

    exit_code = 2


def as_mask(values: NDArray[Any]) -> Mask:
    """Convert `values` to float32."""
    return np.asarray(values, dtype=np.float32)


def is_words(source: str) -> bool:
    """Whether `source` is a mask in words; a file of the same name has priority."""
    return re.match(rf"{_words_pattern()}(?::|$|[+&-])", source) is not None and not path_exists(source)


def _words_pattern() -> str:
    """Return a regular expression for the installed words."""
    return f"(?:{'|'.join(re.escape(name) for name in MASKS.names())})"


def path_exists(path: str) -> bool:
    """Whether a file of this name exists; words may be longer than any file name."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def from_words(words: str, picture: Picture, models: Sequence[str] = (), notify: Notify = silent) -> Mask:
    """Draw a mask from words, (H, W) of 0 and 1 (`alpha` and networks may give values in between).

    `+` is the union, max(a, b); `-` the difference, min(a, 1 - b); `&` the intersection, min(a, b); left to right.
    `models`: the networks of `--mask-model`, for words that use them. `notify` is told what some words found.

    Raises:
        PictureError: a searched object covers the whole picture.
        ModelError: a network does not exist, whether or not a word uses it.
    """
    for name in models:
        if not path_exists(name):
            kind = "file" if name.endswith(".onnx") else "folder"
            raise ModelError(
                f"--mask-model {short(name)}: there is no such {kind}; hub ids are not downloaded here: run hf "
                f"download OWNER/NAME --local-dir FOLDER, then give FOLDER"
            )
    parts = re.split(rf"([+&-])(?={_words_pattern()}(?::|$|[+&-]))", words)
    mask = _draw_word(parts[0], picture, models, notify)
    for sign, part in zip(parts[1::2], parts[2::2], strict=True):
        other = _draw_word(part, picture, models, notify)
        mask = JOINED[sign](mask, other)
    if mask.min() >= 1.0 and any(load(part.partition(":")[0]).finds for part in parts[0::2]):
        raise PictureError(
            f"{short(words)}: marks the whole picture, so nothing was distinguished; use another word, or limit it to "
            f"a part of the picture with &box:0,0,50%,100% after it (docs/troubleshooting.md#everything-found)"
        )
    return as_mask(mask)


def _draw_word(text: str, picture: Picture, models: Sequence[str], notify: Notify) -> Mask:
    """Draw the mask of one word.

    Raises:
        ShapeError: there is no such word, or its numbers are invalid.
        PluginError: a third-party word did not draw a mask of the picture's size.
    """
    name, _, values = text.partition(":")
    if name not in MASKS.names():
        raise ShapeError(f"{short(text)}: is not a shape; use {words()}")
    shape = load(name)
    if models and isinstance(shape, NetworkShape):
        mask = shape.ask(picture, values, models)
    elif isinstance(shape, TellingShape):
        mask = shape.tell(picture, values, notify)
    else:
        mask = shape.draw(picture, values)
    size = (picture.height, picture.width)
    fits = isinstance(mask, np.ndarray) and mask.shape == size and bool(np.isfinite(mask).all())
    if not fits or mask.min() < 0.0 or mask.max() > 1.0:
        raise PluginError(f"mask {name}: drew something that is not a mask; (height, width) {size} in [0, 1] is needed")
    return as_mask(mask * visible_mask(picture)) if shape.finds else as_mask(mask)


def coordinates(kind: str, values: str, picture: Picture) -> list[float]:
    """Parse the coordinates of the word `kind` to pixels: x, y, x, y ...; % refers to the width or height.

    Raises:
        ShapeError: one is not a number.
    """
    numbers = []
    for index, value in enumerate(values.split(",")):
        extent = picture.height if index % 2 else picture.width
        try:
            stripped = value.strip()
            number = float(stripped[:-1]) * extent / 100.0 if stripped.endswith("%") else float(stripped)
        except ValueError:
            number = np.nan
        if not np.isfinite(number):
            words = short(f"{kind}:{values}")
            raise ShapeError(f"{words}: {short(value.strip())} is not a number; write {kind}:x,y,x,y")
        numbers.append(number)
    return numbers


def _numbers(kind: str, values: str, picture: Picture, count: int | None) -> list[float]:
    """Parse `count` coordinates; None: three points or more."""
    text = f"{kind}:{values}"
    numbers = coordinates(kind, values, picture)
    if count is not None and len(numbers) != count:
        raise ShapeError(f"{short(text)}: {count} numbers x0,y0,x1,y1 are needed, got {len(numbers)}")
    if count is None and (len(numbers) < 6 or len(numbers) % 2):
        raise ShapeError(f"{short(text)}: a polygon needs x,y of three points or more, got {len(numbers)} numbers")
    return numbers


def _colour(values: str) -> tuple[tuple[int, int, int], float]:
    text = f"color:{values}"
    name, tilde, tolerance = values.partition("~")
    if tilde and not re.fullmatch(r"\d+(\.\d+)?", tolerance):
        raise ShapeError(f"{short(text)}: write the tolerance (0 to 255) behind ~, as in color:#00ff00~20")
    try:
        return rgb(name), float(tolerance or TOLERANCE)
    except ValueError as error:
        raise ShapeError(f"{short(text)}: {error}, with ~20 behind it for a tolerance (0 to 255)") from None


def _whole_number(values: str) -> int:
    text = f"border:{values}"
    if not re.fullmatch(r"0*[1-9]\d{0,8}", values.strip()):
        raise ShapeError(f"{short(text)}: write border:N with N pixels, 1 or more")
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
    return as_mask(near & visible_mask(picture))


def visible_mask(picture: Raster) -> NDArray[np.bool_] | np.bool_:
    """Return where the picture is visible; fully transparent pixels have no meaningful colour."""
    return np.bool_(True) if picture.alpha is None else picture.alpha > 0


def border(picture: Picture, pixels: int) -> Mask:
    """1 in the outermost `pixels` rows and columns."""
    mask = np.ones((picture.height, picture.width), dtype=np.float32)
    mask[pixels : picture.height - pixels, pixels : picture.width - pixels] = 0.0
    if 2 * pixels >= min(picture.size):
        mask[:] = 1.0
    return mask


def transparent(picture: Picture) -> Mask:
    """Return 1 - alpha: transparent pixels are regenerated."""
    if picture.alpha is None:
        raise PictureError("alpha: the picture has no transparency; give a mask file or box:x0,y0,x1,y1")
    return as_mask(1.0 - picture.alpha / float(largest(picture.alpha.dtype)))


def _centres(picture: Picture) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return x (1, W) and y (H, 1) of the pixel centres."""
    return np.arange(picture.width)[None, :] + 0.5, np.arange(picture.height)[:, None] + 0.5


def _lies_inside(kind: str, picture: Picture, x0: float, y0: float, x1: float, y1: float) -> None:
    got = f"{kind}:{x0:g},{y0:g},{x1:g},{y1:g}"
    if x1 <= x0 or y1 <= y0:
        raise ShapeError(f"{got}: has no area; x1 must lie right of x0, and y1 below y0")
    if x0 >= picture.width or y0 >= picture.height or x1 <= 0 or y1 <= 0:
        raise ShapeError(f"{got}: lies outside the picture of {picture.width}x{picture.height}")


def brightness(picture: Raster) -> Mask:
    """Return the brightness from 0, black, to 1, white, with integer arithmetic first, so that white is exactly 1."""
    red, green, blue = (picture.pixels[..., k] for k in range(3))
    grey = red * np.int32(299) + green * np.int32(587) + blue * np.int32(114)
    return as_mask(grey / (1000.0 * float(largest(picture.pixels.dtype))))


def _brightness(picture: Picture, values: str) -> Mask:
    if values:
        raise ShapeError(f"'brightness:{values}': brightness takes nothing after a colon")
    return as_mask(brightness(picture) * visible_mask(picture))


def _alpha(picture: Picture, values: str) -> Mask:
    if values:
        raise ShapeError(f"'alpha:{values}': alpha takes nothing after a colon")
    return transparent(picture)


BOX = Shape(
    "box", "box:x0,y0,x1,y1", lambda picture, values: box(picture, *_numbers("box", values, picture, 4)),
    "From pixel x0, y0 up to x1, y1; also in per cent.", "10,10,40,30",
)  # fmt: skip
ELLIPSE = Shape(
    "ellipse", "ellipse:x0,y0,x1,y1",
    lambda picture, values: ellipse(picture, *_numbers("ellipse", values, picture, 4)), "The ellipse in that box.",
    "10,10,40,30",
)  # fmt: skip
POLYGON = Shape(
    "polygon", "polygon:x0,y0,x1,y1,x2,y2...",
    lambda picture, values: polygon(picture, _numbers("polygon", values, picture, None)), "Three points or more.",
    "5,5,40,8,20,40",
)  # fmt: skip
COLOR = Shape(
    "color", "color:#rrggbb~tolerance", lambda picture, values: color(picture, *_colour(values)),
    "Pixels of about this colour; also by name: color:white.", "#808080~255",
)  # fmt: skip
BORDER = Shape(
    "border", "border:N", lambda picture, values: border(picture, _whole_number(values)),
    "The outermost N pixels.", "4",
)  # fmt: skip
ALPHA = Shape("alpha", "alpha", _alpha, "Where the photograph is transparent.")
BRIGHTNESS = Shape("brightness", "brightness", _brightness, "The photograph's own brightness: white = regenerate.")
